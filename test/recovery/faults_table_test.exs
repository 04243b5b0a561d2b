defmodule Pkcs11Pool.FaultsTableTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.ReturnCode
  alias Pkcs11Pool.Test.Faults

  @moduletag :faults
  @page Path.expand("faults.md", __DIR__)
  @marks ["<!-- faults: begin -->\n", "<!-- faults: end -->"]

  test "the table has every return code, in one class" do
    listed = for class <- Faults.classes(), code <- Faults.codes(class), is_atom(code), do: code
    assert Enum.sort(listed) == Enum.sort(ReturnCode.names() -- [:ok])
    assert Enum.sort(Faults.classes()) == Enum.sort(ReturnCode.classes())
  end

  # PKCS11_POOL_WRITE_GUIDES=1 mix test test/recovery/faults_table_test.exs
  test "the page faults.md shows the table" do
    [before, shown, rest] = String.split(File.read!(@page), @marks)
    [first, last] = @marks
    table = "\n" <> Faults.markdown() <> "\n"

    if System.get_env("PKCS11_POOL_WRITE_GUIDES"),
      do: File.write!(@page, [before, first, table, last, rest]),
      else:
        assert(
          shown == table,
          "write it anew with PKCS11_POOL_WRITE_GUIDES=1 mix test test/recovery/faults_table_test.exs"
        )
  end
end
