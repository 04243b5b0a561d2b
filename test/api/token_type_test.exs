defmodule Pkcs11Pool.TokenTypeTest do
  # Pools of type :token and :cloud_hsm, login/3 and logout/2.
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

  defp start(%{token: token, source: source}, opts) do
    name = :"pool-#{System.unique_integer([:positive])}"
    opts = Keyword.merge([name: name, pin: ChaosToken.pin(source)], opts)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)}, id: name)
    name
  end

  defp random(pool, opts \\ []), do: Pkcs11Pool.generate_random(pool, 8, opts)
  defp logins(chaos), do: Chaos.calls(chaos, :C_Login)
  defp logouts(chaos), do: Chaos.calls(chaos, :C_Logout)

  describe "a :token pool" do
    test "opens nothing and asks for no PIN before its first operation",
         %{chaos: chaos} = context do
      pool = start(context, type: :token)
      assert %{login: :logged_out, size: 1} = Pkcs11Pool.status(pool)
      assert ChaosToken.asked(context.source) == 0
      assert Chaos.calls(chaos, :C_OpenSession) == 0
      assert {:ok, _} = random(pool)
      assert {logins(chaos), Chaos.calls(chaos, :C_OpenSession)} == {1, 1}
    end

    test "logs out after :inactivity_timeout, and asks its source again",
         %{chaos: chaos} = context do
      pool = start(context, type: :token, inactivity_timeout: 100)

      for round <- 1..3 do
        assert {:ok, _} = random(pool)
        Poll.until(fn -> Pkcs11Pool.status(pool).login == :logged_out end)
        assert {logins(chaos), logouts(chaos)} == {round, round}
        assert ChaosToken.asked(context.source) == round
      end
    end

    test "stays logged in while it is used", %{chaos: chaos} = context do
      pool = start(context, type: :token, inactivity_timeout: 400)
      now = fn -> System.monotonic_time(:millisecond) end
      # A machine that is busy elsewhere may let it lie for so long: then once more.
      busy? = fn busy?, used, uses ->
        assert {:ok, _} = random(pool)
        Process.sleep(20)
        if now.() - used < 200, do: uses == 60 or busy?.(busy?, now.(), uses + 1)
      end

      Poll.until(fn ->
        assert {:ok, _} = random(pool)
        before = {logins(chaos), logouts(chaos)}
        if busy?.(busy?, now.(), 0), do: assert({logins(chaos), logouts(chaos)} == before)
      end)
    end

    test "is not logged out within a with_session block", %{chaos: chaos} = context do
      pool = start(context, type: :token, inactivity_timeout: 50)

      Pkcs11Pool.with_session(pool, fn ->
        Process.sleep(300)
        assert {:ok, _} = random(pool)
        assert logouts(chaos) == 0
      end)

      Poll.until(fn -> logouts(chaos) == 1 end)
    end

    test "with reauthentication: :fail waits for login/3", %{chaos: chaos} = context do
      pool = start(context, type: :token, inactivity_timeout: 100, reauthentication: :fail)
      assert {:ok, _} = random(pool)
      Poll.until(fn -> logouts(chaos) == 1 end)

      for _ <- 1..3,
          do: assert({:error, %Error{reason: :reauthentication_required}} = random(pool))

      assert logins(chaos) == 1
      assert :ok = Pkcs11Pool.login(pool, fn -> context.token.pin end)
      assert {:ok, _} = random(pool)
      assert {logins(chaos), ChaosToken.asked(context.source)} == {2, 1}
    end

    test "does not keep a retained PIN over a logout", %{chaos: chaos} = context do
      pool = start(context, type: :token, pin_retention: :until_logout)
      assert {:ok, _} = random(pool)
      # The module loses the login: the retained PIN does.
      Chaos.kill_sessions(chaos)
      Poll.until(fn -> match?({:ok, _}, random(pool)) end)
      assert ChaosToken.asked(context.source) == 1
      assert :ok = Pkcs11Pool.logout(pool)
      assert {:ok, _} = random(pool)
      assert ChaosToken.asked(context.source) == 2
    end

    test "has its token for itself", context do
      pool = start(context, type: :token)
      opts = SoftHSM.pool_opts(context.token, name: :other)
      Process.flag(:trap_exit, true)
      assert {:error, %Error{reason: :slot_in_use}} = Pkcs11Pool.start_link(opts)
      assert {:ok, _} = random(pool)
    end
  end

  describe "a pool with a PIN pad" do
    test "logs in with a NULL PIN, and asks no source", %{chaos: chaos} = context do
      # SoftHSM has no PIN pad: what matters is what it is asked.
      pool =
        start(context, type: :token, pin: nil, protected_authentication_path: true, lazy: true)

      assert {:error, %Error{function: :C_Login}} = random(pool)
      assert logins(chaos) == 1
      assert {:error, %Error{function: :C_Login}} = Pkcs11Pool.login(pool, nil)
      assert ChaosToken.asked(context.source) == 0
    end
  end

  describe "a :cloud_hsm pool" do
    test "never logs in", %{chaos: chaos} = context do
      pool = start(context, type: :cloud_hsm, pin: nil)
      assert {:ok, _} = random(pool)

      assert {:error, %Error{reason: :login_unsupported}} =
               Pkcs11Pool.login(pool, fn -> "1234" end)

      assert Pkcs11Pool.logout(pool) == :ok
      assert logins(chaos) == 0
      assert %{login: :none} = Pkcs11Pool.status(pool)
    end

    test "refuses a :pin", context do
      assert_raise ArgumentError, ~r/a pool of type :cloud_hsm never logs in/, fn ->
        Pkcs11Pool.start_link(SoftHSM.pool_opts(context.token, type: :cloud_hsm))
      end
    end
  end

  describe "login/3" do
    test "with the PIN that is logged in is :ok, with another one a conflict",
         %{chaos: chaos} = context do
      pool = start(context, [])
      assert {:ok, _} = random(pool)
      assert :ok = Pkcs11Pool.login(pool, fn -> context.token.pin end)

      assert {:error, %Error{reason: :login_conflict}} =
               Pkcs11Pool.login(pool, fn -> "999999" end)

      assert {:ok, _} = random(pool)
      assert logins(chaos) == 1
    end

    test "serves a pool without a PIN", %{chaos: chaos} = context do
      pool = start(context, pin: nil, idle_ttl: 50)
      assert {:error, %Error{reason: :pin_required}} = generate(pool)
      assert :ok = Pkcs11Pool.login!(pool, fn -> context.token.pin end)
      assert {:ok, _} = generate(pool)
      assert %{login: :logged_in} = Pkcs11Pool.status(pool)
      # Its last session is kept, and with it the login.
      Poll.until(fn -> Pkcs11Pool.status(pool).idle == 1 end)
      assert {:ok, _} = generate(pool)
      Chaos.logout(chaos)
      assert {:error, %Error{reason: :pin_required}} = generate(pool)
    end

    test "says what is wrong with its source, and never shows it", context do
      pool = start(context, lazy: true)

      error = assert_raise ArgumentError, fn -> Pkcs11Pool.login(pool, "4711") end
      refute error.message =~ "4711"
      assert_raise ArgumentError, fn -> Pkcs11Pool.login(pool, nil) end

      assert {:error, %Error{reason: :pin_source_failed} = error} =
               Pkcs11Pool.login(pool, fn -> raise "it is 4711" end)

      refute inspect(error) =~ "4711"
      assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.login(:nobody, fn -> "1" end)
      assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.logout(:nobody)
    end

    test "waits for an attempt in progress", %{chaos: chaos} = context do
      Chaos.latency(chaos, :C_Login, 200)
      pool = start(context, lazy: true)
      tasks = [Task.async(fn -> random(pool) end)]
      Poll.until(fn -> Pkcs11Pool.status(pool).login == :in_progress end)
      assert :ok = Pkcs11Pool.login(pool, fn -> context.token.pin end)
      assert [{:ok, _}] = Task.await_many(tasks, 60_000)
      assert logins(chaos) == 1
    end
  end

  describe "logout/2" do
    test "lets what runs end, and what waits log in again", %{chaos: chaos} = context do
      pool = start(context, pool_size: 2, executor: :threads)
      :ok = Pkcs11Pool.await_ready(pool, 30_000)
      assert {:ok, _} = generate(pool)
      assert {:ok, _} = sign(pool)
      Chaos.latency(chaos, :C_Sign, 100)
      signers = for _ <- 1..6, do: Task.async(fn -> sign(pool) end)
      Poll.until(fn -> Chaos.inside(chaos)["C_Sign"] == 2 end)
      assert :ok = Pkcs11Pool.logout(pool)
      for result <- Task.await_many(signers, 60_000), do: assert({:ok, _} = result)
      assert {logins(chaos), logouts(chaos)} == {2, 1}
      assert Chaos.violations(chaos) == []
    end

    test "of what nobody is logged in to is :ok", %{chaos: chaos} = context do
      pool = start(context, lazy: true)
      assert :ok = Pkcs11Pool.logout(pool)
      assert :ok = Pkcs11Pool.logout!(pool)
      assert logouts(chaos) == 0
    end

    test "where others share the login wants force", %{chaos: chaos} = context do
      [one, two] = for _ <- 1..2, do: start(context, [])
      for pool <- [one, two], do: assert({:ok, _} = random(pool))

      assert {:error, %Error{reason: :login_shared, details: %{pools: 1, leases: 0}}} =
               Pkcs11Pool.logout(one)

      assert logouts(chaos) == 0
      assert :ok = Pkcs11Pool.logout(one, force: true)
      assert logouts(chaos) == 1
      for pool <- [one, two], do: assert({:ok, _} = random(pool))
      stop_supervised!(two)
      Poll.until(fn -> Pkcs11Pool.logout(one) == :ok end)
    end

    test "under a with_session block wants force", context do
      pool = start(context, pool_size: 2)

      Pkcs11Pool.with_session(pool, fn ->
        task = Task.async(fn -> Pkcs11Pool.logout(pool) end)

        assert {:error, %Error{reason: :login_shared, details: %{leases: 1}}} =
                 Task.await(task, 60_000)

        assert {:ok, _} = random(pool)
        task = Task.async(fn -> Pkcs11Pool.logout(pool, force: true) end)
        assert :ok = Task.await(task, 60_000)
        assert {:error, %Error{reason: :user_not_logged_in}} = random(pool)
      end)

      assert {:ok, _} = random(pool)
    end

    test "that gives up leaves the pool as it was", %{chaos: chaos} = context do
      pool = start(context, pool_size: 2, executor: :threads)
      :ok = Pkcs11Pool.await_ready(pool, 30_000)
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      task = Task.async(fn -> random(pool, operation_timeout: 20_000) end)
      Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)

      assert {:error, %Error{reason: :queue_timeout}} =
               Pkcs11Pool.logout(pool, queue_timeout: 100)

      assert {:ok, _} = random(pool)
      Chaos.release(chaos)
      assert {:ok, _} = Task.await(task, 60_000)
      assert logouts(chaos) == 0
    end

    test "whose caller is killed leaves the pool as it was", %{chaos: chaos} = context do
      pool = start(context, pool_size: 2, executor: :threads, idle_ttl: 200)
      :ok = Pkcs11Pool.await_ready(pool, 30_000)
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      task = Task.async(fn -> random(pool, operation_timeout: 20_000) end)
      Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
      caller = spawn(fn -> Pkcs11Pool.logout(pool, queue_timeout: :infinity) end)
      Process.sleep(50)
      Process.exit(caller, :kill)
      assert {:ok, _} = random(pool)
      Chaos.release(chaos)
      assert {:ok, _} = Task.await(task, 60_000)
      assert logouts(chaos) == 0
    end
  end

  defp generate(pool) do
    Pkcs11Pool.generate_key_pair(
      pool,
      :ec_key_pair_gen,
      [token: true, label: "ec", id: "1", ec_params: :secp256r1, verify: true],
      token: true,
      label: "ec",
      id: "#{System.unique_integer()}",
      private: true,
      sensitive: true,
      sign: true
    )
  end

  defp sign(pool), do: Pkcs11Pool.sign(pool, "ec", :ecdsa, :crypto.hash(:sha256, "data"))
end
