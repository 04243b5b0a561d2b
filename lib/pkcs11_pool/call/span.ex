defmodule Pkcs11Pool.Call.Span do
  @moduledoc false
  # The telemetry of a call.

  alias Pkcs11Pool.{Error, Lease, Native, Options, Telemetry}

  @doc """
  Starts the span of a call; nil without telemetry.
  """
  @spec start(pool :: term, operation :: atom, mechanism :: term, Options.Call.t()) ::
          Telemetry.span()
  def start(pool, operation, mechanism, opts) do
    if Telemetry.enabled?() do
      own = %{pool: Lease.pool_name(pool), operation: operation, mechanism: mechanism}
      Telemetry.start(:operation, Map.merge(opts.telemetry_metadata, own))
    end
  end

  @doc """
  Ends the span of an operation with its result.
  """
  @spec stop(Telemetry.span(), result, Native.ticket() | Native.timing(), operation :: atom) ::
          :ok
        when result: :ok | {:ok, term} | {:error, Error.t()}
  def stop(nil, _result, _ticket, _operation), do: :ok

  def stop(span, result, ticket, operation) do
    {measurements, metadata} = timing(ticket)
    Telemetry.stop(span, result, measurements, metadata)

    with {:error, %Error{reason: :ambiguous_key} = error} <- result,
         do: report_ambiguous_key(error, operation)

    :ok
  end

  @doc """
  Runs a function within the span of a call, in the calling process, where the handlers of the events run.
  """
  @spec within(pool :: term, operation :: atom, Options.Call.t(), (() -> result)) :: result
        when result: :ok | {:error, Error.t()}
  def within(pool, operation, opts, fun) do
    span = start(pool, operation, nil, opts)
    result = fun.()
    Telemetry.stop(span, result)
    result
  end

  @doc """
  Reports a key that more than one object matches.
  """
  @spec report_ambiguous_key(Error.t(), operation :: atom) :: :ok
  def report_ambiguous_key(error, operation) do
    count = length(error.details.candidates)
    metadata = %{pool: error.pool, operation: operation}
    Telemetry.execute([:key, :ambiguous], %{count: count}, metadata)
  end

  @doc """
  What telemetry says of an operation's way through the pool: measurements and metadata.
  """
  @spec timing(Native.ticket() | Native.timing()) :: {map, map}
  def timing(nil), do: {%{}, %{}}

  def timing({nanoseconds, session}) do
    queue_time = System.convert_time_unit(nanoseconds, :nanosecond, :native)
    {%{queue_time: queue_time}, %{session: session}}
  end

  def timing(ticket), do: timing(Native.timing(ticket))
end
