defmodule Pkcs11Pool.Call.Stream do
  @moduledoc false
  # An operation of several calls: Init, Updates, Final. It has a session for itself from Init to Final: a lease of its own, which begins with the Init call,
  # or the lease that the calling process has there already.
  #
  #   open --> feed, feed, ... --> finish     the session goes back to the pool
  #     \         \           \-> an error    the session is closed; that of a block is kept if nothing is active on it
  #      \         \-> close                 left before its end: the same
  #       \-> an error                       there is no stream
  #
  # Whatever ends the calling process ends the lease as well, on the native side, which closes the session.

  alias Pkcs11Pool.Call.{Errors, Span}
  alias Pkcs11Pool.Call.Stream.Parts
  alias Pkcs11Pool.{Call, Error, Lease, Native, Options}
  alias Pkcs11Pool.Telemetry.Emitter

  @enforce_keys [:verb, :span, :target, :ticket, :owned?, :started, :mechanism, :counters]
  defstruct @enforce_keys

  @typedoc "What `feed/2`, `finish/1` and `close/2` take. It is the calling process's."
  @type t :: %__MODULE__{
          verb: verb,
          span: Emitter.span(),
          target: Call.target(),
          ticket: Native.ticket(),
          owned?: boolean,
          started: integer,
          mechanism: term,
          counters: :atomics.atomics_ref()
        }

  @type verb :: :digest | :sign | :verify | :encrypt | :decrypt

  @typedoc "Gives what the stream begins with, when it begins."
  @type beginning ::
          (() -> {:ok, {key :: term, mechanism :: term, input :: term}} | {:error, Error.t()})

  @operations %{
    digest: :digest_stream,
    sign: :sign_stream,
    verify: :verify_stream,
    encrypt: :encrypt_stream,
    decrypt: :decrypt_stream
  }

  # In `counters`: the bytes that went in, and whether it is over.
  @bytes 1
  @over 2

  @doc """
  Runs all of an enumerable of iodata through an operation that has one result.
  """
  @spec run(
          Pkcs11Pool.pool(),
          verb,
          mechanism :: term,
          beginning,
          Enumerable.t(),
          Options.Call.t()
        ) :: :ok | {:ok, binary} | {:error, Error.t()}
  def run(pool, verb, mechanism, begin, enumerable, opts) do
    with {:ok, stream} <- open(pool, verb, mechanism, begin, opts) do
      try do
        feed_all(stream, Parts.of(enumerable))
      catch
        kind, reason ->
          close(stream, {kind, reason, __STACKTRACE__})
          :erlang.raise(kind, reason, __STACKTRACE__)
      else
        :ok -> finish(stream)
        {:error, error} -> {:error, error}
      end
    end
  end

  defp feed_all(stream, parts) do
    feed = fn part, :ok ->
      case feed(stream, part) do
        {:ok, _nothing} -> {:cont, :ok}
        {:error, error} -> {:halt, {:error, error}}
      end
    end

    Enum.reduce_while(parts, :ok, feed)
  end

  @doc """
  The lazy stream of what comes out of an operation. It begins anew whenever it is enumerated, in the process that does so, and raises its errors.
  """
  @spec lazy(
          Pkcs11Pool.pool(),
          verb,
          mechanism :: term,
          beginning,
          Enumerable.t(),
          Options.Call.t()
        ) :: Enumerable.t()
  def lazy(pool, verb, mechanism, begin, enumerable, opts) do
    open = fn -> raise_error(open(pool, verb, mechanism, begin, opts)) end
    feed = fn part, stream -> {non_empty(raise_error(feed(stream, part))), stream} end
    finish = fn stream -> {non_empty(raise_error(finish(stream))), stream} end
    close = fn stream -> close(stream, :halted) end
    Stream.transform(Parts.of(enumerable), open, feed, finish, close)
  end

  defp raise_error({:ok, value}), do: value
  defp raise_error({:error, error}), do: raise(error)

  defp non_empty(""), do: []
  defp non_empty(bytes), do: [bytes]

  @doc """
  Begins a stream.
  """
  @spec open(Pkcs11Pool.pool(), verb, mechanism :: term, beginning, Options.Call.t()) ::
          {:ok, t} | {:error, Error.t()}
  def open(pool, verb, mechanism, beginning, opts) do
    with {:ok, {key, encoded, input}} <- beginning.(),
         do: open_with(pool, verb, mechanism, {:stream_begin, verb, key, encoded, input}, opts)
  end

  defp open_with(pool, verb, mechanism, request, opts) do
    operation = Map.fetch!(@operations, verb)
    span = Span.start(pool, operation, mechanism, opts)
    started = System.monotonic_time(:millisecond)

    case begin(pool, request, opts) do
      {:ok, target, ticket, owned?} ->
        stream = %__MODULE__{
          verb: verb,
          span: span,
          target: target,
          ticket: ticket,
          owned?: owned?,
          started: started,
          mechanism: mechanism,
          counters: :atomics.new(2, [])
        }

        {:ok, stream}

      {:error, error, ticket} ->
        failed = Errors.with_mechanism({:error, error}, mechanism)
        Span.stop(span, failed, ticket, operation)
        failed
    end
  end

  defp begin(pool, request, opts) do
    if match?(%Lease{}, pool) or Lease.current(pool) != nil,
      do: begin_within(pool, request, opts),
      else: begin_leased(pool, request, opts)
  end

  defp begin_within(pool, request, opts) do
    with {:ok, target} <- Call.target(pool, opts),
         {:ok, ticket} <- attempt(target, request) do
      {:ok, target, ticket, false}
    else
      {:error, error} -> {:error, error, nil}
      {:error, error, ticket} -> {:error, error, ticket}
    end
  end

  defp attempt(target, request) do
    case Call.attempt(target, request) do
      {:ok, ticket} -> {:ok, ticket}
      {{:error, error}, ticket} -> {:error, error, ticket}
    end
  end

  defp begin_leased(pool, request, opts) do
    case Call.lease(pool, request, opts) do
      {:ok, lease, ticket} ->
        Lease.add_stream(lease)
        {:ok, {pool, lease.entry, lease}, ticket, true}

      {:error, error} ->
        {:error, error, nil}
    end
  end

  @doc """
  The next part of the data: what comes out of it. After an error the stream is over.
  """
  @spec feed(t, binary) :: {:ok, binary} | {:error, Error.t()}
  def feed(stream, part) do
    case go_on(stream, {:stream_update, stream.verb, part}) do
      {:error, error} ->
        close(stream, {:error, error})

      result ->
        :atomics.add(stream.counters, @bytes, byte_size(part))
        if result == :ok, do: {:ok, ""}, else: result
    end
  end

  @doc """
  The end of the data: what comes of it. The stream is over.
  """
  @spec finish(t) :: :ok | {:ok, binary} | {:error, Error.t()}
  def finish(stream), do: close(stream, go_on(stream, {:stream_finish, stream.verb}))

  defp go_on(stream, request) do
    {result, _ticket} = Call.attempt(stream.target, request)

    with {:error, error} <- result,
         do: Errors.with_mechanism({:error, told(error, stream)}, stream.mechanism)
  end

  # The lease is none that the caller knows of.
  defp told(%Error{reason: :lease_ended} = error, %{owned?: true} = stream) do
    {_name, %{lease_timeout: timeout}, _lease} = stream.target
    elapsed = System.monotonic_time(:millisecond) - stream.started
    expired = if elapsed >= timeout, do: %{timeout_ms: timeout}, else: %{}
    details = Map.merge(error.details, Map.put(expired, :elapsed_ms, elapsed))
    Error.new(:lease_ended, pool: error.pool, details: Map.put(details, :stream, true))
  end

  defp told(error, _stream), do: error

  @doc """
  Ends a stream, once, with this result or for this reason; the result is returned. What is active on its session is ended, or goes with the session.
  """
  @spec close(t, outcome) :: outcome
        when outcome:
               :ok
               | {:ok, binary}
               | {:error, Error.t()}
               | :halted
               | {:error | :throw | :exit, term, Exception.stacktrace()}
  def close(stream, outcome) do
    if :atomics.exchange(stream.counters, @over, 1) == 0 do
      release(stream, outcome)
      report(stream, outcome)
    end

    outcome
  end

  defp release(%{owned?: true, target: {_name, _entry, lease}}, _outcome) do
    Native.end_lease(lease.native)
    Lease.remove_stream(lease)
  end

  defp release(_within, :ok), do: :ok
  defp release(_within, {:ok, _result}), do: :ok

  defp release(stream, _left) do
    _result = Call.attempt(stream.target, {:stream_break_off, stream.verb})
    :ok
  end

  defp report(%{span: nil}, _outcome), do: :ok

  defp report(stream, outcome) do
    {measurements, metadata} = Span.timing(stream.ticket)
    measurements = Map.put(measurements, :bytes, :atomics.get(stream.counters, @bytes))

    case outcome do
      {kind, reason, stacktrace} ->
        Emitter.exception(stream.span, kind, reason, stacktrace, measurements)

      result ->
        Emitter.stop(stream.span, result, measurements, metadata)
    end
  end
end
