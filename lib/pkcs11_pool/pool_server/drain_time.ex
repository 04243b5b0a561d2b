defmodule Pkcs11Pool.PoolServer.DrainTime do
  @moduledoc false
  # How long a pool that stops may wait for the operations that run.

  @doc """
  The time in ms, from the pool's `:shutdown_timeout`.

  When the VM stops, it stops its pools one after the other. The operations of all of them have the timeout together, from when the first pool
  stops. The native side may take two seconds more to end; they are part of the timeout where it is long enough.
  """
  @spec of(shutdown_timeout :: timeout) :: timeout
  def of(:infinity), do: :infinity

  def of(timeout) do
    case :init.get_status() do
      {:stopping, _provided} ->
        left = vm_stopping_since() + max(timeout - 2_000, min(timeout, 3_000)) - now()
        # Pools that stop later have a moment each, which add up to half a second at most.
        left |> max(div(left + 500, 8)) |> min(timeout)

      _running ->
        timeout
    end
  end

  defp vm_stopping_since do
    since = :persistent_term.get(__MODULE__, nil) || now()
    :persistent_term.put(__MODULE__, since)
    since
  end

  @doc """
  Forgets when the VM began to stop: the application starts, perhaps in a VM that was stopped and started again by `System.restart/0`.
  """
  @spec reset() :: boolean
  def reset, do: :persistent_term.erase(__MODULE__)

  defp now, do: System.monotonic_time(:millisecond)
end
