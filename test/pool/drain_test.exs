defmodule Pkcs11Pool.DrainTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}

  test "what waits is answered, what runs finishes, all sessions close, and only a restart resumes" do
    token = SoftHSM.spy!(SoftHSM.new_token!())
    opts = SoftHSM.pool_opts(token, pool_size: 2)
    pool = opts[:name]
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(pool, 30_000)

    callers =
      for _ <- 1..40, do: Task.async(fn -> Pkcs11Pool.generate_random(pool, 1_000_000) end)

    # One that runs is answered; one that has been granted a session, and does not run yet, is not.
    Poll.until(fn ->
      %{waiting: waiting, active: active} = Pools.native_status(pool)
      waiting > 10 and active > 0
    end)

    assert {:ok, 0} = Pkcs11Pool.drain(pool, 60_000)

    results = Task.await_many(callers, 60_000)
    {answered, refused} = Enum.split_with(results, &match?({:ok, _}, &1))
    assert length(answered) >= 1
    assert length(refused) >= 1
    assert Enum.all?(refused, &match?({:error, %Error{reason: :draining, executed: false}}, &1))

    assert {:error, %Error{reason: :draining}} = Pkcs11Pool.generate_random(pool, 4)
    assert %{state: :draining, idle: 0, running: 0, waiting: 0} = Pkcs11Pool.status(pool)
    calls = SoftHSM.calls(token)
    assert calls["C_OpenSession"] == calls["C_CloseSession"]

    stop_supervised!({Pkcs11Pool, pool})
    start_supervised!({Pkcs11Pool, opts})
    assert {:ok, _} = Pkcs11Pool.generate_random(pool, 4)
  end

  test "a drain that runs out of time says how many sessions are still in use" do
    opts = SoftHSM.new_token!() |> SoftHSM.pool_opts(pool_size: 1)
    pool = opts[:name]
    start_supervised!({Pkcs11Pool, opts})

    Pkcs11Pool.with_session(pool, fn ->
      assert {:ok, 1} = Task.await(Task.async(fn -> Pkcs11Pool.drain(pool, 50) end), 60_000)
    end)

    assert {:ok, 0} = Pkcs11Pool.drain(pool, 60_000)
  end

  test "the twins of what concerns the pool raise" do
    opts = SoftHSM.new_token!() |> SoftHSM.pool_opts(pool_size: 1)
    pool = opts[:name]
    start_supervised!({Pkcs11Pool, opts})

    assert Pkcs11Pool.await_ready!(pool, 30_000) == :ok
    assert Pkcs11Pool.forget_keys!(pool) == :ok
    assert Pkcs11Pool.drain!(pool, 60_000) == 0
    assert_raise Error, ~r/stopping/, fn -> Pkcs11Pool.await_ready!(pool, 0) end

    assert_raise Error, ~r/no such pool/, fn -> Pkcs11Pool.await_ready!(:nobody, 0) end
    assert_raise Error, ~r/no such pool/, fn -> Pkcs11Pool.forget_keys!(:nobody) end
    assert_raise Error, ~r/no such pool/, fn -> Pkcs11Pool.drain!(:nobody, 0) end
  end

  test "every call that returns an error has a twin" do
    functions = Pkcs11Pool.__info__(:functions)

    # They raise themselves (a lazy stream, when it is enumerated), return what their function does, or are a supervisor's.
    without = [:status, :with_session, :child_spec, :start_link, :encrypt_stream, :decrypt_stream]

    for {name, arity} <- functions,
        name not in without,
        not String.ends_with?(Atom.to_string(name), "!") do
      assert {:"#{name}!", arity} in functions
    end
  end

  test "what is no time raises, and drains nothing" do
    opts = SoftHSM.new_token!() |> SoftHSM.pool_opts(pool_size: 1)
    pool = opts[:name]
    start_supervised!({Pkcs11Pool, opts})

    for timeout <- [nil, -1, 1.5, :foo, "1"], pool <- [pool, :nobody] do
      assert_raise ArgumentError, ~r/expected a time in ms/, fn ->
        Pkcs11Pool.drain(pool, timeout)
      end
    end

    assert %{state: state} = Pkcs11Pool.status(pool)
    assert state != :draining
  end

  test "an unknown pool is an error" do
    assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.drain(:nobody, 0)
  end
end
