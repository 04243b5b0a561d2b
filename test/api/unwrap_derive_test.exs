defmodule Pkcs11Pool.UnwrapDeriveTest do
  # Keys that come of other keys: unwrapped, and derived.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup_all do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})
    common = [token: true, label: "rsa"]

    {:ok, _} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :rsa_pkcs_key_pair_gen,
        common ++ [modulus_bits: 2048, public_exponent: 65_537, wrap: true, encrypt: true],
        common ++ [unwrap: true, decrypt: true, sensitive: true]
      )

    common = [token: true, label: "agreement"]

    {:ok, _} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :ec_key_pair_gen,
        common ++ [ec_params: :secp256r1],
        common ++ [derive: true, sensitive: true]
      )

    %{pool: pool, chaos: token.chaos}
  end

  setup %{pool: pool, chaos: chaos} do
    Chaos.reset(chaos)
    on_exit(fn -> Pools.drained!(pool) end)
  end

  defp label, do: "key #{System.unique_integer([:positive])}"

  defp aes(label),
    do: [
      class: :secret_key,
      key_type: :aes,
      token: true,
      label: label,
      sensitive: false,
      extractable: true,
      encrypt: true,
      decrypt: true
    ]

  test "a key that :public_key has encrypted is unwrapped as what it was", %{pool: pool} do
    {:ok, public} = Pkcs11Pool.public_key(pool, "rsa")

    for size <- [16, 24, 32], value = :crypto.strong_rand_bytes(size), label = label() do
      wrapped = :public_key.encrypt_public(value, public)

      assert {:ok, %Object{class: :secret_key, label: ^label} = object} =
               Pkcs11Pool.unwrap_key(pool, "rsa", :rsa_pkcs, wrapped, aes(label))

      assert {:ok, %{value: ^value}} = Pkcs11Pool.get_attributes(pool, object, [:value])
    end
  end

  test "an AES key wrap by RFC 3394 is unwrapped as its test vector says", %{pool: pool} do
    # RFC 3394, 4.6: 256 bits of key data with a 256-bit key.
    kek = Base.decode16!("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F")
    value = Base.decode16!("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F")

    wrapped =
      Base.decode16!(
        "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"
      )

    label = label()

    template = [
      class: :secret_key,
      key_type: :aes,
      token: true,
      label: label,
      value: kek,
      unwrap: true
    ]

    {:ok, _} = Pkcs11Pool.create_object(pool, template)

    assert {:ok, object} =
             Pkcs11Pool.unwrap_key(pool, label, :aes_key_wrap, wrapped, aes(label()))

    assert {:ok, %{value: ^value}} = Pkcs11Pool.get_attributes(pool, object, [:value])

    <<first, rest::binary>> = wrapped
    changed = <<Bitwise.bxor(first, 1), rest::binary>>

    assert {:error, %Error{function: :C_UnwrapKey}} =
             Pkcs11Pool.unwrap_key(pool, label, :aes_key_wrap, changed, aes(label()))
  end

  test "a secret that both sides derive is the same", %{pool: pool} do
    {:ok, {{:ECPoint, own}, _curve}} = Pkcs11Pool.public_key(pool, "agreement")
    {point, private} = :crypto.generate_key(:ecdh, :secp256r1)
    shared = :crypto.compute_key(:ecdh, own, private, :secp256r1)

    template = [
      class: :secret_key,
      key_type: :generic_secret,
      token: true,
      label: label(),
      value_len: 32,
      sensitive: false,
      extractable: true
    ]

    assert {:ok, object} =
             Pkcs11Pool.derive_key(
               pool,
               "agreement",
               {:ecdh1_derive, public_data: point},
               template
             )

    assert {:ok, %{value: ^shared}} = Pkcs11Pool.get_attributes(pool, object, [:value])

    assert %Object{} =
             Pkcs11Pool.derive_key!(
               pool,
               "agreement",
               {:ecdh1_derive, public_data: point},
               template
             )
  end

  test "a session object needs a session, and the wrong key is refused", %{pool: pool} do
    {point, _private} = :crypto.generate_key(:ecdh, :secp256r1)
    template = [class: :secret_key, key_type: :generic_secret, value_len: 32]
    derive = {:ecdh1_derive, public_data: point}

    assert {:error, %Error{reason: :session_object_needs_session}} =
             Pkcs11Pool.derive_key(pool, "agreement", derive, template)

    Pkcs11Pool.with_session(pool, fn ->
      assert {:ok, _} = Pkcs11Pool.derive_key(pool, "agreement", derive, template)

      assert {:error, %Error{reason: :key_not_found}} =
               Pkcs11Pool.derive_key(pool, "nobody", derive, template)
    end)

    assert {:error, %Error{}} =
             Pkcs11Pool.derive_key(pool, "rsa", derive, [token: true] ++ template)

    assert {:error, %Error{}} =
             Pkcs11Pool.unwrap_key(pool, "rsa", :rsa_pkcs, "no wrapped key", aes(label()))
  end

  test "what fails in the module may have run and is not tried again", %{pool: pool, chaos: chaos} do
    {point, _private} = :crypto.generate_key(:ecdh, :secp256r1)

    template = [
      class: :secret_key,
      key_type: :generic_secret,
      value_len: 32,
      token: true,
      label: label()
    ]

    for {function, call} <- [
          C_DeriveKey: fn ->
            Pkcs11Pool.derive_key(
              pool,
              "agreement",
              {:ecdh1_derive, public_data: point},
              template
            )
          end,
          C_UnwrapKey: fn ->
            Pkcs11Pool.unwrap_key(pool, "rsa", :rsa_pkcs, :binary.copy("x", 256), aes(label()))
          end
        ] do
      Chaos.reset_counts(chaos)
      Chaos.fail(chaos, function, :device_error, count: 1)

      assert {:error, %Error{reason: :device_error, function: ^function, executed: :unknown}} =
               call.()

      assert Chaos.calls(chaos, function) == 1
    end
  end
end
