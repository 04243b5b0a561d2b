defmodule Pkcs11Pool.Test.Tokens.Kryoptic do
  @moduledoc false
  # Kryoptic, as `script/kryoptic` builds it.

  @behaviour Pkcs11Pool.Test.Tokens

  alias Pkcs11Pool.Test.{Kryoptic, SoftHSM}

  @impl true
  def title, do: "kryoptic"

  @impl true
  def version do
    case File.read("target/kryoptic/version") do
      {:ok, version} -> String.trim(version)
      {:error, _reason} -> nil
    end
  end

  @impl true
  def launcher do
    case Kryoptic.missing() do
      false -> {:ok, []}
      reason -> {:not_tested, reason}
    end
  end

  @impl true
  def set_up(_dir) do
    SoftHSM.start!()
    System.at_exit(fn _status -> SoftHSM.stop() end)
    token = Kryoptic.new_token!()
    opts = SoftHSM.pool_opts(token) |> Keyword.take([:module, :module_env, :slot])
    {:ok, [%{title: title(), opts: [pool_size: 4] ++ opts, pin: token.pin}]}
  end
end
