defmodule Pkcs11Pool.Bench.Report do
  @moduledoc false
  # What was measured and what follows from it, in words, as a table, as plots and as JSON.

  alias Pkcs11Pool.Bench.{Measure, Options, Plot, Recommend, Workload}
  alias Pkcs11Pool.JSON

  # Fewer calls say little of the slowest in a hundred.
  @few 500

  @type t :: %{
          options: Options.t(),
          workload: Workload.t(),
          rows: [Measure.row(), ...],
          limit: Measure.limit() | nil,
          complete: boolean,
          dirty_io_schedulers: pos_integer
        }

  @doc "What is said before anything is measured."
  @spec heading(
          Options.t(),
          Workload.t(),
          sizes :: [pos_integer],
          dirty_io_schedulers :: pos_integer
        ) :: iodata
  def heading(options, workload, sizes, schedulers) do
    [
      "Measured are #{workload.name}.\n",
      "Callers: #{options.callers}. Sessions: #{Enum.join(sizes, ", ")}, each for #{number(options.seconds / options.rounds)} s at a time, in ",
      "#{options.rounds} rounds. Dirty-IO schedulers: #{schedulers}.\n\n"
    ]
  end

  @doc "The table, the plot and the recommendation."
  @spec text(t, keyword) :: iodata
  def text(report, plot_options \\ []) do
    [
      if(report.complete, do: [], else: "This is what was measured so far:\n\n"),
      table(report.rows),
      "\n",
      limit(report.limit),
      failures(report.rows),
      few(report),
      if(length(report.rows) > 1,
        do: [
          "Operations/s by sessions:\n\n",
          Plot.terminal(curve(report.rows), plot_options),
          "\n"
        ],
        else: []
      ),
      recommendation(report)
    ]
  end

  @doc "The plot as an SVG document."
  @spec svg(t) :: iodata
  def svg(report) do
    Plot.svg(
      "pkcs11_pool: #{report.workload.name}",
      "sessions",
      "operations/s",
      curve(report.rows)
    )
  end

  @doc "Everything, for programs. It names neither PIN nor token."
  @spec json(t) :: iodata
  def json(report) do
    recommended = recommend(report)

    JSON.pretty(
      workload: report.workload.name,
      callers: report.options.callers,
      rounds: report.options.rounds,
      seconds: report.options.seconds,
      complete: report.complete,
      versions: versions(),
      dirty_io_schedulers: report.dirty_io_schedulers,
      session_limit: with({:limit, given, _refusal} <- report.limit, do: given),
      rows:
        for row <- report.rows do
          [
            sessions: row.sessions,
            executor: row.executor,
            operations: row.operations,
            operations_per_second: row.rate,
            lowest: row.low,
            highest: row.high,
            p50_ms: row.p50,
            p99_ms: row.p99,
            max_ms: row.max,
            failed: row.failed
          ]
        end,
      recommended: [
        pool_size: recommended.pool_size,
        executor: recommended.executor.name,
        sdio: recommended.executor.sdio,
        operation_timeout: recommended.operation_timeout
      ]
    )
  end

  defp versions do
    [
      pkcs11_pool: :pkcs11_pool |> Application.spec(:vsn) |> to_string(),
      elixir: System.version(),
      otp: System.otp_release()
    ]
  end

  defp curve(rows), do: [{"operations/s", for(row <- rows, do: {row.sessions, row.rate})}]

  ## The table

  @columns [
    {"sessions", 8},
    {"executor", 10},
    {"ops/s", 10},
    {"gain", 9},
    {"scatter", 8},
    {"p50 ms", 9},
    {"p99 ms", 9},
    {"max ms", 9}
  ]

  defp table(rows) do
    gains = [nil | Enum.zip_with(rows, Enum.drop(rows, 1), &(&2.rate / &1.rate - 1))]
    lines = for {row, gain} <- Enum.zip(rows, gains), do: cells(row, gain)

    for line <- [Enum.map(@columns, &elem(&1, 0)) | lines] do
      cells =
        Enum.zip_with(line, @columns, fn cell, {_name, width} ->
          String.pad_leading(cell, width)
        end)

      [cells, "\n"]
    end
  end

  defp cells(row, gain) do
    [
      Integer.to_string(row.sessions),
      Atom.to_string(row.executor),
      number(row.rate),
      if(gain, do: percent(gain), else: ""),
      "#{round((row.high - row.low) / 2 / row.rate * 100)} %",
      number(row.p50),
      number(row.p99),
      number(row.max)
    ]
  end

  ## Remarks

  defp limit(nil), do: []

  defp limit({:limit, given, refusal}) do
    why = if refusal, do: " (#{refusal.reason})", else: ""
    "The token gave #{sessions(given)} and no more#{why}: larger pools were not measured.\n\n"
  end

  defp failures(rows) do
    for %{failed: failed} = row when failed > 0 <- rows do
      message = Exception.message(%{row.error | pool: nil, message: nil})
      "With #{sessions(row.sessions)}, calls that failed: #{failed}. The first: #{message}.\n\n"
    end
  end

  defp few(report) do
    if Enum.any?(report.rows, &(&1.operations < @few)),
      do:
        "Fewer than #{@few} calls in some rows: their p99 and max say little. Give more --seconds for a closer look.\n\n",
      else: []
  end

  ## The recommendation

  defp recommend(report), do: Recommend.recommend(report.rows, report.dirty_io_schedulers)

  defp recommendation(report) do
    recommended = recommend(report)

    [
      "Recommended: pool_size: #{recommended.pool_size}, executor: #{inspect(recommended.executor.name)}\n\n",
      item("pool_size", why(recommended.pool_size, recommended.why, report.limit)),
      item(
        "executor",
        executor(recommended.pool_size, recommended.executor, report.options.executor)
      ),
      timeout(recommended, report.rows)
    ]
  end

  defp why(_size, :only_one, nil),
    do:
      "Only one size was measured: nothing to compare it with. Give several, such as --sessions 1,2,4,8."

  defp why(size, :only_one, _limit), do: "The token gives #{sessions(size)}."

  defp why(size, {:growing, gain}, nil) do
    "The last step, to #{sessions(size)}, still added #{percent(gain)}. There may be more to gain: measure more, with --sessions #{size},#{size * 2},#{size * 4}."
  end

  defp why(size, {:growing, gain}, _limit),
    do:
      "The last step added #{percent(gain)}, and the token gives no more than #{sessions(size)}."

  defp why(size, {:saturated, next, gain}, _limit) when gain < 0,
    do: "#{next} sessions do less than #{size} (#{percent(gain)})."

  defp why(size, {:saturated, next, gain}, _limit),
    do:
      "#{next} sessions add #{percent(gain)} to what #{size} do; a step that is worth it adds 5 % or more."

  defp executor(size, %{name: :dirty_io} = executor, measured) do
    "With #{sessions(size)}, #{executor.dirty_io_schedulers - size} of the VM's #{executor.dirty_io_schedulers} dirty-IO schedulers are left to file I/O. " <>
      "It is what the default, :auto, chooses while all pools of the VM together leave two." <>
      measured(measured)
  end

  defp executor(size, %{name: :threads} = executor, measured) do
    "With #{sessions(size)} on #{executor.dirty_io_schedulers} dirty-IO schedulers file I/O would be held up; with native threads it is not. It is what the default, " <>
      ":auto, chooses. For :dirty_io start the VM with +SDio #{executor.sdio} (in vm.args, or ELIXIR_ERL_OPTIONS=\"+SDio #{executor.sdio}\")." <>
      measured(measured)
  end

  defp measured(:auto), do: ""
  defp measured(executor), do: " Measured was --executor #{executor}."

  defp timeout(%{operation_timeout: nil}, _rows), do: []

  defp timeout(%{operation_timeout: timeout, pool_size: size}, rows) do
    row = Enum.find(rows, &(&1.sessions == size))

    item(
      "timeouts",
      "The tail is long: the slowest call took #{number(row.max)} ms (its wait included), half of them #{number(row.p50)} ms or less. " <>
        "operation_timeout: #{delimited(timeout, "_")} leaves room for it, and frees the callers of a call that hangs; the default is 30_000."
    )
  end

  defp sessions(1), do: "1 session"
  defp sessions(size), do: "#{size} sessions"

  @indent 12
  @width 80

  # A paragraph with its name in the margin.
  defp item(name, text) do
    {lines, last} =
      text
      |> String.split(" ")
      |> Enum.reduce({[], ""}, fn
        word, {lines, ""} ->
          {lines, word}

        word, {lines, line} ->
          if String.length(line) + String.length(word) + 1 + @indent <= @width,
            do: {lines, line <> " " <> word},
            else: {[line | lines], word}
      end)

    [first | rest] = Enum.reverse([last | lines])

    [
      [String.pad_trailing(name, @indent), first, "\n"],
      for(line <- rest, do: [String.duplicate(" ", @indent), line, "\n"])
    ]
  end

  ## Numbers

  # Three digits that count.
  defp number(number) when number >= 1_000, do: number |> round() |> delimited()
  defp number(number) when number >= 100, do: Integer.to_string(round(number))
  defp number(number) when number >= 10, do: decimals(number, 1)
  defp number(number) when number >= 1, do: decimals(number, 2)
  defp number(number), do: decimals(number, 3)

  defp decimals(number, decimals), do: :erlang.float_to_binary(number / 1, decimals: decimals)

  defp delimited(integer, delimiter \\ ",") do
    integer |> Integer.to_string() |> String.replace(~r/(?<=\d)(?=(\d{3})+$)/, delimiter)
  end

  defp percent(fraction) do
    sign = if fraction >= 0, do: "+", else: "-"
    "#{sign}#{decimals(abs(fraction * 100), if(abs(fraction) < 0.1, do: 1, else: 0))} %"
  end
end
