defmodule Pkcs11Pool.Mechanism do
  @moduledoc """
  Mechanisms: the `mechanism` argument of a call.

  A mechanism is an atom, or `{atom, parameters}`. The atoms are PKCS#11's own names in lower case
  without `CKM_`: `CKM_SHA256_RSA_PKCS` is `:sha256_rsa_pkcs`. All names of PKCS#11 3.2 are known.
  `Pkcs11Pool.mechanisms/1` tells which of them a token has.

  | mechanism | parameters |
  |---|---|
  | `{:rsa_pkcs, hash: :sha256}`, `{:ecdsa, hash: :sha256}` | `:hash`: the data is a message, see below. For `:ecdsa` also `:curve` (`:secp256r1`, ...): a key on another curve is refused with `:key_type_inconsistent` |
  | `:rsa_pkcs`, `:sha256_rsa_pkcs`, `:sha384_rsa_pkcs`, ..., `:rsa_x_509` | none |
  | `:sha256_rsa_pkcs_pss`, ... | none needed: the hash and the MGF of the name, and a salt as long as the hash. `{:sha256_rsa_pkcs_pss, salt_length: 20, mgf: :sha1}` changes that |
  | `{:rsa_pkcs_pss, hash: :sha256, mgf: :sha256, salt_length: 32}` | `:hash` is required; `:mgf` defaults to the hash, `:salt_length` (bytes) to its length |
  | `{:rsa_pkcs_oaep, hash: :sha256, mgf: :sha256, source: ""}` | `:hash` is required; `:mgf` defaults to the hash, `:source` (the label, a binary) to `""`. If the token ignores the label, the error is `:parameters_ignored` |
  | `:ecdsa`, `:ecdsa_sha256`, ... | none |
  | `:eddsa`, `{:eddsa, prehash: true, context: "app"}` | none needed: Ed25519 or Ed448, by the key. `:prehash` (default false) is Ed25519ph or Ed448ph: the token hashes the message first; `:context` (at most 255 bytes) is for Ed25519ctx, Ed25519ph, Ed448 and Ed448ph. If the token ignores them, the error is `:parameters_ignored` |
  | `{:aes_gcm, iv: iv, aad: "", tag_bits: 128}` | `:iv` is required: a binary of 1 to 128 bytes (some tokens use only the beginning of a longer one), or `:token` if the token makes it; `:aad` defaults to `""`, `:tag_bits` to 128 |
  | `{:aes_ccm, nonce: nonce, aad: "", mac_length: 16}` | `:nonce` is required: a binary of 7 to 13 bytes (the longer the data, the shorter it must be; 13 bytes: data up to 64 KiB), or `:token` if the token makes it; `:aad` defaults to `""`, `:mac_length` (4, 6, ..., 16 bytes) to 16. A stream needs `:data_length`, the bytes of the whole plaintext |
  | `{:chacha20_poly1305, nonce: nonce, aad: ""}` | `:nonce` of 12 bytes (on some tokens 8 or 24) is required; `:aad` defaults to `""`. The same for `:salsa20_poly1305` |
  | `{:chacha20, nonce: nonce, counter: 0}` | `:nonce` of 12 or 8 bytes is required; `:counter`, the number of the first block, defaults to 0. It has 32 bits, or 64 with a nonce of 8 bytes |
  | `{:aes_cbc, iv: iv}`, `:aes_cbc_pad`, `:aes_ofb`, `:aes_cfb8`, ... | `:iv` of 16 bytes is required |
  | `{:aes_cts, iv: iv}` | CBC with ciphertext stealing (CBC-CS1): data of 16 bytes or more, of any length; `:iv` of 16 bytes is required |
  | `{:aes_xts, iv: iv}` | `:iv` of 16 bytes is required: the tweak, or the number of the data unit, little-endian. Its key is of type `:aes_xts`, 32 or 64 bytes, from `:aes_xts_key_gen` |
  | `{:des3_cbc, iv: iv}`, `:des3_cbc_pad`, ... | `:iv` of 8 bytes is required |
  | `{:aes_ctr, counter_block: block, counter_bits: 128}` | `:counter_block` of 16 bytes is required; `:counter_bits` defaults to 128 |
  | `:aes_key_wrap`, `:aes_key_wrap_pad`, `:aes_key_wrap_kwp` | none needed; `:iv` replaces the IV of the standard |
  | `{:sha256_hmac_general, length: 16}`, `:aes_cmac_general`, ... | `:length` of the MAC in bytes is required |
  | `:sha256_hmac`, `:aes_cmac`, `:sha256`, `:aes_key_gen`, `:ec_key_pair_gen`, ... | none |
  | `{:ecdh1_derive, kdf: :null, public_data: point, shared_data: ""}` | `:public_data` is required; `:kdf` (`CKD_` in lower case, `:sha256_kdf` or `:sha256`) defaults to `:null`, `:shared_data` to `""`. The same for `:ecdh1_cofactor_derive` |
  | `{:dh_pkcs_derive, public_data: binary}` | `:public_data` is required |
  | `{:hkdf_derive, hash: :sha256, salt: nil, info: "", extract: true, expand: true}` | `:hash` is required. `:salt` is a binary, `{:key, key}` for the value of another secret key, or nil (or `""`): none; `:info` defaults to `""`. `extract: false` or `expand: false` leaves a step out (RFC 5869). The same for `:hkdf_data`, which makes a data object |
  | `{:sp800_108_counter_kdf, prf: :sha256_hmac, data: [{:counter, 32}, label, <<0>>, context, {:length, 32}]}` | NIST SP 800-108. `:prf` is required, an HMAC or CMAC mechanism (`:aes_cmac`), and so is `:data`: what the function is made of for each block, in its order. That is binaries; `{:counter, bits}`, the number of the block; and `{:length, bits}`, the number of bits of the key. `{:counter, bits, :little}` and `{:length, bits, :little}` are little-endian |
  | `{:sp800_108_feedback_kdf, prf: :sha256_hmac, iv: "", data: [:previous, {:counter, 32}, label]}` | the same, with `:previous` for the block before, and `:iv` (`""` by default) before the first one; `{:counter, bits}` is optional. The same for `:sp800_108_double_pipeline_kdf`, which has no `:iv` |
  | `{:concatenate_base_and_key, key: key}` | the value of the base key, followed by that of another secret key: `:key` is required, a `t:Pkcs11Pool.key/0` |
  | `{:concatenate_base_and_data, data: binary}`, `:concatenate_data_and_base`, `:xor_base_and_data` | `:data` is required |
  | `{:extract_key_from_key, first_bit: 0}` | `:first_bit` is required: the key begins with this bit of the base key |
  | `{:aes_ecb_encrypt_data, data: binary}`, `{:aes_cbc_encrypt_data, iv: iv, data: binary}`, and of other ciphers (`:des3_ecb_encrypt_data`, ...) | `:data` is required, in whole blocks, and with CBC an `:iv` of a block: the key is `:data`, encrypted with the base key |
  | `{:pkcs5_pbkd2, prf: :hmac_sha256, iterations: 600_000, salt: salt, password: password}` | all are required. It is for `Pkcs11Pool.generate_key/4`, since it starts from a password, not from a key. `:prf` is `CKP_PKCS5_PBKD2_` in lower case, or the hash alone |
  | `{:rsa_aes_key_wrap, hash: :sha256, mgf: :sha256, source: "", aes_bits: 256}` | `:hash` is required; `:mgf` and `:source` as in `:rsa_pkcs_oaep`. The token makes an AES key of `:aes_bits` (256 by default), wraps the key with it by `:aes_key_wrap_kwp`, and wraps the AES key by OAEP |
  | `{:ecdh_aes_key_wrap, kdf: :sha256, shared_data: "", aes_bits: 256}` | `:kdf` is required, as in `:ecdh1_derive`; `:shared_data` defaults to `""`. The token makes a key pair on the curve, and an AES key of `:aes_bits` (256 by default) of what it shares with the wrapping key, and wraps the key with that by `:aes_key_wrap_kwp`. The same for `:ecdh_x_aes_key_wrap` and `:ecdh_cof_aes_key_wrap` |
  | `:ml_dsa`, `:slh_dsa`, `:hash_ml_dsa_sha256`, `:hash_slh_dsa_sha256`, ... | none needed. `{:ml_dsa, context: "", hedge: :preferred}`: `:context` is a binary of at most 255 bytes, `""` by default; `:hedge` says whether a signature is made with fresh random bytes: `:preferred` (the default), `:required`, or `:deterministic`. To verify, give the same context |
  | `{:hash_ml_dsa, hash: :sha256}`, `{:hash_slh_dsa, hash: :sha256}` | `:hash` is required, `:context` and `:hedge` as above. The data is a digest of that hash; the signature is HashML-DSA or HashSLH-DSA |
  | `:ml_dsa_key_pair_gen`, `:slh_dsa_key_pair_gen`, `:ml_kem_key_pair_gen`, `:ml_kem` | none. The templates have the `:parameter_set` |
  | `{name, binary}` | for a mechanism that is not in this table: the bytes of its C struct as they are |
  | `{:vendor, code, parameters}` | a number of your vendor's; `nil`, a binary, or a mechanism of this table whose C struct is used: `{:vendor, 0x80000001, {:rsa_pkcs_pss, hash: :sha256}}` |

  ## Messages and digests

  | key | a message, hashed on the token or by this library | a message, hashed on the token | data that is hashed already |
  |---|---|---|---|
  | EC | `{:ecdsa, hash: :sha256}` | `:ecdsa_sha256` | `:ecdsa`: a digest, at most as long as the order of the curve |
  | RSA, PKCS #1 v1.5 | `{:rsa_pkcs, hash: :sha256}` | `:sha256_rsa_pkcs` | `:rsa_pkcs`: a DER `DigestInfo` |
  | RSA, PSS | `:sha256_rsa_pkcs_pss` | | `{:rsa_pkcs_pss, hash: :sha256}`: a digest of that hash |
  | ML-DSA | | `:ml_dsa` (not hashed before); `:hash_ml_dsa_sha256` | `{:hash_ml_dsa, hash: :sha256}`: a digest of that hash |
  | SLH-DSA | | `:slh_dsa` (not hashed before); `:hash_slh_dsa_sha256` | `{:hash_slh_dsa, hash: :sha256}`: a digest of that hash |

  Many tokens have no ECDSA mechanism that hashes. The mechanisms of the first column work on any token: if the token refuses its own mechanism for a key
  (`CKR_MECHANISM_INVALID`, before anything is done), this library hashes the message, and the token signs the digest. This works with SHA-1, SHA-2 and SHA-3. The
  signature is the same.

  A raw mechanism does not hash: if it gets a message, a token would sign only its first bytes. So `:ecdsa` with data that is longer than the order of the key's curve
  raises `ArgumentError`. If you have a longer digest, give its first bytes; or use `{:ecdsa, hash: hash}` with the message.

  ## Names

  Hashes are `:sha1` (or `:sha_1`, `:sha`), `:sha224`, `:sha256`, `:sha384`, `:sha512`, `:sha512_224`,
  `:sha512_256`, `:sha3_224`, `:sha3_256`, `:sha3_384`, `:sha3_512`, `:md5` and `:ripemd160`; an MGF is
  named by its hash (MGF1).

  A malformed mechanism raises `ArgumentError`. If the token does not have the mechanism, the call returns the
  token's answer: `{:error, %Pkcs11Pool.Error{reason: :mechanism_invalid}}`.
  """

  import Bitwise

  alias Pkcs11Pool.Mechanism.{Digests, Names, Params, Properties, Streams}
  alias Pkcs11Pool.Table.{Constants, Mechanisms}

  @type t ::
          atom
          | {atom, keyword | binary | nil}
          | {:vendor, non_neg_integer, nil | binary | atom | {atom, keyword | binary | nil}}

  @typedoc "The hash of a mechanism, as `:crypto` and `:public_key` name it."
  @type hash :: atom

  @typedoc "The operation for which a key is searched."
  @type operation ::
          :sign
          | :verify
          | :encrypt
          | :decrypt
          | :wrap
          | :unwrap
          | :derive
          | :encapsulate
          | :decapsulate

  @table for {name, code} <- Mechanisms.all(), do: {name, code, Params.kind(name)}

  defguardp is_code(code)
            when is_integer(code) and code >= 0 and code <= unquote(Params.max_ulong())

  @doc false
  # The mechanism's number and what its C struct is made from.
  #
  # Raises `ArgumentError` for an unknown mechanism or parameter and for parameters that are missing
  # or malformed; the message shows no parameter's value.
  @spec encode!(t) :: {code :: non_neg_integer, Params.t()}
  def encode!(mechanism), do: mechanism |> encode_any!() |> without_key!(mechanism)

  # Where there is no place for the other key that its parameters name.
  defp without_key!({_code, params} = encoded, mechanism) do
    if Params.key(params) != :error do
      raise ArgumentError,
            "the parameters of mechanism #{inspect(name(mechanism))} name a key: that is for derive_key/5 only"
    end

    encoded
  end

  for {name, code, kind} <- @table do
    case Params.default(kind) do
      {:ok, params} ->
        defp encode_any!(unquote(name)), do: unquote(Macro.escape({code, params}))

      :error ->
        defp encode_any!(unquote(name)),
          do: Params.needs!(unquote(name), unquote(Macro.escape(kind)))
    end
  end

  defp encode_any!({:vendor, code, params}) when is_code(code),
    do: {code, encode_vendor!(code, params)}

  defp encode_any!({name, params}) when is_atom(name), do: encode_params!(name, params)

  defp encode_any!(name) when is_atom(name), do: Names.unknown!(name)

  defp encode_any!(other) do
    # Never the term itself, which may be an argument of another place, and secret.
    raise ArgumentError,
          "expected a mechanism: an atom such as :sha256_rsa_pkcs, {name, parameters}, or " <>
            "{:vendor, code, parameters} with a non-negative integer code (CK_ULONG)#{Names.suggestion(other)}"
  end

  @doc """
  Raises `ArgumentError` if this is not a mechanism. The parameters are not checked: they may be given later,
  see `with_params!/2`.
  """
  @spec known!(t) :: :ok
  def known!({:vendor, code, params}) when is_code(code) do
    if is_nil(params) or is_binary(params), do: :ok, else: known!(params)
  end

  def known!({name, _params}) when is_atom(name), do: known!(name)

  def known!(name) when is_atom(name) do
    _known = table(name)
    :ok
  end

  def known!(other) do
    _raises = encode!(other)
    :ok
  end

  @doc false
  # The other key that the parameters of an encoded mechanism name.
  @spec other_key({code :: non_neg_integer, Params.t()}) :: {:ok, term} | :error
  def other_key({_code, params}), do: Params.key(params)

  @doc false
  # An encoded mechanism with this in the place of the other key.
  @spec put_other_key({code :: non_neg_integer, Params.t()}, tuple) ::
          {code :: non_neg_integer, Params.t()}
  def put_other_key({code, params}, key), do: {code, Params.put_key(params, key)}

  @doc false
  # `encode!/1` for an operation: an IV that the token makes is for `:encrypt` and `:wrap` only, and a digest is for no key.
  @spec encode_for!(operation, t) :: {code :: non_neg_integer, Params.t()}
  def encode_for!(operation, mechanism) do
    encoded = encode_any!(mechanism)
    if operation != :derive, do: without_key!(encoded, mechanism)
    Digests.refuse_digest!(operation, name(mechanism))

    if Params.hashed?(elem(encoded, 1)) and operation not in [:sign, :verify] do
      raise ArgumentError,
            "parameter :hash of mechanism #{inspect(name(mechanism))} is for signatures: leave it out"
    end

    if (param = Params.token_iv(elem(encoded, 1))) && operation not in [:encrypt, :wrap] do
      raise ArgumentError,
            "invalid parameter #{inspect(param)} of mechanism #{inspect(name(mechanism))}: :token is for encryption and wrapping; " <>
              "give the IV that came with the ciphertext"
    end

    if operation == :wrap and match?({_code, {:ccm, _nonce, _aad, _mac_length, nil}}, encoded) do
      raise ArgumentError,
            "mechanism #{inspect(name(mechanism))} needs the parameter :data_length to wrap a key: how many bytes that has"
    end

    encoded
  end

  @doc """
  The mechanism with further parameters. They replace parameters of the same name.

      iex> Pkcs11Pool.Mechanism.with_params!({:aes_gcm, aad: "a"}, iv: "123456789012")
      {:aes_gcm, [aad: "a", iv: "123456789012"]}
  """
  @spec with_params!(t, keyword) :: t
  def with_params!(mechanism, params) do
    if Keyword.keyword?(params), do: merge!(mechanism, params), else: no_keyword!()
  end

  defp merge!({:vendor, code, inner}, params) when not is_binary(inner) and inner != nil,
    do: {:vendor, code, merge!(inner, params)}

  defp merge!({name, nil}, params) when is_atom(name), do: {name, params}
  defp merge!(name, params) when is_atom(name), do: {name, params}

  defp merge!({name, own}, params) when is_atom(name) do
    if Keyword.keyword?(own), do: {name, Keyword.merge(own, params)}, else: no_keyword!()
  end

  defp merge!(_other, _params), do: no_keyword!()

  @spec no_keyword!() :: no_return
  defp no_keyword! do
    raise ArgumentError,
          "expected the parameters of the mechanism, and those of an item, to be keyword lists"
  end

  @doc """
  The flags of `CK_MECHANISM_INFO`, `CKF_` in lower case, by number. Unknown bits are left out.

      iex> Pkcs11Pool.Mechanism.flags(0x2801)
      [:hw, :sign, :verify]
  """
  @spec flags(non_neg_integer) :: [atom]
  def flags(bits) when is_integer(bits) and bits >= 0 do
    for {name, bit} <- Constants.mechanism_flags(), band(bits, bit) != 0, do: name
  end

  @doc false
  # Raises `ArgumentError` for data that is no digest, given to a raw signature mechanism: the token would sign its first bytes. What is too long for any
  # key is refused here, the rest by the native side, which knows the key's curve.
  @spec digest!({code :: non_neg_integer, Params.t()}, binary) :: :ok
  defdelegate digest!(encoded, data), to: Digests, as: :check_length!

  @doc false
  # The same of what the native side found too long for the key's curve. Any other result is returned.
  @spec digested!(result, name :: atom | {:vendor, non_neg_integer}) :: result when result: term
  defdelegate digested!(result, name), to: Digests, as: :check_result!

  @doc false
  # Raises `ArgumentError` for an encoded mechanism that cannot be streamed.
  @spec streamable!(operation | :digest, {code :: non_neg_integer, Params.t()}) :: :ok
  defdelegate streamable!(operation, encoded), to: Streams, as: :check!

  @doc """
  The name of a mechanism's number; `{:vendor, number}` for one that the standard does not name.
  """
  @spec decode(non_neg_integer) :: atom | {:vendor, non_neg_integer}
  defdelegate decode(code), to: Names

  @doc """
  The number of a mechanism without its parameters: of a name, `{:vendor, code}` or a number.
  Raises `ArgumentError` for another term.
  """
  @spec code!(atom | {:vendor, non_neg_integer} | non_neg_integer) :: non_neg_integer
  defdelegate code!(mechanism), to: Names

  @doc """
  The mechanism without its parameters, for logs and telemetry.
  """
  @spec name(t) :: atom | {:vendor, non_neg_integer}
  defdelegate name(mechanism), to: Names

  @doc """
  Whether the mechanism takes an IV or a counter, which must not be used twice with one key. The mechanism may
  also be given by its number.
  """
  @spec takes_iv?(t) :: boolean
  defdelegate takes_iv?(mechanism), to: Properties

  @doc false
  # The IV or counter of a mechanism that takes one, from what `encode!/1` made of it.
  #
  # Of a counter only the block: how many of its bits count changes nothing of where its key stream
  # begins.
  @spec iv(t, {code :: non_neg_integer, Params.t()}) :: binary | :token | nil
  defdelegate iv(mechanism, encoded), to: Properties

  @doc """
  The hash of a mechanism, from its name or its parameters, as `:crypto` names it; nil if
  there is none.

      iex> Pkcs11Pool.Mechanism.hash({:rsa_pkcs_pss, hash: :sha384})
      :sha384
  """
  @spec hash(t) :: hash | nil
  defdelegate hash(mechanism), to: Properties

  @doc """
  Whether the mechanism makes ECDSA signatures, which in PKCS#11 are r and s, one after the other. Takes
  a mechanism or its number.
  """
  @spec ecdsa?(t | non_neg_integer) :: boolean
  defdelegate ecdsa?(mechanism), to: Properties

  @doc """
  The class of the key for an operation with this mechanism: `:public_key`, `:private_key`
  or `:secret_key`; nil for a number that the standard does not name. Takes a mechanism or its number.
  """
  @spec class_for(operation, t | non_neg_integer) ::
          :public_key | :private_key | :secret_key | nil
  defdelegate class_for(operation, mechanism), to: Properties

  # Parameters

  for {name, code, kind} <- @table do
    defp table(unquote(name)), do: unquote(Macro.escape({code, kind}))
  end

  defp table(name), do: Names.unknown!(name)

  defp encode_params!(:vendor, _params) do
    raise ArgumentError,
          "expected {:vendor, code, parameters}, with nil, a binary or a known mechanism as parameters"
  end

  defp encode_params!(name, params) when params in [nil, []] do
    _known = table(name)
    encode_any!(name)
  end

  defp encode_params!(name, params) do
    {code, kind} = table(name)
    {code, Params.encode!(kind, name, params)}
  end

  defp encode_vendor!(_code, params) when is_nil(params) or is_binary(params), do: params

  defp encode_vendor!(code, params) when is_atom(params) or tuple_size(params) == 2 do
    {_code, encoded} = encode_any!(params)

    if Params.hashed?(encoded) do
      raise ArgumentError,
            "parameter :hash of mechanism #{inspect(name(params))} is in no C struct, so that {:vendor, #{code}, ...} cannot take it"
    end

    encoded
  end

  defp encode_vendor!(code, _params) do
    raise ArgumentError,
          "the parameters of mechanism {:vendor, #{code}, ...} must be nil, a binary, or a known " <>
            "mechanism whose C struct is used, such as {:rsa_pkcs_pss, hash: :sha256}"
  end
end
