defmodule Bench.Floors.FileRead do
  @moduledoc "How quick the VM's file I/O stays while 200 callers keep a pool with default options busy, on an HSM that takes 5 ms to sign."

  alias Bench.{Context, Grid, Pools, Row, Stats, Tokens, Window, Work}

  @sizes [4, 8, 32]
  @callers 200

  @spec rows(Context.t()) :: [Row.t()]
  def rows(context) do
    file = Tokens.file(context.slow_token, "small")
    File.write!(file, "small")
    for size <- @sizes, do: row(size, file, context)
  end

  defp row(size, file, context) do
    token = Tokens.slow!(context.slow_token, Grid.slow(:sign))
    reads = Context.scaled(context, 400, 100, 10)

    {executor, rounds} =
      Pools.with_pool(token, [pool_size: size], fn pool ->
        operation = Work.operation(:hmac, pool, token)
        rounds = for _ <- 1..context.rounds, do: round(operation, file, reads)
        {Pkcs11Pool.status(pool).executor, rounds}
      end)

    Tokens.fast(token)
    {quiet, busy} = Enum.unzip(rounds)

    %Row{
      work: "File.read p50 beside #{@callers} callers, 5 ms HSM, #{size} sessions",
      floor: {:at_most, 3},
      of: "× quiet",
      measured: Stats.summary(for {quiet, busy} <- rounds, do: busy / quiet),
      note: "#{round(Stats.median(busy))} against #{round(Stats.median(quiet))} µs, #{executor}"
    }
  end

  defp round(operation, file, reads) do
    quiet = read_time(file, reads)
    load = Window.start(operation, @callers)
    Process.sleep(100)
    busy = read_time(file, reads)
    Window.stop(load)
    {quiet, busy}
  end

  # The median of so many, in microseconds.
  defp read_time(file, reads) do
    Stats.median(
      for _ <- 1..reads do
        started = System.monotonic_time(:nanosecond)
        {:ok, "small"} = File.read(file)
        (System.monotonic_time(:nanosecond) - started) / 1_000
      end
    )
  end
end
