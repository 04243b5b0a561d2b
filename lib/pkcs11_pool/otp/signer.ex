defmodule Pkcs11Pool.OTP.Signer do
  @moduledoc false
  # What :public_key.sign/4 asks of a private key, as a call of the pool.

  alias Pkcs11Pool.API.{Attributes, Bang}
  alias Pkcs11Pool.{Group, Mechanism, Options, PublicKey}

  # RFC 8017, B.1, and RFC 8702's predecessors: the hashes that a DigestInfo of :public_key may have.
  @hashes %{
    md5: {1, 2, 840, 113_549, 2, 5},
    sha: {1, 3, 14, 3, 2, 26},
    sha224: {2, 16, 840, 1, 101, 3, 4, 2, 4},
    sha256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
    sha384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
    sha512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
    sha3_224: {2, 16, 840, 1, 101, 3, 4, 2, 7},
    sha3_256: {2, 16, 840, 1, 101, 3, 4, 2, 8},
    sha3_384: {2, 16, 840, 1, 101, 3, 4, 2, 9},
    sha3_512: {2, 16, 840, 1, 101, 3, 4, 2, 10}
  }
  @sizes %{
    md5: 16,
    sha: 20,
    sha224: 28,
    sha256: 32,
    sha384: 48,
    sha512: 64,
    sha3_224: 28,
    sha3_256: 32,
    sha3_384: 48,
    sha3_512: 64
  }

  @doc """
  The signature, in the form that `:public_key` expects; raises what fails.
  """
  @spec sign!(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          atom,
          iodata | {:digest, binary},
          atom,
          list,
          keyword
        ) ::
          binary
  def sign!(pool, key, :ecdsa, {:digest, digest}, _hash, _options, opts) do
    # FIPS 186-5, 6.4.1: of a digest that is longer than the order of the curve, its first bytes.
    digest =
      if byte_size(digest) > 28,
        do: binary_part(digest, 0, min(byte_size(digest), order_size!(pool, key, opts))),
        else: digest

    Pkcs11Pool.sign!(pool, key, :ecdsa, digest, [signature: :der] ++ opts)
  end

  def sign!(pool, key, :ecdsa, message, :none, options, opts),
    do: sign!(pool, key, :ecdsa, {:digest, IO.iodata_to_binary(message)}, :none, options, opts)

  def sign!(pool, key, :ecdsa, message, hash, _options, opts),
    do: Pkcs11Pool.sign!(pool, key, {:ecdsa, hash: hash}, message, [signature: :der] ++ opts)

  def sign!(_pool, _key, :eddsa, {:digest, _digest}, _hash, _options, _opts) do
    raise ArgumentError, "EdDSA signs messages, and no digests that were made before"
  end

  def sign!(pool, key, :eddsa, message, _hash, _options, opts),
    do: Pkcs11Pool.sign!(pool, key, :eddsa, message, opts)

  def sign!(pool, key, algorithm, message, hash, options, opts)
      when algorithm in [:rsa, :rsa_pss_pss] do
    default = if algorithm == :rsa, do: :rsa_pkcs1_padding, else: :rsa_pkcs1_pss_padding

    case :proplists.get_value(:rsa_padding, options, default) do
      :rsa_pkcs1_padding ->
        {mechanism, data} = pkcs1!(message, hash)
        Pkcs11Pool.sign!(pool, key, mechanism, data, opts)

      :rsa_pkcs1_pss_padding ->
        {mechanism, data} = pss!(message, hash, options)
        Pkcs11Pool.sign!(pool, key, mechanism, data, opts)

      other ->
        raise ArgumentError, "unsupported :rsa_padding for signatures: #{inspect(other)}"
    end
  end

  defp pkcs1!({:digest, digest}, :none), do: {:rsa_pkcs, digest}
  defp pkcs1!({:digest, digest}, hash), do: {:rsa_pkcs, digest_info!(digest, hash)}
  defp pkcs1!(message, :none), do: {:rsa_pkcs, message}
  defp pkcs1!(message, hash), do: {{:rsa_pkcs, hash: hash}, message}

  defp pss!(message, hash, options) do
    mgf = :proplists.get_value(:rsa_mgf1_md, options, hash)
    params = [mgf: mgf, salt_length: salt_length!(hash, options)]

    case message do
      {:digest, digest} -> {{:rsa_pkcs_pss, [hash: hash] ++ params}, digest}
      message -> {{pss_of_message!(hash), params}, message}
    end
  end

  # Negative lengths are OpenSSL's words for "the hash's" and "the longest possible": whoever verifies such a signature takes any.
  defp salt_length!(hash, options) do
    case :proplists.get_value(:rsa_pss_saltlen, options, -1) do
      length when is_integer(length) and length >= 0 -> length
      _hash_or_longest -> size!(hash)
    end
  end

  for {hash, _size} <- @sizes, hash != :md5 do
    name = :"#{if hash == :sha, do: :sha1, else: hash}_rsa_pkcs_pss"
    defp pss_of_message!(unquote(hash)), do: unquote(name)
  end

  defp pss_of_message!(hash), do: unknown!(hash)

  # RFC 8017, 9.2.
  defp digest_info!(digest, hash) do
    byte_size(digest) == size!(hash) ||
      raise ArgumentError,
            "expected a digest of #{size!(hash)} bytes for #{inspect(hash)}, got: #{byte_size(digest)} bytes"

    oid = Map.fetch!(@hashes, hash)

    algorithm =
      :public_key.der_encode(:AlgorithmIdentifier, {:AlgorithmIdentifier, oid, <<5, 0>>})

    content = algorithm <> <<4, byte_size(digest)>> <> digest
    <<0x30, byte_size(content)>> <> content
  end

  defp size!(hash), do: Map.get(@sizes, hash) || unknown!(hash)

  @spec unknown!(term) :: no_return
  defp unknown!(hash),
    do: raise(ArgumentError, "unsupported hash for signatures: #{inspect(hash)}")

  defp order_size!(pool, key, opts) do
    opts = Options.Call.validate!(opts)

    pool
    |> attributes(key, [:key_type, :ec_params], %{opts | partial: true})
    |> Bang.unwrap!()
    |> PublicKey.order_size()
    |> case do
      {:ok, size} -> size
      {:error, reason} -> raise Pkcs11Pool.Error.new(reason, pool: pool, executed: false)
    end
  end

  @doc false
  # Of the private key; the pool may be a group.
  @spec attributes(Pkcs11Pool.pool(), Pkcs11Pool.key(), [atom], Options.Call.t()) ::
          {:ok, map} | {:error, Pkcs11Pool.Error.t()}
  def attributes(pool, key, names, opts) do
    arguments = [key, Mechanism.class_for(:sign, :ecdsa), names, opts]

    if Group.Table.group?(pool),
      do: Group.Call.any(Attributes, pool, :read, arguments),
      else: apply(Attributes, :read, [pool | arguments])
  end

  @doc false
  @spec hash_oid(atom) :: tuple
  def hash_oid(hash), do: Map.fetch!(@hashes, hash)

  @doc false
  @spec hash_size(atom) :: pos_integer
  def hash_size(hash), do: Map.fetch!(@sizes, hash)
end
