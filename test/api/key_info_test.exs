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

  test "a secret key tells its check value: the beginning of zeros that it encrypts", %{
    pool: pool
  } do
    assert {:ok, %{check_value: check_value}} = Pkcs11Pool.key_info(pool, id: <<7>>)
    {:ok, %{value: value}} = Pkcs11Pool.get_attributes(pool, [id: <<7>>], [:value])

    assert <<^check_value::binary-size(3), _rest::binary>> =
             :crypto.crypto_one_time(:aes_192_ecb, value, <<0::128>>, true)

    assert {:ok, <<^check_value::binary-size(3), _rest::binary>>} =
             Pkcs11Pool.encrypt(pool, [id: <<7>>], :aes_ecb, <<0::128>>)

    assert {:ok, %{check_value: ^check_value}} =
             Pkcs11Pool.get_attributes(pool, [id: <<7>>], [:check_value])

    for key <- ["rsa", "ec"],
        do: assert({:ok, %{check_value: nil}} = Pkcs11Pool.key_info(pool, key))
  end

  test "the empty check value of a key that was unwrapped is none", %{pool: pool} do
    Pkcs11Pool.with_session(pool, fn ->
      template = [class: :secret_key, key_type: :aes, label: "kek"]

      kek =
        Pkcs11Pool.create_object!(
          pool,
          template ++ [value: <<1::256>>, wrap: true, unwrap: true, extractable: true]
        )

      wrapped = Pkcs11Pool.wrap_key!(pool, kek, :aes_key_wrap, kek)
      template = template ++ [encrypt: true]
      key = Pkcs11Pool.unwrap_key!(pool, kek, :aes_key_wrap, wrapped, template)
      # SoftHSM says that it has no bytes, either.
      assert {:ok, %{check_value: nil, bits: nil}} = Pkcs11Pool.key_info(pool, key)

      # It is the same key, though.
      assert {:ok, %{check_value: check_value}} = Pkcs11Pool.key_info(pool, kek)

      assert {:ok, <<^check_value::binary-size(3), _rest::binary>>} =
               Pkcs11Pool.encrypt(pool, key, :aes_ecb, <<0::128>>)
    end)
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

  describe "of every type that SoftHSM makes:" do
    # {type, curve, bits}, of each half.
    @pairs [
      {:rsa_pkcs_key_pair_gen, [modulus_bits: 1024], {:rsa, nil, 1024}},
      {:ec_key_pair_gen, [ec_params: :secp256r1], {:ec, :secp256r1, 256}},
      {:ec_key_pair_gen, [ec_params: :secp384r1], {:ec, :secp384r1, 384}},
      {:ec_key_pair_gen, [ec_params: :secp521r1], {:ec, :secp521r1, 521}},
      {:ec_key_pair_gen, [ec_params: :secp256k1], {:ec, :secp256k1, 256}},
      {:ec_key_pair_gen, [ec_params: :brainpoolP320r1], {:ec, :brainpoolP320r1, 320}},
      {:ec_edwards_key_pair_gen, [ec_params: :ed25519], {:ec_edwards, :ed25519, 255}},
      {:ec_edwards_key_pair_gen, [ec_params: :ed448], {:ec_edwards, :ed448, 448}},
      {:ec_edwards_key_pair_gen, [ec_params: :x25519], {:ec_edwards, :x25519, 255}},
      {:ec_edwards_key_pair_gen, [ec_params: :x448], {:ec_edwards, :x448, 448}}
    ]

    for {mechanism, template, {type, curve, bits}} <- @pairs do
      test "a pair, #{type} #{curve || bits}", %{pool: pool} do
        assert_pair(pool, unquote(mechanism), unquote(template), %{
          type: unquote(type),
          curve: unquote(curve),
          bits: unquote(bits)
        })
      end
    end

    for {type, parameters, pair, size, names} <- [
          {:dsa, :dsa_parameter_gen, :dsa_key_pair_gen, 1024, [:prime, :subprime, :base]},
          {:dh, :dh_pkcs_parameter_gen, :dh_pkcs_key_pair_gen, 512, [:prime, :base]}
        ] do
      @tag timeout: 300_000
      test "a pair, #{type}", %{pool: pool} do
        {:ok, domain} =
          Pkcs11Pool.generate_key(
            pool,
            unquote(parameters),
            [token: true, label: "domain", prime_bits: unquote(size)],
            operation_timeout: :infinity
          )

        {:ok, template} = Pkcs11Pool.get_attributes(pool, domain, unquote(names))
        expected = %{type: unquote(type), curve: nil, bits: unquote(size)}
        assert_pair(pool, unquote(pair), Enum.to_list(template), expected)

        assert {:ok, %{class: :domain_parameters, bits: unquote(size)}} =
                 Pkcs11Pool.key_info(pool, domain)
      end
    end

    for {mechanism, template, type, bits} <- [
          {:aes_key_gen, [value_len: 16], :aes, 128},
          {:aes_key_gen, [value_len: 32], :aes, 256},
          {:des_key_gen, [], :des, 64},
          {:des2_key_gen, [], :des2, 128},
          {:des3_key_gen, [], :des3, 192},
          {:generic_secret_key_gen, [value_len: 20], :generic_secret, 160}
        ] do
      test "a secret key, #{type} #{bits}", %{pool: pool} do
        flags = [
          token: true,
          private: true,
          sensitive: true,
          extractable: false,
          modifiable: true
        ]

        uses = [
          sign: true,
          verify: true,
          encrypt: false,
          decrypt: false,
          wrap: false,
          unwrap: false
        ]

        template = unquote(template) ++ flags ++ uses ++ [derive: false, label: "secret"]
        {:ok, object} = Pkcs11Pool.generate_key(pool, unquote(mechanism), template)
        assert {:ok, info} = Pkcs11Pool.key_info(pool, object)

        assert %{class: :secret_key, type: unquote(type), bits: unquote(bits), curve: nil} = info
        assert %{always_sensitive: true, never_extractable: true, local: true} = info
        for {flag, value} <- flags, do: assert(info[flag] == value, "#{flag}")
        assert Enum.sort(info.usage) == [:sign, :verify]
      end
    end

    for type <- [:md5_hmac, :sha_1_hmac, :sha256_hmac, :sha512_hmac] do
      test "a secret key that was imported, #{type}", %{pool: pool} do
        flags = [token: true, private: true, sensitive: false, extractable: true]

        {:ok, object} =
          Pkcs11Pool.create_object(
            pool,
            flags ++
              [class: :secret_key, key_type: unquote(type), value: <<1::160>>, label: "hmac"]
          )

        assert {:ok, info} = Pkcs11Pool.key_info(pool, object)
        assert %{class: :secret_key, type: unquote(type), bits: 160, local: false} = info
        for {flag, value} <- flags, do: assert(info[flag] == value, "#{flag}")
      end
    end

    defp assert_pair(pool, mechanism, template, expected) do
      label = "pair #{System.unique_integer([:positive])}"
      common = [token: true, label: label, id: <<5>>, derive: false]

      public =
        [verify: true, encrypt: false, wrap: false, verify_recover: false, private: false] ++
          common

      private =
        [sign: true, decrypt: false, unwrap: false, sign_recover: false, private: true] ++
          [sensitive: true, extractable: false] ++ common

      {:ok, {public, private}} =
        Pkcs11Pool.generate_key_pair(pool, mechanism, template ++ public, private)

      assert {:ok, %{class: :private_key, usage: [:sign], private: true, sensitive: true} = info} =
               Pkcs11Pool.key_info(pool, private)

      assert %{always_sensitive: true, never_extractable: true, extractable: false, local: true} =
               info

      assert Map.take(info, [:type, :curve, :bits]) == expected

      assert {:ok, %{class: :public_key, usage: [:verify], private: false} = info} =
               Pkcs11Pool.key_info(pool, public)

      assert Map.take(info, [:type, :curve, :bits]) == expected
      assert {info.label, info.id, info.token} == {label, <<5>>, true}
    end

    test "the private key of a certificate, or else its public key", %{pool: pool} do
      %{cert: der} = :public_key.pkix_test_root_cert(~c"a", key: {:rsa, 2048, 65_537})
      certificate = {:certificate, der}

      assert {:error, %Error{reason: :key_not_found}} = Pkcs11Pool.key_info(pool, certificate)

      {:OTPTBSCertificate, _, _, _, _, _, _, info, _, _, _} =
        der |> :public_key.pkix_decode_cert(:otp) |> elem(1)

      {:RSAPublicKey, n, e} = elem(info, 2)

      {:ok, _public} =
        Pkcs11Pool.create_object(pool,
          class: :public_key,
          key_type: :rsa,
          token: true,
          label: "of certificate",
          modulus: n,
          public_exponent: e
        )

      assert {:ok, %{class: :public_key, type: :rsa, bits: 2048, label: "of certificate"}} =
               Pkcs11Pool.key_info(pool, certificate)

      assert {:ok, %{class: :private_key, type: :rsa, bits: 2048, label: "rsa"}} =
               Pkcs11Pool.key_info(pool, {:public_key, Pkcs11Pool.public_key!(pool, "rsa")})
    end
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
