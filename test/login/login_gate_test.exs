defmodule Pkcs11Pool.LoginGateTest do
  # One login for all sessions and pools of a token, and no PIN tried twice: against a module that counts calls and wrong PINs.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    source = ChaosToken.source!(token.pin)
    %{token: token, chaos: token.chaos, source: source}
  end

  defp start(token, source, opts \\ []) do
    name = :"pool-#{System.unique_integer([:positive])}"
    opts = Keyword.merge([name: name, pin: ChaosToken.pin(source)], opts)
    opts = SoftHSM.pool_opts(token, opts)
    start_supervised!({Pkcs11Pool, opts}, id: name)
    name
  end

  defp random(pool, opts \\ []), do: Pkcs11Pool.generate_random(pool, 8, opts)
  defp logins(chaos), do: Chaos.calls(chaos, :C_Login)
  defp tries(chaos), do: Chaos.pin_tries(chaos)

  test "await_ready waits for it where nothing else may wait", %{chaos: chaos} = context do
    Chaos.latency(chaos, :C_Login, 200)
    pool = start(context.token, context.source, max_waiting: 0)
    # The pool's own first operation waits for the login.
    Poll.until(fn -> Chaos.inside(chaos)["C_Login"] == 1 end)
    assert Pkcs11Pool.await_ready(pool, 30_000) == :ok

    Chaos.hang(chaos, :C_GenerateRandom)
    held = for _ <- 1..4, do: Task.async(fn -> random(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 4 end)
    assert {:error, %Error{reason: :overloaded}} = Pkcs11Pool.await_ready(pool, 50)
    Chaos.release(chaos)
    assert [{:ok, _}, {:ok, _}, {:ok, _}, {:ok, _}] = Task.await_many(held, 60_000)
  end

  describe "one login" do
    test "serves a pool of 16 sessions that open at once",
         %{token: token, chaos: chaos} = context do
      Chaos.latency(chaos, :C_Login, 50)
      pool = start(token, context.source, pool_size: 16, executor: :threads)
      Chaos.latency(chaos, :C_GenerateRandom, 50)

      for result <-
            Task.await_many(for(_ <- 1..16, do: Task.async(fn -> random(pool) end)), 60_000),
          do: assert({:ok, <<_::64>>} = result)

      assert Chaos.calls(chaos, :C_OpenSession) > 8
      assert logins(chaos) == 1
      assert ChaosToken.asked(context.source) == 1
    end

    for seed <- 1..3 do
      test "serves a hundred callers that find the token logged out (#{seed})",
           %{token: token, chaos: chaos} = context do
        :rand.seed(:exsss, unquote(seed))
        pool = start(token, context.source, pool_size: 4, queue_timeout: 20_000)
        :ok = Pkcs11Pool.await_ready(pool, 30_000)
        {:ok, _pair} = generate(pool)
        assert {:ok, _signature} = sign(pool)
        Chaos.logout(chaos)
        Chaos.reset_counts(chaos)
        Chaos.latency(chaos, :C_Login, :rand.uniform(40))

        results =
          1..100
          |> Enum.map(fn _ -> Task.async(fn -> sign(pool) end) end)
          |> Task.await_many(30_000)

        for result <- results, do: assert({:ok, _signature} = result)
        assert logins(chaos) == 1
        assert Chaos.violations(chaos) == []
      end
    end

    test "serves all pools of the token that have its user and PIN",
         %{token: token, chaos: chaos} = context do
      one = start(token, context.source)
      assert {:ok, _} = random(one)
      other_source = ChaosToken.source!(token.pin)
      two = start(token, other_source)
      assert {:ok, _} = random(two)
      assert {:ok, _} = random(two)
      # Another source had to say whether it has the same PIN, once.
      assert ChaosToken.asked(other_source) == 1
      assert logins(chaos) == 1
      assert %{login: :logged_in} = Pkcs11Pool.status(two)

      # The login outlives the pool that made it, and ends with the last one.
      stop_supervised!(one)
      assert {:ok, _} = random(two)
      assert logins(chaos) == 1
      stop_supervised!(two)
      Poll.until(fn -> Chaos.calls(chaos, :C_Logout) == 1 end)
    end

    test "outlives the sessions that the pools close", %{token: token, chaos: chaos} = context do
      pool = start(token, context.source, pool_size: 4, idle_ttl: 50)
      {:ok, _pair} = generate(pool)

      for _ <- 1..5 do
        Task.await_many(for(_ <- 1..8, do: Task.async(fn -> random(pool) end)), 60_000)
        Poll.until(fn -> Pkcs11Pool.status(pool).idle == 1 end)
      end

      assert {:ok, _signature} = sign(pool)
      assert logins(chaos) == 1
      assert Chaos.calls(chaos, :C_Logout) == 0
    end
  end

  describe "sessions that the token has forgotten" do
    test "do not make a login fail", %{token: token, chaos: chaos} = context do
      pool = start(token, context.source, pool_size: 4, executor: :threads)
      Chaos.latency(chaos, :C_GenerateRandom, 50)
      Task.await_many(for(_ <- 1..4, do: Task.async(fn -> random(pool) end)), 60_000)
      assert %{idle: 4} = Pkcs11Pool.status(pool)
      Chaos.kill_sessions(chaos)
      # It logs in by itself, whatever it finds first.
      assert :ok = Pkcs11Pool.logout(pool)
      assert :ok = Pkcs11Pool.login(pool, fn -> token.pin end)
      assert {:ok, _} = random(pool)
    end
  end

  describe "another credential" do
    test "is in conflict, disturbs nobody, and is not tried",
         %{token: token, chaos: chaos} = context do
      one = start(token, context.source)
      assert {:ok, _} = random(one)
      wrong = ChaosToken.source!("999999")
      two = start(token, wrong, lazy: true)

      for _ <- 1..5, do: assert({:error, %Error{reason: :login_conflict}} = random(two))
      assert %{login: :conflict} = Pkcs11Pool.status(two)
      assert {:ok, _} = random(one)
      assert ChaosToken.asked(wrong) == 1
      assert {logins(chaos), tries(chaos), Chaos.calls(chaos, :C_Logout)} == {1, 3, 0}
    end

    test "logs in when the other one has gone", %{token: token, chaos: chaos} = context do
      one = start(token, context.source)
      assert {:ok, _} = random(one)
      officer = ChaosToken.source!(token.so_pin)
      two = start(token, officer, user: :so, lazy: true)
      assert {:error, %Error{reason: :login_conflict}} = random(two)
      stop_supervised!(one)
      Poll.until(fn -> match?({:ok, _}, random(two)) end)
      assert logins(chaos) == 2
    end

    test "that somebody else in the VM uses is in conflict, too",
         %{token: token, chaos: chaos} = context do
      Chaos.fail(chaos, :C_Login, :user_another_already_logged_in)
      pool = start(token, context.source, lazy: true)
      assert {:error, %Error{reason: :login_conflict, function: :C_Login}} = random(pool)
      Chaos.clear(chaos, :C_Login)
      assert {:ok, _} = random(pool)
    end

    test "of a source that fails says so, and is asked again by the next call",
         %{token: token} = context do
      one = start(token, context.source)
      assert {:ok, _} = random(one)
      source = ChaosToken.source!({:error, :vault_sealed})
      two = start(token, source, lazy: true)
      assert {:error, %Error{reason: :pin_source_failed}} = random(two)
      ChaosToken.give(source, token.pin)
      assert {:ok, _} = random(two)
    end
  end

  describe "a refused PIN" do
    test "is tried once, whoever asks", %{token: token, chaos: chaos} = context do
      ChaosToken.give(context.source, "999999")
      pool = start(token, context.source, lazy: true, pool_size: 4)

      results =
        1..50
        |> Enum.map(fn _ -> Task.async(fn -> random(pool) end) end)
        |> Task.await_many(10_000)

      for result <- results do
        assert {:error,
                %Error{reason: :pin_incorrect, details: %{poisoned: true}, executed: false}} =
                 result
      end

      other = start(token, ChaosToken.source!("999999"), lazy: true)
      assert {:error, %Error{reason: :pin_incorrect}} = random(other)
      assert %{login: :poisoned} = Pkcs11Pool.status(pool)
      assert {logins(chaos), tries(chaos), ChaosToken.asked(context.source)} == {1, 2, 1}
    end

    test "is not tried again by a pool that is started anew",
         %{token: token, chaos: chaos} = context do
      ChaosToken.give(context.source, "999999")

      for _ <- 1..5 do
        pool = start(token, context.source)
        assert {:error, %Error{reason: :pin_incorrect}} = random(pool)
        stop_supervised!(pool)
      end

      assert {logins(chaos), tries(chaos), ChaosToken.asked(context.source)} == {1, 2, 1}
    end

    test "leaves room for an explicit login with the right one",
         %{token: token, chaos: chaos} = context do
      ChaosToken.give(context.source, "999999")
      pool = start(token, context.source, lazy: true)
      assert {:error, %Error{reason: :pin_incorrect}} = random(pool)
      assert :ok = Pkcs11Pool.login(pool, fn -> token.pin end)
      assert {:ok, _} = random(pool)
      assert tries(chaos) == 3

      # The pool's own source still gives the old one: it is known.
      Chaos.logout(chaos)
      :ok = generate_error(pool)
      assert {:error, %Error{reason: :pin_incorrect}} = random(pool)
      assert {logins(chaos), tries(chaos)} == {2, 3}
    end
  end

  describe "a PIN source" do
    for {name, answer} <- [
          raises: quote(do: fn -> raise "the PIN is 4711" end),
          "throws what it knows": quote(do: fn -> throw({:pin, "4711"}) end),
          "exits normally": quote(do: fn -> exit(:normal) end),
          "returns rubbish": quote(do: {:pin, "4711"}),
          "returns nothing": "",
          hangs: quote(do: fn -> Process.sleep(:infinity) end),
          "is killed": quote(do: fn -> Process.exit(self(), :kill) end)
        ] do
      test "that #{name} poisons nothing, and its text is not shown", %{token: token} = context do
        ChaosToken.give(context.source, unquote(answer))
        pool = start(token, context.source, lazy: true, pin_timeout: 200)
        assert {:error, %Error{reason: :pin_source_failed} = error} = random(pool)
        refute inspect(error) =~ "4711"
        refute Exception.message(error) =~ "4711"
        ChaosToken.give(context.source, token.pin)
        assert {:ok, _} = random(pool)
        assert logins(context.chaos) == 1
      end
    end

    test "that calls its own pool fails by itself", %{token: token} = context do
      pool = :"own-#{System.unique_integer([:positive])}"
      ChaosToken.give(context.source, fn -> Pkcs11Pool.generate_random!(pool, 8) end)

      opts = [name: pool, pin: ChaosToken.pin(context.source), pin_timeout: 300, lazy: true]
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)})
      assert {:error, %Error{reason: :pin_source_failed}} = random(pool)
      ChaosToken.give(context.source, token.pin)
      Poll.until(fn -> match?({:ok, _}, random(pool)) end)
    end

    test "that takes long holds nobody up who needs no login", %{token: token} = context do
      test = self()

      ChaosToken.give(context.source, fn ->
        send(test, {:asked, self()})
        receive do: (:go -> token.pin)
      end)

      waits = start(token, context.source, lazy: true, pool_size: 2)
      free = start(token, context.source, lazy: true, pin: nil)
      task = Task.async(fn -> random(waits) end)
      assert_receive {:asked, asker}
      assert {:ok, _} = random(free)
      assert %{login: :in_progress} = Pkcs11Pool.status(waits)
      send(asker, :go)
      assert {:ok, _} = Task.await(task, 60_000)
    end
  end

  describe "a token whose PIN is nearly or quite locked" do
    test "is left alone, except by force", %{token: token, chaos: chaos} = context do
      Chaos.token_flags(chaos, set: [:user_pin_final_try])
      pool = start(token, context.source, lazy: true)
      assert {:error, %Error{reason: :pin_final_try, message: message}} = random(pool)
      assert message =~ "force: true"

      assert {:error, %Error{reason: :pin_final_try}} =
               Pkcs11Pool.login(pool, fn -> token.pin end)

      assert logins(chaos) == 0
      assert :ok = Pkcs11Pool.login(pool, fn -> token.pin end, force: true)
      assert {:ok, _} = random(pool)
      assert logins(chaos) == 1
    end

    test "is never locked by what is wrong", %{token: token, chaos: chaos} = context do
      ChaosToken.give(context.source, "999999")
      pool = start(token, context.source, lazy: true)
      assert {:error, %Error{reason: :pin_incorrect}} = random(pool)
      assert {:error, %Error{reason: :pin_incorrect}} = Pkcs11Pool.login(pool, fn -> "888888" end)
      assert tries(chaos) == 1

      for pin <- ["777777", token.pin],
          do:
            assert(
              {:error, %Error{reason: :pin_final_try}} = Pkcs11Pool.login(pool, fn -> pin end)
            )

      assert {logins(chaos), tries(chaos)} == {2, 1}
      assert :ok = Pkcs11Pool.login(pool, fn -> token.pin end, force: true)
      assert tries(chaos) == 3
    end
  end

  defp generate(pool) do
    Pkcs11Pool.generate_key_pair(
      pool,
      :ec_key_pair_gen,
      [token: true, label: "ec", ec_params: :secp256r1, verify: true],
      token: true,
      label: "ec",
      private: true,
      sensitive: true,
      sign: true
    )
  end

  # Notices that the token has logged out.
  defp generate_error(pool) do
    assert {:error, %Error{reason: :user_not_logged_in}} = generate(pool)
    :ok
  end

  defp sign(pool), do: Pkcs11Pool.sign(pool, "ec", :ecdsa, :crypto.hash(:sha256, "data"))
end
