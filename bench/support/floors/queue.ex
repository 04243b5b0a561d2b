defmodule Bench.Floors.Queue do
  @moduledoc "What the pool itself costs: by an operation that does nothing, a caller with a long mailbox, and a long queue."

  alias Bench.{Context, Pools, Queue, Row, Stats, Window}

  @spec empty(Context.t()) :: [Row.t()]
  def empty(%{rounds: rounds, warm_up: warm_up, window: window} = context) do
    {:ok, server} = Queue.Worker.start_link([])

    times =
      Pools.with_pool(context.token, [pool_size: 2], fn pool ->
        Row.alternating(
          rounds,
          fn _ -> 1.0e6 / Window.rate(fn -> Pools.ping(pool) end, 64, warm_up, window) end,
          fn _ ->
            1.0e6 / Window.rate(fn -> Queue.Worker.ping(server) end, 64, warm_up, window)
          end
        )
      end)

    GenServer.stop(server)

    [
      row(
        "An operation that does nothing, 64 callers, 2 sessions",
        1.5,
        "a GenServer.call",
        times
      )
    ]
  end

  @spec mailbox(Context.t()) :: [Row.t()]
  def mailbox(%{rounds: rounds, window: window} = context) do
    messages = Context.scaled(context, 100_000, 100_000, 1_000)

    times =
      Pools.with_pool(context.token, [pool_size: 2], fn pool ->
        Row.alternating(
          rounds,
          fn _ -> call_time(pool, messages, window) end,
          fn _ -> call_time(pool, 0, window) end
        )
      end)

    [row("A caller with #{messages} messages in its mailbox", 1.5, "one with none", times)]
  end

  # Microseconds for a call, by a caller that has so many messages it never looks at.
  defp call_time(pool, messages, window) do
    fn ->
      for number <- 1..messages//1, do: send(self(), {:unread, number})
      # What the messages cost the collector once is not the call's.
      :erlang.garbage_collect()
      Pools.ping(pool)
      started = System.monotonic_time(:microsecond)
      {calls, ended} = repeat(pool, started + window * 1_000, 0)
      (ended - started) / calls
    end
    |> Task.async()
    |> Task.await(:infinity)
  end

  defp repeat(pool, until, calls) do
    Pools.ping(pool)
    now = System.monotonic_time(:microsecond)
    if now < until, do: repeat(pool, until, calls + 1), else: {calls + 1, now}
  end

  @spec waiters(Context.t()) :: [Row.t()]
  def waiters(%{rounds: rounds} = context) do
    {few, many} = Context.scaled(context, {1_000, 10_000}, {1_000, 10_000}, {10, 100})
    options = [pool_size: 1, max_waiting: many, queue_timeout: :infinity]

    times =
      Pools.with_pool(context.token, options, fn pool ->
        wait_time(pool, many)

        Row.alternating(rounds, fn _ -> wait_time(pool, many) end, fn _ ->
          wait_time(pool, few)
        end)
      end)

    [row("Time per operation with #{many} waiters", 1.2, "that with #{few}", times)]
  end

  # Microseconds for each of so many that wait for one session: from its coming free to the last answer.
  defp wait_time(pool, waiters) do
    left = :atomics.new(1, [])
    :atomics.put(left, 1, waiters)
    {bench, ref} = {self(), make_ref()}

    waiter = fn ->
      Pools.ping(pool)
      if :atomics.sub_get(left, 1, 1) == 0, do: send(bench, ref)
    end

    # Linked: if one fails, all of this does.
    started =
      Pkcs11Pool.with_session(pool, fn ->
        for _ <- 1..waiters, do: spawn_link(waiter)
        Pools.await_waiting(pool, waiters)
        System.monotonic_time(:microsecond)
      end)

    receive do: (^ref -> (System.monotonic_time(:microsecond) - started) / waiters)
  end

  defp row(work, floor, of, times) do
    {ones, others} = Enum.unzip(times)

    %Row{
      work: work,
      floor: {:at_most, floor},
      of: "× " <> of,
      measured: Stats.summary(for {one, other} <- times, do: one / other),
      note: "#{micros(ones)} against #{micros(others)} µs"
    }
  end

  defp micros(times), do: times |> Stats.median() |> Float.round(1)
end
