defmodule Pkcs11Pool.Test.Matrix do
  @moduledoc """
  Which mechanisms are tried with which functions, on which token, and what other implementation has to agree. `test/matrix` tries them, and
  `guides/supported.md` is made of them.

  A row is `{kind, mechanism, key, reference}`. The kind says which functions there are for it.
  """

  @typedoc "What is done with a mechanism."
  @type kind :: :digest | :mac | :signature | :cipher | :rsa_cipher | :agreement | :wrap

  @type row :: {kind, mechanism :: term, key :: term, reference :: term}

  @iv :binary.copy(<<7>>, 16)
  @iv8 :binary.copy(<<7>>, 8)
  @nonce :binary.copy(<<7>>, 12)

  # {the name in mechanisms, OTP's}
  @sha2 [sha_1: :sha, sha224: :sha224, sha256: :sha256, sha384: :sha384, sha512: :sha512]
  @sha3 for bits <- [224, 256, 384, 512], do: {:"sha3_#{bits}", :"sha3_#{bits}"}
  @short [sha512_224: {:openssl, "sha512-224", 28}, sha512_256: {:openssl, "sha512-256", 32}]

  @curves [
    :secp224r1,
    :secp256r1,
    :secp384r1,
    :secp521r1,
    :secp256k1,
    :brainpoolP256r1,
    :brainpoolP384r1,
    :brainpoolP512r1
  ]

  @doc "The tokens, with their titles."
  @spec tokens() :: [{atom, String.t()}]
  def tokens, do: [softhsm: "SoftHSM", kryoptic: "kryoptic", nss: "NSS"]

  @doc "The mechanisms that a token takes in one part only: there are no streams of them."
  @spec one_part(atom) :: [atom]
  def one_part(:softhsm), do: [:eddsa]

  # kryoptic 1.5.4 loses a part of what it decrypts by ChaCha20-Poly1305 in parts, and says that the tag is wrong.
  def one_part(:kryoptic), do: [:eddsa, :aes_cts, :chacha20_poly1305]
  def one_part(:nss), do: [:aes_gcm, :aes_cts, :chacha20_poly1305]

  @doc "The functions that are tried with a kind of mechanism, with the C functions behind them."
  @spec functions(kind) :: [String.t()]
  def functions(:digest), do: ~w(digest/4 digest_stream/4)
  def functions(:mac), do: signatures()
  def functions(:signature), do: signatures()

  def functions(:cipher),
    do: ~w(encrypt/5 decrypt/5 encrypt_many/5 decrypt_many/5 encrypt_stream/5 decrypt_stream/5)

  def functions(:rsa_cipher), do: ~w(encrypt/5 decrypt/5 encrypt_many/5 decrypt_many/5)
  def functions(:agreement), do: ~w(derive_key/5)
  def functions(:wrap), do: ~w(wrap_key/5 unwrap_key/6)

  defp signatures, do: ~w(sign/5 verify/6 sign_many/5 verify_many/5 sign_stream/5 verify_stream/6)

  @doc "What is tried on a token."
  @spec rows(atom) :: [row]
  def rows(:softhsm) do
    digests(@sha2 ++ [md5: :md5]) ++
      hmacs(@sha2 ++ [md5: :md5]) ++
      [
        {:mac, :aes_cmac, :aes, {:cmac, :aes_256_cbc, 16}},
        {:mac, :des3_cmac, :des3, {:cmac, :des_ede3_cbc, 8}}
      ] ++
      rsa_signatures(@sha2) ++
      for(
        hash <- [:sha3_256, :sha3_512],
        do: {:signature, {:rsa_pkcs, hash: hash}, :rsa, {:rsa, hash}}
      ) ++
      ecdsa(@sha2 ++ @sha3) ++
      for(
        curve <- [:ed25519, :ed448],
        do: {:signature, :eddsa, {:edwards, curve}, {:eddsa, curve}}
      ) ++
      aes(~w(ecb cbc cbc_pad ctr gcm)a) ++
      des3(~w(ecb cbc cbc_pad)a) ++
      rsa_ciphers(sha_1: :sha) ++
      for(curve <- @curves, do: {:agreement, :ecdh1_derive, {:ec, curve}, {:ecdh, curve}}) ++
      for(
        curve <- [:x25519, :x448],
        do: {:agreement, :ecdh1_derive, {:edwards, curve}, {:ecdh, curve}}
      ) ++
      [
        {:wrap, :aes_key_wrap, :aes, :key_wrap},
        {:wrap, :aes_key_wrap_pad, :aes, :key_wrap_pad},
        {:wrap, :rsa_pkcs, :rsa, [rsa_padding: :rsa_pkcs1_padding]},
        {:wrap, {:rsa_pkcs_oaep, hash: :sha_1}, :rsa, oaep(:sha)}
      ]
  end

  def rows(:kryoptic) do
    digests(@sha2 ++ @sha3 ++ @short) ++
      hmacs(@sha2 ++ @sha3 ++ @short) ++
      for(
        {hash, otp} <- @sha2 ++ @sha3,
        do: {:mac, {:"#{hash}_hmac_general", length: 12}, {:generic, 64}, {:hmac, otp, 12}}
      ) ++
      [
        {:mac, :aes_cmac, :aes, {:cmac, :aes_256_cbc, 16}},
        {:mac, {:aes_cmac_general, length: 8}, :aes, {:cmac, :aes_256_cbc, 8}}
      ] ++
      rsa_signatures(@sha2 ++ @sha3) ++
      ecdsa_on_token(@sha2 ++ @sha3) ++
      for(
        curve <- [:ed25519, :ed448],
        do: {:signature, :eddsa, {:edwards, curve}, {:eddsa, curve}}
      ) ++
      aes(~w(ecb cbc cbc_pad ctr gcm ccm cts ofb cfb8 cfb128)a) ++
      [
        {:cipher, {:chacha20, nonce: @nonce}, :chacha20,
         {:stream, :chacha20, <<0::32>> <> @nonce}},
        {:cipher, {:chacha20_poly1305, nonce: @nonce, aad: "header"}, :chacha20,
         {:aead, :chacha20_poly1305, @nonce, "header", 16}}
      ] ++
      rsa_ciphers(@sha2) ++
      for(
        curve <- [:secp256r1, :secp384r1, :secp521r1],
        do: {:agreement, :ecdh1_derive, {:ec, curve}, {:ecdh, curve}}
      ) ++
      for(
        curve <- [:x25519, :x448],
        do: {:agreement, :ecdh1_derive, {:montgomery, curve}, {:ecdh, curve}}
      ) ++
      [
        {:wrap, :aes_key_wrap, :aes, :key_wrap},
        {:wrap, :aes_key_wrap_kwp, :aes, :key_wrap_pad},
        {:wrap, {:rsa_pkcs_oaep, hash: :sha256}, :rsa, oaep(:sha256)}
      ]
  end

  def rows(:nss) do
    hmacs(@sha2) ++
      rsa_signatures(@sha2) ++
      ecdsa_on_token(@sha2) ++
      aes(~w(ecb cbc cbc_pad ctr gcm cts)a) ++
      des3(~w(ecb cbc cbc_pad)a) ++
      [
        {:cipher, {:chacha20_poly1305, nonce: @nonce, aad: "header"}, :chacha20,
         {:aead, :chacha20_poly1305, @nonce, "header", 16}}
      ] ++ rsa_ciphers(@sha2)
  end

  defp digests(hashes), do: for({hash, otp} <- hashes, do: {:digest, hash, nil, otp})

  defp hmacs(hashes),
    do:
      for(
        {hash, otp} <- hashes,
        do: {:mac, :"#{hash}_hmac", {:generic, 64}, {:hmac, otp, :whole}}
      )

  defp rsa_signatures(hashes) do
    for {hash, otp} <- hashes,
        name = if(hash == :sha_1, do: :sha1, else: hash),
        row <- [
          {:signature, :"#{name}_rsa_pkcs", :rsa, {:rsa, otp}},
          {:signature, {:rsa_pkcs, hash: hash}, :rsa, {:rsa, otp}},
          {:signature, :"#{name}_rsa_pkcs_pss", :rsa, {:pss, otp}}
        ],
        do: row
  end

  # Each hash on one curve, and each curve with one hash.
  defp ecdsa(hashes) do
    for(
      {hash, otp} <- hashes,
      do: {:signature, {:ecdsa, hash: hash}, {:ec, :secp256r1}, {:ecdsa, otp}}
    ) ++
      for curve <- @curves -- [:secp256r1],
          do: {:signature, {:ecdsa, hash: :sha512}, {:ec, curve}, {:ecdsa, :sha512}}
  end

  defp ecdsa_on_token(hashes) do
    for {hash, otp} <- hashes, curve <- [:secp256r1, :secp521r1] do
      name = if hash == :sha_1, do: :sha1, else: hash
      {:signature, :"ecdsa_#{name}", {:ec, curve}, {:ecdsa, otp}}
    end
  end

  defp aes(modes) do
    all = %{
      ecb: {:aes_ecb, {:blocks, :aes_256_ecb, ""}},
      cbc: {{:aes_cbc, iv: @iv}, {:blocks, :aes_256_cbc, @iv}},
      cbc_pad: {{:aes_cbc_pad, iv: @iv}, {:padded, :aes_256_cbc, @iv}},
      ctr: {{:aes_ctr, counter_block: @iv}, {:stream, :aes_256_ctr, @iv}},
      ofb: {{:aes_ofb, iv: @iv}, {:stream, :aes_256_ofb, @iv}},
      cfb8: {{:aes_cfb8, iv: @iv}, {:stream, :aes_256_cfb8, @iv}},
      cfb128: {{:aes_cfb128, iv: @iv}, {:stream, :aes_256_cfb128, @iv}},
      cts: {{:aes_cts, iv: @iv}, {:stealing, :aes_256_cbc, @iv}},
      gcm: {{:aes_gcm, iv: @nonce, aad: "header"}, {:aead, :aes_256_gcm, @nonce, "header", 16}},
      ccm:
        {{:aes_ccm, nonce: @nonce, aad: "header", mac_length: 8},
         {:aead, :aes_256_ccm, @nonce, "header", 8}}
    }

    for mode <- modes,
        {mechanism, reference} = all[mode],
        do: {:cipher, mechanism, :aes, reference}
  end

  defp des3(modes) do
    all = %{
      ecb: {:des3_ecb, {:openssl_blocks, "des-ede3"}},
      cbc: {{:des3_cbc, iv: @iv8}, {:blocks, :des_ede3_cbc, @iv8}},
      cbc_pad: {{:des3_cbc_pad, iv: @iv8}, {:padded, :des_ede3_cbc, @iv8}}
    }

    for mode <- modes,
        {mechanism, reference} = all[mode],
        do: {:cipher, mechanism, :des3, reference}
  end

  defp rsa_ciphers(hashes) do
    [{:rsa_cipher, :rsa_pkcs, :rsa, {[rsa_padding: :rsa_pkcs1_padding], 11}}] ++
      for {hash, otp} <- hashes do
        overhead = 2 * byte_size(:crypto.hash(otp, "")) + 2
        {:rsa_cipher, {:rsa_pkcs_oaep, hash: hash}, :rsa, {oaep(otp), overhead}}
      end
  end

  defp oaep(hash),
    do: [rsa_padding: :rsa_pkcs1_oaep_padding, rsa_oaep_md: hash, rsa_mgf1_md: hash]
end
