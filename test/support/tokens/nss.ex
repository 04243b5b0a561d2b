defmodule Pkcs11Pool.Test.Tokens.NSS do
  @moduledoc false
  # The softokn of NSS, as Firefox has it: the database of certificates and keys.

  @behaviour Pkcs11Pool.Test.Tokens

  alias Pkcs11Pool.Test.Tokens

  @pin "12345678"
  @paths [
    "/usr/lib/*/libsoftokn3.so",
    "/usr/lib/*/nss/libsoftokn3.so",
    "/usr/lib64/libsoftokn3.so"
  ]

  @impl true
  def title, do: "NSS"

  @impl true
  def version, do: Tokens.package_version("libnss3")

  @impl true
  def launcher, do: {:ok, []}

  @doc "Whether there is one, with the program that makes its database."
  @spec installed?() :: boolean
  def installed?, do: Tokens.find(@paths) != nil and System.find_executable("certutil") != nil

  @impl true
  def set_up(dir) do
    database = Path.join(dir, "nss")
    password = Path.join(dir, "nss-password")

    with module when is_binary(module) <-
           Tokens.find(@paths) || Tokens.not_installed(["libnss3"]),
         :ok <- Tokens.require_programs([{"certutil", "libnss3-tools"}]),
         :ok <- File.mkdir(database),
         :ok <- File.write(password, @pin <> "\n"),
         :ok <- Tokens.run("certutil", ["-N", "-d", "sql:" <> database, "-f", password]) do
      arguments = "configdir='sql:#{database}' certPrefix='' keyPrefix='' secmod='secmod.db'"
      slot = {:token_label, "NSS Certificate DB"}
      opts = [module: module, module_args: arguments, slot: slot, pool_size: 4]
      {:ok, [%{title: title(), opts: opts, pin: @pin}]}
    end
  end
end
