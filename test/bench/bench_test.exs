defmodule Pkcs11Pool.BenchTest do
  # That the benchmarks run, that every contender does its operations, and that they are right; never how quick they are.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.Build.CargoMessages

  defp bench(arguments) do
    System.cmd(Path.expand("script/bench"), arguments,
      env: [{"MIX_ENV", "test"}],
      stderr_to_stdout: true
    )
  end

  @tag timeout: 600_000
  test "everything is measured, and comes as text, JSON and plots" do
    folder = Path.join(System.tmp_dir!(), "bench-#{System.unique_integer([:positive])}")
    on_exit(fn -> File.rm_rf!(folder) end)

    # It fails unless each contender has given a right output.
    assert {_output, 0} = bench(["--smoke", "--out", folder])

    assert {:ok, results} =
             folder |> Path.join("results.json") |> File.read!() |> CargoMessages.decode()

    # One round; how many, a busy machine decides.
    for measured <- results["throughput"], do: assert([_rate] = measured["operations_per_second"])

    contenders = for %{"contender" => name} <- results["throughput"], uniq: true, do: name

    assert Enum.sort(contenders -- ["SunPKCS11", "poolboy"]) ==
             [
               "bare :dirty_io",
               "bare :threads",
               "batch of 64",
               "original",
               "pool",
               "pool :dirty_io",
               "pool :threads",
               "pool at once",
               "pool prepared",
               "raw"
             ]

    for operation <- ~w(rsa ec hmac aes_gcm random verify_rsa verify_ec),
        do: assert(Enum.any?(results["throughput"], &(&1["operation"] == operation)))

    queue = Map.new(results["queue"]["rates"], &{&1["name"], &1["operations_per_second"]})
    assert length(queue["one GenServer"]) == length(results["queue"]["callers"])

    for {size, stripes} <- [{2, "1 stripe"}, {4, "2 stripes"}, {8, "4 stripes"}],
        do: assert(Map.has_key?(queue, "pool of #{size}, #{stripes}"))

    works = Enum.map_join(results["floors"], "\n", & &1["work"])

    for work <- ["C calls", "does nothing", "mailbox", "waiters", "keys: time", "File.read"] do
      assert works =~ work
    end

    assert works =~ "p99 of the others"
    assert works =~ "resident memory"

    text = File.read!(Path.join(folder, "RESULTS.md"))
    for %{"work" => work} <- results["floors"], do: assert(text =~ "| #{work} |")
    assert text =~ "### RSA-2048 sign"

    assert text =~ "## How long calls take"
    latency = for %{"contender" => name} <- results["latency"], uniq: true, do: name
    assert ["bare :threads", "original", "pool"] -- latency == []

    for plot <- ~w(slow slow_size_query latency_p50_rsa latency_p99_slow) do
      assert File.read!(Path.join([folder, "plots", plot <> ".svg"])) =~ ~r/<svg.*<\/svg>/s
      assert text =~ "(plots/#{plot}.svg)"
    end
  end

  @tag timeout: 600_000
  test "what an operation costs is told by how much there is of everything" do
    file = Path.join(System.tmp_dir!(), "scale-#{System.unique_integer([:positive])}.md")
    on_exit(fn -> File.rm(file) end)

    arguments = [
      "--smoke",
      "--out",
      file,
      "--only",
      "state",
      "--only",
      "refusals",
      "--only",
      "callers"
    ]

    assert {_output, 0} =
             System.cmd(Path.expand("script/scale"), arguments,
               env: [{"MIX_ENV", "test"}],
               stderr_to_stdout: true
             )

    text = File.read!(file)

    for part <- ["state machines", "So many callers", "A call that is refused"],
        do: assert(text =~ part)
  end

  test "an option that it does not know is refused, with those that it does" do
    assert {output, 2} = bench(["--fast"])
    assert output =~ "usage: script/bench"
    assert {^output, 2} = bench(["--only", "everything"])
  end
end
