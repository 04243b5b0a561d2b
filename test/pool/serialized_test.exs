defmodule Pkcs11Pool.SerializedTest do
  # Modules that cannot lock: one call at a time, whoever makes it.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  defp start(token, opts) do
    name = :"serialized-#{System.unique_integer([:positive])}"
    defaults = [name: name, pool_size: 4, queue_timeout: 30_000, shutdown_timeout: 500]
    opts = SoftHSM.pool_opts(token, Keyword.merge(defaults, opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    on_exit(fn -> Chaos.release(token.chaos) end)
    :ok = Pkcs11Pool.await_ready(name, 30_000)
    name
  end

  defp random(pool, opts \\ []), do: Pkcs11Pool.generate_random(pool, 8, opts)

  # The most threads that were seen inside while 32 callers used these pools.
  defp most_inside(pools, chaos) do
    Chaos.latency(chaos, :C_GenerateRandom, 1..3)

    callers =
      for _ <- 1..32 do
        Task.async(fn -> for _ <- 1..5, do: random(Enum.random(pools)) end)
      end

    watcher = Task.async(fn -> watch(chaos, 0) end)

    for results <- Task.await_many(callers, 60_000),
        result <- results,
        do: assert({:ok, <<_::64>>} = result)

    send(watcher.pid, :done)
    Task.await(watcher, 60_000)
  end

  defp watch(chaos, most) do
    most = max(most, chaos |> Chaos.inside() |> Map.values() |> Enum.sum())
    receive do: (:done -> most), after: (1 -> watch(chaos, most))
  end

  test "a handle that becomes void while its operation waits for its turn does not reach the module",
       %{token: token, chaos: chaos} do
    Chaos.cant_lock(chaos)
    pool = start(token, executor: :threads)
    {_public, private} = Pools.key_pair!(pool, "key")
    Chaos.reset_counts(chaos)
    Chaos.hang(chaos, :C_Sign, nth: 1)
    sign = fn -> Pkcs11Pool.sign(pool, private, :ecdsa, <<0::256>>) end
    one = Task.async(sign)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    two = Task.async(sign)
    # Both have their sessions: the other waits for its turn.
    Poll.until(fn -> Pools.native_status(pool).active == 2 end)
    Chaos.logout(chaos)
    Chaos.invalidate_objects(chaos)
    Chaos.release(chaos, code: :user_not_logged_in)
    for task <- [one, two], do: assert({:ok, _signature} = Task.await(task, 60_000))
    assert Chaos.status(chaos).stale_objects == 0
    Pools.drained!(pool)
  end

  for {executor, other} <- [threads: :dirty_io, dirty_io: :threads] do
    test "a module that cannot lock is found out and has one call at a time, of all its pools, executor #{executor}",
         %{token: token, chaos: chaos} do
      Chaos.cant_lock(chaos)
      pools = [start(token, executor: unquote(executor)), start(token, executor: unquote(other))]
      for pool <- pools, do: assert(Pkcs11Pool.status(pool).serialized)
      assert most_inside(pools, chaos) == 1
      # Logins, logouts and closes as well.
      for pool <- pools, do: :ok = Pkcs11Pool.resize(pool, 1)
      assert :ok = Pkcs11Pool.logout(hd(pools), force: true)
      for pool <- pools, do: assert({:ok, <<_::64>>} = random(pool))
      for pool <- pools, do: stop_supervised!(pool)
      Poll.until(fn -> not Chaos.status(chaos).initialized end)
      assert Chaos.violations(chaos) == []
    end
  end

  test "serialize: true makes it so for all pools of the module, also when another was first",
       %{token: token, chaos: chaos} do
    first = start(token, executor: :threads)
    refute Pkcs11Pool.status(first).serialized
    # Else the next would prove nothing.
    assert most_inside([first], chaos) > 1

    second = start(token, executor: :threads, serialize: true)
    for pool <- [first, second], do: assert(Pkcs11Pool.status(pool).serialized)
    assert most_inside([first, second], chaos) == 1

    # For as long as it is initialized.
    stop_supervised!(second)
    assert Pkcs11Pool.status(first).serialized
    stop_supervised!(first)
    Poll.until(fn -> not Chaos.status(chaos).initialized end)
    refute Pkcs11Pool.status(start(token, executor: :threads)).serialized
  end

  for executor <- [:threads, :dirty_io] do
    test "behind a call that hangs, callers are freed and nothing piles up, executor #{executor}",
         %{token: token, chaos: chaos} do
      Chaos.cant_lock(chaos)
      pool = start(token, executor: unquote(executor), operation_timeout: 300, queue_timeout: 600)
      other = start(token, executor: unquote(executor), operation_timeout: 300)
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      assert {:error, %Error{reason: :operation_timeout}} = random(pool)

      for _ <- 1..3 do
        results =
          for(_ <- 1..8, do: Task.async(fn -> random(Enum.random([pool, other])) end))
          |> Task.await_many(60_000)

        for result <- results do
          assert {:error, %Error{reason: reason}} = result
          assert reason in [:operation_timeout, :queue_timeout]
        end
      end

      # It is the only one that hangs; those that waited for their turn have gone.
      Poll.until(fn -> match?(%{hung: 1, running: 1}, Pkcs11Pool.status(pool)) end)
      Poll.until(fn -> match?(%{hung: 0, running: 0, opening: 0}, Pkcs11Pool.status(other)) end)

      Chaos.release(chaos)
      for name <- [pool, other], do: assert({:ok, <<_::64>>} = random(name))
      for name <- [pool, other], do: Pools.drained!(name)
      assert Chaos.violations(chaos) == []
    end
  end

  for executor <- [:threads, :dirty_io] do
    test "a pool is started while a call hangs in its module, executor #{executor}",
         %{token: token, chaos: chaos} do
      opts = [executor: unquote(executor), serialize: true]
      pool = start(token, [operation_timeout: 300] ++ opts)
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      assert {:error, %Error{reason: :operation_timeout}} = random(pool)

      # Else the test would never end.
      watchdog =
        Task.async(fn ->
          receive do: (:started -> :in_time), after: (30_000 -> Chaos.release(chaos))
        end)

      opts = SoftHSM.pool_opts(token, [name: :"#{pool}-other"] ++ opts)
      start_supervised!({Pkcs11Pool, opts})
      send(watchdog.pid, :started)
      assert Task.await(watchdog, 60_000) == :in_time
      assert %{state: :down} = Pkcs11Pool.status(opts[:name])
      assert {:error, %Error{reason: :module_busy} = error} = random(opts[:name])
      assert %{executed: false, details: %{path: _path}} = error
      assert Exception.message(error) =~ "another call has not returned from it"
      assert Error.retryable?(error)

      # It looks again until the call has returned.
      Chaos.release(chaos)
      Poll.until(fn -> Pkcs11Pool.await_ready(opts[:name], 30_000) == :ok end)
      assert {:ok, <<_::64>>} = random(opts[:name])
      assert Chaos.violations(chaos) == []
    end
  end

  test "a pool is started behind calls that are only slow", %{token: token, chaos: chaos} do
    opts = [executor: :threads, serialize: true]
    pool = start(token, opts)
    Chaos.latency(chaos, :C_GenerateRandom, 1_500)
    callers = for _ <- 1..2, do: Task.async(fn -> random(pool) end)
    Poll.until(fn -> Chaos.inside(chaos)["C_GenerateRandom"] == 1 end)
    # One that is down for a moment fails.
    opts = [name: :"#{pool}-other", start: :strict] ++ opts
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)})
    for result <- Task.await_many(callers, 60_000), do: assert({:ok, <<_::64>>} = result)
  end

  test "a pool is stopped while a call hangs in its module", %{token: token, chaos: chaos} do
    Chaos.cant_lock(chaos)
    pool = start(token, executor: :threads, operation_timeout: 200, queue_timeout: 400)
    Chaos.hang(chaos, :C_GenerateRandom, count: 1)
    assert {:error, %Error{reason: :operation_timeout}} = random(pool)
    :ok = stop_supervised(pool)
    Chaos.release(chaos)
    assert {:ok, <<_::64>>} = random(start(token, executor: :threads))
    assert Chaos.violations(chaos) == []
  end
end
