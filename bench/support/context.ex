defmodule Bench.Context do
  @moduledoc "What a run of the benchmarks works with."

  @type t :: %__MODULE__{
          scale: :full | :quick | :smoke,
          rounds: pos_integer,
          window: pos_integer,
          short_window: pos_integer,
          warm_up: pos_integer,
          token: Bench.Tokens.t(),
          slow_token: Bench.Tokens.t(),
          raw: Path.t()
        }

  @enforce_keys [:scale, :rounds, :window, :short_window, :warm_up, :token, :slow_token, :raw]
  defstruct @enforce_keys

  # Milliseconds. The short window is for what no floor depends on: there is much of it.
  @scales %{
    full: %{rounds: 7, window: 350, short_window: 100, warm_up: 25},
    quick: %{rounds: 3, window: 100, short_window: 50, warm_up: 20},
    smoke: %{rounds: 1, window: 20, short_window: 20, warm_up: 5}
  }

  @doc "Two tokens: one as it is, and one for the modules that are made slow, since a module has one login and one set of sessions in a VM."
  @spec new(:full | :quick | :smoke, keyword) :: t
  def new(scale, options) do
    settings = Map.merge(@scales[scale], Map.new(Keyword.take(options, [:rounds, :window])))
    tokens = %{token: Bench.Tokens.new!(), slow_token: Bench.Tokens.new!()}
    fields = Map.merge(settings, tokens) |> Map.merge(%{scale: scale, raw: options[:raw]})
    struct!(__MODULE__, fields)
  end

  @doc "By scale: a full figure, a quick one, one that only shows that it works."
  @spec scaled(t, full :: term, quick :: term, smoke :: term) :: term
  def scaled(%{scale: :full}, full, _quick, _smoke), do: full
  def scaled(%{scale: :quick}, _full, quick, _smoke), do: quick
  def scaled(%{scale: :smoke}, _full, _quick, smoke), do: smoke
end
