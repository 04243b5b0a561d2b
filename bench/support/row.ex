defmodule Bench.Row do
  @moduledoc "A row of the floor table: some work, the figure that it must reach, and the one that was measured."

  alias Bench.Stats

  @type floor :: {:at_least | :at_most, number}

  @type t :: %__MODULE__{
          work: String.t(),
          floor: floor,
          of: String.t(),
          measured: Stats.summary(),
          note: String.t()
        }

  @enforce_keys [:work, :floor, :of, :measured]
  defstruct @enforce_keys ++ [note: ""]

  @doc "Whether the median reaches its floor."
  @spec reached?(t) :: boolean
  def reached?(%{floor: {:at_least, floor}, measured: measured}), do: measured.median >= floor
  def reached?(%{floor: {:at_most, floor}, measured: measured}), do: measured.median <= floor

  @doc "The measured of some rounds. Odd ones run the second function first."
  @spec alternating(pos_integer, (pos_integer -> a), (pos_integer -> b)) :: [{a, b}]
        when a: term, b: term
  def alternating(rounds, one, other) do
    for round <- 1..rounds do
      if rem(round, 2) == 0 do
        first = one.(round)
        {first, other.(round)}
      else
        second = other.(round)
        {one.(round), second}
      end
    end
  end
end
