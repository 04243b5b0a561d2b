defmodule Pkcs11Pool.Testing.ExamplesTest do
  # The examples in the documentation of Pkcs11Pool.Testing and Pkcs11Pool.Testing.Chaos, in a VM of their own: a crash there must not end this one.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Testing

  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  @script ~S"""
  {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)
  ExUnit.start()
  for file <- System.argv(), do: Code.require_file(file)
  """

  for {module, tests} <- [{Testing.Chaos, 8}, {Testing, 4}] do
    test "the example of #{inspect(module)} passes as it is written, beside others like it", %{
      tmp_dir: dir
    } do
      run(unquote(module), "#{unquote(tests)} tests, 0 failures", dir)
    end
  end

  defp run(module, expected, dir) do
    example = example(module)
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
      assert output =~ expected
    end
  end

  # The one indented block of the moduledoc that defines a module.
  defp example(module) do
    {:docs_v1, _, :elixir, _, %{"en" => doc}, _, _} = Code.fetch_docs(module)

    lines =
      doc
      |> String.split("\n")
      |> Enum.drop_while(&(not String.starts_with?(&1, "    defmodule")))

    block = Enum.take_while(lines, &(&1 == "" or String.starts_with?(&1, "    ")))
    Enum.map_join(block, "\n", &String.replace_prefix(&1, "    ", ""))
  end
end
