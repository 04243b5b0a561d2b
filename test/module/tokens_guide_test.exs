defmodule Pkcs11Pool.TokensGuideTest do
  # guides/tokens.md is what script/test-tokens found, of the tokens and features that it has.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.Tokens
  alias Pkcs11Pool.Test.Tokens.{Features, Guide}

  @remedy "write it anew: script/test-tokens --write"

  setup_all do
    %{results: Guide.results()}
  end

  test "the guide shows what was found", %{results: results} do
    assert Guide.shown() == Guide.markdown(results), @remedy
  end

  test "each token of the script has a result, and nothing else has", %{results: results} do
    assert Enum.sort(Map.keys(results)) == Enum.sort(Keyword.keys(Tokens.all())), @remedy
  end

  test "each feature of the script has a result, in its order", %{results: results} do
    for {name, %{features: features}} <- results do
      assert {name, Keyword.keys(features)} == {name, Keyword.keys(Features.all())}, @remedy
    end
  end

  test "what could not be tried is no success" do
    [{token, _module} | _others] = Tokens.all()
    shown = Guide.markdown(%{token => %{not_tested: "it is not there"}})
    assert shown =~ "not tested here: it is not there"
    refute shown =~ "yes"
  end

  test "what fails is no success" do
    [{token, _module} | _others] = Tokens.all()
    features = for {feature, _title} <- Features.all(), do: {feature, {:fail, "the reason"}}
    shown = Guide.markdown(%{token => %{version: "1.0", features: features, mechanisms: []}})
    assert shown =~ "**no**"
    assert shown =~ "the reason"
    refute shown =~ "yes"
  end
end
