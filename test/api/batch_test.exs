defmodule Pkcs11Pool.BatchTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  # A list of four slices and a bit.
  @several 270

  setup context do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = String.to_atom(token.label)
    opts = Keyword.merge([pool_size: 1], Map.get(context, :pool, []))
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)})
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    # With a :max_waiting of 0, a call is refused while the pool does something of its own.
    Pools.drained!(pool)

    readable = [token: true, private: true, sensitive: false, extractable: true, value_len: 32]

    {:ok, mac} =
      Pkcs11Pool.generate_key(
        pool,
        :generic_secret_key_gen,
        readable ++ [label: "mac", sign: true, verify: true]
      )

    {:ok, _} =
      Pkcs11Pool.generate_key(
        pool,
        :aes_key_gen,
        readable ++ [label: "aes", encrypt: true, decrypt: true]
      )

    {:ok, %{value: value}} = Pkcs11Pool.get_attributes(pool, mac, [:value])
    # The key is found, and each session opened when it is needed.
    {:ok, _} = Pkcs11Pool.sign(pool, "mac", :sha256_hmac, "")
    Pools.drained!(pool)
    Chaos.reset_counts(token.chaos)
    %{token: token, chaos: token.chaos, pool: pool, mac: value}
  end

  defp numbers(count), do: for(number <- 1..count, do: Integer.to_string(number))

  defp sign(pool, list, opts \\ []),
    do: Pkcs11Pool.sign_many(pool, "mac", :sha256_hmac, list, opts)

  defp hmac(context, data), do: :crypto.mac(:hmac, :sha256, context.mac, data)
  defp iv, do: :crypto.strong_rand_bytes(12)

  defp reasons(results) do
    for result <- results do
      case result do
        {:ok, _value} -> :ok
        {:error, %Error{reason: reason, executed: executed}} -> {reason, executed}
      end
    end
  end

  # Lengths of the runs of equal elements.
  defp runs(list), do: list |> Enum.chunk_by(& &1) |> Enum.map(&{hd(&1), length(&1)})

  defp assert_at_rest(%{pool: pool, chaos: chaos}) do
    Pools.drained!(pool)
    assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
    assert Chaos.violations(chaos) == []
  end

  describe "results" do
    @tag pool: [pool_size: 4]
    test "come in the list's order, however many there are", %{pool: pool} = context do
      for count <- [0, 1, 2, 63, 64, 65, 1_000] do
        list = Enum.take(numbers(1_000), count)
        assert sign(pool, list) == {:ok, for(data <- list, do: {:ok, hmac(context, data)})}
      end

      assert_at_rest(context)
    end

    test "are each item's own: a bad one harms no other", %{pool: pool} = context do
      signed = for number <- numbers(200), do: {number, hmac(context, number)}
      bad = [{"3", hmac(context, "4")}, {"150", "short"}, {"200", ""}]
      list = for {data, mac} <- signed, do: List.keyfind(bad, data, 0, {data, mac})

      assert {:ok, results} = Pkcs11Pool.verify_many(pool, "mac", :sha256_hmac, list)

      for {{data, _mac}, result} <- Enum.zip(list, results) do
        # What has another length than the mechanism's does not reach the module.
        if List.keymember?(bad, data, 0) do
          assert {:error, %Error{reason: :signature_invalid, executed: executed}} = result
          assert executed == (data == "3")
        else
          assert result == {:ok, true}
        end
      end

      assert_at_rest(context)
    end

    test "of failures that leave an operation active are each item's own, too", context do
      %{pool: pool, chaos: chaos} = context
      Chaos.fail(chaos, :C_Sign, :arguments_bad, nth: 2, count: 3)
      assert {:ok, results} = sign(pool, numbers(10))
      assert runs(reasons(results)) == [{:ok, 1}, {{:arguments_bad, true}, 3}, {:ok, 6}]
      assert_at_rest(context)
    end

    test "of data that is larger than a slice", %{pool: pool} = context do
      list = for size <- [0, 70_000, 1, 1_000_000, 65_536, 2], do: :binary.copy("x", size)
      assert sign(pool, list) == {:ok, for(data <- list, do: {:ok, hmac(context, data)})}
      assert_at_rest(context)
    end

    test "are errors where the key is not found, and the call is one without a pool", context do
      %{pool: pool} = context

      assert {:ok, results} = Pkcs11Pool.sign_many(pool, "none", :sha256_hmac, numbers(3))
      assert reasons(results) == List.duplicate({:key_not_found, false}, 3)

      assert {:error, %Error{reason: :pool_not_found}} = sign(:nobody, numbers(3))
      assert {:error, %Error{reason: :pool_not_found}} = sign(:nobody, [])
    end

    test "name the mechanism that the token does not have", %{pool: pool} do
      assert {:ok, [{:error, error}]} = Pkcs11Pool.sign_many(pool, "mac", :sha3_256_hmac, ["x"])
      assert %Error{reason: :mechanism_invalid, details: %{mechanism: :sha3_256_hmac}} = error
    end
  end

  describe "encryption" do
    test "with each item's own IV, and back", %{pool: pool} = context do
      ivs = for _ <- 1..100, do: iv()
      list = for {iv, data} <- Enum.zip(ivs, numbers(100)), do: {[iv: iv], data}

      assert {:ok, sealed} = Pkcs11Pool.encrypt_many(pool, "aes", {:aes_gcm, aad: "a"}, list)

      list = for {iv, {:ok, sealed}} <- Enum.zip(ivs, sealed), do: {[iv: iv, aad: "a"], sealed}

      [{first, good} | others] = list
      list = [{first, good <> "!"} | others]

      assert {:ok, [{:error, error} | opened]} =
               Pkcs11Pool.decrypt_many(pool, "aes", :aes_gcm, list)

      assert %Error{reason: :decryption_failed, executed: true} = error
      assert opened == for(number <- tl(numbers(100)), do: {:ok, number})
      assert_at_rest(context)
    end

    test "with the token's IV, and back", %{pool: pool, chaos: chaos} = context do
      Chaos.make_iv(chaos)
      mechanism = {:aes_gcm, iv: :token}
      assert {:ok, sealed} = Pkcs11Pool.encrypt_many(pool, "aes", mechanism, numbers(100))
      ivs = for {:ok, {iv, _sealed}} <- sealed, do: iv
      assert Enum.uniq(ivs) == ivs

      list = for {:ok, {iv, sealed}} <- sealed, do: {[iv: iv], sealed}
      opened = for number <- numbers(100), do: {:ok, number}
      assert Pkcs11Pool.decrypt_many(pool, "aes", :aes_gcm, list) == {:ok, opened}
      assert_at_rest(context)
    end

    test "no two items of sign_many have the IV of a GMAC in common", %{pool: pool} do
      gmac = {:aes_gmac, :binary.copy(<<1>>, 12)}

      assert_raise ArgumentError, ~r/the IV of mechanism :aes_gmac would be used for every/, fn ->
        Pkcs11Pool.sign_many(pool, "aes", gmac, ["one", "two"])
      end

      # SoftHSM has no GMAC.
      assert {:ok, [{:error, %Error{reason: :mechanism_invalid}}]} =
               Pkcs11Pool.sign_many(pool, "aes", gmac, ["one"])
    end

    test "refuses to use an IV twice", %{pool: pool} = context do
      iv = iv()

      for mechanism <- [
            {:aes_gcm, iv: iv},
            {:aes_cbc_pad, iv: iv <> "1234"},
            {:aes_cbc_pad, iv <> "1234"},
            {:aes_ctr, counter_block: iv <> "1234"},
            {:vendor, 0x80000001, {:aes_gcm, iv: iv}},
            {:vendor, 0x1085, iv <> "1234"},
            {:vendor, 0x1085, nil}
          ] do
        assert_raise ArgumentError, ~r/would be used for every item/, fn ->
          Pkcs11Pool.encrypt_many(pool, "aes", mechanism, ["one"])
        end
      end

      block = [counter_block: iv <> "1234"]

      for {mechanism, items} <- [
            {:aes_gcm, [{[iv: iv], "one"}, {[iv: iv], "two"}]},
            {:aes_gcm, [{[iv: iv, aad: "a"], "one"}, {[iv: iv, aad: "b"], "one"}]},
            # The same key stream, however far it counts.
            {:aes_ctr, [{block, "one"}, {[counter_bits: 64] ++ block, "two"}]},
            {{:vendor, 0x1086, :aes_ctr}, [{block, "one"}, {[counter_bits: 64] ++ block, "two"}]}
          ] do
        assert_raise ArgumentError, ~r/two items have the same IV/, fn ->
          Pkcs11Pool.encrypt_many(pool, "aes", mechanism, items)
        end
      end

      assert Chaos.calls(context.chaos) == %{}

      # Where there is no IV, or to decrypt, it is no matter.
      assert {:ok, [ok: _, ok: _]} =
               Pkcs11Pool.encrypt_many(pool, "aes", :aes_ecb, [<<1::128>>, <<1::128>>])

      {:ok, sealed} = Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: iv}, "one")

      assert Pkcs11Pool.decrypt_many(pool, "aes", {:aes_gcm, iv: iv}, [sealed, sealed]) ==
               {:ok, [ok: "one", ok: "one"]}
    end
  end

  test "what has no shape raises, before anything runs", %{pool: pool} = context do
    for {call, message} <- [
          {fn -> sign(pool, "no list") end, ~r/expected a list/},
          {fn -> sign(pool, ["a" | "b"]) end, ~r/list/},
          {fn -> sign(pool, ["a", :b]) end, ~r/expected data to be iodata/},
          {fn -> Pkcs11Pool.verify_many(pool, "mac", :sha256_hmac, ["a"]) end,
           ~r/expected a list of {data, signature}/},
          {fn -> Pkcs11Pool.decrypt_many(pool, "aes", :aes_gcm, ["a"]) end, ~r/needs parameters/},
          {fn -> Pkcs11Pool.decrypt_many(pool, "aes", :aes_gcm, [{"iv", "a"}]) end,
           ~r/keyword lists/},
          {fn -> Pkcs11Pool.decrypt_many(pool, "aes", :aes_gcm, [{1, 2, 3}]) end,
           ~r/{parameters, data}/},
          {fn -> sign(pool, ["a"], partial: true) end, ~r/unknown options/},
          {fn -> Pkcs11Pool.sign_many(pool, "mac", :hmac_of_mine, ["a"]) end,
           ~r/unknown mechanism/}
        ] do
      assert_raise ArgumentError, message, call
    end

    # Also where there is nothing to do, or nobody to do it.
    for pool <- [pool, :nobody],
        many <- [
          &Pkcs11Pool.sign_many/4,
          &Pkcs11Pool.verify_many/4,
          &Pkcs11Pool.encrypt_many/4,
          &Pkcs11Pool.decrypt_many/4
        ],
        mechanism <- [
          "aes_gcm",
          :cipher_of_mine,
          {:cipher_of_mine, iv: "iv"},
          {"aes_gcm", iv: "iv"},
          {:vendor, -1, nil},
          {:vendor, 1},
          {:vendor, 0x80000001, {:cipher_of_mine, iv: "iv"}},
          {:vendor, 0x80000001, 1.5},
          {:aes_gcm, [iv: "iv"], "more"},
          nil,
          0x1085
        ] do
      assert_raise ArgumentError, ~r/mechanism/, fn -> many.(pool, "aes", mechanism, []) end
    end

    assert Pkcs11Pool.encrypt_many(pool, "aes", :aes_gcm, []) == {:ok, []}
    assert Pkcs11Pool.decrypt_many(pool, "aes", {:vendor, 0x80000001, :aes_gcm}, []) == {:ok, []}

    assert Chaos.calls(context.chaos) == %{}
  end

  test "the twins give the results, and raise what the call itself is refused for", context do
    assert [{:ok, mac}] = Pkcs11Pool.sign_many!(context.pool, "mac", :sha256_hmac, ["a"])

    assert [{:ok, true}] =
             Pkcs11Pool.verify_many!(context.pool, "mac", :sha256_hmac, [{"a", mac}])

    assert [{:ok, sealed}] = Pkcs11Pool.encrypt_many!(context.pool, "aes", :aes_ecb, [<<1::128>>])
    assert [{:ok, <<1::128>>}] = Pkcs11Pool.decrypt_many!(context.pool, "aes", :aes_ecb, [sealed])

    assert_raise Error, fn -> Pkcs11Pool.sign_many!(:nobody, "mac", :sha256_hmac, ["a"]) end
  end

  describe "signatures in DER" do
    setup %{pool: pool} do
      {:ok, {public, _private}} = Pools.key_pair(pool, "ec")

      {:ok, public} = Pkcs11Pool.public_key(pool, public)
      %{public: public}
    end

    test "both ways", %{pool: pool, public: public} = context do
      digests = for number <- numbers(3), do: :crypto.hash(:sha256, number)
      assert {:ok, signed} = Pkcs11Pool.sign_many(pool, "ec", :ecdsa, digests, signature: :der)
      [one, two, three] = for {:ok, signature} <- signed, do: signature

      for {digest, signature} <- Enum.zip(digests, [one, two, three]),
          do: assert(:public_key.verify({:digest, digest}, :sha256, signature, public))

      list = Enum.zip(digests, [one, "no DER", one])
      assert {:ok, results} = Pkcs11Pool.verify_many(pool, "ec", :ecdsa, list, signature: :der)
      invalid = :signature_invalid
      assert reasons(results) == [:ok, {invalid, false}, {invalid, true}]

      assert {:ok, results} = Pkcs11Pool.verify_many(pool, "none", :ecdsa, list, signature: :der)

      assert reasons(results) == List.duplicate({:key_not_found, false}, 3)
      assert_at_rest(context)
    end
  end

  describe "slices" do
    for executor <- [:dirty_io, :threads] do
      @tag pool: [pool_size: 4, executor: executor]
      test "run on all sessions at the same time, executor: #{inspect(executor)}", context do
        %{pool: pool, chaos: chaos} = context
        Chaos.hang(chaos, :C_Sign, count: 4)
        task = Task.async(fn -> sign(pool, numbers(1_000)) end)
        Poll.until(fn -> Chaos.hanging(chaos) == %{"C_Sign" => 4} end)
        assert %{waiting: 0, running: 4} = Pools.native_status(pool)
        Chaos.release(chaos)

        assert {:ok, results} = Task.await(task, 20_000)
        assert results == for(data <- numbers(1_000), do: {:ok, hmac(context, data)})
        # Each item once, in two calls.
        assert %{"C_SignInit" => 1_000, "C_Sign" => 1_000} = Chaos.calls(chaos)
        assert_at_rest(context)
      end
    end

    test "let others in between", %{pool: pool, chaos: chaos} = context do
      Chaos.latency(chaos, :C_Sign, 2)
      task = Task.async(fn -> sign(pool, numbers(2_000)) end)
      Poll.until(fn -> Chaos.calls(chaos, :C_Sign) > 0 end)
      assert {:ok, _} = Pkcs11Pool.generate_random(pool, 8)
      assert Chaos.calls(chaos, :C_Sign) < 1_000
      Chaos.clear(chaos, :C_Sign)
      assert {:ok, results} = Task.await(task, 20_000)
      assert Enum.uniq(reasons(results)) == [:ok]
      assert_at_rest(context)
    end

    test "are short in time: a slow token does not time out for the list's length", context do
      %{pool: pool, chaos: chaos} = context
      # All 64 would take twice as long as one operation may.
      Chaos.latency(chaos, :C_Sign, 30)
      assert {:ok, results} = sign(pool, numbers(64), operation_timeout: 1_000)
      assert Enum.uniq(reasons(results)) == [:ok]
      assert Chaos.calls(chaos, :C_Sign) == 64
      assert_at_rest(context)
    end
  end

  describe "time-outs" do
    @tag pool: [pool_size: 2]
    test "of a slice that hangs are its items' alone", %{pool: pool, chaos: chaos} = context do
      Chaos.hang(chaos, :C_Sign, count: 1)
      assert {:ok, results} = sign(pool, numbers(@several), operation_timeout: 1_000)

      assert [{_reason, hung}] =
               for({reason, _} = run <- runs(reasons(results)), reason != :ok, do: run)

      assert {:operation_timeout, :unknown} in reasons(results)
      assert hung in 1..64
      Chaos.release(chaos)
      # Of the slice, nothing more is done than what was being done.
      assert_at_rest(context)
      assert Chaos.calls(chaos, :C_Sign) == @several - hung + 1
    end

    test "in the queue are all items': none has started, and the wait is one", context do
      %{pool: pool, chaos: chaos} = context
      Chaos.hang(chaos, :C_Sign, count: 1)
      stuck = Task.async(fn -> Pkcs11Pool.sign(pool, "mac", :sha256_hmac, "stuck") end)
      Poll.until(fn -> Chaos.hanging(chaos) == %{"C_Sign" => 1} end)

      assert {:ok, results} = sign(pool, numbers(20_000), queue_timeout: 50)
      assert runs(reasons(results)) == [{{:queue_timeout, false}, 20_000}]
      assert Chaos.calls(chaos, :C_Sign) == 1

      Chaos.release(chaos)
      assert {:ok, _} = Task.await(stuck, 60_000)
      assert_at_rest(context)
    end

    @tag pool: [executor: :dirty_io, pool_size: 2]
    test "of a pool that is stuck as a whole come once, not for each slice", context do
      %{pool: pool, chaos: chaos} = context
      Chaos.hang(chaos, :C_Sign)
      opts = [queue_timeout: 1_000, operation_timeout: 200]
      assert {:ok, results} = sign(pool, numbers(20_000), opts)

      assert [{{:operation_timeout, :unknown}, 128}, {{:queue_timeout, false}, 19_872}] =
               runs(reasons(results))

      Chaos.release(chaos)
      assert_at_rest(context)
      assert Chaos.calls(chaos, :C_Sign) == 2
    end

    @tag pool: [pool_size: 2]
    test "that race with answers leave no message behind", %{pool: pool} = context do
      results =
        for _ <- 1..60 do
          opts = [
            queue_timeout: Enum.random([0, 1, 2, :infinity]),
            operation_timeout: Enum.random([0, 1, 2, :infinity])
          ]

          {:ok, results} = sign(pool, numbers(@several), opts)
          assert length(results) == @several
          reasons(results)
        end

      Pools.drained!(pool)

      counts = results |> Enum.concat() |> Enum.frequencies()
      # They raced, or this would prove nothing.
      assert %{:ok => _, {:operation_timeout, :unknown} => _} = counts
      outcomes = [:ok, {:operation_timeout, :unknown}, {:queue_timeout, false}]
      assert Map.keys(counts) -- outcomes == []
      assert_at_rest(context)
    end
  end

  @tag pool: [pool_size: 2, max_waiting: 0]
  test "a pool that takes none beyond its sessions takes the list, slice by slice", context do
    Pools.drained!(context.pool)

    assert {:ok, results} = sign(context.pool, numbers(@several))
    assert Enum.uniq(reasons(results)) == [:ok]
    assert_at_rest(context)
  end

  describe "a session that dies" do
    test "costs nothing once", %{pool: pool, chaos: chaos} = context do
      Chaos.fail(chaos, :C_Sign, :session_handle_invalid, nth: 10)
      list = numbers(64)
      assert sign(pool, list) == {:ok, for(data <- list, do: {:ok, hmac(context, data)})}
      # Only the one that failed is done again.
      assert Chaos.calls(chaos, :C_Sign) == 65
      assert_at_rest(context)
    end

    test "twice is the error of the item, and those behind it are not done", context do
      %{pool: pool, chaos: chaos} = context
      for nth <- [10, 20], do: Chaos.fail(chaos, :C_Sign, :session_handle_invalid, nth: nth)
      assert {:ok, results} = sign(pool, numbers(64))
      dead = :session_handle_invalid

      assert runs(reasons(results)) == [{:ok, 19}, {{dead, :unknown}, 1}, {{dead, false}, 44}]
      assert Chaos.calls(chaos, :C_Sign) == 21
      assert_at_rest(context)
    end

    test "is not tried again with what must not run twice",
         %{pool: pool, chaos: chaos} = context do
      Chaos.make_iv(chaos)
      Chaos.fail(chaos, :C_Encrypt, :session_handle_invalid, nth: 3)
      mechanism = {:aes_gcm, iv: :token}
      assert {:ok, results} = Pkcs11Pool.encrypt_many(pool, "aes", mechanism, numbers(5))
      dead = :session_handle_invalid
      assert runs(reasons(results)) == [{:ok, 2}, {{dead, :unknown}, 1}, {{dead, false}, 2}]
      assert_at_rest(context)
    end

    test "under a lease ends it: the rest is not done", %{pool: pool, chaos: chaos} = context do
      Chaos.fail(chaos, :C_Sign, :session_handle_invalid, nth: 10)

      assert {:ok, results} = Pkcs11Pool.with_session(pool, &sign(&1, numbers(@several)))

      assert [{:ok, 9}, {{:session_handle_invalid, :unknown}, 1} | rest] = runs(reasons(results))
      assert Enum.sum(for {{_reason, false}, count} <- rest, do: count) == @several - 10
      assert Chaos.calls(chaos, :C_Sign) == 10
      assert_at_rest(context)
    end
  end

  test "a lost login costs nothing", %{pool: pool, chaos: chaos} = context do
    {:ok, _} = sign(pool, numbers(1))
    Chaos.logout(chaos)
    list = numbers(@several)
    assert sign(pool, list) == {:ok, for(data <- list, do: {:ok, hmac(context, data)})}
    assert_at_rest(context)
  end

  test "a key whose handle has changed is found again", %{pool: pool, chaos: chaos} = context do
    {:ok, _} = sign(pool, numbers(1))
    Chaos.invalidate_objects(chaos)
    list = numbers(@several)
    assert sign(pool, list) == {:ok, for(data <- list, do: {:ok, hmac(context, data)})}
    assert Chaos.calls(chaos, :C_FindObjectsInit) == 1
    assert_at_rest(context)
  end

  test "within with_session they run on its session", %{pool: pool} = context do
    list = numbers(@several)
    expected = {:ok, for(data <- list, do: {:ok, hmac(context, data)})}

    Pkcs11Pool.with_session(pool, fn lease ->
      # It is the only one: by another it would be a time-out.
      assert sign(lease, list, queue_timeout: 1_000) == expected
      assert sign(pool, list, queue_timeout: 1_000) == expected
      other = Task.async(fn -> sign(lease, ["a"]) end)
      assert {:ok, [{:error, %Error{reason: :not_owner}}]} = Task.await(other, 60_000)
    end)

    lease = Pkcs11Pool.with_session(pool, & &1)
    assert {:ok, results} = sign(lease, list)
    assert runs(reasons(results)) == [{{:lease_ended, false}, @several}]
    assert_at_rest(context)
  end

  test "a time-out under a lease is the end of the list", %{pool: pool, chaos: chaos} = context do
    Chaos.hang(chaos, :C_Sign, count: 1)

    assert {:ok, results} =
             Pkcs11Pool.with_session(pool, fn lease ->
               sign(lease, numbers(@several), operation_timeout: 100)
             end)

    assert runs(reasons(results)) == [
             {{:operation_timeout, :unknown}, 64},
             {{:operation_timeout, false}, @several - 64}
           ]

    Chaos.release(chaos)
    assert_at_rest(context)
  end

  test "of a caller that is killed, no further slice starts",
       %{pool: pool, chaos: chaos} = context do
    Chaos.hang(chaos, :C_Sign, count: 1)
    {caller, monitor} = spawn_monitor(fn -> sign(pool, numbers(1_000)) end)
    Poll.until(fn -> Chaos.hanging(chaos) == %{"C_Sign" => 1} end)
    Process.exit(caller, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^caller, :killed}
    Chaos.release(chaos)
    assert {:ok, _} = Pkcs11Pool.sign(pool, "mac", :sha256_hmac, "next")
    assert_at_rest(context)
    assert Chaos.calls(chaos, :C_Sign) <= 64 + 1
  end

  @tag pool: [pool_size: 2]
  test "a pool that stops answers every item", %{pool: pool, chaos: chaos} do
    Chaos.hang(chaos, :C_Sign)
    task = Task.async(fn -> sign(pool, numbers(@several)) end)
    Poll.until(fn -> Chaos.hanging(chaos) == %{"C_Sign" => 2} end)
    assert {:ok, _left} = Pkcs11Pool.drain(pool, 0)
    Chaos.release(chaos)
    assert {:ok, results} = Task.await(task, 60_000)
    assert length(results) == @several
    assert {:draining, false} in reasons(results)
    assert Enum.uniq(reasons(results)) -- [:ok, {:draining, false}, {:draining, :unknown}] == []
  end

  test "what is in the caller's mailbox stays there, and does not matter", %{pool: pool} do
    for number <- 1..100_000, do: send(self(), {make_ref(), number})
    assert {:ok, results} = sign(pool, numbers(@several))
    assert Enum.uniq(reasons(results)) == [:ok]
    assert {:message_queue_len, 100_000} = Process.info(self(), :message_queue_len)
  end
end
