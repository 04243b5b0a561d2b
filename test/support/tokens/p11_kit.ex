defmodule Pkcs11Pool.Test.Tokens.P11Kit do
  @moduledoc false
  # SoftHSM in a process of its own: `p11-kit server`, and p11-kit's client as the module.

  @behaviour Pkcs11Pool.Test.Tokens

  alias Pkcs11Pool.Test.{P11Kit, Tokens}

  @impl true
  def title, do: "p11-kit, SoftHSM"

  @impl true
  def version, do: Tokens.package_version("p11-kit")

  @impl true
  def launcher, do: {:ok, []}

  @impl true
  def set_up(dir) do
    with :ok <- Tokens.require_programs([{"p11-kit", "p11-kit"}, {"setsid", "util-linux"}]),
         {:ok, [%{opts: opts, pin: pin}]} <- Tokens.SoftHSM.set_up(dir) do
      {:token_serial, serial} = opts[:slot]

      [label] =
        for {:ok, %{slots: slots}} <- [
              Pkcs11Pool.Token.list(Keyword.take(opts, [:module, :module_env]))
            ],
            %{token: %{serial: ^serial, label: label}} <- slots,
            do: label

      server = P11Kit.new!(%{module: opts[:module], module_env: opts[:module_env], label: label})
      :ok = P11Kit.start!(server)
      System.at_exit(fn _status -> P11Kit.stop!(server) end)
      opts = Keyword.merge(opts, module: server.client, module_env: server.client_env)
      {:ok, [%{title: title(), opts: opts, pin: pin}]}
    end
  rescue
    error in RuntimeError -> {:not_tested, Exception.message(error)}
  end
end
