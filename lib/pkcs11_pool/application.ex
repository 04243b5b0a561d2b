defmodule Pkcs11Pool.Application do
  @moduledoc false
  use Application

  @impl Application
  def start(_type, _args) do
    Supervisor.start_link([Pkcs11Pool.Registry],
      strategy: :one_for_one,
      name: Pkcs11Pool.Application.Supervisor
    )
  end
end
