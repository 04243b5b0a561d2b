defmodule Pkcs11Pool.StormTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}

  @size 4
  @callers 200

  @tag timeout: 180_000
  test "20,000 operations on runners that are killed" do
    storm(SoftHSM.new_token!(), 150, executor: :dirty_io)
  end

  @tag timeout: 180_000
  test "20,000 operations on native threads" do
    storm(SoftHSM.new_token!(), 150, executor: :threads)
  end

  # Counting costs the spy a write into a file for each call: hence fewer of them.
  for executor <- [:dirty_io, :threads] do
    @tag timeout: 180_000
    test "2,000 operations that are counted, executor #{executor}" do
      token = SoftHSM.spy!(SoftHSM.new_token!())
      pool = storm(token, 10, executor: unquote(executor))
      status = Pools.drained!(pool)
      calls = SoftHSM.calls(token)
      assert calls["C_OpenSession"] - Map.get(calls, "C_CloseSession", 0) == status.idle
      assert %{"C_Initialize" => 1, "C_Login" => 1} = calls

      stop_supervised!({Pkcs11Pool, pool})
      Poll.until(fn -> SoftHSM.calls(token)["C_Finalize"] == 1 end)
      calls = SoftHSM.calls(token)
      assert calls["C_OpenSession"] == calls["C_CloseSession"]
    end
  end

  # Of 200 processes a third wait for whatever comes, a third give up early, and a third call until they are killed, one after the other
  # over the whole storm, and a runner with each. Who is not killed gets one answer for every call, and nothing else.
  defp storm(token, calls, opts) do
    opts = SoftHSM.pool_opts(token, Keyword.merge([pool_size: @size], opts))
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    processes = {Pools.supervisor(pool), Pools.server(pool)}

    done = :counters.new(1, [])
    caller = fn kind -> spawn_monitor(caller(pool, kind, calls, done, self())) end
    third = div(@callers, 3)
    victims = for _ <- 1..third, do: caller.(:victim)
    hasty = for _ <- 1..third, do: caller.(:hasty)
    patient = for _ <- 1..(@callers - 2 * third), do: caller.(:patient)

    kill_over_time(pool, victims, done, calls * (@callers - third))

    reasons = Enum.uniq(for {pid, _monitor} <- hasty, reason <- results(pid, calls), do: reason)
    assert :queue_timeout in reasons
    assert reasons -- [:ok, :operation_timeout, :queue_timeout] == []
    for {pid, _monitor} <- patient, do: assert(Enum.uniq(results(pid, calls)) == [:ok])

    Pools.full_strength!(pool)
    assert %{idle: idle, running: 0, waiting: 0, hung: 0} = Pools.drained!(pool)
    assert idle in 1..@size
    assert {Pools.supervisor(pool), Pools.server(pool)} == processes

    # Everything has come to rest: what is in a mailbox now should not be there.
    for {pid, monitor} <- hasty ++ patient do
      assert Process.info(pid, :message_queue_len) == {:message_queue_len, 0}
      send(pid, :leave)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}
    end

    pool
  end

  defp caller(pool, :victim, _calls, done, _test) do
    fn -> Enum.each(Stream.cycle([:victim]), &call(pool, &1, done)) end
  end

  defp caller(pool, kind, calls, done, test) do
    fn ->
      results = for _ <- 1..calls, do: call(pool, kind, done)
      send(test, {:results, self(), results})
      receive do: (:leave -> :ok)
    end
  end

  defp results(pid, calls) do
    assert_receive {:results, ^pid, results}, 120_000
    assert length(results) == calls
    results
  end

  defp call(pool, kind, done) do
    opts =
      if kind == :hasty,
        do: [queue_timeout: :rand.uniform(40) - 1, operation_timeout: :rand.uniform(5) - 1],
        else: [queue_timeout: :infinity, operation_timeout: :infinity]

    result =
      case :rand.uniform(20) do
        1 -> Pkcs11Pool.generate_random(pool, 200_000, opts)
        _ -> Pkcs11Pool.digest(pool, :sha256, "x", opts)
      end

    :counters.add(done, 1, 1)

    case result do
      {:ok, _bytes} -> :ok
      {:error, %Error{reason: reason}} -> reason
    end
  end

  defp kill_over_time(pool, victims, done, total) do
    for {{pid, monitor}, index} <- Enum.with_index(victims) do
      Poll.until(fn -> :counters.get(done, 1) >= div(total * index, length(victims)) end, 60_000)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}
      # There is none while all are being replaced, nor with an executor that has no processes.
      Enum.each(Enum.take_random(Pools.runners(pool), 1), &Process.exit(&1, :kill))
    end
  end
end
