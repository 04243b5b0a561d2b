defmodule Pkcs11Pool.JSON do
  @moduledoc false
  # JSON without a library: OTP 25 has none, and the project no dependency. The reader is strict, as signed headers need it (RFC 7515, 4): no name twice.

  @type value ::
          nil
          | boolean
          | number
          | atom
          | String.t()
          | [value]
          | [{atom, value}]
          | %{(atom | String.t()) => value}

  ## Writing

  @doc "The value as JSON, on one line. A list of pairs is an object whose members keep their order; the members of a map are sorted."
  @spec encode(value) :: iodata
  def encode(value), do: value(value, :none)

  @doc "The same, indented, with a line end."
  @spec pretty(value) :: iodata
  def pretty(value), do: [value(value, "\n"), "\n"]

  defp value(nil, _line), do: "null"
  defp value(value, _line) when is_boolean(value), do: Atom.to_string(value)
  defp value(value, _line) when is_atom(value), do: string(Atom.to_string(value))
  defp value(value, _line) when is_binary(value), do: string(value)
  defp value(value, _line) when is_integer(value), do: Integer.to_string(value)
  defp value(value, _line) when is_float(value), do: Float.to_string(value)
  defp value(%{} = map, line), do: map |> Enum.sort() |> members(line)
  defp value([], _line), do: "[]"
  defp value([{name, _value} | _rest] = pairs, line) when is_atom(name), do: members(pairs, line)
  defp value(list, line), do: enclose(?[, Enum.map(list, &value(&1, inner(line))), ?], line)

  defp members([], _line), do: "{}"

  defp members(pairs, line) do
    colon = if line == :none, do: ":", else: ": "

    members =
      for {name, value} <- pairs, do: [string(to_string(name)), colon, value(value, inner(line))]

    enclose(?{, members, ?}, line)
  end

  defp enclose(first, items, last, :none), do: [first, Enum.intersperse(items, ","), last]

  defp enclose(first, items, last, line),
    do: [first, inner(line), Enum.intersperse(items, [",", inner(line)]), line, last]

  defp inner(:none), do: :none
  defp inner(line), do: line <> "  "

  defp string(text), do: [?", for(<<char::utf8 <- text>>, do: char(char)), ?"]

  defp char(?"), do: "\\\""
  defp char(?\\), do: "\\\\"

  defp char(char) when char < 0x20,
    do: ["\\u", char |> Integer.to_string(16) |> String.pad_leading(4, "0")]

  defp char(char), do: <<char::utf8>>

  ## Reading (RFC 8259)

  @deepest 32

  @doc """
  The value of a JSON text: objects as maps with strings, `null` as nil. `:error` for what is no JSON, for an object that has a name twice, and for one that is
  nested deeper than #{@deepest}.
  """
  @spec decode(binary) :: {:ok, value} | :error
  def decode(text) when is_binary(text) do
    {value, rest} = read(space(text), 0)
    if space(rest) == "", do: {:ok, value}, else: :error
  catch
    :malformed -> :error
  end

  defp read(_text, depth) when depth > @deepest, do: throw(:malformed)
  defp read(<<?{, rest::binary>>, depth), do: read_object(space(rest), depth)
  defp read(<<?[, rest::binary>>, depth), do: read_array(space(rest), depth)
  defp read(<<?", rest::binary>>, _depth), do: read_string(rest, [])
  defp read(<<"true", rest::binary>>, _depth), do: {true, rest}
  defp read(<<"false", rest::binary>>, _depth), do: {false, rest}
  defp read(<<"null", rest::binary>>, _depth), do: {nil, rest}
  defp read(text, _depth), do: read_number(text)

  defp read_object(<<?}, rest::binary>>, _depth), do: {%{}, rest}
  defp read_object(text, depth), do: read_members(text, depth, %{})

  defp read_members(<<?", rest::binary>>, depth, members) do
    {name, rest} = read_string(rest, [])
    if is_map_key(members, name), do: throw(:malformed)

    with <<?:, rest::binary>> <- space(rest) do
      {value, rest} = read(space(rest), depth + 1)
      members = Map.put(members, name, value)

      case space(rest) do
        <<?,, rest::binary>> -> read_members(space(rest), depth, members)
        <<?}, rest::binary>> -> {members, rest}
        _other -> throw(:malformed)
      end
    else
      _no_colon -> throw(:malformed)
    end
  end

  defp read_members(_other, _depth, _members), do: throw(:malformed)

  defp read_array(<<?], rest::binary>>, _depth), do: {[], rest}
  defp read_array(text, depth), do: read_items(text, depth, [])

  defp read_items(text, depth, items) do
    {value, rest} = read(text, depth + 1)

    case space(rest) do
      <<?,, rest::binary>> -> read_items(space(rest), depth, [value | items])
      <<?], rest::binary>> -> {Enum.reverse([value | items]), rest}
      _other -> throw(:malformed)
    end
  end

  @escapes %{
    ?" => ?",
    ?\\ => ?\\,
    ?/ => ?/,
    ?b => ?\b,
    ?f => ?\f,
    ?n => ?\n,
    ?r => ?\r,
    ?t => ?\t
  }

  defp read_string(<<?", rest::binary>>, text),
    do: {text |> Enum.reverse() |> List.to_string(), rest}

  defp read_string(<<?\\, ?u, hex::binary-size(4), rest::binary>>, text) do
    case hex!(hex) do
      high when high in 0xD800..0xDBFF -> read_low(rest, high, text)
      low when low in 0xDC00..0xDFFF -> throw(:malformed)
      char -> read_string(rest, [char | text])
    end
  end

  defp read_string(<<?\\, escape, rest::binary>>, text) do
    case @escapes do
      %{^escape => char} -> read_string(rest, [char | text])
      _none -> throw(:malformed)
    end
  end

  defp read_string(<<char::utf8, rest::binary>>, text) when char >= 0x20,
    do: read_string(rest, [char | text])

  defp read_string(_other, _text), do: throw(:malformed)

  # The second half of a surrogate pair.
  defp read_low(<<?\\, ?u, hex::binary-size(4), rest::binary>>, high, text) do
    case hex!(hex) do
      low when low in 0xDC00..0xDFFF ->
        char = 0x10000 + (high - 0xD800) * 0x400 + (low - 0xDC00)
        read_string(rest, [char | text])

      _other ->
        throw(:malformed)
    end
  end

  defp read_low(_other, _high, _text), do: throw(:malformed)

  defp hex!(hex) do
    if hex =~ ~r/\A[0-9A-Fa-f]{4}\z/, do: String.to_integer(hex, 16), else: throw(:malformed)
  end

  @number ~r/\A-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/

  # No number that a signed header has is as long; one with an exponent may be one that no float holds.
  defp read_number(text) do
    case Regex.run(@number, text) do
      [number] when byte_size(number) < 64 ->
        {String.to_integer(number), rest(text, number)}

      [number | _fraction_or_exponent] when byte_size(number) < 64 ->
        case Float.parse(number) do
          {float, _dot} -> {float, rest(text, number)}
          :error -> throw(:malformed)
        end

      _other ->
        throw(:malformed)
    end
  rescue
    ArgumentError -> throw(:malformed)
  end

  defp rest(text, read),
    do: binary_part(text, byte_size(read), byte_size(text) - byte_size(read))

  defp space(<<char, rest::binary>>) when char in [?\s, ?\t, ?\n, ?\r], do: space(rest)
  defp space(text), do: text
end
