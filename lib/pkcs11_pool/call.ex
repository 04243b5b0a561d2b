defmodule Pkcs11Pool.Call do
  @moduledoc false
  # One call: submitted to the native pool by the caller, who then waits for the answer under its two
  # deadlines. No process is between.
  #
  #   run here --> answer                a session lay idle, nothing waited, and the caller has no deadline
  #   submit --> answer                  before the first deadline: the common case
  #         \--> still queued: wait on   until :queue_timeout, then abandon: it never starts
  #         \--> running: wait on        until :operation_timeout after its start, then abandon: its
  #                                      answer is dropped
  #
  # An operation that cannot be abandoned any more has been answered: its message is waited for, so
  # that none is ever left over.

  alias Pkcs11Pool.{Error, Lease, Native, Options, Registry, Telemetry}

  @of_mechanism [
    :mechanism_invalid,
    :mechanism_param_invalid,
    :arguments_bad,
    :key_type_inconsistent
  ]

  @doc """
  Runs a request of the native side on a pool, or on the lease that the caller has there.
  """
  @spec run(pool :: term, operation :: atom, mechanism :: term, request :: term, Options.call()) ::
          :ok | {:ok, term} | {:error, Error.t()}
  def run(pool, operation, mechanism, request, opts) do
    span = span(pool, operation, mechanism, opts)

    {result, ticket} =
      case place(pool, opts) do
        {:ok, place} -> attempt(place, request)
        {:error, error} -> {{:error, error}, nil}
      end

    result = with_mechanism(result, mechanism)
    if span, do: stop(span, result, ticket, operation)
    result
  end

  @typedoc "Where operations run: the pool's name, its entry with the call's timeouts, and the lease that the caller has there."
  @type place :: {name :: term, Registry.entry(), Lease.t() | nil}

  @doc """
  Where the operations of a call run.
  """
  @spec place(pool :: term, Options.call()) :: {:ok, place} | {:error, Error.t()}
  def place(%Lease{entry: %{queue_timeout: _, operation_timeout: _} = entry} = lease, opts),
    do: {:ok, {lease.pool, timeouts(entry, opts), lease}}

  # Made by hand.
  def place(%Lease{} = lease, _opts) do
    with :ok <- Lease.check(lease),
         do: {:error, Error.new(:lease_ended, pool: lease.pool, executed: false)}
  end

  def place(name, opts) do
    with nil <- Lease.current(name),
         {:ok, _server, entry} <- Registry.fetch(name) do
      {:ok, {name, timeouts(entry, opts), nil}}
    else
      %Lease{} = lease -> place(lease, opts)
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  Runs a request there, and says by which ticket.
  """
  @spec attempt(place, request :: term) ::
          {:ok | {:ok, term} | {:error, Error.t()}, Native.ticket() | Native.timing()}
  def attempt({name, entry, nil}, request), do: entry |> await(request) |> explained(name, entry)

  def attempt({name, entry, lease}, request) do
    case Lease.check(lease) do
      :ok ->
        # What runs on it is the holder's alone: nothing else can be in the way.
        entry = %{entry | queue_timeout: :infinity}
        entry |> await_within(lease, request) |> explained(name, entry)

      {:error, error} ->
        {{:error, error}, nil}
    end
  end

  defp explained({{:error, error}, ticket}, name, entry),
    do: {{:error, error(error, name, entry)}, ticket}

  defp explained(done, _name, _entry), do: done

  @doc """
  Takes a session of the pool for the calling process.
  """
  @spec lease(name :: term, Options.call()) ::
          {:ok, Lease.t(), Native.ticket()} | {:error, Error.t()}
  def lease(name, opts) do
    case Registry.fetch(name) do
      {:ok, server, entry} ->
        entry = timeouts(entry, opts)

        case await_lease(entry) do
          {:ok, native, ticket} ->
            if entry.lease_timeout != :infinity,
              do: Native.expire_lease(native, server, place(), entry.lease_timeout)

            {:ok, %Lease{pool: name, holder: self(), native: native, entry: entry}, ticket}

          {:error, error} ->
            {:error, error(error, name, entry)}
        end

      {:error, error} ->
        {:error, error}
    end
  end

  @doc """
  A result with the mechanism in the error of a token that does not have or take it: it does not say which.
  """
  @spec with_mechanism(result, mechanism :: term) :: result when result: term
  def with_mechanism({:error, %Error{reason: reason} = error}, mechanism)
      when reason in @of_mechanism and mechanism != nil do
    error = %{error | message: nil, details: Map.put(error.details, :mechanism, mechanism)}
    {:error, %{error | message: Exception.message(error)}}
  end

  def with_mechanism(result, _mechanism), do: result

  @doc """
  Submits what is no operation of the queue (a login, a logout) with `submit.(native pool, tag, queue_timeout)`, and waits for its answer.
  """
  @spec submit(
          name :: term,
          Options.call(),
          (Native.pool(), reference, non_neg_integer | nil ->
             Native.ticket() | {:error, Native.error()})
        ) :: :ok | {:error, Error.t()}
  def submit(name, opts, submit) do
    case Registry.fetch(name) do
      {:ok, _server, entry} ->
        entry = timeouts(entry, opts)

        with {:error, error} <- await_submitted(entry, submit),
             do: {:error, error(error, name, entry)}

      {:error, error} ->
        {:error, error}
    end
  end

  @doc """
  Runs a function within the span of a call, in the calling process, which is that of the events.
  """
  @spec within_span(name :: term, operation :: atom, Options.call(), (() -> result)) :: result
        when result: :ok | {:error, Error.t()}
  def within_span(name, operation, opts, fun) do
    span = span(name, operation, nil, opts)
    result = fun.()
    Telemetry.stop(span, result)
    result
  end

  # Where a lease was taken: the first function that is none of ours.
  defp place do
    {:current_stacktrace, stack} = Process.info(self(), :current_stacktrace)

    case Enum.find(stack, fn {module, _function, _arity, _location} -> not ours?(module) end) do
      nil -> "an unknown place"
      entry -> Exception.format_stacktrace_entry(entry)
    end
  end

  # By name: to mention the modules that call this one would make a cycle.
  defp ours?(module) do
    module in [Process, __MODULE__] or
      Atom.to_string(module) in ["Elixir.Pkcs11Pool", "Elixir.Pkcs11Pool.API.WithSession"]
  end

  defp timeouts(entry, %{queue_timeout: nil, operation_timeout: nil}), do: entry

  defp timeouts(entry, opts) do
    %{
      entry
      | queue_timeout: opts.queue_timeout || entry.queue_timeout,
        operation_timeout: opts.operation_timeout || entry.operation_timeout
    }
  end

  ## Waiting

  # The reference is made in the function that waits for it: so the VM skips what was in the mailbox
  # before, however much that is. Hence a macro, and several functions of one shape.
  defmacrop receive_answer(ref, ticket, started, entry) do
    quote do
      receive do
        {^unquote(ref), result} -> result
      after
        first_look(unquote(entry)) ->
          late(unquote(ticket), unquote(ref), unquote(started), unquote(entry))
      end
    end
  end

  # Without a deadline nothing speaks against the caller's own dirty scheduler. On native threads a module may hang.
  defp await(%{operation_timeout: :infinity, executor: :dirty_io} = entry, request) do
    if Native.has_idle(entry.native),
      do: run_here(entry, request),
      else: submitted(entry, request)
  end

  defp await(entry, request), do: submitted(entry, request)

  defp run_here(entry, request) do
    started = now()
    ref = make_ref()

    case Native.run_here(entry.native, ref, request, finite(entry.queue_timeout)) do
      {:done, result, timing} ->
        {result, timing}

      {:error, _error} = refused ->
        {refused, nil}

      ticket ->
        {receive_answer(ref, ticket, started, entry), ticket}
    end
  end

  defp submitted(entry, request) do
    started = now()
    ref = make_ref()

    case Native.submit(entry.native, ref, request, finite(entry.queue_timeout)) do
      {:error, _error} = refused ->
        {refused, nil}

      ticket ->
        {receive_answer(ref, ticket, started, entry), ticket}
    end
  end

  defp await_within(entry, lease, request) do
    started = now()
    ref = make_ref()

    case Native.submit_within(entry.native, lease.native, ref, request) do
      {:error, _error} = refused ->
        {refused, nil}

      ticket ->
        {receive_answer(ref, ticket, started, entry), ticket}
    end
  end

  defp await_lease(entry) do
    started = now()
    ref = make_ref()

    case Native.submit_lease(entry.native, ref, finite(entry.queue_timeout)) do
      {:error, _error} = refused ->
        refused

      {ticket, lease} ->
        result = receive_answer(ref, ticket, started, entry)

        with {:error, _error} <- result, do: Native.end_lease(lease)
        with :ok <- result, do: {:ok, lease, ticket}
    end
  end

  defp await_submitted(entry, submit) do
    started = now()
    ref = make_ref()

    case submit.(entry.native, ref, finite(entry.queue_timeout)) do
      {:error, _error} = refused -> refused
      ticket -> receive_answer(ref, ticket, started, entry)
    end
  end

  defp late(ticket, ref, started, entry) do
    case look(ticket, started, entry) do
      {:wait, ms} -> wait(ticket, ref, started, entry, ms)
      :answered -> answer(ref)
      {:error, reason} -> {:error, reason}
    end
  end

  @doc """
  When to look for an operation's answer, in ms after it was submitted: it may start at any time, so that the earlier of the two deadlines counts.
  """
  @spec first_look(Registry.entry()) :: timeout
  def first_look(entry), do: min(entry.queue_timeout, entry.operation_timeout)

  @doc """
  Looks for the answer of an operation that is late: there is time left to wait, or its answer has been sent, or it was given up and none will be.
  """
  @spec look(Native.ticket(), started :: integer, Registry.entry()) ::
          {:wait, timeout}
          | :answered
          | {:error, :queue_timeout | {:operation_timeout, ms :: integer}}
  def look(ticket, started, entry) do
    case Native.progress(ticket) do
      :queued ->
        left = entry.queue_timeout |> left(now() - started) |> min(overall(entry))

        if left > 0 do
          {:wait, min(left, max(entry.operation_timeout, 1))}
        else
          case Native.abandon(ticket, false) do
            :before_start -> {:error, :queue_timeout}
            _started_or_answered -> look(ticket, started, entry)
          end
        end

      {:running, ms} ->
        left = entry.operation_timeout |> left(ms) |> min(overall(entry))

        if left > 0 do
          {:wait, left}
        else
          case Native.abandon(ticket, true) do
            {:while_running, ms} -> {:error, {:operation_timeout, ms}}
            :before_start -> {:error, :queue_timeout}
            :answered -> :answered
          end
        end

      :over ->
        :answered
    end
  end

  defp wait(ticket, ref, started, entry, ms) do
    receive do
      {^ref, result} -> result
    after
      ms -> late(ticket, ref, started, entry)
    end
  end

  defp answer(ref) do
    receive do
      {^ref, result} -> result
    end
  end

  # A deadline for both together, which no call has but await_ready. An atom is greater than any number.
  defp overall(%{deadline: deadline}), do: left(deadline, now())
  defp overall(_entry), do: :infinity

  defp left(:infinity, _passed), do: :infinity
  defp left(timeout, passed), do: timeout - passed

  ## Errors

  @doc """
  The error of an operation that was given up or refused, or failed.
  """
  @spec error(
          :queue_timeout | {:operation_timeout, ms :: integer} | Native.error(),
          term,
          Registry.entry()
        ) ::
          Error.t()
  def error(:queue_timeout, name, entry) do
    details = %{timeout_ms: entry.queue_timeout, stats: stats(entry.native)}
    Error.new(:queue_timeout, pool: name, executed: false, details: details)
  end

  def error({:operation_timeout, ms}, name, entry) do
    details = %{timeout_ms: entry.operation_timeout, elapsed_ms: ms, stats: stats(entry.native)}
    Error.new(:operation_timeout, pool: name, executed: :unknown, details: details)
  end

  def error({:queue_timeout, _code, _function, _executed, _details}, name, entry),
    do: error(:queue_timeout, name, entry)

  def error({:overloaded, _code, _function, _executed, _details}, name, entry) do
    details = %{max_waiting: entry.max_waiting, stats: stats(entry.native)}
    Error.new(:overloaded, pool: name, executed: false, details: details)
  end

  def error(native, name, _entry), do: Error.from_native(native, name)

  defp stats(pool), do: Map.take(Native.status(pool), [:size, :idle, :running, :waiting, :hung])

  ## Telemetry and time

  @doc """
  The span of a call; nil without telemetry.
  """
  @spec span(pool :: term, operation :: atom, mechanism :: term, Options.call()) ::
          Telemetry.span()
  def span(pool, operation, mechanism, opts) do
    if Telemetry.enabled?() do
      own = %{pool: Lease.pool_name(pool), operation: operation, mechanism: mechanism}
      Telemetry.start(:operation, Map.merge(opts.telemetry_metadata, own))
    end
  end

  defp stop(span, result, ticket, operation) do
    {measurements, metadata} = timing(ticket)
    Telemetry.stop(span, result, measurements, metadata)

    with {:error, %Error{reason: :ambiguous_key} = error} <- result,
         do: tell_ambiguous(error, operation)
  end

  @doc """
  Tells of a key that more than one object matches.
  """
  @spec tell_ambiguous(Error.t(), operation :: atom) :: :ok
  def tell_ambiguous(error, operation) do
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

  defp finite(:infinity), do: nil
  defp finite(ms), do: ms

  defp now, do: System.monotonic_time(:millisecond)
end
