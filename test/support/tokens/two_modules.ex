defmodule Pkcs11Pool.Test.Tokens.TwoModules do
  @moduledoc false
  # SoftHSM and NSS in one VM, at the same time.

  @behaviour Pkcs11Pool.Test.Tokens

  alias Pkcs11Pool.Test.Tokens

  @impl true
  def title, do: "SoftHSM and NSS in one VM"

  @impl true
  def version do
    with softhsm when is_binary(softhsm) <- Tokens.SoftHSM.version(),
         nss when is_binary(nss) <- Tokens.NSS.version(),
         do: "#{softhsm}, #{nss}"
  end

  @impl true
  def launcher, do: {:ok, []}

  @impl true
  def set_up(dir) do
    with {:ok, one} <- Tokens.SoftHSM.set_up(dir),
         {:ok, other} <- Tokens.NSS.set_up(dir),
         do: {:ok, one ++ other}
  end
end
