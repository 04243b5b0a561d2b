# How an operation's cost grows with callers, sessions, pools and cores, by way of script/scale, which builds what it needs.
#
#     mix run bench/scale.exs --bare LIBRARY --state PROGRAM [--only PART] [--rounds N] [--window MS] [--out FILE] [--smoke]

Code.require_file("load.exs", __DIR__)

defmodule ScaleRun do
  alias Bench.{Machine, Scale, Tokens}
  alias Bench.Scale.{Cores, Table}
  alias Pkcs11Pool.Test.SoftHSM

  @switches [
    bare: :string,
    state: :string,
    only: :keep,
    rounds: :integer,
    window: :integer,
    out: :string,
    smoke: :boolean,
    points: :boolean
  ]

  # Of the simulation.
  @cores [1, 2, 4, 8, 16, 32, 64, 128]

  def run(arguments) do
    {options, [], []} = OptionParser.parse(arguments, strict: @switches)
    Logger.configure(level: :error)
    SoftHSM.start!()

    try do
      Bench.Bare.load!(options[:bare])
      smoke? = Keyword.get(options, :smoke, false)

      context = %{
        token: Tokens.new!(),
        small?: smoke?,
        rounds: options[:rounds] || if(smoke?, do: 1, else: 3),
        window: options[:window] || if(smoke?, do: 20, else: 400)
      }

      if options[:points],
        do:
          IO.puts(
            context
            |> Scale.on_these_cores()
            |> :erlang.term_to_binary()
            |> Base.encode64()
          ),
        else: report(options, context, arguments)
    after
      SoftHSM.stop()
    end
  end

  defp report(options, context, arguments) do
    only = Keyword.get_values(options, :only)
    wanted? = fn name -> only == [] or Atom.to_string(name) in only end
    machine = Machine.describe()
    state = if(wanted?.(:state) or wanted?.(:cores), do: state(options[:state]), else: [])

    parts =
      [if(wanted?.(:state), do: structures(state), else: [])] ++
        for(name <- Scale.names(), wanted?.(name), do: table(name, context)) ++
        [if(wanted?.(:cores), do: cores(state, arguments), else: [])]

    parts = Enum.reject(parts, &(&1 == []))
    text = [head(machine, context), Enum.map(parts, &["\n", &1])]
    IO.puts(text)
    if options[:out], do: File.write!(options[:out], text)
  end

  defp head(machine, context) do
    [
      "# What an operation costs, by how much there is of everything\n\n",
      "`script/scale`: medians of #{context.rounds} rounds, windows of #{context.window} ms. ",
      "[What they say](README.md#how-it-scales).\n\n",
      "A cell is: microseconds of processor time for an operation (their ratio to those of the row with 1.00), how often a thread goes ",
      "to sleep for one, thousands of operations a second. In the table of a second: microseconds of it, sleeps.\n\n",
      "| | |\n| --- | --- |\n",
      for({name, text} <- machine, do: "| #{name} | #{text} |\n")
    ]
  end

  defp table(name, context) do
    IO.puts(:stderr, "#{name}")
    name |> Scale.run(context) |> Table.markdown()
  end

  ## The state machines, alone

  # [{name, size, nanoseconds}]
  defp state(program) do
    {output, 0} = System.cmd(program, [])

    for line <- String.split(output, "\n", trim: true) do
      [name, size, nanos] = String.split(line, "\t")
      {name, String.to_integer(size), String.to_integer(nanos)}
    end
  end

  defp structures(state) do
    [
      "## The pool's state machines, alone\n\n",
      "Nanoseconds, on one thread, with nothing else (`bench/state`): the quickest of several rounds.\n\n",
      for group <- Enum.chunk_by(state, &elem(&1, 0)) do
        [{name, _size, _nanos} | _] = group

        [
          line([name | for({_name, size, _nanos} <- group, do: size)]),
          line(["---" | for(_ <- group, do: "---:")]),
          line(["" | for({_name, _size, nanos} <- group, do: nanos)]),
          "\n"
        ]
      end
    ]
  end

  ## Cores

  defp cores(state, arguments) do
    IO.puts(:stderr, "cores")
    [one, two] = for cores <- ["0", "0,1"], do: points(cores, arguments)

    measured =
      for {{name, one, bare1}, {name, two, bare2}} <- Enum.zip(one, two),
          do: {name, {one, two}, {bare1, bare2}}

    # The time of both visits, all of which may be under the lock.
    {_name, _size, nanos} = Enum.find(state, &match?({"an operation queues" <> _, 100, _}, &1))
    hold = nanos / 2_000

    on_one = fn operation ->
      {_name, {cost, _two}, _bare} =
        Enum.find(measured, fn {name, _pool, _bare} -> String.starts_with?(name, operation) end)

      cost
    end

    [
      "### Cores\n\n",
      "Measured (`taskset`): microseconds of processor time for an operation on one core and on two, and the ratio of the two.\n\n",
      line([
        "",
        "pool: 1 core",
        "2 cores",
        "ratio",
        "the simulation's",
        "bare: 1 core",
        "2 cores",
        "ratio"
      ]),
      line(["---" | for(_ <- 1..7, do: "---:")]),
      for {name, {one, _two} = pool, bare} <- measured do
        line([name | ratio(pool) ++ [growth(2, one, hold) | ratio(bare)]])
      end,
      "\nSimulated (`bench/support/scale/cores.ex`): the cost of an operation as a ratio to that on one core, if the pool's lock is held for ",
      "#{round(hold * 1_000)} ns twice in each.\n\n",
      line(["cores" | @cores]),
      line(["---" | for(_ <- @cores, do: "---:")]),
      for {name, cost} <-
            for(operation <- ["nothing", "HMAC", "P-256"], do: {operation, on_one.(operation)}) ++
              [{"RSA-2048", 700}] do
        line([
          "#{name} (#{decimals(cost)} µs)" | for(cores <- @cores, do: growth(cores, cost, hold))
        ])
      end
    ]
  end

  defp ratio({one, two}), do: [decimals(one), decimals(two), decimals(two / max(one, 0.01))]

  defp growth(cores, cost, hold) do
    work = max(cost - 2 * hold, 0.01)
    decimals(Cores.cost(cores, work, hold) / Cores.cost(1, work, hold))
  end

  # A VM of its own, that sees these cores only.
  defp points(cores, arguments) do
    command =
      ["-c", cores, "mix", "run", "--no-compile", "bench/scale.exs", "--points"] ++ arguments

    {output, 0} = System.cmd("taskset", command)

    output
    |> String.split("\n", trim: true)
    |> List.last()
    |> Base.decode64!()
    |> :erlang.binary_to_term([:safe])
  end

  defp line(cells), do: ["| ", Enum.map_intersperse(cells, " | ", &to_string/1), " |\n"]
  defp decimals(number), do: :erlang.float_to_binary(number * 1.0, decimals: 2)
end

ScaleRun.run(System.argv())
