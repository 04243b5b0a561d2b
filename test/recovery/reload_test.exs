defmodule Pkcs11Pool.ReloadTest do
  # `reload/2`: a module that reads its keys at C_Initialize is finalized and initialized again, and no call is lost.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  defp start!(token, opts) do
    name = :"pool-#{System.unique_integer([:positive])}"
    opts = SoftHSM.pool_opts(token, Keyword.merge([name: name], opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    name
  end

  defp start_ready!(token, opts \\ []) do
    pool = start!(token, opts)
    Pools.key_pair!(pool, "key")
    assert {:ok, _signature} = sign(pool)
    Pools.drained!(pool)
    Chaos.reset_counts(token.chaos)
    pool
  end

  defp sign(pool, opts \\ []), do: Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>, opts)

  defp at_rest(pool, chaos) do
    status = Pools.drained!(pool)
    assert Chaos.violations(chaos) == []
    assert Chaos.inside(chaos) == %{}
    status
  end

  defp counted(chaos) do
    calls = Chaos.calls(chaos)
    {Map.get(calls, "C_Finalize", 0), Map.get(calls, "C_Initialize", 0)}
  end

  for executor <- [:dirty_io, :threads] do
    test "shows the keys that the module reads when it is initialized, with one login (#{executor})",
         %{token: token, chaos: chaos} do
      pool = start_ready!(token, pool_size: 3, executor: unquote(executor))
      stop_supervised!(pool)
      # A pool that does not look into it by itself where its key is.
      opts = [pool_size: 3, executor: unquote(executor), trouble_timeout: :infinity]
      pool = start!(token, opts)
      assert {:ok, _bytes} = Pkcs11Pool.generate_random(pool, 8)
      Chaos.hide_objects(chaos)
      assert {:error, %Error{reason: :key_not_found}} = sign(pool)
      :ok = Pkcs11Pool.forget_keys(pool)
      assert {:error, %Error{reason: :key_not_found}} = sign(pool)
      %{epoch: epoch} = Pkcs11Pool.status(pool)
      Chaos.reset_counts(chaos)

      assert :ok = Pkcs11Pool.reload(pool)
      tasks = for _ <- 1..8, do: Task.async(fn -> sign(pool) end)
      for result <- Task.await_many(tasks, 60_000), do: assert({:ok, _signature} = result)
      assert counted(chaos) == {1, 1}
      assert Chaos.calls(chaos, :C_Login) == 1
      assert Pkcs11Pool.status(pool).epoch > epoch
      assert Chaos.status(chaos).stale_objects == 0
      assert :ok = Pkcs11Pool.reload!(pool, telemetry_metadata: %{why: :test})
      at_rest(pool, chaos)
    end
  end

  test "loses no call of any pool of the module, and each comes on a new epoch" do
    module = SoftHSM.new_module!()
    [one, two] = for _ <- 1..2, do: SoftHSM.new_token!(module: module)
    chaos = Chaos.start!(module, module_env: one.module_env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> Chaos.stop(chaos) end)
    behind = &Map.merge(&1, %{module: chaos.module, module_env: chaos.module_env, chaos: chaos})

    pools =
      for {token, executor} <- [{one, :dirty_io}, {one, :threads}, {two, :threads}] do
        start!(behind.(token), pool_size: 2, executor: executor)
      end

    [_, shared, other] = pools
    for pool <- [shared, other], do: Pools.key_pair!(pool, "key")
    for pool <- pools, do: assert({:ok, _signature} = sign(pool))
    epochs = for pool <- pools, do: Pkcs11Pool.status(pool).epoch
    Chaos.reset_counts(chaos)
    Chaos.latency(chaos, :C_Initialize, 300)
    test = self()
    stop = :atomics.new(1, [])

    callers =
      for pool <- pools, _ <- 1..6 do
        Task.async(fn ->
          Stream.repeatedly(fn ->
            result = sign(pool)
            send(test, {:called, pool})
            result
          end)
          |> Enum.take_while(fn
            {:ok, _signature} -> :atomics.get(stop, 1) == 0
            _error -> true
          end)
          |> Enum.reject(&match?({:ok, _signature}, &1))
        end)
      end

    for pool <- pools, do: assert_receive({:called, ^pool}, 30_000)
    assert :ok = Pkcs11Pool.reload(hd(pools), queue_timeout: 20_000)
    flush()
    for pool <- pools, do: assert_receive({:called, ^pool}, 30_000)
    :atomics.put(stop, 1, 1)
    # An error among the last is kept, too.
    assert Enum.concat(Task.await_many(callers, 60_000)) == []
    assert counted(chaos) == {1, 1}
    # One for each token.
    assert Chaos.calls(chaos, :C_Login) == 2

    for {pool, epoch} <- Enum.zip(pools, epochs) do
      assert Pkcs11Pool.status(pool).epoch > epoch
      at_rest(pool, chaos)
    end
  end

  defp flush do
    receive do
      {:called, _pool} -> flush()
    after
      0 -> :ok
    end
  end

  test "gives the calls inside time, and those that come wait and then run",
       %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 2)
    Chaos.hang(chaos, :C_Sign, nth: 1)
    inside = Task.async(fn -> sign(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    reload = Task.async(fn -> Pkcs11Pool.reload(pool, queue_timeout: 60_000) end)
    await_closed(pool)
    waiting = for _ <- 1..4, do: Task.async(fn -> sign(pool, queue_timeout: 60_000) end)
    # Longer than a pool waits for a token that it has lost.
    assert for({_task, result} <- Task.yield_many([reload | waiting], 1_500), do: result) ==
             [nil, nil, nil, nil, nil]

    assert %{state: :up} = Pkcs11Pool.status(pool)

    Chaos.release(chaos)
    assert :ok = Task.await(reload, 60_000)
    for task <- [inside | waiting], do: assert({:ok, _signature} = Task.await(task, 60_000))
    assert counted(chaos) == {1, 1}
    assert Chaos.calls(chaos, :C_Login) == 1
    at_rest(pool, chaos)
  end

  test "fails when a call hangs, and the module stays as it was", %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 3, executor: :threads)
    before = Pkcs11Pool.status(pool)
    Chaos.hang(chaos, :C_Sign, nth: 1)
    hung = Task.async(fn -> sign(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    task = Task.async(fn -> Pkcs11Pool.reload(pool, queue_timeout: 200) end)
    waiting = for _ <- 1..4, do: Task.async(fn -> sign(pool) end)
    assert {:error, %Error{reason: :module_stuck, executed: false} = error} = Task.await(task)
    assert error.details.inside == 1
    assert Error.retryable?(error)
    message = Exception.message(error)
    assert message =~ "1 call has not returned from the PKCS#11 module"
    assert message =~ "the module was left as it is"
    for task <- waiting, do: assert({:ok, _signature} = Task.await(task, 30_000))
    assert counted(chaos) == {0, 0}
    assert Chaos.calls(chaos, :C_Login) == 0

    assert Map.take(Pkcs11Pool.status(pool), [:state, :epoch]) ==
             Map.take(before, [:state, :epoch])

    Chaos.release(chaos)
    assert {:ok, _signature} = Task.await(hung, 30_000)
    assert :ok = Pkcs11Pool.reload(pool)
    assert {:ok, _signature} = sign(pool)
    at_rest(pool, chaos)
  end

  test "ends leases, does not wait for them, and the holder's next call says so",
       %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 2, lease_timeout: :infinity)

    Pkcs11Pool.with_session(pool, fn lease ->
      assert {:ok, _signature} = sign(lease)
      # By the holder, in its own block.
      assert :ok = Pkcs11Pool.reload(lease, queue_timeout: 20_000)
      assert {:error, %Error{reason: :lease_ended, executed: false}} = sign(lease)
    end)

    assert {:ok, _signature} = sign(pool)
    assert counted(chaos) == {1, 1}
    at_rest(pool, chaos)
  end

  test "is made once for all who want it before it begins", %{token: token, chaos: chaos} do
    pools = [start_ready!(token, pool_size: 1), start!(token, pool_size: 1)]
    assert {:ok, _signature} = sign(List.last(pools))
    Chaos.hang(chaos, :C_Sign, nth: 1)
    inside = Task.async(fn -> sign(hd(pools)) end)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    Chaos.reset_counts(chaos)

    reloads =
      for _ <- 1..3, pool <- pools do
        Task.async(fn -> Pkcs11Pool.reload(pool, queue_timeout: 60_000) end)
      end

    # All of them are at it: who reloads is a thread of ours.
    Poll.until(fn ->
      Enum.all?(reloads, &(Process.info(&1.pid, :status) == {:status, :waiting}))
    end)

    Chaos.release(chaos)
    for result <- Task.await_many(reloads, 60_000), do: assert(:ok = result)
    assert {:ok, _signature} = Task.await(inside)
    # One that had not got to the module when the first began makes it again.
    assert {times, times} = counted(chaos)
    assert times in 1..2
    for pool <- pools, do: assert({:ok, _signature} = sign(pool))
    for pool <- pools, do: at_rest(pool, chaos)
  end

  test "goes on when its caller is killed, and nobody is left waiting",
       %{token: token, chaos: chaos} do
    pool = start_ready!(token)
    Chaos.hang(chaos, :C_Initialize, nth: 1)
    {caller, monitor} = spawn_monitor(fn -> Pkcs11Pool.reload(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_Initialize"] == 1 end)
    Process.exit(caller, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^caller, :killed}
    waiting = Task.async(fn -> sign(pool) end)
    Chaos.release(chaos)
    assert {:ok, _signature} = Task.await(waiting, 30_000)
    at_rest(pool, chaos)
  end

  test "frees its caller at :operation_timeout when C_Initialize hangs",
       %{token: token, chaos: chaos} do
    pool = start_ready!(token)
    Chaos.hang(chaos, :C_Initialize, nth: 1)

    assert {:error, %Error{reason: :operation_timeout, executed: :unknown}} =
             Pkcs11Pool.reload(pool, operation_timeout: 100)

    Chaos.release(chaos)
    assert {:ok, _signature} = sign(pool)
    assert Chaos.calls(chaos, :C_Login) == 1
    at_rest(pool, chaos)
  end

  test "that fails in C_Finalize leaves the module as it was", %{token: token, chaos: chaos} do
    pool = start_ready!(token)
    Chaos.fail(chaos, :C_Finalize, :general_error, count: 1)

    assert {:error, %Error{reason: :general_error, function: :C_Finalize}} =
             Pkcs11Pool.reload(pool)

    assert {:ok, _signature} = sign(pool)
    assert counted(chaos) == {1, 0}
    assert Chaos.calls(chaos, :C_Login) == 0
    at_rest(pool, chaos)
  end

  test "that fails in C_Initialize says so, and the pool recovers by itself",
       %{token: token, chaos: chaos} do
    pool = start_ready!(token)
    Chaos.fail(chaos, :C_Initialize, :device_error, count: 1)

    assert {:error, %Error{reason: :module_initialize_failed, code: 0x30} = error} =
             Pkcs11Pool.reload(pool)

    assert error.function == :C_Initialize

    Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end)
    at_rest(pool, chaos)
  end

  test "finds the token again in another slot, and no call fails of it",
       %{token: token, chaos: chaos} do
    [pool, other] = [start_ready!(token), start!(token, pool_size: 2)]
    assert {:ok, _signature} = sign(other)
    Chaos.hang(chaos, :C_Initialize, nth: 1)
    reload = Task.async(fn -> Pkcs11Pool.reload(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_Initialize"] == 1 end)
    Chaos.remove_token(chaos)
    Chaos.return_token(chaos, slot_id: 77)
    waiting = for pool <- [pool, other], do: Task.async(fn -> sign(pool) end)
    Chaos.release(chaos)
    assert :ok = Task.await(reload, 30_000)
    for task <- waiting, do: assert({:ok, _signature} = Task.await(task, 30_000))
    for pool <- [pool, other], do: at_rest(pool, chaos)
  end

  test "is refused for a module that another library has initialized", %{token: token} do
    other = ChaosToken.second_wrapper!(token)
    first = start!(token, pool_size: 1)
    assert {:ok, _bytes} = Pkcs11Pool.generate_random(first, 8)
    pool = start_ready!(Map.merge(token, %{module: other.module, chaos: other}))

    assert {:error, %Error{reason: :module_adopted, executed: false} = error} =
             Pkcs11Pool.reload(pool)

    refute Error.retryable?(error)
    assert Exception.message(error) =~ "another library of this VM has initialized"
    assert counted(other) == {0, 0}
    assert {:ok, _signature} = sign(pool)
    at_rest(pool, other)
  end

  test "brings back at once a pool whose token was away", %{token: token, chaos: chaos} do
    pool = start_ready!(token)
    Chaos.remove_token(chaos)
    assert {:error, %Error{reason: :token_unavailable}} = sign(pool)
    assert {:error, %Error{reason: :slot_not_found}} = Pkcs11Pool.reload(pool)
    Chaos.return_token(chaos)
    assert :ok = Pkcs11Pool.reload(pool)
    assert {:ok, _signature} = sign(pool)
    at_rest(pool, chaos)
  end

  test "is nothing for a pool that stops, or is none", %{token: token, chaos: chaos} do
    pool = start_ready!(token)
    {:ok, 0} = Pkcs11Pool.drain(pool, 10_000)
    assert {:error, %Error{reason: :draining}} = Pkcs11Pool.reload(pool)
    assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.reload(:no_such_pool)

    assert_raise ArgumentError, ~r/:queue_timeout/, fn ->
      Pkcs11Pool.reload(pool, queue_timeout: -1)
    end

    assert_raise Error, fn -> Pkcs11Pool.reload!(pool) end
    at_rest(pool, chaos)
  end

  test "a pool that starts, and one that stops, meanwhile", %{token: token, chaos: chaos} do
    [pool, stopping] = [start_ready!(token), start!(token, pool_size: 1)]
    assert {:ok, _signature} = sign(stopping)
    Chaos.hang(chaos, :C_Initialize, nth: 1)
    reload = Task.async(fn -> Pkcs11Pool.reload(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_Initialize"] == 1 end)
    started = Task.async(fn -> start_link(token) end)
    stop_supervised!(stopping)
    Chaos.release(chaos)
    assert :ok = Task.await(reload, 30_000)
    {starting, supervisor} = Task.await(started, 60_000)
    for pool <- [pool, starting], do: assert({:ok, _signature} = sign(pool))
    Supervisor.stop(supervisor)
    at_rest(pool, chaos)
    stop_supervised!(pool)
    # The last one out.
    Poll.until(fn -> not Chaos.status(chaos).initialized end)
  end

  defp start_link(token) do
    name = :"pool-#{System.unique_integer([:positive])}"
    {:ok, supervisor} = Pkcs11Pool.start_link(SoftHSM.pool_opts(token, name: name))
    Process.unlink(supervisor)
    {name, supervisor}
  end

  test "a logout that meets it is made, or void with the login", %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 2)
    Chaos.hang(chaos, :C_Sign, nth: 1)
    inside = Task.async(fn -> sign(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    reload = Task.async(fn -> Pkcs11Pool.reload(pool, queue_timeout: 60_000) end)

    await_closed(pool)
    logout = Task.async(fn -> Pkcs11Pool.logout(pool) end)
    Chaos.release(chaos)
    assert :ok = Task.await(reload, 60_000)
    assert :ok = Task.await(logout, 60_000)
    assert {:ok, _signature} = Task.await(inside, 60_000)
    assert {:ok, _signature} = sign(pool)
    at_rest(pool, chaos)
  end

  # The door of the module is closed.
  defp await_closed(pool) do
    Poll.until(fn ->
      case sign(pool, queue_timeout: 50, operation_timeout: 50) do
        {:error, %Error{reason: reason}} -> reason in [:queue_timeout, :operation_timeout]
        {:ok, _signature} -> false
      end
    end)
  end
end
