defmodule Pkcs11Pool.Call.Errors do
  @moduledoc false
  # The errors of operations, with what the pool knows: its name, the timeouts of the call, its counters.

  alias Pkcs11Pool.{Error, Native, Registry}

  # Return codes that a token gives for a mechanism that it does not have or take, without saying which.
  @of_mechanism [
    :mechanism_invalid,
    :mechanism_param_invalid,
    :parameters_ignored,
    :arguments_bad,
    :key_type_inconsistent
  ]

  @doc """
  The error of an operation that was given up or refused, or failed.
  """
  @spec new(
          :queue_timeout | {:operation_timeout, ms :: integer} | Native.error(),
          pool :: term,
          Registry.entry()
        ) :: Error.t()
  def new(:queue_timeout, name, entry) do
    details = %{timeout_ms: entry.queue_timeout, stats: stats(entry.native)}
    Error.new(:queue_timeout, pool: name, executed: false, details: details)
  end

  def new({:operation_timeout, ms}, name, entry) do
    details = %{timeout_ms: entry.operation_timeout, elapsed_ms: ms, stats: stats(entry.native)}
    Error.new(:operation_timeout, pool: name, executed: :unknown, details: details)
  end

  def new({:queue_timeout, _code, _function, _executed, _details}, name, entry),
    do: new(:queue_timeout, name, entry)

  def new({:overloaded, _code, _function, _executed, _details}, name, entry) do
    details = %{max_waiting: entry.max_waiting, stats: stats(entry.native)}
    Error.new(:overloaded, pool: name, executed: false, details: details)
  end

  def new(native, name, _entry), do: Error.from_native(native, name)

  # Not the whole status: where calls are refused by the thousand, that is what a refusal costs.
  defp stats(pool), do: Native.counts(pool)

  @doc """
  A result with the mechanism in the error of a token that does not have or take it.
  """
  @spec with_mechanism(result, mechanism :: term) :: result when result: term
  def with_mechanism({:error, %Error{reason: reason} = error}, mechanism)
      when reason in @of_mechanism and mechanism != nil do
    error = %{error | message: nil, details: Map.put(error.details, :mechanism, mechanism)}
    {:error, %{error | message: Exception.message(error)}}
  end

  def with_mechanism(result, _mechanism), do: result
end
