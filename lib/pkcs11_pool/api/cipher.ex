defmodule Pkcs11Pool.API.Cipher do
  @moduledoc false
  # Encryption and decryption, of one or of a list of data.

  import Pkcs11Pool.Argument.Data, only: [binary!: 2]

  alias Pkcs11Pool.API.KeyOperation
  alias Pkcs11Pool.Call.Batch
  alias Pkcs11Pool.{Call, Error, Mechanism, Options, Prepared}

  @doc """
  Encrypts data.
  """
  @spec encrypt(Pkcs11Pool.pool(), Pkcs11Pool.key(), Mechanism.t(), iodata, keyword) ::
          {:ok, binary | {iv :: binary, ciphertext :: binary}} | {:error, Error.t()}
  def encrypt(pool, key, mechanism, data, opts),
    do:
      KeyOperation.run(
        pool,
        :encrypt,
        key,
        mechanism,
        binary!(data, "data"),
        Options.Call.validate!(opts, [:select])
      )

  @doc """
  Encrypts data with what is prepared.
  """
  @spec encrypt(Prepared.t(), iodata, keyword) ::
          {:ok, binary | {iv :: binary, ciphertext :: binary}} | {:error, Error.t()}
  def encrypt(prepared, data, opts) do
    opts = Prepared.options!(prepared, :encrypt, opts)
    KeyOperation.run_prepared(prepared, :encrypt, binary!(data, "data"), opts)
  end

  @doc """
  Decrypts data.
  """
  @spec decrypt(Pkcs11Pool.pool(), Pkcs11Pool.key(), Mechanism.t(), iodata, keyword) ::
          {:ok, binary} | {:error, Error.t()}
  def decrypt(pool, key, mechanism, data, opts),
    do:
      KeyOperation.run(
        pool,
        :decrypt,
        key,
        mechanism,
        binary!(data, "data"),
        Options.Call.validate!(opts, [:select])
      )

  @doc """
  Decrypts data with what is prepared.
  """
  @spec decrypt(Prepared.t(), iodata, keyword) ::
          {:ok, binary} | {:error, Error.t()}
  def decrypt(prepared, data, opts) do
    opts = Prepared.options!(prepared, :decrypt, opts)
    KeyOperation.run_prepared(prepared, :decrypt, binary!(data, "data"), opts)
  end

  @doc """
  Encrypts data that comes in parts.
  """
  @spec encrypt_stream(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          Enumerable.t(),
          keyword
        ) :: Enumerable.t()
  def encrypt_stream(pool, key, mechanism, enumerable, opts) do
    opts = Options.Call.validate!(opts, [:select, :lease_timeout])
    begin = KeyOperation.begin_stream!(pool, :encrypt, key, mechanism, nil, enumerable, opts)
    Call.Stream.lazy(pool, :encrypt, Mechanism.name(mechanism), begin, enumerable, opts)
  end

  @doc """
  Decrypts data that comes in parts.
  """
  @spec decrypt_stream(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          Enumerable.t(),
          keyword
        ) :: Enumerable.t()
  def decrypt_stream(pool, key, mechanism, enumerable, opts) do
    opts = Options.Call.validate!(opts, [:select, :lease_timeout, :unverified])
    allow? = opts.unverified == :allow
    begin = KeyOperation.begin_stream!(pool, :decrypt, key, mechanism, allow?, enumerable, opts)
    Call.Stream.lazy(pool, :decrypt, Mechanism.name(mechanism), begin, enumerable, opts)
  end

  @doc """
  Encrypts each of a list of data.
  """
  @spec encrypt_many(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          [Pkcs11Pool.item()],
          keyword
        ) :: Pkcs11Pool.results(binary | {iv :: binary, ciphertext :: binary})
  def encrypt_many(pool, key, mechanism, list, opts) do
    items = Batch.Items.encode!(:encrypt, mechanism, list)

    KeyOperation.run_many(
      pool,
      :encrypt,
      key,
      mechanism,
      items,
      Options.Call.validate!(opts, [:select])
    )
  end

  @doc """
  Encrypts each of a list of data with what is prepared.
  """
  @spec encrypt_many(Prepared.t(), [iodata], keyword) ::
          Pkcs11Pool.results(binary | {iv :: binary, ciphertext :: binary})
  def encrypt_many(prepared, list, opts) do
    opts = Prepared.options!(prepared, :encrypt, opts)
    items = Batch.Items.of_prepared!(:encrypt, prepared.encoded, list)
    KeyOperation.run_many_prepared(prepared, :encrypt, items, opts)
  end

  @doc """
  Decrypts each of a list of data.
  """
  @spec decrypt_many(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          [Pkcs11Pool.item()],
          keyword
        ) :: Pkcs11Pool.results(binary)
  def decrypt_many(pool, key, mechanism, list, opts) do
    items = Batch.Items.encode!(:decrypt, mechanism, list)

    KeyOperation.run_many(
      pool,
      :decrypt,
      key,
      mechanism,
      items,
      Options.Call.validate!(opts, [:select])
    )
  end

  @doc """
  Decrypts each of a list of data with what is prepared.
  """
  @spec decrypt_many(Prepared.t(), [iodata], keyword) :: Pkcs11Pool.results(binary)
  def decrypt_many(prepared, list, opts) do
    opts = Prepared.options!(prepared, :decrypt, opts)
    items = Batch.Items.of_prepared!(:decrypt, prepared.encoded, list)
    KeyOperation.run_many_prepared(prepared, :decrypt, items, opts)
  end
end
