defmodule Pkcs11Pool.FailoverTest do
  # Under load, a token goes away for three seconds, and comes back in another slot, or a partner of the same label takes its place.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @callers 32
  @away 3_000

  defp now, do: System.monotonic_time(:millisecond)

  defp start!(token, opts) do
    name = :"pool-#{System.unique_integer([:positive])}"
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [name: name] ++ opts)}, id: name)
    :ok = Pkcs11Pool.await_ready(name, 30_000)
    name
  end

  # Callers that sign until they are told to stop: each of their results, with the time when it came.
  defp call(pool, stop) do
    for _ <- 1..@callers do
      Task.async(fn ->
        fn ->
          result = Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>)
          # A refused call comes back in microseconds.
          with {:error, _error} <- result, do: Process.sleep(10)
          {now(), result}
        end
        |> Stream.repeatedly()
        |> Enum.take_while(fn _ -> :atomics.get(stop, 1) == 0 end)
      end)
    end
  end

  for executor <- [:dirty_io, :threads] do
    test "32 callers are served again soon after the token's return (#{executor})" do
      token = ChaosToken.new!()
      chaos = token.chaos
      on_exit(fn -> Chaos.stop(chaos) end)
      pool = start!(token, pool_size: 4, executor: unquote(executor))
      Pools.key_pair!(pool, "key")
      processes = [Pools.server(pool), Pools.supervisor(pool) | Pools.runners(pool)]
      Chaos.reset_counts(chaos)

      stop = :atomics.new(1, [])
      callers = call(pool, stop)
      Poll.until(fn -> Chaos.calls(chaos, :C_Sign) > 200 end)
      Chaos.remove_token(chaos)
      gone = now()
      Poll.until(fn -> Pkcs11Pool.status(pool).state == :down end)
      Process.sleep(@away)
      Chaos.return_token(chaos, slot_id: 77)
      back = now()

      Poll.until(
        fn -> match?({:ok, _}, Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>)) end,
        20_000
      )

      Process.sleep(200)
      :atomics.put(stop, 1, 1)
      results = callers |> Task.await_many(20_000) |> List.flatten()

      first = Enum.min(for {at, {:ok, _}} <- results, at >= back, do: at)

      IO.puts(
        "\nfailover (#{unquote(executor)}): first success #{first - back} ms after the token's return"
      )

      assert first - back < 20_000

      for {_at, {:error, error}} <- results,
          do: assert(%Error{reason: :token_unavailable} = error)

      # Whoever called while it was away was told at once: more often than anybody could have waited.
      assert Enum.count(results, &match?({_at, {:error, _error}}, &1)) > @callers * 10

      refute Enum.any?(results, fn {at, result} ->
               at > gone + 1_000 and at < back and match?({:ok, _}, result)
             end)

      assert Chaos.calls(chaos, :C_Login) == 1
      assert Chaos.pin_tries(chaos) == 3
      assert [Pools.server(pool), Pools.supervisor(pool) | Pools.runners(pool)] == processes
      Pools.drained!(pool)
      assert Chaos.status(chaos).stale_objects == 0
      assert Chaos.violations(chaos) == []
    end
  end

  test "a partner with the same label takes over" do
    real = SoftHSM.new_module!()
    label = "partners-#{System.unique_integer([:positive])}"
    [one, two] = for _ <- 1..2, do: SoftHSM.new_token!(module: real, label: label)
    chaos = Chaos.start!(real, module_env: one.module_env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> Chaos.stop(chaos) end)
    [one, two] = for token <- [one, two], do: %{token | module: chaos.module}

    # Both have the key, as partners do.
    for token <- [one, two] do
      name = start!(token, [])
      Pools.key_pair!(name, "key")
      stop_supervised!(name)
    end

    Chaos.remove_token(chaos, slot_id: two.slot_id)
    pool = start!(one, slot: {:token_label, label}, pool_size: 2)
    {:ok, _signature} = Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>)
    [object] = Pkcs11Pool.find_objects!(pool, label: "key", class: :private_key)
    server = Pools.server(pool)

    # The other way round.
    Chaos.return_token(chaos)
    Chaos.remove_token(chaos, slot_id: one.slot_id)

    Poll.until(
      fn -> match?({:ok, _}, Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>)) end,
      20_000
    )

    # An object of the other token is not this one's, whatever its handle.
    assert {:error, %Error{reason: :object_of_other_token}} =
             Pkcs11Pool.sign(pool, object, :ecdsa, <<0::256>>)

    assert Pools.server(pool) == server
    Pools.drained!(pool)
    assert Chaos.violations(chaos) == []
  end
end
