defmodule Pkcs11Pool.Test.Kryoptic do
  @moduledoc """
  Throwaway tokens of kryoptic, a software token with PKCS#11 3.2 and post-quantum mechanisms.

  `script/kryoptic` builds it. Where that has not been done, a test file that wants it is skipped:

      @moduletag skip: Pkcs11Pool.Test.Kryoptic.missing()
  """

  alias Pkcs11Pool.Test.SoftHSM
  alias Pkcs11Pool.Token

  @built Path.expand("../../target/kryoptic/libkryoptic_pkcs11.so", __DIR__)

  @doc "Why there is none, or false."
  @spec missing() :: String.t() | false
  def missing do
    if File.exists?(module_path()), do: false, else: "kryoptic is not built: run script/kryoptic"
  end

  @doc "A token in a module of its own, as `SoftHSM.new_token!/1` makes it: for `SoftHSM.pool_opts/2`."
  @spec new_token!() :: SoftHSM.token()
  def new_token! do
    number = System.unique_integer([:positive])
    path = Path.join(SoftHSM.dir(), "kryoptic-#{number}")
    module = path <> ".so"
    File.cp!(module_path(), module)

    File.write!(path <> ".conf", """
    [[slots]]
    slot = 1
    dbtype = "sqlite"
    dbargs = "#{path}.sql"
    """)

    token = %{label: "kryoptic-#{number}", slot_id: 1, pin: "1234", so_pin: "12345678"}
    env = %{"KRYOPTIC_CONF" => path <> ".conf"}
    place = [module: module, module_env: env, slot: {:slot_id, 1}]
    [so_pin, pin] = for pin <- [token.so_pin, token.pin], do: fn -> pin end
    :ok = Token.init(place, token.label, so_pin)
    :ok = Token.init_pin(place, so_pin, pin)
    {:ok, %{slots: slots}} = Token.list(module: module, module_env: env)
    %{token: %{serial: serial}} = Enum.find(slots, &(&1.slot_id == 1))

    Map.merge(token, %{serial: serial, module: module, module_env: env})
  end

  @doc "Why there is no openssl with post-quantum algorithms, or false. `OPENSSL` names another one than that of the `PATH`."
  @spec openssl_missing() :: String.t() | false
  def openssl_missing do
    case missing() do
      false ->
        {text, _status} = System.cmd(openssl(), ~w(list -signature-algorithms))
        if text =~ "ML-DSA", do: false, else: "openssl knows no ML-DSA: it takes version 3.5"

      reason ->
        reason
    end
  end

  @doc "Runs that openssl: what it says and its exit status."
  @spec openssl([String.t()]) :: {String.t(), non_neg_integer}
  def openssl(args), do: System.cmd(openssl(), args, stderr_to_stdout: true)

  defp openssl, do: System.get_env("OPENSSL") || "openssl"

  defp module_path, do: System.get_env("KRYOPTIC_MODULE") || @built
end
