defmodule Pkcs11Pool.SecretsTest do
  # No PIN is anywhere but where it has to be: a VM of its own is searched, dead and alive, with all that it has logged.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.ChaosToken
  alias Pkcs11Pool.Testing.Chaos

  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  # What the VM does before it is searched. The PIN is in a file, as the code must not hold it either. `secret` is a PIN of the past:
  # logged nowhere, and known to be found where it is kept.
  @script ~S"""
  [dir, name] = System.argv()
  {:ok, _} = Application.ensure_all_started(:pkcs11_pool)
  Logger.configure(level: :debug, handle_sasl_reports: true)

  config = dir |> Path.join("config") |> File.read!() |> :erlang.binary_to_term()
  {right, wrong} = {Path.join(dir, "right"), Path.join(dir, "wrong")}

  read = fn path, pids -> {Sources, :read, [path, pids]} end

  defmodule Sources do
    # A source that tells who it runs in, and can be stopped on its way.
    def read(path, {test, mode}) do
      {:ok, file} = :file.open(path, [:read, :raw, :binary])
      {:ok, pin} = :file.read(file, 100)
      send(test, {:asked, self()})
      if mode == :raise, do: raise("the PIN is #{pin}")
      if mode == :throw, do: throw({:pin, pin})
      if mode == :return, do: {:pin, pin}, else: (if mode == :hold, do: hold(pin), else: pin)
    end

    defp hold(pin), do: receive(do: (:go -> pin))
  end

  opts = fn name, extra -> [name: name, slot: config.slot, module: config.module, module_env: config.module_env] ++ extra end
  random = fn pool -> Pkcs11Pool.generate_random(pool, 8) |> inspect() |> IO.puts() end

  # Logged in, with the PIN retained, and with one that is asked for.
  {:ok, _} = Supervisor.start_link([{Pkcs11Pool, opts.(:retained, pin: {:file, right}, pin_retention: :until_logout)}], strategy: :one_for_one)
  random.(:retained)
  {:ok, _} = Supervisor.start_link([{Pkcs11Pool, opts.(:asked, pin: read.(right, {self(), :plain}))}], strategy: :one_for_one)
  random.(:asked)
  IO.puts(inspect(Pkcs11Pool.login(:asked, {:file, right})))
  IO.puts(inspect(Pkcs11Pool.login(:asked, {:file, wrong})))

  # In conflict, and with sources that misbehave.
  for mode <- [:raise, :throw, :return] do
    {:ok, pid} = Pkcs11Pool.start_link(opts.(mode, pin: read.(right, {self(), mode}), lazy: true))
    random.(mode)
    Supervisor.stop(pid)
  end

  {:ok, pid} = Pkcs11Pool.start_link(opts.(:wrong, pin: {:file, wrong}, lazy: true))
  random.(:wrong)
  Process.unlink(pid)
  # Reports of crashes, restarts and failed starts.
  {:ok, server, _} = Pkcs11Pool.Registry.lookup(:wrong)
  Process.exit(server, :kill)
  Process.sleep(100)
  GenServer.stop(elem(Pkcs11Pool.Registry.lookup(:wrong), 1), {:shutdown_for, :no_reason})
  Process.sleep(100)
  Process.flag(:trap_exit, true)
  IO.puts(inspect(Supervisor.start_link([{Pkcs11Pool, opts.(:token, type: :token, pin: {:file, right})}], strategy: :one_for_one)))
  IO.puts(inspect(Pkcs11Pool.start_link(opts.(:strict, pin: {:file, wrong}, start: :strict))))

  # The process that asks is killed while it has the PIN.
  Pkcs11Pool.logout(:asked, force: true)
  {:ok, _} = Pkcs11Pool.start_link(opts.(:held, pin: read.(right, {self(), :hold}), lazy: true))
  flush = fn flush -> receive do {:asked, _} -> flush.(flush) after 0 -> :ok end end
  flush.(flush)
  caller = Task.async(fn -> random.(:held) end)
  asker = receive do {:asked, pid} -> pid after 60_000 -> raise "not asked" end
  if name != "alive", do: Process.exit(asker, :kill)
  if name != "alive", do: Task.await(caller, 60_000)

  # Every process, alive: what is asked of it, and its dictionary.
  for pid <- Process.list(), pid != self() do
    state =
      try do
        :sys.get_state(pid, 100)
      catch
        _, _ -> nil
      end

    IO.puts(inspect({state, Process.info(pid)}, limit: :infinity, printable_limit: :infinity))
    File.write!(Path.join(dir, "states"), :erlang.term_to_binary({state, Process.info(pid)}), [:append])
  end

  # That which is kept in a process is found.
  Agent.start_link(fn -> File.read!(Path.join(dir, "canary")) end)
  IO.puts("done")
  :erlang.halt(~c"searched")
  """

  setup %{tmp_dir: dir} do
    token = ChaosToken.new!(pin: pin())
    on_exit(fn -> Chaos.stop(token.chaos) end)
    canary = pin()
    wrong = pin()

    for {name, text} <- [right: token.pin, wrong: wrong, canary: canary] do
      path = Path.join(dir, Atom.to_string(name))
      File.write!(path, text)
      File.chmod!(path, 0o600)
    end

    config =
      Map.take(token, [:module, :module_env]) |> Map.put(:slot, {:token_serial, token.serial})

    File.write!(Path.join(dir, "config"), :erlang.term_to_binary(config))
    File.write!(Path.join(dir, "script.exs"), @script)
    %{token: token, wrong: wrong, canary: canary}
  end

  defp pin, do: "pin" <> Base.encode32(:crypto.strong_rand_bytes(10), padding: false)

  test "no PIN is in a crash dump, in a state, in a log or in an error",
       %{tmp_dir: dir} = context do
    {output, dump} = search(dir, "dead")
    assert output =~ "done"
    # The search would have found it.
    assert held?(dump, context.canary)

    for pin <- [context.token.pin, context.wrong] do
      refute held?(output, pin)
      refute held?(dump, pin)
    end
  end

  test "nor is that of a process which has it at that moment",
       %{tmp_dir: dir} = context do
    {output, dump} = search(dir, "alive")
    assert output =~ "done"
    assert held?(dump, context.canary)
    refute held?(output, context.token.pin)
    refute held?(dump, context.token.pin)
  end

  defp search(dir, name) do
    dump = Path.join(dir, "erl_crash.dump")
    paths = :code.get_path() |> Enum.map(&List.to_string/1) |> Enum.filter(&(&1 =~ "_build"))
    args = Enum.flat_map(paths, &["-pa", &1]) ++ [Path.join(dir, "script.exs"), dir, name]

    env = [
      {"ERL_CRASH_DUMP", dump},
      {"ERL_CRASH_DUMP_SECONDS", "-1"},
      {"ERL_CRASH_DUMP_NICE", "0"}
    ]

    {output, _status} =
      System.cmd(System.find_executable("elixir"), args, env: env, stderr_to_stdout: true)

    if not File.exists?(dump),
      do: flunk("no crash dump; the VM said: " <> String.slice(output, -3_000, 3_000))

    {output <> File.read!(Path.join(dir, "states")), File.read!(dump)}
  end

  # As text, as bytes of a term, in hexadecimal or base 64 at any offset, as a list of numbers: dumps have them all.
  defp held?(text, pin) do
    numbers = pin |> String.to_charlist() |> Enum.join(", ")
    base64 = for skip <- 0..2, do: base64(pin, skip)
    hex = [Base.encode16(pin), Base.encode16(pin, case: :lower)]
    Enum.any?([pin, numbers | hex ++ base64], &String.contains?(text, &1))
  end

  # The characters that do not depend on what comes before and after it.
  defp base64(pin, skip) do
    whole = binary_part(pin, skip, div(byte_size(pin) - skip, 3) * 3)
    Base.encode64(whole)
  end
end
