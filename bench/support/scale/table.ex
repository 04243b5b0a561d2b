defmodule Bench.Scale.Table do
  @moduledoc "What an operation costs at several sizes of something, and how that grows."

  alias Bench.Stats

  @typedoc "Microseconds of processor time and sleeps of threads for an operation, operations a second."
  @type sample :: %{cost: float, sleeps: float, rate: float}

  @typedoc "What grows, and the samples of each contestant at each size."
  @type t :: %__MODULE__{
          title: String.t(),
          unit: String.t(),
          base: pos_integer,
          rows: [{size :: pos_integer, [{String.t(), [sample]}]}]
        }

  @enforce_keys [:title, :unit, :base, :rows]
  defstruct @enforce_keys

  @doc "How much an operation of one contestant costs at a size, as a ratio to what it costs at the table's base."
  @spec growth(t, String.t(), pos_integer) :: float
  def growth(table, name, size),
    do: median(table, name, size) / max(median(table, name, base(table)), 0.001)

  # The nearest size there is: in small tables the base may be missing.
  defp base(%{base: base, rows: rows}),
    do: rows |> Enum.map(&elem(&1, 0)) |> Enum.min_by(&abs(&1 - base))

  defp median(table, name, size, key \\ :cost) do
    {^size, row} = List.keyfind!(table.rows, size, 0)
    {^name, samples} = List.keyfind!(row, name, 0)
    Stats.median(for sample <- samples, do: sample[key])
  end

  @doc "The table as Markdown."
  @spec markdown(t) :: iodata
  def markdown(%{rows: [{_size, row} | _]} = table) do
    names = for {name, _samples} <- row, do: name

    [
      "### #{table.title}\n\n",
      line([table.unit | names]),
      line(["---:" | Enum.map(names, fn _ -> "---:" end)]),
      for {size, _row} <- table.rows do
        line([size | Enum.map(names, &cell(table, &1, size))])
      end
    ]
  end

  defp cell(table, name, size) do
    [cost, sleeps, rate] = for key <- [:cost, :sleeps, :rate], do: median(table, name, size, key)

    growth =
      if(median(table, name, base(table)) > 0,
        do: " (#{decimals(growth(table, name, size), 2)})",
        else: ""
      )

    "#{decimals(cost, 1)}#{growth}, #{decimals(sleeps, 2)}, #{decimals(rate / 1_000, 1)}"
  end

  defp line(cells), do: ["| ", Enum.map_intersperse(cells, " | ", &to_string/1), " |\n"]

  defp decimals(number, count), do: :erlang.float_to_binary(number * 1.0, decimals: count)
end
