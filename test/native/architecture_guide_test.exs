defmodule Pkcs11Pool.ArchitectureGuideTest do
  use ExUnit.Case, async: true

  @guide File.read!("guides/architecture.md")

  # The folders in which a short path may lie.
  @roots ~w(. native/token/src native/token/src/pool native/nif/src native/session_pool/src native)

  test "each file and folder that the guide names is there" do
    named =
      ~r/`((?:[\w.-]+\/)+[\w.-]*|[\w\/]+\.(?:rs|exs?|md))`/
      |> Regex.scan(@guide, capture: :all_but_first)
      |> List.flatten()
      |> Enum.uniq()
      # Functions.
      |> Enum.reject(&(&1 =~ ~r/\/\d$/))

    assert length(named) > 40
    assert [] == Enum.reject(named, &there?/1)
  end

  test "each thread that the guide names is started under that name" do
    threads = ~r/`(pkcs11-\w+)`/ |> Regex.scan(@guide, capture: :all_but_first) |> List.flatten()
    sources = Enum.map_join(Path.wildcard("native/{token,nif}/src/**/*.rs"), &File.read!/1)
    assert length(threads) > 4
    for thread <- Enum.uniq(threads), do: assert(sources =~ inspect(thread), thread)
  end

  defp there?(name) do
    name = Regex.replace(~r/^(nif|session_pool)\/(?!src)/, name, "\\1/src/")
    Enum.any?(@roots, fn root -> File.exists?(Path.join(root, name)) end)
  end
end
