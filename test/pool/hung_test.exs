defmodule Pkcs11Pool.HungTest do
  # Calls that do not return: their callers are freed, and the pool goes on without them, as far as its executor allows.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @size 4

  setup do: ChaosToken.for_test!()

  # What hangs is let go before the pool stops, or that would take its time.
  defp start(token, opts) do
    name = :"hung-#{System.unique_integer([:positive])}"
    defaults = [name: name, pool_size: @size, operation_timeout: 400, shutdown_timeout: 500]
    opts = SoftHSM.pool_opts(token, Keyword.merge(defaults, opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    on_exit(fn -> Chaos.release(token.chaos) end)
    unless opts[:lazy], do: :ok = Pkcs11Pool.await_ready(name, 30_000)
    name
  end

  defp random(pool, opts \\ []), do: Pkcs11Pool.generate_random(pool, 8, opts)

  defp hanging(chaos, function), do: Map.get(Chaos.hanging(chaos), to_string(function), 0)

  # So many callers, each in a call that hangs, are freed at their deadline.
  defp hang(pool, chaos, count) do
    before = hanging(chaos, :C_GenerateRandom)
    Chaos.hang(chaos, :C_GenerateRandom, count: count)
    callers = for _ <- 1..count, do: Task.async(fn -> random(pool, queue_timeout: 20_000) end)

    for result <- Task.await_many(callers, 60_000) do
      assert {:error, %Error{reason: :operation_timeout, executed: :unknown}} = result
    end

    assert hanging(chaos, :C_GenerateRandom) == before + count
  end

  # A pool whose server is killed while its login hangs: its name, that pool server, and the native side that was the pool server's.
  defp killed_in_login(token, chaos, executor) do
    Chaos.hang(chaos, :C_Login, count: 1)
    pool = start(token, executor: executor, lazy: true)
    caller = Task.async(fn -> random(pool) end)
    Poll.until(fn -> hanging(chaos, :C_Login) == 1 end)
    {:ok, server, %{native: native}} = Pkcs11Pool.Registry.lookup(pool)
    Process.exit(server, :kill)
    assert {:error, %Error{}} = Task.await(caller, 30_000)
    {pool, server, native}
  end

  # Everybody has come back, and nothing was lost.
  defp let_go(pool, chaos) do
    Chaos.release(chaos)
    status = Pools.drained!(pool)
    Pools.full_strength!(pool)
    assert status.idle <= status.size
    Poll.until(fn -> Chaos.status(chaos).sessions == Pkcs11Pool.status(pool).idle end)
    assert {:ok, <<_::64>>} = random(pool)
    assert Chaos.violations(chaos) == []
  end

  describe "on native threads" do
    test "sessions that hang are replaced, up to as many as the pool has",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: :threads)
      hang(pool, chaos, @size)
      assert %{hung: @size, running: 0, size: @size} = Pkcs11Pool.status(pool)

      for _ <- 1..20, do: assert({:ok, <<_::64>>} = random(pool))
      hang(pool, chaos, @size)
      # These hold their places.
      assert %{hung: hung, running: @size, idle: 0} = Pkcs11Pool.status(pool)
      assert hung == 2 * @size

      for _ <- 1..3 do
        assert {:error, %Error{reason: :queue_timeout, executed: false}} =
                 random(pool, queue_timeout: 50)
      end

      assert Chaos.status(chaos).sessions == 2 * @size
      let_go(pool, chaos)
      assert Pkcs11Pool.status(pool).hung == 0
    end

    test "one that is given up early is seen to before the pool looks by itself",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: :threads)
      # It does not look any more.
      :sys.suspend(Pools.server(pool))
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)

      assert {:error, %Error{reason: :operation_timeout, executed: :unknown}} =
               random(pool, operation_timeout: 10)

      Poll.until(fn -> match?(%{hung: 1, running: 0}, Pkcs11Pool.status(pool)) end)
      :sys.resume(Pools.server(pool))
      let_go(pool, chaos)
    end

    test "what waits gets the place of what hangs", %{token: token, chaos: chaos} do
      pool = start(token, executor: :threads, pool_size: 1)
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      stuck = Task.async(fn -> random(pool) end)
      Poll.until(fn -> hanging(chaos, :C_GenerateRandom) == 1 end)
      waiting = for _ <- 1..10, do: Task.async(fn -> random(pool, queue_timeout: 20_000) end)
      assert {:error, %Error{reason: :operation_timeout}} = Task.await(stuck, 60_000)
      for result <- Task.await_many(waiting, 30_000), do: assert({:ok, <<_::64>>} = result)
      assert %{hung: 1} = Pkcs11Pool.status(pool)
      let_go(pool, chaos)
    end

    test "when some return, others may be replaced", %{token: token, chaos: chaos} do
      pool = start(token, executor: :threads, pool_size: 1)
      hang(pool, chaos, 1)
      # There is no place for another: it holds its own.
      Chaos.hang(chaos, :C_DigestInit, count: 1)
      assert {:error, %Error{reason: :operation_timeout}} = Pkcs11Pool.digest(pool, :sha256, "x")
      assert %{hung: 2, running: 1} = Pkcs11Pool.status(pool)
      Chaos.release(chaos, function: :C_GenerateRandom)
      assert {:ok, <<_::64>>} = random(pool, queue_timeout: 20_000)
      assert %{hung: 1} = Pkcs11Pool.status(pool)
      let_go(pool, chaos)
    end

    test "the session of a caller that was killed is replaced, too",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: :threads, pool_size: 1)
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      caller = spawn(fn -> random(pool) end)
      Poll.until(fn -> hanging(chaos, :C_GenerateRandom) == 1 end)
      Process.exit(caller, :kill)
      assert {:ok, <<_::64>>} = random(pool, queue_timeout: 20_000)
      assert %{hung: 1} = Pkcs11Pool.status(pool)
      let_go(pool, chaos)
    end

    test "a caller that asked for more time than the pool gives keeps its session",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: :threads, pool_size: 1, operation_timeout: 100)
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      patient = Task.async(fn -> random(pool, operation_timeout: :infinity) end)
      Poll.until(fn -> hanging(chaos, :C_GenerateRandom) == 1 end)

      assert {:error, %Error{reason: :queue_timeout}} = random(pool, queue_timeout: 1_000)
      assert %{hung: 0, running: 1} = Pkcs11Pool.status(pool)
      Chaos.release(chaos)
      assert {:ok, <<_::64>>} = Task.await(patient, 60_000)
      let_go(pool, chaos)
    end

    test "a lease ends when its call hangs, and its session is replaced",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: :threads, pool_size: 1)

      Pkcs11Pool.with_session(pool, fn lease ->
        Chaos.hang(chaos, :C_GenerateRandom, count: 1)
        assert {:error, %Error{reason: :operation_timeout}} = random(lease)
        assert {:error, %Error{reason: :lease_ended, executed: false}} = random(lease)
        assert {:error, %Error{reason: :lease_ended}} = random(pool)
        assert %{hung: 1, leased: 0} = Pkcs11Pool.status(pool)
        assert {:ok, <<_::64>>} = Task.await(Task.async(fn -> random(pool) end), 60_000)
      end)

      assert {:ok, <<_::64>>} = random(pool)
      let_go(pool, chaos)
    end

    for function <- [:C_OpenSession, :C_SignInit, :C_Sign] do
      test "a hang in #{function} costs nobody else anything", %{token: token, chaos: chaos} do
        pool = start(token, executor: :threads, pool_size: 2 * @size)
        {:ok, _pair} = Pools.key_pair(pool, "signing", [], operation_timeout: 60_000)
        Chaos.hang(chaos, unquote(function), count: 1)
        # With all that are open in use, the next call opens another.
        in_use = if unquote(function == :C_OpenSession), do: Pools.drained!(pool).idle, else: 0

        leased(pool, in_use, fn ->
          assert {:error, %Error{reason: :operation_timeout, executed: :unknown}} = sign(pool)
        end)

        assert hanging(chaos, unquote(function)) == 1
        assert %{hung: 1} = Pkcs11Pool.status(pool)
        for _ <- 1..10, do: assert({:ok, _signature} = sign(pool))
        let_go(pool, chaos)
      end
    end

    test "a close that hangs is replaced, and holds no other close up",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: :threads)
      occupy(pool, chaos)
      Chaos.hang(chaos, :C_CloseSession, count: 1)
      :ok = Pkcs11Pool.resize(pool, 1)

      Poll.until(fn ->
        Chaos.status(chaos).sessions == 2 and Pkcs11Pool.status(pool).closing == 0
      end)

      assert hanging(chaos, :C_CloseSession) == 1
      assert %{hung: 1} = Pkcs11Pool.status(pool)
      assert {:ok, <<_::64>>} = random(pool)
      let_go(pool, chaos)
    end
  end

  describe "on dirty-IO schedulers" do
    test "sessions that hang are counted, and the others serve", %{token: token, chaos: chaos} do
      pool = start(token, executor: :dirty_io)
      hang(pool, chaos, 2)
      assert %{hung: 2, running: 2} = Pkcs11Pool.status(pool)
      for _ <- 1..20, do: assert({:ok, <<_::64>>} = random(pool))
      assert Chaos.status(chaos).sessions <= @size
      let_go(pool, chaos)
    end

    test "a runner that is killed in a call that hangs keeps its place until that returns",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: :dirty_io, pool_size: 2)
      Chaos.hang(chaos, :C_GenerateRandom, count: 2)
      callers = for _ <- 1..2, do: Task.async(fn -> random(pool) end)
      Poll.until(fn -> hanging(chaos, :C_GenerateRandom) == 2 end)
      for runner <- Pools.runners(pool), do: Process.exit(runner, :kill)
      for result <- Task.await_many(callers, 60_000), do: assert({:error, %Error{}} = result)
      assert %{hung: 2, running: 2} = Pkcs11Pool.status(pool)
      assert %{vacancies: 0, runners: 0} = Pools.native_status(pool)
      let_go(pool, chaos)
    end

    test "the call of a caller that was killed is found", %{token: token, chaos: chaos} do
      pool = start(token, executor: :dirty_io)
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      caller = spawn(fn -> random(pool) end)
      Poll.until(fn -> hanging(chaos, :C_GenerateRandom) == 1 end)
      Process.exit(caller, :kill)
      Poll.until(fn -> Pkcs11Pool.status(pool).hung == 1 end)
      let_go(pool, chaos)
    end

    test "a lease ends when its call hangs", %{token: token, chaos: chaos} do
      pool = start(token, executor: :dirty_io)

      Pkcs11Pool.with_session(pool, fn lease ->
        Chaos.hang(chaos, :C_GenerateRandom, count: 1)
        assert {:error, %Error{reason: :operation_timeout}} = random(lease)
        assert {:error, %Error{reason: :lease_ended, executed: false}} = random(lease)
      end)

      assert {:ok, <<_::64>>} = random(pool)
      let_go(pool, chaos)
    end
  end

  for executor <- [:threads, :dirty_io] do
    test "a login that hangs is reported, and frees who waits for it, executor #{executor}",
         %{token: token, chaos: chaos} do
      Chaos.hang(chaos, :C_Login, count: 1)
      pool = start(token, executor: unquote(executor), lazy: true, queue_timeout: 300)

      results =
        1..8
        |> Enum.map(fn _ -> Task.async(fn -> random(pool) end) end)
        |> Task.await_many(60_000)

      for result <- results do
        assert {:error, %Error{reason: reason}} = result
        assert reason in [:queue_timeout, :operation_timeout]
      end

      Poll.until(fn -> Pkcs11Pool.status(pool).hung == 1 end)
      # Another login beside it would be wrong.
      assert Chaos.calls(chaos, :C_Login) == 1
      Chaos.release(chaos)
      assert {:ok, <<_::64>>} = random(pool, queue_timeout: 10_000)
      assert Chaos.calls(chaos, :C_Login) == 1
      let_go(pool, chaos)
    end

    test "a pool server that is killed while a login hangs leaves a pool that works once it returns, executor #{executor}",
         %{token: token, chaos: chaos} do
      {pool, server, _native} = killed_in_login(token, chaos, unquote(executor))

      Poll.until(fn ->
        match?({:ok, other, _} when other != server, Pkcs11Pool.Registry.lookup(pool))
      end)

      Chaos.release(chaos)
      assert {:ok, <<_::64>>} = random(pool, queue_timeout: 20_000, operation_timeout: 20_000)
      assert Chaos.violations(chaos) == []
    end

    test "a pool server that is killed while a login hangs that then fails leaves the login to its successor, executor #{executor}",
         %{token: token, chaos: chaos} do
      {pool, _server, native} = killed_in_login(token, chaos, unquote(executor))

      # The login finds that its module is to be initialized again, which a pool that stops does not see to.
      Chaos.uninitialize(chaos)
      Chaos.release(chaos)
      Poll.until(fn -> match?({:ok, _random}, random(pool, queue_timeout: 500)) end, 10_000)
      # The native side of the dead one need not be gone for that: at rest is enough.
      Poll.until(fn -> Pkcs11Pool.Native.pending(native) == 0 end)
      assert Chaos.violations(chaos) == []
    end

    test "a pool is stopped and started again over calls that hang, executor #{executor}",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: unquote(executor), pool_size: 2, shutdown_timeout: 60_000)
      hang(pool, chaos, 2)
      {time, :ok} = :timer.tc(fn -> stop_supervised!(pool) end)
      # For what hangs nobody waits.
      assert time < 30_000_000
      again = start(token, executor: unquote(executor), pool_size: 2)
      for _ <- 1..10, do: assert({:ok, <<_::64>>} = random(again))
      # The module may not be finalized under those who are inside.
      assert Chaos.calls(chaos, :C_Finalize) == 0
      let_go(again, chaos)
    end
  end

  for executor <- [:threads, :dirty_io] do
    test "a pool that has its token for itself is started again over a call that hangs, executor #{executor}",
         %{token: token, chaos: chaos} do
      opts = [type: :token, pool_size: 1, lazy: false]
      opts = [executor: unquote(executor)] ++ opts
      pool = start(token, opts)
      hang(pool, chaos, 1)
      stop_supervised!(pool)
      pool = start(token, opts)
      assert {:ok, <<_::64>>} = random(pool)

      # So it is when the pool server is killed.
      Chaos.release(chaos)
      Poll.until(fn -> hanging(chaos, :C_GenerateRandom) == 0 end)
      hang(pool, chaos, 1)
      server = Pools.server(pool)
      Process.exit(server, :kill)
      Poll.until(fn -> not Process.alive?(server) end)
      Poll.until(fn -> match?({:ok, _random}, random(pool)) end, 20_000)
      let_go(pool, chaos)
    end
  end

  describe "the outside" do
    test "is told by the log what a hung call costs, and when it has returned",
         %{token: token, chaos: chaos} do
      for {executor, cost} <- [
            threads: "its session is replaced (1 hung; at most 4 are replaced)",
            dirty_io:
              "it holds one of the VM's #{:erlang.system_info(:dirty_io_schedulers)} dirty-IO schedulers"
          ] do
        pool = start(token, executor: executor)

        log =
          capture_log(fn ->
            server = Pools.server(pool)
            1 = :erlang.trace(server, true, [:receive])
            # What is told late is told as it was.
            :sys.suspend(server)
            hang(pool, chaos, 1)
            Chaos.release(chaos)
            Poll.until(fn -> Pkcs11Pool.status(pool).hung == 0 end)
            :sys.resume(server)
            let_go(pool, chaos)
            # Its notices have come, and have been read.
            assert_receive {:trace, ^server, :receive, {:pkcs11_pool, notice}}
                           when elem(notice, 0) == :hung_returned,
                           60_000

            :erlang.trace(server, false, [:receive])
            :sys.get_state(server)
          end)

        assert log =~
                 ~r/#{inspect(pool)}: generate_random on session \d+ has not returned for \d+ ms/

        assert log =~ cost
        assert log =~ ~r/generate_random on session \d+, which hung, has returned after \d+ ms/
        stop_supervised!(pool)
      end
    end
  end

  # Other processes have so many sessions for themselves meanwhile.
  defp leased(pool, count, fun) do
    test = self()

    hold = fn ->
      Pkcs11Pool.with_session(pool, fn ->
        send(test, :leased)
        receive do: (:done -> :ok)
      end)
    end

    holders = for _ <- 1..count//1, do: Task.async(hold)
    for _ <- holders, do: assert_receive(:leased)
    fun.()
    for holder <- holders, do: send(holder.pid, :done)
    Task.await_many(holders, 60_000)
  end

  # All sessions open, and idle.
  defp occupy(pool, chaos) do
    Chaos.latency(chaos, :C_GenerateRandom, 100)
    tasks = for _ <- 1..@size, do: Task.async(fn -> random(pool) end)
    for result <- Task.await_many(tasks, 60_000), do: assert({:ok, <<_::64>>} = result)
    Chaos.latency(chaos, :C_GenerateRandom, 0)
    Poll.until(fn -> Pkcs11Pool.status(pool).idle == @size end)
  end

  defp sign(pool), do: Pkcs11Pool.sign(pool, "signing", :ecdsa, :binary.copy("x", 32))
end

defmodule Pkcs11Pool.HungLeftoversTest do
  # What hung calls leave behind in the VM: counted, so that nothing else may run beside.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  defp start(token, opts) do
    defaults = [name: :leftovers, operation_timeout: 200, shutdown_timeout: 200]
    opts = SoftHSM.pool_opts(token, Keyword.merge(defaults, opts))
    start_supervised!({Pkcs11Pool, opts}, id: opts[:name])
    on_exit(fn -> Chaos.release(token.chaos) end)
    :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
    opts[:name]
  end

  defp random(pool), do: Pkcs11Pool.generate_random(pool, 8, queue_timeout: 20_000)

  defp hang(pool, chaos, count) do
    Chaos.hang(chaos, :C_GenerateRandom, count: count)

    for result <-
          Task.await_many(for(_ <- 1..count, do: Task.async(fn -> random(pool) end)), 60_000),
        do: assert({:error, %Error{reason: :operation_timeout}} = result)
  end

  # Those of the pools' runners.
  defp threads do
    "/proc/self/task/*/comm"
    |> Path.wildcard()
    |> Enum.count(&match?({:ok, "pkcs11-runner\n"}, File.read(&1)))
  end

  test "sessions and threads that hung, again and again, are all gone in the end",
       %{token: token, chaos: chaos} do
    pool = start(token, executor: :threads, pool_size: 4)
    # Those of earlier pools are on their way out.
    Poll.until(fn -> threads() == 4 end)

    for _ <- 1..5 do
      hang(pool, chaos, 4)
      Poll.until(fn -> threads() == 8 end)
      Chaos.release(chaos)
      Pools.drained!(pool)
    end

    Pools.full_strength!(pool)
    Poll.until(fn -> threads() == 4 end)
    assert Chaos.status(chaos).sessions == Pkcs11Pool.status(pool).idle
    assert Chaos.violations(chaos) == []
  end

  test "a pool that was restarted over hung calls ten times leaves the VM its file I/O, and :auto counts the orphans",
       %{token: token, chaos: chaos} do
    executors =
      for _ <- 1..10 do
        pool = start(token, pool_size: 4)
        executor = Pkcs11Pool.status(pool).executor
        hang(pool, chaos, 4)
        # The calls hang until the test's end, and it would, too.
        read = Task.async(fn -> File.read(__ENV__.file) end)
        assert {:ok, _text} = Task.await(read, 60_000)
        :ok = stop_supervised(pool)
        executor
      end

    # Each of the first ones leaves four dirty schedulers taken, until a pool would take the last ones.
    fit = div(:erlang.system_info(:dirty_io_schedulers) - 2, 4)
    {dirty, rest} = Enum.split(executors, min(fit, 10))
    assert Enum.all?(dirty, &(&1 == :dirty_io))
    assert Enum.all?(rest, &(&1 == :threads))
    assert Chaos.calls(chaos, :C_Finalize) == 0

    assert_recovers(token, chaos)
  end

  test "those of killed callers who ran their calls themselves are orphans, too",
       %{token: token, chaos: chaos} do
    fit = div(:erlang.system_info(:dirty_io_schedulers) - 2, 4)

    for round <- 1..10 do
      pool = start(token, pool_size: 4)
      # Else the last schedulers would be taken, and nobody could end this.
      expected = if round <= fit, do: :dirty_io, else: :threads
      assert {round, Pkcs11Pool.status(pool).executor} == {round, expected}
      open(pool, chaos, 4)
      callers = hang_callers(pool, chaos, 4, operation_timeout: :infinity)
      for caller <- callers, do: Process.exit(caller, :kill)
      read = Task.async(fn -> File.read(__ENV__.file) end)
      assert {:ok, _text} = Task.await(read, 60_000)
      :ok = stop_supervised(pool)
    end

    assert_recovers(token, chaos)
  end

  test "a pool that has shrunk counts with the calls that are still in its module",
       %{token: token, chaos: chaos} do
    size = :erlang.system_info(:dirty_io_schedulers) - 4
    pool = start(token, pool_size: size, executor: :dirty_io)
    open(pool, chaos, size)
    hang_callers(pool, chaos, 2, operation_timeout: :infinity)
    hang_callers(pool, chaos, size - 2, operation_timeout: 60_000)
    :ok = Pkcs11Pool.resize(pool, 1)
    other = start(token, name: :other, pool_size: 4)
    assert Pkcs11Pool.status(other).executor == :threads
    stop_supervised!(other)

    Chaos.release(chaos)
    Pools.drained!(pool)
    other = start(token, name: :other, pool_size: 4)
    assert Pkcs11Pool.status(other).executor == :dirty_io
    assert Chaos.violations(chaos) == []
  end

  # So many sessions are open, and idle.
  defp open(pool, chaos, count) do
    before = hanging(chaos, :C_DigestInit)
    Chaos.hang(chaos, :C_DigestInit, count: count)
    digest = fn -> Pkcs11Pool.digest(pool, :sha256, "x", operation_timeout: 60_000) end
    tasks = for _ <- 1..count, do: Task.async(digest)
    Poll.until(fn -> hanging(chaos, :C_DigestInit) == before + count end)
    Chaos.release(chaos, function: :C_DigestInit)
    for result <- Task.await_many(tasks, 60_000), do: assert({:ok, <<_::256>>} = result)
    Poll.until(fn -> Pkcs11Pool.status(pool).idle == count end)
  end

  # So many callers are in calls that hang.
  defp hang_callers(pool, chaos, count, opts) do
    before = hanging(chaos, :C_GenerateRandom)
    Chaos.hang(chaos, :C_GenerateRandom, count: count)

    callers = for _ <- 1..count, do: spawn(fn -> Pkcs11Pool.generate_random(pool, 8, opts) end)

    Poll.until(fn -> hanging(chaos, :C_GenerateRandom) == before + count end)
    callers
  end

  defp hanging(chaos, function), do: Map.get(Chaos.hanging(chaos), to_string(function), 0)

  defp assert_recovers(token, chaos) do
    Chaos.release(chaos)
    pool = start(token, pool_size: 4)
    assert {:ok, <<_::64>>} = random(pool)
    Poll.until(fn -> Chaos.status(chaos).sessions == Pkcs11Pool.status(pool).idle end)
    assert Chaos.violations(chaos) == []
  end
end
