defmodule Bench.Arena do
  @moduledoc """
  One comparison: the contenders on one token, in rounds. Each round runs every one of them for a short while, in another order; so whatever
  else the machine does hits all of them, and ratios are those of one round.
  """

  alias Bench.{Contender, Processor, Stats, Tokens, Work}

  # Milliseconds.
  @first_window 100

  @type spec :: %{
          operation: Work.name(),
          latency: Tokens.latency() | nil,
          sessions: pos_integer,
          callers: pos_integer
        }

  @typedoc "Operations a second, of each contender in each round, and microseconds of processor time that one took; who was left out, and why."
  @type result :: %{
          spec: spec,
          rounds: [%{String.t() => float}],
          costs: [%{String.t() => float}],
          skipped: [{String.t(), String.t()}]
        }

  @doc "Runs it."
  @spec run(spec, [String.t()], Bench.Context.t()) :: result
  def run(spec, names, context) do
    with_running(spec, names, context, fn running, skipped ->
      rounds =
        for round <- 1..context.rounds do
          for {name, running} <- turned(running, round) do
            {rate, cost} = measure(running, context)
            {{name, rate}, {name, cost}}
          end
        end

      {rates, costs} = rounds |> Enum.map(&Enum.unzip/1) |> Enum.unzip()
      %{spec: spec, rounds: maps(rates), costs: maps(costs), skipped: skipped}
    end)
  end

  @doc "Contenders on a token, for as long as `fun` runs, which gets them and who was left out. Each has given a right output."
  @spec with_running(
          spec,
          [String.t()],
          Bench.Context.t(),
          ([{String.t(), Contender.running()}], [{String.t(), String.t()}] -> result)
        ) :: result
        when result: term
  def with_running(spec, names, context, fun) do
    plain = if(spec.latency, do: context.slow_token, else: context.token)
    token = Tokens.slow!(plain, spec.latency)
    arena = Map.merge(spec, %{token: token, raw: context.raw})

    started =
      for {name, module, options} <- Contender.named(names),
          do: {name, module.start(arena, options)}

    [{"raw", {:ok, _measure}} | _others] = started
    running = for {name, {:ok, running}} <- started, do: {name, running}
    skipped = for {name, {:skip, reason}} <- started, do: {name, reason}

    try do
      for {name, running} <- running do
        Work.check!(spec.operation, running.sample.(), token, name)

        # Once unmeasured: compilers that wait for code to become hot, keys that are still to be found.
        running.rate.(context.warm_up, @first_window)
      end

      fun.(running, skipped)
    after
      # The last one that begins on the module ends first on it.
      for {_name, running} <- Enum.reverse(running), do: running.stop.()
      Tokens.fast(token)
    end
  end

  # The operations of the warm-up, which cost as much as the others, are those of a window of that length.
  defp measure(running, context) do
    {used, started} = {Processor.time(running.os_pid), System.monotonic_time()}
    rate = running.rate.(context.warm_up, context.window)
    {used, passed} = {Processor.time(running.os_pid) - used, System.monotonic_time() - started}
    seconds = System.convert_time_unit(passed, :native, :microsecond) / 1.0e6
    {rate, used / max(rate * seconds, 1)}
  end

  defp maps(lists), do: Enum.map(lists, &Map.new/1)

  # Another one begins each time.
  defp turned(list, round) do
    {front, back} = Enum.split(list, rem(round, length(list)))
    back ++ front
  end

  @doc "The comparison in words."
  @spec title(spec) :: String.t()
  def title(spec) do
    Enum.join(
      [token(spec), plural(spec.sessions, "session"), plural(spec.callers, "caller")],
      ", "
    )
  end

  @doc "The operation and the token in words."
  @spec token(spec) :: String.t()
  def token(%{latency: nil, operation: operation}), do: Work.title(operation)

  def token(%{latency: %{sign: sign, size_query: 0}}), do: "HSM of #{sign} ms"

  def token(%{latency: %{sign: sign, size_query: query}}),
    do: "HSM of #{sign} ms, size query #{query} ms"

  defp plural(1, noun), do: "1 #{noun}"
  defp plural(count, noun), do: "#{count} #{noun}s"

  @doc "The names that have figures."
  @spec names(result) :: [String.t()]
  def names(%{rounds: [round | _]}), do: Map.keys(round)

  @doc "Operations a second."
  @spec rate(result, String.t()) :: Stats.summary()
  def rate(result, name), do: Stats.summary(for round <- result.rounds, do: round[name])

  @doc "Microseconds of processor time for an operation."
  @spec cost(result, String.t()) :: Stats.summary()
  def cost(result, name), do: Stats.summary(for round <- result.costs, do: round[name])

  @doc "How one compares with another in the same round."
  @spec ratio(result, String.t(), String.t()) :: Stats.summary()
  def ratio(result, name, base \\ "raw"),
    do: Stats.summary(for round <- result.rounds, do: round[name] / max(round[base], 0.001))
end
