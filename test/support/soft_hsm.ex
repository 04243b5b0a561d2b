defmodule Pkcs11Pool.Test.SoftHSM do
  @moduledoc """
  Throwaway SoftHSM tokens in a temporary folder, never the user's own.

  SoftHSM looks for tokens when it is initialized and never again. Hence every token comes, unless told otherwise, with
  a *copy* of the library: loaded by another path, a copy is a module of its own, with its own `C_Initialize`, login,
  sessions and token folder. So a token may be made at any time, and no test sees what another does.

      token = SoftHSM.new_token!()
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})

  Several tokens in one module, made before the module is first used:

      module = SoftHSM.new_module!()
      one = SoftHSM.new_token!(module: module)
      two = SoftHSM.new_token!(module: module)

  Calls into the module, counted by OpenSC's spy:

      token = SoftHSM.spy!(SoftHSM.new_token!())
      # ... use a pool on it ...
      %{"C_Sign" => 1} = SoftHSM.calls(token)
  """

  @type token :: %{
          required(:label) => String.t(),
          required(:serial) => String.t(),
          required(:slot_id) => non_neg_integer(),
          required(:pin) => String.t(),
          required(:so_pin) => String.t(),
          required(:module) => Path.t(),
          required(:module_env) => %{String.t() => String.t()},
          optional(:spy_log) => Path.t(),
          optional(:valve) => String.t()
        }

  @module_paths [
    "/usr/lib/*/softhsm/libsofthsm2.so",
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so"
  ]

  @spy_paths [
    "/usr/lib/*/pkcs11-spy.so",
    "/usr/lib/pkcs11-spy.so",
    "/usr/lib64/pkcs11-spy.so",
    "/opt/homebrew/lib/pkcs11-spy.so",
    "/usr/local/lib/pkcs11-spy.so"
  ]

  @doc """
  Makes the temporary folder. Once per VM, before anything else; `stop/0` removes it all.
  """
  @spec start!() :: Path.t()
  def start! do
    dir = Path.join(System.tmp_dir!(), "pkcs11_pool-#{System.pid()}-#{System.os_time()}")
    File.mkdir_p!(dir)
    File.chmod!(dir, 0o700)
    :persistent_term.put(__MODULE__, dir)
    dir
  end

  @doc "Removes the temporary folder with all its tokens."
  @spec stop() :: :ok
  def stop do
    File.rm_rf!(dir())
    :ok
  end

  @doc "The temporary folder. A test may put files of its own there."
  @spec dir() :: Path.t()
  def dir, do: :persistent_term.get(__MODULE__)

  @doc "The installed SoftHSM library, or the one in `SOFTHSM2_MODULE`."
  @spec module_path() :: Path.t()
  def module_path, do: System.get_env("SOFTHSM2_MODULE") || find!(@module_paths, "softhsm2")

  @doc "A copy of the library, with a folder of its own for its tokens. Pass it `module_env/1`."
  @spec new_module!() :: Path.t()
  def new_module! do
    module = copy!(module_path(), "softhsm")
    File.mkdir!(module <> ".tokens")

    File.write!(module <> ".conf", """
    directories.tokendir = #{module}.tokens
    objectstore.backend = file
    log.level = ERROR
    """)

    module
  end

  @doc "What the module must find in its environment. `System.put_env/2` would not do: libc does not see it."
  @spec module_env(Path.t()) :: %{String.t() => String.t()}
  def module_env(module), do: %{"SOFTHSM2_CONF" => module <> ".conf"}

  @doc """
  Makes a token. Options: `:label` (at most 32 bytes; unique by default), `:pin`, `:so_pin`, `:module` (a new copy by
  default; a module that is already initialized will not see the token).
  """
  @spec new_token!(keyword()) :: token()
  def new_token!(opts \\ []) do
    label = Keyword.get_lazy(opts, :label, fn -> "token-#{unique()}" end)
    pin = Keyword.get(opts, :pin, "1234")
    so_pin = Keyword.get(opts, :so_pin, "5678")
    module = Keyword.get_lazy(opts, :module, &new_module!/0)
    env = module_env(module)
    known = slots(env)
    util!(env, ["--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", so_pin])

    # By elimination, since two tokens may well have one label.
    [{slot_id, serial, ^label}] = slots(env) -- known

    %{
      label: label,
      serial: serial,
      slot_id: slot_id,
      pin: pin,
      so_pin: so_pin,
      module: module,
      module_env: env
    }
  end

  @doc "Puts a private key and its public half on the token: a PKCS#8 file as `openssl genpkey` makes it."
  @spec import!(token(), Path.t(), label :: String.t(), id :: binary()) :: :ok
  def import!(token, file, label, id) do
    key = ["--import", file, "--label", label, "--id", Base.encode16(id)]
    util!(token.module_env, key ++ ["--serial", token.serial, "--pin", token.pin])
    :ok
  end

  @doc "What OpenSC's `pkcs11-tool` prints, logged in on the token by way of the installed library."
  @spec pkcs11_tool!(token(), [String.t()]) :: String.t()
  def pkcs11_tool!(token, args) do
    slot = ["--slot", Integer.to_string(token.slot_id)]
    login = ["--module", module_path(), "--login", "--pin", token.pin]
    run!("pkcs11-tool", token.module_env, login ++ slot ++ args)
  end

  @doc "What `openssl` prints."
  @spec openssl!([String.t()]) :: String.t()
  def openssl!(args), do: run!("openssl", %{}, args)

  @doc "The options of a pool on this token, for `{Pkcs11Pool, opts}`."
  @spec pool_opts(token(), keyword()) :: keyword()
  def pool_opts(token, overrides \\ []) do
    pin = token.pin

    Keyword.merge(
      [
        name: String.to_atom(token.label),
        module: token.module,
        module_env: token.module_env,
        slot: {:token_serial, token.serial},
        pin: fn -> pin end,
        # A machine that is busy elsewhere is no failure.
        queue_timeout: 30_000
      ],
      overrides
    )
  end

  @doc "The same token by way of OpenSC's `pkcs11-spy.so`, which writes every call of the module into a file."
  @spec spy!(token()) :: token()
  def spy!(token) do
    log = Path.join(dir(), "spy-#{unique()}.log")
    File.touch!(log)

    token
    |> Map.merge(%{module: copy!(find!(@spy_paths, "opensc"), "spy"), spy_log: log})
    |> put_in([:module_env, "PKCS11SPY"], token.module)
    |> put_in([:module_env, "PKCS11SPY_OUTPUT"], log)
  end

  @doc """
  The same token by way of a spy that can be held up. After `hold!/1`, what calls the module with more than a few KiB of data stays
  inside it, as in a module that hangs, until `let_go!/1` or the end of the calling process. What it counts comes a moment late.
  """
  @spec valve!(token()) :: token()
  def valve!(token) do
    %{spy_log: log} = token = spy!(token)

    # The spy writes the data of every call into a pipe, and the reader of the pipe can be stopped.
    pipe = log <> ".pipe"
    {_, 0} = System.cmd("mkfifo", [pipe])
    script = ~S(exec 3<>"$0"; cat <&3 >"$1" & echo $!; read -r _; kill -KILL $!)
    args = [:binary, line: 64, args: ["-c", script, pipe, log]]
    port = Port.open({:spawn_executable, System.find_executable("sh")}, args)

    receive do
      {^port, {:data, {:eol, pid}}} ->
        token
        |> put_in([:module_env, "PKCS11SPY_OUTPUT"], pipe)
        |> Map.put(:valve, pid)
    end
  end

  @doc "Holds large calls of the module up."
  @spec hold!(token()) :: :ok
  def hold!(%{valve: pid}), do: signal!(pid, "-STOP")

  @doc "Lets them go on."
  @spec let_go!(token()) :: :ok
  def let_go!(%{valve: pid}), do: signal!(pid, "-CONT")

  defp signal!(pid, signal) do
    {_, 0} = System.cmd("kill", [signal, pid])
    :ok
  end

  @doc "How often each C function was called until now, `%{\"C_Sign\" => 3}`."
  @spec calls(token()) :: %{String.t() => pos_integer()}
  def calls(%{spy_log: log}) do
    ~r/^\d+: (C_\w+)$/m
    |> Regex.scan(File.read!(log), capture: :all_but_first)
    |> List.flatten()
    |> Enum.frequencies()
  end

  ## Helpers

  # [{slot id, serial, label}] of the initialized tokens.
  defp slots(env) do
    ~r/^Slot (\d+)\n.*?Serial number: +(\S*)\n.*?Label: +([^\n]*?) *$/ms
    |> Regex.scan(util!(env, ["--show-slots"]), capture: :all_but_first)
    |> Enum.flat_map(fn
      [_slot_id, "", _label] -> []
      [slot_id, serial, label] -> [{String.to_integer(slot_id), serial, label}]
    end)
  end

  defp util!(env, args), do: run!("softhsm2-util", env, args)

  @packages %{
    "softhsm2-util" => "softhsm2",
    "pkcs11-tool" => "opensc",
    "openssl" => "openssl"
  }

  defp run!(tool, env, args) do
    path = System.find_executable(tool) || raise missing(@packages[tool])

    case System.cmd(path, args, env: Map.to_list(env), stderr_to_stdout: true) do
      {output, 0} -> output
      {output, status} -> raise "#{tool} #{hd(args)} failed with status #{status}: #{output}"
    end
  end

  defp find!(patterns, package) do
    Enum.find_value(patterns, &List.first(Path.wildcard(&1))) || raise missing(package)
  end

  defp missing(package), do: "#{package} is not installed: run script/bootstrap"

  defp copy!(path, name) do
    copy = Path.join(dir(), "#{name}-#{unique()}.so")
    File.cp!(path, copy)
    copy
  end

  defp unique, do: System.unique_integer([:positive])
end
