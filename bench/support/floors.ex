defmodule Bench.Floors do
  @moduledoc "The figures that the pool must reach, each as a ratio within one run: from the comparisons, or measured for themselves."

  alias Bench.{Arena, Context, Grid, Row}
  alias Bench.Floors.{Calls, FileRead, Keys, Memory, Queue, Tail}

  # {operation, latency, sessions, callers, contender, at least so much of raw}
  @of_raw [
            for sessions <- [2, 8], pool <- ["pool :dirty_io", "pool :threads"] do
              {:rsa, nil, sessions, 32, pool, 0.97}
            end,
            for pool <- ["pool :dirty_io", "pool :threads"] do
              {:ec, nil, 8, 32, pool, 0.95}
            end,
            for pool <- ["pool :dirty_io", "pool :threads"] do
              {:hmac, nil, 8, 32, pool, 0.85}
            end,
            {:hmac, nil, 1, 1, "pool at once", 0.75},
            {:hmac, nil, 1, 1, "batch of 64", 0.92},
            for latency <- [:sign, :size_query], sessions <- [8, 32, 64] do
              {:hmac, latency, sessions, 200, "pool", 0.97}
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
    @of_raw
    |> Enum.group_by(&spec/1, &elem(&1, 4))
    |> Enum.map(fn {spec, names} -> {spec, ["raw" | names]} end)
    |> Enum.sort_by(fn {spec, _names} ->
      {spec.latency && spec.latency.size_query, spec.operation, spec.sessions}
    end)
  end

  @doc "Whether a row comes from this comparison."
  @spec cell?(Arena.spec()) :: boolean
  def cell?(spec), do: Enum.any?(@of_raw, &(spec(&1) == spec))

  @doc "The rows that come from these comparisons."
  @spec rows([Arena.result()]) :: [Row.t()]
  def rows(results) do
    for {_, _, _, _, name, floor} = known <- @of_raw,
        result <- results,
        result.spec == spec(known),
        name in Arena.names(result) do
      rate = Arena.rate(result, name).median
      raw = Arena.rate(result, "raw").median

      %Row{
        work: "#{Arena.title(result.spec)}: #{name}",
        floor: {:at_least, floor},
        of: "× raw",
        measured: Arena.ratio(result, name),
        note: "#{round(rate)} against #{round(raw)} ops/s"
      }
    end
  end

  defp spec({operation, latency, sessions, callers, _name, _floor}),
    do: Grid.spec(operation, sessions, callers, latency && Grid.slow(latency))
end
