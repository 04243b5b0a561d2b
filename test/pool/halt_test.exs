defmodule Pkcs11Pool.HaltTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}

  # A VM that ends while threads are inside a module crashes, unless they are waited for.
  @moduletag timeout: 300_000

  @script ~S"""
  [pools, ending, calls] = System.argv()
  {pools, []} = Code.eval_string(pools)
  {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)
  {:ok, top} = Supervisor.start_link(Enum.map(pools, &{Pkcs11Pool, &1}), strategy: :one_for_one)
  # The end of the pools is not the script's.
  Process.unlink(top)
  for pool <- pools, do: :ok = Pkcs11Pool.await_ready(pool[:name], 30_000)
  done = :counters.new(1, [])

  for _ <- 1..32, pool <- pools do
    spawn(fn ->
      for _ <- Stream.cycle([:on]) do
        case calls do
          "quick" -> Pkcs11Pool.sign(pool[:name], "signing", :ecdsa, :binary.copy("x", 32))
          "large" -> Pkcs11Pool.digest(pool[:name], :sha512, :binary.copy("x", 32 * 1_048_576))
          "stuck" -> Pkcs11Pool.digest(pool[:name], :sha256, :binary.copy("x", 300_000))
          "hung" -> Pkcs11Pool.digest(pool[:name], :sha256, :binary.copy("x", 300_000), operation_timeout: 100)
        end

        :counters.add(done, 1, 1)
      end
    end)
  end

  under_load = fn wait ->
    key = if calls == "hung", do: :hung, else: :running
    busy = if calls == "hung", do: &(&1[:pool_size] - 1), else: fn _pool -> 0 end
    running? = Enum.all?(pools, &(Map.fetch!(Pkcs11Pool.status(&1[:name]), key) > busy.(&1)))

    unless running? and (calls != "quick" or :counters.get(done, 1) > 200) do
      Process.sleep(1)
      wait.(wait)
    end
  end

  under_load.(under_load)
  IO.puts("under load")

  case ending do
    "halt" -> System.halt(0)
    "stop" -> System.stop(0)
  end

  Process.sleep(:infinity)
  """

  # The thread that looks for a token that is away hangs in the module.
  @looking ~S"""
  alias Pkcs11Pool.Testing.Chaos

  [pool, chaos] = System.argv()
  {pool, []} = Code.eval_string(pool)
  {chaos, []} = Code.eval_string(chaos)
  {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)
  {:ok, top} = Supervisor.start_link([{Pkcs11Pool, pool}], strategy: :one_for_one)
  Process.unlink(top)
  :ok = Pkcs11Pool.await_ready(pool[:name], 30_000)
  Chaos.hang(chaos, :C_GetSlotList)
  Chaos.remove_token(chaos)
  {:error, _gone} = Pkcs11Pool.generate_random(pool[:name], 8)

  hangs = fn wait ->
    if Chaos.hanging(chaos)["C_GetSlotList"] in [nil, 0] do
      Process.sleep(1)
      wait.(wait)
    end
  end

  hangs.(hangs)
  IO.puts("under load")
  System.stop(0)
  Process.sleep(:infinity)
  """

  # A module hangs that somebody has asked what it has, and does not wait for any more.
  @listing ~S"""
  alias Pkcs11Pool.Testing.Chaos

  [chaos, ending] = System.argv()
  {chaos, []} = Code.eval_string(chaos)
  {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)
  Chaos.hang(chaos, :C_GetTokenInfo)
  opts = [module: chaos.module, module_env: chaos.module_env]
  {:error, %{reason: :operation_timeout}} = Pkcs11Pool.Token.list([operation_timeout: 500] ++ opts)

  hangs = fn wait ->
    if Chaos.hanging(chaos)["C_GetTokenInfo"] in [nil, 0] do
      Process.sleep(1)
      wait.(wait)
    end
  end

  hangs.(hangs)
  IO.puts("under load")
  if ending == "halt", do: System.halt(0), else: System.stop(0)
  Process.sleep(:infinity)
  """

  # Pools of an application, which the end of the VM stops one after the other.
  @stopping ~S"""
  defmodule Top do
    use Application
    def start(_type, pools),
      do: Supervisor.start_link(Enum.map(pools, &{Pkcs11Pool, &1}), strategy: :one_for_one)
  end

  alias Pkcs11Pool.Testing.Chaos

  [pools, chaos, calls] = System.argv()
  {pools, []} = Code.eval_string(pools)
  {chaos, []} = Code.eval_string(chaos)
  spec = [mod: {Top, pools}, applications: [:pkcs11_pool], modules: [], registered: []]
  :ok = :application.load({:application, :top, spec})
  {:ok, _started} = Application.ensure_all_started(:top)
  for pool <- pools, do: :ok = Pkcs11Pool.await_ready(pool[:name], 30_000)
  if calls == "hung", do: Chaos.hang(chaos, :C_GenerateRandom), else: Chaos.latency(chaos, :C_GenerateRandom, 4_000)

  for pool <- pools do
    spawn(fn ->
      result = Pkcs11Pool.generate_random(pool[:name], 8, operation_timeout: 600_000)
      IO.puts("it ended in #{if(match?({:ok, _}, result), do: :ok, else: elem(result, 1).reason)}")
    end)
  end

  inside = fn wait ->
    if Chaos.inside(chaos)["C_GenerateRandom"] != length(pools) do
      Process.sleep(1)
      wait.(wait)
    end
  end

  inside.(inside)
  IO.puts("under load")
  IO.puts("stopped at #{System.os_time(:millisecond)}")
  System.stop(0)
  Process.sleep(:infinity)
  """

  setup_all do
    script = script!("halt", @script)
    %{script: script}
  end

  defp script!(name, text) do
    script = Path.join(SoftHSM.dir(), "#{name}-#{System.unique_integer([:positive])}.exs")
    File.write!(script, text)
    script
  end

  for ending <- ["halt", "stop"], executor <- [:dirty_io, :threads] do
    test "System.#{ending} under load ends well, ten times, executor #{executor}", %{
      script: script
    } do
      token = token_with_key()

      for _ <- 1..10 do
        assert_ends_well(
          script,
          [pool(token, executor: unquote(executor))],
          unquote(ending),
          "quick"
        )
      end
    end

    test "System.#{ending} in the middle of a long call ends well, executor #{executor}",
         %{script: script} do
      pool = pool(SoftHSM.new_token!(), executor: unquote(executor))
      assert_ends_well(script, [pool], unquote(ending), "large")
    end

    test "System.#{ending} with a call that hangs ends, executor #{executor}", %{script: script} do
      token = SoftHSM.valve!(SoftHSM.new_token!())
      # The pools' start is not held up: it writes less than the pipe takes.
      SoftHSM.hold!(token)
      pool = pool(token, executor: unquote(executor), shutdown_timeout: 100)
      assert_ends_well(script, [pool], unquote(ending), "stuck")
    end
  end

  for executor <- [:dirty_io, :threads] do
    test "System.stop does not wait for calls that hang, executor #{executor}", %{script: script} do
      token = SoftHSM.valve!(SoftHSM.new_token!())
      SoftHSM.hold!(token)
      pool = pool(token, executor: unquote(executor), shutdown_timeout: 120_000)
      {time, _} = :timer.tc(fn -> assert_ends_well(script, [pool], "stop", "hung") end)
      # With the start of a VM, and the time until all of them hang.
      assert time < 60_000_000
    end
  end

  test "System.stop does not wait for a look for the token that hangs" do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    pool = pool(token, shutdown_timeout: 120_000)
    chaos = inspect(chaos, structs: false, limit: :infinity)

    {time, _} =
      :timer.tc(fn -> ends_well(script!("looking", @looking), [literal(pool), chaos]) end)

    # With the start of a VM.
    assert time < 60_000_000
  end

  for ending <- ["halt", "stop"] do
    test "System.#{ending} with a module that hangs while it tells what it has ends well" do
      %{chaos: chaos} = ChaosToken.for_test!()
      chaos = inspect(chaos, structs: false, limit: :infinity)
      ends_well(script!("listing", @listing), [chaos, unquote(ending)])
    end
  end

  for executor <- [:dirty_io, :threads] do
    test "System.stop gives the calls of all its pools time together, executor #{executor}" do
      %{token: token, chaos: chaos} = ChaosToken.for_test!()
      opts = [executor: unquote(executor), pool_size: 1]
      pools = for number <- 1..8, do: pool(token, [name: :"halt-#{number}"] ++ opts)
      {output, time} = stops_well(pools, chaos, "hung")
      assert length(String.split(output, "it ended in draining")) == 9
      # One after the other they would take 5 s each.
      assert time < 30_000
    end
  end

  test "System.stop gives a call as long as :shutdown_timeout says" do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    pool = pool(token, executor: :threads, pool_size: 1, shutdown_timeout: 120_000)
    {output, _time} = stops_well([pool], chaos, "slow")
    assert output =~ "it ended in ok"
  end

  test "System.halt under load on two modules ends well, ten times", %{script: script} do
    pools = for _ <- 1..2, do: pool(token_with_key(), pool_size: 3)
    for _ <- 1..10, do: assert_ends_well(script, pools, "halt", "quick")
  end

  # What it has printed, and how long System.stop took, in ms.
  defp stops_well(pools, chaos, calls) do
    chaos = inspect(chaos, structs: false, limit: :infinity)
    output = ends_well(script!("stopping", @stopping), [literal(pools), chaos, calls])
    ended = System.os_time(:millisecond)
    [_, stopped] = Regex.run(~r/stopped at (\d+)/, output)
    time = ended - String.to_integer(stopped)
    IO.puts("System.stop over #{length(pools)} pools with #{calls} calls took #{time} ms")
    {output, time}
  end

  defp assert_ends_well(script, pools, ending, calls) do
    ends_well(script, [literal(pools), ending, calls])
  end

  defp literal(term), do: inspect(term, limit: :infinity, printable_limit: :infinity)

  defp ends_well(script, arguments) do
    ebin = Path.join(:code.lib_dir(:pkcs11_pool), "ebin")
    arguments = ["-pa", ebin, script | arguments]
    elixir = System.find_executable("elixir")
    options = [stderr_to_stdout: true, env: [{"HALT_TEST_PIN", "1234"}]]
    assert {output, 0} = System.cmd(elixir, arguments, options)
    assert output =~ "under load"
    refute output =~ "Segmentation"
    refute output =~ "core dumped"
    output
  end

  defp pool(token, overrides) do
    overrides = Keyword.merge([pool_size: 4, pin: {:env, "HALT_TEST_PIN"}], overrides)
    SoftHSM.pool_opts(token, overrides)
  end

  defp token_with_key do
    token = SoftHSM.new_token!()
    opts = SoftHSM.pool_opts(token, name: {:maker, token.label}, pool_size: 1)
    start_supervised!({Pkcs11Pool, opts})

    {:ok, _keys} = Pools.key_pair(opts[:name], "signing")

    stop_supervised!({Pkcs11Pool, opts[:name]})
    token
  end
end
