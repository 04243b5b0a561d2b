defmodule Pkcs11Pool.AwaitReadyTest do
  # Whoever waits for a pool waits for its token, too, and no longer than was said; what waiting does not mend comes at once.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Call.Deadlines
  alias Pkcs11Pool.{Error, Native, Registry}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  defp start!(token, opts \\ []) do
    name = :"pool-#{System.unique_integer([:positive])}"
    opts = SoftHSM.pool_opts(token, Keyword.merge([name: name, pool_size: 1], opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    name
  end

  # Somebody who waits; with looks that came to nothing in any case.
  defp waiting(pool) do
    task = Task.async(fn -> Pkcs11Pool.await_ready(pool, 120_000) end)
    assert Task.yield(task, 100) == nil
    task
  end

  describe "the token" do
    test "that is away at the start is waited for", %{token: token, chaos: chaos} do
      Chaos.remove_token(chaos, slot_id: token.slot_id)
      pool = start!(token)
      assert %{state: :down} = Pkcs11Pool.status(pool)
      task = waiting(pool)
      Chaos.return_token(chaos, slot_id: 78)
      assert Task.await(task, 120_000) == :ok
      assert %{down: nil, idle: 1, login: :logged_in} = Pools.drained!(pool)
    end

    test "that goes away is waited for", %{token: token, chaos: chaos} do
      pool = start!(token)
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
      Chaos.remove_token(chaos)
      assert {:error, %Error{reason: :token_unavailable}} = Pkcs11Pool.generate_random(pool, 8)
      task = waiting(pool)
      Chaos.return_token(chaos)
      assert Task.await(task, 120_000) == :ok
    end

    test "that stays away is the reason, when the time is over", %{token: token, chaos: chaos} do
      Chaos.remove_token(chaos, slot_id: token.slot_id)
      pool = start!(token)

      for timeout <- [0, 50] do
        assert {:error, %Error{reason: :slot_not_found, pool: ^pool, executed: false}} =
                 Pkcs11Pool.await_ready(pool, timeout)
      end
    end
  end

  # None of these would ever return if it were waited for.
  describe "at once comes" do
    test "a PIN that the token refuses, and a source that gives none", %{token: token} do
      for {answer, reason} <- [{nil, :pin_source_failed}, {"not the PIN", :pin_incorrect}] do
        pool = start!(token, pin: fn -> answer end)
        assert {:error, %Error{reason: ^reason}} = Pkcs11Pool.await_ready(pool, :infinity)
      end
    end

    test "that there is no such pool, or that it drains", %{token: token, chaos: chaos} do
      assert {:error, %Error{reason: :pool_not_found}} =
               Pkcs11Pool.await_ready(:nobody, :infinity)

      Chaos.remove_token(chaos, slot_id: token.slot_id)
      pool = start!(token)
      task = waiting(pool)
      assert {:ok, 0} = Pkcs11Pool.drain(pool, 30_000)
      assert {:error, %Error{reason: :draining}} = Task.await(task, 60_000)
      assert {:error, %Error{reason: :draining}} = Pkcs11Pool.await_ready(pool, :infinity)
    end
  end

  test "the time is one for waiting in the queue and for running", %{token: token, chaos: chaos} do
    pool = start!(token)
    assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    {:ok, _server, entry} = Registry.lookup(pool)
    Chaos.hang(chaos, :C_GenerateRandom, count: 1)
    started = System.monotonic_time(:millisecond)
    {running, queued} = {make_ref(), make_ref()}
    first = Native.submit(entry.native, running, {:generate_random, 8}, nil)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
    second = Native.submit(entry.native, queued, :ping, nil)

    # Either has time left by itself.
    entry = %{entry | queue_timeout: 600_000, operation_timeout: 600_000}
    assert {:wait, _ms} = Deadlines.check(first, started, entry)
    assert {:wait, _ms} = Deadlines.check(second, started, entry)
    over = Map.put(entry, :deadline, started)
    assert {:error, {:operation_timeout, _ms}} = Deadlines.check(first, started, over)
    assert {:error, :queue_timeout} = Deadlines.check(second, started, over)
    Chaos.release(chaos)
    Pools.drained!(pool)
  end

  test "the time in the error is the whole one", %{token: token, chaos: chaos} do
    pool = start!(token)
    assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    Chaos.hang(chaos, :C_GenerateRandom, count: 1)
    held = Task.async(fn -> Pkcs11Pool.generate_random(pool, 8, operation_timeout: :infinity) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
    assert {:error, %Error{reason: :queue_timeout} = error} = Pkcs11Pool.await_ready(pool, 123)
    assert %{timeout_ms: 123} = error.details
    assert Exception.message(error) =~ "within 123 ms"
    Chaos.release(chaos)
    assert {:ok, _bytes} = Task.await(held, 60_000)
  end

  describe "start: :strict" do
    test "fails while the token is away, and does not wait for it", %{token: token, chaos: chaos} do
      Chaos.remove_token(chaos, slot_id: token.slot_id)
      # It would wait for as long.
      opts = SoftHSM.pool_opts(token, start: :strict, operation_timeout: 0x7FFFFFFF)
      Process.flag(:trap_exit, true)
      assert {:error, %Error{reason: :slot_not_found}} = Pkcs11Pool.start_link(opts)
      refute_received {:EXIT, _supervisor, _reason}
    end

    test "is an error, too, where the pool ends meanwhile", %{token: token, chaos: chaos} do
      test = self()

      # The pool waits for its PIN, and its start with it.
      source = fn ->
        send(test, :asked)
        Process.sleep(:infinity)
      end

      opts = SoftHSM.pool_opts(token, start: :strict, pin: source, pin_timeout: 600_000)

      starter =
        Task.async(fn ->
          Process.flag(:trap_exit, true)
          {Pkcs11Pool.start_link(opts), Process.info(self(), :messages)}
        end)

      assert_receive :asked
      Process.exit(Pools.supervisor(opts[:name]), :kill)
      assert {{:error, %Error{} = error}, {:messages, []}} = Task.await(starter, 60_000)
      assert error.reason in [:draining, :pool_not_found]
      assert Chaos.violations(chaos) == []
    end
  end
end
