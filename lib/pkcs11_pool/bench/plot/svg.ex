defmodule Pkcs11Pool.Bench.Plot.Svg do
  @moduledoc false
  # One file without scripts, fonts or anything else from elsewhere, readable on light and on dark.

  alias Pkcs11Pool.Bench.Plot.Axis

  @left 84
  @top 52
  @plot_width 560
  @plot_height 300
  @bottom 64
  # Of a letter of the legend, and of the title, roughly.
  @letter 7.5
  @title_letter 9.5

  # Told apart on light and on dark, also by most who see few colours.
  @colours ~w(#3b82c4 #d97706 #2f9e6e #c2528b #8b6fd1 #7a8794 #c0392b #1aa3a3 #a0652d #b59a00)

  @style """
  .paper { fill: #ffffff } .text { fill: #24292f } .grid { stroke: #d8dee4 } .axis { stroke: #57606a }
  text { font: 13px sans-serif } .title { font: bold 16px sans-serif }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .text { fill: #e6edf3 } .grid { stroke: #30363d } .axis { stroke: #8b949e }
  }
  """

  @doc false
  @spec draw(String.t(), String.t(), String.t(), Pkcs11Pool.Bench.Plot.series()) :: iodata
  def draw(title, x_label, y_label, series) do
    points = Enum.flat_map(series, fn {_name, points} -> points end)
    x_axis = points |> Enum.map(&elem(&1, 0)) |> Axis.new(8)
    y_axis = points |> Enum.map(&elem(&1, 1)) |> Axis.new(6)
    width = @left + max(@plot_width + legend_width(series), title_width(title))
    height = @top + @plot_height + @bottom

    [
      ~s(<svg xmlns="http://www.w3.org/2000/svg" width="#{width}" height="#{height}" ),
      ~s(viewBox="0 0 #{width} #{height}" role="img">\n),
      "<title>#{escape(title)}</title>\n<style>\n#{@style}</style>\n",
      ~s(<rect class="paper" width="#{width}" height="#{height}"/>\n),
      text(@left, 28, title, "start", "title text"),
      Enum.map(x_axis.ticks, &x_tick(&1, x_axis)),
      Enum.map(y_axis.ticks, &y_tick(&1, y_axis)),
      line("axis", @left, bottom(), @left + @plot_width, bottom()),
      line("axis", @left, @top, @left, bottom()),
      text(@left + @plot_width / 2, bottom() + 46, x_label, "middle"),
      ~s(<g transform="rotate\(-90\)">),
      text(-(@top + @plot_height / 2), 20, y_label, "middle"),
      "</g>\n",
      series
      |> Enum.zip(Stream.cycle(@colours))
      |> Enum.with_index(fn {{name, points}, colour}, index ->
        [curve(points, x_axis, y_axis, colour), legend(name, index, colour)]
      end),
      "</svg>\n"
    ]
  end

  defp x_tick({value, tick}, axis) do
    x = x(axis, value)
    [line("grid", x, @top, x, bottom()), text(x, bottom() + 20, tick, "middle")]
  end

  defp y_tick({value, tick}, axis) do
    y = y(axis, value)
    [line("grid", @left, y, @left + @plot_width, y), text(@left - 8, y + 4, tick, "end")]
  end

  defp curve(points, x_axis, y_axis, colour) do
    places = for {x, y} <- Enum.sort(points), do: {x(x_axis, x), y(y_axis, y)}
    path = Enum.map_join(places, " ", fn {x, y} -> "#{number(x)},#{number(y)}" end)

    [
      ~s(<polyline class="line" stroke="#{colour}" points="#{path}"/>\n),
      for({x, y} <- places, do: dot(x, y, colour))
    ]
  end

  defp legend(name, index, colour) do
    x = @left + @plot_width + 24
    y = @top + 8 + index * 22
    [dot(x, y, colour), text(x + 12, y + 4, name, "start")]
  end

  defp legend_width(series) do
    longest =
      for {name, _points} <- series, reduce: 0, do: (most -> max(most, String.length(name)))

    ceil(24 + 12 + longest * @letter + 16)
  end

  defp title_width(title), do: ceil(String.length(title) * @title_letter)

  defp bottom, do: @top + @plot_height
  defp x(axis, value), do: @left + Axis.position(axis, value) * @plot_width
  defp y(axis, value), do: bottom() - Axis.position(axis, value) * @plot_height

  defp line(class, x1, y1, x2, y2) do
    ~s(<line class="#{class}" x1="#{number(x1)}" y1="#{number(y1)}" x2="#{number(x2)}" y2="#{number(y2)}"/>\n)
  end

  defp dot(x, y, colour) do
    ~s(<circle cx="#{number(x)}" cy="#{number(y)}" r="3.5" fill="#{colour}"/>\n)
  end

  defp text(x, y, text, anchor, class \\ "text") do
    ~s(<text class="#{class}" x="#{number(x)}" y="#{number(y)}" text-anchor="#{anchor}">#{escape(text)}</text>\n)
  end

  defp number(number) when is_integer(number), do: Integer.to_string(number)

  defp number(number),
    do: :erlang.float_to_binary(number, [:compact, decimals: 1])

  defp escape(text) do
    text
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
    |> String.replace("\"", "&quot;")
  end
end
