defmodule Pkcs11Pool.Docs.ModuleGroupsTest do
  use ExUnit.Case, async: true

  @lib Path.expand("../../lib", __DIR__)
  @groups Keyword.fetch!(Mix.Project.config()[:docs], :groups_for_modules)
  @extras Keyword.fetch!(Mix.Project.config()[:docs], :extras)

  test "each public module is in one group of the documentation" do
    public = Enum.filter(Application.spec(:pkcs11_pool, :modules), &public?/1)
    assert Pkcs11Pool in public and Pkcs11Pool.Testing.Chaos in public

    grouped = Enum.flat_map(@groups, fn {_title, modules} -> modules end)
    assert public -- grouped == []
    assert grouped == Enum.uniq(grouped)
  end

  test "every guide is in the documentation" do
    assert Path.wildcard("guides/*.md") -- @extras == []
  end

  # Mix tasks have a group of their own, and implementations of protocols none.
  defp public?(module) do
    source = to_string(module.module_info(:compile)[:source])

    String.starts_with?(source, @lib) and match?(["Pkcs11Pool" | _], Module.split(module)) and
      documented?(module)
  end

  defp documented?(module) do
    {:docs_v1, _, _, _, doc, _, _} = Code.fetch_docs(module)
    doc != :hidden
  end
end
