defmodule Pkcs11Pool.PlotTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Bench.Plot
  alias Pkcs11Pool.Bench.Plot.Axis
  alias Pkcs11Pool.Test.OTPLibrary

  true = OTPLibrary.load(:xmerl)

  @series [{"this", [{1, 100}, {2, 200}, {4, 400}]}, {"that", [{1, 50}, {2, 90}, {4, 95}]}]

  defp ticks(values, count), do: for({_value, text} <- Axis.new(values, count).ticks, do: text)

  defp terminal(series, opts) do
    opts = Keyword.merge([unicode: true, colour: false, width: 60, height: 9], opts)
    series |> Plot.terminal(opts) |> IO.iodata_to_binary()
  end

  describe "an axis" do
    test "has round ticks around all values" do
      assert ticks([3, 32], 8) == ~w(0 5 10 15 20 25 30 35)
      assert ticks([12_345], 6) == ["0", "5,000", "10,000", "15,000"]
      assert ticks([0.23], 5) == ~w(0.00 0.05 0.10 0.15 0.20 0.25)
      assert ticks([1_000_000], 2) == ["0", "500,000", "1,000,000"]
    end

    test "of whole numbers has whole ticks" do
      assert ticks([1, 2, 4], 8) == ~w(0 1 2 3 4)
      assert ticks([1, 2], 8) == ~w(0 1 2)
    end

    test "begins below 0 only where a value does" do
      assert ticks([-3, 4], 4) == ~w(-4 -2 0 2 4)
    end

    test "exists without values, and for zeros only" do
      assert ticks([], 2) == ~w(0 1)
      assert ticks([0, 0], 2) == ~w(0 1)
      assert ticks([0.0], 2) == ~w(0.0 0.5 1.0)
    end
  end

  describe "svg/4" do
    test "is well-formed, and has title, labels, legend, and a curve and points for each series" do
      svg = IO.iodata_to_binary(Plot.svg("A & <B>", "sessions", "ops/s", @series))
      {root, []} = svg |> to_charlist() |> :xmerl_scan.string(quiet: true)
      count = fn path -> path |> to_charlist() |> :xmerl_xpath.string(root) |> length() end

      assert count.("//polyline") == 2
      # A point each, and one in the legend.
      assert count.("//circle") == 2 * (3 + 1)

      for text <- ["A & <B>", "sessions", "ops/s", "this", "that", "400"],
          do: assert(count.("//text[.='#{text}']") == 1)
    end

    test "needs nothing from elsewhere, and looks at light and dark" do
      svg = IO.iodata_to_binary(Plot.svg("t", "x", "y", @series))
      assert svg =~ "prefers-color-scheme: dark"
      refute svg =~ ~r/href|url\(|@import|@font-face|<script/
    end

    test "draws points where their values are" do
      svg = IO.iodata_to_binary(Plot.svg("t", "x", "y", [{"s", [{0, 0}, {8, 60}]}]))
      # From the corner of the axes to the opposite one.
      [_all, x, y] = Regex.run(~r/class="axis" x1="84" y1="(\d+)" x2="(\d+)"/, svg)
      assert svg =~ ~s(points="84.0,#{x}.0 #{y}.0,52.0")
    end

    test "is as wide as its title and its legend need" do
      width = fn title, name ->
        svg = IO.iodata_to_binary(Plot.svg(title, "x", "y", [{name, [{1, 1}]}]))
        [_all, width] = Regex.run(~r/<svg [^>]*width="(\d+)"/, svg)
        String.to_integer(width)
      end

      long = String.duplicate("W", 120)
      assert width.(long, "s") > width.("t", "s")
      assert width.("t", long) > width.("t", "s")
    end

    test "takes no series, or one without points" do
      for series <- [[], [{"none", []}]] do
        svg = IO.iodata_to_binary(Plot.svg("t", "x", "y", series))
        assert {_root, []} = svg |> to_charlist() |> :xmerl_scan.string(quiet: true)
      end
    end
  end

  describe "terminal/2" do
    test "keeps to the width, in Unicode and in ASCII" do
      for width <- [40, 60, 80, 133], unicode <- [true, false] do
        lines = @series |> terminal(width: width, unicode: unicode) |> String.split("\n")
        assert lines |> Enum.map(&String.length/1) |> Enum.max() <= width
      end
    end

    test "has nothing but ASCII where the locale has no UTF-8" do
      text = terminal(@series, unicode: false)
      assert text |> String.to_charlist() |> Enum.all?(&(&1 in 0x20..0x7E or &1 == ?\n))
      assert terminal(@series, unicode: true) =~ ~r/[\x{2801}-\x{28FF}]/u
    end

    test "marks each series' points, without any colour" do
      [plot, _legend] = @series |> terminal(unicode: false) |> String.split(" +-")
      assert plot |> String.graphemes() |> Enum.count(&(&1 == "*")) == 3
      assert plot |> String.graphemes() |> Enum.count(&(&1 == "o")) == 3
      refute terminal(@series, []) =~ "\e"
      assert terminal(@series, colour: true) =~ "\e["
    end

    test "a curve that rises ends above where it began" do
      rows = [{"s", [{0, 0}, {10, 100}]}] |> terminal(unicode: false) |> String.split("\n")

      [{first, top}, {last, bottom}] =
        for {row, n} <- Enum.with_index(rows),
            [{at, 1}] <- [Regex.run(~r/\*/, row, return: :index)],
            n < 9,
            do: {at, n}

      assert {top, bottom} == {0, 8}
      assert first > last
    end

    test "takes no series, or one without points" do
      assert terminal([], []) =~ "└"
      assert terminal([{"none", []}], []) =~ "none"
    end
  end
end
