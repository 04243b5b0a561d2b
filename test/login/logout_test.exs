defmodule Pkcs11Pool.LogoutTest do
  # A logout waits for what runs, and holds everybody back for so long: not a moment longer, however what it waits for ends.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  defp start(token, opts) do
    name = :"logout-#{System.unique_integer([:positive])}"
    opts = SoftHSM.pool_opts(token, Keyword.merge([name: name, shutdown_timeout: 500], opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    on_exit(fn -> Chaos.release(token.chaos) end)
    unless opts[:lazy], do: :ok = Pkcs11Pool.await_ready(name, 30_000)
    name
  end

  defp random(pool, opts \\ []), do: Pkcs11Pool.generate_random(pool, 8, opts)

  # One that waits, however long it takes.
  defp logout(pool), do: Task.async(fn -> Pkcs11Pool.logout(pool, queue_timeout: :infinity) end)

  defp await_held_back(pool) do
    held_back? = &match?({:error, %Error{reason: :queue_timeout}}, &1)
    Poll.until(fn -> held_back?.(random(pool, queue_timeout: 50)) end)
  end

  defp goes_on(pool, logout) do
    assert {:ok, _} = random(pool)
    assert :ok = Task.await(logout, 60_000)
    assert Pools.drained!(pool).leased == 0
  end

  test "that waits for a call that hangs goes on when that is quarantined",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 2, executor: :threads)
    Chaos.hang(chaos, :C_GenerateRandom, count: 1)
    hung = Task.async(fn -> random(pool, operation_timeout: 1_000) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
    logout = logout(pool)
    await_held_back(pool)
    assert {:error, %Error{reason: :operation_timeout}} = Task.await(hung, 60_000)
    assert {:ok, _} = random(pool)
    assert :ok = Task.await(logout, 60_000)
    Chaos.release(chaos)
    Pools.drained!(pool)
  end

  test "that waits for an operation whose caller dies before its runner comes in goes on",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 2, executor: :dirty_io)
    # Both sessions are open.
    Chaos.hang(chaos, :C_GenerateRandom, count: 2)
    both = for _ <- 1..2, do: Task.async(fn -> random(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 2 end)
    Chaos.release(chaos)
    for result <- Task.await_many(both, 60_000), do: assert({:ok, _} = result)
    Pools.drained!(pool)
    Pools.full_strength!(pool)

    # One that was too many may be on its way out.
    runners =
      Poll.until(fn ->
        runners = Pools.runners(pool)
        if length(runners) == 2 and Enum.all?(runners, &Process.alive?/1), do: runners
      end)

    for runner <- runners, do: :sys.suspend(runner)
    caller = spawn(fn -> random(pool) end)
    Poll.until(fn -> Pkcs11Pool.status(pool).running == 1 end)
    called? = &match?({:message_queue_len, 1}, Process.info(&1, :message_queue_len))
    {[called], [other]} = Enum.split_with(runners, called?)
    logout = logout(pool)
    # It waits for the operation.
    Poll.until(fn -> Pkcs11Pool.status(pool).waiting == 1 end)
    :sys.resume(other)
    Process.exit(caller, :kill)
    :sys.resume(called)
    goes_on(pool, logout)
  end

  test "that waits for another is answered when that has ended", %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 2, executor: :threads)
    Pools.drained!(pool)
    Chaos.hang(chaos, :C_Logout, count: 1)
    one = logout(pool)
    Poll.until(fn -> Chaos.hanging(chaos)["C_Logout"] == 1 end)
    two = logout(pool)
    Poll.until(fn -> Pkcs11Pool.status(pool).waiting == 1 end)

    Chaos.release(chaos)
    assert :ok = Task.await(one, 60_000)
    assert :ok = Task.await(two, 60_000)
    goes_on(pool, logout(pool))
  end

  test "that waits, and then finds no session, holds nobody back",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 2, executor: :threads)
    Chaos.hang(chaos, :C_GenerateRandom, count: 1)
    task = Task.async(fn -> random(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
    logout = logout(pool)
    await_held_back(pool)

    Chaos.kill_sessions(chaos)
    Chaos.fail(chaos, :C_OpenSession, :function_failed)
    Chaos.release(chaos)
    assert {:error, %Error{reason: :function_failed}} = Task.await(logout, 60_000)
    Chaos.clear(chaos, :C_OpenSession)
    _any = Task.await(task, 60_000)
    assert {:ok, _} = random(pool)
    Pools.drained!(pool)
  end

  test "that others share is refused at once, whatever runs", %{token: token, chaos: chaos} do
    one = start(token, pool_size: 1, executor: :dirty_io)
    other = start(token, lazy: true)
    assert {:ok, _} = random(other)
    Chaos.hang(chaos, :C_GenerateRandom, count: 1)
    task = Task.async(fn -> random(one) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
    assert {:error, %Error{reason: :login_shared}} = Task.await(logout(one), 60_000)
    assert {:ok, _} = random(other)
    Chaos.release(chaos)
    assert {:ok, _} = Task.await(task, 60_000)
    for pool <- [one, other], do: Pools.drained!(pool)
  end

  for what <- [:login, :logout] do
    test "or a #{what} that is given up while it waits for a session holds nobody back",
         %{token: token, chaos: chaos} do
      pin = token.pin
      # Its only session is in a call that hangs.
      one = start(token, pool_size: 1, pin: nil, executor: :dirty_io, operation_timeout: 500)
      other = start(token, lazy: true)
      Chaos.hang(chaos, :C_GenerateRandom, count: 1)
      assert {:error, %Error{reason: :operation_timeout}} = random(one)

      given_up =
        case unquote(what) do
          :login -> Pkcs11Pool.login(one, fn -> pin end, queue_timeout: 200)
          :logout -> Pkcs11Pool.logout(one, queue_timeout: 200, force: true)
        end

      assert {:error, %Error{reason: :queue_timeout}} = given_up
      assert {:ok, _} = random(other)
      Chaos.release(chaos)
      for pool <- [one, other], do: Pools.drained!(pool)
    end
  end
end
