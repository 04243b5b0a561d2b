defmodule Pkcs11Pool.Test.Tokens.NSS do
  @moduledoc false
  # The softokn of NSS, as Firefox has it: the database of certificates and keys.

  @behaviour Pkcs11Pool.Test.Tokens

  alias Pkcs11Pool.Test.{SoftHSM, Tokens}

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

  @doc "Why there is none, with the program that makes its database, or false."
  @spec missing() :: String.t() | false
  def missing do
    if Tokens.find(@paths) && System.find_executable("certutil"),
      do: false,
      else: "NSS is not installed: run script/bootstrap tokens"
  end

  @doc "The options of a pool on the database of this VM: a module has one set of arguments, and so there is one database."
  @spec pool_opts() :: keyword
  def pool_opts do
    %{opts: opts, pin: pin} = :global.trans({__MODULE__, self()}, &database/0)
    [name: :"nss-#{System.unique_integer([:positive])}", pin: fn -> pin end] ++ opts
  end

  defp database do
    :persistent_term.get(__MODULE__, nil) ||
      tap(new_database(), &:persistent_term.put(__MODULE__, &1))
  end

  defp new_database do
    dir = Path.join(SoftHSM.dir(), "nss")
    File.mkdir_p!(dir)
    {:ok, [token]} = set_up(dir)
    token
  end

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
