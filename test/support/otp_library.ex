defmodule Pkcs11Pool.Test.OTPLibrary do
  @moduledoc """
  Erlang libraries that the system has installed beside OTP, as Debian's erlang-proper is. Mix takes what no dependency names out of the code
  path, hence the look into OTP's own folder.
  """

  @doc "Whether the library is there; it is in the code path then."
  @spec load(name :: atom) :: boolean
  def load(name) do
    cond do
      Code.ensure_loaded?(name) -> true
      path = installed(name) -> Code.append_path(path) && Code.ensure_loaded?(name)
      true -> false
    end
  end

  defp installed(name) do
    [to_string(:code.lib_dir()), "#{name}-*", "ebin"]
    |> Path.join()
    |> Path.wildcard()
    |> List.last()
  end
end
