defmodule Pkcs11Pool.API.Signature do
  @moduledoc false
  # Signatures, made and checked, of one or of a list of data. ECDSA signatures are the caller's in the raw form or in DER, and always raw on the
  # token's side.

  import Pkcs11Pool.Argument.Data, only: [binary!: 2]

  alias Pkcs11Pool.API.{Attributes, KeyOperation, Selection}
  alias Pkcs11Pool.Call.Batch

  alias Pkcs11Pool.{
    Call,
    EcdsaSignature,
    Error,
    Mechanism,
    Options,
    Prepared,
    PublicKey,
    Template
  }

  @doc """
  Signs data.
  """
  @spec sign(Pkcs11Pool.pool(), Pkcs11Pool.key(), Mechanism.t(), iodata, keyword) ::
          {:ok, binary} | {:error, Error.t()}
  def sign(pool, key, mechanism, data, opts) do
    opts = Options.Call.validate!(opts, [:signature, :select])
    check_form!(opts, mechanism)
    result = KeyOperation.run(pool, :sign, key, mechanism, binary!(data, "data"), opts)
    with {:ok, signature} <- result, do: encode(pool, signature, opts)
  end

  @doc """
  Signs data with what is prepared.
  """
  @spec sign(Prepared.t(), iodata, keyword) :: {:ok, binary} | {:error, Error.t()}
  def sign(prepared, data, opts) do
    opts = Prepared.options!(prepared, :sign, opts)
    result = KeyOperation.run_prepared(prepared, :sign, binary!(data, "data"), opts)
    with {:ok, signature} <- result, do: encode(prepared.pool, signature, opts)
  end

  @doc """
  Signs each of a list of data.
  """
  @spec sign_many(Pkcs11Pool.pool(), Pkcs11Pool.key(), Mechanism.t(), [iodata], keyword) ::
          Pkcs11Pool.results(binary)
  def sign_many(pool, key, mechanism, list, opts) do
    opts = Options.Call.validate!(opts, [:signature, :select])
    check_form!(opts, mechanism)
    items = Batch.Items.encode!(:sign, mechanism, list)
    result = KeyOperation.run_many(pool, :sign, key, mechanism, items, opts)
    with {:ok, results} <- result, do: {:ok, Enum.map(results, &encode_item(pool, &1, opts))}
  end

  @doc """
  Signs each of a list of data with what is prepared.
  """
  @spec sign_many(Prepared.t(), [iodata], keyword) :: Pkcs11Pool.results(binary)
  def sign_many(prepared, list, opts) do
    opts = Prepared.options!(prepared, :sign, opts)
    items = Batch.Items.of_prepared!(:sign, prepared.encoded, list)
    result = KeyOperation.run_many_prepared(prepared, :sign, items, opts)

    with {:ok, results} <- result,
         do: {:ok, Enum.map(results, &encode_item(prepared.pool, &1, opts))}
  end

  @doc """
  Verifies a signature.
  """
  @spec verify(Pkcs11Pool.pool(), Pkcs11Pool.key(), Mechanism.t(), iodata, iodata, keyword) ::
          :ok | {:error, Error.t()}
  def verify(pool, key, mechanism, data, signature, opts) do
    opts = Options.Call.validate!(opts, [:signature, :select])
    encoded = Mechanism.encode_for!(:verify, mechanism)
    input = input!(encoded, data, signature)
    check_form!(opts, mechanism)
    class = Mechanism.class_for(:verify, mechanism)

    with {:ok, key} <- Selection.choose(pool, key, class, opts) do
      key = Selection.encode!(key, class, opts)
      name = Mechanism.name(mechanism)
      run = &KeyOperation.run_encoded(pool, :verify, key, {name, encoded}, &1, opts)
      verify_decoded(pool, key, name, input, run, opts)
    end
  end

  @doc """
  Verifies a signature with what is prepared.
  """
  @spec verify(Prepared.t(), iodata, iodata, keyword) :: :ok | {:error, Error.t()}
  def verify(prepared, data, signature, opts) do
    opts = Prepared.options!(prepared, :verify, opts)
    %Prepared{pool: pool, key: key, mechanism: name, encoded: encoded} = prepared
    run = &KeyOperation.run_prepared(prepared, :verify, &1, opts)
    verify_decoded(pool, key, name, input!(encoded, data, signature), run, opts)
  end

  defp input!(encoded, data, signature) do
    input = {binary!(data, "data"), binary!(signature, "signature")}
    Mechanism.digest!(encoded, elem(input, 0))
    input
  end

  defp verify_decoded(pool, key, name, {data, signature}, run, opts) do
    with {:ok, decoder} <- decoder_of_encoded(pool, key, name, opts),
         {:ok, signature} <- decode(pool, signature, decoder),
         do: run.({data, signature})
  end

  @doc """
  Verifies each of a list of `{data, signature}`.
  """
  @spec verify_many(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          [{iodata, iodata}],
          keyword
        ) :: Pkcs11Pool.results(true)
  def verify_many(pool, key, mechanism, list, opts) do
    opts = Options.Call.validate!(opts, [:signature, :select])
    items = Batch.Items.encode!(:verify, mechanism, list)

    {key, items} =
      with {:ok, key} <- choose(pool, key, mechanism, opts),
           {:ok, decoder} <- decoder(pool, key, mechanism, opts) do
        {key, Enum.map(items, &decode_item(pool, &1, decoder))}
      else
        {:error, error} -> {key, Enum.map(items, fn _item -> {:error, error} end)}
      end

    KeyOperation.run_many(pool, :verify, key, mechanism, items, opts)
  end

  @doc """
  Verifies each of a list of `{data, signature}` with what is prepared.
  """
  @spec verify_many(Prepared.t(), [{iodata, iodata}], keyword) :: Pkcs11Pool.results(true)
  def verify_many(prepared, list, opts) do
    opts = Prepared.options!(prepared, :verify, opts)
    items = Batch.Items.of_prepared!(:verify, prepared.encoded, list)

    items =
      case decoder_of_encoded(prepared.pool, prepared.key, prepared.mechanism, opts) do
        {:ok, decoder} -> Enum.map(items, &decode_item(prepared.pool, &1, decoder))
        {:error, error} -> Enum.map(items, fn _item -> {:error, error} end)
      end

    KeyOperation.run_many_prepared(prepared, :verify, items, opts)
  end

  @doc """
  Signs data that comes in parts.
  """
  @spec sign_stream(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          Enumerable.t(),
          keyword
        ) :: {:ok, binary} | {:error, Error.t()}
  def sign_stream(pool, key, mechanism, enumerable, opts) do
    opts = Options.Call.validate!(opts, [:signature, :select, :lease_timeout])
    check_form!(opts, mechanism)
    begin = KeyOperation.begin_stream!(pool, :sign, key, mechanism, nil, enumerable, opts)
    result = Call.Stream.run(pool, :sign, Mechanism.name(mechanism), begin, enumerable, opts)
    with {:ok, signature} <- result, do: encode(pool, signature, opts)
  end

  @doc """
  Verifies the signature of data that comes in parts.
  """
  @spec verify_stream(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          Enumerable.t(),
          iodata,
          keyword
        ) :: :ok | {:error, Error.t()}
  def verify_stream(pool, key, mechanism, enumerable, signature, opts) do
    opts = Options.Call.validate!(opts, [:signature, :select, :lease_timeout])
    signature = binary!(signature, "signature")
    begin = &KeyOperation.begin_stream!(pool, :verify, &1, mechanism, &2, enumerable, opts)
    _checked = begin.(key, signature)

    with {:ok, key} <- choose(pool, key, mechanism, opts),
         {:ok, decoder} <- decoder(pool, key, mechanism, opts),
         {:ok, signature} <- decode(pool, signature, decoder) do
      begin = begin.(key, signature)
      Call.Stream.run(pool, :verify, Mechanism.name(mechanism), begin, enumerable, opts)
    end
  end

  ## From the token to the caller

  @doc """
  Raises `ArgumentError` if the option `:signature` does not fit the mechanism: before anything is signed, since a signature cannot be taken back.
  """
  @spec check_form!(Options.Call.t(), Mechanism.t()) :: term
  def check_form!(%{signature: :der}, mechanism) do
    _checked = Mechanism.encode!(mechanism)
    ecdsa!(mechanism)
  end

  def check_form!(_opts, _mechanism), do: :ok

  defp encode_item(pool, result, opts) do
    with {:ok, signature} <- result, do: encode(pool, signature, opts)
  end

  defp encode(pool, signature, %{signature: :der}) do
    with :error <- EcdsaSignature.to_der(signature) do
      cause = "the module gave #{byte_size(signature)} bytes for an ECDSA signature"
      fields = [pool: pool, function: :C_Sign, executed: true, details: %{cause: cause}]
      {:error, Error.new(:general_error, fields)}
    end
  end

  defp encode(_pool, signature, _opts), do: {:ok, signature}

  ## From the caller to the token

  # Once: the key may have to be asked for its curve before.
  defp choose(pool, key, mechanism, %{signature: :der} = opts),
    do: Selection.choose(pool, key, Mechanism.class_for(:verify, mechanism), opts)

  defp choose(_pool, key, _mechanism, _opts), do: {:ok, key}

  # Of a signature in DER, r and s must be made as long as the order of the key's curve, which only the key knows.
  defp decoder(pool, key, mechanism, %{signature: :der} = opts) do
    ecdsa!(mechanism)
    class = Mechanism.class_for(:verify, mechanism)
    key = Selection.encode!(key, class, opts)
    decoder_of_encoded(pool, key, Mechanism.name(mechanism), opts)
  end

  defp decoder(_pool, _key, _mechanism, _opts), do: {:ok, &{:ok, &1}}

  @attributes_of_curve Enum.map([:key_type, :ec_params], &Template.name!/1)

  # Each time anew: the key may be another one by now, on another curve.
  defp decoder_of_encoded(pool, key, name, %{signature: :der} = opts) do
    read = Attributes.read_encoded(pool, key, @attributes_of_curve, %{opts | partial: true})

    with {:ok, attributes} <- read do
      case PublicKey.order_size(attributes) do
        {:ok, size} ->
          {:ok, &EcdsaSignature.from_der(&1, size)}

        {:error, reason} ->
          error = Error.new(reason, pool: pool, executed: false)
          Call.Errors.with_mechanism({:error, error}, name)
      end
    end
  end

  defp decoder_of_encoded(_pool, _key, _name, _opts), do: {:ok, &{:ok, &1}}

  defp decode(pool, signature, decoder) do
    with :error <- decoder.(signature),
         do: {:error, Error.new(:signature_invalid, pool: pool, executed: false)}
  end

  defp decode_item(pool, {encoded, {data, signature}}, decoder) do
    with {:ok, signature} <- decode(pool, signature, decoder), do: {encoded, {data, signature}}
  end

  defp ecdsa!(mechanism) do
    Mechanism.ecdsa?(mechanism) ||
      raise ArgumentError,
            "invalid value for :signature option: :der is for ECDSA mechanisms, got the mechanism #{inspect(Mechanism.name(mechanism))}"
  end
end
