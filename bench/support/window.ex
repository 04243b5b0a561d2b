defmodule Bench.Window do
  @moduledoc """
  Counts what callers complete in one window of time that is the same for all of them.

  Each counts for itself. They all run before the window begins; what is completed after its end does not count.
  """

  @doc "Operations a second that so many callers, each repeating `operation`, complete together."
  @spec rate((() -> term), pos_integer, warm_up :: non_neg_integer, window :: pos_integer) ::
          float
  def rate(operation, callers, warm_up, window) do
    load = start(operation, callers)
    Process.sleep(warm_up)
    rate = watch(load, window)
    stop(load)
    rate
  end

  @doc "Starts callers that repeat `operation` until `stop/1`."
  @spec start((() -> term), pos_integer) :: map
  def start(operation, callers) do
    done = :counters.new(callers, [:write_concurrency])
    stopped = :atomics.new(1, [])

    monitors =
      for caller <- 1..callers, into: %{} do
        {pid, monitor} = spawn_monitor(fn -> repeat(operation, done, caller, stopped) end)
        {monitor, pid}
      end

    %{callers: callers, done: done, stopped: stopped, monitors: monitors}
  end

  @doc "Operations a second that they complete in the window that begins now."
  @spec watch(map, pos_integer) :: float
  def watch(load, window) do
    # Whoever looks at the clock must not wait behind those who are watched.
    priority = Process.flag(:priority, :high)
    {before, started} = {done(load), System.monotonic_time()}
    Process.sleep(window)
    {completed, passed} = {done(load) - before, System.monotonic_time() - started}
    Process.flag(:priority, priority)
    completed * System.convert_time_unit(1, :second, :native) / passed
  end

  @doc "How many operations they have completed."
  @spec done(map) :: non_neg_integer
  def done(%{done: done, callers: callers}),
    do: Enum.reduce(1..callers, 0, &(&2 + :counters.get(done, &1)))

  @doc "Ends them, each after its operation."
  @spec stop(map) :: :ok
  def stop(%{stopped: stopped, monitors: monitors}) do
    :atomics.put(stopped, 1, 1)

    # In the order in which they end: there may be thousands.
    for _monitor <- monitors do
      receive do
        {:DOWN, monitor, _, _, reason} when is_map_key(monitors, monitor) ->
          unless reason == :normal, do: raise("a caller failed: #{inspect(reason)}")
      end
    end

    :ok
  end

  defp repeat(operation, done, caller, stopped) do
    if :atomics.get(stopped, 1) == 0 do
      operation.()
      :counters.add(done, caller, 1)
      repeat(operation, done, caller, stopped)
    end
  end
end
