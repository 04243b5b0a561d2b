defmodule Pkcs11Pool.Release do
  @moduledoc """
  The tasks of this library where there is no Mix: in a release, by its `eval` command, which starts nothing of the application.

      bin/my_app eval 'Pkcs11Pool.Release.doctor("--module /usr/lib/softhsm/libsofthsm2.so")'

  The arguments are those of the task of the same name: as one string, which is split at spaces as a shell would (quotes are respected), or as a list of strings. Options of the
  task that come from the shell are best given as a list:

      bin/my_app eval 'Pkcs11Pool.Release.doctor(["--module", System.fetch_env!("HSM_MODULE")])'

  An exit code that is not 0 is that of the command: the functions exit with `{:shutdown, code}`. They may also be called in a running application, as by `bin/my_app rpc` or in a
  remote shell: what they do with a module is done in a VM of its own, and the application's pools are not touched.
  """

  @doc """
  `mix pkcs11_pool.doctor`: examines a module and its tokens, and says what is wrong. See `mix help pkcs11_pool.doctor`, or `Mix.Tasks.Pkcs11Pool.Doctor`, for arguments and exit codes.
  """
  @spec doctor(String.t() | [String.t()]) :: :ok
  def doctor(arguments), do: run(&Pkcs11Pool.Doctor.main/1, arguments)

  @doc """
  `mix pkcs11_pool.gen.config`: prints the child specification of a pool on a token. See `Mix.Tasks.Pkcs11Pool.Gen.Config`.
  """
  @spec gen_config(String.t() | [String.t()]) :: :ok
  def gen_config(arguments), do: run(&Pkcs11Pool.GenConfig.main/1, arguments)

  @doc """
  `mix pkcs11_pool.init`: makes a token, with its PINs and keys. See `Mix.Tasks.Pkcs11Pool.Init`.
  """
  @spec init(String.t() | [String.t()]) :: :ok
  def init(arguments), do: run(&Pkcs11Pool.NewToken.main/1, arguments)

  defp run(main, arguments) do
    case main.(arguments!(arguments)) do
      0 -> :ok
      code -> exit({:shutdown, code})
    end
  end

  defp arguments!(arguments) when is_binary(arguments), do: OptionParser.split(arguments)

  defp arguments!(arguments) do
    if is_list(arguments) and Enum.all?(arguments, &is_binary/1) do
      arguments
    else
      # Without them: one may be a PIN in the wrong place.
      raise ArgumentError, "expected the arguments as a string, or as a list of strings"
    end
  end
end
