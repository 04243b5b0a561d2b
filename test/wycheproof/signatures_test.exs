defmodule Pkcs11Pool.Wycheproof.SignaturesTest do
  # Signatures that the Wycheproof project has made to be taken, or not to be.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{Kryoptic, Pools, SoftHSM, Tokens, Wycheproof}

  @moduletag timeout: 300_000

  @curves ~w(secp224r1 secp256r1 secp384r1 secp521r1 secp256k1 secp160k1 secp160r1 secp160r2 secp192k1 secp192r1 secp224k1
             brainpoolP224r1 brainpoolP256r1 brainpoolP320r1 brainpoolP384r1 brainpoolP512r1)

  @ecdsa ~w(
    ecdsa_brainpoolP224r1_sha224 ecdsa_brainpoolP224r1_sha224_p1363 ecdsa_brainpoolP224r1_sha3_224
    ecdsa_brainpoolP256r1_sha256 ecdsa_brainpoolP256r1_sha256_p1363 ecdsa_brainpoolP256r1_sha3_256
    ecdsa_brainpoolP320r1_sha384 ecdsa_brainpoolP320r1_sha384_p1363 ecdsa_brainpoolP320r1_sha3_384
    ecdsa_brainpoolP384r1_sha384 ecdsa_brainpoolP384r1_sha384_p1363 ecdsa_brainpoolP384r1_sha3_384
    ecdsa_brainpoolP512r1_sha512 ecdsa_brainpoolP512r1_sha512_p1363 ecdsa_brainpoolP512r1_sha3_512
    ecdsa_secp160k1_sha256 ecdsa_secp160k1_sha256_p1363 ecdsa_secp160r1_sha256 ecdsa_secp160r1_sha256_p1363
    ecdsa_secp160r2_sha256 ecdsa_secp160r2_sha256_p1363 ecdsa_secp192k1_sha256 ecdsa_secp192k1_sha256_p1363
    ecdsa_secp192r1_sha256 ecdsa_secp192r1_sha256_p1363 ecdsa_secp224k1_sha224 ecdsa_secp224k1_sha224_p1363
    ecdsa_secp224k1_sha256 ecdsa_secp224k1_sha256_p1363
    ecdsa_secp224r1_sha224 ecdsa_secp224r1_sha224_p1363 ecdsa_secp224r1_sha256 ecdsa_secp224r1_sha256_p1363
    ecdsa_secp224r1_sha3_224 ecdsa_secp224r1_sha3_256 ecdsa_secp224r1_sha3_512 ecdsa_secp224r1_sha512 ecdsa_secp224r1_sha512_p1363
    ecdsa_secp256k1_sha256 ecdsa_secp256k1_sha256_p1363 ecdsa_secp256k1_sha3_256 ecdsa_secp256k1_sha3_512
    ecdsa_secp256k1_sha512 ecdsa_secp256k1_sha512_p1363
    ecdsa_secp256r1_sha256 ecdsa_secp256r1_sha256_p1363 ecdsa_secp256r1_sha3_256 ecdsa_secp256r1_sha3_512
    ecdsa_secp256r1_sha512 ecdsa_secp256r1_sha512_p1363
    ecdsa_secp384r1_sha256 ecdsa_secp384r1_sha384 ecdsa_secp384r1_sha384_p1363 ecdsa_secp384r1_sha3_384
    ecdsa_secp384r1_sha3_512 ecdsa_secp384r1_sha512 ecdsa_secp384r1_sha512_p1363
    ecdsa_secp521r1_sha3_512 ecdsa_secp521r1_sha512 ecdsa_secp521r1_sha512_p1363)
  @eddsa ~w(ed25519 ed448)
  @rsa ~w(
    rsa_signature_2048_sha224 rsa_signature_2048_sha256 rsa_signature_2048_sha384 rsa_signature_2048_sha512
    rsa_signature_2048_sha3_224 rsa_signature_2048_sha3_256 rsa_signature_2048_sha3_384 rsa_signature_2048_sha3_512
    rsa_signature_3072_sha256 rsa_signature_3072_sha384 rsa_signature_3072_sha512
    rsa_signature_3072_sha3_256 rsa_signature_3072_sha3_384 rsa_signature_3072_sha3_512
    rsa_signature_4096_sha256 rsa_signature_4096_sha384 rsa_signature_4096_sha512
    rsa_signature_8192_sha256 rsa_signature_8192_sha384 rsa_signature_8192_sha512)
  @pss ~w(
    rsa_pss_2048_sha1_mgf1_20 rsa_pss_2048_sha256_mgf1_0 rsa_pss_2048_sha256_mgf1_32 rsa_pss_2048_sha256_mgf1sha1_20
    rsa_pss_2048_sha384_mgf1_48 rsa_pss_3072_sha256_mgf1_32 rsa_pss_4096_sha256_mgf1_32 rsa_pss_4096_sha384_mgf1_48
    rsa_pss_4096_sha512_mgf1_32 rsa_pss_4096_sha512_mgf1_64 rsa_pss_misc)

  @hashes %{
    "SHA-1" => :sha_1,
    "SHA-224" => :sha224,
    "SHA-256" => :sha256,
    "SHA-384" => :sha384,
    "SHA-512" => :sha512,
    "SHA-512/224" => :sha512_224,
    "SHA-512/256" => :sha512_256,
    "SHA3-224" => :sha3_224,
    "SHA3-256" => :sha3_256,
    "SHA3-384" => :sha3_384,
    "SHA3-512" => :sha3_512
  }

  @sets [
    softhsm: [
      {"ECDSA, in DER and as r and s", @ecdsa},
      {"EdDSA", @eddsa},
      {"RSA PKCS #1 v1.5", @rsa},
      {"RSA PSS", @pss}
    ],
    kryoptic: [
      {"ECDSA, in DER and as r and s", Enum.filter(@ecdsa, &(&1 =~ ~r/secp(256|384|521)r1/))},
      {"EdDSA", @eddsa},
      {"RSA PKCS #1 v1.5", @rsa},
      {"RSA PSS", @pss},
      {"ML-DSA", ~w(mldsa_44_verify mldsa_65_verify mldsa_87_verify)}
    ],
    nss: [
      {"ECDSA, in DER and as r and s", Enum.filter(@ecdsa, &(&1 =~ ~r/secp(256|384|521)r1/))},
      {"RSA PKCS #1 v1.5", @rsa},
      {"RSA PSS", @pss}
    ]
  ]

  missing = fn
    :softhsm -> false
    :kryoptic -> Kryoptic.missing()
    :nss -> Tokens.NSS.missing()
  end

  for {token, tests} <- @sets do
    describe "#{token}" do
      @describetag skip: missing.(token)

      setup do
        opts = [pool_size: 2, lease_timeout: 300_000] |> Keyword.merge(opts(unquote(token)))
        start_supervised!({Pkcs11Pool, opts})
        %{pool: opts[:name]}
      end

      for {title, sets} <- tests do
        test title, %{pool: pool} do
          disagreements =
            Pkcs11Pool.with_session(pool, fn session ->
              for {set, groups} <- Wycheproof.load!(unquote(sets)),
                  group <- groups,
                  found <- verify_group(session, set, group),
                  do: found
            end)

          assert Wycheproof.format(disagreements) ==
                   Wycheproof.listed(unquote("#{token}"), unquote(sets))

          Pools.drained!(pool)
        end
      end
    end
  end

  defp opts(:softhsm), do: SoftHSM.pool_opts(SoftHSM.new_token!())
  defp opts(:kryoptic), do: SoftHSM.pool_opts(Kryoptic.new_token!())
  defp opts(:nss), do: Tokens.NSS.pool_opts()

  defp verify_group(session, set, group) do
    case Pkcs11Pool.create_object(session, public_key(group)) do
      {:ok, key} ->
        found =
          for vector <- group["tests"],
              {:disagrees, what} <- [verify_vector(session, key, group, vector)],
              do: {set, what, vector["tcId"]}

        :ok = Pkcs11Pool.destroy_object(session, key)
        found

      {:error, error} ->
        for vector <- group["tests"],
            vector["result"] == "valid",
            do: {set, "the key is #{error.reason}", vector["tcId"]}
    end
  end

  defp verify_vector(session, key, group, vector) do
    {mechanism, opts} = mechanism(group, vector)
    message = input(group, Wycheproof.bytes(vector, "msg"))
    signature = Wycheproof.bytes(vector, "sig")
    outcome = Pkcs11Pool.verify(session, key, mechanism, message, signature, opts)
    Wycheproof.judge(vector, Wycheproof.outcome(outcome), [:signature_invalid])
  rescue
    # A context that is longer than there is one.
    _error in ArgumentError ->
      Wycheproof.judge(vector, {:error, :argument_error}, [:argument_error])
  end

  defp public_key(%{"type" => "MlDsaVerify"} = group) do
    # By its size, which of an invalid one is one too many or too few.
    set =
      case byte_size(Wycheproof.bytes(group, "publicKey")) do
        size when size < 1_500 -> :ml_dsa_44
        size when size < 2_500 -> :ml_dsa_65
        _size -> :ml_dsa_87
      end

    [
      class: :public_key,
      key_type: :ml_dsa,
      verify: true,
      parameter_set: set,
      value: Wycheproof.bytes(group, "publicKey")
    ]
  end

  defp public_key(%{"publicKey" => %{"type" => "EcPublicKey"} = key}) do
    curve = Map.fetch!(Map.new(@curves, &{&1, String.to_atom(&1)}), key["curve"])
    ec_key(:ec, curve, Wycheproof.bytes(key, "uncompressed"))
  end

  defp public_key(%{"publicKey" => %{"type" => "EDDSAPublicKey"} = key}) do
    curve = Map.fetch!(%{"edwards25519" => :ed25519, "edwards448" => :ed448}, key["curve"])
    ec_key(:ec_edwards, curve, Wycheproof.bytes(key, "pk"))
  end

  defp public_key(%{"publicKey" => %{"modulus" => _} = key}) do
    [
      class: :public_key,
      key_type: :rsa,
      verify: true,
      modulus: Wycheproof.number(key, "modulus"),
      public_exponent: Wycheproof.number(key, "publicExponent")
    ]
  end

  defp ec_key(key_type, curve, point) do
    length = if byte_size(point) < 128, do: <<byte_size(point)>>, else: <<0x81, byte_size(point)>>

    der = <<4>> <> length <> point
    [class: :public_key, key_type: key_type, verify: true, ec_params: curve, ec_point: der]
  end

  defp mechanism(%{"type" => "MlDsaVerify"}, vector) do
    context = if vector["ctx"], do: Wycheproof.bytes(vector, "ctx"), else: ""
    {{:ml_dsa, context: context}, []}
  end

  defp mechanism(group, _vector) do
    hash = @hashes[group["sha"]]

    case group["type"] do
      "EcdsaVerify" ->
        {{:ecdsa, hash: hash}, [signature: :der]}

      "EcdsaP1363Verify" ->
        {{:ecdsa, hash: hash}, [signature: :raw]}

      "EddsaVerify" ->
        {:eddsa, []}

      "RsassaPkcs1Verify" ->
        {{:rsa_pkcs, hash: hash}, []}

      "RsassaPssVerify" ->
        {{:rsa_pkcs_pss, hash: hash, mgf: @hashes[group["mgfSha"]], salt_length: group["sLen"]},
         []}
    end
  end

  # What the raw PSS takes is hashed already.
  defp input(%{"type" => "RsassaPssVerify"} = group, message) do
    hash = @hashes[group["sha"]]
    :crypto.hash(if(hash == :sha_1, do: :sha, else: hash), message)
  end

  defp input(_group, message), do: message
end
