defmodule Bench.Floors.Tail do
  @moduledoc """
  What the others feel when one operation in 50 takes 500 ms: with a session for each caller, compared with none that is slow; with four callers
  to a session, compared with a simulated queue that costs nothing, and with the blind round robin.

  The slow ones are digests: the HSM takes 5 ms to sign and 500 ms to digest. Which operation of which caller is slow is the same here and in
  the simulation.
  """

  alias Bench.{Context, Contenders, Grid, Pools, Row, Simulation, Stats, Tokens, Work}
  alias Pkcs11Pool.Bench.Statistics
  alias Pkcs11Pool.Testing.Chaos

  @sessions 8
  @one_in 50
  @slow 500

  @spec rows(Context.t()) :: [Row.t()]
  def rows(context) do
    token = Tokens.slow!(context.slow_token, Grid.slow(:sign))
    Chaos.latency(token.chaos, :C_Digest, @slow)
    window = Context.scaled(context, 3_000, 1_500, 600)
    service = service(token, context)

    rows =
      Pools.with_pool(token, [pool_size: @sessions], fn pool ->
        fast = Work.operation(:hmac, pool, token)
        fast.()
        slow = fn -> Pkcs11Pool.digest!(pool, :sha256, "slow") end
        measure = &p99(latencies(fast, slow, &1, &2, window))
        [alone(measure, context), shared(measure, service, window, context)]
      end)

    Tokens.fast(token)
    rows
  end

  defp alone(measure, context) do
    rounds =
      Row.alternating(
        context.rounds,
        fn round -> measure.(@sessions, slow(round)) end,
        fn _round -> measure.(@sessions, fn _caller, _number -> false end) end
      )

    {with_slow, without} = Enum.unzip(rounds)

    %Row{
      work:
        "1 in #{@one_in} takes #{@slow} ms, #{@sessions} sessions, #{@sessions} callers: p99 of the others",
      floor: {:at_most, 1.2},
      of: "× p99 without them",
      measured: Stats.summary(for {one, other} <- rounds, do: one / other),
      note: "#{ms(with_slow)} against #{ms(without)} ms"
    }
  end

  defp shared(measure, service, window, context) do
    callers = 4 * @sessions

    rounds =
      for round <- 1..context.rounds do
        ideal = simulated(:fifo, callers, slow(round), service, window)
        blind = simulated(:round_robin, callers, slow(round), service, window)
        {measure.(callers, slow(round)), ideal, blind}
      end

    [measured, ideal, blind] = for index <- 0..2, do: Enum.map(rounds, &elem(&1, index))

    %Row{
      work: "The same with #{callers} callers",
      floor: {:at_most, 1.2},
      of: "× an ideal FIFO queue with #{@sessions} servers",
      measured: Stats.summary(for {measured, ideal, _blind} <- rounds, do: measured / ideal),
      note: "#{ms(measured)} against #{ms(ideal)} ms; blind round robin #{ms(blind)} ms"
    }
  end

  # Whether an operation is slow, by chance, and the same chance each time.
  defp slow(round),
    do: fn caller, number -> :erlang.phash2({round, caller, number}, @one_in) == 0 end

  # Milliseconds that a signature takes when nothing else is in the way: what raw makes of it.
  defp service(token, context) do
    spec = Grid.spec(:hmac, @sessions, @sessions, Grid.slow(:sign))
    arena = Map.merge(spec, %{token: token, raw: context.raw})
    {:ok, raw} = Contenders.Program.start(arena, program: :raw)
    rate = raw.rate.(context.warm_up, context.window)
    raw.stop.()
    @sessions * 1_000 / rate
  end

  defp simulated(discipline, callers, slow?, service, window) do
    time = fn caller, number ->
      if slow?.(caller, number), do: @slow + service - Grid.slow(:sign).sign, else: service
    end

    p99(
      for operation <- Simulation.run(discipline, @sessions, callers, time, window),
          not slow?.(operation.caller, operation.number),
          do: operation.ended - operation.asked
    )
  end

  # Milliseconds of the operations that are not slow. All callers begin at once; what ends later than `window` does not count.
  defp latencies(fast, slow, callers, slow?, window) do
    barrier = make_ref()

    tasks =
      for caller <- 1..callers do
        Task.async(fn ->
          receive do: (^barrier -> :ok)
          until = System.monotonic_time(:microsecond) + window * 1_000
          repeat(fast, slow, &slow?.(caller, &1), 1, until, [])
        end)
      end

    for task <- tasks, do: send(task.pid, barrier)
    tasks |> Task.await_many(:infinity) |> Enum.concat()
  end

  defp repeat(fast, slow, slow?, number, until, times) do
    started = System.monotonic_time(:microsecond)

    if started >= until do
      times
    else
      slow_one? = slow?.(number)
      if slow_one?, do: slow.(), else: fast.()
      ended = System.monotonic_time(:microsecond)
      counts? = not slow_one? and ended <= until
      times = if(counts?, do: [(ended - started) / 1_000 | times], else: times)
      repeat(fast, slow, slow?, number + 1, until, times)
    end
  end

  defp p99(times), do: times |> Statistics.percentiles([99]) |> hd()
  defp ms(times), do: times |> Stats.median() |> Float.round(1)
end
