# The benchmarks, by way of script/bench, which builds bench/raw and bench/bare first.
#
#     mix run bench/bench.exs --raw PROGRAM --bare LIBRARY [...]
#
# Options: bench/support/options.ex. What is measured: bench/support/grid.ex, queue.ex and floors.ex.

Code.require_file("load.exs", __DIR__)

defmodule Bench do
  alias Bench.{Arena, Context, Floors, Grid, Latency, Machine, Options, Queue, Report}
  alias Pkcs11Pool.Test.SoftHSM

  def run(arguments) do
    case Options.parse(arguments) do
      {:ok, options} ->
        measure(options, arguments)

      {:usage, text} ->
        IO.puts(:stderr, text)
        System.halt(2)
    end
  end

  defp measure(options, arguments) do
    Logger.configure(level: :error)
    SoftHSM.start!()
    Bench.Bare.load!(options.bare)

    try do
      machine = Machine.describe()
      context = Context.new(options.scale, [raw: options.raw] ++ options.context)
      report = report(options, context, machine, command(arguments))
      IO.puts(Report.markdown(report))
      if options.out, do: Report.write!(report, options.out)
    after
      SoftHSM.stop()
    end
  end

  defp report(options, context, machine, command) do
    results = for {spec, names} <- cells(options), do: compare(spec, names, context)

    latency =
      if(wanted?(options, :latency) and not options.floors, do: latency(context), else: [])

    queue = if(wanted?(options, :queue) and not options.floors, do: Queue.run(context))

    floors =
      for group <- Floors.groups(),
          wanted?(options, group),
          row <- floors(group, context),
          do: row

    %{
      machine: machine,
      command: command,
      rounds: context.rounds,
      window: context.window,
      short_window: context.short_window,
      results: results,
      latency: latency,
      queue: queue,
      floors: Floors.rows(results) ++ floors
    }
  end

  defp cells(options) do
    small? = options.scale == :smoke

    all =
      if options.floors, do: Floors.cells(), else: Grid.cells(small?) ++ Grid.slow_cells(small?)

    for {spec, _names} = cell <- all,
        wanted?(options, if(spec.latency, do: :slow, else: spec.operation)) or
          (:bare in options.only and Floors.bare?(spec)),
        do: cell
  end

  defp wanted?(%{only: []}, _part), do: true
  defp wanted?(%{only: only}, part), do: part in only

  defp compare(spec, names, context) do
    say(Arena.title(spec))
    exact? = Floors.cell?(spec) or spec.latency != nil

    Arena.run(
      spec,
      names,
      if(exact?, do: context, else: %{context | window: context.short_window})
    )
  end

  defp latency(context) do
    say("latency against load")
    Latency.run(context)
  end

  defp floors(group, context) do
    say("floors: #{group}")
    Floors.measure(group, context)
  end

  # Where it can be seen and is not in the way.
  defp say(text), do: IO.puts(:stderr, text)

  # Without what script/bench has added.
  defp command(["--raw", _program, "--bare", _library | arguments]), do: command(arguments)
  defp command(arguments), do: Enum.join(["script/bench" | arguments], " ")
end

Bench.run(System.argv())
