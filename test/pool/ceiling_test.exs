defmodule Pkcs11Pool.CeilingTest do
  # A token that gives fewer sessions than the pool may have: nobody hears of it but the log.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  defp start(token, opts \\ []) do
    name = :"ceiling-#{System.unique_integer([:positive])}"
    defaults = [name: name, pool_size: 8, queue_timeout: 30_000]
    opts = SoftHSM.pool_opts(token, Keyword.merge(defaults, opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    unless opts[:lazy], do: :ok = Pkcs11Pool.await_ready(name, 30_000)
    name
  end

  defp random(pool), do: Pkcs11Pool.generate_random(pool, 8)

  # All of so many callers succeed.
  defp load(pool, callers, calls) do
    run = fn -> for _ <- 1..calls, do: random(pool) end
    tasks = for _ <- 1..callers, do: Task.async(run)

    for results <- Task.await_many(tasks, 120_000),
        result <- results,
        do: assert({:ok, <<_::64>>} = result)
  end

  defp ceiling(pool), do: Pkcs11Pool.status(pool).ceiling

  for executor <- [:threads, :dirty_io], code <- [:session_count, :token_resource_exceeded] do
    test "what the token gives serves all callers, executor #{executor}, #{code}",
         %{token: token, chaos: chaos} do
      Chaos.latency(chaos, :C_GenerateRandom, 5)

      if unquote(code == :session_count) do
        Chaos.session_limit(chaos, 2)
      else
        # From the third open on.
        Chaos.fail(chaos, :C_OpenSession, :token_resource_exceeded, nth: 3, count: 1_000_000)
      end

      pool = start(token, executor: unquote(executor))
      load(pool, 64, 5)
      assert %{ceiling: 2, size: 8, idle: 2} = Pools.drained!(pool)
      assert Chaos.status(chaos).sessions == 2
      assert Chaos.calls(chaos, :C_Login) == 1
      assert Chaos.violations(chaos) == []
    end
  end

  test "what CloudHSM says of it is understood where sessions are open, and else an error",
       %{token: token, chaos: chaos} do
    Chaos.latency(chaos, :C_GenerateRandom, 5)
    Chaos.fail(chaos, :C_OpenSession, :arguments_bad, nth: 3, count: 1_000_000)
    pool = start(token)
    load(pool, 16, 5)
    assert %{ceiling: 2} = Pools.drained!(pool)
    stop_supervised!(pool)

    Chaos.clear(chaos, :C_OpenSession)
    Chaos.fail(chaos, :C_OpenSession, :arguments_bad)
    pool = start(token, lazy: true)
    assert {:error, %Error{reason: :arguments_bad, function: :C_OpenSession}} = random(pool)
  end

  test "a limit that is lifted is found, under load", %{token: token, chaos: chaos} do
    Chaos.latency(chaos, :C_GenerateRandom, 5)
    Chaos.session_limit(chaos, 2)
    pool = start(token)
    load(pool, 16, 5)
    assert ceiling(pool) == 2

    Chaos.session_limit(chaos, :infinity)
    load = Task.async(fn -> load_until(pool, 16, fn -> ceiling(pool) == 8 end) end)
    Task.await(load, 60_000)
    assert %{ceiling: 8, idle: 8} = Pools.drained!(pool)
  end

  test "the log says once what the token gives", %{token: token, chaos: chaos} do
    Chaos.latency(chaos, :C_GenerateRandom, 5)
    Chaos.session_limit(chaos, 2)

    log =
      capture_log(fn ->
        pool = start(token)
        load(pool, 16, 5)
        server = Pools.server(pool)
        # Two looks of the pool server's.
        for _ <- 1..2 do
          send(server, :tick)
          :sys.get_state(server)
        end

        assert ceiling(pool) == 2
      end)

    assert length(String.split(log, "the token gives only 2 sessions")) == 2
  end

  test "sessions of another pool on the token are the reason of an error, and are had when they come free",
       %{token: token, chaos: chaos} do
    other = start(token, pool_size: 2)
    Chaos.latency(chaos, :C_GenerateRandom, 50)
    load(other, 2, 2)
    assert Pools.drained!(other).idle == 2
    Chaos.latency(chaos, :C_GenerateRandom, 0)
    Chaos.session_limit(chaos, 2)

    pool = start(token, lazy: true)
    results = Task.await_many(for(_ <- 1..8, do: Task.async(fn -> random(pool) end)), 30_000)

    for result <- results,
        do: assert({:error, %Error{reason: :session_count, executed: false}} = result)

    :ok = Pkcs11Pool.resize(other, 1)
    Poll.until(fn -> Chaos.status(chaos).sessions == 1 end)
    load(pool, 16, 5)
    assert %{ceiling: 1} = Pools.drained!(pool)
  end

  test "leases wait for what the token gives, too", %{token: token, chaos: chaos} do
    Chaos.session_limit(chaos, 2)
    pool = start(token)

    lease = fn ->
      Pkcs11Pool.with_session(pool, fn lease ->
        Process.sleep(20)
        Pkcs11Pool.generate_random(lease, 8)
      end)
    end

    for result <- Task.await_many(for(_ <- 1..12, do: Task.async(lease)), 60_000),
        do: assert({:ok, <<_::64>>} = result)

    assert %{ceiling: 2} = Pools.drained!(pool)
  end

  test "a login waits for a session rather than to fail for want of room",
       %{token: token, chaos: chaos} do
    Chaos.session_limit(chaos, 1)
    pool = start(token)
    Chaos.latency(chaos, :C_GenerateRandom, 5)
    load(pool, 8, 3)
    Chaos.logout(chaos)
    :ok = Pkcs11Pool.forget_keys(pool)
    load(pool, 8, 3)
    assert :ok = Pkcs11Pool.logout(pool)
    load(pool, 8, 3)
    assert %{ceiling: 1} = Pools.drained!(pool)
  end

  test "a resize tries anew what the token gives", %{token: token, chaos: chaos} do
    Chaos.latency(chaos, :C_GenerateRandom, 5)
    Chaos.session_limit(chaos, 2)
    pool = start(token)
    load(pool, 16, 3)
    assert ceiling(pool) == 2
    Chaos.session_limit(chaos, 3)
    :ok = Pkcs11Pool.resize(pool, 6)
    assert ceiling(pool) == 6
    load(pool, 16, 3)
    assert ceiling(pool) == 3
  end

  defp load_until(pool, callers, over?) do
    load(pool, callers, 5)
    unless over?.(), do: load_until(pool, callers, over?)
  end
end
