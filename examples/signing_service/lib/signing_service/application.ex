defmodule SigningService.Application do
  @moduledoc false
  use Application

  @impl true
  def start(_type, _args) do
    children = [
      # The pool first: who calls it stands after it, and is stopped before it.
      {Pkcs11Pool, pool()},
      {Task.Supervisor, name: SigningService.Tasks},
      {SigningService.Payments, key: System.get_env("HSM_KEY", "signing")}
    ]

    Supervisor.start_link(children, strategy: :one_for_one, name: SigningService.Supervisor)
  end

  # In a Phoenix application this is in config/runtime.exs.
  defp pool do
    case System.get_env("HSM_MODULE") do
      nil ->
        # No HSM at hand: a throwaway token. Its folder stays in the system's temporary folder.
        token = Pkcs11Pool.Testing.new_token!(label: "payments")
        Pkcs11Pool.Testing.pool_options(token, name: SigningService.HSM)

      module ->
        [
          name: SigningService.HSM,
          module: module,
          slot: {:token_label, System.get_env("HSM_TOKEN", "payments")},
          pool_size: 8,
          pin: {:env, "HSM_PIN"}
        ]
    end
  end
end
