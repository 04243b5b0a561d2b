defmodule Bench.Latency do
  @moduledoc "How long calls take, by how much is asked of a token: open loops (`Bench.OpenLoop`), up to nearly what the module can do."

  alias Bench.{Arena, Context, Grid, OpenLoop, Stats}

  @names ["raw", "pool", "bare :threads", "original", "poolboy", "SunPKCS11"]
  @loads [10, 30, 50, 70, 80, 90, 95]

  @typedoc "Medians of the rounds, in milliseconds, by contender and load; `nil`: more than a hundredth of its answers were late, or nothing was asked for."
  @type result :: %{
          spec: Arena.spec(),
          capacity: float,
          loads: [pos_integer],
          times: [{String.t(), [%{load: pos_integer, p50: float, p99: float} | nil]}],
          skipped: [{String.t(), String.t()}]
        }

  @doc "Runs it: on SoftHSM, and on an HSM of 5 ms."
  @spec run(Context.t()) :: [result]
  def run(context) do
    for spec <- [Grid.spec(:rsa, 4, 4), Grid.spec(:hmac, 8, 8, Grid.slow(:sign))] do
      Arena.with_running(spec, @names, context, &measure(spec, &1, &2, context))
    end
  end

  defp measure(spec, [{"raw", raw} | running], skipped, context) do
    window = Context.scaled(context, 1_000, 300, 50)
    loads = Context.scaled(context, @loads, @loads, [10, 50])
    rounds = Context.scaled(context, 3, 1, 1)

    capacity =
      Stats.median(for _round <- 1..rounds, do: raw.rate.(context.warm_up, context.window))

    answers =
      for round <- 1..rounds,
          load <- loads,
          # The same for all of them.
          times = OpenLoop.times(capacity * load / 100, window, round),
          {name, contender} <- running do
        {{name, load}, contender.latency.(times)}
      end
      |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))

    times =
      for {name, _contender} <- running,
          do: {name, for(load <- loads, do: median(load, answers[{name, load}]))}

    %{spec: spec, capacity: capacity, loads: loads, times: times, skipped: skipped}
  end

  defp median(load, answers) do
    sum = fn key -> Enum.sum(for answer <- answers, do: answer[key]) end
    [p50, p99] = for key <- [:p50, :p99], do: Stats.median(for answer <- answers, do: answer[key])

    if sum.(:asked) > 0 and sum.(:late) * 100 <= sum.(:asked),
      do: %{load: load, p50: p50, p99: p99}
  end
end
