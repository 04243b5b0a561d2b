defmodule Pkcs11Pool.Test.Header do
  @moduledoc "The constants of PKCS#11 as the bindings of the crate `cryptoki-sys` have them."

  @doc """
  The constants whose names begin with a prefix and `_`, by the rest of the name in lower case.
  """
  @spec constants(String.t()) :: [{String.t(), non_neg_integer}]
  def constants(prefix) do
    for [_line, name, number] <-
          Regex.scan(~r/pub const #{prefix}_(\w+): \w+ = (\d+);/, bindings()),
        do: {String.downcase(name), String.to_integer(number)}
  end

  @doc "The functions of PKCS#11 3.2, by their C names."
  @spec functions() :: [String.t()]
  def functions do
    [_all, fields] = Regex.run(~r/pub struct CK_FUNCTION_LIST_3_2 \{(.*?)\n\}/s, bindings())
    for [_field, name] <- Regex.scan(~r/pub (C_\w+):/, fields), do: name
  end

  # Read once.
  defp bindings do
    :persistent_term.get(__MODULE__, nil) || tap(read(), &:persistent_term.put(__MODULE__, &1))
  end

  defp read do
    args = ~w(metadata --format-version 1 --offline --locked)
    {metadata, 0} = System.cmd("cargo", args, cd: Path.expand("../..", __DIR__))

    [_all, folder] =
      Regex.run(~r/"manifest_path":"([^"]*cryptoki-sys-[^"\/]*)\/Cargo.toml"/, metadata)

    File.read!(Path.join(folder, "src/bindings/x86_64-unknown-linux-gnu.rs"))
  end
end
