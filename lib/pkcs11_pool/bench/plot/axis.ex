defmodule Pkcs11Pool.Bench.Plot.Axis do
  @moduledoc false
  # An axis with round ticks: its ends are ticks, and every value lies between them.

  @enforce_keys [:low, :high, :ticks]
  defstruct [:low, :high, :ticks]

  @type t :: %__MODULE__{low: number, high: number, ticks: [{number, String.t()}]}

  @doc """
  The axis for these values, with about `count` ticks. It begins at 0, unless a value is below: a cut axis overstates differences. Of
  whole numbers the ticks are whole numbers, too.
  """
  @spec new([number], pos_integer) :: t
  def new(values, count) do
    low = Enum.min([0 | values])
    high = Enum.max([0 | values])
    high = if high == low, do: low + 1, else: high
    least = (high - low) / count
    whole? = Enum.all?(values, &is_integer/1)
    {digit, exponent} = step(if whole?, do: max(least, 1), else: least)
    first = floor(low / power(digit, exponent) + 1.0e-9)
    last = ceil(high / power(digit, exponent) - 1.0e-9)
    ticks = for n <- first..last, do: tick(n * digit, exponent)

    {low, _text} = List.first(ticks)
    {high, _text} = List.last(ticks)
    %__MODULE__{low: low, high: high, ticks: ticks}
  end

  @doc "Where the value lies on the axis: 0.0 at its beginning, 1.0 at its end."
  @spec position(t, number) :: float
  def position(axis, value), do: (value - axis.low) / (axis.high - axis.low)

  # 1, 2 or 5 times a power of ten, not smaller than what is asked for.
  defp step(least) do
    exponent = floor(:math.log10(least) + 1.0e-9)

    case Enum.find([1, 2, 5], &(&1 * :math.pow(10, exponent) >= least * 0.999)) do
      nil -> {1, exponent + 1}
      digit -> {digit, exponent}
    end
  end

  defp power(digit, exponent) when exponent >= 0, do: digit * Integer.pow(10, exponent)
  defp power(digit, exponent), do: digit / Integer.pow(10, -exponent)

  defp tick(n, exponent) do
    value = power(n, exponent)

    text =
      if exponent >= 0,
        do: value |> Integer.to_string() |> grouped(),
        else: :erlang.float_to_binary(value, decimals: -exponent)

    {value, text}
  end

  # 12500 as 12,500.
  defp grouped(digits), do: String.replace(digits, ~r/(?<=\d)(?=(\d{3})+$)/, ",")
end
