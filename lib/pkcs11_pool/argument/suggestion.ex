defmodule Pkcs11Pool.Argument.Suggestion do
  @moduledoc false
  # "Did you mean ...?" for a misspelt name.

  @least_similarity 0.77

  @doc """
  The known name most like `name` as `", did you mean :sha_1?"`, or `""` when none is like it.
  """
  @spec for(term, [atom]) :: String.t()
  def for(name, known) when is_atom(name) do
    written = name |> Atom.to_string() |> String.downcase() |> without_prefix()

    {similarity, best} =
      known
      |> Enum.map(&{String.jaro_distance(written, Atom.to_string(&1)), &1})
      |> Enum.max(fn -> {0.0, nil} end)

    if similarity >= @least_similarity, do: ", did you mean #{inspect(best)}?", else: ""
  end

  def for(_name, _known), do: ""

  defp without_prefix(<<"ck", _kind, "_", rest::binary>>), do: rest
  defp without_prefix(written), do: written
end
