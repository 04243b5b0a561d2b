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

  alias Pkcs11Pool.Call.{Deadlines, Errors, LeaseExpiry, Span}
  alias Pkcs11Pool.{Error, Lease, Native, Options, Registry}

  @doc """
  Runs a request of the native side on a pool, or on the lease that the caller has there.
  """
  @spec run(pool :: term, operation :: atom, mechanism :: term, request :: term, Options.Call.t()) ::
          :ok | {:ok, term} | {:error, Error.t()}
  def run(pool, operation, mechanism, request, opts) do
    span = Span.start_if_watched(pool, operation, mechanism, opts)

    {result, ticket} =
      case target(pool, opts) do
        {:ok, target} -> attempt(target, request)
        {:error, error} -> {{:error, error}, nil}
      end

    result = Errors.with_mechanism(result, mechanism)
    Span.stop(span, result, ticket, operation)
    result
  end

  @typedoc "Where operations run: the pool's name, its entry with the call's timeouts, and the lease that the caller has there."
  @type target :: {name :: term, Registry.entry(), Lease.t() | nil}

  @doc """
  Where the operations of a call run.
  """
  @spec target(pool :: term, Options.Call.t()) :: {:ok, target} | {:error, Error.t()}
  def target(%Lease{entry: %{queue_timeout: _, operation_timeout: _} = entry} = lease, opts),
    do: {:ok, {lease.pool, timeouts(entry, opts), lease}}

  # A lease that was made by hand.
  def target(%Lease{} = lease, _opts) do
    with :ok <- Lease.check(lease),
         do: {:error, Error.new(:lease_ended, pool: lease.pool, executed: false)}
  end

  def target(name, opts) do
    with nil <- Lease.current(name),
         {:ok, _server, entry} <- Registry.fetch(name),
         :ok <- Lease.check_streams(name, entry) do
      {:ok, {name, timeouts(entry, opts), nil}}
    else
      %Lease{} = lease -> target(lease, opts)
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  Runs a request there, and says by which ticket.
  """
  @spec attempt(target, request :: term) ::
          {:ok | {:ok, term} | {:error, Error.t()}, Native.ticket() | Native.timing()}
  def attempt({name, entry, nil}, request), do: entry |> await(request) |> with_error(name, entry)

  def attempt({name, entry, lease}, request) do
    case Lease.check(lease) do
      :ok ->
        # The session is the holder's alone: nothing else can be in the way.
        entry = %{entry | queue_timeout: :infinity}
        entry |> await_on_lease(lease, request) |> with_error(name, entry)

      {:error, error} ->
        {{:error, error}, nil}
    end
  end

  defp with_error({{:error, error}, ticket}, name, entry),
    do: {{:error, Errors.new(error, name, entry)}, ticket}

  defp with_error(done, _name, _entry), do: done

  @doc """
  Takes a session of the pool for the calling process, until `:lease_timeout` has passed at the latest. A request runs there first; if it fails, there is no
  lease.
  """
  @spec lease(name :: term, request :: term, Options.Call.t()) ::
          {:ok, Lease.t(), Native.ticket()} | {:error, Error.t()}
  def lease(name, request, opts) do
    with {:ok, server, entry} <- Registry.fetch(name),
         :ok <- Lease.check_streams(name, entry) do
      entry = timeouts(entry, opts)
      entry = %{entry | lease_timeout: opts.lease_timeout || entry.lease_timeout}

      case await_lease(entry, request) do
        {:ok, native, ticket} ->
          lease = %Lease{pool: name, holder: self(), native: native, entry: entry}
          LeaseExpiry.start(lease, server)
          {:ok, lease, ticket}

        {:error, error} ->
          {:error, Errors.new(error, name, entry)}
      end
    end
  end

  @doc """
  Submits what is no operation of the queue (a login, a logout) with `submit.(native pool, tag, queue_timeout)`, and waits for its answer: that, and
  by which ticket.
  """
  @spec submit(
          name :: term,
          Options.Call.t(),
          (Native.pool(), reference, non_neg_integer | nil ->
             Native.ticket() | {:error, Native.error()})
        ) :: {:ok | {:error, Error.t()}, Native.ticket() | nil}
  def submit(name, opts, submit) do
    case Registry.fetch(name) do
      {:ok, _server, entry} ->
        entry = timeouts(entry, opts)

        entry |> await_submitted(submit) |> with_error(name, entry)

      {:error, error} ->
        {{:error, error}, nil}
    end
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
        Deadlines.first_check(unquote(entry)) ->
          check_deadlines(unquote(ticket), unquote(ref), unquote(started), unquote(entry))
      end
    end
  end

  # Without a deadline nothing speaks against the caller's own dirty scheduler. On native threads a module may hang.
  defp await(%{operation_timeout: :infinity, executor: :dirty_io} = entry, request) do
    if Native.has_idle(entry.native),
      do: run_here(entry, request),
      else: submit_and_await(entry, request)
  end

  defp await(entry, request), do: submit_and_await(entry, request)

  defp run_here(entry, request) do
    started = Deadlines.now()
    ref = make_ref()

    case Native.run_here(entry.native, ref, request, or_nil(entry.queue_timeout)) do
      {:done, result, timing} ->
        {result, timing}

      {:error, _error} = refused ->
        {refused, nil}

      ticket ->
        {receive_answer(ref, ticket, started, entry), ticket}
    end
  end

  defp submit_and_await(entry, request) do
    started = Deadlines.now()
    ref = make_ref()

    case Native.submit(entry.native, ref, request, or_nil(entry.queue_timeout)) do
      {:error, _error} = refused ->
        {refused, nil}

      ticket ->
        {receive_answer(ref, ticket, started, entry), ticket}
    end
  end

  defp await_on_lease(entry, lease, request) do
    started = Deadlines.now()
    ref = make_ref()

    case Native.submit_within(entry.native, lease.native, ref, request) do
      {:error, _error} = refused ->
        {refused, nil}

      ticket ->
        {receive_answer(ref, ticket, started, entry), ticket}
    end
  end

  defp await_lease(entry, request) do
    started = Deadlines.now()
    ref = make_ref()

    case Native.submit_lease(entry.native, ref, request, or_nil(entry.queue_timeout)) do
      {:error, _error} = refused ->
        refused

      {ticket, lease} ->
        result = receive_answer(ref, ticket, started, entry)

        with {:error, _error} <- result, do: Native.end_lease(lease)
        with :ok <- result, do: {:ok, lease, ticket}
    end
  end

  defp await_submitted(entry, submit) do
    started = Deadlines.now()
    ref = make_ref()

    case submit.(entry.native, ref, or_nil(entry.queue_timeout)) do
      {:error, _error} = refused -> {refused, nil}
      ticket -> {receive_answer(ref, ticket, started, entry), ticket}
    end
  end

  defp check_deadlines(ticket, ref, started, entry) do
    case Deadlines.check(ticket, started, entry) do
      {:wait, ms} -> wait(ticket, ref, started, entry, ms)
      :answered -> answer(ref)
      {:error, reason} -> {:error, reason}
    end
  end

  defp wait(ticket, ref, started, entry, ms) do
    receive do
      {^ref, result} -> result
    after
      ms -> check_deadlines(ticket, ref, started, entry)
    end
  end

  defp answer(ref) do
    receive do
      {^ref, result} -> result
    end
  end

  defp or_nil(:infinity), do: nil
  defp or_nil(ms), do: ms
end
