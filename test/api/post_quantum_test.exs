defmodule Pkcs11Pool.PostQuantumTest do
  # ML-DSA and SLH-DSA on a token that has them.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Kryoptic, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag skip: Kryoptic.missing()

  @generated [ml_dsa: :ml_dsa_key_pair_gen, slh_dsa: :slh_dsa_key_pair_gen]

  # {the digest's mechanism, those of messages}
  @hashed [
    ml_dsa:
      {:hash_ml_dsa,
       [
         hash_ml_dsa_sha224: :sha224,
         hash_ml_dsa_sha256: :sha256,
         hash_ml_dsa_sha384: :sha384,
         hash_ml_dsa_sha512: :sha512,
         hash_ml_dsa_sha3_224: :sha3_224,
         hash_ml_dsa_sha3_256: :sha3_256,
         hash_ml_dsa_sha3_384: :sha3_384,
         hash_ml_dsa_sha3_512: :sha3_512
       ]},
    slh_dsa:
      {:hash_slh_dsa,
       [
         hash_slh_dsa_sha224: :sha224,
         hash_slh_dsa_sha256: :sha256,
         hash_slh_dsa_sha384: :sha384,
         hash_slh_dsa_sha512: :sha512,
         hash_slh_dsa_sha3_224: :sha3_224,
         hash_slh_dsa_sha3_256: :sha3_256,
         hash_slh_dsa_sha3_384: :sha3_384,
         hash_slh_dsa_sha3_512: :sha3_512
       ]}
  ]

  setup_all do
    token = Kryoptic.new_token!()
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [])})

    for {type, set} <- [ml_dsa: :ml_dsa_44, slh_dsa: :slh_dsa_sha2_128f],
        do: {:ok, _pair} = generate(pool, type, set)

    %{pool: pool}
  end

  setup %{pool: pool} do
    on_exit(fn ->
      assert %{running: 0, waiting: 0, leased: 0, hung: 0} = Pkcs11Pool.status(pool)
    end)
  end

  defp generate(pool, type, set) do
    names = [token: true, label: Atom.to_string(set), id: Atom.to_string(set)]
    public = [parameter_set: set, verify: true] ++ names
    Pkcs11Pool.generate_key_pair(pool, @generated[type], public, [sign: true] ++ names)
  end

  # FIPS 204, table 2; FIPS 205, table 2.
  for {type, set, otp, public_bytes, signature_bytes} <- [
        {:ml_dsa, :ml_dsa_44, :mldsa44, 1_312, 2_420},
        {:ml_dsa, :ml_dsa_65, :mldsa65, 1_952, 3_309},
        {:ml_dsa, :ml_dsa_87, :mldsa87, 2_592, 4_627},
        {:slh_dsa, :slh_dsa_sha2_128s, :slh_dsa_sha2_128s, 32, 7_856},
        {:slh_dsa, :slh_dsa_sha2_128f, :slh_dsa_sha2_128f, 32, 17_088},
        {:slh_dsa, :slh_dsa_shake_192f, :slh_dsa_shake_192f, 48, 35_664},
        {:slh_dsa, :slh_dsa_sha2_256f, :slh_dsa_sha2_256f, 64, 49_856}
      ] do
    test "#{set}: a key pair signs and verifies, and says what it is", %{pool: pool} do
      {type, set} = {unquote(type), unquote(set)}
      label = "#{set} once more"

      public = [parameter_set: set, verify: true, token: true, label: label]
      private = [sign: true, token: true, label: label]
      mechanism = @generated[type]

      assert {:ok, {public_key, private_key}} =
               Pkcs11Pool.generate_key_pair(pool, mechanism, public, private)

      for {key, class} <- [{public_key, :public_key}, {private_key, :private_key}] do
        assert {:ok, %{type: ^type, parameter_set: ^set, class: ^class, curve: nil}} =
                 Pkcs11Pool.key_info(pool, key)

        assert {:ok, %{parameter_set: ^set, class: ^class} = read} =
                 Pkcs11Pool.get_attributes(pool, key, [:parameter_set, :class])

        refute Map.has_key?(read, :key_type)
      end

      assert {:ok, {_record, unquote(otp), raw} = otp_key} = Pkcs11Pool.public_key(pool, label)
      assert byte_size(raw) == unquote(public_bytes)
      assert Pkcs11Pool.public_key(pool, public_key) == {:ok, otp_key}
      assert Pkcs11Pool.public_key(pool, private_key) == {:ok, otp_key}
      assert {:ok, %{value: ^raw}} = Pkcs11Pool.get_attributes(pool, public_key, [:value])

      assert {:ok, %{public_key_info: info}} =
               Pkcs11Pool.get_attributes(pool, public_key, [:public_key_info])

      assert Pkcs11Pool.X509.subject_public_key_info(pool, label) == {:ok, info}

      # By itself, as the record and as SubjectPublicKeyInfo.
      for named <- [{:public_key, otp_key}, {:public_key, info}] do
        assert {:ok, %{class: :private_key, label: ^label}} = Pkcs11Pool.key_info(pool, named)
        assert {:ok, signature} = Pkcs11Pool.sign(pool, named, type, "data")
        assert Pkcs11Pool.verify(pool, named, type, "data", signature) == :ok
      end

      assert {:ok, signature} = Pkcs11Pool.sign(pool, label, type, "data")
      assert byte_size(signature) == unquote(signature_bytes)
      assert Pkcs11Pool.verify(pool, label, type, "data", signature) == :ok

      assert {:error, %Error{reason: :signature_invalid}} =
               Pkcs11Pool.verify(pool, label, type, "date", signature)

      # The token is not asked.
      assert {:error, %Error{reason: :signature_invalid, code: nil, details: details}} =
               Pkcs11Pool.verify(pool, label, type, "data", signature <> "0")

      assert details.expected_bytes == unquote(signature_bytes)
    end
  end

  describe "openssl" do
    @describetag skip: Kryoptic.openssl_missing()

    setup do
      dir = Path.join(SoftHSM.dir(), "openssl-#{System.unique_integer([:positive])}")
      File.mkdir_p!(dir)
      %{path: &Path.join(dir, &1)}
    end

    for {type, key} <- [ml_dsa: "ml_dsa_44", slh_dsa: "slh_dsa_sha2_128f"],
        context <- ["", "app"] do
      @key key
      @context context

      test "verifies what the token signs with #{type}, and signs what it verifies, in the context #{inspect(context)}",
           %{pool: pool, path: path} do
        data = :crypto.strong_rand_bytes(1_000)
        mechanism = {unquote(type), context: @context}
        {:ok, info} = Pkcs11Pool.X509.subject_public_key_info(pool, @key)
        {:ok, signature} = Pkcs11Pool.sign(pool, @key, mechanism, data)
        File.write!(path.("public"), info)
        File.write!(path.("data"), data)
        File.write!(path.("signature"), signature)
        context = if @context == "", do: [], else: ["-pkeyopt", "context-string:" <> @context]

        verify =
          ~w(pkeyutl -verify -pubin -keyform DER -inkey) ++
            [path.("public"), "-in", path.("data"), "-sigfile", path.("signature")] ++ context

        assert {"Signature Verified Successfully" <> _, 0} = Kryoptic.openssl(verify)
        File.write!(path.("data"), data <> "0")
        assert {_refused, 1} = Kryoptic.openssl(verify)

        # A key of openssl's, as a public key object on the token.
        algorithm = if unquote(type) == :ml_dsa, do: "ML-DSA-44", else: "SLH-DSA-SHA2-128f"
        key = path.("key")
        {_, 0} = Kryoptic.openssl(["genpkey", "-algorithm", algorithm, "-out", key])
        public = ["pkey", "-in", key, "-pubout", "-outform", "DER", "-out", path.("own")]
        {_, 0} = Kryoptic.openssl(public)
        sign = ["pkeyutl", "-sign", "-inkey", key, "-in", path.("data"), "-out", path.("signed")]
        {_, 0} = Kryoptic.openssl(sign ++ context)

        der = File.read!(path.("own"))
        {:SubjectPublicKeyInfo, _, raw} = :public_key.der_decode(:SubjectPublicKeyInfo, der)

        {:ok, theirs} =
          Pkcs11Pool.create_object(pool,
            class: :public_key,
            key_type: unquote(type),
            parameter_set: String.to_existing_atom(@key),
            value: raw,
            verify: true,
            token: true,
            label: "openssl's"
          )

        assert {:ok, {_record, _name, ^raw}} = Pkcs11Pool.public_key(pool, theirs)
        signed = File.read!(path.("signed"))
        assert Pkcs11Pool.verify(pool, theirs, mechanism, data <> "0", signed) == :ok

        assert {:error, %Error{reason: :signature_invalid}} =
                 Pkcs11Pool.verify(pool, theirs, mechanism, data, signed)
      end
    end
  end

  for {type, key} <- [ml_dsa: "ml_dsa_44", slh_dsa: "slh_dsa_sha2_128f"] do
    @key key

    describe "#{type}:" do
      test "a signature holds in its context only", %{pool: pool} do
        for context <- ["", "a", :binary.copy("c", 255)] do
          mechanism = {unquote(type), context: context}
          assert {:ok, signature} = Pkcs11Pool.sign(pool, @key, mechanism, "data")
          assert Pkcs11Pool.verify(pool, @key, mechanism, "data", signature) == :ok

          assert {:error, %Error{reason: :signature_invalid}} =
                   Pkcs11Pool.verify(pool, @key, {unquote(type), context: "b"}, "data", signature)

          without = Pkcs11Pool.verify(pool, @key, unquote(type), "data", signature)
          if context == "", do: assert(without == :ok), else: assert({:error, _} = without)
        end
      end

      test "without a hedge the same data has the same signature", %{pool: pool} do
        sign = fn hedge ->
          {:ok, signature} = Pkcs11Pool.sign(pool, @key, {unquote(type), hedge: hedge}, "data")
          assert Pkcs11Pool.verify(pool, @key, unquote(type), "data", signature) == :ok
          signature
        end

        assert sign.(:deterministic) == sign.(:deterministic)
        assert sign.(:required) != sign.(:required)
        assert sign.(:preferred) != sign.(:preferred)
        assert sign.(:deterministic) == sign.(:deterministic_required)
      end

      test "a message that the token hashes, and its digest, have the same signature", %{
        pool: pool
      } do
        {of_digest, of_messages} = @hashed[unquote(type)]

        for {name, hash} <- of_messages do
          params = [context: "app", hedge: :deterministic]
          message = {name, params}
          digest = {of_digest, [hash: hash] ++ params}
          digested = :crypto.hash(hash, "data")

          assert {:ok, signature} = Pkcs11Pool.sign(pool, @key, message, "data")
          assert Pkcs11Pool.sign(pool, @key, digest, digested) == {:ok, signature}
          assert Pkcs11Pool.verify(pool, @key, digest, digested, signature) == :ok

          # It is another signature than that of the message itself, or of the same bytes as a message.
          for other <- ["data", digested] do
            assert {:error, %Error{reason: :signature_invalid}} =
                     Pkcs11Pool.verify(
                       pool,
                       @key,
                       {unquote(type), context: "app"},
                       other,
                       signature
                     )
          end
        end
      end

      test "what is no digest is refused by the token", %{pool: pool} do
        mechanism = {:"hash_#{unquote(type)}", hash: :sha256}

        assert {:error, %Error{reason: :data_len_range, function: :C_Sign}} =
                 Pkcs11Pool.sign(pool, @key, mechanism, "data")

        assert {:ok, _signature} =
                 Pkcs11Pool.sign(pool, @key, mechanism, :crypto.hash(:sha256, ""))
      end

      test "streams and lists", %{pool: pool} do
        mechanism = {unquote(type), context: "app"}
        parts = for _ <- 1..20, do: :crypto.strong_rand_bytes(1_000)

        assert {:ok, signature} = Pkcs11Pool.sign_stream(pool, @key, mechanism, parts)
        assert Pkcs11Pool.verify(pool, @key, mechanism, parts, signature) == :ok
        assert Pkcs11Pool.verify_stream(pool, @key, mechanism, parts, signature) == :ok

        assert {:error, %Error{reason: :signature_invalid}} =
                 Pkcs11Pool.verify_stream(pool, @key, mechanism, ["x" | parts], signature)

        data = ["", "a", :binary.copy("b", 10_000)]
        assert {:ok, results} = Pkcs11Pool.sign_many(pool, @key, mechanism, data)
        assert [{:ok, _}, {:ok, _}, {:ok, _}] = results
        pairs = Enum.zip(data, for({:ok, signature} <- results, do: signature))

        assert Pkcs11Pool.verify_many(pool, @key, mechanism, pairs) ==
                 {:ok, [{:ok, true}, {:ok, true}, {:ok, true}]}
      end
    end
  end

  test "a key of another type is refused before the token is asked", %{pool: pool} do
    for {key, mechanism} <- [{"ml_dsa_44", :slh_dsa}, {"slh_dsa_sha2_128f", :hash_ml_dsa_sha256}] do
      assert {:error, %Error{reason: :key_type_inconsistent, code: nil, executed: false}} =
               Pkcs11Pool.sign(pool, key, mechanism, "data")
    end
  end

  test "a public key that is not on the token names no key there", %{pool: pool} do
    raw = :crypto.strong_rand_bytes(1_312)

    assert {:error, %Error{reason: :key_not_found, details: details}} =
             Pkcs11Pool.sign(
               pool,
               {:public_key, {:"ML-DSAPublicKey", :mldsa44, raw}},
               :ml_dsa,
               ""
             )

    assert details.public_keys == 0

    for malformed <- [
          {:"ML-DSAPublicKey", :mldsa44, raw <> "0"},
          {:"ML-DSAPublicKey", :mldsa66, raw},
          {:mldsa44},
          {:slh_dsa_sha2_128s, raw}
        ] do
      assert_raise ArgumentError, ~r/RSA, EC, Edwards or post-quantum key/, fn ->
        Pkcs11Pool.sign(pool, {:public_key, malformed}, :ml_dsa, "")
      end
    end
  end

  test "a private key that tells nothing of its public half proves itself by a signature" do
    token = Kryoptic.new_token!()
    chaos = Chaos.start!(token.module, module_env: token.module_env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> Chaos.stop(chaos) end)
    token = %{token | module: chaos.module, module_env: chaos.module_env}
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [])}, id: pool)

    for {type, set} <- [ml_dsa: :ml_dsa_44, slh_dsa: :slh_dsa_sha2_128f] do
      {:ok, {public, own}} = generate(pool, type, set)
      {:ok, {_public, other}} = generate(pool, type, set)
      {:ok, key} = Pkcs11Pool.public_key(pool, public)

      # All of them have the same id and label.
      for object <- [own, other] do
        refused = [attributes: [:public_key_info]]
        Chaos.refuse_attributes(chaos, object, :attribute_type_invalid, refused)
      end

      Chaos.reset_counts(chaos)
      assert {:ok, signature} = Pkcs11Pool.sign(pool, {:public_key, key}, type, "data")
      # One for each of the two private keys that it may be.
      assert Chaos.calls(chaos, :C_Verify) == 2
      assert Pkcs11Pool.verify(pool, public, type, "data", signature) == :ok

      # Without the right one there is none.
      :ok = Pkcs11Pool.destroy_object(pool, own)

      assert {:error, %Error{reason: :key_not_found, details: %{public_keys: 1}}} =
               Pkcs11Pool.sign(pool, {:public_key, key}, type, "data")
    end
  end

  test "what takes no such key says so", %{pool: pool} do
    for key <- ["ml_dsa_44", "slh_dsa_sha2_128f"] do
      assert {:error, %Error{reason: :key_type_inconsistent}} = Pkcs11Pool.JWK.public(pool, key)

      assert {:error, %Error{reason: reason}} = Pkcs11Pool.OTP.private_key(pool, key)
      assert reason in [:key_type_inconsistent, :otp_too_old]

      assert_raise ArgumentError, "a key of this type signs no certificates", fn ->
        Pkcs11Pool.X509.request(pool, key, common_name: "x")
      end
    end
  end

  test "a parameter set that the mechanism does not have is the token's to refuse", %{pool: pool} do
    names = [token: true, label: "none"]

    assert {:error, %Error{function: :C_GenerateKeyPair}} =
             Pkcs11Pool.generate_key_pair(
               pool,
               :ml_dsa_key_pair_gen,
               [parameter_set: 77, verify: true] ++ names,
               [sign: true] ++ names
             )
  end
end
