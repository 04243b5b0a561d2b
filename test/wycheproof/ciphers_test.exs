defmodule Pkcs11Pool.Wycheproof.CiphersTest do
  # Ciphertexts, MACs, wrapped keys and shared secrets that the Wycheproof project has made to be taken, or not to be.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Kryoptic, Pools, SoftHSM, Wycheproof}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag timeout: 300_000

  @macs [
    hmac_sha1: :sha_1_hmac,
    hmac_sha224: :sha224_hmac,
    hmac_sha256: :sha256_hmac,
    hmac_sha384: :sha384_hmac,
    hmac_sha512: :sha512_hmac,
    aes_cmac: :aes_cmac
  ]
  @more_macs [
    hmac_sha3_224: :sha3_224_hmac,
    hmac_sha3_256: :sha3_256_hmac,
    hmac_sha3_384: :sha3_384_hmac,
    hmac_sha3_512: :sha3_512_hmac,
    hmac_sha512_224: :sha512_224_hmac,
    hmac_sha512_256: :sha512_256_hmac
  ]
  @ecdh ~w(
    ecdh_brainpoolP224r1 ecdh_brainpoolP256r1 ecdh_brainpoolP320r1 ecdh_brainpoolP384r1 ecdh_brainpoolP512r1
    ecdh_secp224r1 ecdh_secp224r1_ecpoint ecdh_secp256k1 ecdh_secp256r1 ecdh_secp256r1_ecpoint
    ecdh_secp384r1 ecdh_secp384r1_ecpoint ecdh_secp521r1 ecdh_secp521r1_ecpoint)
  @oaep ~w(
    rsa_oaep_2048_sha1_mgf1sha1 rsa_oaep_2048_sha224_mgf1sha1 rsa_oaep_2048_sha224_mgf1sha224 rsa_oaep_2048_sha256_mgf1sha1
    rsa_oaep_2048_sha256_mgf1sha256 rsa_oaep_2048_sha384_mgf1sha1 rsa_oaep_2048_sha384_mgf1sha384 rsa_oaep_2048_sha512_mgf1sha1
    rsa_oaep_2048_sha512_mgf1sha512 rsa_oaep_3072_sha256_mgf1sha1 rsa_oaep_3072_sha256_mgf1sha256 rsa_oaep_3072_sha512_mgf1sha1
    rsa_oaep_3072_sha512_mgf1sha512 rsa_oaep_4096_sha256_mgf1sha1 rsa_oaep_4096_sha256_mgf1sha256 rsa_oaep_4096_sha512_mgf1sha1
    rsa_oaep_4096_sha512_mgf1sha512 rsa_oaep_misc)

  @hashes %{
    "SHA-1" => :sha_1,
    "SHA-224" => :sha224,
    "SHA-256" => :sha256,
    "SHA-384" => :sha384,
    "SHA-512" => :sha512
  }

  @curves Map.new(
            ~w(secp224r1 secp256r1 secp384r1 secp521r1 secp256k1
               brainpoolP224r1 brainpoolP256r1 brainpoolP320r1 brainpoolP384r1 brainpoolP512r1),
            &{&1, String.to_atom(&1)}
          )
          |> Map.merge(%{"curve25519" => :x25519, "curve448" => :x448})

  defp start!(token) do
    pool = String.to_atom(token.label)

    start_supervised!(
      {Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2, lease_timeout: 300_000)}
    )

    pool
  end

  # Runs every vector of the sets, and compares the disagreements with the token's list: `try` gives what came of one.
  defp run(%{pool: pool, list: list}, sets, try) do
    disagreements =
      Pkcs11Pool.with_session(pool, fn session ->
        for {set, groups} <- Wycheproof.load!(sets),
            group <- groups,
            vector <- group["tests"],
            {:disagrees, what} <- [try.(session, set, group, vector)],
            do: {set, what, vector["tcId"]}
      end)

    Pools.drained!(pool)
    assert Wycheproof.format(disagreements) == Wycheproof.listed(list, sets)
  end

  # Runs `fun` with an object that is destroyed afterwards.
  defp with_object(session, template, fun) do
    with {:ok, object} <- Pkcs11Pool.create_object(session, template) do
      result = fun.(object)
      :ok = Pkcs11Pool.destroy_object(session, object)
      result
    end
  end

  defp secret_key(type, value, uses),
    do: [class: :secret_key, key_type: type, value: value] ++ for(use <- uses, do: {use, true})

  ## MACs

  defp mac(macs) do
    fn session, set, _group, vector ->
      mechanism = Keyword.fetch!(macs, String.to_existing_atom(set))
      tag = Wycheproof.bytes(vector, "tag")
      type = if mechanism == :aes_cmac, do: :aes, else: :generic_secret
      key = secret_key(type, Wycheproof.bytes(vector, "key"), [:sign, :verify])
      message = Wycheproof.bytes(vector, "msg")

      outcome =
        with_object(session, key, fn key ->
          with {:ok, own} <- Pkcs11Pool.sign(session, key, mechanism, message) do
            # What is shorter than the whole is the beginning of it.
            cond do
              byte_size(own) == byte_size(tag) ->
                Pkcs11Pool.verify(session, key, mechanism, message, tag)

              binary_part(own, 0, byte_size(tag)) == tag ->
                :ok

              true ->
                {:error, %Error{reason: :signature_invalid}}
            end
          end
        end)

      # A key of a length that there is none of is refused when it is made, or used.
      refusals = [
        :signature_invalid,
        :key_size_range,
        :mechanism_invalid,
        :attribute_value_invalid
      ]

      Wycheproof.judge(vector, Wycheproof.outcome(outcome), refusals)
    end
  end

  ## Ciphers

  defp aead(mechanism, type) do
    fn session, _set, group, vector ->
      key = secret_key(type, Wycheproof.bytes(vector, "key"), [:encrypt, :decrypt])
      sealed = Wycheproof.bytes(vector, "ct") <> Wycheproof.bytes(vector, "tag")
      message = Wycheproof.bytes(vector, "msg")

      try do
        mechanism = mechanism.(group, vector)

        outcome =
          with_object(session, key, fn key ->
            opened = Pkcs11Pool.decrypt(session, key, mechanism, sealed)

            if vector["result"] == "valid" do
              {:ok, ^sealed} = Pkcs11Pool.encrypt(session, key, mechanism, message)
            end

            opened
          end)

        Wycheproof.judge(vector, Wycheproof.outcome(outcome), [:decryption_failed], message)
      rescue
        # A nonce or a tag of a length that none may have.
        _error in ArgumentError ->
          Wycheproof.judge(vector, {:error, :argument_error}, [:argument_error])
      end
    end
  end

  defp gcm(group, vector) do
    {:aes_gcm,
     iv: Wycheproof.bytes(vector, "iv"),
     aad: Wycheproof.bytes(vector, "aad"),
     tag_bits: group["tagSize"]}
  end

  defp ccm(group, vector) do
    {:aes_ccm,
     nonce: Wycheproof.bytes(vector, "iv"),
     aad: Wycheproof.bytes(vector, "aad"),
     mac_length: div(group["tagSize"], 8)}
  end

  defp poly1305(_group, vector) do
    {:chacha20_poly1305,
     nonce: Wycheproof.bytes(vector, "iv"), aad: Wycheproof.bytes(vector, "aad")}
  end

  defp cbc(session, _set, _group, vector) do
    key = secret_key(:aes, Wycheproof.bytes(vector, "key"), [:encrypt, :decrypt])
    message = Wycheproof.bytes(vector, "msg")
    sealed = Wycheproof.bytes(vector, "ct")
    mechanism = {:aes_cbc_pad, iv: Wycheproof.bytes(vector, "iv")}

    outcome =
      with_object(session, key, fn key ->
        if vector["result"] == "valid",
          do: {:ok, ^sealed} = Pkcs11Pool.encrypt(session, key, mechanism, message)

        Pkcs11Pool.decrypt(session, key, mechanism, sealed)
      end)

    Wycheproof.judge(vector, Wycheproof.outcome(outcome), [:decryption_failed], message)
  end

  defp unwrap(mechanism) do
    fn session, _set, _group, vector ->
      key = secret_key(:aes, Wycheproof.bytes(vector, "key"), [:unwrap])

      template = [
        class: :secret_key,
        key_type: :generic_secret,
        sensitive: false,
        extractable: true
      ]

      outcome =
        with_object(session, key, fn key ->
          with {:ok, unwrapped} <-
                 Pkcs11Pool.unwrap_key(
                   session,
                   key,
                   mechanism,
                   Wycheproof.bytes(vector, "ct"),
                   template
                 ),
               do: value(session, unwrapped)
        end)

      Wycheproof.judge(
        vector,
        Wycheproof.outcome(outcome),
        refusals(outcome),
        Wycheproof.bytes(vector, "msg")
      )
    end
  end

  # Any reason that the token gives will do.
  defp refusals({:error, %Error{reason: reason, code: code}}) when code != nil, do: [reason]
  defp refusals(_done), do: []

  defp value(session, object) do
    {:ok, %{value: value}} = Pkcs11Pool.get_attributes(session, object, [:value])
    :ok = Pkcs11Pool.destroy_object(session, object)
    {:ok, value}
  end

  defp oaep(session, _set, group, vector) do
    mechanism =
      {:rsa_pkcs_oaep,
       hash: @hashes[group["sha"]],
       mgf: @hashes[group["mgfSha"]],
       source: Wycheproof.bytes(vector, "label")}

    outcome =
      with_object(session, rsa_key(group["privateKey"]), fn key ->
        Pkcs11Pool.decrypt(session, key, mechanism, Wycheproof.bytes(vector, "ct"))
      end)

    Wycheproof.judge(
      vector,
      Wycheproof.outcome(outcome),
      [:decryption_failed],
      Wycheproof.bytes(vector, "msg")
    )
  end

  defp rsa_key(key) do
    [
      class: :private_key,
      key_type: :rsa,
      decrypt: true,
      modulus: Wycheproof.number(key, "modulus"),
      public_exponent: Wycheproof.number(key, "publicExponent"),
      private_exponent: Wycheproof.number(key, "privateExponent"),
      prime_1: Wycheproof.number(key, "prime1"),
      prime_2: Wycheproof.number(key, "prime2"),
      exponent_1: Wycheproof.number(key, "exponent1"),
      exponent_2: Wycheproof.number(key, "exponent2"),
      coefficient: Wycheproof.number(key, "coefficient")
    ]
  end

  ## Key agreement

  defp agree(key_type) do
    fn session, _set, group, vector ->
      curve = @curves[group["curve"]]

      case point(group, curve, Wycheproof.bytes(vector, "public")) do
        {:ok, point} ->
          secret = Wycheproof.bytes(vector, "private")

          secret =
            if key_type == :ec,
              do: <<:binary.decode_unsigned(secret)::size(field(curve))-unit(8)>>,
              else: secret

          private = [
            class: :private_key,
            key_type: key_type,
            derive: true,
            ec_params: curve,
            value: secret
          ]

          template = [
            class: :secret_key,
            key_type: :generic_secret,
            value_len: byte_size(Wycheproof.bytes(vector, "shared")),
            sensitive: false,
            extractable: true
          ]

          outcome =
            with_object(session, private, fn key ->
              with {:ok, derived} <-
                     Pkcs11Pool.derive_key(
                       session,
                       key,
                       {:ecdh1_derive, public_data: point},
                       template
                     ),
                   do: value(session, derived)
            end)

          Wycheproof.judge(
            vector,
            Wycheproof.outcome(outcome),
            refusals(outcome),
            Wycheproof.bytes(vector, "shared")
          )

        # It is no key of this curve by its DER, and so is not sent to the token.
        :error ->
          Wycheproof.judge(vector, {:error, :no_point}, [:no_point])
      end
    end
  end

  defp field(curve) do
    {{:prime_field, prime}, _coefficients, _base, _order, _cofactor} = :crypto.ec_curve(curve)
    byte_size(prime)
  end

  defp point(%{"encoding" => "asn"}, curve, der) do
    {:SubjectPublicKeyInfo, algorithm, point} = :public_key.der_decode(:SubjectPublicKeyInfo, der)
    {:AlgorithmIdentifier, {1, 2, 840, 10_045, 2, 1}, parameters} = algorithm
    parameters = with {:asn1_OPENTYPE, parameters} <- parameters, do: parameters

    named =
      :public_key.der_encode(
        :EcpkParameters,
        {:namedCurve, :pubkey_cert_records.namedCurves(curve)}
      )

    if parameters == named and is_binary(point), do: {:ok, point}, else: :error
  rescue
    _malformed -> :error
  end

  defp point(_group, _curve, point), do: {:ok, point}

  ## Encapsulation

  defp decapsulate(session, _set, group, vector) do
    set = %{
      "ML-KEM-512" => :ml_kem_512,
      "ML-KEM-768" => :ml_kem_768,
      "ML-KEM-1024" => :ml_kem_1024
    }

    secret =
      if vector["seed"],
        do: [seed: Wycheproof.bytes(vector, "seed")],
        else: [value: Wycheproof.bytes(vector, "dk")]

    private =
      [class: :private_key, key_type: :ml_kem, parameter_set: set[group["parameterSet"]]] ++
        [decapsulate: true] ++ secret

    template = [
      class: :secret_key,
      key_type: :generic_secret,
      value_len: 32,
      sensitive: false,
      extractable: true
    ]

    outcome =
      with_object(session, private, fn key ->
        ciphertext = Wycheproof.bytes(vector, "c")

        with {:ok, shared} <- Pkcs11Pool.decapsulate(session, key, :ml_kem, ciphertext, template),
             do: value(session, shared)
      end)

    refusals = [:encrypted_data_len_range | refusals(outcome)]
    shared = if vector["result"] == "valid", do: Wycheproof.bytes(vector, "K")
    Wycheproof.judge(vector, Wycheproof.outcome(outcome), refusals, shared)
  end

  describe "SoftHSM" do
    setup do
      %{pool: start!(SoftHSM.new_token!()), list: "softhsm"}
    end

    test "HMAC and CMAC", context do
      run(context, Enum.map(Keyword.keys(@macs), &Atom.to_string/1), mac(@macs))
    end

    test("AES-GCM", context, do: run(context, ["aes_gcm"], aead(&gcm/2, :aes)))
    test("AES-CBC with padding", context, do: run(context, ["aes_cbc_pkcs5"], &cbc/4))
    test("AES key wrap", context, do: run(context, ["aes_wrap"], unwrap(:aes_key_wrap)))

    test("AES key wrap with padding", context,
      do: run(context, ["aes_kwp"], unwrap(:aes_key_wrap_pad))
    )

    test("RSA-OAEP", context, do: run(context, @oaep, &oaep/4))
    test("ECDH", context, do: run(context, @ecdh, agree(:ec)))
    test("X25519 and X448", context, do: run(context, ~w(x25519 x448), agree(:ec_edwards)))
  end

  describe "kryoptic" do
    @describetag skip: Kryoptic.missing()

    setup do
      %{pool: start!(Kryoptic.new_token!()), list: "kryoptic"}
    end

    test "HMAC with SHA-3 and the short ones of SHA-512", context do
      run(context, Enum.map(Keyword.keys(@more_macs), &Atom.to_string/1), mac(@more_macs))
    end

    test("AES-CCM", context, do: run(context, ["aes_ccm"], aead(&ccm/2, :aes)))
    test("AES-GCM", context, do: run(context, ["aes_gcm"], aead(&gcm/2, :aes)))

    test("ChaCha20-Poly1305", context,
      do: run(context, ["chacha20_poly1305"], aead(&poly1305/2, :chacha20))
    )

    test("RSA-OAEP", context, do: run(context, @oaep, &oaep/4))
    test("X25519 and X448", context, do: run(context, ~w(x25519 x448), agree(:ec_montgomery)))

    test "ML-KEM", context do
      sets =
        for bits <- [512, 768, 1024],
            set <- ["mlkem_#{bits}", "mlkem_#{bits}_semi_expanded_decaps"],
            do: set

      run(context, sets, &decapsulate/4)
    end

    test("AES key wrap", context, do: run(context, ["aes_wrap"], unwrap(:aes_key_wrap)))

    test("AES key wrap with padding", context,
      do: run(context, ["aes_kwp"], unwrap(:aes_key_wrap_kwp))
    )
  end

  # The message functions of PKCS#11 3.0, which are called where a token has nothing else. They disagree on the same as the others.
  describe "kryoptic by messages" do
    @describetag skip: Kryoptic.missing()

    setup do
      token = Kryoptic.new_token!()
      chaos = Chaos.start!(token.module, module_env: token.module_env, tmp_dir: SoftHSM.dir())
      on_exit(fn -> Chaos.stop(chaos) end)
      Chaos.messages_only(chaos)
      token = %{token | module: chaos.module, module_env: chaos.module_env}
      %{pool: start!(token), list: "kryoptic", chaos: chaos}
    end

    defp run_by_messages(%{chaos: chaos} = context, sets, try) do
      run(context, sets, try)

      assert Chaos.calls(chaos, :C_DecryptMessage) > 0 and
               Chaos.calls(chaos, :C_EncryptMessage) > 0

      assert Chaos.calls(chaos, :C_DecryptInit) + Chaos.calls(chaos, :C_EncryptInit) == 0
    end

    test("AES-CCM", context, do: run_by_messages(context, ["aes_ccm"], aead(&ccm/2, :aes)))
    test("AES-GCM", context, do: run_by_messages(context, ["aes_gcm"], aead(&gcm/2, :aes)))

    test "ChaCha20-Poly1305", context do
      run_by_messages(context, ["chacha20_poly1305"], aead(&poly1305/2, :chacha20))
    end
  end
end
