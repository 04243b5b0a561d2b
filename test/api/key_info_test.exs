defmodule Pkcs11Pool.KeyInfoTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}

  setup_all do
    token = ChaosToken.new!()
    on_exit(fn -> Pkcs11Pool.Testing.Chaos.stop(token.chaos) end)
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})

    pair = fn label, mechanism, public ->
      common = [token: true, label: label]
      private = common ++ [sign: true, sensitive: true, extractable: false]

      {:ok, _} =
        Pkcs11Pool.generate_key_pair(pool, mechanism, common ++ [verify: true] ++ public, private)
    end

    pair.("rsa", :rsa_pkcs_key_pair_gen, modulus_bits: 2048, public_exponent: 65_537)
    pair.("ec", :ec_key_pair_gen, ec_params: :secp521r1)

    {:ok, _} =
      Pkcs11Pool.generate_key(pool, :aes_key_gen,
        token: true,
        label: "aes",
        id: <<7>>,
        value_len: 24,
        encrypt: true,
        decrypt: true,
        sign: false,
        verify: false,
        wrap: false,
        unwrap: false,
        extractable: true,
        sensitive: false
      )

    %{pool: pool}
  end

  test "an RSA key's private half tells its size, what it may do and how it is kept", %{
    pool: pool
  } do
    assert {:ok, info} = Pkcs11Pool.key_info(pool, "rsa")

    assert %{
             class: :private_key,
             type: :rsa,
             bits: 2048,
             curve: nil,
             label: "rsa",
             token: true,
             private: true,
             sensitive: true,
             extractable: false,
             always_sensitive: true,
             never_extractable: true,
             local: true
           } = info

    assert :sign in info.usage
    refute :encrypt in info.usage
    refute :verify in info.usage
    assert info.always_authenticate in [false, nil]
  end

  test "the public half does, where it is asked for, and its size is that of the modulus", %{
    pool: pool
  } do
    assert {:ok, %{class: :public_key, type: :rsa, bits: 2048} = info} =
             Pkcs11Pool.key_info(pool, class: :public_key, label: "rsa")

    assert :verify in info.usage
    refute :sign in info.usage
    assert info.sensitive == nil, "a public key has no such attribute"
    {:ok, {:RSAPublicKey, modulus, _}} = Pkcs11Pool.public_key(pool, "rsa")
    assert length(Integer.digits(modulus, 2)) == info.bits
  end

  test "a key on a curve tells the curve by its name, and the bits of its order", %{pool: pool} do
    assert {:ok, %{type: :ec, curve: :secp521r1, bits: 521}} = Pkcs11Pool.key_info(pool, "ec")
    {:ok, {_point, {:namedCurve, oid}}} = Pkcs11Pool.public_key(pool, "ec")
    assert oid == :pubkey_cert_records.namedCurves(:secp521r1)
  end

  test "a secret key tells its length in bits", %{pool: pool} do
    assert {:ok, info} = Pkcs11Pool.key_info(pool, "aes")

    assert %{
             class: :secret_key,
             type: :aes,
             bits: 192,
             id: <<7>>,
             extractable: true,
             sensitive: false
           } = info

    assert Enum.sort(info.usage) == [:decrypt, :encrypt]
  end

  test "an object is described as its label is, and no value of a key is read", %{pool: pool} do
    {:ok, [object]} = Pkcs11Pool.find_objects(pool, class: :private_key, label: "rsa")
    assert Pkcs11Pool.key_info(pool, object) == Pkcs11Pool.key_info(pool, "rsa")
    assert Pkcs11Pool.key_info!(pool, object).type == :rsa
    {:ok, info} = Pkcs11Pool.key_info(pool, "aes")
    refute Map.has_key?(info, :value)
  end

  test "what is not there is not found, and what is shared is ambiguous", %{pool: pool} do
    assert {:error, %Error{reason: :key_not_found}} = Pkcs11Pool.key_info(pool, "nothing")
    {:ok, _} = Pools.key_pair(pool, "twice")
    {:ok, _} = Pools.key_pair(pool, "twice")
    assert {:error, %Error{reason: :ambiguous_key}} = Pkcs11Pool.key_info(pool, "twice")
    assert_raise Error, fn -> Pkcs11Pool.key_info!(pool, "nothing") end
  end

  test "each curve that OTP knows has its own name and bits" do
    for curve <- [:secp256r1, :secp384r1, :secp256k1, :brainpoolP256r1] do
      oid = :pubkey_cert_records.namedCurves(curve)
      der = :public_key.der_encode(:EcpkParameters, {:namedCurve, oid})
      assert {^curve, bits} = Pkcs11Pool.PublicKey.describe_curve(der)
      assert bits == bits_of(curve)
    end

    assert {nil, nil} = Pkcs11Pool.PublicKey.describe_curve("no DER at all")
  end

  defp bits_of(curve) do
    {_field, _curve, _base, order, _cofactor} = :crypto.ec_curve(curve)
    order |> :binary.decode_unsigned() |> Integer.digits(2) |> length()
  end
end
