defmodule Pkcs11Pool.HealthTest do
  # What status/1 and Pkcs11Pool.Health say of a pool that cannot do what it is there for, though its token is in its slot.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Health}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  @moduletag :capture_log

  defp start(token, opts) do
    name = :"health-#{System.unique_integer([:positive])}"

    defaults = [name: name, pool_size: 2, operation_timeout: 20_000, shutdown_timeout: 500]
    opts = SoftHSM.pool_opts(token, Keyword.merge(defaults, opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    # What hangs is let go before the pool stops, or that would take its time.
    on_exit(fn -> Chaos.release(token.chaos) end)
    name
  end

  defp started(token, opts \\ []) do
    name = start(token, opts)
    :ok = Pkcs11Pool.await_ready(name, 30_000)
    name
  end

  defp random(pool, opts \\ []), do: Pkcs11Pool.generate_random(pool, 8, opts)

  # Waits until the pool is in this health; then its status.
  defp await(pool, health) do
    Poll.until(fn ->
      status = Pkcs11Pool.status(pool)
      if status.health == health, do: status
    end)
  end

  # Callers that are freed at their deadline, each in a call that hangs.
  defp hang(pool, chaos, count) do
    Chaos.hang(chaos, :C_GenerateRandom, count: count)

    callers = for _ <- 1..count, do: Task.async(fn -> random(pool, operation_timeout: 300) end)

    for result <- Task.await_many(callers, 60_000),
        do: assert({:error, %Error{reason: :operation_timeout}} = result)
  end

  describe "status/1" do
    test "a pool that works is ready, for no reason and since no time", %{token: token} do
      pool = started(token)

      assert %{health: :ready, health_reason: nil, health_since: nil, state: :up} =
               Pkcs11Pool.status(pool)

      assert Health.check(pool) == :ok
    end

    test "a pool whose PIN was refused is down since then, and ready again with another PIN",
         %{token: token, chaos: chaos} do
      before = System.system_time(:millisecond)
      source = ChaosToken.source!("0000")
      pool = start(token, pin: ChaosToken.pin(source))
      status = await(pool, :down)
      assert %{state: :up, login: :poisoned, health_since: since} = status
      assert %Error{reason: :pin_incorrect, pool: ^pool, executed: false} = status.health_reason
      assert since in (before - 1_000)..(System.system_time(:millisecond) + 1_000)

      # It stays what it was, however often one looks or calls, and nobody tries the PIN again.
      assert {:error, %Error{reason: :pin_incorrect}} = random(pool)
      assert {:error, %Error{reason: :pin_incorrect}} = Health.check(pool)
      assert Pkcs11Pool.status(pool).health_since == since
      assert Chaos.calls(chaos, :C_Login) == 1

      pin = token.pin
      :ok = Pkcs11Pool.login(pool, fn -> pin end)
      assert %{health: :ready, health_reason: nil, health_since: nil} = Pkcs11Pool.status(pool)
      assert Health.check(pool) == :ok
    end

    test "a pool whose PIN source gives none is down until it does", %{token: token} do
      source = ChaosToken.source!({:error, :unset})
      pool = start(token, pin: ChaosToken.pin(source))

      assert %{state: :up, health_reason: %Error{reason: :pin_source_failed}, health_since: since} =
               await(pool, :down)

      # Each call asks the source again: the pool is no better meanwhile.
      assert {:error, %Error{reason: :pin_source_failed}} = random(pool)
      assert Pkcs11Pool.status(pool).health_since == since
      ChaosToken.give(source, token.pin)
      assert {:ok, _} = random(pool)
      assert Pkcs11Pool.status(pool).health == :ready
    end

    test "while the source is asked again, a pool is no better than it was", %{token: token} do
      source = ChaosToken.source!({:error, :unset})
      pool = start(token, pin: ChaosToken.pin(source))
      await(pool, :down)
      test = self()

      ChaosToken.give(source, fn ->
        send(test, {:asked, self()})

        receive do
          pin -> pin
        end
      end)

      caller = Task.async(fn -> random(pool) end)
      assert_receive {:asked, asking}, 30_000
      assert %{login: :in_progress, health: :down} = Pkcs11Pool.status(pool)
      send(asking, token.pin)
      assert {:ok, _} = Task.await(caller, 60_000)
      assert Pkcs11Pool.status(pool).health == :ready
    end

    test "a variable for the PIN that is not set is such a source", %{token: token} do
      pool = start(token, pin: {:env, "PKCS11_POOL_UNSET_#{System.unique_integer([:positive])}"})
      assert %{health_reason: %Error{reason: :pin_source_failed}} = await(pool, :down)
    end

    test "a login that failed for another reason is what is wrong until one succeeds",
         %{token: token, chaos: chaos} do
      Chaos.fail(chaos, :C_Login, :function_failed)
      pool = start(token, [])

      assert %{health_reason: %Error{reason: :function_failed, function: :C_Login}} =
               await(pool, :down)

      Chaos.reset(chaos)
      assert {:ok, _} = random(pool)
      assert Pkcs11Pool.status(pool).health == :ready
    end

    test "a pool with another PIN than the one that is logged in is down, the other is not",
         %{token: token} do
      first = started(token)
      second = start(token, pin: fn -> "0000" end)
      assert %{health_reason: %Error{reason: :login_conflict}} = await(second, :down)
      assert Pkcs11Pool.status(first).health == :ready
    end

    test "a pool that waits for login/3 is down", %{token: token} do
      pool = started(token, type: :token, pool_size: 1, reauthentication: :fail)
      assert Pkcs11Pool.status(pool).health == :ready
      :ok = Pkcs11Pool.logout(pool)

      assert %{health: :down, health_reason: %Error{reason: :reauthentication_required}} =
               Pkcs11Pool.status(pool)

      pin = token.pin
      :ok = Pkcs11Pool.login(pool, fn -> pin end)
      assert Pkcs11Pool.status(pool).health == :ready
    end

    test "with some of its sessions hung a pool is degraded, with all of them down",
         %{token: token, chaos: chaos} do
      pool = started(token, executor: :dirty_io)
      hang(pool, chaos, 1)

      assert %{health: :degraded, health_reason: %Error{reason: :sessions_hung} = error} =
               Pkcs11Pool.status(pool)

      assert %{hung: 1, size: 2} = error.details
      assert Exception.message(error) =~ "1 calls (of a pool of 2 sessions)"
      assert {:degraded, ^error} = Health.check(pool)

      hang(pool, chaos, 1)
      status = Pkcs11Pool.status(pool)
      assert %{state: :up, hung: 2, health: :down} = status
      assert %Error{reason: :sessions_hung, details: %{hung: 2, size: 2}} = status.health_reason
      assert status.health_since <= System.system_time(:millisecond) + 1_000
      assert {:error, %Error{reason: :sessions_hung}} = Health.check(pool)

      Chaos.release(chaos)
      await(pool, :ready)
    end

    test "hung sessions that were replaced leave a pool degraded; that the others hang, too, is down",
         %{token: token, chaos: chaos} do
      pool = started(token, executor: :threads)
      hang(pool, chaos, 2)
      assert %{hung: 2, health: :degraded} = Pkcs11Pool.status(pool)
      assert {:ok, _} = random(pool)
      hang(pool, chaos, 2)
      assert %{hung: 4, health: :down} = Pkcs11Pool.status(pool)
      Chaos.release(chaos)
      await(pool, :ready)
    end

    test "a login that hangs is everybody's: the pool is down", %{token: token, chaos: chaos} do
      Chaos.hang(chaos, :C_Login, count: 1)
      pool = start(token, lazy: true, operation_timeout: 300)
      assert {:error, %Error{reason: :operation_timeout}} = random(pool, queue_timeout: 300)
      assert %{health_reason: %Error{reason: :sessions_hung}} = await(pool, :down)
      Chaos.release(chaos)
      Pools.drained!(pool)
      assert {:ok, _} = random(pool)
      assert Pkcs11Pool.status(pool).health == :ready
    end

    test "a pool whose token is away is down, and ready when it is back",
         %{token: token, chaos: chaos} do
      pool = started(token)
      Chaos.remove_token(chaos)
      assert {:error, %Error{reason: :token_unavailable}} = random(pool)

      assert %{state: :down, health: :down, health_since: since, health_reason: error} =
               Pkcs11Pool.status(pool)

      assert %Error{reason: :token_unavailable} = error
      assert Pkcs11Pool.status(pool).health_since == since
      Chaos.return_token(chaos)
      :ok = Pkcs11Pool.await_ready(pool, 60_000)
      assert Pkcs11Pool.status(pool).health == :ready
    end

    test "a pool whose token was never there is down, and says what it looks for",
         %{token: token} do
      pool = start(token, slot: {:token_label, "nowhere"})

      assert %{health: :down, health_reason: %Error{reason: :slot_not_found}} =
               Pkcs11Pool.status(pool)
    end

    test "a pool that has drained is down", %{token: token} do
      pool = started(token)
      {:ok, 0} = Pkcs11Pool.drain(pool, 30_000)

      assert %{state: :draining, health: :down, health_reason: %Error{reason: :draining}} =
               Pkcs11Pool.status(pool)

      assert is_integer(Pkcs11Pool.status(pool).health_since)
    end

    test "a pool for which no session can be opened is down until one is",
         %{token: token, chaos: chaos} do
      Chaos.fail(chaos, :C_OpenSession, :function_failed)
      pool = start(token, [])

      assert %{state: :up, health_reason: error} = await(pool, :down)
      assert %Error{reason: :function_failed, function: :C_OpenSession} = error

      Chaos.reset(chaos)
      assert {:ok, _} = random(pool)
      assert Pkcs11Pool.status(pool).health == :ready
    end

    test "a pool that has not opened its first session is degraded, a lazy one is ready",
         %{token: token, chaos: chaos} do
      Chaos.hang(chaos, :C_OpenSession)
      lazy = start(token, lazy: true)
      assert %{health: :ready} = Pkcs11Pool.status(lazy)
      assert Health.check(lazy, call: true) == :ok
      assert Chaos.calls(chaos, :C_OpenSession) == 0

      eager = start(token, [])

      assert %{health: :degraded, health_reason: %Error{reason: :starting}} =
               Pkcs11Pool.status(eager)

      Chaos.release(chaos)
      :ok = Pkcs11Pool.await_ready(eager, 30_000)
      assert Pkcs11Pool.status(eager).health == :ready
    end
  end

  describe "a pool that nobody calls any more" do
    # What its server does every 30 s.
    defp mend(pool) do
      send(Pools.server(pool), :mend)
      :sys.get_state(Pools.server(pool))
    end

    test "asks a PIN source again that gave none", %{token: token} do
      source = ChaosToken.source!({:error, :unset})
      pool = start(token, pin: ChaosToken.pin(source))
      await(pool, :down)
      ChaosToken.give(source, token.pin)
      mend(pool)
      await(pool, :ready)
      # Then there is nothing to look for.
      asked = ChaosToken.asked(source)
      mend(pool)
      Pools.drained!(pool)
      assert ChaosToken.asked(source) == asked
    end

    test "tries to open a session again", %{token: token, chaos: chaos} do
      Chaos.fail(chaos, :C_OpenSession, :function_failed)
      pool = start(token, [])
      await(pool, :down)
      Chaos.reset(chaos)
      mend(pool)
      await(pool, :ready)
    end

    test "tries no PIN again that was refused, and no login that failed for another reason",
         %{token: token, chaos: chaos} do
      pool = start(token, pin: fn -> "0000" end)
      await(pool, :down)
      for _ <- 1..3, do: mend(pool)
      Pools.drained!(pool)
      assert Chaos.calls(chaos, :C_Login) == 1
      :ok = stop_supervised(pool)

      Chaos.reset(chaos)
      Chaos.fail(chaos, :C_Login, :general_error)
      pool = start(token, [])
      await(pool, :down)
      logins = Chaos.calls(chaos, :C_Login)
      for _ <- 1..3, do: mend(pool)
      Pools.drained!(pool)
      assert Chaos.calls(chaos, :C_Login) == logins
    end

    test "asks for no PIN if it is lazy, or has its token for itself", %{token: token} do
      for opts <- [[lazy: true], [type: :token, pool_size: 1, lazy: false]] do
        source = ChaosToken.source!({:error, :unset})
        pool = start(token, [pin: ChaosToken.pin(source)] ++ opts)
        assert {:error, %Error{reason: :pin_source_failed}} = random(pool)
        asked = ChaosToken.asked(source)
        for _ <- 1..3, do: mend(pool)
        Pools.drained!(pool)
        assert ChaosToken.asked(source) == asked
        :ok = stop_supervised(pool)
      end
    end
  end

  describe "Pkcs11Pool.Health.check/2" do
    test "a pool that does not run is an error, and so is one that has stopped", %{token: token} do
      assert {:error, %Error{reason: :pool_not_found, pool: :no_such_pool}} =
               Health.check(:no_such_pool)

      pool = started(token)
      :ok = stop_supervised(pool)
      assert {:error, %Error{reason: :pool_not_found}} = Health.check(pool, call: true)
    end

    test "what is no option raises" do
      assert_raise ArgumentError, ~r/unknown options \[:tiemout\].*did you mean :timeout/, fn ->
        Health.check(:any, tiemout: 1)
      end

      assert_raise ArgumentError, ~r/invalid value for :timeout option: expected positive/, fn ->
        Health.check(:any, timeout: :infinity)
      end

      assert_raise ArgumentError, ~r/invalid value for :call option: expected boolean/, fn ->
        Health.check(:any, call: 1)
      end
    end

    test "by default it asks the module nothing; with call: true it asks the token",
         %{token: token, chaos: chaos} do
      pool = started(token)
      Pools.drained!(pool)
      Chaos.reset_counts(chaos)
      assert Health.check(pool) == :ok
      assert Chaos.calls(chaos) == %{}
      assert Health.check(pool, call: true) == :ok
      assert Chaos.calls(chaos) == %{"C_GenerateRandom" => 1}
      # By a lease's name, too.
      Pkcs11Pool.with_session(pool, fn lease -> assert Health.check(lease, call: true) == :ok end)
    end

    test "a token that has died in silence is found with call: true", %{
      token: token,
      chaos: chaos
    } do
      pool = started(token)
      Chaos.remove_token(chaos)
      assert Health.check(pool) == :ok
      assert {:error, %Error{reason: :token_unavailable}} = Health.check(pool, call: true)
      assert {:error, %Error{reason: :token_unavailable}} = Health.check(pool)
    end

    test "one that hangs is found within the time, and no further check hangs there",
         %{token: token, chaos: chaos} do
      pool = started(token)
      Chaos.hang(chaos, :C_GenerateRandom)
      check = fn -> Health.check(pool, call: true, timeout: 200) end
      assert {:error, %Error{reason: :operation_timeout}} = check.()
      for _ <- 1..5, do: assert({:degraded, %Error{reason: :sessions_hung}} = check.())
      assert Chaos.calls(chaos, :C_GenerateRandom) == 1
      Chaos.release(chaos)
      await(pool, :ready)
      assert Health.check(pool, call: true) == :ok
    end

    test "a pool that is busy for all of the time is degraded", %{token: token} do
      pool = started(token, pool_size: 1)
      test = self()

      holder =
        spawn_link(fn ->
          Pkcs11Pool.with_session(pool, fn ->
            send(test, :held)
            receive do: (:let_go -> :ok)
          end)
        end)

      assert_receive :held, 30_000

      assert {:degraded, %Error{reason: :queue_timeout}} =
               Health.check(pool, call: true, timeout: 50)

      send(holder, :let_go)
      Pools.drained!(pool)
      assert Health.check(pool, call: true, timeout: 30_000) == :ok
    end

    test "no check logs in, or has a PIN tried", %{token: token, chaos: chaos} do
      source = ChaosToken.source!(token.pin)
      pool = start(token, lazy: true, pin: ChaosToken.pin(source))
      for _ <- 1..5, do: assert(Health.check(pool, call: true) == :ok)
      assert {ChaosToken.asked(source), Chaos.calls(chaos, :C_Login)} == {0, 0}

      # Nor where the login is lost between the look and the call.
      assert {:ok, _} = random(pool)
      Chaos.fail(chaos, :C_GenerateRandom, :user_not_logged_in, count: 1)
      assert {:error, %Error{reason: :user_not_logged_in}} = Health.check(pool, call: true)
      assert {ChaosToken.asked(source), Chaos.calls(chaos, :C_Login)} == {1, 1}

      # Nor with a PIN that was refused.
      ChaosToken.give(source, "0000")
      Chaos.logout(chaos)
      assert {:error, %Error{reason: :pin_incorrect}} = Pkcs11Pool.find_objects(pool, [])
      tries = Chaos.pin_tries(chaos)

      for _ <- 1..20,
          do: assert({:error, %Error{reason: :pin_incorrect}} = Health.check(pool, call: true))

      assert Chaos.pin_tries(chaos) == tries
      assert {ChaosToken.asked(source), Chaos.calls(chaos, :C_Login)} == {2, 2}
    end
  end
end
