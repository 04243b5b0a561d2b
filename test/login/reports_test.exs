defmodule Pkcs11Pool.ReportsTest do
  # What supervisors and processes report of themselves, in a VM that has had its SASL reports on since before it booted: as the logger shows it,
  # and as terms, which is how OTP prints what no `Inspect` has a say in.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.SoftHSM

  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  @script ~S"""
  [dir] = System.argv()
  config = dir |> Path.join("config") |> File.read!() |> :erlang.binary_to_term()

  defmodule Terms do
    # Every event, as OTP's own formatter would print it.
    def show(path, what),
      do: File.write!(path, :io_lib.format("~0tp~n", [what]) |> IO.chardata_to_string(), [:append])

    def filter(event, path) do
      show(path, event)
      event
    end
  end

  defmodule Secrets do
    def pin(path, _secret), do: File.read!(path)
    def none(_secret), do: {:error, :cancelled}
  end

  events = Path.join(dir, "events")
  states = Path.join(dir, "states")
  # Before all other filters: one of Elixir 1.15's and later makes texts of the reports.
  %{filters: filters} = :logger.get_primary_config()
  :ok = :logger.set_primary_config(:filters, [{:terms, {&Terms.filter/2, events}} | filters])
  {:ok, _} = Application.ensure_all_started(:pkcs11_pool)
  Process.flag(:trap_exit, true)

  opts = fn name, more ->
    env = Map.put(config.module_env, "API_KEY", config.env)
    Keyword.merge([name: name, slot: config.slot, module: config.module, module_env: env], more)
  end

  pin = {Secrets, :pin, [config.pin_file, config.argument]}

  # Starts that fail: there is no such module, or strictly, no PIN.
  failing = [
    opts.(:no_module, module: "/no/such/module.so", module_args: config.args, pin: pin),
    opts.(:strict, pin: {Secrets, :none, [config.argument]}, start: :strict)
  ]

  for options <- failing do
    {:error, reason} = Supervisor.start_link([{Pkcs11Pool, options}], strategy: :one_for_one)
    Terms.show(states, reason)
    {:error, error} = Pkcs11Pool.start_link(options)
    Terms.show(states, error)
  end

  # One that starts.
  options = opts.(:good, pin: pin, pool_size: 2, executor: :dirty_io)
  spec = Pkcs11Pool.child_spec(options)
  IO.inspect(spec, label: "the child specification")
  Terms.show(states, spec)
  {:ok, top} = Supervisor.start_link([spec], strategy: :one_for_one, max_restarts: 100)
  :ok = Pkcs11Pool.await_ready(:good, 60_000)

  ours = fn ->
    {:ok, server, _entry} = Pkcs11Pool.Registry.lookup(:good)
    pool = Pkcs11Pool.Registry.whereis(:supervisor, :good)
    runners = Pkcs11Pool.Registry.whereis(:runners, :good)
    runner = for {_, pid, _, _} <- DynamicSupervisor.which_children(runners), do: pid
    [server, runners, pool | runner] ++ [top]
  end

  # All that they tell about themselves, alive.
  for pid <- ours.() ++ [Process.whereis(Pkcs11Pool.Registry), Process.whereis(Pkcs11Pool.Slots)], is_pid(pid) do
    told = {:sys.get_state(pid), :sys.get_status(pid), Process.info(pid, [:dictionary, :messages])}
    IO.inspect(told, limit: :infinity, printable_limit: :infinity)
    Terms.show(states, told)
  end

  for child <- [{Pkcs11Pool, :good}], do: Terms.show(states, :supervisor.get_childspec(top, child))

  await = fn await, look ->
    if look.(), do: :ok, else: (Process.sleep(10); await.(await, look))
  end

  # Crash reports, and restarts by their supervisors: of each process, by a fault of its own.
  for index <- 0..3 do
    pid = Enum.at(ours.(), index)
    monitor = Process.monitor(pid)
    :sys.terminate(pid, {:a_fault, index}, 60_000)
    receive do {:DOWN, ^monitor, _, _, _} -> :ok end
    await.(await, fn -> match?(:ok, Pkcs11Pool.await_ready(:good, 1_000)) end)
  end

  # A state that is none, and a message that finds it so.
  {:ok, server, _entry} = Pkcs11Pool.Registry.lookup(:good)
  monitor = Process.monitor(server)
  :sys.replace_state(server, fn state -> Map.delete(state, :ceiling) |> Map.delete(:pool) end)
  receive do {:DOWN, ^monitor, _, _, _} -> :ok end
  await.(await, fn -> match?(:ok, Pkcs11Pool.await_ready(:good, 1_000)) end)
  Supervisor.stop(top)
  Logger.flush()
  IO.puts("the script is done")
  """

  test "no value of :module_env, :module_args or of the :pin's arguments is in a report, a state or a child specification",
       %{tmp_dir: dir} do
    token = SoftHSM.new_token!()
    secret = fn -> "secret" <> Base.encode32(:crypto.strong_rand_bytes(10), padding: false) end
    secrets = %{env: secret.(), args: secret.(), argument: secret.()}
    pin_file = Path.join(dir, "pin")
    File.write!(pin_file, token.pin)

    config =
      token
      |> Map.take([:module, :module_env])
      |> Map.merge(%{slot: {:token_serial, token.serial}, pin_file: pin_file})
      |> Map.merge(secrets)

    File.write!(Path.join(dir, "config"), :erlang.term_to_binary(config))
    File.write!(Path.join(dir, "script.exs"), @script)
    paths = :code.get_path() |> Enum.map(&List.to_string/1) |> Enum.filter(&(&1 =~ "_build"))

    args =
      ["--logger-sasl-reports", "true"] ++
        Enum.flat_map(paths, &["-pa", &1]) ++ [Path.join(dir, "script.exs"), dir]

    {output, 0} = System.cmd(System.find_executable("elixir"), args, stderr_to_stdout: true)
    assert output =~ "the script is done"
    events = File.read!(Path.join(dir, "events"))

    # These are the reports.
    for report <- [
          # of a failed start, of a progress, of a restart, of a crash
          "start_error",
          "progress",
          "child_terminated",
          "crash_report",
          "a_fault",
          # with the child's start call
          "{'Elixir.Pkcs11Pool',start_link,[",
          "{'Elixir.Pkcs11Pool.PoolServer',start_link,["
        ] do
      assert events =~ report
    end

    # The pool server, the runners' supervisor, the pool's supervisor, a runner.
    for index <- 0..3, do: assert(events =~ "{a_fault,#{index}}")
    assert output =~ "Pkcs11Pool.start_link(#Pkcs11Pool.Options<"

    for text <- [output, events, File.read!(Path.join(dir, "states"))],
        {name, value} <- secrets do
      if text =~ value, do: flunk("#{name} is in: " <> around(text, value))
      # A list of numbers, or a binary that is printed as bytes.
      refute text =~ value |> String.to_charlist() |> Enum.join(",")
    end
  end

  defp around(text, value) do
    [before, rest] = String.split(text, value, parts: 2)
    String.slice(before, -400, 400) <> "<here>" <> String.slice(rest, 0, 100)
  end
end
