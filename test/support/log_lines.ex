defmodule Pkcs11Pool.Test.LogLines do
  @moduledoc "The lines of the log that are about one pool, while they are written: `{:log, pool, level, text}` come as messages."

  @doc "Sends the lines with this pool's name in them to the calling test, until it ends."
  @spec follow!(pool :: term) :: :ok
  def follow!(pool) do
    id = :"log_lines_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, __MODULE__, %{config: %{pool: pool, test: self()}})
    ExUnit.Callbacks.on_exit(fn -> :logger.remove_handler(id) end)
  end

  @doc "What came until now, at the level of `:info` or above."
  @spec received(pool :: term) :: [{level :: atom, String.t()}]
  def received(pool) do
    receive do
      {:log, ^pool, :debug, _text} -> received(pool)
      {:log, ^pool, level, text} -> [{level, text} | received(pool)]
    after
      0 -> []
    end
  end

  @doc false
  # Called by :logger, in the process that writes the line.
  def log(%{level: level, msg: {:string, text}, meta: %{mfa: {module, _, _}}}, %{config: config}) do
    text = IO.chardata_to_string(text)

    if module == Pkcs11Pool.Log and text =~ inspect(config.pool),
      do: send(config.test, {:log, config.pool, level, text})
  end

  def log(_other, _config), do: :ok
end
