defmodule Pkcs11Pool.Build.CargoMessagesTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Build.CargoMessages

  describe "decode/1" do
    test "every kind of JSON value" do
      assert CargoMessages.decode(~S"""
             {"o": {}, "a": [], "n": [0, -1, 2.5, -1e3 , 1E-2], "t":true,"f":false,"null":null,
              "nested" : {"x": [{"y": "z"}]}}
             """) ==
               {:ok,
                %{
                  "o" => %{},
                  "a" => [],
                  "n" => [0, -1, 2.5, -1000.0, 0.01],
                  "t" => true,
                  "f" => false,
                  "null" => nil,
                  "nested" => %{"x" => [%{"y" => "z"}]}
                }}
    end

    test "every kind of escape" do
      assert CargoMessages.decode(~S({"s":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00 é😀 \ud83d!"})) ==
               {:ok, %{"s" => "\"\\/\b\f\n\r\té😀 é😀 \uFFFD!"}}
    end

    test "what is no JSON object" do
      for line <- [
            "",
            "warning: something",
            "[1]",
            "{",
            "{}}",
            ~S({"a"}),
            ~S({"a":}),
            ~S({"a":1,}),
            ~S({"a":[1,]}),
            ~S({"a":[1}),
            ~S({"a":"\x"}),
            ~S({"a":"\u12"}),
            ~S({"a":"\u+123"}),
            ~S({"a":"open),
            ~S({"a":-}),
            ~S({"a":1.e})
          ] do
        assert CargoMessages.decode(line) == :error, "decoded #{inspect(line)}"
      end
    end
  end

  describe "diagnostic/2" do
    test "an error, with its place relative to the workspace" do
      assert %Mix.Task.Compiler.Diagnostic{
               compiler_name: "cargo",
               file: "/root/native/nif/src/lib.rs",
               message: "mismatched types [E0308]",
               position: {3, 4, 3, 11},
               severity: :error
             } = diagnostic()
    end

    test "a warning without a code" do
      diagnostic =
        diagnostic(%{"level" => "warning", "code" => nil, "message" => "unused import"})

      assert diagnostic.severity == :warning
      assert diagnostic.message == "unused import"
    end

    test "the place of a macro's caller, not of what it expands to" do
      inside = %{span() | "file_name" => "/registry/rustler/src/lib.rs", "line_start" => 99}

      span =
        Map.put(inside, "expansion", %{
          "span" => Map.put(inside, "expansion", %{"span" => span()})
        })

      diagnostic = diagnostic(%{"spans" => [span]})
      assert diagnostic.file == "/root/native/nif/src/lib.rs"
      assert diagnostic.position == {3, 4, 3, 11}
    end

    test "the primary place, not that of a note" do
      note = %{span() | "is_primary" => false, "line_start" => 1}
      assert diagnostic(%{"spans" => [note, span()]}).position == {3, 4, 3, 11}
    end

    test "a linker error has no place but its crate" do
      diagnostic =
        diagnostic(%{"spans" => [], "code" => nil, "message" => "linking with `cc` failed"})

      assert diagnostic.file == "/root/native/nif/src/lib.rs"
      assert diagnostic.position == 0
    end

    test "what repeats or only explains is none" do
      for message <- ["aborting due to 1 previous error", "2 warnings emitted"] do
        refute diagnostic(%{"spans" => [], "code" => nil, "message" => message})
      end

      refute diagnostic(%{"level" => "failure-note"})
      refute diagnostic(%{"level" => "note"})
      refute CargoMessages.diagnostic(%{"reason" => "build-finished", "success" => true}, "/root")
    end
  end

  defp diagnostic(changes \\ %{}) do
    message =
      Map.merge(
        %{
          "level" => "error",
          "code" => %{"code" => "E0308", "explanation" => nil},
          "message" => "mismatched types",
          "rendered" => "error[E0308]: mismatched types\n",
          "spans" => [span()]
        },
        changes
      )

    CargoMessages.diagnostic(
      %{
        "reason" => "compiler-message",
        "message" => message,
        "target" => %{"src_path" => "/root/native/nif/src/lib.rs"}
      },
      "/root"
    )
  end

  defp span do
    %{
      "file_name" => "native/nif/src/lib.rs",
      "is_primary" => true,
      "line_start" => 3,
      "line_end" => 3,
      "column_start" => 5,
      "column_end" => 12,
      "expansion" => nil
    }
  end
end
