defmodule Pkcs11Pool.OTP.Failure do
  @moduledoc false
  # A signature that failed for OTP, which tells its own caller nothing of why: an event, and a line in the log at most once in a while.

  alias Pkcs11Pool.{Error, Lease, Log}
  alias Pkcs11Pool.Telemetry.Emitter

  @interval_s 30

  @typedoc "When the last line was written, of what, and how many failures came without one since."
  @opaque t :: :atomics.atomics_ref()

  @last 1
  @reason 2
  @silent 3

  @doc false
  @spec new() :: t
  def new, do: :atomics.new(3, [])

  @doc false
  @spec report(t, Pkcs11Pool.pool(), atom, Exception.t()) :: :ok
  def report(failures, pool, algorithm, exception) do
    reason = reason(exception)

    Emitter.execute([:private_key, :failed], %{system_time: System.system_time()}, %{
      pool: pool,
      algorithm: algorithm,
      reason: reason
    })

    if due?(failures, :erlang.phash2(reason)) do
      Log.write(:error, Lease.pool_name(pool), [
        "a signature for :public_key or :ssl failed: ",
        Log.sentence(exception),
        silent(:atomics.exchange(failures, @silent, 0))
      ])
    else
      :atomics.add(failures, @silent, 1)
    end
  end

  defp reason(%Error{reason: reason}), do: reason
  defp reason(%module{}), do: module

  # One of those that fail at the same time writes.
  defp due?(failures, reason) do
    now = uptime_s()
    last = :atomics.get(failures, @last)

    (last == 0 or now - last >= @interval_s or :atomics.get(failures, @reason) != reason) and
      :atomics.compare_exchange(failures, @last, last, now) == :ok and
      :atomics.put(failures, @reason, reason) == :ok
  end

  # From 1 on: 0 is never.
  defp uptime_s do
    {ms, _since_last} = :erlang.statistics(:wall_clock)
    div(ms, 1000) + 1
  end

  defp silent(0), do: ""
  defp silent(count), do: " (and #{count} more since the last such line)"
end
