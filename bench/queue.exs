# What the pool itself costs: an operation that does nothing, through the pool and through what else could stand in its place.
#
#     mix run bench/queue.exs [--smoke] [--rounds N] [--window MS] [--out FILE]
#
# Beside the pool, in the same rounds: one GenServer; a pool of GenServers, each asked in turn (`:ets.update_counter/3`); and poolboy, where it
# is installed (on Debian: erlang-poolboy). Their workers do nothing either. Counted are the operations that all callers together complete in
# one common window; the rounds go through all contestants in turn, and each figure is the median of its rounds.

Code.require_file("../test/support/soft_hsm.ex", __DIR__)
Code.require_file("../test/support/otp_library.ex", __DIR__)

defmodule Bench.Queue.Worker do
  use GenServer

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil)

  @impl GenServer
  def init(nil), do: {:ok, nil}

  @impl GenServer
  def handle_call(:ping, _from, state), do: {:reply, :ok, state}
end

defmodule Bench.Queue do
  alias Bench.Queue.Worker
  alias Pkcs11Pool.{Call, Options}
  alias Pkcs11Pool.Test.{OTPLibrary, SoftHSM}

  @compile {:no_warn_undefined, :poolboy}

  @sizes [2, 4, 8]
  @stripes [1, 2, 4]
  @callers [1, 2, 64]

  @full %{rounds: 5, window: 300, mailbox: 100_000, waiters: {1_000, 10_000}}
  @smoke %{rounds: 1, window: 5, mailbox: 1_000, waiters: {10, 100}}

  def run(arguments) do
    Logger.configure(level: :error)
    {options, rest, unknown} = OptionParser.parse(arguments, strict: switches())

    if rest != [] or unknown != [],
      do: raise(ArgumentError, "expected --smoke, --rounds N, --window MS or --out FILE")

    settings = if(options[:smoke], do: @smoke, else: @full)
    settings = Map.merge(settings, Map.new(Keyword.take(options, [:rounds, :window])))

    SoftHSM.start!()

    try do
      report = report(SoftHSM.new_token!(), settings)
      IO.puts(report)
      if options[:out], do: File.write!(options[:out], [report, "\n"])
    after
      SoftHSM.stop()
    end
  end

  defp switches, do: [smoke: :boolean, rounds: :integer, window: :integer, out: :string]

  defp report(token, settings) do
    Enum.join(
      [throughput(token, settings), mailbox(token, settings), waiters(token, settings)],
      "\n\n"
    )
  end

  ## Operations a second

  defp throughput(token, %{rounds: rounds, window: window}) do
    contestants = contestants(token)

    cases =
      for {name, operation, _stop} <- contestants,
          callers <- @callers,
          do: {name, operation, callers}

    samples =
      for _round <- 1..rounds, {name, operation, callers} <- cases, reduce: %{} do
        samples ->
          sample = operations(operation, callers, window) * 1_000 / window
          Map.update(samples, {name, callers}, [sample], &[sample | &1])
      end

    for {_name, _operation, stop} <- contestants, do: stop.()
    names = for {name, _operation, _stop} <- contestants, do: name
    medians = Map.new(samples, fn {key, list} -> {key, median(list)} end)

    [
      "Operations a second (medians of #{rounds} rounds of #{window} ms), and their ratio to one GenServer:",
      "",
      row(["" | Enum.map(@callers, &plural(&1, "caller"))]),
      row(["---" | Enum.map(@callers, fn _ -> "---:" end)])
      | for name <- names do
          row([
            name
            | for callers <- @callers do
                rate = medians[{name, callers}]
                "#{thousands(rate)} (#{ratio(rate, medians[{hd(names), callers}])})"
              end
          ])
        end
    ]
    |> Enum.concat(missing())
    |> Enum.join("\n")
  end

  # {name, what a caller does, how it is stopped}
  defp contestants(token) do
    baselines = [gen_server()] ++ Enum.map(@sizes, &gen_servers/1)
    poolboys = if OTPLibrary.load(:poolboy), do: Enum.map(@sizes, &poolboy/1), else: []

    pools =
      for size <- @sizes, stripes <- @stripes, stripes <= size, do: pool(token, size, stripes)

    baselines ++ poolboys ++ pools
  end

  defp missing do
    if Code.ensure_loaded?(:poolboy),
      do: [],
      else: [
        "",
        "poolboy is not installed (on Debian: apt-get install erlang-poolboy), and was left out."
      ]
  end

  defp gen_server do
    {:ok, worker} = Worker.start_link([])

    {"one GenServer", fn -> :ok = GenServer.call(worker, :ping) end,
     fn -> GenServer.stop(worker) end}
  end

  defp gen_servers(size) do
    workers = for _ <- 1..size, do: elem(Worker.start_link([]), 1)
    tuple = List.to_tuple(workers)
    table = :ets.new(__MODULE__, [:public, write_concurrency: true])
    :ets.insert(table, {:index, -1})

    operation = fn ->
      index = :ets.update_counter(table, :index, {2, 1, size - 1, 0})
      :ok = GenServer.call(elem(tuple, index), :ping)
    end

    {"#{size} GenServers in turn", operation, fn -> Enum.each(workers, &GenServer.stop/1) end}
  end

  defp poolboy(size) do
    {:ok, pool} = :poolboy.start_link(worker_module: Worker, size: size, max_overflow: 0)
    operation = fn -> :ok = :poolboy.transaction(pool, &GenServer.call(&1, :ping), :infinity) end
    {"poolboy of #{size}", operation, fn -> :poolboy.stop(pool) end}
  end

  defp pool(token, size, stripes) do
    {name, stop} = start_pool(token, pool_size: size, stripes: stripes)
    {"pkcs11_pool of #{size}, #{plural(stripes, "stripe")}", fn -> :ok = ping(name) end, stop}
  end

  defp start_pool(token, options) do
    name = {__MODULE__, make_ref()}
    # The same kind of runner for all, however many pools there are.
    options = Keyword.merge([name: name, executor: :dirty_io], options)
    {:ok, pool} = Pkcs11Pool.start_link(SoftHSM.pool_opts(token, options))
    :ok = Pkcs11Pool.await_ready(name, 10_000)
    {name, fn -> Supervisor.stop(pool) end}
  end

  defp ping(name), do: Call.run(name, :ping, nil, :ping, Options.call!([]))

  # How many operations the callers complete in a window that is the same for all of them.
  defp operations(operation, callers, window) do
    done = :counters.new(callers, [:write_concurrency])
    stopped = :atomics.new(1, [])

    pids =
      for caller <- 1..callers do
        spawn_monitor(fn -> call(operation, done, caller, stopped) end)
      end

    # They all run, and what there is to open is open.
    Process.sleep(div(window, 5) + 1)
    before = sum(done, callers)
    started = System.monotonic_time(:microsecond)
    Process.sleep(window)
    completed = sum(done, callers) - before
    passed = System.monotonic_time(:microsecond) - started

    :atomics.put(stopped, 1, 1)
    for {_pid, monitor} <- pids, do: receive(do: ({:DOWN, ^monitor, _, _, :normal} -> :ok))
    completed * window * 1_000 / passed
  end

  defp call(operation, done, caller, stopped) do
    if :atomics.get(stopped, 1) == 0 do
      operation.()
      :counters.add(done, caller, 1)
      call(operation, done, caller, stopped)
    end
  end

  defp sum(counters, count), do: Enum.reduce(1..count, 0, &(&2 + :counters.get(counters, &1)))

  ## A caller with a long mailbox

  defp mailbox(token, %{rounds: rounds, window: window, mailbox: length}) do
    {name, stop} = start_pool(token, pool_size: 2)

    {without, with_many} = interleaved(rounds, [0, length], &call_time(name, &1, window * 1_000))

    stop.()

    """
    One call by a caller with an empty mailbox: #{microseconds(without)}; with #{grouped(length)} messages in it: \
    #{microseconds(with_many)}, #{ratio(with_many, without)} times as long.\
    """
  end

  # Microseconds for a call, by a caller that has so many messages it never looks at.
  defp call_time(name, messages, budget) do
    in_process(fn ->
      for number <- 1..messages//1, do: send(self(), {:unread, number})
      # What the messages cost the collector once is not the call's.
      :erlang.garbage_collect()
      :ok = ping(name)
      until = System.monotonic_time(:microsecond) + budget
      {passed, calls} = :timer.tc(fn -> count(fn -> :ok = ping(name) end, until, 0) end)
      passed / calls
    end)
  end

  defp count(operation, until, done) do
    operation.()
    done = done + 1

    if System.monotonic_time(:microsecond) < until, do: count(operation, until, done), else: done
  end

  ## Many waiters

  defp waiters(token, %{rounds: rounds, waiters: {few, many}}) do
    {name, stop} = start_pool(token, pool_size: 1, max_waiting: many, queue_timeout: :infinity)
    {by_few, by_many} = interleaved(rounds, [few, many], &wait_time(name, &1))
    stop.()

    """
    An operation that waits among #{grouped(few)} others for one session, from the session's coming free to the last answer: \
    #{microseconds(by_few)} each; among #{grouped(many)}: #{microseconds(by_many)} each, #{ratio(by_many, by_few)} times as long.\
    """
  end

  defp wait_time(name, waiters) do
    left = :atomics.new(1, [])
    :atomics.put(left, 1, waiters)
    {bench, ref} = {self(), make_ref()}

    waiter = fn ->
      :ok = ping(name)
      if :atomics.sub_get(left, 1, 1) == 0, do: send(bench, ref)
    end

    # Linked: if one fails, all of this does.
    started =
      Pkcs11Pool.with_session(name, fn ->
        for _ <- 1..waiters, do: spawn_link(waiter)
        await_waiting(name, waiters)
        System.monotonic_time(:microsecond)
      end)

    receive do: (^ref -> (System.monotonic_time(:microsecond) - started) / waiters)
  end

  defp await_waiting(name, waiters) do
    if Pkcs11Pool.status(name).waiting < waiters do
      Process.sleep(1)
      await_waiting(name, waiters)
    end
  end

  ## Figures

  # The medians of two things measured in turn.
  defp interleaved(rounds, [one, other], measure) do
    {ones, others} = Enum.unzip(for _ <- 1..rounds, do: {measure.(one), measure.(other)})
    {median(ones), median(others)}
  end

  defp in_process(fun) do
    Task.await(Task.async(fun), :infinity)
  end

  defp median(list) do
    sorted = Enum.sort(list)
    middle = div(length(sorted), 2)

    if rem(length(sorted), 2) == 1,
      do: Enum.at(sorted, middle),
      else: (Enum.at(sorted, middle - 1) + Enum.at(sorted, middle)) / 2
  end

  defp row(cells), do: "| " <> Enum.join(cells, " | ") <> " |"
  defp plural(1, noun), do: "1 #{noun}"
  defp plural(count, noun), do: "#{count} #{noun}s"
  defp thousands(rate), do: "#{Float.round(rate / 1_000, 1)} k"
  defp microseconds(time), do: "#{Float.round(time * 1.0, 1)} µs"
  defp ratio(_rate, base) when base == 0, do: "-"
  defp ratio(rate, base), do: :erlang.float_to_binary(rate / base, decimals: 2)

  defp grouped(number),
    do: number |> Integer.to_string() |> String.replace(~r/\B(?=(\d{3})+$)/, ",")
end

Bench.Queue.run(System.argv())
