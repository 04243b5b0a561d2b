defmodule Pkcs11Pool.BangTest do
  use ExUnit.Case, async: true

  # What returns no error, or not only one of this library's.
  @without_twin [child_spec: 1, start_link: 1, status: 1, with_session: 2, with_session: 3] ++
                  [encrypt_stream: 4, encrypt_stream: 5, decrypt_stream: 4, decrypt_stream: 5]

  setup_all do
    {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(Pkcs11Pool)
    {:ok, specs} = Code.Typespec.fetch_specs(Pkcs11Pool)
    docs = for {{:function, name, arity}, _, _, doc, _} <- docs, do: {{name, arity}, doc}
    %{docs: Map.new(docs), specs: Map.new(specs)}
  end

  test "each function that may fail has a twin that raises, with the same arities" do
    functions = Pkcs11Pool.__info__(:functions) -- @without_twin
    {twins, functions} = Enum.split_with(functions, fn {name, _} -> twin?(name) end)
    assert Enum.sort(twins) == Enum.sort(for {name, arity} <- functions, do: {:"#{name}!", arity})
  end

  test "each twin is documented, takes what its function takes, and returns the value alone", %{
    docs: docs,
    specs: specs
  } do
    twins = for {{name, arity}, [spec]} <- specs, twin?(name), do: {name, arity, spec}

    names =
      for {name, _arity} <- Pkcs11Pool.__info__(:functions), twin?(name), uniq: true, do: name

    assert Enum.sort(names) == Enum.sort(for {name, _, _} <- twins, uniq: true, do: name)

    for {name, arity, spec} <- twins do
      function = name |> Atom.to_string() |> String.trim_trailing("!")

      assert docs[{name, arity}] ==
               %{"en" => "`#{function}/#{arity}`, but raises `Pkcs11Pool.Error`."}

      [of_function] = specs[{String.to_atom(function), arity}]
      {arguments, result} = types(spec)
      assert {^arguments, results} = types(of_function)
      assert result in [":ok" | values(results)]
      if result == ":ok", do: assert(results =~ ~r/^:ok \|/)
    end
  end

  defp twin?(name), do: name |> Atom.to_string() |> String.ends_with?("!")

  # The types of the arguments and of the result as text, without names.
  defp types(spec) do
    {:"::", _, [{_name, _, arguments}, result]} = Code.Typespec.spec_to_quoted(:f, spec)
    {Enum.map(arguments, &text/1), text(result)}
  end

  defp text(type), do: type |> Macro.prewalk(&without_name/1) |> Macro.to_string()

  defp without_name({:"::", _, [_name, type]}), do: without_name(type)
  defp without_name(type), do: type

  # What the twin may return where the function returns this.
  defp values("results(" <> value), do: ["item_results(" <> value]

  defp values(results) do
    for [_all, value] <- Regex.scan(~r/^\{:ok, (.*)\} \| \{:error/s, results), do: value
  end
end
