defmodule Pkcs11Pool.Testing.ChaosExampleTest do
  # The example in the documentation of Pkcs11Pool.Testing.Chaos, in a VM of its own: a crash there must not end this one.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.SoftHSM
  alias Pkcs11Pool.Testing.Chaos

  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  @path "/usr/lib/softhsm/libsofthsm2.so"

  @script ~S"""
  {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)
  ExUnit.start()
  for file <- System.argv(), do: Code.require_file(file)
  """

  test "the documentation's example passes as it is written, beside others like it", %{
    tmp_dir: dir
  } do
    example = example()
    assert example =~ @path
    # Where SoftHSM is elsewhere, that alone is another.
    example =
      if File.exists?(@path),
        do: example,
        else: String.replace(example, @path, SoftHSM.module_path())

    assert example =~ "defmodule MyApp.PaymentsTest do"

    # Modules of tests with `async: true` run at the same time.
    files =
      for number <- 1..4 do
        name = if number == 1, do: "PaymentsTest", else: "Payments#{number}Test"
        file = Path.join(dir, "payments_#{number}_test.exs")
        File.write!(file, String.replace(example, "PaymentsTest", name))
        file
      end

    script = Path.join(dir, "run.exs")
    File.write!(script, @script)
    ebin = Path.join(:code.lib_dir(:pkcs11_pool), "ebin")
    elixir = System.find_executable("elixir")

    for _ <- 1..3 do
      {output, status} =
        System.cmd(elixir, ["-pa", ebin, script | files], cd: dir, stderr_to_stdout: true)

      assert {status, output} == {0, output}
      assert output =~ "8 tests, 0 failures"
    end
  end

  # The one indented block of the moduledoc that defines a module.
  defp example do
    {:docs_v1, _, :elixir, _, %{"en" => doc}, _, _} = Code.fetch_docs(Chaos)

    lines =
      doc
      |> String.split("\n")
      |> Enum.drop_while(&(not String.starts_with?(&1, "    defmodule")))

    block = Enum.take_while(lines, &(&1 == "" or String.starts_with?(&1, "    ")))
    Enum.map_join(block, "\n", &String.replace_prefix(&1, "    ", ""))
  end
end
