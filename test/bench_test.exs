defmodule Pkcs11Pool.BenchTest do
  # That the benchmarks run, and say what they are to say; never what they measure.
  use ExUnit.Case, async: false

  @tag timeout: 300_000
  test "bench/queue.exs runs every contestant, and prints a table" do
    file = Path.join(System.tmp_dir!(), "queue-#{System.unique_integer([:positive])}.md")
    on_exit(fn -> File.rm(file) end)

    {output, status} =
      System.cmd("mix", ["run", "--no-compile", "bench/queue.exs", "--smoke", "--out", file],
        env: [{"MIX_ENV", "test"}],
        stderr_to_stdout: true
      )

    assert status == 0, output
    assert output =~ "| one GenServer |"
    assert output =~ "| 8 GenServers in turn |"
    assert output =~ ~r/\| poolboy of 4 \||poolboy is not installed/

    for {size, stripes} <- [{2, "1 stripe"}, {4, "2 stripes"}, {8, "4 stripes"}],
        do: assert(output =~ "| pkcs11_pool of #{size}, #{stripes} |")

    assert output =~ "messages in it"
    assert output =~ "from the session's coming free to the last answer"
    # Not the lines with a µ, which a terminal without UTF-8 shows otherwise.
    lines = file |> File.read!() |> String.split("\n", trim: true)
    assert Enum.count(lines, &(&1 =~ "|")) > 10
    for line <- lines, List.ascii_printable?(to_charlist(line)), do: assert(output =~ line)
  end

  test "an unknown option is refused" do
    {output, status} =
      System.cmd("mix", ["run", "--no-compile", "bench/queue.exs", "--fast"],
        env: [{"MIX_ENV", "test"}],
        stderr_to_stdout: true
      )

    assert status != 0
    assert output =~ "expected --smoke"
  end
end
