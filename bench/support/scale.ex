defmodule Bench.Scale do
  @moduledoc """
  How much an operation costs, by how many callers, sessions and pools there are. The measure is processor time, and how often a thread
  goes to sleep. The operation does nothing, so that all of it is the pool's and the VM's; bare runners show what is the VM's.
  """

  alias Bench.{Contenders, Pools, Processor, Stats, Tokens, Window, Work}
  alias Bench.Scale.Table
  alias Pkcs11Pool.Testing.Chaos

  @typedoc "Rounds, and milliseconds of a window; whether sizes are small, to see that all of it works."
  @type context :: %{
          token: Tokens.t(),
          rounds: pos_integer,
          window: pos_integer,
          small?: boolean
        }

  @callers [1, 10, 100, 1_000, 10_000]
  @sessions [1, 4, 16, 64, 256, 1_024]
  @pools [1, 3, 10, 30, 100]
  @waiting [10, 100, 1_000, 10_000]
  # More than wait.
  @room 20_000

  @doc "The tables' names."
  @spec names() :: [atom]
  def names, do: [:callers, :sessions, :busy, :pools, :refusals, :quiet]

  @doc "Measures one of them."
  @spec run(atom, context) :: Table.t()
  def run(:callers, context) do
    contestants =
      for {size, executor} <- [{2, :threads}, {8, :threads}, {8, :dirty_io}] do
        {"pool of #{size}, #{inspect(executor)}", pool!(context.token, size, executor)}
      end ++
        for size <- [2, 8], do: {"bare of #{size}, :threads", bare!(context.token, nil, size)}

    rows =
      for callers <- sizes(@callers, context) do
        {callers, measured(contestants, context, &measure(&1.run, callers, context))}
      end

    stop(contestants)
    table("So many callers of 2 and of 8 sessions", "callers", 100, rows)
  end

  # How many there are that do nothing must not matter.
  def run(:sessions, context) do
    rows =
      for sessions <- sizes(@sessions, context) do
        pool = {"pool", pool!(context.token, sessions, :threads)}
        {_name, %{run: run}} = pool

        cells = for callers <- [1, 16], do: {"pool :threads, #{callers} callers", callers}

        row = measured(cells, context, &measure(run, &1, context))
        stop([pool])
        {sessions, row}
      end

    table("So many sessions, few callers", "sessions", 16, rows)
  end

  # Each is in use: the module takes longer, the more there are, so that the machine does the same number of operations.
  def run(:busy, context) do
    token = Tokens.slow!(context.token, %{sign: 0, size_query: 0})

    rows =
      for sessions <- sizes(@sessions, context) do
        contestants = [
          {"pool :threads", pool!(token, sessions, :threads, :hmac)},
          {"bare :threads", bare!(token, :hmac, sessions)}
        ]

        for {_name, %{run: run}} <- contestants, do: run.()
        Chaos.latency(token.chaos, :C_Sign, sessions / 4)
        row = measured(contestants, context, &measure(&1.run, 2 * sessions, context))
        Chaos.latency(token.chaos, :C_Sign, 0)
        stop(contestants)
        {sessions, row}
      end

    Tokens.fast(token)

    table(
      "HMACs, each session in use (C_Sign takes a quarter of a millisecond for each session), two callers for each session",
      "sessions",
      16,
      rows
    )
  end

  def run(:pools, context) do
    callers = 100

    rows =
      for count <- sizes(@pools, context) do
        pools = for number <- 1..count, do: {number, pool!(context.token, 2, :threads)}
        bares = for number <- 1..count, do: {number, bare!(context.token, nil, 2)}
        one = fn contestants -> contestants |> hd() |> elem(1) |> Map.get(:run) end

        contestants = [
          {"pool, one called", %{run: one.(pools)}},
          {"pool, all called", %{run: in_turn(pools)}},
          {"bare, one called", %{run: one.(bares)}},
          {"bare, all called", %{run: in_turn(bares)}}
        ]

        row = measured(contestants, context, &measure(&1.run, callers, context))
        stop(bares ++ pools)
        {count, row}
      end

    table("So many pools of 2 sessions, #{callers} callers", "pools", 1, rows)
  end

  # A caller that is refused since as many wait as may.
  def run(:refusals, context) do
    rows =
      for most <- sizes(@waiting, context) do
        pool =
          Pools.start!(context.token, pool_size: 1, max_waiting: most, queue_timeout: :infinity)

        row = Pkcs11Pool.with_session(pool.name, fn -> refused(pool.name, most, context) end)
        Pools.stop(pool)
        {most, row}
      end

    table("A call that is refused, since so many wait", "waiting", 100, rows)
  end

  # What pools cost that nobody calls: of a second.
  def run(:quiet, context) do
    rows =
      for count <- sizes(@pools, context) do
        pools = for number <- 1..count, do: {number, pool!(context.token, 2, :threads)}

        row =
          measured([{"pools that nobody calls", nil}], context, fn nil ->
            sampled(fn ->
              Process.sleep(10 * context.window)
              10 * context.window / 1_000
            end)
          end)

        stop(pools)
        {count, row}
      end

    table(
      "A second of so many pools of 2 sessions, none of them called",
      "pools",
      1,
      rows
    )
  end

  ## Contestants

  defp pool!(token, size, executor, operation \\ nil) do
    options = [max_waiting: @room, queue_timeout: :infinity, operation_timeout: 600_000]
    pool = Pools.start!(token, [pool_size: size, executor: executor] ++ options)
    %{name: name} = pool

    run =
      if operation,
        do: Work.operation(operation, name, token),
        else: fn -> Pools.ping(name) end

    %{run: run, stop: fn -> Pools.stop(pool) end}
  end

  defp bare!(token, operation, size, executor \\ :threads),
    do: Contenders.Bare.start!(token, operation, size, executor)

  # Each caller has its own, as services of one VM have.
  defp in_turn(contestants) do
    runs = contestants |> Enum.map(fn {_number, %{run: run}} -> run end) |> List.to_tuple()
    next = :atomics.new(1, [])

    fn ->
      place =
        with nil <- Process.get(__MODULE__) do
          place = rem(:atomics.add_get(next, 1, 1), tuple_size(runs))
          Process.put(__MODULE__, place)
          place
        end

      elem(runs, place).()
    end
  end

  defp stop(contestants),
    do: for({_name, %{stop: stop}} <- Enum.reverse(contestants), do: stop.())

  ## Samples

  # All in turn, in rounds; once unmeasured.
  defp measured(contestants, context, measure) do
    for {_name, contestant} <- contestants, do: measure.(contestant)

    samples =
      for _round <- 1..context.rounds, {name, contestant} <- contestants do
        {name, measure.(contestant)}
      end

    for {name, _contestant} <- contestants,
        do: {name, for({^name, sample} <- samples, do: sample)}
  end

  @doc "A sample of what so many callers do."
  @spec measure((() -> term), pos_integer, context) :: Table.sample()
  def measure(run, callers, context) do
    load = Window.start(run, callers)
    Process.sleep(div(context.window, 4))

    sample =
      sampled(fn ->
        before = Window.done(load)
        Process.sleep(context.window)
        Window.done(load) - before
      end)

    Window.stop(load)
    sample
  end

  # `work` says how many operations there were.
  defp sampled(work) do
    priority = Process.flag(:priority, :high)
    slept = Processor.sleeps()
    {used, started} = {Processor.time(), System.monotonic_time(:microsecond)}
    operations = max(work.(), 0.001)
    {used, ended} = {Processor.time() - used, System.monotonic_time(:microsecond)}
    slept = Processor.sleeps() - slept
    Process.flag(:priority, priority)

    %{
      cost: used / operations,
      sleeps: slept / operations,
      rate: operations * 1.0e6 / (ended - started)
    }
  end

  defp refused(pool, most, context) do
    for _ <- 1..most, do: spawn_link(fn -> Pools.ping(pool) end)
    Pools.await_waiting(pool, most)

    # Not the holder of the session, whose calls are on that.
    task =
      Task.async(fn ->
        measured([{"pool", nil}], context, fn nil ->
          sampled(fn -> repeat(pool, System.monotonic_time(:millisecond) + context.window, 0) end)
        end)
      end)

    Task.await(task, :infinity)
  end

  defp repeat(pool, until, count) do
    {:error, %{reason: :overloaded}} = Pools.ping(pool)

    if System.monotonic_time(:millisecond) < until,
      do: repeat(pool, until, count + 1),
      else: count + 1
  end

  ## Sizes

  defp sizes(sizes, %{small?: true}), do: Enum.take(sizes, 2)
  defp sizes(sizes, _context), do: sizes

  defp table(title, unit, base, rows),
    do: %Table{title: title, unit: unit, base: base, rows: rows}

  @points [
    {"nothing, 64 callers, :dirty_io", nil, :dirty_io, 64},
    {"nothing, 64 callers, :threads", nil, :threads, 64},
    {"HMAC, 32 callers, :threads", :hmac, :threads, 32},
    {"P-256, 32 callers, :threads", :ec, :threads, 32}
  ]

  @doc "The median cost of operations on this VM, which runs on as many cores as it sees: by the pool, and by bare runners."
  @spec on_these_cores(context) :: [{String.t(), pool :: float, bare :: float}]
  def on_these_cores(context) do
    for {name, operation, executor, callers} <- @points do
      contestants = [
        {:pool, pool!(context.token, 2, executor, operation)},
        {:bare, bare!(context.token, operation, 2, executor)}
      ]

      samples = measured(contestants, context, &measure(&1.run, callers, context))
      stop(contestants)
      [pool: pool, bare: bare] = for {who, taken} <- samples, do: {who, costs(taken)}
      {name, pool, bare}
    end
  end

  defp costs(samples), do: Stats.median(for sample <- samples, do: sample.cost)
end
