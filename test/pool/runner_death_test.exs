defmodule Pkcs11Pool.RunnerDeathTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}

  @size 3

  setup do
    token = SoftHSM.valve!(SoftHSM.new_token!())
    # Whoever waits in vain should be seen to do so, and a busy machine is no failure.
    opts = [pool_size: @size, executor: :dirty_io, queue_timeout: :infinity]
    opts = SoftHSM.pool_opts(token, opts)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    Pools.full_strength!(pool)
    supervisor = Pools.supervisor(pool)
    server = Pools.server(pool)

    # Whatever was killed: the pool comes to rest with all its runners, loses no session, and nothing of it was restarted.
    on_rest = fn ->
      Pools.full_strength!(pool)
      status = Pools.drained!(pool)
      assert status.idle in 1..@size
      assert Pools.supervisor(pool) == supervisor
      assert Pools.server(pool) == server
    end

    %{pool: pool, token: token, on_rest: on_rest}
  end

  test "one that is killed in the middle of 200 queued operations strands none of them",
       %{pool: pool, on_rest: on_rest} do
    callers = callers(200, fn -> Pkcs11Pool.generate_random(pool, 10_000) end)
    Poll.until(fn -> Pools.native_status(pool).waiting > 0 end)
    [victim | _] = Pools.runners(pool)
    Process.exit(victim, :kill)

    for result <- Task.await_many(callers, 60_000), do: assert({:ok, <<_::80_000>>} = result)
    on_rest.()
  end

  test "all that are killed at once, inside the module, answer what they run and leave the rest to others",
       %{pool: pool, token: token, on_rest: on_rest} do
    stuck = Pools.stuck!(pool, token, @size)
    queued = callers(50, fn -> Pkcs11Pool.generate_random(pool, 16) end)
    Poll.until(fn -> Pools.native_status(pool).waiting == 50 end)
    kill(Pools.runners(pool))

    # Nobody takes their places before the module returns: else a pool whose module hangs would occupy more and more threads.
    Poll.until(fn -> Pools.native_status(pool).runners == 0 end)
    assert %{running: @size, vacancies: 0} = Pools.native_status(pool)
    assert Pools.runners(pool) == []

    SoftHSM.let_go!(token)
    for result <- Task.await_many(stuck, 60_000), do: assert({:ok, <<_::256>>} = result)
    for result <- Task.await_many(queued, 60_000), do: assert({:ok, <<_::128>>} = result)
    on_rest.()
  end

  test "parked ones that are killed are replaced", %{pool: pool, on_rest: on_rest} do
    Pools.drained!(pool)
    before = Pools.runners(pool)
    kill(before)
    Pools.full_strength!(pool)
    assert Pools.runners(pool) -- before == Pools.runners(pool)
    assert {:ok, <<_::128>>} = Pkcs11Pool.generate_random(pool, 16)
    on_rest.()
  end

  test "woken ones that are killed before they enter leave their operation to others",
       %{pool: pool, on_rest: on_rest} do
    Pools.drained!(pool)
    victims = Pools.runners(pool)
    # Woken, but held back: so they die with what they were woken with in their hands.
    Enum.each(victims, &:sys.suspend/1)
    callers = callers(@size, fn -> Pkcs11Pool.generate_random(pool, 16) end)

    Poll.until(fn ->
      status = Pools.native_status(pool)
      status.running + status.opening == @size
    end)

    kill(victims)
    for result <- Task.await_many(callers, 60_000), do: assert({:ok, <<_::128>>} = result)
    on_rest.()
  end

  test "ones that are killed between two turns leave what they have in hand to others",
       %{pool: pool, on_rest: on_rest} do
    # Each answer uses the budget up, so that the runners step out after every operation.
    on_kills(pool, 20, 8, fn ->
      assert {:ok, <<_::12_000_000>>} = Pkcs11Pool.generate_random(pool, 1_500_000)
    end)

    on_rest.()
  end

  test "ones that are killed again and again, far more than any supervisor would restart, stop nothing",
       %{pool: pool, on_rest: on_rest} do
    on_kills(pool, 50, 16, fn ->
      assert {:ok, <<_::40_000>>} = Pkcs11Pool.generate_random(pool, 5_000)
    end)

    on_rest.()
  end

  test "ones that are killed while they start are started again", %{pool: pool, on_rest: on_rest} do
    test = self()

    # It kills whatever the runners' supervisor starts, as soon as it is there.
    tracer =
      spawn_link(fn ->
        Process.flag(:priority, :max)
        kill_spawned(0, test)
      end)

    supervisor = GenServer.whereis(Pkcs11Pool.Registry.via(:runners, pool))
    :erlang.trace(supervisor, true, [:procs, {:tracer, tracer}])
    kill(Pools.runners(pool))
    assert_receive :killed_enough, 10_000
    :erlang.trace(supervisor, false, [:procs])
    on_rest.()
  end

  defp kill_spawned(300, test), do: send(test, :killed_enough)

  defp kill_spawned(count, test) do
    receive do
      {:trace, _supervisor, :spawn, pid, _mfa} ->
        Process.exit(pid, :kill)
        kill_spawned(count + 1, test)

      _other ->
        kill_spawned(count, test)
    end
  end

  defp callers(count, fun), do: for(_ <- 1..count, do: Task.async(fun))

  # Kills so many runners, one after the other, while so many callers call.
  defp on_kills(pool, kills, callers, call) do
    killed = :atomics.new(1, [])
    callers = callers(callers, fn -> call_until(fn -> :atomics.get(killed, 1) == 1 end, call) end)

    for _ <- 1..kills do
      victim = Poll.until(fn -> Enum.random([nil | Pools.runners(pool)]) end)
      Process.sleep(:rand.uniform(4))
      kill([victim])
    end

    :atomics.put(killed, 1, 1)
    Task.await_many(callers, 60_000)
  end

  defp call_until(over?, call) do
    call.()
    unless over?.(), do: call_until(over?, call)
  end

  defp kill(pids) do
    monitors = for pid <- pids, do: Process.monitor(pid)
    for pid <- pids, do: Process.exit(pid, :kill)
    for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, :process, _pid, _reason})
  end
end
