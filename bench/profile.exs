# Where the time of an operation goes, by way of script/profile, which builds bench/raw first and runs this with different schedulers.
#
#     mix run bench/profile.exs --raw PROGRAM [--steps | --perf]

Code.require_file("load.exs", __DIR__)

defmodule Profile do
  alias Bench.{Contenders, Grid, Perf, Pools, Stats, Tokens, Window, Work}
  alias Pkcs11Pool.Argument.Key
  alias Pkcs11Pool.{Call, Mechanism, Native, Options, Registry}
  alias Pkcs11Pool.Test.SoftHSM

  @rounds 7
  # Milliseconds.
  @window 200
  @direct [operation_timeout: :infinity]

  def run(arguments) do
    {options, [], []} =
      OptionParser.parse(arguments, strict: [raw: :string, steps: :boolean, perf: :boolean])

    Logger.configure(level: :error)
    SoftHSM.start!()

    try do
      token = Tokens.new!()
      unless options[:perf], do: steps(token, options[:raw])
      unless options[:steps], do: perf(token)
    after
      SoftHSM.stop()
    end
  end

  ## The clock: one caller, one session, HMAC of 1 KiB

  defp steps(token, raw) do
    on = fn executor, fun -> Pools.with_pool(token, [pool_size: 1, executor: executor], fun) end

    on.(:dirty_io, fn pool ->
      on.(:threads, fn threads ->
        sign = Work.operation(:hmac, pool, token)
        {:ok, _server, %{native: native}} = Registry.lookup(pool)
        sign.()

        table([
          {"options, mechanism and key into what the NIF takes", &encode/0},
          {"the pool by its name", fn -> Registry.lookup(pool) end},
          {"a NIF that does next to nothing", fn -> Native.has_idle(native) end},
          {"the empty operation, run at once by its caller", fn -> ping(pool, @direct) end},
          {"the empty operation, by a runner on a dirty scheduler", fn -> ping(pool, []) end},
          {"the empty operation, by a runner on a native thread", fn -> ping(threads, []) end},
          {"HMAC, run at once by its caller", Work.operation(:hmac, pool, token, @direct)},
          {"HMAC, by a runner on a dirty scheduler", sign},
          {"HMAC, by a runner on a native thread", Work.operation(:hmac, threads, token)},
          {"HMAC, raw", {:raw, raw(token, raw)}}
        ])
      end)
    end)
  end

  defp encode do
    Options.Call.validate!([])
    Mechanism.encode!(:sha256_hmac)
    Key.encode!("hmac", Mechanism.class_for(:sign, :sha256_hmac))
  end

  defp ping(pool, opts), do: :ok = Call.run(pool, :ping, nil, :ping, Options.Call.validate!(opts))

  defp raw(token, program) do
    arena = Map.merge(Grid.spec(:hmac, 1, 1), %{token: token, raw: program})
    {:ok, raw} = Contenders.Program.start(arena, program: :raw)
    raw
  end

  # All in turn, in rounds.
  defp table(steps) do
    rounds = for _ <- 1..@rounds, {step, what} <- steps, do: {step, 1.0e6 / rate(what)}
    times = Enum.group_by(rounds, &elem(&1, 0), &elem(&1, 1))
    IO.puts("| step | µs | least | most |\n| --- | ---: | ---: | ---: |")

    for {step, _what} <- steps do
      %{median: median, low: low, high: high} = Stats.summary(times[step])
      IO.puts("| #{step} | #{decimals(median)} | #{decimals(low)} | #{decimals(high)} |")
    end
  end

  defp rate({:raw, raw}), do: raw.rate.(20, @window)
  defp rate(operation), do: Window.rate(operation, 1, 20, @window)

  ## The samples: which code the processors were in

  defp perf(token) do
    hmac = &Work.operation(:hmac, &1, token)
    empty = fn pool -> fn -> ping(pool, []) end end

    for {title, executor, sessions, callers, operation} <- [
          {"HMAC, 1 caller, run at once", :dirty_io, 1, 1,
           &Work.operation(:hmac, &1, token, @direct)},
          {"HMAC, 1 caller, a runner on a dirty scheduler", :dirty_io, 1, 1, hmac},
          {"HMAC, 1 caller, a runner on a native thread", :threads, 1, 1, hmac},
          {"HMAC, 32 callers, 1 runner on a dirty scheduler", :dirty_io, 1, 32, hmac},
          {"HMAC, 32 callers, 8 runners on dirty schedulers", :dirty_io, 8, 32, hmac},
          {"HMAC, 32 callers, 8 runners on native threads", :threads, 8, 32, hmac},
          {"Nothing, 64 callers, 2 runners on dirty schedulers", :dirty_io, 2, 64, empty}
        ] do
      Pools.with_pool(token, [pool_size: sessions, executor: executor], fn pool ->
        load = Window.start(operation.(pool), callers)
        Process.sleep(300)
        IO.puts("\n### #{title}\n")
        IO.puts(Perf.table(fn milliseconds -> Window.watch(load, milliseconds) end))
        Window.stop(load)
      end)
    end
  end

  defp decimals(number), do: :erlang.float_to_binary(number * 1.0, decimals: 2)
end

Profile.run(System.argv())
