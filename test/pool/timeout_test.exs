defmodule Pkcs11Pool.TimeoutTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}

  setup context do
    token = SoftHSM.valve!(SoftHSM.new_token!())
    opts = Keyword.merge([pool_size: 1], Map.get(context, :pool, []))
    opts = SoftHSM.pool_opts(token, opts)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    Pools.drained!(pool)
    %{pool: pool, token: token}
  end

  describe ":queue_timeout" do
    test "ends an operation that waits: it is never executed", %{pool: pool, token: token} do
      [stuck] = Pools.stuck!(pool, token, 1)

      assert {:error, error} = Pkcs11Pool.digest(pool, :sha256, "never", queue_timeout: 50)
      assert %Error{reason: :queue_timeout, executed: false, pool: ^pool} = error
      assert %{timeout_ms: 50, stats: %{size: 1, running: 1, waiting: 0}} = error.details

      SoftHSM.let_go!(token)
      assert {:ok, _digest} = Task.await(stuck, 60_000)
      assert {:ok, _random} = Pkcs11Pool.generate_random(pool, 8)
      Pools.drained!(pool)
      Poll.until(fn -> SoftHSM.calls(token)["C_GenerateRandom"] == 1 end)
      assert SoftHSM.calls(token)["C_DigestInit"] == 1
    end

    @tag pool: [queue_timeout: 50]
    test "is the pool's, unless the call has its own", %{pool: pool, token: token} do
      [stuck] = Pools.stuck!(pool, token, 1)

      patient =
        Task.async(fn -> Pkcs11Pool.generate_random(pool, 8, queue_timeout: :infinity) end)

      Poll.until(fn -> Pools.native_status(pool).waiting == 1 end)

      assert {:error, %Error{reason: :queue_timeout}} = Pkcs11Pool.generate_random(pool, 8)
      SoftHSM.let_go!(token)
      assert {:ok, _digest} = Task.await(stuck, 60_000)
      assert {:ok, <<_::64>>} = Task.await(patient, 60_000)
      Pools.drained!(pool)
    end

    test "of 0 runs the operation if a session is free at once", %{pool: pool, token: token} do
      for _ <- 1..100 do
        assert {:ok, <<_::64>>} = Pkcs11Pool.generate_random(pool, 8, queue_timeout: 0)
      end

      [stuck] = Pools.stuck!(pool, token, 1)

      assert {:error, %Error{reason: :queue_timeout, executed: false}} =
               Pkcs11Pool.generate_random(pool, 8, queue_timeout: 0)

      SoftHSM.let_go!(token)
      assert {:ok, _digest} = Task.await(stuck, 60_000)
      Pools.drained!(pool)
      assert {:message_queue_len, 0} = Process.info(self(), :message_queue_len)
    end
  end

  describe ":operation_timeout" do
    for timeout <- [0, 50] do
      # A native thread's session is replaced if the call goes on for long.
      @tag pool: [executor: :dirty_io]
      test "of #{timeout} ms frees the caller; the answer is dropped, and the session stays in use",
           %{pool: pool, token: token} do
        caller = self()
        SoftHSM.hold!(token)
        assert {:error, error} = Pools.large(pool, operation_timeout: unquote(timeout))
        assert %Error{reason: :operation_timeout, executed: :unknown} = error
        assert %{timeout_ms: unquote(timeout), elapsed_ms: elapsed} = error.details
        assert elapsed >= unquote(timeout)
        assert %{running: 1, hung: 1} = Pools.native_status(pool)

        SoftHSM.let_go!(token)
        Pools.drained!(pool)
        assert {:message_queue_len, 0} = Process.info(caller, :message_queue_len)
        assert {:ok, _random} = Pkcs11Pool.generate_random(pool, 8)
        Poll.until(fn -> SoftHSM.calls(token)["C_GenerateRandom"] == 1 end)
        assert SoftHSM.calls(token)["C_OpenSession"] == 1
      end
    end

    @tag pool: [operation_timeout: 50]
    test "is the pool's, unless the call has its own", %{pool: pool, token: token} do
      SoftHSM.hold!(token)
      patient = Task.async(fn -> Pools.large(pool, operation_timeout: :infinity) end)
      Pools.await_active!(pool, 1)
      # This one waits behind it for longer than it may run, which is no matter.
      next = Task.async(fn -> Pkcs11Pool.generate_random(pool, 8) end)
      Poll.until(fn -> Pools.native_status(pool).waiting == 1 end)
      refute Task.yield(next, 150)

      SoftHSM.let_go!(token)
      assert {:ok, _digest} = Task.await(patient, 60_000)
      assert {:ok, <<_::64>>} = Task.await(next, 60_000)

      SoftHSM.hold!(token)
      assert {:error, %Error{reason: :operation_timeout}} = Pools.large(pool)
      SoftHSM.let_go!(token)
      Pools.drained!(pool)
    end
  end

  @tag pool: [pool_size: 2]
  test "time-outs that race with answers leave no message behind", %{pool: pool} do
    test = self()

    callers =
      for _ <- 1..40 do
        Task.async(fn ->
          results =
            for _ <- 1..50 do
              opts = [
                queue_timeout: Enum.random([0, 1, 2, 4, 8, :infinity]),
                operation_timeout: Enum.random([0, 1, 2, 3, :infinity])
              ]

              result(Pkcs11Pool.generate_random(pool, Enum.random([16, 300_000]), opts))
            end

          send(test, :done)
          # Whatever is late has been sent when the pool has come to rest.
          receive do: (:at_rest -> :ok)
          {:messages, messages} = Process.info(self(), :messages)
          {results, messages}
        end)
      end

    for _ <- callers, do: assert_receive(:done, 60_000)
    Pools.drained!(pool)
    for caller <- callers, do: send(caller.pid, :at_rest)
    {results, messages} = callers |> Task.await_many(60_000) |> Enum.unzip()

    assert Enum.concat(messages) == []
    counts = results |> Enum.concat() |> Enum.frequencies()
    # All three raced, or this would prove nothing.
    assert %{ok: _, queue_timeout: _, operation_timeout: _} = counts
    assert map_size(counts) == 3
  end

  describe ":max_waiting" do
    @describetag pool: [pool_size: 1, max_waiting: 3]

    test "refuses a call at once when so many wait, and sweeps the dead among them first",
         %{pool: pool, token: token} do
      [stuck] = Pools.stuck!(pool, token, 1)
      waiting = for _ <- 1..3, do: spawn(fn -> Pkcs11Pool.generate_random(pool, 8) end)
      Poll.until(fn -> Pools.native_status(pool).waiting == 3 end)

      assert {:error, error} = Pkcs11Pool.generate_random(pool, 8, queue_timeout: :infinity)
      assert %Error{reason: :overloaded, executed: false, details: %{max_waiting: 3}} = error

      kill(waiting)
      successor = Task.async(fn -> Pkcs11Pool.generate_random(pool, 8) end)
      Poll.until(fn -> Pools.native_status(pool).waiting == 1 end)
      SoftHSM.let_go!(token)
      assert {:ok, _digest} = Task.await(stuck, 60_000)
      assert {:ok, <<_::64>>} = Task.await(successor, 60_000)
      Pools.drained!(pool)
    end

    @tag pool: [pool_size: 1, max_waiting: 0]
    test "of 0 takes what can run at once, and nothing else", %{pool: pool, token: token} do
      assert {:ok, <<_::64>>} = Pkcs11Pool.generate_random(pool, 8)
      [stuck] = Pools.stuck!(pool, token, 1)
      assert {:error, %Error{reason: :overloaded}} = Pkcs11Pool.generate_random(pool, 8)
      SoftHSM.let_go!(token)
      assert {:ok, _digest} = Task.await(stuck, 60_000)
      Pools.drained!(pool)
    end
  end

  test "a caller with 100,000 messages in its mailbox gets its own answer", %{pool: pool} do
    for number <- 1..100_000, do: send(self(), {make_ref(), number})
    assert {:ok, <<_::64>>} = Pkcs11Pool.generate_random(pool, 8)
    assert {:error, %Error{}} = Pkcs11Pool.sign(pool, "none", :sha256_rsa_pkcs, "x")
    assert {:message_queue_len, 100_000} = Process.info(self(), :message_queue_len)
    Pools.drained!(pool)
  end

  defp result({:ok, _random}), do: :ok
  defp result({:error, %Error{reason: reason}}), do: reason

  defp kill(pids) do
    monitors = for pid <- pids, do: Process.monitor(pid)
    for pid <- pids, do: Process.exit(pid, :kill)
    for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, :process, _pid, :killed})
  end
end
