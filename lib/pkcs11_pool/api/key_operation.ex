defmodule Pkcs11Pool.API.KeyOperation do
  @moduledoc false
  # An operation of one key with one mechanism, on one input or on a list of them.

  alias Pkcs11Pool.Argument.Key
  alias Pkcs11Pool.Call.Batch
  alias Pkcs11Pool.{Call, Error, Mechanism, Options}

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
    key = Key.encode!(key, Mechanism.class_for(verb, mechanism))
    request = {:apply, verb, key, encoded, input}
    result = Call.run(pool, verb, Mechanism.name(mechanism), request, opts)
    Mechanism.digested!(result, mechanism)
  end

  @doc """
  The same with each of a list of encoded items; one that is an error already is its own result.
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
    key = Key.encode!(key, Mechanism.class_for(verb, mechanism))
    result = Batch.run(pool, verb, key, Mechanism.name(mechanism), items, opts)

    # Only now that all items are answered: an exception before would leave messages in the caller's mailbox.
    with {:ok, results} <- result, do: Enum.each(results, &Mechanism.digested!(&1, mechanism))
    result
  end
end
