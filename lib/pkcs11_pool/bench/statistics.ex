defmodule Pkcs11Pool.Bench.Statistics do
  @moduledoc false
  # What is said of many numbers by few.

  @doc "The median: half of the numbers lie below. Of an even number, the mean of the two in the middle."
  @spec median([number, ...]) :: number
  def median([_ | _] = numbers) do
    sorted = Enum.sort(numbers)
    count = length(sorted)
    upper = Enum.at(sorted, div(count, 2))
    if rem(count, 2) == 1, do: upper, else: (Enum.at(sorted, div(count, 2) - 1) + upper) / 2
  end

  @doc "For each percentage the smallest of the numbers that so many of them do not exceed."
  @spec percentiles([number, ...], [1..100]) :: [number]
  def percentiles([_ | _] = numbers, percentages) do
    sorted = numbers |> Enum.sort() |> List.to_tuple()

    for percent <- percentages do
      rank = ceil(tuple_size(sorted) * percent / 100)
      elem(sorted, rank - 1)
    end
  end
end
