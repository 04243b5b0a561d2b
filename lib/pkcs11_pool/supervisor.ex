defmodule Pkcs11Pool.Supervisor do
  @moduledoc false
  # A pool's processes: its runners, and the pool server that starts them. When the pool server dies, its native pool drains by itself, and both
  # start anew with a new one; the runners come and go without any restart of this.
  use Supervisor

  alias Pkcs11Pool.{Options, PoolServer, Registry}

  @spec start_link(Options.t()) :: Supervisor.on_start()
  def start_link(options) do
    Supervisor.start_link(__MODULE__, options, name: Registry.via(:supervisor, options.name))
  end

  @impl Supervisor
  def init(options) do
    # This name is ours now: whoever still has one of the others is left over from a supervisor that was killed, and is on its way out.
    for role <- [:runners, :server], do: await_end(Registry.whereis(role, options.name))

    children = [
      {DynamicSupervisor, name: Registry.via(:runners, options.name), strategy: :one_for_one},
      {PoolServer, options}
    ]

    Supervisor.init(children, strategy: :one_for_all)
  end

  defp await_end(nil), do: :ok

  defp await_end(pid) do
    monitor = Process.monitor(pid)
    receive do: ({:DOWN, ^monitor, :process, ^pid, _reason} -> :ok)
  end
end
