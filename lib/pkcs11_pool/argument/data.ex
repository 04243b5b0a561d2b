defmodule Pkcs11Pool.Argument.Data do
  @moduledoc false
  # A call's data, as the native side takes it.

  @doc """
  The binary of iodata. Raises `ArgumentError` that names what it is, without its value: it may be secret.
  """
  @spec binary!(iodata, String.t()) :: binary
  def binary!(data, _what) when is_binary(data), do: data

  def binary!(data, what) do
    IO.iodata_to_binary(data)
  rescue
    # Without the stack trace, too: the data stands in it.
    ArgumentError -> raise ArgumentError, "expected #{what} to be iodata"
  end
end
