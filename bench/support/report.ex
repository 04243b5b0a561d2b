defmodule Bench.Report do
  @moduledoc "What came of a run: as Markdown, as JSON, as plots."

  alias Bench.{Arena, Grid, OpenLoop, Row}
  alias Pkcs11Pool.Bench.Plot
  alias Pkcs11Pool.JSON

  @type t :: %{
          machine: [{String.t(), String.t()}],
          command: String.t(),
          rounds: pos_integer,
          window: pos_integer,
          short_window: pos_integer,
          floors: [Row.t()],
          results: [Arena.result()],
          latency: [Bench.Latency.result()],
          queue: Bench.Queue.result() | nil
        }

  # In this order in tables and plots.
  @names [
    "raw",
    "pool",
    "pool :dirty_io",
    "pool :threads",
    "pool at once",
    "pool prepared",
    "bare :dirty_io",
    "bare :threads",
    "batch of 64",
    "original",
    "poolboy",
    "SunPKCS11"
  ]

  @doc "Writes RESULTS.md, results.json and plots/ into a folder."
  @spec write!(t, Path.t()) :: :ok
  def write!(report, folder) do
    plots = plots(report)
    File.mkdir_p!(Path.join(folder, "plots"))
    for {name, svg} <- plots, do: File.write!(Path.join([folder, "plots", name]), svg)
    links = for {name, _svg} <- plots, do: "![#{Path.rootname(name)}](plots/#{name})\n"
    text = [markdown(report), if(links == [], do: [], else: ["\n## Plots\n\n", links])]
    File.write!(Path.join(folder, "RESULTS.md"), text)
    File.write!(Path.join(folder, "results.json"), JSON.pretty(data(report)))
  end

  ## Markdown

  @spec markdown(t) :: iodata
  def markdown(report) do
    [
      ["# Results of the benchmarks\n\n", machine(report)],
      floors(report.floors),
      throughput(report),
      latency(report.latency),
      queue(report.queue),
      skipped(report)
    ]
    |> Enum.reject(&(&1 == []))
    |> Enum.intersperse("\n")
  end

  defp machine(report) do
    [
      "`#{report.command}`: medians of #{report.rounds} rounds, windows of #{report.window} ms, ",
      "#{report.short_window} ms where no floor depends on them. ",
      "[Where they come from](README.md). Compare within one table only.\n\n",
      table(["", ""], for({name, text} <- report.machine, do: [name, text]))
    ]
  end

  defp floors([]), do: []

  defp floors(rows) do
    [
      "## The floors\n\n",
      "The median of the rounds' ratios, and the least and the greatest of them.\n\n",
      table(
        ["work", "floor", "measured", "", ""],
        for row <- rows do
          [row.work, bound(row), measured(row), if(Row.reached?(row), do: "yes", else: "**no**")] ++
            [row.note]
        end
      )
    ]
  end

  defp bound(%{floor: {:at_least, floor}, of: of}), do: "≥ #{floor} #{of}"
  defp bound(%{floor: {:at_most, floor}, of: of}), do: "≤ #{floor} #{of}"

  defp measured(%{measured: %{low: same, high: same}}), do: decimals(same)
  defp measured(%{measured: measured}), do: spread(measured)

  defp throughput(%{results: []}), do: []

  defp throughput(%{results: results}) do
    [
      "## Operations a second\n\n",
      "In brackets the ratio to raw in the same round, and the least and the greatest of these. Raw has as many threads as there are sessions,",
      " and so has Java; its sessions are its own affair.\n",
      for group <- Enum.chunk_by(results, &{&1.spec.operation, &1.spec.latency}) do
        names = Enum.filter(@names, fn name -> Enum.any?(group, &(name in Arena.names(&1))) end)

        [
          "\n### #{Arena.token(hd(group).spec)}\n\n",
          table(
            ["sessions", "callers" | names],
            for result <- group do
              [result.spec.sessions, result.spec.callers | Enum.map(names, &cell(result, &1))]
            end
          )
        ]
      end
    ]
  end

  defp cell(result, "raw"), do: rate(Arena.rate(result, "raw").median)

  defp cell(result, name) do
    if name in Arena.names(result),
      do: "#{rate(Arena.rate(result, name).median)} (#{spread(Arena.ratio(result, name))})",
      else: ""
  end

  defp latency([]), do: []

  defp latency(results) do
    [
      "## How long calls take, by how much is asked for\n\n",
      "p50 and p99 in ms, of calls that come at random times, whether those before are done or not; asked for is a share of what raw does in the same run.",
      " Empty: more than 1 % of the answers came #{OpenLoop.grace()} ms after the last call or later.\n",
      for %{spec: spec, capacity: capacity, loads: loads, times: times} <- results do
        names = for {name, _times} <- times, do: name

        [
          "\n### #{Arena.token(spec)}, #{spec.sessions} sessions, 100 % are #{rate(capacity)} a second\n\n",
          table(
            ["asked for" | names],
            for {load, place} <- Enum.with_index(loads) do
              ["#{load} %" | for({_name, times} <- times, do: times |> Enum.at(place) |> times())]
            end
          )
        ]
      end
    ]
  end

  defp times(nil), do: ""
  defp times(%{p50: p50, p99: p99}), do: "#{decimals(p50)}, #{decimals(p99)}"

  defp queue(nil), do: []

  defp queue(%{callers: callers, rates: [{_server, base} | _] = rates}) do
    [
      "## An operation that does nothing\n\n",
      "Thousands of operations a second; in brackets the ratio to one GenServer.\n\n",
      table(
        [
          ""
          | for(count <- callers, do: "#{count} #{if(count == 1, do: "caller", else: "callers")}")
        ],
        for {name, list} <- rates do
          [
            name
            | for {rate, base} <- Enum.zip(list, base) do
                "#{Float.round(rate / 1_000, 1)} (#{decimals(rate / max(base, 1))})"
              end
          ]
        end
      )
    ]
  end

  defp skipped(report) do
    reasons =
      for(
        result <- report.results ++ report.latency,
        {name, reason} <- result.skipped,
        do: "#{name}: #{reason}"
      ) ++
        if(report.queue, do: report.queue.skipped, else: [])

    case Enum.uniq(reasons) do
      [] -> []
      reasons -> ["Left out:\n\n" | for(reason <- reasons, do: "* #{reason}\n")]
    end
  end

  defp table(head, rows) do
    line = fn cells -> ["| ", Enum.map_intersperse(cells, " | ", &to_string/1), " |\n"] end
    [line.(head), line.(Enum.map(head, fn _ -> "---" end)), Enum.map(rows, line)]
  end

  defp spread(summary),
    do: "#{decimals(summary.median)} [#{decimals(summary.low)}-#{decimals(summary.high)}]"

  defp decimals(number), do: :erlang.float_to_binary(number * 1.0, decimals: 2)

  defp rate(rate), do: rate |> round() |> grouped()

  defp grouped(number),
    do: number |> Integer.to_string() |> String.replace(~r/\B(?=(\d{3})+$)/, ",")

  ## JSON

  @doc "All that was measured, as maps and lists."
  @spec data(t) :: map
  def data(report) do
    %{
      machine: for({name, text} <- report.machine, do: %{name: name, text: text}),
      command: report.command,
      rounds: report.rounds,
      window_ms: report.window,
      short_window_ms: report.short_window,
      floors:
        for row <- report.floors do
          {kind, floor} = row.floor

          %{
            kind => floor,
            work: row.work,
            of: row.of,
            measured: row.measured,
            reached: Row.reached?(row),
            note: row.note
          }
        end,
      throughput:
        for result <- report.results, name <- Arena.names(result) do
          Map.merge(result.spec, %{
            contender: name,
            operations_per_second: for(round <- result.rounds, do: round[name]),
            processor_microseconds: for(round <- result.costs, do: round[name]),
            of_raw: Arena.ratio(result, name)
          })
        end,
      latency:
        for(
          %{spec: spec, capacity: capacity, times: times} <- report.latency,
          {name, times} <- times,
          %{load: load, p50: p50, p99: p99} <- times
        ) do
          more = %{
            contender: name,
            capacity: capacity,
            load_percent: load,
            p50_ms: p50,
            p99_ms: p99
          }

          spec |> Map.delete(:callers) |> Map.merge(more)
        end,
      queue:
        report.queue &&
          %{
            callers: report.queue.callers,
            rates:
              for(
                {name, rates} <- report.queue.rates,
                do: %{name: name, operations_per_second: rates}
              )
          }
    }
  end

  ## Plots

  defp plots(report), do: throughput_plots(report) ++ latency_plots(report)

  defp latency_plots(report) do
    for %{spec: spec, times: times} <- report.latency, percentile <- [:p50, :p99] do
      series =
        for {name, times} <- times,
            points = for(%{load: load} = time <- times, do: {load, time[percentile]}),
            points != [],
            do: {name, points}

      title = "#{Arena.token(spec)}, #{spec.sessions} sessions: #{percentile}"
      name = "latency_#{percentile}_#{file(spec)}"
      {name, Plot.svg(title, "load, % of what raw does", "ms", series)}
    end
  end

  # One of each operation, over the sessions: of those with the most different numbers of them.
  defp throughput_plots(report) do
    for group <- Enum.chunk_by(report.results, &{&1.spec.operation, &1.spec.latency}),
        {callers, results} <- [
          group |> Enum.group_by(& &1.spec.callers) |> Enum.max_by(&length(elem(&1, 1)))
        ],
        length(results) > 1 do
      spec = hd(results).spec

      series =
        for name <- @names, name in Arena.names(hd(results)) do
          {name,
           for(result <- results, do: {result.spec.sessions, Arena.rate(result, name).median})}
        end

      title = "#{Arena.token(spec)}, #{callers} callers"
      {file(spec), Plot.svg(title, "sessions", "operations a second", series)}
    end
  end

  defp file(%{latency: nil, operation: operation}), do: "#{operation}.svg"

  defp file(%{latency: latency}) do
    if latency == Grid.slow(:sign), do: "slow.svg", else: "slow_size_query.svg"
  end
end
