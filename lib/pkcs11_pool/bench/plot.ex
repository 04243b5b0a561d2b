defmodule Pkcs11Pool.Bench.Plot do
  @moduledoc false
  # Curves for people: as an SVG file, and on the terminal.

  alias Pkcs11Pool.Bench.Plot.{Svg, Terminal}

  @typedoc "Curves by name. The points need no order; no series, or one without points, is no mistake."
  @type series :: [{String.t(), [{x :: number, y :: number}]}]

  @doc "The series as an SVG document, with a legend beside the plot."
  @spec svg(String.t(), String.t(), String.t(), series) :: iodata
  def svg(title, x_label, y_label, series), do: Svg.draw(title, x_label, y_label, series)

  @doc """
  The series as lines of text.

    * `:width`, `:height` - columns that the whole may take, rows of the plot itself; by default the terminal's width, 80 at most, and 15
    * `:unicode` - braille dots instead of ASCII; by default if the locale has UTF-8
    * `:colour` - a colour per series; by default if the terminal has colours
  """
  @spec terminal(series, keyword) :: iodata
  def terminal(series, opts \\ []) do
    options = %{
      width: Keyword.get_lazy(opts, :width, &width/0),
      height: Keyword.get(opts, :height, 15),
      unicode: Keyword.get_lazy(opts, :unicode, &unicode?/0),
      colour: Keyword.get_lazy(opts, :colour, &IO.ANSI.enabled?/0)
    }

    Terminal.draw(series, options)
  end

  @doc "Whether the locale has UTF-8."
  @spec unicode?() :: boolean
  def unicode? do
    # Elixir sets its output to UTF-8, whatever the terminal: the locale alone tells.
    locale =
      Enum.find_value(["LC_ALL", "LC_CTYPE", "LANG"], "", fn name ->
        with "" <- System.get_env(name, ""), do: nil
      end)

    locale =~ ~r/utf-?8/i
  end

  defp width do
    case :io.columns() do
      {:ok, columns} -> min(columns, 80)
      {:error, _reason} -> 80
    end
  end
end
