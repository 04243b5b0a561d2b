defmodule Bench.Floors do
  @moduledoc "The figures that the pool must reach, each as a ratio within one run: from the comparisons, or measured for themselves."

  alias Bench.{Arena, Context, Grid, Row}
  alias Bench.Floors.{Calls, FileRead, Keys, Memory, Queue, Tail}

  # {operation, latency, sessions, callers, contender, at least so much, of whom}
  @known [
           for sessions <- [2, 8], pool <- ["pool :dirty_io", "pool :threads"] do
             {:rsa, nil, sessions, 32, pool, 0.97, "raw"}
           end,
           for pool <- ["pool :dirty_io", "pool :threads"] do
             {:ec, nil, 8, 32, pool, 0.95, "raw"}
           end,
           for pool <- ["pool :dirty_io", "pool :threads"] do
             {:hmac, nil, 8, 32, pool, 0.85, "raw"}
           end,
           for operation <- [:rsa, :ec, :hmac],
               sessions <- [2, 8],
               executor <- [":dirty_io", ":threads"] do
             {operation, nil, sessions, 32, "pool " <> executor, 0.97, "bare " <> executor}
           end,
           {:hmac, nil, 1, 1, "pool at once", 0.75, "raw"},
           {:hmac, nil, 1, 1, "batch of 64", 0.92, "raw"},
           for latency <- [:sign, :size_query], sessions <- [8, 32, 64] do
             {:hmac, latency, sessions, 200, "pool", 0.97, "raw"}
           end
         ]
         |> List.flatten()

  @groups [
    calls: &Calls.rows/1,
    empty: &Queue.empty/1,
    mailbox: &Queue.mailbox/1,
    waiters: &Queue.waiters/1,
    keys: &Keys.rows/1,
    file_read: &FileRead.rows/1,
    tail: &Tail.rows/1,
    memory: &Memory.rows/1
  ]

  @doc "The groups of rows that are measured for themselves."
  @spec groups() :: [atom]
  def groups, do: Keyword.keys(@groups)

  @doc "The rows of a group."
  @spec measure(atom, Context.t()) :: [Row.t()]
  def measure(group, context), do: @groups[group].(context)

  @doc "The comparisons that the other rows come from, with nobody in them but whom they are about."
  @spec cells() :: [Grid.cell()]
  def cells do
    @known
    |> Enum.group_by(&spec/1, &[elem(&1, 4), elem(&1, 6)])
    |> Enum.map(fn {spec, names} -> {spec, Enum.uniq(["raw" | List.flatten(names)])} end)
    |> Enum.sort_by(fn {spec, _names} ->
      {spec.latency && spec.latency.size_query, spec.operation, spec.sessions}
    end)
  end

  @doc "Whether a row comes from this comparison."
  @spec cell?(Arena.spec()) :: boolean
  def cell?(spec), do: Enum.any?(@known, &(spec(&1) == spec))

  @doc "Whether a row that comes from this comparison is about the bare runners."
  @spec bare?(Arena.spec()) :: boolean
  def bare?(spec), do: Enum.any?(@known, &(spec(&1) == spec and elem(&1, 6) =~ "bare"))

  @doc "The rows that come from these comparisons."
  @spec rows([Arena.result()]) :: [Row.t()]
  def rows(results) do
    for {_, _, _, _, name, floor, base} = known <- @known,
        result <- results,
        result.spec == spec(known),
        [name, base] -- Arena.names(result) == [] do
      rate = Arena.rate(result, name).median
      of = Arena.rate(result, base).median

      %Row{
        work: "#{Arena.title(result.spec)}: #{name}",
        floor: {:at_least, floor},
        of: "× #{base}",
        measured: Arena.ratio(result, name, base),
        note:
          "#{round(rate)} against #{round(of)} ops/s, #{cost(result, name)} against #{cost(result, base)} µs of processor time"
      }
    end
  end

  defp cost(result, name), do: Float.round(Arena.cost(result, name).median, 1)

  defp spec({operation, latency, sessions, callers, _name, _floor, _base}),
    do: Grid.spec(operation, sessions, callers, latency && Grid.slow(latency))
end
