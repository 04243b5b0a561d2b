defmodule Pkcs11Pool.Options.Shape do
  @moduledoc false
  # The shape of option lists: keyword lists of known names, with those that are required. The messages show no values.

  alias Pkcs11Pool.Argument.Suggestion

  @doc """
  Raises `ArgumentError` for what is no keyword list.
  """
  @spec keyword!(term) :: :ok
  def keyword!(options) do
    if Keyword.keyword?(options),
      do: :ok,
      else: raise(ArgumentError, "expected options to be a keyword list")
  end

  @doc """
  Raises `ArgumentError` that names the options which are not in `valid`.
  """
  @spec known!(keyword, valid :: [atom]) :: :ok
  def known!(options, valid) do
    case Enum.uniq(Keyword.keys(options)) -- valid do
      [] ->
        :ok

      unknown ->
        raise ArgumentError,
              "unknown options #{inspect(unknown)}, valid options are: #{inspect(valid)}" <>
                hint(unknown, valid)
    end
  end

  defp hint([unknown], valid), do: Suggestion.for(unknown, valid)
  defp hint(_several, _valid), do: ""

  @doc """
  Raises `ArgumentError` that names the first of the required options which is missing.
  """
  @spec required!(keyword, [atom]) :: :ok
  def required!(options, names) do
    case Enum.find(names, &(not Keyword.has_key?(options, &1))) do
      nil ->
        :ok

      name ->
        raise ArgumentError,
              "required #{inspect(name)} option not found, received options: " <>
                inspect(Keyword.keys(options))
    end
  end
end
