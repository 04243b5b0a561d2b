defmodule Pkcs11Pool.RunHereTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @infinite [operation_timeout: :infinity]

  setup context do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    opts = Keyword.merge([pool_size: 1, executor: :dirty_io], Map.get(context, :pool, []))
    opts = SoftHSM.pool_opts(token, opts)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    Pools.full_strength!(pool)
    Pools.drained!(pool)
    %{pool: pool, chaos: token.chaos}
  end

  # A runner that is suspended hears of nothing.
  defp suspend_runners(pool), do: Enum.each(Pools.runners(pool), &:sys.suspend/1)
  defp resume_runners(pool), do: Enum.each(Pools.runners(pool), &:sys.resume/1)

  test "a caller without a deadline that finds a session idle needs no runner", %{pool: pool} do
    suspend_runners(pool)
    assert {:ok, <<_::128>>} = Pkcs11Pool.generate_random(pool, 16, @infinite)

    # The others do: so the runners were really away.
    assert {:error, %{reason: :queue_timeout}} =
             Pkcs11Pool.generate_random(pool, 16, queue_timeout: 50)

    resume_runners(pool)
    Pools.drained!(pool)
  end

  @tag pool: [executor: :threads]
  test "on native threads it is the threads that run everything", %{pool: pool, chaos: chaos} do
    Chaos.hang(chaos, :C_GenerateRandom)
    task = Task.async(fn -> Pkcs11Pool.generate_random(pool, 16, @infinite) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
    # It waits for a message, rather than in the module.
    assert {:status, :waiting} = Process.info(task.pid, :status)
    Chaos.release(chaos)
    assert {:ok, <<_::128>>} = Task.await(task, 60_000)
    Pools.drained!(pool)
  end

  test "whoever comes meanwhile waits, and is served when it is done", %{pool: pool, chaos: chaos} do
    Chaos.hang(chaos, :C_GenerateRandom)
    first = Task.async(fn -> Pkcs11Pool.generate_random(pool, 16, @infinite) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
    assert %{running: 1, active: 1} = Pools.native_status(pool)
    second = Task.async(fn -> Pkcs11Pool.digest(pool, :sha256, "x", @infinite) end)
    third = Task.async(fn -> Pkcs11Pool.digest(pool, :sha256, "x") end)
    Poll.until(fn -> Pools.native_status(pool).waiting == 2 end)
    Chaos.release(chaos)

    assert {:ok, <<_::128>>} = Task.await(first, 60_000)
    assert {:ok, <<_::256>>} = Task.await(second, 60_000)
    assert {:ok, <<_::256>>} = Task.await(third, 60_000)
    assert %{idle: 1} = Pools.drained!(pool)
  end

  test "a caller that is killed inside loses nothing", %{pool: pool, chaos: chaos} do
    Chaos.hang(chaos, :C_GenerateRandom)
    victim = spawn(fn -> Pkcs11Pool.generate_random(pool, 16, @infinite) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
    Process.exit(victim, :kill)
    next = Task.async(fn -> Pkcs11Pool.digest(pool, :sha256, "x") end)
    Poll.until(fn -> Pools.native_status(pool).waiting == 1 end)
    Chaos.release(chaos)

    assert {:ok, <<_::256>>} = Task.await(next, 60_000)
    assert %{idle: 1} = Pools.drained!(pool)
    assert Chaos.calls(chaos, :C_OpenSession) == 1
  end

  test "what needs more than the session is left to the runners: a lost login", context do
    %{pool: pool, chaos: chaos} = context
    Chaos.logout(chaos)
    template = [class: :private_key]
    assert {:ok, []} = Pkcs11Pool.find_objects(pool, template, @infinite)
    assert Chaos.calls(chaos, :C_Login) == 2
    Pools.drained!(pool)
  end

  test "a dead session", %{pool: pool, chaos: chaos} do
    Chaos.kill_sessions(chaos)
    assert {:ok, <<_::128>>} = Pkcs11Pool.generate_random(pool, 16, @infinite)
    Pools.drained!(pool)
  end

  @tag pool: [shutdown_timeout: 100]
  test "one whose pool has stopped over it is answered once", %{pool: pool, chaos: chaos} do
    Chaos.hang(chaos, :C_GenerateRandom)

    task =
      Task.async(fn ->
        result = Pkcs11Pool.generate_random(pool, 16, @infinite)
        {result, Process.info(self(), :message_queue_len)}
      end)

    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateRandom"] == 1 end)
    :ok = stop_supervised({Pkcs11Pool, pool})
    Chaos.release(chaos)
    assert {{:error, %{reason: :draining, executed: :unknown}}, {_, 0}} = Task.await(task, 60_000)
  end

  test "errors are those of any other call", %{pool: pool} do
    assert {:error, %{reason: :key_not_found, executed: false}} =
             Pkcs11Pool.sign(pool, "no such key", :sha256_rsa_pkcs, "x", @infinite)

    assert {:error, %{reason: :pool_not_found}} =
             Pkcs11Pool.sign(:no_such_pool, "key", :sha256_rsa_pkcs, "x", @infinite)
  end
end
