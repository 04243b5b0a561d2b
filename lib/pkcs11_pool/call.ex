defmodule Pkcs11Pool.Call do
  @moduledoc false
  # One call: submitted to the native pool by the caller, who then waits for the answer under its two deadlines. No process is between.
  #
  #   submit --> answer                    before the first deadline: the common case
  #         \--> still queued: wait on     until :queue_timeout, then abandon: it never starts
  #         \--> running: wait on          until :operation_timeout after its start, then abandon: its answer is dropped
  #
  # An operation that cannot be abandoned any more has been answered: its message is waited for, so that none is ever left over.

  alias Pkcs11Pool.{Error, Native, Options, Registry, Telemetry}

  @doc "Runs a request of the native side on the pool of this name."
  @spec run(pool :: term, operation :: atom, mechanism :: term, request :: term, Options.call()) ::
          :ok | {:ok, term} | {:error, Error.t()}
  def run(name, operation, mechanism, request, opts) do
    span = span(name, operation, mechanism, opts)
    result = run(name, request, opts)
    if span, do: Telemetry.stop(span, result)
    result
  end

  defp run(name, request, opts) do
    case Registry.lookup(name) do
      {:ok, _keeper, entry} ->
        queue_timeout = opts.queue_timeout || entry.queue_timeout
        operation_timeout = opts.operation_timeout || entry.operation_timeout

        case await(entry.native, request, queue_timeout, operation_timeout) do
          {:error, error} ->
            timeouts = %{
              entry
              | queue_timeout: queue_timeout,
                operation_timeout: operation_timeout
            }

            {:error, error(error, name, timeouts)}

          result ->
            result
        end

      :error ->
        {:error, Error.new(:pool_not_found, pool: name)}
    end
  end

  # The reference is made in the function that waits for it: so the VM skips what was in the mailbox before.
  defp await(pool, request, queue_timeout, operation_timeout) do
    started = now()
    ref = make_ref()

    case Native.submit(pool, ref, request, finite(queue_timeout)) do
      {:error, _error} = refused ->
        refused

      ticket ->
        receive do
          {^ref, result} -> result
        after
          # It may start at any time: the earlier of the two is when to look.
          min(queue_timeout, operation_timeout) ->
            late(ticket, ref, started, queue_timeout, operation_timeout)
        end
    end
  end

  defp late(ticket, ref, started, queue_timeout, operation_timeout) do
    case Native.progress(ticket) do
      :queued ->
        left = left(queue_timeout, now() - started)

        if left > 0 do
          wait(
            ticket,
            ref,
            started,
            queue_timeout,
            operation_timeout,
            min(left, max(operation_timeout, 1))
          )
        else
          case Native.abandon(ticket, false) do
            :before_start -> {:error, :queue_timeout}
            _started_or_answered -> late(ticket, ref, started, queue_timeout, operation_timeout)
          end
        end

      {:running, ms} ->
        left = left(operation_timeout, ms)

        if left > 0 do
          wait(ticket, ref, started, queue_timeout, operation_timeout, left)
        else
          case Native.abandon(ticket, true) do
            {:while_running, ms} -> {:error, {:operation_timeout, ms}}
            :before_start -> {:error, :queue_timeout}
            :answered -> answer(ref)
          end
        end

      :over ->
        answer(ref)
    end
  end

  defp wait(ticket, ref, started, queue_timeout, operation_timeout, ms) do
    receive do
      {^ref, result} -> result
    after
      ms -> late(ticket, ref, started, queue_timeout, operation_timeout)
    end
  end

  defp answer(ref) do
    receive do
      {^ref, result} -> result
    end
  end

  defp left(:infinity, _passed), do: :infinity
  defp left(timeout, passed), do: timeout - passed

  defp error(:queue_timeout, name, entry) do
    details = %{timeout_ms: entry.queue_timeout, stats: stats(entry.native)}
    Error.new(:queue_timeout, pool: name, executed: false, details: details)
  end

  defp error({:operation_timeout, ms}, name, entry) do
    details = %{timeout_ms: entry.operation_timeout, elapsed_ms: ms, stats: stats(entry.native)}
    Error.new(:operation_timeout, pool: name, executed: :unknown, details: details)
  end

  defp error({:queue_timeout, _code, _function, _executed, _details}, name, entry),
    do: error(:queue_timeout, name, entry)

  defp error({:overloaded, _code, _function, _executed, _details}, name, entry) do
    details = %{max_waiting: entry.max_waiting, stats: stats(entry.native)}
    Error.new(:overloaded, pool: name, executed: false, details: details)
  end

  defp error(native, name, _entry), do: Error.from_native(native, name)

  defp stats(pool), do: Map.take(Native.status(pool), [:size, :idle, :running, :waiting, :hung])

  defp span(name, operation, mechanism, opts) do
    if Telemetry.enabled?() do
      own = %{pool: name, operation: operation, mechanism: mechanism}
      Telemetry.start(:operation, Map.merge(opts.telemetry_metadata, own))
    end
  end

  defp finite(:infinity), do: nil
  defp finite(ms), do: ms

  defp now, do: System.monotonic_time(:millisecond)
end
