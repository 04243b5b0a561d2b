defmodule Pkcs11Pool.API.KeyOperation do
  @moduledoc false
  # An operation of one key with one mechanism, on one input or on a list of them.

  alias Pkcs11Pool.API.Selection
  alias Pkcs11Pool.Argument.Key
  alias Pkcs11Pool.Call.Batch
  alias Pkcs11Pool.{Call, Error, Mechanism, Options, Prepared}

  @doc """
  Signs, verifies, encrypts or decrypts.
  """
  @spec run(
          Pkcs11Pool.pool(),
          Batch.Items.verb(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          Batch.Items.input(),
          Options.Call.t()
        ) :: :ok | {:ok, term} | {:error, Error.t()}
  def run(pool, verb, key, mechanism, input, opts) do
    encoded = Mechanism.encode_for!(verb, mechanism)
    if verb == :sign, do: Mechanism.digest!(encoded, input)
    class = Mechanism.class_for(verb, mechanism)

    with {:ok, key} <- Selection.choose(pool, key, class, opts) do
      key = Selection.encode!(key, class, opts)
      run_encoded(pool, verb, key, {Mechanism.name(mechanism), encoded}, input, opts)
    end
  end

  @doc """
  The same with what is prepared for this operation.
  """
  @spec run_prepared(Prepared.t(), Batch.Items.verb(), Batch.Items.input(), Options.Call.t()) ::
          :ok | {:ok, term} | {:error, Error.t()}
  def run_prepared(prepared, verb, input, opts) do
    %Prepared{pool: pool, mechanism: name, encoded: encoded, native: native} = prepared
    if verb == :sign, do: Mechanism.digest!(encoded, input)
    run_request(pool, verb, name, {:apply, verb, native, input}, opts)
  end

  @doc """
  The same as `run/6` with key and mechanism in the form that the native side takes, and the mechanism's name.
  """
  @spec run_encoded(
          Pkcs11Pool.pool(),
          Batch.Items.verb(),
          Key.encoded(),
          {name :: atom | {:vendor, non_neg_integer}, {non_neg_integer, Mechanism.Params.t()}},
          Batch.Items.input(),
          Options.Call.t()
        ) :: :ok | {:ok, term} | {:error, Error.t()}
  def run_encoded(pool, verb, key, {name, encoded}, input, opts),
    do: run_request(pool, verb, name, {:apply, verb, key, encoded, input}, opts)

  defp run_request(pool, verb, name, request, opts),
    do: pool |> Call.run(verb, name, request, opts) |> Mechanism.digested!(name)

  @doc """
  What a stream of an operation with a key begins with. `input` is the signature of `:verify`, and of `:decrypt` whether what is not verified yet goes out.
  """
  @spec begin_stream!(
          Pkcs11Pool.pool(),
          Call.Stream.verb(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          input :: binary | boolean | nil,
          Enumerable.t(),
          Options.Call.t()
        ) :: Call.Stream.beginning()
  def begin_stream!(pool, verb, key, mechanism, input, enumerable, opts) do
    encoded = Mechanism.encode_for!(verb, mechanism)
    Mechanism.streamable!(verb, encoded)
    Call.Stream.Parts.check!(enumerable)
    class = Mechanism.class_for(verb, mechanism)
    _checked = Selection.encode!(key, class, opts)

    fn ->
      with {:ok, key} <- Selection.choose(pool, key, class, opts),
           do: {:ok, {Selection.encode!(key, class, opts), encoded, input}}
    end
  end

  @doc """
  An operation with each of a list of encoded items; one that is an error already is its own result.
  """
  @spec run_many(
          Pkcs11Pool.pool(),
          Batch.Items.verb(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          [Batch.Items.t() | {:error, Error.t()}],
          Options.Call.t()
        ) :: {:ok, [Batch.result()]} | {:error, Error.t()}
  def run_many(pool, verb, key, mechanism, items, opts) do
    class = Mechanism.class_for(verb, mechanism)

    # What is said of the key is said of each item.
    {key, items} =
      case choose(pool, key, class, items, opts) do
        {:ok, key} -> {key, items}
        {:error, error} -> {key, Enum.map(items, fn _item -> {:error, error} end)}
      end

    key = Selection.encode!(key, class, opts)
    run_many_encoded(pool, verb, key, Mechanism.name(mechanism), items, opts)
  end

  @doc """
  The same with what is prepared for this operation.
  """
  @spec run_many_prepared(
          Prepared.t(),
          Batch.Items.verb(),
          [Batch.Items.t() | {:error, Error.t()}],
          Options.Call.t()
        ) :: {:ok, [Batch.result()]} | {:error, Error.t()}
  def run_many_prepared(%Prepared{pool: pool, key: key, mechanism: name}, verb, items, opts),
    do: run_many_encoded(pool, verb, key, name, items, opts)

  defp run_many_encoded(pool, verb, key, name, items, opts) do
    result = Batch.run(pool, verb, key, name, items, opts)

    # Only now that all items are answered: an exception before would leave messages in the caller's mailbox.
    with {:ok, results} <- result, do: Enum.each(results, &Mechanism.digested!(&1, name))
    result
  end

  # There is nothing to be done with a key.
  defp choose(_pool, key, _class, [], _opts), do: {:ok, key}
  defp choose(pool, key, class, _items, opts), do: Selection.choose(pool, key, class, opts)
end
