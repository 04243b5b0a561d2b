defmodule Pkcs11Pool.Mechanism.Params do
  @moduledoc false
  # The parameters of mechanisms: which kind a mechanism takes, and how they are checked and encoded.

  alias Pkcs11Pool.Argument.Suggestion
  alias Pkcs11Pool.Table.{Constants, Curves, Mechanisms}

  @typedoc """
  What the native side makes the mechanism's C struct from. The numbers are PKCS#11's:
  `CKM_` for a hash, `CKG_` for an MGF, `CKD_` for a KDF, `CKH_` for what a signature is hedged with. An IV `:token` is made by the token.
  A key is as the caller gave it (of HKDF in `{:key, key}`), until `put_key/2` replaces it.
  """
  @type t ::
          nil
          | binary
          | {:rsa_pss, hash :: non_neg_integer, mgf :: non_neg_integer,
             salt_length :: non_neg_integer}
          | {:rsa_oaep, hash :: non_neg_integer, mgf :: non_neg_integer, source :: binary}
          | {:hashed, hash :: non_neg_integer}
          | {:hashed, hash :: non_neg_integer, ec_params :: binary}
          | {:gcm, iv :: binary | :token, aad :: binary, tag_bits :: non_neg_integer}
          | {:ccm, nonce :: binary | :token, aad :: binary, mac_length :: pos_integer,
             data_length :: non_neg_integer | nil}
          | {:poly1305, nonce :: binary, aad :: binary}
          | {:chacha20, counter :: binary, nonce :: binary}
          | {:eddsa, prehash :: boolean, context :: binary}
          | {:ecdh1, kdf :: non_neg_integer, shared_data :: binary, public_data :: binary}
          | {:rsa_aes, aes_bits :: pos_integer, hash :: non_neg_integer, mgf :: non_neg_integer,
             source :: binary}
          | {:key, key :: term}
          | {:string_data, binary}
          | {:cbc_data, iv :: binary, binary}
          | {:hkdf, hash :: non_neg_integer, extract :: boolean, expand :: boolean,
             salt :: nil | binary | tuple, info :: binary}
          | {:pbkdf2, prf :: non_neg_integer, iterations :: pos_integer, salt :: binary,
             password :: binary}
          | {:sp800_108, prf :: non_neg_integer, iv :: binary | nil,
             [binary | {type :: pos_integer, bits :: non_neg_integer, little_endian :: boolean}]}
          | {:ecdh_aes, aes_bits :: pos_integer, kdf :: non_neg_integer, shared_data :: binary}
          | {:signature_context, hedge :: non_neg_integer, context :: binary,
             hash :: non_neg_integer | nil}

  @typedoc """
  `:none` takes no parameters; `:any` takes none, or the bytes of a C struct; `:struct` wants those
  bytes. `{:pss, hash}` has its hash in the mechanism's name, or nil. `:digest` takes none, or the `:hash` that
  makes the digest of what then is a message. `:context` takes a context and a hedge, or nothing; `{:context, :hash}` also wants the hash of the
  digest that is signed.
  """
  @type kind ::
          :none
          | :digest
          | :any
          | :struct
          | {:pss, hash :: atom | nil}
          | :oaep
          | :gcm
          | :ccm
          | :poly1305
          | :chacha20
          | :eddsa
          | :ecdh1
          | :rsa_aes
          | :ecdh_aes
          | :hkdf
          | {:sp800_108, :counter | :feedback | :double_pipeline}
          | :key
          | :data
          | {:cbc_data, block :: pos_integer}
          | :first_bit
          | :pbkdf2
          | :public_data
          | :ctr
          | :length
          | {:iv, bytes :: pos_integer}
          | :optional_iv
          | :context
          | {:context, :hash}

  # {hash, CKM_, bytes, the name in :crypto}
  @hash_table [
    {:sha_1, 0x0220, 20, :sha},
    {:sha1, 0x0220, 20, :sha},
    {:sha, 0x0220, 20, :sha},
    {:sha224, 0x0255, 28, :sha224},
    {:sha256, 0x0250, 32, :sha256},
    {:sha384, 0x0260, 48, :sha384},
    {:sha512, 0x0270, 64, :sha512},
    {:sha512_224, 0x0048, 28, :sha512_224},
    {:sha512_256, 0x004C, 32, :sha512_256},
    {:sha3_224, 0x02B5, 28, :sha3_224},
    {:sha3_256, 0x02B0, 32, :sha3_256},
    {:sha3_384, 0x02C0, 48, :sha3_384},
    {:sha3_512, 0x02D0, 64, :sha3_512},
    {:md5, 0x0210, 16, :md5},
    {:ripemd160, 0x0240, 20, :ripemd160}
  ]
  @hash_names for {hash, _code, _size, _name} <- @hash_table, do: hash
  @hashes for {hash, code, size, _name} <- @hash_table, into: %{}, do: {hash, {code, size}}
  @crypto_names for {hash, _code, _size, name} <- @hash_table, into: %{}, do: {hash, name}

  # Of those that ECDSA and RSA PKCS #1 v1.5 have mechanisms for.
  @signed_hashes @hash_names -- [:sha512_224, :sha512_256, :md5, :ripemd160]

  @mgfs for {name, code} <- [sha: 0x0001, sha_1: 0x0001] ++ Constants.mgfs(),
            written <- [name, :"mgf1_#{name}"],
            into: %{},
            do: {written, code}
  @mgf_names Keyword.keys(Constants.mgfs())

  @kdfs for {name, code} <- Constants.kdfs(),
            written <- [
              name,
              name |> Atom.to_string() |> String.trim_trailing("_kdf") |> String.to_atom()
            ],
            into: %{},
            do: {written, code}
  @kdf_names Keyword.keys(Constants.kdfs())

  # FIPS 204 and 205.
  @longest_context 255

  @hedges for {name, code} <- Constants.hedges(),
              written <- [
                name,
                name
                |> Atom.to_string()
                |> String.replace(~r/^hedge_|_required$/, "")
                |> String.to_atom()
              ],
              into: %{},
              do: {written, code}
  @hedge_names [:preferred, :required, :deterministic]

  # CKP_PKCS5_PBKD2_
  @prf_table [
    hmac_sha1: 0x0001,
    hmac_sha224: 0x0003,
    hmac_sha256: 0x0004,
    hmac_sha384: 0x0005,
    hmac_sha512: 0x0006,
    hmac_sha512_224: 0x0007,
    hmac_sha512_256: 0x0008
  ]
  @prf_names Keyword.keys(@prf_table)
  @prfs for {name, code} <- @prf_table,
            "hmac_" <> hash = Atom.to_string(name),
            written <- [name, String.to_atom(hash)],
            into: %{},
            do: {written, code}

  # CKM_ of the pseudorandom functions of SP 800-108.
  @kdf_prfs for {name, code} <- Mechanisms.all(),
                Atom.to_string(name) =~
                  ~r/^(sha_1|sha\d+|sha512_2\d\d|sha3_\d+)_hmac$|^(aes|des3)_cmac$/,
                into: %{},
                do: {name, code}
  @kdf_prf_names Enum.sort(Map.keys(@kdf_prfs))

  # SoftHSM uses the first 12 bytes of IVs of 129, 256 and 257 bytes.
  @longest_gcm_iv 128
  @ccm_nonce_sizes 7..13
  @ccm_mac_lengths [4, 6, 8, 10, 12, 14, 16]
  # Of Salsa20 and ChaCha20 as first made, of RFC 8439, of the extended ones.
  @poly1305_nonce_sizes [8, 12, 24]
  @gcm_tag_bits [32, 64, 96, 104, 112, 120, 128]
  @ulong_bytes :erlang.system_info(:wordsize)
  @max_ulong Bitwise.bsl(1, 8 * @ulong_bytes) - 1

  defguardp is_ulong(value) when is_integer(value) and value >= 0 and value <= @max_ulong

  @doc """
  The other key that the parameters name, as the caller gave it: only those of a derivation do.
  """
  @spec key(t) :: {:ok, term} | :error
  def key({:key, key}), do: {:ok, key}
  def key({:hkdf, _hash, _extract, _expand, {:key, key}, _info}), do: {:ok, key}
  def key(_params), do: :error

  @doc """
  The parameters with this in the place of the other key that they name.
  """
  @spec put_key(t, encoded :: tuple) :: t
  def put_key({:key, _key}, encoded), do: {:key, encoded}

  def put_key({:hkdf, hash, extract, expand, _salt, info}, encoded),
    do: {:hkdf, hash, extract, expand, encoded, info}

  @doc """
  The name of the parameter that says that the token makes the IV; nil if it does not.
  """
  @spec token_iv(t) :: :iv | :nonce | nil
  def token_iv({:gcm, :token, _aad, _tag_bits}), do: :iv
  def token_iv({:ccm, :token, _aad, _mac_length, _data_length}), do: :nonce
  def token_iv(_params), do: nil

  @doc """
  Whether what is signed is a message, of a mechanism that takes digests.
  """
  @spec hashed?(t) :: boolean
  def hashed?(params), do: is_tuple(params) and elem(params, 0) == :hashed

  @doc """
  The largest number that a CK_ULONG holds.
  """
  @spec max_ulong() :: pos_integer
  def max_ulong, do: @max_ulong

  @doc """
  The hash that a mechanism of this name is; nil for one that is none.
  """
  @spec digest(atom) :: atom | nil
  def digest(mechanism), do: if(mechanism in @hash_names, do: mechanism)

  @doc """
  The hashes that a parameter may name, each with its name in `:crypto`.
  """
  @spec hashes() :: %{atom => atom}
  def hashes, do: @crypto_names

  @doc """
  The kind of parameters of a mechanism, from its name.
  """
  @spec kind(atom) :: kind
  def kind(mechanism) do
    written = Atom.to_string(mechanism)

    Enum.find_value(parameter_kinds(), :any, fn {pattern, kind} ->
      case {Regex.run(pattern, written), kind} do
        {nil, _kind} -> nil
        {[_all, hash], :pss_of_name} -> {:pss, String.to_existing_atom(hash)}
        {_match, kind} -> kind
      end
    end)
  end

  # How a mechanism takes its parameters, from its name. The first pattern that matches counts.
  defp parameter_kinds do
    [
      {~r/^(ecdsa|rsa_pkcs)$/, :digest},
      {~r/^rsa_pkcs_pss$/, {:pss, nil}},
      {~r/^(?<hash>\w+)_rsa_pkcs_pss$/, :pss_of_name},
      {~r/^rsa_pkcs_oaep$/, :oaep},
      {~r/^aes_gcm$/, :gcm},
      {~r/^aes_ccm$/, :ccm},
      {~r/^(chacha20|salsa20)_poly1305$/, :poly1305},
      {~r/^chacha20$/, :chacha20},
      {~r/^eddsa$/, :eddsa},
      {~r/^ecdh1_(cofactor_)?derive$/, :ecdh1},
      {~r/^dh_pkcs_derive$/, :public_data},
      {~r/^(aes|camellia)_ctr$/, :ctr},
      {~r/_general$/, :length},
      {~r/^aes_key_wrap(_pad|_kwp|_pkcs7)?$/, :optional_iv},
      {~r/^(aes|camellia|aria|seed|twofish)_cbc(_pad)?$/, {:iv, 16}},
      {~r/^aes_(ofb|cfb1|cfb8|cfb64|cfb128|cts|xts)$/, {:iv, 16}},
      {~r/^(des|des3|cdmf|cast|cast3|cast5|cast128|idea|blowfish)_cbc(_pad)?$/, {:iv, 8}},
      {~r/^des_(ofb|cfb)\d+$/, {:iv, 8}},
      {~r/^(aes_gmac|salsa20)$/, :struct},
      {~r/^rsa_aes_key_wrap$/, :rsa_aes},
      {~r/^hkdf_(derive|data)$/, :hkdf},
      {~r/^concatenate_base_and_key$/, :key},
      {~r/^(concatenate_(base_and_data|data_and_base)|xor_base_and_data|\w+_ecb_encrypt_data)$/,
       :data},
      {~r/^(des|des3)_cbc_encrypt_data$/, {:cbc_data, 8}},
      {~r/^(aes|camellia|aria|seed)_cbc_encrypt_data$/, {:cbc_data, 16}},
      {~r/^extract_key_from_key$/, :first_bit},
      {~r/^pkcs5_pbkd2$/, :pbkdf2},
      {~r/^sp800_108_counter_kdf$/, {:sp800_108, :counter}},
      {~r/^sp800_108_feedback_kdf$/, {:sp800_108, :feedback}},
      {~r/^sp800_108_double_pipeline_kdf$/, {:sp800_108, :double_pipeline}},
      {~r/^(ecdh|ecdh_x|ecdh_cof)_aes_key_wrap$/, :ecdh_aes},
      {~r/^(sp800_108_\w+|\w+_encrypt_data)$/, :struct},
      {~r/^(tls|tls10|tls12|ssl3|wtls)_\w*(derive|mac|kdf|prf)\w*$/, :struct},
      {~r/^hash_(ml|slh)_dsa$/, {:context, :hash}},
      {~r/^((ml|slh)_dsa|hash_(ml|slh)_dsa_(sha|shake)\w+)$/, :context},
      {~r/^ml_kem$/, :none},
      {~r/(^|_)rsa_(pkcs|x_509|9796|x9_31)$/, :none},
      {~r/^(ec)?dsa(_sha\w+)?$/, :none},
      {~r/_(hmac|cmac|mac|key_gen|key_pair_gen|ecb|xcbc_mac|xcbc_mac_96|key_gen_w_extra_bits)$/,
       :none},
      {~r/^(md2|md5|sha_1|sha224|sha256|sha384|sha512|sha512_224|sha512_256|ripemd128|ripemd160|sha3_\d+)$/,
       :none}
    ]
  end

  @doc """
  The parameters that a mechanism of this name takes by their names, for messages; of a term that is no mechanism's name, none.
  """
  @spec names(term) :: [atom]
  def names(mechanism) when is_atom(mechanism), do: mechanism |> kind() |> names(mechanism)
  def names(_other), do: []

  defp names(:digest, :ecdsa), do: [:hash, :curve]
  defp names(:digest, _name), do: [:hash]
  defp names({:pss, _hash}, _name), do: [:hash, :mgf, :salt_length]
  defp names(:oaep, _name), do: [:hash, :mgf, :source]
  defp names(:gcm, _name), do: [:iv, :aad, :tag_bits]
  defp names(:ccm, _name), do: [:nonce, :aad, :mac_length, :data_length]
  defp names(:poly1305, _name), do: [:nonce, :aad]
  defp names(:chacha20, _name), do: [:nonce, :counter]
  defp names(:eddsa, _name), do: [:prehash, :context]
  defp names(:context, _name), do: [:context, :hedge]
  defp names({:context, :hash}, _name), do: [:hash, :context, :hedge]
  defp names(:ecdh1, _name), do: [:kdf, :public_data, :shared_data]
  defp names(:public_data, _name), do: [:public_data]
  defp names(:rsa_aes, _name), do: [:aes_bits, :hash, :mgf, :source]
  defp names(:ecdh_aes, _name), do: [:aes_bits, :kdf, :shared_data]
  defp names({:sp800_108, :feedback}, _name), do: [:prf, :iv, :data]
  defp names({:sp800_108, _mode}, _name), do: [:prf, :data]
  defp names(:hkdf, _name), do: [:hash, :salt, :info, :extract, :expand]
  defp names(:pbkdf2, _name), do: [:prf, :iterations, :salt, :password]
  defp names({:cbc_data, _size}, _name), do: [:iv, :data]
  defp names(kind, _name) when kind in [:key, :data, :first_bit], do: [kind]
  defp names(:ctr, _name), do: [:counter_block, :counter_bits]
  defp names(:length, _name), do: [:length]
  defp names({:iv, _size}, _name), do: [:iv]
  defp names(:optional_iv, _name), do: [:iv]
  defp names(_kind, _name), do: []

  @doc """
  Parameters of this kind when none are given: `{:ok, params}`, or `:error` where some are needed.
  """
  @spec default(kind) :: {:ok, t} | :error
  def default({:pss, hash}) when hash != nil, do: {:ok, encode!({:pss, hash}, hash, [])}

  def default(kind) when kind in [:none, :digest, :any, :optional_iv, :context, :eddsa],
    do: {:ok, nil}

  def default(_kind), do: :error

  @doc """
  The given parameters of a mechanism. Raises `ArgumentError`.
  """
  @spec encode!(kind, name :: atom, term) :: t
  def encode!(kind, name, params)

  def encode!(:none, name, _params) do
    raise ArgumentError, "mechanism #{inspect(name)} takes no parameters"
  end

  def encode!(:digest, name, params) do
    params = params!(name, params, names(:digest, name))
    hash = fetch!(name, params, :hash)

    case {@hashes, params[:curve]} do
      {%{^hash => {code, _size}}, nil} when hash in @signed_hashes ->
        {:hashed, code}

      {%{^hash => {code, _size}}, curve} when hash in @signed_hashes ->
        {:hashed, code, curve!(name, curve)}

      _other ->
        bad!(name, :hash, "one of #{inspect(@signed_hashes)}", hash)
    end
  end

  def encode!(kind, _name, params) when kind in [:any, :struct] and is_binary(params),
    do: params

  def encode!(kind, name, _params) when kind in [:any, :struct] do
    raise ArgumentError,
          "the parameters of mechanism #{inspect(name)} must be a binary with the bytes of its C struct"
  end

  def encode!({:iv, size}, _name, iv) when is_binary(iv) and byte_size(iv) == size, do: iv
  def encode!(:optional_iv, _name, iv) when is_binary(iv), do: iv

  def encode!({:iv, size}, name, params) do
    params = params!(name, params, names(:optional_iv, name))

    case fetch!(name, params, :iv) do
      iv when is_binary(iv) and byte_size(iv) == size -> iv
      iv -> bad!(name, :iv, "a binary of #{size} bytes", iv)
    end
  end

  def encode!(:optional_iv, name, params) do
    params = params!(name, params, names(:optional_iv, name))
    binary!(name, :iv, fetch!(name, params, :iv))
  end

  def encode!({:pss, hash_of_name}, name, params) do
    params = params!(name, params, names({:pss, hash_of_name}, name))
    hash = if hash_of_name, do: params[:hash] || hash_of_name, else: fetch!(name, params, :hash)
    {hash_code, size} = hash!(name, hash)

    if hash_of_name && hash_code != elem(@hashes[hash_of_name], 0) do
      raise ArgumentError,
            "parameter :hash of mechanism #{inspect(name)} contradicts its name; leave it out, or " <>
              "use {:rsa_pkcs_pss, hash: ...} with data that is hashed already"
    end

    salt_length = Keyword.get(params, :salt_length, size)

    unless is_ulong(salt_length),
      do: bad!(name, :salt_length, "a non-negative integer (bytes, CK_ULONG)", salt_length)

    {:rsa_pss, hash_code, mgf!(name, Keyword.get(params, :mgf, hash)), salt_length}
  end

  def encode!(:oaep, name, params) do
    params = params!(name, params, names(:oaep, name))
    hash = fetch!(name, params, :hash)
    {hash_code, _size} = hash!(name, hash)
    mgf = mgf!(name, Keyword.get(params, :mgf, hash))
    {:rsa_oaep, hash_code, mgf, binary!(name, :source, Keyword.get(params, :source, ""))}
  end

  def encode!(:gcm, name, params) do
    params = params!(name, params, names(:gcm, name))
    iv = fetch!(name, params, :iv)
    aad = binary!(name, :aad, Keyword.get(params, :aad, ""))
    tag_bits = Keyword.get(params, :tag_bits, 128)

    unless iv == :token or (is_binary(iv) and iv != ""),
      do: bad!(name, :iv, "a non-empty binary, or :token for one that the token makes", iv)

    if is_binary(iv) and byte_size(iv) > @longest_gcm_iv do
      raise ArgumentError,
            "invalid parameter :iv of mechanism #{inspect(name)}: expected a binary of at most #{@longest_gcm_iv} bytes, " <>
              "got: #{shape(iv)}; some tokens use only the beginning of a longer one, so that two that differ may be the same. " <>
              "12 bytes are usual"
    end

    unless tag_bits in @gcm_tag_bits,
      do: bad!(name, :tag_bits, "one of #{inspect(@gcm_tag_bits)}", tag_bits)

    {:gcm, iv, aad, tag_bits}
  end

  def encode!(:ccm, name, params) do
    params = params!(name, params, names(:ccm, name))
    nonce = ccm_nonce!(name, fetch!(name, params, :nonce))
    aad = binary!(name, :aad, Keyword.get(params, :aad, ""))
    mac_length = Keyword.get(params, :mac_length, 16)
    data_length = params[:data_length]

    unless mac_length in @ccm_mac_lengths,
      do: bad!(name, :mac_length, "one of #{inspect(@ccm_mac_lengths)} (bytes)", mac_length)

    unless data_length == nil or is_ulong(data_length),
      do: bad!(name, :data_length, "a non-negative integer (bytes, CK_ULONG)", data_length)

    {:ccm, nonce, aad, mac_length, data_length}
  end

  def encode!(:poly1305, name, params) do
    params = params!(name, params, names(:poly1305, name))
    nonce = fetch!(name, params, :nonce)
    nonce = sized!(name, :nonce, nonce, @poly1305_nonce_sizes, "8, 12 or 24")
    {:poly1305, nonce, binary!(name, :aad, Keyword.get(params, :aad, ""))}
  end

  # The counter has what the nonce leaves of 16 bytes.
  def encode!(:chacha20, name, params) do
    params = params!(name, params, names(:chacha20, name))
    nonce = sized!(name, :nonce, fetch!(name, params, :nonce), [8, 12], "8 or 12")
    bits = 8 * (16 - byte_size(nonce))
    counter = Keyword.get(params, :counter, 0)

    unless is_integer(counter) and counter >= 0 and Bitwise.bsr(counter, bits) == 0,
      do: bad!(name, :counter, "a non-negative integer of #{bits} bits", counter)

    {:chacha20, <<counter::little-size(bits)>>, nonce}
  end

  def encode!(:eddsa, name, params) do
    params = params!(name, params, names(:eddsa, name))
    prehash = Keyword.get(params, :prehash, false)
    unless is_boolean(prehash), do: bad!(name, :prehash, "a boolean", prehash)
    context = Keyword.get(params, :context, "")

    {:eddsa, prehash, sized!(name, :context, context, 0..255, "at most 255")}
  end

  def encode!(:ecdh1, name, params) do
    params = params!(name, params, names(:ecdh1, name))
    public_data = binary!(name, :public_data, fetch!(name, params, :public_data))
    shared_data = binary!(name, :shared_data, Keyword.get(params, :shared_data, ""))
    {:ecdh1, kdf!(name, Keyword.get(params, :kdf, :null)), shared_data, public_data}
  end

  def encode!(:rsa_aes, name, params) do
    params = params!(name, params, names(:rsa_aes, name))
    bits = aes_bits!(name, params)

    {:rsa_oaep, hash, mgf, source} = encode!(:oaep, name, Keyword.delete(params, :aes_bits))
    {:rsa_aes, bits, hash, mgf, source}
  end

  # The AES key is what the KDF makes of the shared secret: without one, few secrets have the length of an AES key.
  def encode!(:ecdh_aes, name, params) do
    params = params!(name, params, names(:ecdh_aes, name))
    kdf = kdf!(name, fetch!(name, params, :kdf))
    shared_data = binary!(name, :shared_data, Keyword.get(params, :shared_data, ""))
    {:ecdh_aes, aes_bits!(name, params), kdf, shared_data}
  end

  def encode!({:sp800_108, mode} = kind, name, params) do
    params = params!(name, params, names(kind, name))
    prf = fetch!(name, params, :prf)
    data = data!(name, fetch!(name, params, :data), mode)

    iv =
      if mode == :feedback,
        do: binary!(name, :iv, Keyword.get(params, :iv, "")),
        else: nil

    case @kdf_prfs do
      %{^prf => code} -> {:sp800_108, code, iv, data}
      _unknown -> bad!(name, :prf, "one of #{inspect(@kdf_prf_names)}", prf)
    end
  end

  def encode!(:hkdf, name, params) do
    params = params!(name, params, names(:hkdf, name))
    {hash, _size} = hash!(name, fetch!(name, params, :hash))
    info = binary!(name, :info, Keyword.get(params, :info, ""))

    [extract, expand] =
      for step <- [:extract, :expand] do
        case Keyword.get(params, step, true) do
          value when is_boolean(value) -> value
          value -> bad!(name, step, "a boolean", value)
        end
      end

    unless extract or expand do
      raise ArgumentError,
            "parameters :extract and :expand of mechanism #{inspect(name)} are both false: then it does nothing"
    end

    {:hkdf, hash, extract, expand, salt!(name, params[:salt], extract), info}
  end

  def encode!(:key, name, params) do
    params = params!(name, params, names(:key, name))
    {:key, fetch!(name, params, :key)}
  end

  def encode!(:data, name, params) do
    params = params!(name, params, names(:data, name))
    {:string_data, binary!(name, :data, fetch!(name, params, :data))}
  end

  def encode!({:cbc_data, size}, name, params) do
    params = params!(name, params, names({:cbc_data, size}, name))
    iv = encode!({:iv, size}, name, Keyword.take(params, [:iv]))
    {:cbc_data, iv, binary!(name, :data, fetch!(name, params, :data))}
  end

  # CK_EXTRACT_PARAMS is a CK_ULONG.
  def encode!(:first_bit, name, params) do
    params = params!(name, params, names(:first_bit, name))

    case fetch!(name, params, :first_bit) do
      bit when is_ulong(bit) -> ulong(bit)
      bit -> bad!(name, :first_bit, "a non-negative integer (CK_ULONG)", bit)
    end
  end

  def encode!(:pbkdf2, name, params) do
    params = params!(name, params, names(:pbkdf2, name))
    iterations = fetch!(name, params, :iterations)
    salt = binary!(name, :salt, fetch!(name, params, :salt))
    password = binary!(name, :password, fetch!(name, params, :password))
    prf = fetch!(name, params, :prf)

    unless is_ulong(iterations) and iterations > 0,
      do: bad!(name, :iterations, "a positive integer", iterations)

    if salt == "", do: bad!(name, :salt, "a binary that is not empty", salt)

    case @prfs do
      %{^prf => code} -> {:pbkdf2, code, iterations, salt, password}
      _unknown -> bad!(name, :prf, "one of #{inspect(@prf_names)}", prf)
    end
  end

  def encode!(:public_data, name, params) do
    params = params!(name, params, names(:public_data, name))
    binary!(name, :public_data, fetch!(name, params, :public_data))
  end

  # CK_AES_CTR_PARAMS: CK_ULONG ulCounterBits, CK_BYTE cb[16]
  def encode!(:ctr, name, params) do
    params = params!(name, params, names(:ctr, name))
    block = fetch!(name, params, :counter_block)
    bits = Keyword.get(params, :counter_bits, 128)

    unless is_binary(block) and byte_size(block) == 16,
      do: bad!(name, :counter_block, "a binary of 16 bytes", block)

    unless is_integer(bits) and bits in 1..128,
      do: bad!(name, :counter_bits, "an integer from 1 to 128", bits)

    ulong(bits) <> block
  end

  # CK_MAC_GENERAL_PARAMS is a CK_ULONG.
  def encode!(:length, name, params) do
    params = params!(name, params, names(:length, name))

    case fetch!(name, params, :length) do
      length when is_ulong(length) -> ulong(length)
      length -> bad!(name, :length, "a non-negative integer (bytes, CK_ULONG)", length)
    end
  end

  # CK_SIGN_ADDITIONAL_CONTEXT and CK_HASH_SIGN_ADDITIONAL_CONTEXT.
  def encode!(:context, name, params) do
    params = params!(name, params, names(:context, name))
    context!(name, params, nil)
  end

  def encode!({:context, :hash}, name, params) do
    params = params!(name, params, names({:context, :hash}, name))
    {hash, _size} = hash!(name, fetch!(name, params, :hash))
    context!(name, params, hash)
  end

  defp context!(name, params, hash) do
    context = Keyword.get(params, :context, "")
    hedge = Keyword.get(params, :hedge, :preferred)

    unless is_binary(context) and byte_size(context) <= @longest_context,
      do: bad!(name, :context, "a binary of at most #{@longest_context} bytes", context)

    case @hedges do
      %{^hedge => code} -> {:signature_context, code, context, hash}
      _unknown -> bad!(name, :hedge, "one of #{inspect(@hedge_names)}", hedge)
    end
  end

  # CK_SP800_108_ITERATION_VARIABLE, _COUNTER, _DKM_LENGTH
  @iteration 1
  @counter 2
  @dkm_length 3
  @counter_bits [8, 16, 24, 32]
  # PKCS#11 has 40, 48 and 56, too, on which kryoptic 1.5.4 ends the VM.
  @length_bits [8, 16, 24, 32, 64]

  # What goes into the pseudorandom function for each block, in its order.
  defp data!(name, data, mode) when is_list(data) and data != [] do
    parts = for part <- data, do: part!(name, part, mode)
    types = for {type, _bits, _little} <- parts, do: type

    for {type, what} <- [
          {@iteration, iteration(mode)},
          {@counter, "{:counter, bits}"},
          {@dkm_length, "{:length, bits}"}
        ],
        Enum.count(types, &(&1 == type)) > 1,
        do: bad_data!(name, "has #{what} more than once")

    unless @iteration in types, do: bad_data!(name, "needs #{iteration(mode)}")
    parts
  end

  defp data!(name, data, _mode), do: bad!(name, :data, "a list that is not empty", data)

  defp iteration(:counter), do: "{:counter, bits}"
  defp iteration(_mode), do: ":previous"

  defp part!(_name, part, _mode) when is_binary(part) and part != "", do: part
  defp part!(_name, :previous, mode) when mode != :counter, do: {@iteration, 0, false}
  defp part!(name, {what, bits}, mode), do: part!(name, {what, bits, :big}, mode)

  defp part!(_name, {:counter, bits, endian}, mode)
       when bits in @counter_bits and endian in [:big, :little],
       do: {if(mode == :counter, do: @iteration, else: @counter), bits, endian == :little}

  defp part!(_name, {:length, bits, endian}, _mode)
       when bits in @length_bits and endian in [:big, :little],
       do: {@dkm_length, bits, endian == :little}

  defp part!(name, _part, mode) do
    previous = if mode == :counter, do: "", else: " :previous,"

    bad_data!(
      name,
      "takes binaries that are not empty,#{previous} {:counter, bits} with bits in #{inspect(@counter_bits)}, and {:length, bits} " <>
        "with bits in #{inspect(@length_bits)}; a third element :little makes the number little-endian"
    )
  end

  @spec bad_data!(atom, String.t()) :: no_return
  defp bad_data!(name, problem) do
    raise ArgumentError, "parameter :data of mechanism #{inspect(name)} #{problem}"
  end

  defp aes_bits!(name, params) do
    bits = Keyword.get(params, :aes_bits, 256)
    unless bits in [128, 192, 256], do: bad!(name, :aes_bits, "one of [128, 192, 256]", bits)
    bits
  end

  defp kdf!(name, kdf) do
    case @kdfs do
      %{^kdf => code} -> code
      _unknown -> bad!(name, :kdf, "one of #{inspect(@kdf_names)}", kdf)
    end
  end

  # No bytes are no salt (RFC 5869, 2.2).
  defp salt!(_name, empty, _extract) when empty in [nil, ""], do: nil

  defp salt!(name, _salt, false) do
    raise ArgumentError,
          "parameter :salt of mechanism #{inspect(name)} is for the step of extraction, which extract: false leaves out"
  end

  defp salt!(_name, salt, true) when is_binary(salt), do: salt
  defp salt!(_name, {:key, _key} = salt, true), do: salt

  defp salt!(name, salt, true),
    do: bad!(name, :salt, "nil, a binary, or {:key, key} for a key's value", salt)

  defp ulong(integer), do: <<integer::native-unsigned-size(@ulong_bytes)-unit(8)>>

  defp hash!(name, hash) do
    case @hashes do
      %{^hash => found} -> found
      _unknown -> bad!(name, :hash, "one of #{inspect(@hash_names)}", hash)
    end
  end

  defp mgf!(name, mgf) do
    case @mgfs do
      %{^mgf => code} -> code
      _unknown -> bad!(name, :mgf, "one of #{inspect(@mgf_names)}", mgf)
    end
  end

  defp sized!(name, key, value, sizes, text) do
    if is_binary(value) and byte_size(value) in sizes,
      do: value,
      else: bad!(name, key, "a binary of #{text} bytes", value)
  end

  defp ccm_nonce!(_name, :token), do: :token

  defp ccm_nonce!(name, nonce) do
    if is_binary(nonce) and byte_size(nonce) in @ccm_nonce_sizes,
      do: nonce,
      else:
        bad!(
          name,
          :nonce,
          "a binary of 7 to 13 bytes, or :token for one that the token makes",
          nonce
        )
  end

  defp binary!(_name, _key, value) when is_binary(value), do: value
  defp binary!(name, key, value), do: bad!(name, key, "a binary", value)

  @curves for {curve, oid} <- Curves.all(),
              into: %{},
              do: {curve, Pkcs11Pool.Argument.DER.encode_oid(oid)}

  defp curve!(name, curve) do
    case @curves do
      %{^curve => ec_params} -> ec_params
      _unknown -> bad!(name, :curve, "a curve's name such as :secp256r1", curve)
    end
  end

  defp params!(name, params, known) do
    unless Keyword.keyword?(params) do
      raise ArgumentError,
            "the parameters of mechanism #{inspect(name)} must be a keyword list with " <>
              "#{inspect(known)}, got: #{shape(params)}"
    end

    keys = Keyword.keys(params)

    case keys -- known do
      [] ->
        params

      [key | _rest] ->
        problem = if key in known, do: "duplicate", else: "unknown"
        hint = if key in known, do: "", else: Suggestion.for(key, known)

        raise ArgumentError,
              "#{problem} parameter #{inspect(key)} of mechanism #{inspect(name)}#{hint} " <>
                "(it takes #{inspect(known)})"
    end
  end

  defp fetch!(name, params, key) do
    case Keyword.fetch(params, key) do
      {:ok, value} ->
        value

      :error ->
        raise ArgumentError,
              "mechanism #{inspect(name)} needs the parameter #{inspect(key)}: " <>
                example(name, key)
    end
  end

  @doc """
  Raises for a mechanism that needs parameters and has none.
  """
  @spec needs!(name :: atom, kind) :: no_return
  def needs!(name, :struct) do
    raise ArgumentError,
          "mechanism #{inspect(name)} needs parameters that only its C struct can hold: give " <>
            "{#{inspect(name)}, binary} with the struct's bytes"
  end

  def needs!(name, kind) do
    key =
      case kind do
        {:pss, nil} -> :hash
        {:context, :hash} -> :hash
        kind when kind in [:oaep, :rsa_aes, :hkdf] -> :hash
        kind when kind in [:key, :data, :first_bit] -> kind
        {:cbc_data, _size} -> :data
        :pbkdf2 -> :password
        {:sp800_108, _mode} -> :prf_and_data
        :ecdh_aes -> :kdf
        :gcm -> :iv
        {:iv, _size} -> :iv
        kind when kind in [:ccm, :poly1305, :chacha20] -> :nonce
        :ctr -> :counter_block
        :length -> :length
        _derive -> :public_data
      end

    raise ArgumentError, "mechanism #{inspect(name)} needs parameters: " <> example(name, key)
  end

  defp example(name, :hash), do: "give {#{inspect(name)}, hash: :sha256}"

  # Before that of PBKDF2, which has a :prf, too.
  defp example(name, key)
       when key in [:prf, :prf_and_data, :data] and
              name in [
                :sp800_108_counter_kdf,
                :sp800_108_feedback_kdf,
                :sp800_108_double_pipeline_kdf
              ] do
    iteration = if name == :sp800_108_counter_kdf, do: "", else: ":previous, "

    "give {#{inspect(name)}, prf: :sha256_hmac, data: [#{iteration}{:counter, 32}, label, <<0>>, context, {:length, 32}]}"
  end

  defp example(name, key) when key in [:prf, :iterations, :salt, :password],
    do:
      "give {#{inspect(name)}, prf: :hmac_sha256, iterations: count, salt: binary, password: binary}"

  defp example(name, :kdf), do: "give {#{inspect(name)}, kdf: :sha256}"
  defp example(name, :first_bit), do: "give {#{inspect(name)}, first_bit: number}"
  defp example(name, :key), do: "give {#{inspect(name)}, key: key}"
  defp example(name, :length), do: "give {#{inspect(name)}, length: bytes}"
  defp example(name, key), do: "give {#{inspect(name)}, #{key}: binary}"

  @spec bad!(atom, atom, String.t(), term) :: no_return
  defp bad!(name, key, expected, value) do
    raise ArgumentError,
          "invalid parameter #{inspect(key)} of mechanism #{inspect(name)}: expected #{expected}, " <>
            "got: #{shape(value)}"
  end

  # Parameters may hold shared secrets: of binaries and lists only the shape is shown.
  defp shape(value) when is_atom(value) or is_integer(value), do: inspect(value)
  defp shape(value) when is_binary(value), do: "a binary of #{byte_size(value)} bytes"
  defp shape(value) when is_list(value), do: "a list"
  defp shape(value) when is_tuple(value), do: "a tuple"
  defp shape(_value), do: "another term"
end
