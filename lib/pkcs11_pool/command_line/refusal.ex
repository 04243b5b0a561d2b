defmodule Pkcs11Pool.CommandLine.Refusal do
  @moduledoc false
  # What is wrong with an argument, thrown to `Pkcs11Pool.Bench.Options.parse/1`.

  alias Pkcs11Pool.URI

  @doc "Throws the message."
  @spec refuse(String.t()) :: no_return
  def refuse(message), do: throw({:refused, message})

  @doc "A PKCS#11 URI."
  @spec parse_uri(String.t(), option :: String.t()) :: URI.t()
  def parse_uri(uri, option) do
    uri |> URI.parse!() |> URI.check_key!()
  rescue
    # It says nothing of the URI's values.
    error in ArgumentError -> refuse("#{option}: #{Exception.message(error)}")
  end
end
