defmodule Bench.Stats do
  @moduledoc "Medians with their spreads, a slope."

  alias Pkcs11Pool.Bench.Statistics

  @type summary :: %{median: float, low: float, high: float}

  @doc "The median, and the least and the greatest."
  @spec summary([number, ...]) :: summary
  def summary(values) do
    {low, high} = Enum.min_max(values)
    %{median: median(values), low: low * 1.0, high: high * 1.0}
  end

  @spec median([number, ...]) :: float
  def median(values), do: Statistics.median(values) * 1.0

  @doc "The slope of the line that fits the points best (least squares), and twice its standard error less and more."
  @spec slope([{number, number}, ...]) :: summary
  def slope(points) do
    count = length(points)
    mean_x = Enum.sum(for {x, _y} <- points, do: x) / count
    mean_y = Enum.sum(for {_x, y} <- points, do: y) / count
    spread = Enum.sum(for {x, _y} <- points, do: (x - mean_x) * (x - mean_x))
    slope = Enum.sum(for {x, y} <- points, do: (x - mean_x) * (y - mean_y)) / spread
    rest = for {x, y} <- points, do: y - mean_y - slope * (x - mean_x)
    error = :math.sqrt(Enum.sum(for r <- rest, do: r * r) / max(count - 2, 1) / spread)
    %{median: slope, low: slope - 2 * error, high: slope + 2 * error}
  end
end
