defmodule Pkcs11Pool.Supervisor do
  @moduledoc false
  # A pool's processes: its runners, and the keeper that starts them. When the keeper dies, its native pool drains by itself, and both
  # start anew with a new one; the runners come and go without any restart of this.
  use Supervisor

  alias Pkcs11Pool.{Keeper, Options, Registry}

  @spec start_link(Options.t()) :: Supervisor.on_start()
  def start_link(options) do
    Supervisor.start_link(__MODULE__, options, name: Registry.via(:supervisor, options.name))
  end

  @impl Supervisor
  def init(options) do
    children = [
      {DynamicSupervisor, name: Registry.via(:runners, options.name), strategy: :one_for_one},
      {Keeper, options}
    ]

    Supervisor.init(children, strategy: :one_for_all)
  end
end
