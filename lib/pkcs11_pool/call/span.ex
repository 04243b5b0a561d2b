defmodule Pkcs11Pool.Call.Span do
  @moduledoc false
  # The telemetry of a call.

  alias Pkcs11Pool.{Error, Lease, Native, Options}
  alias Pkcs11Pool.Telemetry.Emitter

  @doc """
  Starts the span of a call; nil without telemetry.
  """
  @spec start(pool :: term, operation :: atom, mechanism :: term, Options.Call.t()) ::
          Emitter.span()
  def start(pool, operation, mechanism, opts) do
    if Emitter.enabled?(), do: emit_start(pool, operation, mechanism, opts)
  end

  @doc """
  The same of a call that ends with a result, never by an exception; nil, too, if nobody hears of it.
  """
  @spec start_if_watched(pool :: term, operation :: atom, mechanism :: term, Options.Call.t()) ::
          Emitter.span()
  def start_if_watched(pool, operation, mechanism, opts) do
    if Emitter.operation_watched?(), do: emit_start(pool, operation, mechanism, opts)
  end

  defp emit_start(pool, operation, mechanism, opts) do
    own = %{pool: Lease.pool_name(pool), operation: operation}
    own = if mechanism == nil, do: own, else: Map.put(own, :mechanism, mechanism)
    Emitter.start(:operation, Map.merge(opts.telemetry_metadata, own))
  end

  @doc """
  Ends the span of an operation with its result.
  """
  @spec stop(Emitter.span(), result, Native.ticket() | Native.timing(), operation :: atom) ::
          :ok
        when result: :ok | {:ok, term} | {:error, Error.t()}
  def stop(nil, result, _ticket, operation), do: report_ambiguous_key_of(result, operation)

  def stop(span, result, ticket, operation) do
    {measurements, metadata} = timing(ticket)
    Emitter.stop(span, result, measurements, metadata)
    report_ambiguous_key_of(result, operation)
  end

  defp report_ambiguous_key_of({:error, %Error{reason: :ambiguous_key} = error}, operation),
    do: report_ambiguous_key(error, operation)

  defp report_ambiguous_key_of(_result, _operation), do: :ok

  @doc """
  Runs a function within the span of a call, in the calling process, where the handlers of the events run. It returns its result with the
  ticket of what it submitted, or an error of before that.
  """
  @spec within(
          pool :: term,
          operation :: atom,
          Options.Call.t(),
          (() -> {result, Native.ticket() | nil} | {:error, Error.t()})
        ) :: result
        when result: :ok | {:error, Error.t()}
  def within(pool, operation, opts, fun) do
    span = start(pool, operation, nil, opts)

    {result, ticket} =
      case fun.() do
        {:error, error} -> {{:error, error}, nil}
        {result, ticket} -> {result, ticket}
      end

    stop(span, result, ticket, operation)
    result
  end

  @doc """
  Reports a key that more than one object matches.
  """
  @spec report_ambiguous_key(Error.t(), operation :: atom) :: :ok
  def report_ambiguous_key(error, operation) do
    count = length(error.details.candidates)
    metadata = %{pool: error.pool, operation: operation}
    Emitter.execute([:key, :ambiguous], %{count: count}, metadata)
  end

  @doc """
  What telemetry says of an operation's way through the pool: measurements and metadata.
  """
  @spec timing(Native.ticket() | Native.timing()) :: {map, map}
  def timing(nil), do: {%{}, %{}}

  def timing({nanoseconds, session}) do
    queue_time = System.convert_time_unit(nanoseconds, :nanosecond, :native)
    {%{queue_time: queue_time}, if(session == 0, do: %{}, else: %{session: session})}
  end

  def timing(ticket), do: timing(Native.timing(ticket))
end
