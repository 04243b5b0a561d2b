defmodule Pkcs11Pool.Test.Tokens.SoftHSM do
  @moduledoc false

  @behaviour Pkcs11Pool.Test.Tokens

  alias Pkcs11Pool.Test.{SoftHSM, Tokens}

  @impl true
  def title, do: "SoftHSM"

  @impl true
  def version, do: Tokens.package_version("libsofthsm2")

  @impl true
  def launcher, do: {:ok, []}

  @impl true
  def set_up(_dir) do
    SoftHSM.start!()
    System.at_exit(fn _status -> SoftHSM.stop() end)
    token = SoftHSM.new_token!()
    opts = SoftHSM.pool_opts(token) |> Keyword.take([:module, :module_env, :slot])
    {:ok, [%{title: title(), opts: [pool_size: 4] ++ opts, pin: token.pin}]}
  rescue
    error in RuntimeError -> {:not_tested, Exception.message(error)}
  end
end
