defmodule Pkcs11Pool.Bench.Json do
  @moduledoc false
  # JSON, written without a library: OTP 25 has none, and the project no dependency.

  @type value ::
          nil
          | boolean
          | number
          | atom
          | String.t()
          | [value]
          | [{atom, value}]
          | %{atom => value}

  @doc "The value as JSON, indented. A list of pairs is an object whose members keep their order."
  @spec encode(value) :: iodata
  def encode(value), do: [value(value, "\n"), "\n"]

  defp value(nil, _line), do: "null"
  defp value(value, _line) when is_boolean(value), do: Atom.to_string(value)
  defp value(value, _line) when is_atom(value), do: string(Atom.to_string(value))
  defp value(value, _line) when is_binary(value), do: string(value)
  defp value(value, _line) when is_integer(value), do: Integer.to_string(value)
  defp value(value, _line) when is_float(value), do: Float.to_string(value)
  defp value(%{} = map, line), do: map |> Enum.sort() |> members(line)
  defp value([], _line), do: "[]"
  defp value([{name, _value} | _rest] = pairs, line) when is_atom(name), do: members(pairs, line)

  defp value(list, line) do
    inner = line <> "  "
    ["[", inner, list |> Enum.map(&value(&1, inner)) |> Enum.intersperse([",", inner]), line, "]"]
  end

  defp members([], _line), do: "{}"

  defp members(pairs, line) do
    inner = line <> "  "

    members =
      for {name, value} <- pairs, do: [string(Atom.to_string(name)), ": ", value(value, inner)]

    ["{", inner, Enum.intersperse(members, [",", inner]), line, "}"]
  end

  defp string(text), do: [?", for(<<char::utf8 <- text>>, do: char(char)), ?"]

  defp char(?"), do: "\\\""
  defp char(?\\), do: "\\\\"

  defp char(char) when char < 0x20,
    do: ["\\u", char |> Integer.to_string(16) |> String.pad_leading(4, "0")]

  defp char(char), do: <<char::utf8>>
end
