defmodule Pkcs11Pool.Token.Selection do
  @moduledoc false
  # Which slots of a listing a `:slot` option names, for tasks that show all of them. A pool asks the module itself.

  alias Pkcs11Pool.{Token, URI}

  @doc "The slots with a token that match; all of those for nil."
  @spec select(Token.listing(), tuple | String.t() | nil) :: [Token.slot()]
  def select(%{slots: slots, module: library}, selector) do
    for %{token: token} = slot <- slots, is_map(token), match?(selector, slot, library), do: slot
  end

  defp match?(nil, _slot, _library), do: true
  defp match?({:slot_id, id}, slot, _library), do: slot.slot_id == id
  defp match?({:token_label, label}, slot, _library), do: slot.token.label == label
  defp match?({:token_serial, serial}, slot, _library), do: slot.token.serial == serial

  defp match?(uri, slot, library) when is_binary(uri) do
    uri |> URI.parse!() |> URI.to_slot() |> Enum.all?(&has?(&1, slot, library))
  end

  @token [:label, :serial, :manufacturer, :model]

  defp has?({:token, label}, slot, _library), do: slot.token.label == label
  defp has?({name, value}, slot, _library) when name in @token, do: slot.token[name] == value
  defp has?({:slot_id, id}, slot, _library), do: slot.slot_id == id
  defp has?({:slot_description, text}, slot, _library), do: slot.description == text
  defp has?({:slot_manufacturer, text}, slot, _library), do: slot.manufacturer == text
  defp has?(_library_attribute, _slot, :unavailable), do: false
  defp has?({:library_manufacturer, text}, _slot, library), do: library.manufacturer == text
  defp has?({:library_description, text}, _slot, library), do: library.description == text

  defp has?({:library_version, text}, _slot, %{version: {major, minor}}),
    do: version(text) == {major, minor}

  # RFC 7512: 3 is 3.0.
  defp version(text) do
    case text |> String.split(".") |> Enum.map(&Integer.parse/1) do
      [{major, ""}] -> {major, 0}
      [{major, ""}, {minor, ""}] -> {major, minor}
      _other -> nil
    end
  end
end
