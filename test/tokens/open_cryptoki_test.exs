defmodule Pkcs11Pool.OpenCryptokiTest do
  # Mechanisms that no other token here has, on the software token of opencryptoki 3.27. Its folders and its daemon's shared memory are the whole system's: script/test-opencryptoki
  # starts these tests where they have their own.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{KeyWrap, Pools}
  alias Pkcs11Pool.Test.Tokens.OpenCryptoki

  unless System.get_env("PKCS11_POOL_OPENCRYPTOKI"),
    do: @moduletag(skip: "they need opencryptoki 3.27: run script/test-opencryptoki")

  # An operation by a machine that is busy elsewhere, and RSA keys of 4096 bits.
  @moduletag timeout: 300_000

  setup_all do
    dir = Path.join(System.tmp_dir!(), "opencryptoki-#{System.pid()}")
    # Processes have numbers of their own there: a run of before may have had this one.
    File.rm_rf!(dir)
    File.mkdir_p!(dir)
    {:ok, [%{opts: opts, pin: pin}]} = OpenCryptoki.set_up(dir)
    start_supervised!({Pkcs11Pool, opts ++ [name: :opencryptoki, pin: fn -> pin end]})
    on_exit(fn -> File.rm_rf!(dir) end)
    %{pool: :opencryptoki}
  end

  setup %{pool: pool} do
    on_exit(fn -> Pools.drained!(pool) end)
  end

  defp label, do: "key #{System.unique_integer([:positive])}"

  # Session objects go with their sessions, and token objects with the token.
  defp secret(type),
    do: [
      class: :secret_key,
      key_type: type,
      token: true,
      private: true,
      label: label(),
      sensitive: false,
      extractable: true
    ]

  # It chooses by itself whether a key that is unwrapped can be read and can leave: it can.
  defp unwrapped(type), do: Keyword.drop(secret(type), [:sensitive, :extractable])

  defp create!(pool, type, value),
    do: Pkcs11Pool.create_object!(pool, secret(type) ++ [value: value])

  defp value!(pool, key), do: Pkcs11Pool.get_attributes!(pool, key, [:value]).value

  # The key, and its objects on the token, which may wrap and unwrap.
  defp rsa!(pool, bits) do
    {:RSAPrivateKey, _, n, e, _, _, _, _, _, _, _} =
      key = :public_key.generate_key({:rsa, bits, 65_537})

    public =
      Pkcs11Pool.create_object!(pool,
        class: :public_key,
        key_type: :rsa,
        token: true,
        label: label(),
        modulus: n,
        public_exponent: e,
        wrap: true
      )

    private = Pkcs11Pool.import_private_key!(pool, key, token: true, label: label(), unwrap: true)

    %{key: key, public_key: {:RSAPublicKey, n, e}, public: public, private: private}
  end

  describe "RSA-AES (CKM_RSA_AES_KEY_WRAP)" do
    # SHA-1 and SHA-2, each with a label and without.
    @oaep [{:sha1, :sha, ""}, {:sha256, :sha256, "a label"}, {:sha512, :sha512, ""}]

    test "what the token wraps, :crypto unwraps, and the other way round", %{pool: pool} do
      for modulus <- [2048, 4096],
          rsa = rsa!(pool, modulus),
          bits <- [128, 192, 256],
          {hash, name, source} <- @oaep,
          {type, size} <- [aes: 16, aes: 24, aes: 32, generic_secret: 1, generic_secret: 33] do
        mechanism = {:rsa_aes_key_wrap, hash: hash, source: source, aes_bits: bits}
        value = :crypto.strong_rand_bytes(size)
        key = create!(pool, type, value)
        assert {:ok, wrapped} = Pkcs11Pool.wrap_key(pool, rsa.public, mechanism, key)
        # The AES key that OAEP has wrapped, and the key that the AES key has.
        assert byte_size(wrapped) == div(modulus, 8) + 8 + 8 * ceil(size / 8)
        assert KeyWrap.unwrap_rsa_aes(rsa.key, name, source, wrapped) == {:ok, value, bits}

        ours = KeyWrap.wrap_rsa_aes(rsa.public_key, bits, name, source, value)

        for wrapped <- [wrapped, ours] do
          assert {:ok, %Object{} = back} =
                   Pkcs11Pool.unwrap_key(pool, rsa.private, mechanism, wrapped, unwrapped(type))

          assert value!(pool, back) == value
          :ok = Pkcs11Pool.destroy_object(pool, back)
        end

        :ok = Pkcs11Pool.destroy_object(pool, key)
      end
    end

    test "private keys of RSA and EC go out as PKCS #8, and the ones that come in sign as those did",
         %{pool: pool} do
      rsa = rsa!(pool, 2048)
      mechanism = {:rsa_aes_key_wrap, hash: :sha256}
      ec = :public_key.generate_key({:namedCurve, :secp256r1})

      for {type, key, public, sign} <- [
            {:rsa, :public_key.generate_key({:rsa, 2048, 65_537}), &rsa_public/1,
             [{:rsa_pkcs, hash: :sha256}, "data"]},
            {:ec, ec, &ec_public/1, [{:ecdsa, hash: :sha256}, "data", [signature: :der]]}
          ] do
        template = [token: true, label: label(), extractable: true, sensitive: false]
        target = Pkcs11Pool.import_private_key!(pool, key, template)
        assert {:ok, wrapped} = Pkcs11Pool.wrap_key(pool, rsa.public, mechanism, target)
        assert {:ok, der, 256} = KeyWrap.unwrap_rsa_aes(rsa.key, :sha256, "", wrapped)
        same = :public_key.der_decode(:PrivateKeyInfo, der)

        assert :public_key.verify(
                 "data",
                 :sha256,
                 :public_key.sign("data", :sha256, same),
                 public.(key)
               )

        {:PrivateKeyInfo, der, :not_encrypted} =
          :public_key.pem_entry_encode(:PrivateKeyInfo, key)

        ours = KeyWrap.wrap_rsa_aes(rsa.public_key, 256, :sha256, "", der)

        for wrapped <- [wrapped, ours] do
          template = [
            class: :private_key,
            key_type: type,
            token: true,
            private: true,
            label: label(),
            sign: true
          ]

          assert {:ok, back} =
                   Pkcs11Pool.unwrap_key(pool, rsa.private, mechanism, wrapped, template)

          assert {:ok, signature} = apply(Pkcs11Pool, :sign, [pool, back | sign])
          assert :public_key.verify("data", :sha256, signature, public.(key))
        end
      end
    end

    test "what was changed, cut off or wrapped with other parameters is refused, and leaves no key behind",
         %{pool: pool} do
      rsa = rsa!(pool, 2048)
      mechanism = {:rsa_aes_key_wrap, hash: :sha256}
      wrapped = KeyWrap.wrap_rsa_aes(rsa.public_key, 256, :sha256, "", :binary.copy("x", 32))
      template = unwrapped(:aes)

      unwrap = fn mechanism, wrapped ->
        Pkcs11Pool.unwrap_key(pool, rsa.private, mechanism, wrapped, template)
      end

      changed = for byte <- [0, 255, 256, 295], do: flip(wrapped, byte)
      cut = for size <- [0, 1, 255, 256, 257, 264], do: binary_part(wrapped, 0, size)

      # None whose second part is a block longer or shorter: opencryptoki 3.27.0 frees memory that it never had then, and the VM ends.
      for forged <- changed ++ cut ++ [:binary.copy("x", 296)] do
        assert {:error, %Error{function: :C_UnwrapKey}} = unwrap.(mechanism, forged)
      end

      for other <- [[hash: :sha1], [hash: :sha256, mgf: :sha1], [hash: :sha256, source: "label"]] do
        assert {:error, %Error{function: :C_UnwrapKey}} =
                 unwrap.({:rsa_aes_key_wrap, other}, wrapped)
      end

      assert {:ok, []} = Pkcs11Pool.find_objects(pool, label: template[:label])
      assert {:ok, key} = unwrap.(mechanism, wrapped)
      assert value!(pool, key) == :binary.copy("x", 32)
    end

    test "a key that may not leave the token does not", %{pool: pool} do
      rsa = rsa!(pool, 2048)
      template = Keyword.merge(secret(:aes), sensitive: true, extractable: false, value_len: 32)
      key = Pkcs11Pool.generate_key!(pool, :aes_key_gen, template)

      assert {:error, %Error{function: :C_WrapKey, reason: reason}} =
               Pkcs11Pool.wrap_key(pool, rsa.public, {:rsa_aes_key_wrap, hash: :sha256}, key)

      assert reason in [:key_unextractable, :key_not_wrappable]
    end
  end

  describe "ECDH-AES (CKM_ECDH_AES_KEY_WRAP)" do
    @kdfs [{:sha1, :sha}, {:sha256, :sha256}, {:sha384, :sha384}, {:sha512, :sha512}]

    # The key, and its objects on the token, which may wrap and unwrap.
    defp ec!(pool, curve) do
      key = :public_key.generate_key({:namedCurve, curve})
      point = elem(key, 4)
      size = byte_size(point)
      point = if size < 128, do: <<4, size>> <> point, else: <<4, 0x81, size>> <> point
      public = [class: :public_key, key_type: :ec, token: true, label: label(), wrap: true]
      public = Pkcs11Pool.create_object!(pool, public ++ [ec_params: curve, ec_point: point])

      private =
        Pkcs11Pool.import_private_key!(pool, key, token: true, label: label(), unwrap: true)

      %{key: key, public_key: ec_public(key), public: public, private: private}
    end

    test "what the token wraps, :crypto unwraps, and the other way round", %{pool: pool} do
      for curve <- [:secp256r1, :secp384r1, :secp521r1],
          ec = ec!(pool, curve),
          bits <- [128, 192, 256],
          {kdf, hash} <- @kdfs,
          shared <- ["", "shared data"],
          {type, size} <- [aes: 32, generic_secret: 33] do
        mechanism = {:ecdh_aes_key_wrap, kdf: kdf, shared_data: shared, aes_bits: bits}
        value = :crypto.strong_rand_bytes(size)
        key = create!(pool, type, value)
        assert {:ok, wrapped} = Pkcs11Pool.wrap_key(pool, ec.public, mechanism, key)
        assert KeyWrap.unwrap_ecdh_aes(ec.key, bits, hash, shared, wrapped) == {:ok, value}
        ours = KeyWrap.wrap_ecdh_aes(ec.public_key, bits, hash, shared, value)
        assert byte_size(ours) == byte_size(wrapped)

        for wrapped <- [wrapped, ours] do
          assert {:ok, %Object{} = back} =
                   Pkcs11Pool.unwrap_key(pool, ec.private, mechanism, wrapped, unwrapped(type))

          assert value!(pool, back) == value
          :ok = Pkcs11Pool.destroy_object(pool, back)
        end

        :ok = Pkcs11Pool.destroy_object(pool, key)
      end
    end

    test "without a KDF the AES key is the beginning of the secret", %{pool: pool} do
      ec = ec!(pool, :secp256r1)
      mechanism = {:ecdh_aes_key_wrap, kdf: :null}
      key = create!(pool, :aes, value = :crypto.strong_rand_bytes(16))
      assert {:ok, wrapped} = Pkcs11Pool.wrap_key(pool, ec.public, mechanism, key)
      assert KeyWrap.unwrap_ecdh_aes(ec.key, 256, nil, "", wrapped) == {:ok, value}
    end

    test "what was changed, or wrapped with other parameters, is refused", %{pool: pool} do
      ec = ec!(pool, :secp256r1)
      mechanism = {:ecdh_aes_key_wrap, kdf: :sha256}
      wrapped = KeyWrap.wrap_ecdh_aes(ec.public_key, 256, :sha256, "", :binary.copy("x", 32))
      template = unwrapped(:aes)
      unwrap = &Pkcs11Pool.unwrap_key(pool, ec.private, &1, &2, template)

      for changed <- [flip(wrapped, 1), flip(wrapped, 64), flip(wrapped, 65), flip(wrapped, 104)],
          do: assert({:error, %Error{function: :C_UnwrapKey}} = unwrap.(mechanism, changed))

      for other <- [[kdf: :sha384], [kdf: :sha256, shared_data: "other"]] do
        assert {:error, %Error{function: :C_UnwrapKey}} =
                 unwrap.({:ecdh_aes_key_wrap, other}, wrapped)
      end

      assert {:ok, []} = Pkcs11Pool.find_objects(pool, label: template[:label])
      assert {:ok, key} = unwrap.(mechanism, wrapped)
      assert value!(pool, key) == :binary.copy("x", 32)
    end
  end

  defp flip(binary, at) do
    <<before::binary-size(at), byte, rest::binary>> = binary
    <<before::binary, Bitwise.bxor(byte, 1), rest::binary>>
  end

  defp rsa_public({:RSAPrivateKey, _, n, e, _, _, _, _, _, _, _}), do: {:RSAPublicKey, n, e}
  defp ec_public(key), do: {{:ECPoint, elem(key, 4)}, elem(key, 3)}
end
