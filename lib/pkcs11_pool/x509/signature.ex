defmodule Pkcs11Pool.X509.Signature do
  @moduledoc false
  # Signatures of certificates, requests and lists: their AlgorithmIdentifier (RFC 3279, 4055, 5758 and 8410), made on the token, and verified here.

  alias Pkcs11Pool.{Error, OTP, PublicKey}
  alias Pkcs11Pool.OTP.Signer
  alias Pkcs11Pool.X509.Options

  @pss {1, 2, 840, 113_549, 1, 1, 10}
  @mgf1 {1, 2, 840, 113_549, 1, 1, 8}
  @rsa %{
    sha: {1, 2, 840, 113_549, 1, 1, 5},
    sha224: {1, 2, 840, 113_549, 1, 1, 14},
    sha256: {1, 2, 840, 113_549, 1, 1, 11},
    sha384: {1, 2, 840, 113_549, 1, 1, 12},
    sha512: {1, 2, 840, 113_549, 1, 1, 13}
  }
  @ecdsa %{
    sha: {1, 2, 840, 10_045, 4, 1},
    sha224: {1, 2, 840, 10_045, 4, 3, 1},
    sha256: {1, 2, 840, 10_045, 4, 3, 2},
    sha384: {1, 2, 840, 10_045, 4, 3, 3},
    sha512: {1, 2, 840, 10_045, 4, 3, 4}
  }

  @type algorithm :: {:AlgorithmIdentifier, tuple, binary | :asn1_NOVALUE}

  @doc false
  @spec algorithm!(PublicKey.t(), map) :: algorithm
  def algorithm!(public, opts) do
    case {OTP.algorithm_of(public), opts[:padding] || :pkcs1} do
      {:rsa, :pkcs1} -> identifier(@rsa[hash(public, opts)], <<5, 0>>)
      {:rsa, :pss} -> identifier(@pss, pss_params(hash(public, opts)))
      {:ecdsa, _none} -> identifier(@ecdsa[hash(public, opts)], :asn1_NOVALUE)
      {:eddsa, _none} -> identifier(curve(public), :asn1_NOVALUE)
      {:unknown, _none} -> raise ArgumentError, "a key of this type signs no certificates"
    end
  end

  defp identifier(oid, parameters), do: {:AlgorithmIdentifier, oid, parameters}

  defp curve({_point, {:namedCurve, oid}}), do: oid

  defp hash(_public, %{hash: hash}), do: hash
  defp hash({:RSAPublicKey, _modulus, _exponent}, _opts), do: :sha256

  defp hash({_point, parameters}, _opts) do
    {_name, bits} = PublicKey.describe_curve(parameters)

    cond do
      bits == nil or bits < 384 -> :sha256
      bits < 512 -> :sha384
      true -> :sha512
    end
  end

  defp pss_params(hash) do
    oid = {:HashAlgorithm, Signer.hash_oid(hash), <<5, 0>>}

    params =
      {:"RSASSA-PSS-params", oid, {:MaskGenAlgorithm, @mgf1, oid}, Signer.hash_size(hash), 1}

    :public_key.der_encode(:"RSASSA-PSS-params", params)
  end

  @doc false
  @spec sign(Pkcs11Pool.pool(), Pkcs11Pool.key(), PublicKey.t(), binary, map) ::
          {:ok, algorithm, binary} | {:error, Error.t()}
  def sign(pool, key, public, der, opts) do
    algorithm = algorithm!(public, opts)
    {mechanism, form} = mechanism(public, opts)

    with {:ok, signature} <-
           Pkcs11Pool.sign(pool, key, mechanism, der, form ++ Options.call(opts)) do
      if valid?(public, algorithm, der, signature),
        do: {:ok, algorithm, signature},
        else: {:error, other_key(pool)}
    end
  end

  defp mechanism(public, opts) do
    case {OTP.algorithm_of(public), opts[:padding] || :pkcs1} do
      {:rsa, :pkcs1} -> {{:rsa_pkcs, hash: hash(public, opts)}, []}
      {:rsa, :pss} -> {pss(hash(public, opts)), []}
      {:ecdsa, _none} -> {{:ecdsa, hash: hash(public, opts)}, [signature: :der]}
      {:eddsa, _none} -> {:eddsa, []}
    end
  end

  for hash <- Map.keys(@rsa) do
    name = :"#{if hash == :sha, do: :sha1, else: hash}_rsa_pkcs_pss"
    defp pss(unquote(hash)), do: unquote(name)
  end

  defp other_key(pool) do
    Error.new(:signature_invalid, pool: pool, executed: true, details: %{cause: :other_public_key})
  end

  @hashes for {table, _} <- [{@rsa, nil}, {@ecdsa, nil}],
              {hash, oid} <- table,
              into: %{},
              do: {oid, hash}

  @doc false
  @spec valid?(PublicKey.t(), algorithm, binary, binary) :: boolean
  def valid?(public, {:AlgorithmIdentifier, @pss, params}, der, signature) do
    case :public_key.der_decode(:"RSASSA-PSS-params", params) do
      {:"RSASSA-PSS-params", {_, hash_oid, _}, {_, @mgf1, mgf}, salt, _trailer} ->
        with {:ok, hash} <- hash_of(hash_oid), {:ok, mgf} <- mgf_hash(mgf) do
          options = [
            rsa_padding: :rsa_pkcs1_pss_padding,
            rsa_pss_saltlen: salt,
            rsa_mgf1_md: mgf
          ]

          :public_key.verify(der, hash, signature, public, options)
        else
          :error -> false
        end

      _other ->
        false
    end
  rescue
    _malformed in [ErlangError, MatchError, FunctionClauseError, ArgumentError] -> false
  end

  def valid?(public, {:AlgorithmIdentifier, {1, 3, 101, _arc}, _none}, der, signature),
    do: verify(der, :none, signature, public)

  def valid?(public, {:AlgorithmIdentifier, oid, _parameters}, der, signature) do
    case @hashes do
      %{^oid => hash} -> verify(der, hash, signature, public)
      _unknown -> false
    end
  end

  defp verify(der, hash, signature, public) do
    :public_key.verify(der, hash, signature, public)
  rescue
    _no_such_key in [ErlangError, FunctionClauseError, ArgumentError] -> false
  end

  defp mgf_hash({:HashAlgorithm, oid, _null}), do: hash_of(oid)
  defp mgf_hash({_record, oid, _null}), do: hash_of(oid)
  defp mgf_hash(_other), do: :error

  defp hash_of(oid) do
    Enum.find_value([:sha, :sha224, :sha256, :sha384, :sha512], :error, fn hash ->
      if Signer.hash_oid(hash) == oid, do: {:ok, hash}
    end)
  end
end
