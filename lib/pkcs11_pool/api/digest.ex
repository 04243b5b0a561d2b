defmodule Pkcs11Pool.API.Digest do
  @moduledoc false
  # Digests that the token computes.

  import Pkcs11Pool.Argument.Data, only: [binary!: 2]

  alias Pkcs11Pool.API.Selection
  alias Pkcs11Pool.{Call, Error, Mechanism, Options, Prepared}

  @doc """
  The digest of data.
  """
  @spec digest(Pkcs11Pool.pool(), Mechanism.t(), iodata, keyword) ::
          {:ok, binary} | {:error, Error.t()}
  def digest(pool, mechanism, data, opts) do
    opts = Options.Call.validate!(opts)
    request = {:digest, Mechanism.encode!(mechanism), binary!(data, "data")}
    Call.run(pool, :digest, Mechanism.name(mechanism), request, opts)
  end

  @doc """
  The digest of data with what is prepared.
  """
  @spec digest(Prepared.t(), iodata) :: {:ok, binary} | {:error, Error.t()}
  def digest(prepared, data) do
    opts = Prepared.options!(prepared, :digest, [])
    request = {:digest, prepared.encoded, binary!(data, "data")}
    Call.run(prepared.pool, :digest, prepared.mechanism, request, opts)
  end

  @doc """
  The digest of data that comes in parts.
  """
  @spec digest_stream(Pkcs11Pool.pool(), Mechanism.t(), Enumerable.t(), keyword) ::
          {:ok, binary} | {:error, Error.t()}
  def digest_stream(pool, mechanism, enumerable, opts) do
    opts = Options.Call.validate!(opts, [:lease_timeout])
    encoded = Mechanism.encode!(mechanism)
    Mechanism.streamable!(:digest, encoded)
    Call.Stream.Parts.check!(enumerable)
    begin = fn -> {:ok, {nil, encoded, nil}} end
    Call.Stream.run(pool, :digest, Mechanism.name(mechanism), begin, enumerable, opts)
  end

  @doc """
  The digest of a secret key's value.
  """
  @spec digest_key(Pkcs11Pool.pool(), Mechanism.t(), Pkcs11Pool.key(), keyword) ::
          {:ok, binary} | {:error, Error.t()}
  def digest_key(pool, mechanism, key, opts) do
    opts = Options.Call.validate!(opts, [:prefix, :suffix, :select])
    encoded = Mechanism.encode!(mechanism)

    with {:ok, key} <- Selection.choose(pool, key, :secret_key, opts) do
      key = Selection.encode!(key, :secret_key, opts)
      request = {:apply, :digest_key, key, encoded, {opts.prefix, opts.suffix}}
      Call.run(pool, :digest_key, Mechanism.name(mechanism), request, opts)
    end
  end
end
