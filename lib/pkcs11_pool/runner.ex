defmodule Pkcs11Pool.Runner do
  @moduledoc false
  # A runner of the :dirty_io executor: it waits to be woken, and then serves in a dirty NIF until nothing waits any more.
  use GenServer, restart: :temporary

  alias Pkcs11Pool.Native

  @spec start_link(Native.pool()) :: GenServer.on_start()
  def start_link(pool), do: GenServer.start_link(__MODULE__, pool)

  @impl GenServer
  def init(pool) do
    case Native.runner_join(pool) do
      {runner, true} -> {:ok, runner, {:continue, :serve}}
      {runner, false} -> {:ok, runner}
    end
  end

  @impl GenServer
  def handle_continue(:serve, runner), do: serve(runner)

  @impl GenServer
  def handle_info(:run, runner), do: serve(runner)
  def handle_info(_other, runner), do: {:noreply, runner}

  defp serve(runner) do
    case Native.serve(runner) do
      :parked -> {:noreply, runner}
      # Back through the process's own loop, so that it can be stopped and traced between two turns.
      :again -> {:noreply, runner, {:continue, :serve}}
      :gone -> {:stop, :normal, runner}
    end
  end
end
