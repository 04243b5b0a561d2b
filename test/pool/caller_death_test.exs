defmodule Pkcs11Pool.CallerDeathTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}

  setup context do
    token = SoftHSM.valve!(SoftHSM.new_token!())
    opts = Keyword.merge([pool_size: 1], Map.get(context, :pool, []))
    opts = SoftHSM.pool_opts(token, opts)
    %{pool: opts[:name], token: token, opts: opts}
  end

  test "the operations of callers that die while they wait are never executed",
       %{pool: pool, token: token, opts: opts} do
    start(opts)
    [stuck] = Pools.stuck!(pool, token, 1)
    survivors = for _ <- 1..10, do: Task.async(fn -> digest(pool) end)
    victims = for _ <- 1..10, do: spawn(fn -> digest(pool) end)
    Poll.until(fn -> Pools.native_status(pool).waiting == 20 end)
    kill(victims)
    SoftHSM.let_go!(token)

    assert {:ok, _digest} = Task.await(stuck, 60_000)
    for result <- Task.await_many(survivors, 60_000), do: assert({:ok, <<_::256>>} = result)
    assert_at_rest(pool, token)
    assert SoftHSM.calls(token)["C_DigestInit"] == 1 + 10
  end

  test "the session of a caller that dies while its operation runs serves the next",
       %{pool: pool, token: token, opts: opts} do
    start(opts)
    Pools.drained!(pool)
    SoftHSM.hold!(token)
    victim = spawn(fn -> Pools.large(pool) end)
    Pools.await_active!(pool, 1)
    kill([victim])
    next = Task.async(fn -> digest(pool) end)
    Poll.until(fn -> Pools.native_status(pool).waiting == 1 end)
    SoftHSM.let_go!(token)

    assert {:ok, <<_::256>>} = Task.await(next, 60_000)
    assert_at_rest(pool, token)
    assert %{"C_DigestInit" => 2, "C_OpenSession" => 1} = SoftHSM.calls(token)
  end

  test "the operations of callers that die while a login is in progress are never executed",
       %{pool: pool, token: token, opts: opts} do
    test = self()
    pin = opts[:pin].()

    source = fn ->
      send(test, {:asked, self()})
      receive do: (:go -> pin)
    end

    start_supervised!({Pkcs11Pool, Keyword.merge(opts, pin: source, lazy: true)})
    # The first of them is who the login was begun for.
    victims = for _ <- 1..5, do: spawn(fn -> digest(pool) end)
    assert_receive {:asked, source}
    survivors = for _ <- 1..5, do: Task.async(fn -> digest(pool) end)
    Poll.until(fn -> Pools.native_status(pool).waiting == 10 end)
    kill(victims)
    send(source, :go)

    for result <- Task.await_many(survivors, 60_000), do: assert({:ok, <<_::256>>} = result)
    assert_at_rest(pool, token)
    assert %{"C_DigestInit" => 5, "C_Login" => 1} = SoftHSM.calls(token)
  end

  @tag pool: [pool_size: 3]
  test "callers that die at any time leave nothing behind", %{
    pool: pool,
    token: token,
    opts: opts
  } do
    start(opts)

    for _ <- 1..20 do
      callers = for _ <- 1..20, do: spawn(fn -> Pkcs11Pool.generate_random(pool, 2_000) end)
      kill(Enum.shuffle(callers))
    end

    assert %{idle: idle} = assert_at_rest(pool, token)
    assert idle in 1..3
  end

  defp start(opts) do
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
  end

  defp digest(pool), do: Pkcs11Pool.digest(pool, :sha256, "x")

  # Nothing runs or waits, every runner is there, and what the module has open is what the pool says.
  defp assert_at_rest(pool, token) do
    Pools.full_strength!(pool)
    status = Pools.drained!(pool)
    assert {:ok, _mechanisms} = Pkcs11Pool.mechanisms(pool)
    Poll.until(fn -> SoftHSM.calls(token)["C_GetMechanismList"] end)
    calls = SoftHSM.calls(token)
    assert calls["C_OpenSession"] - Map.get(calls, "C_CloseSession", 0) == status.idle
    status
  end

  defp kill(pids) do
    monitors = for pid <- pids, do: Process.monitor(pid)
    for pid <- pids, do: Process.exit(pid, :kill)
    for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, :process, _pid, _reason})
  end
end
