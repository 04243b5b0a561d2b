defmodule Pkcs11Pool.ResizeTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  defp pool(overrides) do
    opts = SoftHSM.new_token!() |> SoftHSM.pool_opts(overrides)
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
    opts[:name]
  end

  defp load(pool, calls) do
    1..calls
    |> Task.async_stream(fn _ -> Pkcs11Pool.generate_random(pool, 10_000) end, max_concurrency: 64)
    |> Enum.map(fn {:ok, result} -> result end)
  end

  # A process that has a session for itself, and makes a call on it when it is told to.
  defp holder(pool) do
    test = self()

    holder =
      spawn_link(fn ->
        Pkcs11Pool.with_session(pool, fn lease ->
          send(test, {self(), :in})
          receive do: (:go -> send(test, {self(), Pkcs11Pool.generate_random(lease, 8)}))
          receive do: (:leave -> :ok)
        end)
      end)

    assert_receive {^holder, :in}, 30_000
    holder
  end

  defp await_runners(pool, count) do
    Poll.until(fn ->
      # Processes, or threads.
      match?(%{runners: ^count, vacancies: 0}, Pools.native_status(pool)) and
        length(Pools.runners(pool)) in [0, count]
    end)
  end

  test "a pool grows and shrinks under load without failing a call" do
    pool = pool(pool_size: 2)
    load = Task.async(fn -> load(pool, 2_000) end)

    for size <- [5, 1, 8, 3, 2, 6, 1, 4] do
      assert :ok = Pkcs11Pool.resize(pool, size)
      assert %{size: ^size, ceiling: ^size} = Pkcs11Pool.status(pool)
      {:ok, _} = Pkcs11Pool.generate_random(pool, 10)
    end

    assert Enum.all?(Task.await(load, 60_000), &match?({:ok, _}, &1))

    Poll.until(fn ->
      match?(%{running: 0, waiting: 0, opening: 0, closing: 0}, Pkcs11Pool.status(pool))
    end)

    assert Pkcs11Pool.status(pool).idle in 1..4
  end

  test "a pool that shrinks keeps what it needs, and closes the rest" do
    token = SoftHSM.spy!(SoftHSM.new_token!())
    opts = SoftHSM.pool_opts(token, pool_size: 6)
    pool = opts[:name]
    start_supervised!({Pkcs11Pool, opts})
    load(pool, 200)
    assert :ok = Pkcs11Pool.resize(pool, 1)
    Poll.until(fn -> match?(%{idle: 1, closing: 0, running: 0}, Pkcs11Pool.status(pool)) end)
    calls = SoftHSM.calls(token)
    assert calls["C_OpenSession"] - calls["C_CloseSession"] == 1
    assert {:ok, _} = Pkcs11Pool.generate_random(pool, 4)
  end

  test "runners beyond the dirty-IO schedulers are threads" do
    pool = pool(pool_size: 2, executor: :dirty_io)
    schedulers = :erlang.system_info(:dirty_io_schedulers)
    size = schedulers + 5
    assert :ok = Pkcs11Pool.resize(pool, size)
    assert %{executor: :mixed} = Pkcs11Pool.status(pool)

    # As many leases at once as there are sessions: each of them has a runner.
    test = self()

    holders =
      for _ <- 1..size do
        spawn_link(fn ->
          Pkcs11Pool.with_session(pool, fn lease ->
            send(test, {:in, Pkcs11Pool.generate_random(lease, 4)})
            receive do: (:leave -> :ok)
          end)
        end)
      end

    for _ <- holders, do: assert_receive({:in, {:ok, _}}, 10_000)
    assert %{leased: ^size} = Pkcs11Pool.status(pool)
    for holder <- holders, do: send(holder, :leave)
    Poll.until(fn -> match?(%{leased: 0, running: 0}, Pkcs11Pool.status(pool)) end)
  end

  for executor <- [:dirty_io, :threads] do
    test "a pool that has shrunk runs the calls of its leases side by side, executor #{executor}" do
      %{token: token, chaos: chaos} = ChaosToken.for_test!()
      opts = [pool_size: 4, executor: unquote(executor), operation_timeout: 60_000]
      opts = SoftHSM.pool_opts(token, opts)
      pool = opts[:name]
      start_supervised!({Pkcs11Pool, opts})
      on_exit(fn -> Chaos.release(chaos) end)
      :ok = Pkcs11Pool.await_ready(pool, 30_000)
      Pools.full_strength!(pool)
      [one, two] = for _ <- 1..2, do: holder(pool)
      :ok = Pkcs11Pool.resize(pool, 1)
      await_runners(pool, 2)

      # One that dies is replaced by one of its kind.
      killed = Pools.runners(pool)
      for runner <- killed, do: Process.exit(runner, :kill)

      Poll.until(fn ->
        runners = Pools.runners(pool)
        length(runners) == length(killed) and Enum.all?(runners, &(&1 not in killed))
      end)

      await_runners(pool, 2)
      assert length(killed) == if(unquote(executor) == :dirty_io, do: 2, else: 0)

      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      send(one, :go)
      Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
      send(two, :go)
      assert_receive {^two, {:ok, <<_::64>>}}, 30_000

      # Its session closes, and who ran on it goes with it.
      send(two, :leave)
      await_runners(pool, 1)
      Chaos.release(chaos)
      assert_receive {^one, {:ok, <<_::64>>}}, 30_000
      send(one, :leave)
      assert {:ok, <<_::64>>} = Pkcs11Pool.generate_random(pool, 8)
      Pools.full_strength!(pool)
    end
  end

  test "stripes stay when a pool shrinks below their number" do
    pool = pool(pool_size: 6, stripes: 3)
    load(pool, 200)
    assert :ok = Pkcs11Pool.resize(pool, 1)
    assert Enum.all?(load(pool, 200), &match?({:ok, _}, &1))
    assert :ok = Pkcs11Pool.resize(pool, 7)
    assert Enum.all?(load(pool, 200), &match?({:ok, _}, &1))
    Poll.until(fn -> match?(%{running: 0, waiting: 0, closing: 0}, Pkcs11Pool.status(pool)) end)
  end

  test "what is no size, a :token pool and an unknown pool are errors" do
    pool = pool(type: :token, pool_size: 1)
    server = Pools.server(pool)

    for size <- [0, -1, 1.5, :all, 1_025, 0x1_0000_0000_0000_0000] do
      assert_raise ArgumentError, ~r/a number of sessions from 1 to 1024, got: /, fn ->
        Pkcs11Pool.resize(pool, size)
      end
    end

    assert Pools.server(pool) == server

    assert {:error, %Error{reason: :pool_size_fixed} = error} = Pkcs11Pool.resize(pool, 2)
    assert Exception.message(error) =~ ":token"
    assert :ok = Pkcs11Pool.resize(pool, 1)
    assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.resize(:nobody, 2)
  end

  test "the twin raises" do
    pool = pool(pool_size: 1)
    assert Pkcs11Pool.resize!(pool, 2) == :ok
    assert %{size: 2} = Pkcs11Pool.status(pool)
    assert_raise Error, ~r/no such pool/, fn -> Pkcs11Pool.resize!(:nobody, 2) end
    assert_raise ArgumentError, fn -> Pkcs11Pool.resize!(pool, 0) end
  end

  # For longer than a GenServer is waited for by default.
  test "a pool server that is long about it is waited for" do
    pool = pool(pool_size: 1)
    :sys.suspend(Pools.server(pool))
    task = Task.async(fn -> Pkcs11Pool.resize(pool, 2) end)
    assert Task.yield(task, 5_500) == nil
    :sys.resume(Pools.server(pool))
    assert Task.await(task, 60_000) == :ok
    assert %{size: 2} = Pkcs11Pool.status(pool)
  end

  test "a pool server that ends meanwhile is no pool" do
    pool = pool(pool_size: 1)
    :sys.suspend(Pools.server(pool))
    task = Task.async(fn -> Pkcs11Pool.resize(pool, 2) end)
    assert Task.yield(task, 100) == nil
    stop_supervised!({Pkcs11Pool, pool})
    assert {:error, %Error{reason: :pool_not_found}} = Task.await(task, 60_000)
  end

  describe "a pool with executor: :dirty_io that can occupy every dirty-IO scheduler" do
    defp starved(pool, fun) do
      log = capture_log(fun)

      for [_line, own, others] <-
            Regex.scan(
              ~r/pool #{inspect(pool)}: .* sessions \((\d+) of this pool, (\d+) of others\) can occupy all/,
              log
            ),
          do: {String.to_integer(own), String.to_integer(others)}
    end

    # Other tests have pools, too: those of others are at least so many.
    test "says so once, alone or with the others, at its start and when it is resized" do
      most = :erlang.system_info(:dirty_io_schedulers)
      opts = [executor: :dirty_io, lazy: true]
      [one, two, three] = for _ <- 1..3, do: SoftHSM.new_token!()

      start = fn token, opts ->
        start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)})
      end

      pool = String.to_atom(one.label)
      assert [{^most, _others}] = starved(pool, fn -> start.(one, [pool_size: most] ++ opts) end)
      assert [{^most, _}] = starved(pool, fn -> :ok = Pkcs11Pool.resize(pool, most + 3) end)
      assert %{executor: :mixed} = Pkcs11Pool.status(pool)
      :ok = Pkcs11Pool.resize(pool, most - 1)

      pool = String.to_atom(two.label)
      assert [{1, others}] = starved(pool, fn -> start.(two, [pool_size: 1] ++ opts) end)
      assert others >= most - 1
      assert [{1, _others}] = starved(pool, fn -> :ok = Pkcs11Pool.resize(pool, 2) end)

      # Which executor it has was not the user's choice.
      pool = String.to_atom(three.label)
      assert [] = starved(pool, fn -> start.(three, lazy: true) end)
    end
  end
end
