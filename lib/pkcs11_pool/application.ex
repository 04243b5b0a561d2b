defmodule Pkcs11Pool.Application do
  @moduledoc false
  use Application
  use Supervisor

  @impl Application
  def start(_type, _args), do: Supervisor.start_link(__MODULE__, nil, name: __MODULE__.Supervisor)

  @impl Supervisor
  def init(nil) do
    :ok = Pkcs11Pool.Registry.reset()
    :ok = Pkcs11Pool.Slots.new_table()
    :ok = Pkcs11Pool.Group.Table.new()
    Pkcs11Pool.PoolServer.DrainTime.reset()
    Supervisor.init([Pkcs11Pool.Registry, Pkcs11Pool.Slots], strategy: :one_for_one)
  end
end
