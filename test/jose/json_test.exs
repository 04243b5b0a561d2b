defmodule Pkcs11Pool.JSONTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.JSON

  defp json(value), do: value |> JSON.encode() |> IO.iodata_to_binary()

  test "writing keeps the order of pairs, and knows all that a report has" do
    value = [b: 1, a: [nil, true, 2.5, :threads, "x"], c: %{d: []}]
    expected = ~S({"b":1,"a":[null,true,2.5,"threads","x"],"c":{"d":[]}})
    assert json(value) == expected

    assert value |> JSON.pretty() |> IO.iodata_to_binary() |> String.replace(~r/\s+/, "") ==
             expected
  end

  test "writing escapes what a string may not have" do
    assert json("\"\\\n\té") == ~S("\"\\\u000A\u0009é")
  end

  test "reading gives what was written" do
    for value <- [
          nil,
          true,
          0,
          -12,
          2.5,
          1.0e-3,
          "",
          "é€😀\n\"\\/",
          [],
          [1, [2, []]],
          %{},
          %{"a" => %{"b" => [nil, false]}, "é" => "x"}
        ] do
      assert JSON.decode(json(value)) == {:ok, value}
      assert JSON.decode(" \r\n\t" <> json(value) <> "\n ") == {:ok, value}
    end

    assert JSON.decode(~S("\u00e9\uD83D\uDE00\b\f\n\r\t\/")) == {:ok, "é😀\b\f\n\r\t/"}
    assert JSON.decode("1e2") == {:ok, 100.0}
  end

  test "reading refuses what is no JSON, and an object that has a name twice" do
    for text <- [
          "",
          "{",
          "}",
          "[1,]",
          "[1 2]",
          "{,}",
          ~S({"a":1,}),
          ~S({"a" 1}),
          ~S({a:1}),
          ~S({'a':1}),
          ~S({"a":1,"a":2}),
          ~S({"a":1,"\u0061":2}),
          ~S({"b":{"a":1,"a":2}}),
          "01",
          "+1",
          "1.",
          ".5",
          "1e",
          "-",
          "NaN",
          "tru",
          "truex",
          "1 1",
          "\"\n\"",
          "\"",
          ~S("\x"),
          ~S("\u12"),
          ~S("\uD83D"),
          ~S("\uDE00"),
          ~S("\uD83Dx"),
          ~S("\uD83D\u0041"),
          <<?", 0xFF, ?">>,
          "1e999",
          String.duplicate("9", 100),
          String.duplicate("[", 100_000),
          String.duplicate("[", 40) <> String.duplicate("]", 40)
        ] do
      assert {text, JSON.decode(text)} == {text, :error}
    end
  end
end
