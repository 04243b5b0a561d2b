defmodule Pkcs11Pool.Build.CargoMessages do
  @moduledoc false
  # Reads what `cargo build --message-format=json` prints: one JSON object a line. The decoder is
  # ours, since neither Elixir 1.14 nor OTP 25 has one and the build may not need a package.

  alias Mix.Task.Compiler.Diagnostic

  @doc """
  Decodes one line. A line that is no JSON object (a build script may print anything) is `:error`.
  """
  @spec decode(String.t()) :: {:ok, map()} | :error
  def decode(line) do
    case value(skip(line)) do
      {object, rest} when is_map(object) -> if skip(rest) == "", do: {:ok, object}, else: :error
      _other -> :error
    end
  catch
    :bad_json -> :error
  end

  @doc """
  The Mix diagnostic of a `compiler-message`, or `nil` for what is none: rustc's notes and its closing counts.

  `root` is the workspace's folder, which rustc's paths are relative to.
  """
  @spec diagnostic(map(), Path.t()) :: Diagnostic.t() | nil
  def diagnostic(
        %{"reason" => "compiler-message", "message" => message, "target" => target},
        root
      ) do
    with severity when severity != nil <- severity(message["level"]),
         false <- closing_count?(message) do
      {file, position} = place(message["spans"], target["src_path"], root)

      %Diagnostic{
        compiler_name: "cargo",
        details: message["rendered"],
        file: file,
        message: text(message),
        position: position,
        severity: severity
      }
    else
      _none -> nil
    end
  end

  def diagnostic(_other, _root), do: nil

  # rustc's own levels: "error", "error: internal compiler error", "warning", "note", "help",
  # "failure-note".
  defp severity("error" <> _), do: :error
  defp severity("warning"), do: :warning
  defp severity(_level), do: nil

  # "aborting due to 2 previous errors" and "3 warnings emitted" repeat what was already said.
  defp closing_count?(%{"spans" => [], "message" => message}) do
    message =~ ~r/^aborting due to / or message =~ ~r/ warnings? emitted$/
  end

  defp closing_count?(_message), do: false

  defp text(%{"code" => %{"code" => code}, "message" => message}), do: "#{message} [#{code}]"
  defp text(%{"message" => message}), do: message

  # A linker error, for one, has no place: it is put on the crate's root file.
  defp place(spans, src_path, root) do
    case Enum.find(spans, & &1["is_primary"]) do
      nil -> {src_path, 0}
      span -> span |> outside_macros() |> place_of_span(root)
    end
  end

  # What a macro expands to may lie in another crate; its caller is what the user can mend.
  defp outside_macros(%{"expansion" => %{"span" => span}}), do: outside_macros(span)
  defp outside_macros(span), do: span

  # Mix counts columns from zero, rustc from one.
  defp place_of_span(span, root) do
    {Path.expand(span["file_name"], root),
     {span["line_start"], span["column_start"] - 1, span["line_end"], span["column_end"] - 1}}
  end

  ## JSON (RFC 8259). Each function takes the text from where it stands, and returns the value and the text after it.

  defp value("{" <> rest), do: rest |> skip() |> object(%{})
  defp value("[" <> rest), do: rest |> skip() |> array([])
  defp value("\"" <> rest), do: string(rest, [])
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value("null" <> rest), do: {nil, rest}
  defp value(text), do: number(text)

  defp object("}" <> rest, members) when members == %{}, do: {members, rest}

  defp object("\"" <> rest, members) do
    {name, rest} = string(rest, [])
    {value, rest} = rest |> skip() |> expect(":") |> skip() |> value()
    members = Map.put(members, name, value)

    case skip(rest) do
      "," <> rest -> rest |> skip() |> object(members)
      rest -> {members, expect(rest, "}")}
    end
  end

  defp object(_text, _members), do: throw(:bad_json)

  defp array("]" <> rest, []), do: {[], rest}

  defp array(text, items) do
    {item, rest} = value(text)

    case skip(rest) do
      "," <> rest -> rest |> skip() |> array([item | items])
      rest -> {Enum.reverse([item | items]), expect(rest, "]")}
    end
  end

  defp string(text, parts) do
    case :binary.match(text, ["\"", "\\"]) do
      {size, 1} ->
        <<plain::binary-size(size), mark, rest::binary>> = text
        parts = [plain | parts]

        if mark == ?",
          do: {parts |> Enum.reverse() |> IO.iodata_to_binary(), rest},
          else: escape(rest, parts)

      :nomatch ->
        throw(:bad_json)
    end
  end

  # A character beyond the basic plane comes as two escapes, a surrogate pair.
  defp escape(
         <<"u", high::binary-size(4), "\\u", low::binary-size(4), rest::binary>> = text,
         parts
       ) do
    case {hex(high), hex(low)} do
      {h, l} when h in 0xD800..0xDBFF and l in 0xDC00..0xDFFF ->
        string(rest, [<<0x10000 + (h - 0xD800) * 0x400 + (l - 0xDC00)::utf8>> | parts])

      _no_pair ->
        single_escape(text, parts)
    end
  end

  defp escape(text, parts), do: single_escape(text, parts)

  defp single_escape(<<"u", digits::binary-size(4), rest::binary>>, parts) do
    case hex(digits) do
      half when half in 0xD800..0xDFFF -> string(rest, ["\uFFFD" | parts])
      code -> string(rest, [<<code::utf8>> | parts])
    end
  end

  defp single_escape(<<c, rest::binary>>, parts) when c in [?", ?\\, ?/],
    do: string(rest, [c | parts])

  defp single_escape("b" <> rest, parts), do: string(rest, ["\b" | parts])
  defp single_escape("f" <> rest, parts), do: string(rest, ["\f" | parts])
  defp single_escape("n" <> rest, parts), do: string(rest, ["\n" | parts])
  defp single_escape("r" <> rest, parts), do: string(rest, ["\r" | parts])
  defp single_escape("t" <> rest, parts), do: string(rest, ["\t" | parts])
  defp single_escape(_text, _parts), do: throw(:bad_json)

  defp hex(digits) do
    case Base.decode16(digits, case: :mixed) do
      {:ok, <<code::16>>} -> code
      :error -> throw(:bad_json)
    end
  end

  defp number(text) do
    case Integer.parse(text) do
      {_whole, <<c, _::binary>>} when c in [?., ?e, ?E] -> float(text)
      {integer, rest} -> {integer, rest}
      :error -> throw(:bad_json)
    end
  end

  defp float(text) do
    case Float.parse(text) do
      {float, rest} -> {float, rest}
      :error -> throw(:bad_json)
    end
  end

  defp expect(text, mark) do
    case text do
      <<^mark::binary-size(1), rest::binary>> -> rest
      _other -> throw(:bad_json)
    end
  end

  defp skip(<<c, rest::binary>>) when c in [?\s, ?\t, ?\r, ?\n], do: skip(rest)
  defp skip(text), do: text
end
