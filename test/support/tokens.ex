defmodule Pkcs11Pool.Test.Tokens do
  @moduledoc """
  The tokens that `script/test-tokens` tries the pool on. Each is set up in a folder of its own, with a configuration of its own; nothing of the user's is used or
  changed. Each is tried in a VM of its own, since a module may crash.
  """

  alias Pkcs11Pool.Test.Tokens

  @typedoc """
  One pool to try: its options but `:name` and `:pin`; the PIN, nil where there is none to log in with; and how many sessions it may have.
  """
  @type target :: %{title: String.t(), opts: keyword, pin: String.t() | nil}

  @type set_up :: {:ok, [target]} | {:not_tested, reason :: String.t()}

  @doc "Its heading in the table."
  @callback title() :: String.t()

  @doc "What was tried, for the guide: the package and its version, without what the distribution adds to it."
  @callback version() :: String.t() | nil

  @doc "The command that the VM is started by, where the token needs an environment that ends with it; or why it cannot be tried here."
  @callback launcher() :: {:ok, [String.t()]} | {:not_tested, reason :: String.t()}

  @doc "Makes the token in this folder, and starts what it needs. What was started ends with the VM."
  @callback set_up(dir :: Path.t()) :: set_up

  @tokens [
    softhsm: Tokens.SoftHSM,
    kryoptic: Tokens.Kryoptic,
    nss: Tokens.NSS,
    opencryptoki: Tokens.OpenCryptoki,
    tpm2: Tokens.TPM2,
    p11_kit: Tokens.P11Kit,
    two_modules: Tokens.TwoModules
  ]

  @doc "The tokens, in the order of the table."
  @spec all() :: [{atom, module}]
  def all, do: @tokens

  ## What the tokens share

  @doc "The first file that one of the patterns finds, or nil."
  @spec find([String.t()]) :: Path.t() | nil
  def find(patterns), do: Enum.find_value(patterns, &List.first(Path.wildcard(&1)))

  @doc "The version of an installed Debian package, without Debian's own part; nil where there is none."
  @spec package_version(String.t()) :: String.t() | nil
  def package_version(package) do
    with dpkg when is_binary(dpkg) <- System.find_executable("dpkg-query"),
         format = "${db:Status-Status} ${Version}",
         {"installed " <> version, 0} <-
           System.cmd(dpkg, ["--show", "--showformat=#{format}", package], stderr_to_stdout: true) do
      version |> String.replace(~r/^\d+:|[-+].*$/, "")
    else
      _none -> nil
    end
  end

  @doc "Runs a program that sets something up: `:ok`, or why the token cannot be tried."
  @spec run(String.t(), [String.t()], keyword) :: :ok | {:not_tested, String.t()}
  def run(program, args, opts \\ []) do
    case System.cmd(program, args, [stderr_to_stdout: true] ++ opts) do
      {_output, 0} ->
        :ok

      {output, status} ->
        name = Path.basename(program)
        {:not_tested, "#{name} failed with status #{status}: #{last_line(output)}"}
    end
  end

  @doc "Starts a program that runs beside the VM, and ends with it at the latest."
  @spec start(String.t(), [String.t()], log :: Path.t()) :: :ok
  def start(program, args, log) do
    # It is ended by its number when the VM closes the shell's standard input, however that comes.
    script = ~S("$@" >"$0" 2>&1 </dev/null & pid=$!; cat >/dev/null; kill "$pid"; wait "$pid")

    Port.open({:spawn_executable, System.find_executable("sh")},
      args: ["-c", script, log, program | args]
    )

    :ok
  end

  @doc "Makes the token in the slot, with PINs, by way of the library's own functions."
  @spec init(keyword, keyword) :: :ok | {:not_tested, String.t()}
  def init(opts, label: label, so_pin: so_pin, pin: pin) do
    with :ok <- Pkcs11Pool.Token.init(opts, label, fn -> so_pin end),
         opts = Keyword.put(opts, :slot, {:token_label, label}),
         :ok <- Pkcs11Pool.Token.init_pin(opts, fn -> so_pin end, fn -> pin end) do
      :ok
    else
      {:error, error} -> {:not_tested, "the token cannot be made: #{Exception.message(error)}"}
    end
  end

  @doc "Waits for what a program has to do first: `:ok`, or why the token cannot be tried."
  @spec await((() -> boolean), String.t()) :: :ok | {:not_tested, String.t()}
  def await(condition, reason) do
    Enum.reduce_while(1..200, {:not_tested, reason}, fn _try, reason ->
      if condition.(), do: {:halt, :ok}, else: {:cont, tap(reason, fn _ -> Process.sleep(50) end)}
    end)
  end

  @doc "The programs that are not installed, as a reason; `:ok` if all are."
  @spec require_programs([{String.t(), package :: String.t()}]) ::
          :ok | {:not_tested, String.t()}
  def require_programs(programs) do
    case for({name, package} <- programs, System.find_executable(name) == nil, do: package) do
      [] -> :ok
      packages -> not_installed(packages)
    end
  end

  @doc "The reason that something is not installed."
  @spec not_installed([String.t()]) :: {:not_tested, String.t()}
  def not_installed(packages),
    do: {:not_tested, "not installed: #{packages |> Enum.uniq() |> Enum.join(", ")}"}

  defp last_line(output), do: output |> String.trim() |> String.split("\n") |> List.last()
end
