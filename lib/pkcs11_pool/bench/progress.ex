defmodule Pkcs11Pool.Bench.Progress do
  @moduledoc false
  # How far a run has come: a bar on a terminal, a line for every quarter elsewhere.

  @enforce_keys [:total, :terminal]
  defstruct [:total, :terminal, quarters: 0]

  @opaque t :: %__MODULE__{total: pos_integer, terminal: boolean, quarters: 0..4}

  @columns 40
  @title 26

  @doc "The progress of a run that takes so much, whatever is counted."
  @spec new(pos_integer, terminal :: boolean) :: t
  def new(total, terminal \\ IO.ANSI.enabled?()),
    do: %__MODULE__{total: total, terminal: terminal}

  @doc "So much is done; the title says what is being done now."
  @spec show(t, non_neg_integer, String.t()) :: t
  def show(progress, done, title) do
    done = min(done, progress.total)
    quarters = div(done * 4, progress.total)

    cond do
      progress.terminal ->
        IO.write(["\r", String.pad_trailing(title, @title), bar(progress, done)])

      quarters > progress.quarters ->
        IO.puts("#{title}: #{percent(progress, done)}")

      true ->
        :ok
    end

    %{progress | quarters: quarters}
  end

  @doc "Takes the bar away, so that a line may be written in its place."
  @spec clear(terminal :: boolean) :: :ok
  def clear(terminal \\ IO.ANSI.enabled?()),
    do: if(terminal, do: IO.write(["\r", IO.ANSI.clear_line()]), else: :ok)

  defp bar(progress, done) do
    filled = div(done * @columns, progress.total)
    empty = @columns - filled
    bar = [String.duplicate("#", filled), String.duplicate(" ", empty)]
    [" [", bar, "] ", String.pad_leading(percent(progress, done), 5)]
  end

  defp percent(progress, done), do: "#{div(done * 100, progress.total)} %"
end
