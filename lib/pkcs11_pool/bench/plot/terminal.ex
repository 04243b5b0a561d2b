defmodule Pkcs11Pool.Bench.Plot.Terminal do
  @moduledoc false
  # Curves of braille dots, or of ASCII dots; the points themselves have a mark, so that the series
  # are told apart without colour.

  alias Pkcs11Pool.Bench.Plot.Axis

  @least_columns 16
  @colours [:cyan, :yellow, :green, :magenta, :red, :blue]

  # Dots of a cell (columns, rows), what a cell's dots look like, marks, and the lines of the axes.
  @unicode %{dots: {2, 4}, marks: ~w(● ○ ■ □ ▲ △), vertical: "│", corner: "└", horizontal: "─"}
  @ascii %{dots: {1, 1}, marks: ~w(* o # x + @), vertical: "|", corner: "+", horizontal: "-"}

  @doc false
  @spec draw(Pkcs11Pool.Bench.Plot.series(), map) :: iodata
  def draw(series, options) do
    style = if options.unicode, do: @unicode, else: @ascii
    points = Enum.flat_map(series, fn {_name, points} -> points end)
    y_axis = points |> Enum.map(&elem(&1, 1)) |> Axis.new(max(div(options.height, 3), 1))
    margin = y_axis.ticks |> Enum.map(fn {_y, text} -> String.length(text) end) |> Enum.max()
    columns = max(options.width - margin - 3, @least_columns)
    x_axis = points |> Enum.map(&elem(&1, 0)) |> Axis.new(max(div(columns, 8), 1))
    canvas = %{columns: columns, rows: options.height, style: style, x: x_axis, y: y_axis}

    marked = series |> Enum.zip(Stream.cycle(Enum.zip(style.marks, @colours)))
    cells = Enum.reduce(marked, %{}, &curve(&1, &2, canvas))
    cells = Enum.reduce(marked, cells, &marks(&1, &2, canvas))

    [
      for(row <- 0..(canvas.rows - 1), do: row(row, cells, canvas, margin, options)),
      [String.duplicate(" ", margin + 1), style.corner],
      [String.duplicate(style.horizontal, columns), "\n"],
      [String.duplicate(" ", margin + 2), x_ticks(canvas), "\n"],
      legend(marked, margin, options)
    ]
  end

  ## Cells: {column, row} => {dots or a mark, colour}

  defp curve({{_name, points}, {_mark, colour}}, cells, canvas) do
    points
    |> Enum.sort()
    |> Enum.chunk_every(2, 1, :discard)
    |> Enum.flat_map(fn [from, to] -> segment(dot(from, canvas), dot(to, canvas)) end)
    |> Enum.reduce(cells, &set(&1, &2, colour, canvas.style.dots))
  end

  defp marks({{_name, points}, {mark, colour}}, cells, canvas) do
    {wide, high} = canvas.style.dots

    for point <- points, into: cells do
      {x, y} = dot(point, canvas)
      {{div(x, wide), div(y, high)}, {mark, colour}}
    end
  end

  # Where a point lies, in dots from the upper left corner.
  defp dot({x, y}, canvas) do
    {wide, high} = canvas.style.dots

    {round(Axis.position(canvas.x, x) * (canvas.columns * wide - 1)),
     round((1 - Axis.position(canvas.y, y)) * (canvas.rows * high - 1))}
  end

  defp segment({x1, y1}, {x2, y2}) do
    steps = Enum.max([abs(x2 - x1), abs(y2 - y1), 1])

    for n <- 0..steps,
        do: {x1 + round((x2 - x1) * n / steps), y1 + round((y2 - y1) * n / steps)}
  end

  defp set({x, y}, cells, colour, {wide, high}) do
    bit = {rem(x, wide), rem(y, high)}

    Map.update(cells, {div(x, wide), div(y, high)}, {[bit], colour}, fn {bits, _colour} ->
      {[bit | bits], colour}
    end)
  end

  ## Lines

  defp row(row, cells, canvas, margin, options) do
    tick = canvas.y.ticks |> Enum.find(&(row_of(&1, canvas) == row))
    text = if tick, do: elem(tick, 1), else: ""

    [
      String.pad_leading(text, margin),
      [" ", canvas.style.vertical],
      for(column <- 0..(canvas.columns - 1), do: cell(cells[{column, row}], options)),
      "\n"
    ]
  end

  defp row_of({value, _text}, canvas) do
    {_wide, high} = canvas.style.dots
    {_x, y} = dot({canvas.x.low, value}, canvas)
    div(y, high)
  end

  defp cell(nil, _options), do: " "
  defp cell({what, colour}, options), do: coloured(glyph(what, options), colour, options)

  defp glyph(mark, _options) when is_binary(mark), do: mark
  defp glyph(_bits, %{unicode: false}), do: "."

  defp glyph(bits, _options) do
    dots = bits |> Enum.map(&braille/1) |> Enum.reduce(0, &Bitwise.bor/2)
    <<0x2800 + dots::utf8>>
  end

  # The bits of a braille pattern, by column and row.
  defp braille({0, 3}), do: 0x40
  defp braille({1, 3}), do: 0x80
  defp braille({0, row}), do: Bitwise.bsl(0x01, row)
  defp braille({1, row}), do: Bitwise.bsl(0x08, row)

  # Each tick's text begins below its place, or ends at the right edge; one that would touch the last is left out.
  defp x_ticks(canvas) do
    {line, _length} =
      Enum.reduce(canvas.x.ticks, {[], 0}, fn {value, text}, {line, length} ->
        place = round(Axis.position(canvas.x, value) * (canvas.columns - 1))
        place = min(place, canvas.columns - String.length(text))
        gap = place - length

        if gap > 0 or length == 0,
          do: {[line, String.duplicate(" ", gap), text], place + String.length(text)},
          else: {line, length}
      end)

    line
  end

  defp legend(marked, margin, options) do
    for {{name, _points}, {mark, colour}} <- marked do
      name = String.slice(name, 0, max(options.width - margin - 4, 1))
      [String.duplicate(" ", margin + 2), coloured(mark, colour, options), " ", name, "\n"]
    end
  end

  defp coloured(text, colour, %{colour: true}), do: IO.ANSI.format([colour, text], true)
  defp coloured(text, _colour, _options), do: text
end
