defmodule Pkcs11Pool.Mechanism.OtherNames do
  @moduledoc false
  # What JOSE, OTP and TLS call a mechanism, and what PKCS#11 calls it: for messages, never for calls. A name that several mechanisms answer to
  # gets them all.

  @hashes ~w(sha1 sha224 sha256 sha384 sha512 sha3_224 sha3_256 sha3_384 sha3_512)
  @tls_curves %{
    "sha256" => ~w(secp256r1 brainpoolP256r1tls13),
    "sha384" => ~w(secp384r1 brainpoolP384r1tls13),
    "sha512" => ~w(secp521r1 brainpoolP512r1tls13)
  }

  # {the names, what each means}
  @hashed for hash <- @hashes,
              # OTP's name of SHA-1.
              written <- if(hash == "sha1", do: ["sha1", "sha", "sha_1"], else: [hash]),
              names <- [
                {~w(rsa_#{written} #{written}_rsa rsa_with_#{written} #{written}_with_rsa rsa_pkcs_#{written}
                    rsa_pkcs1_#{written} #{written}_rsa_pkcs1 #{written}withrsa #{written}withrsaencryption),
                 [":#{hash}_rsa_pkcs"]},
                {~w(rsa_pss_#{written} rsassa_pss_#{written} rsa_pss_rsae_#{written} rsa_pss_pss_#{written} rsa_pkcs_pss_#{written}
                    #{written}_rsa_pss), [":#{hash}_rsa_pkcs_pss"]},
                {~w(ecdsa_with_#{written} #{written}_ecdsa #{written}_with_ecdsa ec_#{written}) ++
                   for(curve <- Map.get(@tls_curves, hash, []), do: "ecdsa_#{curve}_#{written}"),
                 ["{:ecdsa, hash: :#{hash}}"]},
                {~w(hmac_#{written} #{written}hmac hmac#{written}),
                 [":#{if hash == "sha1", do: "sha_1", else: hash}_hmac"]}
              ],
              do: names

  @jose for bits <- ~w(256 384 512),
            names <- [
              {["rs#{bits}"], [":sha#{bits}_rsa_pkcs"]},
              {["ps#{bits}"], [":sha#{bits}_rsa_pkcs_pss"]},
              {["es#{bits}", "es#{bits}k"], ["{:ecdsa, hash: :sha#{bits}}"]},
              {["hs#{bits}"], [":sha#{bits}_hmac"]}
            ],
            do: names

  @ciphers for bits <- ~w(128 192 256),
               names <- [
                 {["a#{bits}gcm", "aes#{bits}_gcm", "aes_#{bits}_gcm"], ["{:aes_gcm, iv: iv}"]},
                 {["aes#{bits}_cbc", "aes_#{bits}_cbc"],
                  ["{:aes_cbc_pad, iv: iv}", "{:aes_cbc, iv: iv}"]},
                 {["aes#{bits}_ctr", "aes_#{bits}_ctr"], ["{:aes_ctr, counter_block: block}"]},
                 {["aes#{bits}_ecb", "aes_#{bits}_ecb"], [":aes_ecb"]},
                 {["a#{bits}kw"], [":aes_key_wrap"]},
                 {["aes#{bits}", "aes_#{bits}"], ["{:aes_gcm, iv: iv}", ":aes_key_gen"]}
               ],
               do: names

  @others [
    {~w(ed25519 ed448 eddsa_ed25519 eddsa_ed448), [":eddsa"]},
    {~w(rsa_oaep rsa_pkcs1_oaep_padding oaep), ["{:rsa_pkcs_oaep, hash: :sha1}"]},
    {~w(rsa_oaep_256 rsa_oaep_sha256), ["{:rsa_pkcs_oaep, hash: :sha256}"]},
    {~w(rsa1_5 rsa_pkcs1 rsa_pkcs1_padding), [":rsa_pkcs"]},
    {~w(rsa_pss rsassa_pss pss rsa_pkcs1_pss_padding), [":sha256_rsa_pkcs_pss"]},
    {~w(rsa), [":sha256_rsa_pkcs", "{:rsa_pkcs_oaep, hash: :sha256}", ":rsa_pkcs_key_pair_gen"]},
    {~w(ec ecc), ["{:ecdsa, hash: :sha256}", ":ec_key_pair_gen"]},
    {~w(ecdh ecdh_es), ["{:ecdh1_derive, public_data: point}"]},
    {~w(aes), ["{:aes_gcm, iv: iv}", ":aes_key_gen"]},
    {~w(hmac), [":sha256_hmac"]},
    {~w(cmac), [":aes_cmac"]},
    {~w(sha sha1), [":sha_1"]}
  ]

  @names for {names, means} <- @hashed ++ @jose ++ @ciphers ++ @others,
             name <- names,
             into: %{},
             do: {name |> String.downcase() |> String.replace("_", ""), means}

  @doc """
  What another standard's name means, as `", did you mean :sha256_rsa_pkcs?"`; nil for a name that none of them has. Neither case nor
  hyphens and underscores matter.
  """
  @spec suggestion(atom | String.t()) :: String.t() | nil
  def suggestion(name) do
    written = name |> to_string() |> String.downcase() |> String.replace(["-", "_", "/"], "")

    case @names do
      %{^written => means} -> ", did you mean #{either(means)}?"
      _unknown -> nil
    end
  end

  @doc false
  @spec suggestions() :: [String.t()]
  def suggestions, do: @names |> Map.values() |> List.flatten() |> Enum.uniq()

  defp either([one]), do: one

  defp either(several) do
    {last, first} = List.pop_at(several, -1)
    Enum.join(first, ", ") <> " or " <> last
  end
end
