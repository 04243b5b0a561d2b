defmodule Mix.Tasks.Pkcs11Pool.Gen.Config do
  @shortdoc "Prints the child specification of a pool on a token"
  @moduledoc """
  Prints the child specification of a pool on a token that is there.

      mix pkcs11_pool.gen.config --module /usr/lib/softhsm/libsofthsm2.so --name MyApp.HSM

  prints

      # The token "payments", serial number "4b3fcf9ca00630ee", "SoftHSM v2" of "SoftHSM project".
      # For the children of your application's supervisor, before whatever calls it.
      {Pkcs11Pool,
       name: MyApp.HSM,
       module: "/usr/lib/softhsm/libsofthsm2.so",
       slot: {:token_label, "payments"},
       pool_size: 4,
       pin: {:env, "HSM_PIN"}}

  The token is named by its label; where several have that, by its serial number; where that does not tell it either, by a PKCS#11 URI. It is never named by the slot's number
  as long as it has a name, since that number may change. `:pool_size` is the default, or what the token allows if that is less.

  The module is loaded in a VM of its own, as `mix pkcs11_pool.doctor` does. No PIN is asked for or tried, and no file is written.

  ## Options

    * `--module PATH`, `--module-env NAME=VALUE`, `--module-args STRING`, `--module-sha256 DIGEST` - as the pool's options, which are printed, too
    * `--token-label LABEL`, `--token-serial SERIAL`, `--slot-id N` or `--uri URI` - the token, by one of these; needed where there are several
    * `--name NAME` - the pool's name, `MyApp.HSM` by default, with your application's name in its place
    * `--pin-env VARIABLE`, `--pin-file PATH` or `--no-pin` - the `:pin` that is printed; by default `{:env, "HSM_PIN"}` where the token wants a login, or
      `protected_authentication_path: true` where it has a PIN pad
    * `--timeout SECONDS` - how long one step may take, 30 by default

  The exit code is 0, or one of the doctor's: 1 where there is no such token, or several, 2 for wrong arguments, 3 if the module crashed, 4 if it hung.

  In a release: `bin/my_app eval 'Pkcs11Pool.Release.gen_config("--module ...")'`.
  """
  use Mix.Task

  @requirements ["compile"]

  @impl Mix.Task
  def run(arguments) do
    named? = Enum.any?(arguments, &String.starts_with?(&1, "--name"))
    Pkcs11Pool.Release.gen_config(if named?, do: arguments, else: name() ++ arguments)
  end

  defp name do
    case Mix.Project.config()[:app] do
      app when app in [nil, :pkcs11_pool] -> []
      app -> ["--name", Macro.camelize(Atom.to_string(app)) <> ".HSM"]
    end
  end
end
