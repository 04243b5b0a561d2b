defmodule Bench.OpenLoop do
  @moduledoc """
  Calls that come at their own times, whether those before are done or not, as those of independent users: how long each takes.

  The gaps are exponential, in a sequence that a seed decides. Who asks looks at the clock each millisecond: so calls come in small
  groups, and count from when they are asked for.
  """

  alias Pkcs11Pool.Bench.Statistics

  @typedoc "Milliseconds; how many calls, and how many of them were answered more than `grace/0` ms after the last one was asked for."
  @type answer :: %{p50: float, p99: float, asked: non_neg_integer, late: non_neg_integer}

  @grace 100

  @doc "Milliseconds after which an answer is late."
  @spec grace() :: pos_integer
  def grace, do: @grace

  @doc "When calls come, so many a second in the mean, for so many milliseconds: microseconds from the beginning, in their order."
  @spec times(rate :: number, milliseconds :: pos_integer, seed :: integer) :: [non_neg_integer]
  def times(rate, milliseconds, seed) do
    {0.0, :rand.seed_s(:exsss, seed)}
    |> Stream.iterate(fn {time, seed} ->
      {random, seed} = :rand.uniform_s(seed)
      {time - :math.log(1 - random) * 1.0e6 / rate, seed}
    end)
    |> Stream.drop(1)
    |> Stream.map(fn {time, _seed} -> round(time) end)
    |> Enum.take_while(&(&1 < milliseconds * 1_000))
  end

  @doc "Runs `operation` at these times, each in a process of its own."
  @spec run((() -> term), [non_neg_integer]) :: answer
  def run(operation, times) do
    priority = Process.flag(:priority, :high)
    {tag, bench, started} = {make_ref(), self(), now()}

    ask = fn ->
      asked = now()

      spawn_link(fn ->
        operation.()
        send(bench, {tag, asked, now()})
      end)
    end

    ask_all(times, started, ask)
    ended = now()
    Process.flag(:priority, priority)
    answers = collect(tag, length(times), [])
    passed = for {from, to} <- answers, do: (to - from) / 1_000
    [p50, p99] = if(passed == [], do: [0.0, 0.0], else: Statistics.percentiles(passed, [50, 99]))
    late = Enum.count(answers, fn {_from, to} -> to > ended + @grace * 1_000 end)
    %{p50: p50, p99: p99, asked: length(answers), late: late}
  end

  defp ask_all([], _started, _ask), do: :ok

  defp ask_all(times, started, ask) do
    passed = now() - started
    {due, rest} = Enum.split_while(times, &(&1 <= passed))
    for _time <- due, do: ask.()
    Process.sleep(1)
    ask_all(rest, started, ask)
  end

  defp collect(_tag, 0, answers), do: answers

  defp collect(tag, left, answers) do
    receive do: ({^tag, from, to} -> collect(tag, left - 1, [{from, to} | answers]))
  end

  defp now, do: System.monotonic_time(:microsecond)
end
