defmodule Pkcs11Pool.ResultsTest do
  # How many operations have ended in which way, and how long they took: status/1.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag :capture_log

  # A percentile is wrong by this share at most.
  @error 1 / 64

  setup do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    %{token: token, chaos: token.chaos}
  end

  defp start(token, opts \\ []) do
    pool = :"results-#{System.unique_integer([:positive])}"
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [name: pool] ++ opts)}, id: pool)
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    pool
  end

  defp random(pool, opts \\ []), do: Pkcs11Pool.generate_random(pool, 8, opts)

  defp results(pool), do: Pkcs11Pool.status(pool).results

  test "a pool that nobody has called has counted nothing of its own", %{token: token} do
    pool = start(token)
    assert Pkcs11Pool.Health.check(pool, call: true, timeout: 30_000) == :ok
    Pools.drained!(pool)

    assert %{results: %{ok: 0}, latency: %{count: 0, p50: nil, p99: nil}} =
             Pkcs11Pool.status(pool)

    assert map_size(results(pool)) == 1
  end

  test "successes and errors are counted by their reason", %{token: token, chaos: chaos} do
    pool = start(token)
    for _ <- 1..5, do: assert({:ok, _} = random(pool))
    Chaos.fail(chaos, :C_GenerateRandom, :function_failed, count: 1)
    assert {:error, %Error{reason: :function_failed}} = random(pool)
    key = [label: "none"]

    for _ <- 1..2,
        do:
          assert(
            {:error, %Error{reason: :key_not_found}} = Pkcs11Pool.sign(pool, key, :ecdsa, "")
          )

    assert results(pool) == %{ok: 5, function_failed: 1, key_not_found: 2}
    # Those that failed have run, too.
    assert %{count: 8} = Pkcs11Pool.status(pool).latency
  end

  test "a list counts by its slices, and a with_session/3 block as one operation more", %{
    token: token
  } do
    pool = start(token)

    assert {:ok, [_, _]} =
             Pkcs11Pool.with_session(pool, fn -> {:ok, [random(pool), random(pool)]} end)

    assert results(pool) == %{ok: 3}
  end

  test "what waits in vain, what is refused, and what hangs are counted, and not all have a latency",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 1, max_waiting: 1, executor: :threads)
    Chaos.hang(chaos, :C_GenerateRandom, count: 1)
    test = self()

    hangs =
      Task.async(fn ->
        send(test, :calling)
        random(pool, operation_timeout: 2_000)
      end)

    assert_receive :calling
    Pkcs11Pool.Test.Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    assert {:error, %Error{reason: :queue_timeout}} = random(pool, queue_timeout: 1)
    waits = Task.async(fn -> random(pool, queue_timeout: 60_000) end)
    Pkcs11Pool.Test.Poll.until(fn -> Pkcs11Pool.status(pool).waiting == 1 end)
    assert {:error, %Error{reason: :overloaded}} = random(pool)
    assert {:error, %Error{reason: :operation_timeout}} = Task.await(hangs, 60_000)
    assert {:ok, _} = Task.await(waits, 60_000)
    Chaos.release(chaos)

    assert results(pool) == %{ok: 1, queue_timeout: 1, overloaded: 1, operation_timeout: 1}
    assert %{count: 2, p99: p99} = Pkcs11Pool.status(pool).latency
    assert p99 >= 2_000_000 * (1 - @error)
    Pools.drained!(pool)
  end

  test "a token that is away: each call is counted, none has a latency", %{
    token: token,
    chaos: chaos
  } do
    pool = start(token)
    Chaos.remove_token(chaos)
    assert {:error, %Error{reason: :token_unavailable}} = random(pool)
    Pkcs11Pool.Test.Poll.until(fn -> Pkcs11Pool.status(pool).state == :down end)
    before = Pkcs11Pool.status(pool)
    for _ <- 1..100, do: assert({:error, %Error{reason: :token_unavailable}} = random(pool))
    status = Pkcs11Pool.status(pool)
    assert status.results.token_unavailable == before.results.token_unavailable + 100
    assert status.latency.count == before.latency.count
    Chaos.return_token(chaos)
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
  end

  for executor <- [:dirty_io, :threads] do
    test "latencies are from the call to the answer, in microseconds (#{executor})",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: unquote(executor))
      for _ <- 1..20, do: {:ok, _} = random(pool)
      Chaos.latency(chaos, :C_GenerateRandom, 30)

      # As the caller sees them: each of ours is shorter.
      slow =
        for _ <- 1..30 do
          {micros, {:ok, _}} = :timer.tc(fn -> random(pool, operation_timeout: :infinity) end)
          micros
        end

      %{latency: %{count: 50, p50: p50, p99: p99}} = Pkcs11Pool.status(pool)
      assert p50 >= 30_000 * (1 - @error) and p50 <= Enum.max(slow) * (1 + @error)
      assert p99 >= p50 and p99 <= Enum.max(slow) * (1 + @error)
    end
  end

  test "no operation is lost between callers that end at the same time", %{token: token} do
    pool = start(token, pool_size: 4)

    1..8
    |> Task.async_stream(fn _ -> for _ <- 1..250, do: {:ok, _} = random(pool) end, timeout: 60_000)
    |> Stream.run()

    assert %{results: %{ok: 2_000}, latency: %{count: 2_000}} = Pkcs11Pool.status(pool)
  end
end
