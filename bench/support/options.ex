defmodule Bench.Options do
  @moduledoc "The command line of script/bench."

  alias Bench.{Floors, Work}

  @type t :: %{
          scale: :full | :quick | :smoke,
          floors: boolean,
          only: [atom],
          out: Path.t() | nil,
          raw: Path.t(),
          bare: Path.t(),
          context: keyword
        }

  # Where the results of a whole run belong.
  @home Path.expand("..", __DIR__)

  @switches [
    quick: :boolean,
    smoke: :boolean,
    floors: :boolean,
    only: :keep,
    out: :string,
    raw: :string,
    bare: :string,
    rounds: :integer,
    window: :integer
  ]

  @doc "The parts that `--only` names."
  @spec parts() :: [atom]
  def parts, do: Work.names() ++ [:slow, :bare, :latency, :queue] ++ Floors.groups()

  defp usage do
    """
    usage: script/bench [--quick] [--floors] [--only PART] [--rounds N] [--window MS] [--out FOLDER]

      --quick    a third of the rounds, shorter windows: a look, no figures to quote
      --floors   only what the floor table needs
      --only     a part, as often as wanted: #{Enum.join(parts(), ", ")};
                 latency: how long calls take, by how much is asked for;
                 --floors --only bare: only the pool, bare runners and raw
      --rounds   rounds of each comparison (7)
      --window   milliseconds of what a floor depends on (350)
      --out      the folder for RESULTS.md, results.json and plots; by default bench, if everything is measured in full, else none\
    """
  end

  @doc "What is asked for; how to ask, if that cannot be understood."
  @spec parse([String.t()]) :: {:ok, t} | {:usage, String.t()}
  def parse(arguments) do
    {options, rest, unknown} = OptionParser.parse(arguments, strict: @switches)
    only = options |> Keyword.get_values(:only) |> Enum.map(&part/1)
    context = Keyword.take(options, [:rounds, :window])

    if rest == [] and unknown == [] and nil not in only and
         options[:raw] != nil and options[:bare] != nil and
         Enum.all?(context, fn {_name, number} -> number > 0 end),
       do: {:ok, options(options, only, context)},
       else: {:usage, usage()}
  end

  defp options(options, only, context) do
    scale = scale(options)
    floors = Keyword.get(options, :floors, false)
    whole? = scale == :full and not floors and only == []

    %{
      scale: scale,
      floors: floors,
      only: only,
      out: options[:out] || if(whole?, do: @home),
      raw: options[:raw],
      bare: options[:bare],
      context: context
    }
  end

  defp scale(options) do
    cond do
      options[:smoke] -> :smoke
      options[:quick] -> :quick
      true -> :full
    end
  end

  defp part(name), do: Enum.find(parts(), &(Atom.to_string(&1) == name))
end
