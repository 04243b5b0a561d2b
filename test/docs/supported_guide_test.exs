defmodule Pkcs11Pool.SupportedGuideTest do
  # guides/supported.md says which C functions are called, for what, and which tests cover them, and the same of mechanisms.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{Header, Supported}

  if System.get_env("PKCS11_POOL_WRITE_GUIDE"), do: Supported.write()

  test "the guide has the tables of today" do
    assert Supported.shown() == Supported.markdown(),
           "write them anew: PKCS11_POOL_WRITE_GUIDE=1 mix test test/docs/supported_guide_test.exs"
  end

  test "the C functions that are called are those of the table, and all others of PKCS#11 3.2 are named beside it" do
    table = for {name, _functions, _tests} <- Supported.c_functions(), do: to_string(name)

    others =
      for {names, _why} <- Supported.not_called(), name <- String.split(names, ", "), do: name

    assert Enum.sort(table) == Enum.sort(called())
    assert Enum.sort(table ++ others) == Enum.sort(Header.functions())
  end

  # The functions of the list that the code of the native side calls, by `call!` or by the field's name.
  defp called do
    text = "native/token/src/**/*.rs" |> Path.wildcard() |> Enum.map_join("\n", &without_tests/1)

    for name <- Header.functions(),
        text =~
          ~r/call(_later)?!\(\s*\w+,\s*#{name}\(|\(\*?[\w.]+\)\.#{name}\b|"#{name}"|c"#{name}"|\.#{name}\b/,
        do: name
  end

  defp without_tests(path),
    do: path |> File.read!() |> String.split("#[cfg(test)]\nmod tests") |> hd()

  test "each function of the table is there, and its tests call it" do
    for {c_function, functions, tests} <- Supported.c_functions() do
      assert functions != [] and tests != []
      for function <- functions, do: assert(public?(function), "#{c_function}: #{function}")

      for test <- tests do
        names = for function <- functions, do: called_as(function)
        text = text!(test)

        assert Enum.any?(names, &(text =~ &1)),
               "#{c_function}: #{test} has none of #{inspect(functions)}"
      end
    end

    for {mechanism, function, test} <- Supported.elsewhere() do
      assert public?(function)
      text = text!(test)
      assert text =~ ~r/:#{mechanism}\b|\b#{mechanism}:/, "#{test} does not have #{mechanism}"
      assert text =~ called_as(function), "#{test} does not call #{function}"
    end

    for {mechanisms, sets, test} <- Supported.wycheproof() do
      text = text!(test)
      assert text =~ ~r/\b#{sets}/, "#{test} does not have #{sets}"
      for name <- mechanisms, do: assert(text =~ ~r/:#{name}\b/, "#{test} does not have #{name}")
    end
  end

  # A pool is started by its child specification, as a rule.
  defp called_as("start_link/1"), do: ~r/start_supervised|start_link/

  defp called_as(function) do
    name = function |> String.split(["/", "."]) |> Enum.at(-2)
    ~r/\b#{name}!?\(/
  end

  # The matrix calls by way of its support.
  defp text!("test/matrix/matrix_test.exs" = test),
    do: File.read!(test) <> File.read!("test/support/matrix_trial.ex")

  defp text!(test), do: File.read!(test)

  defp public?(function) do
    {module, function} =
      case String.split(function, ".") do
        [module, function] -> {Module.concat(Pkcs11Pool, module), function}
        [function] -> {Pkcs11Pool, function}
      end

    function in for {name, arity} <- module.__info__(:functions), do: "#{name}/#{arity}"
  end
end
