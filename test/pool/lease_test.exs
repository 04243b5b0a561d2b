defmodule Pkcs11Pool.LeaseTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Lease, Native}
  alias Pkcs11Pool.Test.{LogLines, Poll, Pools, SoftHSM}

  defp pool(overrides \\ []) do
    opts = SoftHSM.new_token!() |> SoftHSM.pool_opts(Keyword.merge([pool_size: 2], overrides))
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
    # The pool opens its first session by itself, too.
    drained(opts[:name])
    opts[:name]
  end

  defp drained(pool) do
    Poll.until(fn ->
      match?(
        %{leased: 0, running: 0, waiting: 0, opening: 0, closing: 0},
        Pkcs11Pool.status(pool)
      )
    end)

    assert Pkcs11Pool.status(pool).idle <= Pkcs11Pool.status(pool).size
  end

  test "a lease that is over leaves no timer behind, however it ended" do
    pool = pool(lease_timeout: 3_600_000)
    taken = fn -> Pkcs11Pool.with_session(pool, fn _lease -> Process.sleep(:infinity) end) end
    holder = spawn(taken)
    Poll.until(fn -> Pkcs11Pool.status(pool).leased == 1 end)
    # This one has its timer; of other tests, which run at the same time, there are a few.
    assert Native.timers() > 0
    for _ <- 1..3_000, do: Pkcs11Pool.with_session(pool, fn -> :ok end)

    assert catch_throw(Pkcs11Pool.with_session(pool, fn -> throw(:away) end)) == :away
    Process.exit(holder, :kill)
    drained(pool)
    Poll.until(fn -> Native.timers() < 500 end)
  end

  test "a block returns what its function returns, and gives the session back" do
    pool = pool()

    assert Pkcs11Pool.with_session(pool, fn %Lease{} = lease ->
             assert %{leased: 1, running: 0} = Pkcs11Pool.status(pool)
             {:done, Pkcs11Pool.generate_random!(lease, 4)}
           end)
           |> elem(0) == :done

    assert Pkcs11Pool.with_session(pool, fn -> 42 end) == 42
    drained(pool)
  end

  test "within the block, calls by the pool's name use the leased session" do
    pool = pool(pool_size: 1)

    # The only session is leased: a call that wanted another would wait for ever.
    assert {:ok, <<_::32>>} =
             Pkcs11Pool.with_session(pool, fn ->
               Pkcs11Pool.generate_random(pool, 4, queue_timeout: 100)
             end)

    drained(pool)
  end

  test "a nested block by the pool's name or by the lease uses the same session" do
    pool = pool(pool_size: 1)

    assert Pkcs11Pool.with_session(pool, fn lease ->
             inner = Pkcs11Pool.with_session(pool, fn inner -> inner end, queue_timeout: 100)
             assert inner == lease
             assert Pkcs11Pool.with_session(lease, fn -> :innermost end) == :innermost
             # The inner blocks' ends have not ended the lease.
             {:ok, _} = Pkcs11Pool.generate_random(lease, 4)
             :outer
           end) == :outer

    drained(pool)
  end

  test "another process cannot use the lease" do
    pool = pool()

    Pkcs11Pool.with_session(pool, fn lease ->
      task =
        Task.async(fn ->
          {Pkcs11Pool.generate_random(lease, 4), Pkcs11Pool.with_session(lease, fn -> :in end)}
        end)

      assert {{:error, %Error{reason: :not_owner, executed: false}},
              {:error, %Error{reason: :not_owner}}} = Task.await(task, 60_000)

      # By the pool's name it gets a session of its own.
      assert {:ok, _} =
               Task.await(Task.async(fn -> Pkcs11Pool.generate_random(pool, 4) end), 60_000)
    end)

    drained(pool)
  end

  test "after its block a lease is over, also while its session serves others" do
    pool = pool(pool_size: 1)
    lease = Pkcs11Pool.with_session(pool, & &1)

    assert {:error, %Error{reason: :lease_ended, executed: false}} =
             Pkcs11Pool.generate_random(lease, 4)

    assert {:error, %Error{reason: :lease_ended}} = Pkcs11Pool.with_session(lease, fn -> :in end)

    Pkcs11Pool.with_session(pool, fn ->
      assert {:error, %Error{reason: :lease_ended}} = Pkcs11Pool.generate_random(lease, 4)
    end)

    drained(pool)
  end

  test "a block that raises, throws or exits gives the session back" do
    pool = pool(pool_size: 1)
    assert_raise RuntimeError, "no", fn -> Pkcs11Pool.with_session(pool, fn -> raise "no" end) end
    assert catch_throw(Pkcs11Pool.with_session(pool, fn -> throw(:ball) end)) == :ball
    assert catch_exit(Pkcs11Pool.with_session(pool, fn -> exit(:out) end)) == :out
    assert {:ok, _} = Pkcs11Pool.generate_random(pool, 4, queue_timeout: 1_000)
    drained(pool)
    assert Pkcs11Pool.status(pool).idle == 1
  end

  test "the session of a holder that is killed is closed, and its place is free" do
    token = SoftHSM.spy!(SoftHSM.new_token!())
    opts = SoftHSM.pool_opts(token, pool_size: 1)
    pool = opts[:name]
    start_supervised!({Pkcs11Pool, opts})
    test = self()

    holder =
      spawn(fn ->
        Pkcs11Pool.with_session(pool, fn ->
          send(test, :in)
          Process.sleep(:infinity)
        end)
      end)

    assert_receive :in
    assert %{leased: 1} = Pkcs11Pool.status(pool)
    Process.exit(holder, :kill)
    assert {:ok, _} = Pkcs11Pool.generate_random(pool, 4)
    assert SoftHSM.calls(token)["C_CloseSession"] == 1
    drained(pool)
  end

  test "a killed holder whose call still waits or runs loses nothing" do
    pool = pool(pool_size: 1)

    holders =
      for _ <- 1..20 do
        spawn(fn ->
          Pkcs11Pool.with_session(pool, fn -> Pkcs11Pool.generate_random(pool, 2_000_000) end)
        end)
      end

    for holder <- Enum.shuffle(holders), do: Process.exit(holder, :kill)
    assert {:ok, _} = Pkcs11Pool.generate_random(pool, 4)
    drained(pool)
  end

  test "a lease that is held for too long ends, and the log says who held it and where it was taken" do
    pool = pool(pool_size: 1, lease_timeout: 50)

    LogLines.follow!(pool)

    Pkcs11Pool.with_session(pool, fn lease ->
      Poll.until(fn ->
        match?({:error, %Error{reason: :lease_ended}}, Pkcs11Pool.generate_random(lease, 4))
      end)
    end)

    # The pool server writes it, a moment later.
    assert_receive {:log, ^pool, :warning, log}
    assert log =~ inspect(self())
    assert log =~ "lease_test.exs"
    assert log =~ ":lease_timeout"
    assert {:ok, _} = Pkcs11Pool.generate_random(pool, 4)
    drained(pool)
  end

  test "a lease waits its turn, and gives up at its time-out" do
    pool = pool(pool_size: 1)

    Pkcs11Pool.with_session(pool, fn ->
      task =
        Task.async(fn -> Pkcs11Pool.with_session(pool, fn -> :never end, queue_timeout: 50) end)

      assert {:error, %Error{reason: :queue_timeout, executed: false}} = Task.await(task, 60_000)
    end)

    drained(pool)
  end

  for executor <- [:dirty_io, :threads], size <- [1, 2] do
    test "stands for the pool where the pool itself is meant, executor #{executor}, #{size} sessions" do
      pool = pool(pool_size: unquote(size), executor: unquote(executor))
      pin = fn -> "1234" end

      Pkcs11Pool.with_session(pool, fn lease ->
        assert %{leased: 1, size: unquote(size)} = Pkcs11Pool.status(lease)
        assert Pkcs11Pool.await_ready(lease, 30_000) == :ok
        assert Pkcs11Pool.forget_keys(lease) == :ok
        assert Pkcs11Pool.login(lease, pin) == :ok

        assert {:error, %Error{reason: :login_shared, pool: ^pool, details: %{leases: 1}}} =
                 Pkcs11Pool.logout(lease)

        unless unquote(size) == 1 do
          assert Pkcs11Pool.logout(lease, force: true) == :ok
          assert %{login: :logged_out} = Pkcs11Pool.status(lease)
          assert Pkcs11Pool.login(lease, pin, force: true) == :ok
          assert %{login: :logged_in} = Pkcs11Pool.status(lease)
        end

        assert Pkcs11Pool.resize(lease, 3) == :ok
        assert %{size: 3} = Pkcs11Pool.status(pool)
        assert Pkcs11Pool.resize(lease, 1) == :ok
        assert {:ok, <<_::32>>} = Pkcs11Pool.generate_random(lease, 4)
      end)

      drained(pool)
    end
  end

  test "does not wait for itself where a login or logout takes a session, and there is but its own" do
    pool = pool(pool_size: 1, lease_timeout: :infinity)
    pin = fn -> "1234" end
    forever = [queue_timeout: :infinity, operation_timeout: :infinity]

    for by <- [:lease, :name] do
      Pkcs11Pool.with_session(pool, fn lease ->
        place = if by == :lease, do: lease, else: pool

        assert {:error, %Error{reason: :login_shared} = error} = Pkcs11Pool.logout(place, forever)
        assert Exception.message(error) =~ "the caller's among them"

        assert {:error, %Error{reason: :queue_timeout, executed: false}} =
                 Pkcs11Pool.logout(place, [force: true] ++ forever)

        assert Pkcs11Pool.login(place, pin, forever) == :ok
      end)
    end

    assert Pkcs11Pool.logout(pool) == :ok
    drained(pool)
  end

  test "does not wait for itself when it logs in what is logged out" do
    pool = pool(pool_size: 2, lease_timeout: :infinity)
    pin = fn -> "1234" end
    forever = [queue_timeout: :infinity, operation_timeout: :infinity]

    Pkcs11Pool.with_session(pool, fn lease ->
      assert Pkcs11Pool.logout(lease, force: true) == :ok
      assert Pkcs11Pool.resize(lease, 1) == :ok
      assert {:error, %Error{reason: :queue_timeout}} = Pkcs11Pool.login(lease, pin, forever)
    end)

    assert Pkcs11Pool.login(pool, pin) == :ok
    drained(pool)
  end

  test "names its pool in the errors of what is asked of the pool itself" do
    pool = pool(type: :token, pool_size: 1)
    lease = Pkcs11Pool.with_session(pool, & &1)
    assert {:error, %Error{reason: :pool_size_fixed, pool: ^pool}} = Pkcs11Pool.resize(lease, 2)
    # The pool is meant, not the session that it had.
    assert %{state: :up} = Pkcs11Pool.status(lease)
    :ok = stop_supervised({Pkcs11Pool, pool})

    for error <- [
          assert_raise(Error, fn -> Pkcs11Pool.status(lease) end),
          elem(Pkcs11Pool.resize(lease, 1), 1),
          elem(Pkcs11Pool.drain(lease, 0), 1),
          elem(Pkcs11Pool.forget_keys(lease), 1),
          elem(Pkcs11Pool.login(lease, fn -> "1234" end), 1),
          elem(Pkcs11Pool.logout(lease), 1)
        ] do
      assert %Error{reason: :pool_not_found, pool: ^pool} = error
      assert Exception.message(error) =~ "pool #{inspect(pool)}: no such pool"
    end
  end

  test "names its pool, not itself, in whatever error" do
    pool = pool()
    {public, _private} = Pools.key_pair!(pool, "ec")
    {:ok, aes} = Pkcs11Pool.generate_key(pool, :aes_key_gen, token: true, value_len: 32)
    der = [signature: :der]

    Pkcs11Pool.with_session(pool, fn lease ->
      for {reason, result} <- [
            signature_invalid: Pkcs11Pool.verify(lease, public, :ecdsa, "digest", "no DER", der),
            attribute_type_invalid: Pkcs11Pool.get_attributes(lease, public, [:modulus]),
            key_type_inconsistent: Pkcs11Pool.public_key(lease, aes),
            key_not_found: Pkcs11Pool.sign(lease, "none", :ecdsa, "digest")
          ] do
        assert {:error, %Error{reason: ^reason, pool: ^pool} = error} = result
        assert Exception.message(error) =~ "pool #{inspect(pool)}: "
      end

      assert {:ok, [{:error, %Error{reason: :signature_invalid, pool: ^pool}}]} =
               Pkcs11Pool.verify_many(lease, public, :ecdsa, [{"digest", "no DER"}], der)

      assert %Error{pool: ^pool} = Error.new(:draining, pool: lease)
      assert Exception.message(Error.exception(reason: :draining, pool: lease)) =~ inspect(pool)
    end)

    drained(pool)
  end

  for executor <- [:dirty_io, :threads], by <- [:lease, :name] do
    test "its holder does not wait for it when it drains the pool by its #{by}, executor #{executor}" do
      pool = pool(pool_size: 2, executor: unquote(executor), lease_timeout: :infinity)

      assert {:ok, 1} =
               Pkcs11Pool.with_session(pool, fn lease ->
                 place = if unquote(by) == :lease, do: lease, else: pool
                 assert {:ok, 1} = Pkcs11Pool.drain(place, :infinity)
                 assert {:ok, <<_::32>>} = Pkcs11Pool.generate_random(lease, 4)
                 Pkcs11Pool.drain(place, :infinity)
               end)

      assert {:ok, 0} = Pkcs11Pool.drain(pool, :infinity)
    end
  end

  test "what is no function of a lease or nothing raises, and takes no session" do
    pool = pool(pool_size: 1)

    for fun <- [nil, :fun, fn _lease, _more -> :never end] do
      assert_raise ArgumentError, ~r/expected a function/, fn ->
        Pkcs11Pool.with_session(pool, fun)
      end

      Pkcs11Pool.with_session(pool, fn lease ->
        assert_raise ArgumentError, ~r/expected a function/, fn ->
          Pkcs11Pool.with_session(lease, fun, [])
        end
      end)
    end

    drained(pool)
  end

  test "an unknown pool is an error, and the function is not called" do
    assert {:error, %Error{reason: :pool_not_found}} =
             Pkcs11Pool.with_session(:nobody, fn -> flunk("called") end)
  end

  for executor <- [:dirty_io, :threads] do
    test "a lease's calls go on while the pool drains, and its session is closed at the end, executor #{executor}" do
      pool = pool(pool_size: 1, executor: unquote(executor))
      test = self()

      holder =
        Task.async(fn ->
          Pkcs11Pool.with_session(pool, fn lease ->
            send(test, :in)
            Poll.until(fn -> Pkcs11Pool.status(pool).state == :draining end)
            # Whoever has nothing to do may have gone by now.
            Process.sleep(20)
            Pkcs11Pool.generate_random(lease, 4)
          end)
        end)

      assert_receive :in
      assert {:ok, 0} = Pkcs11Pool.drain(pool, 60_000)
      assert {:ok, <<_::32>>} = Task.await(holder, 60_000)

      assert {:error, %Error{reason: :draining}} =
               Pkcs11Pool.with_session(pool, fn -> flunk("called") end)
    end
  end
end
