# How quick the VM's file I/O stays while an HSM is slow.
#
#     mix run bench/file_read.exs
#
# For pools of 4, 8 and 32 sessions with default options on a token whose C_Sign takes 5 ms, 200 processes keep the pool
# busy; the median time of a File.read of a small file is compared with the quiet one, measured in turns.

Code.require_file("../test/support/soft_hsm.ex", __DIR__)

defmodule FileReadBench do
  alias Pkcs11Pool.Test.SoftHSM
  alias Pkcs11Pool.Testing.Chaos

  @sizes [4, 8, 32]
  @callers 200
  @rounds 5
  @reads 400

  def run do
    Logger.configure(level: :error)
    SoftHSM.start!()
    System.at_exit(fn _status -> SoftHSM.stop() end)
    file = Path.join(SoftHSM.dir(), "small")
    File.write!(file, "small")

    IO.puts(
      "Elixir #{System.version()}, OTP #{System.otp_release()}, #{System.schedulers_online()} schedulers, " <>
        "#{:erlang.system_info(:dirty_io_schedulers)} dirty-IO schedulers; medians of #{@rounds} rounds of #{@reads} reads\n"
    )

    IO.puts("| sessions | executor | quiet p50 | busy p50 | ratio | signatures/s |")
    IO.puts("|---|---|---|---|---|---|")
    for size <- @sizes, do: IO.puts(row(size, file))
  end

  defp row(size, file) do
    token = SoftHSM.new_token!()
    chaos = Chaos.start!(token.module)

    opts =
      SoftHSM.pool_opts(token,
        pool_size: size,
        module: chaos.module,
        module_env: Map.merge(token.module_env, chaos.module_env)
      )

    pool = opts[:name]
    {:ok, supervisor} = Supervisor.start_link([{Pkcs11Pool, opts}], strategy: :one_for_one)
    generate_key(pool)
    Chaos.latency(chaos, :C_Sign, 5)
    %{executor: executor} = Pkcs11Pool.status(pool)

    rounds =
      for _round <- 1..@rounds do
        quiet = median_read(file)
        load = start_load(pool)
        Process.sleep(200)
        started = System.monotonic_time(:millisecond)
        before = :counters.get(load.count, 1)
        busy = median_read(file)
        elapsed = System.monotonic_time(:millisecond) - started
        rate = (:counters.get(load.count, 1) - before) * 1000 / max(elapsed, 1)
        stop_load(load)
        {quiet, busy, busy / quiet, rate}
      end

    Supervisor.stop(supervisor)
    Chaos.stop(chaos)
    [quiet, busy, ratio, rate] = for index <- 0..3, do: median(Enum.map(rounds, &elem(&1, index)))

    "| #{size} | #{executor} | #{round(quiet)} µs | #{round(busy)} µs | #{Float.round(ratio, 2)} | #{round(rate)} |"
  end

  defp generate_key(pool) do
    {:ok, _pair} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :ec_key_pair_gen,
        [token: true, label: "bench", ec_params: :secp256r1, verify: true],
        token: true,
        label: "bench",
        private: true,
        sign: true
      )
  end

  defp start_load(pool) do
    count = :counters.new(1, [:write_concurrency])
    digest = :crypto.hash(:sha256, "data")
    callers = for _ <- 1..@callers, do: spawn_link(fn -> call(pool, digest, count) end)
    %{count: count, callers: callers}
  end

  defp call(pool, digest, count) do
    {:ok, _signature} = Pkcs11Pool.sign(pool, "bench", :ecdsa, digest)
    :counters.add(count, 1, 1)

    receive do
      :stop -> :ok
    after
      0 -> call(pool, digest, count)
    end
  end

  defp stop_load(load) do
    monitors = for caller <- load.callers, do: Process.monitor(caller)
    for caller <- load.callers, do: send(caller, :stop)
    for monitor <- monitors, do: receive(do: ({:DOWN, ^monitor, _, _, _} -> :ok))
  end

  defp median_read(file) do
    median(for _ <- 1..@reads, do: elem(:timer.tc(fn -> {:ok, "small"} = File.read(file) end), 0))
  end

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))
end

FileReadBench.run()
