defmodule Pkcs11Pool.Doctor.Advice do
  @moduledoc false
  # What to do about what a module did, in sentences.

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Error.Text

  @doc "What an error says, without what a pool's owner could change."
  @spec what(Error.t()) :: String.t()
  def what(error), do: elem(Text.parts(%{error | pool: nil}), 0)

  @doc "What an error says is to be done."
  @spec remedy(Error.t()) :: String.t()
  def remedy(error) do
    case Text.parts(%{error | pool: nil}) do
      {_what, nil} -> "See the vendor's log, and what the return code means in its documentation."
      {_what, remedy} -> remedy <> "."
    end
  end

  @signals %{
    4 => "SIGILL",
    6 => "SIGABRT",
    7 => "SIGBUS",
    8 => "SIGFPE",
    9 => "SIGKILL",
    11 => "SIGSEGV",
    15 => "SIGTERM"
  }

  @doc "A signal's name."
  @spec signal(pos_integer) :: String.t()
  def signal(number), do: Map.get(@signals, number, "signal #{number}")

  @doc "How another VM ended."
  @spec outcome(Pkcs11Pool.SeparateVM.outcome()) :: String.t()
  def outcome({:signal, number}), do: signal(number)
  def outcome({:exit, status}), do: "exit code #{status}"
  def outcome({:hung, ms}), do: "nothing for #{seconds(ms)}"
  def outcome(other), do: to_string(other)

  @doc "A time as a person says it."
  @spec seconds(pos_integer) :: String.t()
  def seconds(ms) when rem(ms, 1_000) == 0, do: "#{div(ms, 1_000)} s"
  def seconds(ms), do: "#{ms / 1_000} s"

  @apart "Until then, keep the module out of your VM: guides/process_isolation.md says how."

  @doc "A module that crashed in a step of this name."
  @spec crash(atom) :: String.t()
  def crash(:load) do
    "Its own code runs when it is loaded. See whether all that it needs is there (ldd PATH), whether its configuration can be read, and what it writes, then ask the vendor. #{@apart}"
  end

  def crash(:initialize) do
    "See whether its configuration can be read and names a device that is there, and what it writes, then ask the vendor. #{@apart}"
  end

  def crash(:halt),
    do: "All else went well: your application would meet this when it stops. Ask the vendor."

  def crash(:secret) do
    "Whether the PIN was tried is not known, and it was not tried again. Look at the token with the vendor's tool before the next try. #{@apart}"
  end

  def crash(_step),
    do: "Look for an update of the vendor's, and tell the vendor the call. #{@apart}"

  @doc "A module that did not return in a step of this name."
  @spec hang(atom) :: String.t()
  def hang(:secret) do
    "Whether the PIN was tried is not known, and it was not tried again. If somebody has to type or touch something, give more time with --timeout SECONDS; else see whether the device or server is reachable."
  end

  def hang(name) when name in [:load, :initialize, :list] do
    "See whether the device or server behind it is reachable (network, firewall, the vendor's daemon), and what its configuration names. If it needs longer, give --timeout SECONDS. Its VM was ended."
  end

  def hang(:halt),
    do: "All else went well: your application would meet this when it stops. Ask the vendor."

  def hang(_step) do
    "See whether the device or server behind it is reachable. If it needs longer, give --timeout SECONDS. In a pool, executor: :threads replaces sessions that hang."
  end

  @doc "A module that could not be loaded, by what the system said."
  @spec load(String.t()) :: String.t()
  def load(cause) do
    cond do
      cause =~ "wrong ELF class" ->
        "The file has another number of bits than this VM: install the vendor's 64-bit library."

      missing = missing_library(cause) ->
        "It needs the library #{missing}, which the system does not find: install it, or add its folder to LD_LIBRARY_PATH or /etc/ld.so.conf.d. `ldd PATH` lists all that it needs."

      cause =~ "GLIBC" or cause =~ "version `" ->
        "It is built for another C library than this system's: install the vendor's package for this system's version (on Alpine there is musl, and most modules want glibc)."

      cause =~ "Permission denied" or cause =~ "Operation not permitted" ->
        "This user may not read or execute it: see its mode and those of its folders, a mount with noexec, and SELinux or AppArmor."

      cause =~ "not a PKCS#11 library" ->
        "It is a shared library, but not one of PKCS#11: it has no C_GetFunctionList. Vendors ship several libraries: look for the one that their documentation calls PKCS#11 or Cryptoki."

      cause =~ "invalid ELF header" or cause =~ "file too short" or cause =~ "truncated" ->
        "The file is damaged: install the vendor's software again."

      true ->
        "Compare the path with the vendor's documentation, and the file's architecture with this system's."
    end
  end

  defp missing_library(cause) do
    case Regex.run(~r/(\S+): cannot open shared object file/, cause) do
      [_all, library] -> library
      nil -> nil
    end
  end

  @doc "A module whose `C_Initialize` failed."
  @spec initialize(Path.t(), map) :: String.t()
  def initialize(path, options) do
    if soft_hsm?(path) do
      soft_hsm(options)
    else
      "See its configuration: which file does it read, is there a variable that names it (give it by --module-env), may this user (#{user()}) read it, and is the device or server that it names reachable? " <>
        "The vendor's log says more."
    end
  end

  @doc "For a module that has no token, a hint where another user may have one."
  @spec other_user(map) :: String.t()
  def other_user(options) do
    if soft_hsm?(options.module), do: " If there should be one: " <> soft_hsm(options), else: ""
  end

  defp soft_hsm?(path), do: Path.basename(path) =~ "softhsm"

  # Where SoftHSM looks, in this order.
  defp soft_hsm(options) do
    named = (options.module_env || %{})["SOFTHSM2_CONF"] || System.get_env("SOFTHSM2_CONF")
    home = System.get_env("HOME")
    own = if home, do: [Path.join(home, ".config/softhsm2/softhsm2.conf")], else: []
    usual = own ++ ["/etc/softhsm/softhsm2.conf", "/etc/softhsm2.conf"]

    cond do
      named && not File.exists?(named) ->
        "SOFTHSM2_CONF names #{named}, which is not there: correct it, or make the file."

      file = named || Enum.find(usual, &File.exists?/1) ->
        "SoftHSM reads #{file}#{token_dir(file)}. " <>
          "SOFTHSM2_CONF names another file: give it by --module-env SOFTHSM2_CONF=PATH."

      true ->
        "SoftHSM finds no configuration: make one, and name it by --module-env SOFTHSM2_CONF=PATH."
    end
  end

  defp token_dir(file) do
    with {:ok, text} <- File.read(file),
         [_all, dir] <- Regex.run(~r/^\s*directories\.tokendir\s*=\s*(\S+)/m, text) do
      case File.ls(dir) do
        {:ok, _files} ->
          ", and its tokens are in #{dir}"

        {:error, :enoent} ->
          ", which names #{dir} for its tokens, and that is not there: make it"

        {:error, _reason} ->
          ", which names #{dir} for its tokens, and this user (#{user()}) may not read that: give it the right to (on Debian: the group softhsm)"
      end
    else
      {:error, :enoent} -> ", which is not there"
      {:error, _reason} -> ", which this user (#{user()}) may not read"
      nil -> ", which names no directories.tokendir"
    end
  end

  defp user do
    System.get_env("USER") || System.get_env("LOGNAME") || "the one that runs this"
  end
end
