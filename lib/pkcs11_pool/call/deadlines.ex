defmodule Pkcs11Pool.Call.Deadlines do
  @moduledoc false
  # The two deadlines of an operation. Until it starts, it has `:queue_timeout`; from then on, `:operation_timeout`. A caller whose answer is late
  # asks here what to do.

  alias Pkcs11Pool.{Native, Registry}

  @doc """
  When to check an operation for the first time, in ms after it was submitted: it may start at any time, so that the earlier of the two deadlines
  counts.
  """
  @spec first_check(Registry.entry()) :: timeout
  def first_check(entry), do: min(entry.queue_timeout, entry.operation_timeout)

  @doc """
  Checks an operation whose answer is late: there is time left to wait, or its answer has been sent, or it was given up and no answer will come.
  """
  @spec check(Native.ticket(), started :: integer, Registry.entry()) ::
          {:wait, timeout}
          | :answered
          | {:error, :queue_timeout | {:operation_timeout, ms :: integer}}
  def check(ticket, started, entry) do
    case Native.progress(ticket) do
      :queued ->
        left = entry.queue_timeout |> left(now() - started) |> min(left_overall(entry))

        if left > 0 do
          {:wait, min(left, max(entry.operation_timeout, 1))}
        else
          case Native.abandon(ticket, false) do
            :before_start -> {:error, :queue_timeout}
            _started_or_answered -> check(ticket, started, entry)
          end
        end

      {:running, ms} ->
        left = entry.operation_timeout |> left(ms) |> min(left_overall(entry))

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

  # One deadline for waiting and running together: only `await_ready/2` and health checks have it. An atom is greater than any number.
  defp left_overall(%{deadline: deadline}), do: left(deadline, now())
  defp left_overall(_entry), do: :infinity

  defp left(:infinity, _passed), do: :infinity
  defp left(timeout, passed), do: timeout - passed

  @doc """
  The time that deadlines are in, in ms.
  """
  @spec now() :: integer
  def now, do: System.monotonic_time(:millisecond)
end
