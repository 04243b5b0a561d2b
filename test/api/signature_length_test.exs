defmodule Pkcs11Pool.SignatureLengthTest do
  # What a token makes of a MAC or signature of a wrong length is not left to the token.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @data "what was signed"
  @digest :crypto.hash(:sha256, @data)

  setup_all do
    %{chaos: chaos} = token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(chaos) end)
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 1)})
    secret = [token: true, private: true, sign: true, verify: true]

    {:ok, _} =
      Pkcs11Pool.generate_key(
        pool,
        :generic_secret_key_gen,
        secret ++ [label: "mac", value_len: 64]
      )

    {:ok, _} =
      Pkcs11Pool.generate_key(pool, :aes_key_gen, secret ++ [label: "aes", value_len: 16])

    Pools.key_pair!(pool, "ec")

    {:ok, _} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :rsa_pkcs_key_pair_gen,
        [token: true, label: "rsa", modulus_bits: 1024, public_exponent: 65_537, verify: true],
        token: true,
        private: true,
        label: "rsa",
        sign: true
      )

    {:ok, _} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :ec_edwards_key_pair_gen,
        [token: true, label: "ed", ec_params: :ed25519, verify: true],
        token: true,
        private: true,
        label: "ed",
        sign: true
      )

    %{pool: pool, chaos: chaos}
  end

  setup %{pool: pool, chaos: chaos} do
    Chaos.reset(chaos)
    :ok = Pkcs11Pool.forget_keys(pool)
    on_exit(fn -> Pools.drained!(pool) end)
  end

  # The key, the mechanism, what is signed, and the length of what comes of it.
  @cases [
    {"mac", :sha_1_hmac, @data, 20},
    {"mac", :sha256_hmac, @data, 32},
    {"mac", :sha512_hmac, @data, 64},
    {"aes", :aes_cmac, @data, 16},
    {"ec", :ecdsa, @digest, 64},
    {"rsa", :sha256_rsa_pkcs, @data, 128},
    {"rsa", :sha256_rsa_pkcs_pss, @data, 128},
    {"ed", :eddsa, @data, 64}
  ]

  defp assert_wrong_length(result, given, expected) do
    assert {:error, %Error{reason: :signature_invalid, executed: false} = error} = result
    assert error.details == %{given_bytes: given, expected_bytes: expected}
    assert Exception.message(error) =~ "#{given} bytes"
    refute Error.retryable?(error)
  end

  defp changed(signature),
    do: [binary_part(signature, 0, byte_size(signature) - 1), signature <> <<0>>, ""]

  for {key, mechanism, data, size} <- @cases do
    test "#{mechanism}: none but #{size} bytes reach the module", context do
      %{pool: pool, chaos: chaos} = context
      {key, mechanism} = {unquote(key), unquote(mechanism)}
      {data, size} = {unquote(data), unquote(size)}
      {:ok, signature} = Pkcs11Pool.sign(pool, key, mechanism, data)
      assert byte_size(signature) == size
      assert Pkcs11Pool.verify(pool, key, mechanism, data, signature) == :ok
      Chaos.reset_counts(chaos)

      for bad <- changed(signature) do
        result = Pkcs11Pool.verify(pool, key, mechanism, data, bad)
        assert_wrong_length(result, byte_size(bad), size)
      end

      assert Chaos.calls(chaos) == %{}
    end
  end

  # NSS answers with eight bytes of its memory, others' MACs among them.
  for {mechanism, length} <- [{:aes_mac, 8}, {{:aes_mac_general, length: 4}, 4}] do
    test "#{inspect(mechanism)}: a MAC of no data is not asked for", %{pool: pool, chaos: chaos} do
      mechanism = unquote(Macro.escape(mechanism))
      {:ok, _key} = Pkcs11Pool.key_info(pool, "aes")
      mac = :binary.copy(<<0>>, unquote(length))

      for call <- [
            fn -> Pkcs11Pool.sign(pool, "aes", mechanism, "") end,
            fn -> Pkcs11Pool.verify(pool, "aes", mechanism, "", mac) end
          ] do
        assert {:error, %Error{reason: :data_len_range, code: nil, executed: false} = error} =
                 call.()

        assert Exception.message(error) =~ "no MAC of empty data"
        refute Error.retryable?(error)
      end

      assert {:ok, [{:error, %Error{reason: :data_len_range}}]} =
               Pkcs11Pool.sign_many(pool, "aes", mechanism, [""])

      assert Chaos.calls(chaos, :C_SignInit) == 0
      assert Chaos.calls(chaos, :C_VerifyInit) == 0
    end
  end

  test "a MAC of no data is made where there is one", %{pool: pool} do
    for {key, mechanism} <- [{"mac", :sha256_hmac}, {"aes", :aes_cmac}] do
      {:ok, mac} = Pkcs11Pool.sign(pool, key, mechanism, "")
      assert Pkcs11Pool.verify(pool, key, mechanism, "", mac) == :ok
    end
  end

  test "a module that reads behind a short MAC accepts none", %{pool: pool, chaos: chaos} do
    Chaos.signature_size(chaos, 32)
    {:ok, mac} = Pkcs11Pool.sign(pool, "mac", :sha256_hmac, @data)

    for cut <- [1, 4] do
      short = binary_part(mac, 0, 32 - cut)

      for _ <- 1..50 do
        assert Pkcs11Pool.verify(pool, "mac", :sha256_hmac, @data, mac) == :ok
        result = Pkcs11Pool.verify(pool, "mac", :sha256_hmac, @data, short)
        assert_wrong_length(result, 32 - cut, 32)
      end
    end

    # What is behind a longer one would not count.
    assert_wrong_length(
      Pkcs11Pool.verify(pool, "mac", :sha256_hmac, @data, mac <> "!"),
      33,
      32
    )
  end

  test "in a list, too, and the others are verified", %{pool: pool, chaos: chaos} do
    Chaos.signature_size(chaos, 32)
    {:ok, mac} = Pkcs11Pool.sign(pool, "mac", :sha256_hmac, @data)
    list = [{@data, mac}, {@data, binary_part(mac, 0, 31)}, {@data, mac}]

    assert {:ok, [{:ok, true}, wrong, {:ok, true}]} =
             Pkcs11Pool.verify_many(pool, "mac", :sha256_hmac, list)

    assert_wrong_length(wrong, 31, 32)
  end

  test "where the token does not say how long, it decides, and finds zeros behind", context do
    %{pool: pool, chaos: chaos} = context
    {:ok, signature} = Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, @data)
    short = binary_part(signature, 0, 127)
    :ok = Pkcs11Pool.forget_keys(pool)
    Chaos.fail(chaos, :C_GetAttributeValue, :function_not_supported)

    assert {:error, %Error{reason: :signature_invalid, executed: true, function: :C_Verify}} =
             Pkcs11Pool.verify(pool, "rsa", :sha256_rsa_pkcs, @data, short)

    assert Pkcs11Pool.verify(pool, "rsa", :sha256_rsa_pkcs, @data, signature) == :ok
  end

  test "the token is asked once per key, and again when the handle was forgotten", context do
    %{pool: pool, chaos: chaos} = context
    {:ok, signature} = Pkcs11Pool.sign(pool, "ec", :ecdsa, @digest)
    verify = fn -> Pkcs11Pool.verify(pool, "ec", :ecdsa, @digest, signature) end
    :ok = Pkcs11Pool.forget_keys(pool)

    for expected <- [1, 0, 0] do
      Chaos.reset_counts(chaos)
      assert verify.() == :ok
      assert Chaos.calls(chaos, :C_GetAttributeValue) == expected
    end

    Chaos.invalidate_objects(chaos)
    Chaos.reset_counts(chaos)
    assert verify.() == :ok
    assert Chaos.calls(chaos, :C_GetAttributeValue) == 1
  end
end
