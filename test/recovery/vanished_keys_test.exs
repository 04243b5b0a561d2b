defmodule Pkcs11Pool.VanishedKeysTest do
  # A token's directory (or what a module has of it) goes away and comes back, and the module finds nothing any more until it is initialized
  # again. A key that somebody really destroyed costs nobody anything.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  defp start!(token, opts) do
    name = :"pool-#{System.unique_integer([:positive])}"
    opts = SoftHSM.pool_opts(token, Keyword.merge([name: name], opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    name
  end

  defp sign(pool, key \\ "key"), do: Pkcs11Pool.sign(pool, key, :ecdsa, <<0::256>>)

  describe "the directory of a SoftHSM token" do
    setup do
      token = SoftHSM.new_token!()
      %{token: token, dir: token.module <> ".tokens"}
    end

    for executor <- [:dirty_io, :threads] do
      test "goes away and returns while nobody calls, and the keys are there (#{executor})",
           %{token: token, dir: dir} do
        pool = start!(token, executor: unquote(executor), pool_size: 2)
        {_public, private} = Pools.key_pair!(pool, "key")
        assert {:ok, _signature} = sign(pool)
        away!(dir)
        back!(dir)
        assert {:ok, _signature} = sign(pool)
        assert {:ok, _signature} = sign(pool, private)
        Pools.drained!(pool)
      end

      test "goes away under calls, and returns: the pool recovers by itself (#{executor})",
           %{token: token, dir: dir} do
        pool = start!(token, executor: unquote(executor), pool_size: 2)
        Pools.key_pair!(pool, "key")
        assert {:ok, _signature} = sign(pool)
        away!(dir)
        for _ <- 1..20, do: assert({:error, %Error{}} = sign(pool))
        back!(dir)
        Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end, 60_000)
        Pools.drained!(pool)
      end
    end
  end

  describe "a module that finds nothing any more" do
    setup do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      %{token: token, chaos: token.chaos}
    end

    defp start_ready!(token, keys, opts) do
      pool = start!(token, opts)
      for key <- keys, do: Pools.key_pair!(pool, key)
      for key <- keys, do: assert({:ok, _signature} = sign(pool, key))
      Pools.drained!(pool)
      Chaos.reset_counts(token.chaos)
      pool
    end

    defp at_rest(pool, chaos) do
      Pools.drained!(pool)
      assert Chaos.violations(chaos) == []
    end

    test "is initialized again for all pools, and the call that finds it out succeeds", %{
      token: token,
      chaos: chaos
    } do
      pool = start_ready!(token, ["key", "second"], pool_size: 2)
      other = start!(token, pool_size: 2, executor: :threads)
      assert {:ok, _signature} = sign(other)
      Chaos.reset_counts(chaos)
      Chaos.hide_objects(chaos)
      tasks = for pool <- [pool, other], _ <- 1..8, do: Task.async(fn -> sign(pool) end)
      results = Task.await_many(tasks, 60_000)

      # One has it looked into. Who asked at the same time, before it was known, is told that there is no such key.
      assert Enum.any?(results, &match?({:ok, _signature}, &1))
      for {:error, error} <- results, do: assert(error.reason == :key_not_found)
      for pool <- [pool, other], key <- ["key", "second"], do: assert({:ok, _} = sign(pool, key))
      assert Chaos.calls(chaos, :C_Finalize) == 1
      assert Chaos.calls(chaos, :C_Login) == 1
      for pool <- [pool, other], do: at_rest(pool, chaos)
    end

    test "is looked into again when :trouble_interval is over, and not before",
         %{token: token, chaos: chaos} do
      pool = start_ready!(token, ["key"], trouble_interval: 1_500)
      started = System.monotonic_time(:millisecond)

      for round <- 1..2 do
        Chaos.hide_objects(chaos)
        Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end)
        assert Chaos.calls(chaos, :C_Finalize) == round
      end

      assert System.monotonic_time(:millisecond) - started >= 1_500
      at_rest(pool, chaos)
    end

    test "is left alone while a call hangs in it: no key, and nothing else happens",
         %{token: token, chaos: chaos} do
      pool =
        start_ready!(token, ["key"], pool_size: 3, executor: :threads, trouble_interval: 4_000)

      Chaos.hang(chaos, :C_GenerateRandom, nth: 1)
      hung = Task.async(fn -> Pkcs11Pool.generate_random(pool, 8) end)
      Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
      Chaos.hide_objects(chaos)
      assert {:error, %Error{reason: :key_not_found, executed: false}} = sign(pool)
      assert Chaos.calls(chaos, :C_Finalize) == 0
      assert {:ok, _bytes} = Pkcs11Pool.generate_random(pool, 8)
      assert %{state: :up} = Pkcs11Pool.status(pool)
      Chaos.release(chaos)
      assert {:ok, _bytes} = Task.await(hung, 30_000)
      Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end)
      at_rest(pool, chaos)
    end

    test "is not initialized behind the holder of a lease", %{token: token, chaos: chaos} do
      pool = start_ready!(token, ["key"], pool_size: 2)

      Pkcs11Pool.with_session(pool, fn lease ->
        Chaos.hide_objects(chaos)
        # The handle is refused, and then not found.
        assert {:error, %Error{}} = sign(lease)
        assert {:error, %Error{reason: :key_not_found}} = sign(lease)
        assert {:ok, _bytes} = Pkcs11Pool.generate_random(lease, 8)
      end)

      assert Chaos.calls(chaos, :C_Finalize) == 0
      at_rest(pool, chaos)
    end

    test "a key that somebody has destroyed beside others costs a look and nothing else",
         %{token: token, chaos: chaos} do
      pool = start_ready!(token, ["key", "second"], pool_size: 2)
      {:ok, objects} = Pkcs11Pool.find_objects(pool, label: "key")
      other = start!(token, pool_size: 1)
      assert {:ok, _signature} = sign(other, "second")
      # By another application, as far as the pool can know.
      destroy_elsewhere(token, "key")
      Chaos.reset_counts(chaos)

      for _ <- 1..20 do
        assert {:error, %Error{reason: :key_not_found, executed: false}} = sign(pool)
        assert {:ok, _signature} = sign(pool, "second")
        assert {:ok, _signature} = sign(other, "second")
      end

      private = Enum.find(objects, &(&1.class == :private_key))
      assert {:error, %Error{reason: :object_stale}} = sign(pool, private)
      assert Chaos.calls(chaos, :C_Finalize) == 0
      # That of the one look.
      assert Chaos.calls(chaos, :C_OpenSession) == 1
      for pool <- [pool, other], do: at_rest(pool, chaos)
    end

    test "the only key of a token, destroyed by somebody, has the module initialized once, and no call of others fails",
         %{token: token, chaos: chaos} do
      pool = start_ready!(token, ["key"], pool_size: 2, trouble_interval: 1)
      stop = :atomics.new(1, [])

      others =
        for _ <- 1..4 do
          Task.async(fn ->
            Stream.repeatedly(fn -> Pkcs11Pool.generate_random(pool, 8) end)
            |> Enum.take_while(fn _ -> :atomics.get(stop, 1) == 0 end)
            |> Enum.reject(&match?({:ok, _bytes}, &1))
          end)
        end

      destroy_elsewhere(token, "key")
      for _ <- 1..20, do: assert({:error, %Error{reason: :key_not_found}} = sign(pool))
      :atomics.put(stop, 1, 1)
      assert Enum.concat(Task.await_many(others, 60_000)) == []
      assert Chaos.calls(chaos, :C_Finalize) == 1
      at_rest(pool, chaos)
    end

    test "what the pool itself has destroyed is not looked into", %{token: token, chaos: chaos} do
      pool = start_ready!(token, ["key"], trouble_interval: 1)
      {:ok, objects} = Pkcs11Pool.find_objects(pool, label: "key")
      for object <- objects, do: assert(:ok = Pkcs11Pool.destroy_object(pool, object))
      assert {:error, %Error{reason: :key_not_found}} = sign(pool)
      assert {:error, %Error{}} = sign(pool, Enum.find(objects, &(&1.class == :private_key)))
      assert {:error, %Error{reason: :key_not_found}} = sign(pool, "never there")
      assert Chaos.calls(chaos, :C_Finalize) == 0
      at_rest(pool, chaos)
    end

    defp destroy_elsewhere(token, label) do
      for type <- ["privkey", "pubkey"] do
        SoftHSM.pkcs11_tool!(token, ["--delete-object", "--type", type, "--label", label])
      end
    end
  end

  defp away!(dir), do: File.rename!(dir, dir <> ".away")
  defp back!(dir), do: File.rename!(dir <> ".away", dir)
end
