defmodule Pkcs11Pool.RecoveryTest do
  # A pool survives its token: away and back, failed over, forgotten by its module, dead from the start. Nobody restarts anything.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Registry}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  defp start!(token, opts \\ []) do
    name = :"pool-#{System.unique_integer([:positive])}"
    opts = SoftHSM.pool_opts(token, Keyword.merge([name: name], opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    name
  end

  # Logged in, with a key whose handle is known.
  defp start_ready!(token, opts \\ []) do
    pool = start!(token, opts)
    {_public, private} = Pools.key_pair!(pool, "key")
    assert {:ok, _signature} = sign(pool)
    Pools.drained!(pool)
    Chaos.reset_counts(token.chaos)
    {pool, private}
  end

  defp sign(pool, key \\ "key", opts \\ []),
    do: Pkcs11Pool.sign(pool, key, :ecdsa, <<0::256>>, opts)

  defp await_up(pool, timeout \\ 20_000) do
    Poll.until(fn -> Pkcs11Pool.await_ready(pool, 30_000) == :ok end, timeout)
  end

  defp at_rest(pool, chaos) do
    status = Pools.drained!(pool)
    assert Chaos.violations(chaos) == []
    assert Chaos.inside(chaos) == %{}
    status
  end

  defp elapsed(fun) do
    {micros, result} = :timer.tc(fun)
    {div(micros, 1000), result}
  end

  describe "a token that is removed while the pool is up" do
    test "fails fast, says for how long, and serves again in another slot, with one login",
         %{token: token, chaos: chaos} do
      {pool, private} = start_ready!(token, pool_size: 4)
      server = Pools.server(pool)
      %{epoch: epoch} = Pkcs11Pool.status(pool)
      Chaos.remove_token(chaos)

      # The one that finds it knows what the module said.
      assert {:error, %Error{reason: :token_unavailable} = error} = sign(pool)
      assert error.code == 0x32 and error.function in [:C_SignInit, :C_OpenSession]
      assert error.executed == false
      assert error.details.retry_after_ms > 0
      assert Error.retryable?(error)

      for call <- [
            fn -> sign(pool) end,
            fn -> Pools.key_pair(pool, "other") end,
            fn -> Pkcs11Pool.with_session(pool, fn -> :never end) end,
            fn -> Pkcs11Pool.login(pool, fn -> token.pin end) end,
            fn -> Pkcs11Pool.logout(pool) end
          ] do
        {ms, result} = elapsed(call)

        assert {:error, %Error{reason: :token_unavailable, executed: false} = error} = result
        assert error.details.retry_after_ms > 0
        # Not at the end of what it would have waited for.
        assert ms < 20_000
        message = Exception.message(error)
        assert is_integer(error.details.away_ms)
        assert message =~ ~r/the token (is unavailable|has been unavailable for \d+ (ms|s))/
        assert message =~ "The pool looks for it by itself"
      end

      assert %{state: :down, down: %Error{reason: :token_unavailable}} = Pkcs11Pool.status(pool)
      assert Chaos.calls(chaos, :C_Login) == 0

      Chaos.return_token(chaos, slot_id: 77)
      await_up(pool)
      # Other keys, so that a number of before would name another one.
      other = Pools.key_pair!(pool, "other")
      assert {:ok, _signature} = sign(pool)
      assert {:ok, _signature} = sign(pool, private)
      assert {:ok, _signature} = sign(pool, elem(other, 1))
      assert %{state: :up, login: :logged_in, epoch: later} = Pkcs11Pool.status(pool)
      assert later > epoch
      assert Chaos.calls(chaos, :C_Login) == 1
      assert Chaos.pin_tries(chaos) == 3
      # No call came with the handle of before.
      assert Chaos.status(chaos).stale_objects == 0
      assert Pools.server(pool) == server
      at_rest(pool, chaos)
    end

    test "and is back before anybody looked: no handle of before reaches the module",
         %{token: token, chaos: chaos} do
      {pool, private} = start_ready!(token, pool_size: 2)
      Chaos.remove_token(chaos)
      Chaos.return_token(chaos)
      Chaos.invalidate_objects(chaos)
      assert {:ok, _signature} = sign(pool)
      assert {:ok, _signature} = sign(pool, private)
      assert Chaos.status(chaos).stale_objects == 0
      assert Chaos.calls(chaos, :C_Login) == 1
      at_rest(pool, chaos)
    end

    test "answers those who wait at once", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 1)
      Chaos.hang(chaos, :C_Sign, nth: 1)
      running = Task.async(fn -> sign(pool) end)
      Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
      waiting = for _ <- 1..8, do: Task.async(fn -> elapsed(fn -> sign(pool) end) end)
      Poll.until(fn -> Pkcs11Pool.status(pool).waiting == 8 end)
      Chaos.remove_token(chaos)
      Chaos.release(chaos)

      assert {:error,
              %Error{reason: :token_unavailable, function: :C_Sign, executed: :unknown} = error} =
               Task.await(running, 60_000)

      refute Error.retryable?(error)

      for {ms, result} <- Task.await_many(waiting, 20_000) do
        assert {:error, %Error{reason: :token_unavailable, executed: false}} = result
        assert ms < 20_000
      end

      Chaos.return_token(chaos)
      await_up(pool)
      at_rest(pool, chaos)
    end

    test "ends a lease: nothing is swapped under it", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 2)

      Pkcs11Pool.with_session(pool, fn lease ->
        assert {:ok, _signature} = sign(lease)
        Chaos.remove_token(chaos)
        assert {:error, %Error{reason: :token_unavailable}} = sign(lease)
        Chaos.return_token(chaos)
        Poll.until(fn -> Pkcs11Pool.status(pool).state == :up end, 20_000)
        assert {:error, %Error{reason: :lease_ended}} = sign(lease)
      end)

      # One that did not notice.
      Pkcs11Pool.with_session(pool, fn lease ->
        assert {:ok, _signature} = sign(lease)
        Chaos.remove_token(chaos)
        Task.async(fn -> sign(pool) end) |> Task.await(60_000)
        Chaos.return_token(chaos)
        Poll.until(fn -> Pkcs11Pool.status(pool).state == :up end, 20_000)
        assert {:error, %Error{reason: :lease_ended, executed: false}} = sign(lease)
      end)

      assert {:ok, _signature} = sign(pool)
      at_rest(pool, chaos)
    end

    test "brings every pool of the token down, and all up again", %{token: token, chaos: chaos} do
      {one, _private} = start_ready!(token, pool_size: 2)
      other = start!(token, pool_size: 2)
      assert {:ok, _signature} = sign(other)
      Chaos.reset_counts(chaos)
      Chaos.remove_token(chaos)
      assert {:error, %Error{reason: :token_unavailable}} = sign(one)
      Poll.until(fn -> Pkcs11Pool.status(other).state == :down end)
      assert {:error, %Error{reason: :token_unavailable, executed: false}} = sign(other)
      Chaos.return_token(chaos)
      for pool <- [one, other], do: await_up(pool)
      for pool <- [one, other], do: assert({:ok, _signature} = sign(pool))
      assert Chaos.calls(chaos, :C_Login) == 1
      for pool <- [one, other], do: at_rest(pool, chaos)
    end

    test "is its pool's again, though the pool server is killed in the midst of the look that finds it",
         %{token: token, chaos: chaos} do
      Chaos.remove_token(chaos)
      pool = start!(token, type: :token, lazy: true)
      assert %{state: :down} = Pkcs11Pool.status(pool)
      Chaos.hang(chaos, :C_OpenSession, count: 1)
      Chaos.return_token(chaos)
      Poll.until(fn -> Chaos.hanging(chaos)["C_OpenSession"] == 1 end)
      server = Pools.server(pool)
      Process.exit(server, :kill)
      Poll.until(fn -> match?({:ok, pid, _} when pid != server, Registry.lookup(pool)) end)
      Chaos.release(chaos)
      await_up(pool)
      assert {:ok, _random} = Pkcs11Pool.generate_random(pool, 8)
      at_rest(pool, chaos)
    end

    test "is found by a login that has no room", %{token: token, chaos: chaos} do
      pool = start!(token, lazy: true)
      Chaos.fail(chaos, :C_Login, :session_count)
      Chaos.fail(chaos, :C_GetSessionInfo, :device_error)
      # The first look is for the PIN's flags.
      Chaos.fail(chaos, :C_GetTokenInfo, :device_error, nth: 2, count: 1_000)
      assert {:error, %Error{reason: :token_unavailable}} = Pkcs11Pool.generate_random(pool, 8)

      for function <- [:C_Login, :C_GetSessionInfo, :C_GetTokenInfo],
          do: Chaos.clear(chaos, function)

      await_up(pool)
      at_rest(pool, chaos)
    end

    test "can be stopped while it is looked for, and started", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, shutdown_timeout: 60_000)
      Chaos.remove_token(chaos)
      assert {:error, %Error{reason: :token_unavailable}} = sign(pool)
      {ms, :ok} = elapsed(fn -> stop_supervised(pool) end)
      assert ms < 20_000
      again = start!(token)
      assert {:error, %Error{reason: :slot_not_found}} = sign(again)
      Process.exit(Pools.server(again), :kill)
      Poll.until(fn -> match?({:error, %Error{reason: :slot_not_found}}, sign(again)) end)
      Chaos.return_token(chaos)
      await_up(again)
      assert {:ok, _signature} = sign(again)
      Poll.until(fn -> recovery_threads() == [] or :others_run end)
      at_rest(again, chaos)
    end
  end

  describe "a module that a look for the token is inside of" do
    test "is finalized behind that, not under it", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token)
      Chaos.remove_token(chaos)
      assert {:error, %Error{reason: :token_unavailable}} = sign(pool)
      Chaos.hang(chaos, :C_GetSlotList)
      Poll.until(fn -> Chaos.hanging(chaos)["C_GetSlotList"] == 1 end)
      stop_supervised!(pool)
      assert Chaos.status(chaos).initialized
      Chaos.release(chaos)
      Poll.until(fn -> not Chaos.status(chaos).initialized end)
    end
  end

  # Of all pools of the VM.
  defp recovery_threads do
    for path <- Path.wildcard("/proc/self/task/*/comm"),
        {:ok, "pkcs11-recovery" <> _rest} <- [File.read(path)],
        do: path
  end

  describe "a token that is away at the start" do
    test "is found by itself", %{token: token, chaos: chaos} do
      Chaos.remove_token(chaos, slot_id: token.slot_id)
      pool = start!(token)
      assert %{state: :down, down: %Error{reason: :slot_not_found}} = Pkcs11Pool.status(pool)
      assert {:error, %Error{reason: :slot_not_found, executed: false}} = sign(pool)
      Chaos.return_token(chaos, slot_id: 78)
      await_up(pool)
      assert {:ok, _bytes} = Pkcs11Pool.generate_random(pool, 8)
      assert Chaos.calls(chaos, :C_Login) == 1
      at_rest(pool, chaos)
    end

    test "fails a strict start", %{token: token, chaos: chaos} do
      Chaos.remove_token(chaos, slot_id: token.slot_id)
      opts = SoftHSM.pool_opts(token, start: :strict)

      assert {:error, {%Error{reason: :slot_not_found}, _child}} =
               start_supervised({Pkcs11Pool, opts})

      Chaos.return_token(chaos)
      assert {:ok, _pid} = start_supervised({Pkcs11Pool, opts})
    end
  end

  describe "a module that is not initialized any more" do
    test "is initialized once, for all pools and tokens, and no call fails of it" do
      real = SoftHSM.new_module!()
      tokens = for _ <- 1..2, do: SoftHSM.new_token!(module: real)
      [%{module_env: env} | _] = tokens
      chaos = Chaos.start!(real, module_env: env, tmp_dir: SoftHSM.dir())
      on_exit(fn -> Chaos.stop(chaos) end)

      [one, two] =
        for token <- tokens, do: Map.merge(token, %{module: chaos.module, chaos: chaos})

      {a, _} = start_ready!(one, pool_size: 4)
      {b, _} = start_ready!(two, pool_size: 2, executor: :threads)
      c = start!(two, pool_size: 2)
      assert {:ok, _signature} = sign(c)
      pools = [a, b, c]
      epochs = for pool <- pools, do: Pkcs11Pool.status(pool).epoch
      Chaos.reset_counts(chaos)

      left = :counters.new(1, [])
      :counters.put(left, 1, 1)

      callers =
        for caller <- 1..32 do
          pool = Enum.at(pools, rem(caller, 3))

          Task.async(fn ->
            fn -> sign(pool) end
            |> Stream.repeatedly()
            |> Stream.map(fn result -> assert {:ok, _signature} = result end)
            |> Enum.find(fn _ -> :counters.get(left, 1) == 0 end)
          end)
        end

      Poll.until(fn -> Chaos.calls(chaos, :C_Sign) > 100 end)
      Chaos.uninitialize(chaos)
      # Each token has been used since.
      Poll.until(fn -> Chaos.calls(chaos, :C_Login) == 2 end)
      :counters.put(left, 1, 0)
      Task.await_many(callers, 30_000)

      assert Chaos.calls(chaos, :C_Initialize) == 1
      assert Chaos.calls(chaos, :C_Login) == 2
      assert Chaos.status(chaos).stale_objects == 0

      for {pool, epoch} <- Enum.zip(pools, epochs) do
        assert %{state: :up, epoch: later} = Pkcs11Pool.status(pool)
        assert later > epoch
        at_rest(pool, chaos)
      end
    end

    test "is initialized again for a call that cannot be tried twice, which gets its error",
         %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token)
      Chaos.uninitialize(chaos)

      assert {:error, %Error{reason: :cryptoki_not_initialized, executed: :unknown}} =
               Pools.key_pair(pool, "other")

      assert {:ok, _signature} = sign(pool)
      assert Chaos.calls(chaos, :C_Initialize) == 1
      at_rest(pool, chaos)
    end

    test "is left alone while a call is stuck in it: the pool is down, says why, and recovers",
         %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 2)
      Chaos.hang(chaos, :C_Sign, nth: 1)
      stuck = Task.async(fn -> sign(pool, "key", operation_timeout: :infinity) end)
      Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
      Chaos.uninitialize(chaos)
      assert {:error, %Error{reason: reason}} = sign(pool, "key", queue_timeout: 10_000)
      assert reason in [:token_unavailable, :cryptoki_not_initialized]
      down = Poll.until(fn -> Pkcs11Pool.status(pool)[:down] end)
      assert down.reason == :token_unavailable
      assert Exception.message(down) =~ "1 calls do not return from"
      assert Chaos.calls(chaos, :C_Finalize) == 0
      assert Chaos.calls(chaos, :C_Initialize) == 0

      Chaos.release(chaos)
      assert {:error, %Error{}} = Task.await(stuck, 20_000)
      await_up(pool)
      assert {:ok, _signature} = sign(pool)
      assert Chaos.calls(chaos, :C_Initialize) == 1
      at_rest(pool, chaos)
    end

    test "is looked into by a call that hangs: the pool is down, who waits is told, and it recovers",
         %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 2)
      Chaos.hang(chaos, :C_GetSlotList)
      Chaos.uninitialize(chaos)
      callers = for _ <- 1..4, do: Task.async(fn -> sign(pool, "key", queue_timeout: 60_000) end)

      for result <- Task.await_many(callers, 20_000),
          do: assert({:error, %Error{reason: :token_unavailable, executed: false}} = result)

      assert %{state: :down} = Pkcs11Pool.status(pool)
      Chaos.clear(chaos, :C_GetSlotList)
      await_up(pool)
      assert {:ok, _signature} = sign(pool)
      assert Chaos.calls(chaos, :C_Initialize) == 1
      at_rest(pool, chaos)
    end

    test "is initialized again for a pool that finds it so when it starts",
         %{token: token, chaos: chaos} do
      {first, _private} = start_ready!(token)
      Chaos.uninitialize(chaos)
      second = start!(token)
      await_up(second)
      assert {:ok, _signature} = sign(second)
      assert {:ok, _signature} = sign(first)
      assert Chaos.calls(chaos, :C_Initialize) == 1
      for pool <- [first, second], do: Pools.drained!(pool)
    end

    test "that another library has initialized is left to that one", %{token: token} do
      # Two chaos modules around one real one: to the second, the first is the other library.
      other = ChaosToken.second_wrapper!(token)
      first = start!(token, pool_size: 1)
      assert {:ok, _bytes} = Pkcs11Pool.generate_random(first, 8)
      {pool, _private} = start_ready!(Map.merge(token, %{module: other.module, chaos: other}))
      Chaos.uninitialize(other)
      assert {:error, %Error{reason: reason}} = sign(pool)
      assert reason in [:token_unavailable, :cryptoki_not_initialized]
      down = Poll.until(fn -> Pkcs11Pool.status(pool)[:down] end)
      assert down.code == 0x190
      # It looks again, and again.
      looks = Chaos.calls(other, :C_GetSlotList)
      Poll.until(fn -> Chaos.calls(other, :C_GetSlotList) > looks + 2 end)
      assert Chaos.calls(other, :C_Initialize) == 0
      assert Chaos.calls(other, :C_Finalize) == 0

      # The other library has done it.
      Chaos.reset(other)
      await_up(pool)
      assert {:ok, _signature} = sign(pool)
      assert Chaos.calls(other, :C_Initialize) == 0
      at_rest(pool, other)
    end

    test "that says of C_Initialize that it failed, and the next time that it was done, is ours to initialize",
         %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token)
      Chaos.fail(chaos, :C_Initialize, :general_error, count: 1, run: true)

      for _round <- 1..2 do
        Chaos.uninitialize(chaos)
        Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end)
      end

      # Failed, done already, and once more for the second time.
      assert Chaos.calls(chaos, :C_Initialize) == 3
      at_rest(pool, chaos)
    end

    test "that says of C_Finalize that it was not initialized, and of C_Initialize that it was, stays ours",
         %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token)
      Chaos.fail(chaos, :C_Finalize, :cryptoki_not_initialized, count: 1)
      Chaos.fail(chaos, :C_SignInit, :cryptoki_not_initialized, count: 1)
      assert {:ok, _signature} = sign(pool)
      assert Chaos.calls(chaos, :C_Finalize) == 1
      Chaos.uninitialize(chaos)
      assert {:ok, _signature} = sign(pool)
      assert Chaos.calls(chaos, :C_Initialize) == 2
      at_rest(pool, chaos)
    end
  end

  describe "the breaker" do
    test "stays closed for what one key or its input does", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 2)
      Chaos.reset_counts(chaos)

      for code <- [:general_error, :function_failed, 0x80000123, 0x7FFFFFFF], _ <- 1..250 do
        Chaos.fail(chaos, :C_Sign, code, count: 1)
        assert {:error, %Error{executed: :unknown} = error} = sign(pool)
        refute error.reason == :token_unavailable
        assert error.function == :C_Sign
      end

      assert {:ok, _signature} = sign(pool)
      assert %{state: :up} = Pkcs11Pool.status(pool)
      assert Chaos.calls(chaos, :C_Sign) == 1001
      assert Chaos.calls(chaos, :C_Login) == 0
      at_rest(pool, chaos)
    end

    test "stays closed for a thousand forged ciphertexts", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 2)

      Pkcs11Pool.generate_key!(pool, :aes_key_gen,
        token: true,
        label: "sealing",
        value_len: 32,
        encrypt: true,
        decrypt: true
      )

      gcm = {:aes_gcm, iv: :crypto.strong_rand_bytes(12), aad: "", tag_bits: 128}
      sealed = Pkcs11Pool.encrypt!(pool, "sealing", gcm, "secret")

      for _ <- 1..1_000 do
        forged = :crypto.exor(sealed, :binary.copy(<<1 + :rand.uniform(254)>>, byte_size(sealed)))

        assert {:error, %Error{reason: :decryption_failed}} =
                 Pkcs11Pool.decrypt(pool, "sealing", gcm, forged)
      end

      assert {:ok, "secret"} = Pkcs11Pool.decrypt(pool, "sealing", gcm, sealed)
      assert %{state: :up} = Pkcs11Pool.status(pool)
      assert Chaos.calls(chaos, :C_Login) == 0
      at_rest(pool, chaos)
    end

    test "opens when session and token fail a probe, and closes when they don't",
         %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 2)

      for probe <- [:C_GetSessionInfo, :C_GetTokenInfo],
          do: Chaos.fail(chaos, probe, :device_error)

      Chaos.fail(chaos, :C_Sign, :general_error)
      assert {:error, %Error{reason: :token_unavailable, code: 5, function: :C_Sign}} = sign(pool)

      assert {:error,
              %Error{reason: :token_unavailable, code: 5, function: :C_Sign, executed: false}} =
               sign(pool)

      Chaos.reset(chaos)
      await_up(pool)
      assert {:ok, _signature} = sign(pool)
      at_rest(pool, chaos)
    end
  end

  describe "dead sessions" do
    test "are replaced, and no call fails of them", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 4)

      for round <- 1..5 do
        Chaos.kill_sessions(chaos)

        for result <-
              Task.await_many(for(_ <- 1..16, do: Task.async(fn -> sign(pool) end)), 20_000),
            do: assert({:ok, _signature} = result)

        # The last session takes the login with it; nobody is asked twice.
        assert Chaos.calls(chaos, :C_Login) == round
      end

      assert Chaos.calls(chaos, :C_Initialize) == 0
      at_rest(pool, chaos)
    end

    test "from the start: C_Logout helps", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 2)
      die_until(chaos, :C_Logout)
      Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end, 20_000)
      assert Chaos.calls(chaos, :C_Logout) >= 1
      assert Chaos.calls(chaos, :C_Initialize) == 0
      at_rest(pool, chaos)
    end

    test "from the start: C_Finalize helps", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 2)
      die_until(chaos, :C_Finalize)
      Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end, 20_000)
      assert Chaos.calls(chaos, :C_Finalize) >= 1
      assert Chaos.calls(chaos, :C_Initialize) >= 1
      at_rest(pool, chaos)
    end

    test "from the start, as the first login finds it", %{token: token, chaos: chaos} do
      pool = start!(token, lazy: true, pool_size: 8)
      die_until(chaos, :C_Finalize)
      Poll.until(fn -> match?({:ok, _}, Pkcs11Pool.generate_random(pool, 8)) end)
      assert Chaos.calls(chaos, :C_Logout) >= 1
      assert Chaos.calls(chaos, :C_Finalize) >= 1
      assert Chaos.pin_tries(chaos) == 3
      at_rest(pool, chaos)
    end

    test "for a login only is tried once more", %{token: token, chaos: chaos} do
      pool = start!(token, lazy: true, pool_size: 8)
      Chaos.fail(chaos, :C_Login, :session_handle_invalid)

      assert {:error, %Error{reason: :session_handle_invalid, function: :C_Login}} =
               Pkcs11Pool.generate_random(pool, 8)

      assert Chaos.calls(chaos, :C_Login) == 2
      Chaos.clear(chaos, :C_Login)
      assert {:ok, _random} = Pkcs11Pool.generate_random(pool, 8)
      at_rest(pool, chaos)
    end

    @first_calls [:C_SignInit, :C_FindObjectsInit, :C_GetSessionInfo, :C_Login, :C_GenerateRandom]

    # Every session is dead until the application calls this function.
    defp die_until(chaos, cure) do
      for function <- @first_calls, do: Chaos.fail(chaos, function, :session_handle_invalid)
      Chaos.hang(chaos, cure, nth: 1)

      spawn_link(fn ->
        Poll.until(fn -> Chaos.hanging(chaos) != %{} end, 20_000)
        for function <- @first_calls, do: Chaos.clear(chaos, function)
        Chaos.release(chaos, function: cure)
      end)
    end
  end

  describe "device trouble" do
    test "that passes is a pause: two attempts, and success", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 1)

      for function <- [:C_SignInit, :C_Sign] do
        Chaos.reset_counts(chaos)
        Chaos.fail(chaos, function, :device_error, count: 1)
        assert {:ok, _signature} = sign(pool)
        assert Chaos.calls(chaos, function) == 2
      end

      assert Chaos.calls(chaos, :C_Login) == 0
      at_rest(pool, chaos)
    end

    test "holds no session meanwhile", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 1)
      Chaos.fail(chaos, :C_Sign, :device_error, count: 1)
      signer = Task.async(fn -> elapsed(fn -> sign(pool) end) end)
      Poll.until(fn -> Chaos.calls(chaos, :C_Sign) == 1 end)
      assert {:ok, _bytes} = Pkcs11Pool.generate_random(pool, 8)
      assert {ms, {:ok, _signature}} = Task.await(signer, 60_000)
      assert ms >= 20
      at_rest(pool, chaos)
    end

    test "that stays is the error, after two attempts", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token)
      Chaos.fail(chaos, :C_Sign, :device_error)
      assert {:error, %Error{reason: :device_error, executed: :unknown}} = sign(pool)
      assert Chaos.calls(chaos, :C_Sign) == 2
      at_rest(pool, chaos)
    end

    test "is not tried again where it may have run", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token)
      Chaos.fail(chaos, :C_GenerateKeyPair, :device_error)

      assert {:error, %Error{reason: :device_error, executed: :unknown}} =
               Pools.key_pair(pool, "other")

      assert Chaos.calls(chaos, :C_GenerateKeyPair) == 1

      [object] = Pkcs11Pool.find_objects!(pool, label: "key", class: :public_key)
      Chaos.fail(chaos, :C_DestroyObject, :device_error)

      assert {:error, %Error{reason: :device_error, executed: :unknown}} =
               Pkcs11Pool.destroy_object(pool, object)

      assert Chaos.calls(chaos, :C_DestroyObject) == 1
      at_rest(pool, chaos)
    end

    test "does not outlast the caller's deadline", %{token: token, chaos: chaos} do
      {pool, _private} = start_ready!(token, pool_size: 1)
      Chaos.fail(chaos, :C_Sign, :device_error)
      Chaos.latency(chaos, :C_Sign, 300)

      {ms, result} = elapsed(fn -> sign(pool, "key", operation_timeout: 310) end)
      assert {:error, %Error{reason: :operation_timeout, executed: :unknown}} = result
      assert ms < 20_000
      Chaos.reset(chaos)
      at_rest(pool, chaos)
    end

    test "when a session opens is a pause, too", %{token: token, chaos: chaos} do
      pool = start!(token, lazy: true, pool_size: 1)
      Chaos.fail(chaos, :C_OpenSession, :device_error, count: 1)
      assert {:ok, _bytes} = Pkcs11Pool.generate_random(pool, 8)
      assert Chaos.calls(chaos, :C_OpenSession) == 2
      at_rest(pool, chaos)
    end
  end

  describe "when a session opens" do
    test "a token that is away brings the pool down", %{token: token, chaos: chaos} do
      pool = start!(token, lazy: true, pool_size: 1)
      Chaos.remove_token(chaos)

      assert {:error,
              %Error{reason: :token_unavailable, function: :C_OpenSession, executed: false}} =
               Pkcs11Pool.generate_random(pool, 8)

      Chaos.return_token(chaos)
      await_up(pool)
      at_rest(pool, chaos)
    end

    test "a module that is not initialized is initialized", %{token: token, chaos: chaos} do
      pool = start!(token, lazy: true, pool_size: 1)
      Chaos.uninitialize(chaos)
      assert {:ok, _bytes} = Pkcs11Pool.generate_random(pool, 8)
      assert Chaos.calls(chaos, :C_Initialize) == 2
      at_rest(pool, chaos)
    end
  end

  describe "at a login" do
    test "a module that is not initialized is initialized, and the PIN tried once",
         %{token: token, chaos: chaos} do
      source = ChaosToken.source!(token.pin)
      pool = start!(token, lazy: true, pin: ChaosToken.pin(source))
      ChaosToken.give(source, fn -> Chaos.uninitialize(chaos) && token.pin end)
      assert {:ok, _bytes} = Pkcs11Pool.generate_random(pool, 8)
      assert Chaos.calls(chaos, :C_Login) <= 2
      assert Chaos.pin_tries(chaos) == 3
      at_rest(pool, chaos)
    end

    test "no PIN is tried on a token that is away", %{token: token, chaos: chaos} do
      source = ChaosToken.source!(token.pin)
      pool = start!(token, lazy: true, pin: ChaosToken.pin(source))
      ChaosToken.give(source, fn -> Chaos.remove_token(chaos) && token.pin end)
      assert {:error, %Error{reason: :token_unavailable}} = Pkcs11Pool.generate_random(pool, 8)
      assert Chaos.calls(chaos, :C_Login) == 0
      ChaosToken.give(source, token.pin)
      Chaos.return_token(chaos)
      await_up(pool)
      assert Chaos.calls(chaos, :C_Login) == 1
      at_rest(pool, chaos)
    end
  end
end
