defmodule Pkcs11Pool.Test.P11Kit do
  @moduledoc "`p11-kit server` around a token's module, in a process group of its own, and a copy of `p11-kit-client.so` for it."

  alias Pkcs11Pool.Test.{Poll, SoftHSM}

  @client_paths [
    "/usr/lib/*/pkcs11/p11-kit-client.so",
    "/usr/lib64/pkcs11/p11-kit-client.so",
    "/usr/lib/pkcs11/p11-kit-client.so",
    "/opt/homebrew/lib/pkcs11/p11-kit-client.so"
  ]

  @doc "A server that is not yet started: `:client` and `:client_env` are a pool's `:module` and `:module_env`."
  @spec new!(SoftHSM.token()) :: map
  def new!(token) do
    # Beside the temporary folder of the tests, whose path is too long for a Unix socket.
    dir =
      Path.join(System.tmp_dir!(), "p11kit-#{System.pid()}-#{System.unique_integer([:positive])}")

    File.mkdir!(dir)
    File.chmod!(dir, 0o700)
    client = Path.join(SoftHSM.dir(), "p11-kit-client-#{System.unique_integer([:positive])}.so")
    File.cp!(client_path(), client)
    socket = Path.join(dir, "socket")

    %{
      token: token,
      dir: dir,
      socket: socket,
      client: client,
      client_env: %{"P11_KIT_SERVER_ADDRESS" => "unix:path=" <> socket}
    }
  end

  defp client_path do
    Enum.find_value(@client_paths, &List.first(Path.wildcard(&1))) ||
      raise "p11-kit-modules is not installed: run script/bootstrap"
  end

  @doc "Starts it, and waits until it listens."
  @spec start!(map) :: :ok
  def start!(%{token: token, dir: dir, socket: socket}) do
    p11_kit =
      System.find_executable("p11-kit") || raise "p11-kit is not installed: run script/bootstrap"

    # What a killed one has left behind.
    File.rm(socket)

    # It lives until it is killed, with a child for each connection: all of one group, whose number it writes down.
    script = ~S(echo $$ > "$1"; exec "$2" server -f -n "$3" -p "$4" "$5" > "$6" 2>&1)
    url = "pkcs11:token=" <> token.label

    args = [
      script,
      "server",
      pid_file(dir),
      p11_kit,
      socket,
      token.module,
      url,
      Path.join(dir, "log")
    ]

    env = for {name, value} <- token.module_env, do: {to_charlist(name), to_charlist(value)}
    setsid = System.find_executable("setsid")
    Port.open({:spawn_executable, setsid}, args: ["sh", "-c" | args], env: env)
    Poll.until(fn -> File.exists?(socket) and File.exists?(pid_file(dir)) end)
    :ok
  end

  @doc "Kills it and its children, with SIGKILL."
  @spec kill!(map) :: :ok
  def kill!(%{dir: dir}) do
    with {:ok, text} <- File.read(pid_file(dir)),
         {group, _newline} when group > 1 <- Integer.parse(text) do
      Poll.until(fn -> Enum.map(members(group), &kill/1) == [] end)
      File.rm!(pid_file(dir))
    end

    :ok
  end

  @doc "Kills it for good, and leaves nothing behind."
  @spec stop!(map) :: :ok
  def stop!(server) do
    kill!(server)
    File.rm_rf!(server.dir)
    :ok
  end

  # One by one, by its own number: `kill -KILL -1234` is read as -1, everybody, by some versions of kill.
  defp kill(pid) when pid > 1,
    do: System.cmd("kill", ["-KILL", Integer.to_string(pid)], stderr_to_stdout: true)

  # The living processes of a group.
  defp members(group) do
    for path <- Path.wildcard("/proc/[0-9]*/stat"),
        {:ok, stat} <- [File.read(path)],
        # After the name, which may hold anything: state, parent, group.
        [state, _parent, number | _rest] =
          stat |> String.split(") ") |> List.last() |> String.split(),
        String.to_integer(number) == group and state not in ["Z", "X"],
        do: path |> Path.dirname() |> Path.basename() |> String.to_integer()
  end

  defp pid_file(dir), do: Path.join(dir, "pid")
end
