defmodule Pkcs11Pool.Log do
  @moduledoc false
  # Lines of the log. Each begins with the name of the pool that it is about, so that a search for the name finds all of them.

  require Logger

  @doc """
  Writes a line about a pool; nil for what concerns no pool.
  """
  @spec write(Logger.level(), pool :: term, iodata) :: :ok
  def write(level, nil, text), do: Logger.log(level, fn -> text end)

  def write(level, pool, text),
    do: Logger.log(level, fn -> ["pool ", inspect(pool), ": ", text] end)

  @doc """
  What an error says, without the name of its pool: that is at the beginning of the line.
  """
  @spec sentence(Exception.t()) :: String.t()
  def sentence(%{pool: pool} = error) do
    message = Exception.message(error)
    prefix = "pool #{inspect(pool)}: "

    if String.starts_with?(message, prefix),
      do: binary_part(message, byte_size(prefix), byte_size(message) - byte_size(prefix)),
      else: message
  end

  def sentence(exception), do: Exception.message(exception)
end
