defmodule Pkcs11Pool.Mechanism do
  @moduledoc """
  Mechanisms: what a call's `mechanism` argument may be.

  A mechanism is an atom, or `{atom, parameters}`. The atoms are PKCS#11's own names in lower case
  without `CKM_`: `CKM_SHA256_RSA_PKCS` is `:sha256_rsa_pkcs`. All names of PKCS#11 3.2 are known;
  which of them a token has is told by `Pkcs11Pool.mechanisms/1`.

  | mechanism | parameters |
  |---|---|
  | `{:rsa_pkcs, hash: :sha256}`, `{:ecdsa, hash: :sha256}` | `:hash`: what is signed is a message, see below |
  | `:rsa_pkcs`, `:sha256_rsa_pkcs`, `:sha384_rsa_pkcs`, ..., `:rsa_x_509` | none |
  | `:sha256_rsa_pkcs_pss`, ... | none needed: hash and MGF as in the name, a salt of the hash's length. `{:sha256_rsa_pkcs_pss, salt_length: 20, mgf: :sha1}` says otherwise |
  | `{:rsa_pkcs_pss, hash: :sha256, mgf: :sha256, salt_length: 32}` | `:hash` is required; `:mgf` defaults to the hash, `:salt_length` (bytes) to its length |
  | `{:rsa_pkcs_oaep, hash: :sha256, mgf: :sha256, source: ""}` | `:hash` is required; `:mgf` defaults to the hash, `:source` (the label, a binary) to `""` |
  | `:ecdsa`, `:ecdsa_sha256`, ..., `:eddsa` | none |
  | `{:aes_gcm, iv: iv, aad: "", tag_bits: 128}` | `:iv` is required, a binary of 1 to 128 bytes (of longer ones some tokens use only the beginning), or `:token` where the token makes it; `:aad` defaults to `""`, `:tag_bits` to 128 |
  | `{:aes_cbc, iv: iv}`, `:aes_cbc_pad`, `:aes_ofb`, `:aes_cfb8`, `:aes_xts`, ... | `:iv` of 16 bytes is required |
  | `{:des3_cbc, iv: iv}`, `:des3_cbc_pad`, ... | `:iv` of 8 bytes is required |
  | `{:aes_ctr, counter_block: block, counter_bits: 128}` | `:counter_block` of 16 bytes is required; `:counter_bits` defaults to 128 |
  | `:aes_key_wrap`, `:aes_key_wrap_pad`, `:aes_key_wrap_kwp` | none needed; `:iv` replaces the standard's own |
  | `{:sha256_hmac_general, length: 16}`, `:aes_cmac_general`, ... | `:length` of the MAC in bytes is required |
  | `:sha256_hmac`, `:aes_cmac`, `:sha256`, `:aes_key_gen`, `:ec_key_pair_gen`, ... | none |
  | `{:ecdh1_derive, kdf: :null, public_data: point, shared_data: ""}` | `:public_data` is required; `:kdf` (`CKD_` in lower case, `:sha256_kdf` or `:sha256`) defaults to `:null`, `:shared_data` to `""`. The same for `:ecdh1_cofactor_derive` |
  | `{:dh_pkcs_derive, public_data: binary}` | `:public_data` is required |
  | `{name, binary}` | for a mechanism that is not in this table: the bytes of its C struct as they are |
  | `{:vendor, code, parameters}` | a number of your vendor's; `nil`, a binary, or a mechanism of this table whose C struct is used: `{:vendor, 0x80000001, {:rsa_pkcs_pss, hash: :sha256}}` |

  ## Messages and digests

  | key | a message, hashed on the token or by this library | a message, hashed on the token | what is hashed already |
  |---|---|---|---|
  | EC | `{:ecdsa, hash: :sha256}` | `:ecdsa_sha256` | `:ecdsa`: a digest, at most as long as the order of the curve |
  | RSA, PKCS #1 v1.5 | `{:rsa_pkcs, hash: :sha256}` | `:sha256_rsa_pkcs` | `:rsa_pkcs`: a DER `DigestInfo` |
  | RSA, PSS | `:sha256_rsa_pkcs_pss` | | `{:rsa_pkcs_pss, hash: :sha256}`: a digest of that hash |

  Many tokens have no mechanism that hashes what ECDSA signs. Those of the first column do on any: where the token refuses its own for a key
  (`CKR_MECHANISM_INVALID`, before anything is done), the message is hashed here and its digest signed there. That is for SHA-1, SHA-2 and SHA-3. The
  signature is the same.

  A raw mechanism does not hash: given a message, a token would sign its first bytes. Hence `:ecdsa` with more data than the order of the key's curve is
  long raises `ArgumentError`; of a longer digest give the first bytes, or `{:ecdsa, hash: hash}` the message.

  ## Names

  Hashes are `:sha1` (or `:sha_1`, `:sha`), `:sha224`, `:sha256`, `:sha384`, `:sha512`, `:sha512_224`,
  `:sha512_256`, `:sha3_224`, `:sha3_256`, `:sha3_384`, `:sha3_512`, `:md5` and `:ripemd160`; an MGF is
  named by its hash (MGF1).

  A mechanism that is malformed raises `ArgumentError`. One that the token does not have is the
  token's answer: `{:error, %Pkcs11Pool.Error{reason: :mechanism_invalid}}`.
  """

  import Bitwise

  alias Pkcs11Pool.Mechanism.{OtherNames, Params}
  alias Pkcs11Pool.Argument.Suggestion
  alias Pkcs11Pool.Table.{Constants, Mechanisms}

  @type t ::
          atom
          | {atom, keyword | binary | nil}
          | {:vendor, non_neg_integer, nil | binary | atom | {atom, keyword | binary | nil}}

  @typedoc "The hash of a mechanism, as `:crypto` and `:public_key` name it."
  @type hash :: atom

  @typedoc "The operation that a key is looked for."
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

  @hash_in_name Regex.compile!(
                  "^(?:hash_(?:ml|slh)_dsa_|(?:ec)?dsa_)?(#{Enum.join(Map.keys(Params.hashes()), "|")})(?:$|_rsa_|_hmac)"
                )
  @asymmetric ~r/rsa|dsa|^(ecdh|ecmqv|dh_pkcs_derive|x9_42|ml_kem|hss$|xmss|kea_|gostr3410)/

  @table for {name, code} <- Mechanisms.all(), do: {name, code, Params.kind(name)}
  @names Keyword.keys(Mechanisms.all())

  defguardp is_code(code)
            when is_integer(code) and code >= 0 and code <= unquote(Params.max_ulong())

  @doc """
  The mechanism's number and what its C struct is made from.

  Raises `ArgumentError` for an unknown mechanism or parameter and for parameters that are missing
  or malformed; the message shows no parameter's value.
  """
  @spec encode!(t) :: {code :: non_neg_integer, Params.t()}
  def encode!(mechanism)

  for {name, code, kind} <- @table do
    case Params.default(kind) do
      {:ok, params} ->
        def encode!(unquote(name)), do: unquote(Macro.escape({code, params}))

      :error ->
        def encode!(unquote(name)), do: Params.needs!(unquote(name), unquote(Macro.escape(kind)))
    end
  end

  def encode!({:vendor, code, params}) when is_code(code),
    do: {code, encode_vendor!(code, params)}

  def encode!({name, params}) when is_atom(name), do: encode_params!(name, params)

  def encode!(name) when is_atom(name), do: unknown!(name)

  def encode!(other) do
    # Never the term itself, which may be an argument of another place, and secret.
    raise ArgumentError,
          "expected a mechanism: an atom such as :sha256_rsa_pkcs, {name, parameters}, or " <>
            "{:vendor, code, parameters} with a non-negative integer code (CK_ULONG)#{meant(other)}"
  end

  defp meant({name, _params}), do: meant(name)

  defp meant(written) when is_binary(written) do
    lower = String.downcase(written)
    name = Enum.find(@names, &(Atom.to_string(&1) == String.replace_prefix(lower, "ckm_", "")))
    if name, do: ", did you mean #{inspect(name)}?", else: OtherNames.suggestion(written)
  end

  defp meant(_other), do: nil

  @doc """
  Raises `ArgumentError` for what is no mechanism, whatever its parameters: they may be given later,
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

  @doc """
  `encode!/1` for an operation: an IV that the token makes is for `:encrypt` only, and a digest is for no key.
  """
  @spec encode_for!(operation, t) :: {code :: non_neg_integer, Params.t()}
  def encode_for!(operation, mechanism) do
    encoded = encode!(mechanism)
    no_digest!(operation, name(mechanism))

    if match?({_code, {:hashed, _hash}}, encoded) and operation not in [:sign, :verify] do
      raise ArgumentError,
            "parameter :hash of mechanism #{inspect(name(mechanism))} is for signatures: leave it out"
    end

    if match?({_code, {:gcm, :token, _aad, _tag_bits}}, encoded) and operation != :encrypt do
      raise ArgumentError,
            "invalid parameter :iv of mechanism #{inspect(name(mechanism))}: :token is for encryption; " <>
              "give the IV that came with the ciphertext"
    end

    encoded
  end

  # The longest orders that a curve in use has (B-571, K-571), and q of DSA.
  @longest_digests %{0x1041 => 72, 0x0011 => 32}

  @doc """
  Raises `ArgumentError` for data that is no digest, given to a raw signature mechanism: the token would sign its first bytes. What is too long for any
  key is refused here, the rest by the native side, which knows the key's curve.
  """
  @spec digest!({code :: non_neg_integer, Params.t()}, binary) :: :ok
  def digest!({code, params}, data)
      when is_map_key(@longest_digests, code) and not is_tuple(params) do
    {size, longest} = {byte_size(data), Map.fetch!(@longest_digests, code)}
    if size > longest, do: no_digest_but_message!(decode(code), size, longest), else: :ok
  end

  def digest!(_encoded, _data), do: :ok

  @doc """
  The same of what the native side found too long for the key's curve. Any other result is returned.
  """
  @spec digested!(result, t) :: result when result: term
  def digested!({:error, %{reason: :digest_too_long, details: details}}, mechanism) do
    %{size: size, longest: longest} = details
    no_digest_but_message!(name(mechanism), size, longest)
  end

  def digested!(result, _mechanism), do: result

  @spec no_digest_but_message!(atom | {:vendor, non_neg_integer}, pos_integer, pos_integer) ::
          no_return
  defp no_digest_but_message!(name, size, longest) do
    hashing = if name == :dsa, do: ":dsa_sha256", else: "{#{inspect(name)}, hash: :sha256}"

    raise ArgumentError,
          "expected data of at most #{longest} bytes, since mechanism #{inspect(name)} signs a digest and no message, got: #{size} bytes; " <>
            "give #{hashing} the message, or #{inspect(name)} the first #{longest} bytes of a longer digest"
  end

  for {name, _code} <- Mechanisms.all(), Params.digest(name) != nil do
    hash = if name == :sha_1, do: :sha1, else: name

    signing =
      for {mechanism, text} <- [
            {:"#{hash}_rsa_pkcs", "#{inspect(:"#{hash}_rsa_pkcs")} (RSA)"},
            {:"ecdsa_#{hash}", "{:ecdsa, hash: #{inspect(hash)}} (EC)"},
            {:"#{name}_hmac", "#{inspect(:"#{name}_hmac")} (a secret key)"}
          ],
          List.keymember?(Mechanisms.all(), mechanism, 0),
          do: text

    message =
      "mechanism #{inspect(name)} is a digest, and signs nothing; did you mean #{Enum.join(signing, " or ")}?"

    defp no_digest!(operation, unquote(name)) when operation in [:sign, :verify],
      do: raise(ArgumentError, unquote(message))

    defp no_digest!(_operation, unquote(name)) do
      raise ArgumentError,
            "mechanism #{inspect(unquote(name))} is a digest, which takes no key; digest/4 computes it"
    end
  end

  defp no_digest!(_operation, _name), do: :ok

  @doc """
  The name of a mechanism's number; `{:vendor, number}` for one that the standard does not name.
  """
  @spec decode(non_neg_integer) :: atom | {:vendor, non_neg_integer}
  for {name, code} <- Enum.uniq_by(Mechanisms.all(), &elem(&1, 1)) do
    def decode(unquote(code)), do: unquote(name)
  end

  def decode(code) when is_integer(code) and code >= 0, do: {:vendor, code}

  @doc """
  The number of a mechanism without its parameters: of a name, `{:vendor, code}` or a number.
  Raises `ArgumentError` for another term.
  """
  @spec code!(atom | {:vendor, non_neg_integer} | non_neg_integer) :: non_neg_integer
  for {name, code} <- Mechanisms.all() do
    def code!(unquote(name)), do: unquote(code)
  end

  def code!({:vendor, code}) when is_integer(code) and code >= 0, do: code
  def code!(code) when is_integer(code) and code >= 0, do: code
  def code!(name) when is_atom(name), do: unknown!(name)

  def code!(_other) do
    raise ArgumentError, "expected a mechanism's name, {:vendor, code} or a non-negative integer"
  end

  @doc """
  The mechanism without its parameters, for logs and telemetry.
  """
  @spec name(t) :: atom | {:vendor, non_neg_integer}
  def name(name) when is_atom(name), do: name
  def name({:vendor, code, _params}), do: decode(code)
  def name({name, _params}), do: name

  @doc """
  The mechanism with further parameters, which replace its own of the same name.

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
  Whether the mechanism takes an IV, or a counter, which must not be used twice with one key. A
  number of the standard's is its name.
  """
  @spec takes_iv?(t) :: boolean
  def takes_iv?(mechanism), do: iv_kind(mechanism) != nil

  @doc """
  The IV or counter of a mechanism that takes one, from what `encode!/1` made of it.

  Of a counter only the block: how many of its bits count changes nothing of where its key stream
  begins.
  """
  @spec iv(t, {code :: non_neg_integer, Params.t()}) :: binary | :token | nil
  def iv(mechanism, {_code, params}) do
    case {iv_kind(mechanism), params} do
      {nil, _params} -> nil
      {_kind, {:gcm, iv, _aad, _tag_bits}} -> iv
      {:ctr, struct} when byte_size(struct) > 16 -> binary_part(struct, byte_size(struct), -16)
      {_kind, iv} when is_binary(iv) -> iv
      _none -> nil
    end
  end

  @with_iv for {name, code, kind} <- @table,
               kind in [:gcm, :ctr] or match?({:iv, _size}, kind),
               do: {name, code, kind}

  for {name, _code, kind} <- @with_iv do
    defp iv_kind(unquote(name)), do: unquote(kind)
  end

  for {_name, code, kind} <- Enum.uniq_by(@with_iv, &elem(&1, 1)) do
    defp iv_kind(unquote(code)), do: unquote(kind)
  end

  # Its C struct is that of the parameters; bytes are what its number says.
  defp iv_kind({:vendor, code, params}), do: iv_kind(params) || iv_kind(code)
  defp iv_kind({name, _params}), do: iv_kind(name)
  defp iv_kind(_other), do: nil

  @doc """
  The flags of `CK_MECHANISM_INFO`, `CKF_` in lower case, by number. Unknown bits are left out.

      iex> Pkcs11Pool.Mechanism.flags(0x2801)
      [:hw, :sign, :verify]
  """
  @spec flags(non_neg_integer) :: [atom]
  def flags(bits) when is_integer(bits) and bits >= 0 do
    for {name, bit} <- Constants.mechanism_flags(), band(bits, bit) != 0, do: name
  end

  @doc """
  The hash that a mechanism computes or is told by its parameters, as `:crypto` names it; nil where
  there is none. Expects a mechanism that `encode!/1` accepts.

      iex> Pkcs11Pool.Mechanism.hash({:rsa_pkcs_pss, hash: :sha384})
      :sha384
  """
  @spec hash(t) :: hash | nil
  def hash({:vendor, _code, params}) when is_atom(params) or is_tuple(params), do: hash(params)
  def hash({:vendor, _code, _params}), do: nil

  def hash({name, params}) when is_list(params) do
    case Keyword.fetch(params, :hash) do
      {:ok, hash} -> Map.get(Params.hashes(), hash)
      :error -> hash(name)
    end
  end

  def hash({name, _params}), do: hash(name)

  for {name, _code} <- Mechanisms.all(),
      [_all, hash] <- [Regex.run(@hash_in_name, Atom.to_string(name))] do
    def hash(unquote(name)), do: unquote(Map.fetch!(Params.hashes(), String.to_atom(hash)))
  end

  def hash(_mechanism), do: nil

  @doc """
  Whether the mechanism's signatures are ECDSA's, which PKCS#11 gives as r and s side by side. Takes
  a mechanism or its number.
  """
  @spec ecdsa?(t | non_neg_integer) :: boolean
  def ecdsa?({:vendor, code, params}), do: ecdsa?(code) or (is_atom(params) and ecdsa?(params))
  def ecdsa?({name, _params}), do: ecdsa?(name)

  for {name, code} <- Mechanisms.all(),
      String.match?(Atom.to_string(name), ~r/^ecdsa(_sha\w+)?$/) do
    def ecdsa?(unquote(name)), do: true
    def ecdsa?(unquote(code)), do: true
  end

  def ecdsa?(_mechanism), do: false

  @doc """
  The class of the key that an operation with this mechanism takes: `:public_key`, `:private_key`
  or `:secret_key`. Nil for a number that the standard does not name. Takes a mechanism or its number.
  """
  @spec class_for(operation, t | non_neg_integer) ::
          :public_key | :private_key | :secret_key | nil
  def class_for(operation, mechanism)

  def class_for(operation, mechanism) when is_atom(mechanism) or is_integer(mechanism) do
    case {symmetry(mechanism), operation} do
      {:asymmetric, operation}
      when operation in [:sign, :decrypt, :unwrap, :derive, :decapsulate] ->
        :private_key

      {:asymmetric, operation} when operation in [:verify, :encrypt, :wrap, :encapsulate] ->
        :public_key

      {:symmetric, _operation} ->
        :secret_key

      {nil, _operation} ->
        nil
    end
  end

  def class_for(operation, {:vendor, code, params}) do
    case class_for(operation, code) do
      nil when is_tuple(params) -> class_for(operation, params)
      nil when is_atom(params) and params != nil -> class_for(operation, params)
      class -> class
    end
  end

  def class_for(operation, {name, _params}), do: class_for(operation, name)

  for {name, code} <- Mechanisms.all() do
    symmetry =
      if Regex.match?(@asymmetric, Atom.to_string(name)), do: :asymmetric, else: :symmetric

    defp symmetry(unquote(name)), do: unquote(symmetry)

    # Names that share a number share the answer.
    if {name, code} == List.keyfind(Mechanisms.all(), code, 1) do
      defp symmetry(unquote(code)), do: unquote(symmetry)
    end
  end

  defp symmetry(_unknown), do: nil

  # Parameters

  for {name, code, kind} <- @table do
    defp table(unquote(name)), do: unquote(Macro.escape({code, kind}))
  end

  defp table(name), do: unknown!(name)

  defp encode_params!(:vendor, _params) do
    raise ArgumentError,
          "expected {:vendor, code, parameters}, with nil, a binary or a known mechanism as parameters"
  end

  defp encode_params!(name, params) when params in [nil, []] do
    _known = table(name)
    encode!(name)
  end

  defp encode_params!(name, params) do
    {code, kind} = table(name)
    {code, Params.encode!(kind, name, params)}
  end

  defp encode_vendor!(_code, params) when is_nil(params) or is_binary(params), do: params

  defp encode_vendor!(code, params) when is_atom(params) or tuple_size(params) == 2 do
    case encode!(params) do
      {_code, {:hashed, _hash}} ->
        raise ArgumentError,
              "parameter :hash of mechanism #{inspect(name(params))} is in no C struct, so that {:vendor, #{code}, ...} cannot take it"

      {_code, encoded} ->
        encoded
    end
  end

  defp encode_vendor!(code, _params) do
    raise ArgumentError,
          "the parameters of mechanism {:vendor, #{code}, ...} must be nil, a binary, or a known " <>
            "mechanism whose C struct is used, such as {:rsa_pkcs_pss, hash: :sha256}"
  end

  @spec unknown!(atom) :: no_return
  defp unknown!(nil) do
    raise ArgumentError, "expected a mechanism such as :sha256_rsa_pkcs, got: nil"
  end

  defp unknown!(:vendor) do
    raise ArgumentError,
          "expected {:vendor, code, parameters}, with nil, a binary or a known mechanism as parameters"
  end

  defp unknown!(name) do
    raise ArgumentError,
          "unknown mechanism #{inspect(name)}#{OtherNames.suggestion(name) || Suggestion.for(name, @names)} " <>
            "(names are PKCS#11's, in lower case without CKM_; a vendor's number is {:vendor, code, parameters})"
  end
end
