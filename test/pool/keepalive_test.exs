defmodule Pkcs11Pool.KeepaliveTest do
  # `:keepalive`: idle sessions are called on before the token drops them.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag :capture_log

  setup do: ChaosToken.for_test!()

  defp start(token, opts) do
    name = :"keepalive-#{System.unique_integer([:positive])}"
    defaults = [name: name, pool_size: 3, shutdown_timeout: 500]
    opts = SoftHSM.pool_opts(token, Keyword.merge(defaults, opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    on_exit(fn -> Chaos.release(token.chaos) end)
    :ok = Pkcs11Pool.await_ready(name, 30_000)
    name
  end

  # Opens so many sessions at least, which lie idle then.
  defp open(pool, count) do
    test = self()

    holders =
      for _ <- 1..count do
        spawn_link(fn ->
          Pkcs11Pool.with_session(pool, fn ->
            send(test, {:held, self()})
            receive do: (:let_go -> :ok)
          end)
        end)
      end

    for holder <- holders, do: assert_receive({:held, ^holder}, 30_000)
    for holder <- holders, do: send(holder, :let_go)
    await_idle(pool, count)
  end

  # One that is being kept alive is running meanwhile.
  defp await_idle(pool, count),
    do: Poll.until(fn -> Pkcs11Pool.status(pool).idle >= count end)

  defp calls(chaos), do: Chaos.calls(chaos, :C_GenerateRandom)

  # Waits until the token was called so many times more.
  defp await_calls(chaos, more) do
    due = calls(chaos) + more
    Poll.until(fn -> calls(chaos) >= due end)
  end

  test "off by default: the token is left alone, and an idle session that it drops is a dead one",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 1)
    open(pool, 1)
    Chaos.reset_counts(chaos)
    :sys.get_state(Pools.server(pool))
    for _ <- 1..5, do: send(Pools.server(pool), :tick)
    :sys.get_state(Pools.server(pool))
    Pools.drained!(pool)
    assert calls(chaos) == 0

    # It is found out by an operation, which is made again on a new one.
    # (SoftHSM is fast enough for the new one to live.)
    Chaos.session_idle_limit(chaos, 500)
    Process.sleep(600)
    assert {:ok, _} = Pkcs11Pool.digest(pool, :sha256, "data")
    assert Chaos.status(chaos).dead_sessions > 0
    Chaos.session_idle_limit(chaos, :infinity)
  end

  test "that all idle sessions are dead, and the library does not know it, is nothing that a caller notices",
       %{token: token, chaos: chaos} do
    pool = start(token, [])
    open(pool, 3)
    Chaos.session_idle_limit(chaos, 500)
    Process.sleep(600)
    assert {:ok, _} = Pkcs11Pool.digest(pool, :sha256, "data")
    assert Chaos.status(chaos).dead_sessions > 1
    Chaos.session_idle_limit(chaos, :infinity)
    assert Chaos.violations(chaos) == []
  end

  for executor <- [:dirty_io, :threads] do
    test "every idle session is called on, and none dies (#{executor})",
         %{token: token, chaos: chaos} do
      pool = start(token, keepalive: 100, executor: unquote(executor))
      open(pool, 3)
      Chaos.reset_counts(chaos)

      # On each of the three, three times; a loaded machine may take long for it, so that the token is patient.
      Chaos.session_idle_limit(chaos, 60_000)
      await_calls(chaos, 9)
      await_idle(pool, 3)
      Chaos.session_idle_limit(chaos, :infinity)
      assert Chaos.status(chaos).dead_sessions == 0
      # Cheap: nothing else is called, and no login made.
      assert Map.keys(Chaos.calls(chaos)) == ["C_GenerateRandom"]
      assert Chaos.violations(chaos) == []
    end
  end

  test "a call of its own that hangs is reported, and its session replaced on native threads",
       %{token: token, chaos: chaos} do
    pool = start(token, keepalive: 50, executor: :threads, operation_timeout: 300, pool_size: 1)
    open(pool, 1)
    Chaos.hang(chaos, :C_GenerateRandom, count: 1)
    Poll.until(fn -> Chaos.hanging(chaos) == %{"C_GenerateRandom" => 1} end)
    # It waits for that call, and gets another session when that is given up.
    assert {:ok, _} = Pkcs11Pool.digest(pool, :sha256, "data", queue_timeout: 60_000)
    assert %{hung: 1, health: :degraded} = Pkcs11Pool.status(pool)
    Chaos.release(chaos)
    Poll.until(fn -> Pkcs11Pool.status(pool).hung == 0 end)
    Pools.full_strength!(pool)
  end

  test "a surplus session is closed at its TTL all the same", %{token: token} do
    pool = start(token, keepalive: 50, idle_ttl: 400)
    open(pool, 3)
    # The last one keeps the login.
    Poll.until(fn -> Pkcs11Pool.status(pool).idle == 1 end)
  end

  test "a session that is leased is not called on", %{token: token, chaos: chaos} do
    pool = start(token, keepalive: 50, pool_size: 1)

    Pkcs11Pool.with_session(pool, fn ->
      before = calls(chaos)
      for _ <- 1..5, do: send(Pools.server(pool), :tick)
      Process.sleep(120)
      :sys.get_state(Pools.server(pool))
      assert calls(chaos) == before
    end)

    await_calls(chaos, 2)
  end

  test "a token that has gone is noticed without any call", %{token: token, chaos: chaos} do
    pool = start(token, keepalive: 50)
    Chaos.remove_token(chaos)
    Poll.until(fn -> Pkcs11Pool.status(pool).health == :down end)

    assert %{state: :down, health_reason: %Error{reason: :token_unavailable}} =
             Pkcs11Pool.status(pool)

    Chaos.return_token(chaos)
    assert :ok = Pkcs11Pool.await_ready(pool, 60_000)
  end

  test "a token that does not make random bytes keeps its sessions", %{token: token, chaos: chaos} do
    pool = start(token, keepalive: 50)
    open(pool, 3)
    Chaos.fail(chaos, :C_GenerateRandom, :random_no_rng)
    await_calls(chaos, 6)
    await_idle(pool, 3)
    Chaos.reset(chaos)
    assert Chaos.status(chaos).dead_sessions == 0
  end

  test "the login that is lost is known then", %{token: token, chaos: chaos} do
    pool = start(token, keepalive: 50)
    Chaos.fail(chaos, :C_GenerateRandom, :user_not_logged_in, count: 1)
    epoch = Pkcs11Pool.status(pool).epoch
    Poll.until(fn -> Pkcs11Pool.status(pool).epoch > epoch end)
    assert {:ok, _} = Pkcs11Pool.digest(pool, :sha256, "data")
  end

  test "a keepalive is no use: a :token pool logs out after its time", %{token: token} do
    pool =
      start(token,
        type: :token,
        pool_size: 1,
        keepalive: 50,
        inactivity_timeout: 400,
        reauthentication: :fail
      )

    Poll.until(fn -> Pkcs11Pool.status(pool).login == :logged_out end)
  end

  test "a pool stops while a session is kept alive", %{token: token, chaos: chaos} do
    pool = start(token, keepalive: 50)
    Chaos.latency(chaos, :C_GenerateRandom, 200)
    await_calls(chaos, 1)
    assert {:ok, 0} = Pkcs11Pool.drain(pool, 30_000)
    assert Chaos.violations(chaos) == []
  end

  test "what is no time is refused" do
    for bad <- [0, -1, 1.5, nil, :infinity, 0x80000000] do
      assert_raise ArgumentError,
                   ~r/invalid value for :keepalive option: expected positive integer \(milliseconds\) or :off/,
                   fn ->
                     Pkcs11Pool.start_link(
                       name: :keepalive,
                       module: "/nowhere.so",
                       slot: {:slot_id, 1},
                       keepalive: bad
                     )
                   end
    end
  end
end
