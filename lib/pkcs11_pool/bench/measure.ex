defmodule Pkcs11Pool.Bench.Measure do
  @moduledoc false
  # How many calls a pool of so many sessions completes in a window of time, and how long each takes. The rounds go through all sizes in turn, so
  # that what disturbs the machine or the token for a while disturbs all of them.

  alias Pkcs11Pool.Bench.{Options, Progress, Recommend, Sessions, Statistics, Target, Workload}
  alias Pkcs11Pool.Error

  @typedoc "One window. Times are milliseconds."
  @type sample :: %{
          sessions: pos_integer,
          executor: atom,
          operations: pos_integer,
          rate: float,
          p50: float,
          p99: float,
          max: float,
          failed: non_neg_integer,
          error: Error.t() | nil
        }

  @typedoc "What all windows of a size say together: medians, the span of the rates, and the slowest call of all."
  @type row :: %{
          sessions: pos_integer,
          executor: atom,
          operations: pos_integer,
          rate: float,
          low: float,
          high: float,
          p50: float,
          p99: float,
          max: float,
          failed: non_neg_integer,
          error: Error.t() | nil
        }

  @typedoc "The token gives so many sessions and no more, and what it says to one more."
  @type limit :: {:limit, pos_integer, Error.t() | nil}

  @warm_up 0.2
  @interval 50
  @drain_timeout 60_000

  @doc "The numbers of sessions that are asked for and that the token gives, of which the last may be what it gives at most."
  @spec sizes(Target.t(), Options.t()) ::
          {:ok, [pos_integer, ...], limit | nil} | {:error, Error.t()}
  def sizes(target, options) do
    most = List.last(options.sessions)

    with {:ok, given, refusal} <- pool(target, most, options, &Sessions.open(&1, most)) do
      if given == most,
        do: {:ok, options.sessions, nil},
        else:
          {:ok, Enum.filter(options.sessions, &(&1 < given)) ++ [given], {:limit, given, refusal}}
    end
  end

  @doc "Measures all sizes, and tells each sample as it comes."
  @spec run(
          Target.t(),
          Workload.t(),
          [pos_integer, ...],
          Options.t(),
          boolean,
          (sample | limit -> term)
        ) ::
          :ok | {:error, Error.t()}
  def run(target, workload, sizes, options, terminal, tell) do
    window = max(round(options.seconds * 1_000 / options.rounds), 1)
    progress = Progress.new(window * options.rounds * length(sizes), terminal)

    windows = for round <- 1..options.rounds, size <- sizes, do: {round, size}

    result =
      windows
      |> Enum.with_index()
      |> Enum.reduce_while({:ok, progress}, fn {{round, size}, index}, {:ok, progress} ->
        title = "round #{round} of #{options.rounds}, sessions: #{size}"
        show = &Progress.show(&1, index * window + &2, title)

        case pool(
               target,
               size,
               options,
               &sample(&1, size, workload, options.callers, window, progress, show)
             ) do
          {:ok, sample, progress} ->
            tell.(sample)
            {:cont, {:ok, progress}}

          {:limit, _given, _refusal} = limit ->
            tell.(limit)
            {:cont, {:ok, progress}}

          {:error, error} ->
            {:halt, {:error, error}}
        end
      end)

    Progress.clear(terminal)
    with {:ok, _progress} <- result, do: :ok
  end

  @doc "The samples of each size together, in order of the sizes."
  @spec rows([sample]) :: [row]
  def rows(samples) do
    samples
    |> Enum.group_by(& &1.sessions)
    |> Enum.sort()
    |> Enum.map(fn {sessions, samples} ->
      rates = for sample <- samples, do: sample.rate
      median = fn key -> samples |> Enum.map(&Map.fetch!(&1, key)) |> Statistics.median() end

      %{
        sessions: sessions,
        executor: hd(samples).executor,
        operations: samples |> Enum.map(& &1.operations) |> Enum.sum(),
        rate: Statistics.median(rates),
        low: Enum.min(rates),
        high: Enum.max(rates),
        p50: median.(:p50),
        p99: median.(:p99),
        max: samples |> Enum.map(& &1.max) |> Enum.max(),
        failed: samples |> Enum.map(& &1.failed) |> Enum.sum(),
        error: Enum.find_value(samples, & &1.error)
      }
    end)
  end

  # As the user would start it. `:auto` is settled here, for a pool alone in its VM: the one before may not be quite gone.
  defp pool(target, size, options, fun) do
    executor =
      if options.executor == :auto,
        do: Recommend.executor(size, :erlang.system_info(:dirty_io_schedulers)).name,
        else: options.executor

    Target.with_pool(target, [pool_size: size, executor: executor], fun)
  end

  ## A window

  @waiting 0
  @counting 1
  @over 2

  defp sample(pool, size, workload, callers, window, progress, show) do
    with {:ok, ^size, _refusal} <- Sessions.open(pool, size) do
      phase = :atomics.new(1, [])
      counted = :counters.new(1, [])
      parent = self()
      run = {pool, workload.call, phase, counted}
      loop = fn -> send(parent, {:calls, self(), calls(run, [], 0, nil)}) end

      callers = for _ <- 1..callers, do: spawn_link(loop)

      Process.sleep(max(round(window * @warm_up), 1))
      from = System.monotonic_time()
      :atomics.put(phase, 1, @counting)
      progress = pass(from, window, counted, progress, show)
      until = System.monotonic_time()
      :atomics.put(phase, 1, @over)

      # What waits is answered at once, so that nobody has to wait for it.
      executor = Pkcs11Pool.status(pool).executor
      Pkcs11Pool.drain(pool, @drain_timeout)

      results = for caller <- callers, do: result(caller)

      with {:ok, sample} <- summary(results, until) do
        rate = sample.operations * 1_000 / ms(until - from)
        {:ok, Map.merge(sample, %{sessions: size, executor: executor, rate: rate}), progress}
      end
    else
      {:ok, given, refusal} -> {:limit, given, refusal}
      {:error, error} -> {:error, error}
    end
  end

  defp result(caller) do
    receive do
      {:calls, ^caller, result} -> result
    end
  end

  # Where a call takes longer than the window, the window lasts until one is done.
  defp pass(from, window, counted, progress, show) do
    passed = ms(System.monotonic_time() - from)
    progress = show.(progress, floor(min(passed, window)))

    if passed < window or :counters.get(counted, 1) == 0 do
      Process.sleep(
        if passed < window, do: min(@interval, ceil(window - passed)), else: @interval
      )

      pass(from, window, counted, progress, show)
    else
      progress
    end
  end

  # Until it is over, one call after the other: when each ended and how long it took, in native units.
  defp calls({pool, call, phase, counted} = run, done, failed, error) do
    started = System.monotonic_time()
    result = call.(pool)
    ended = System.monotonic_time()

    case {:atomics.get(phase, 1), result} do
      {@waiting, _result} ->
        calls(run, done, failed, error)

      {@counting, result} ->
        :counters.add(counted, 1, 1)

        case result do
          {:ok, _value} -> calls(run, [{ended, ended - started} | done], failed, error)
          {:error, new} -> calls(run, done, failed + 1, error || new)
        end

      {@over, _result} ->
        {done, failed, error}
    end
  end

  defp summary(results, until) do
    # One that ended between the clock's reading and the end of the phase is not of the window.
    times =
      for {done, _failed, _error} <- results, {ended, time} <- done, ended <= until, do: ms(time)

    failed = results |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    error = Enum.find_value(results, &elem(&1, 2))

    if times == [] do
      {:error, error}
    else
      [p50, p99, max] = Statistics.percentiles(times, [50, 99, 100])

      {:ok,
       %{operations: length(times), p50: p50, p99: p99, max: max, failed: failed, error: error}}
    end
  end

  defp ms(native), do: System.convert_time_unit(native, :native, :nanosecond) / 1_000_000
end
