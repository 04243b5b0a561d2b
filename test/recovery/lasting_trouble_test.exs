defmodule Pkcs11Pool.LastingTroubleTest do
  # A device in trouble behind a library that answers C_GetSessionInfo from what it knows by itself: failures that nothing contradicts for
  # :trouble_timeout lead to a logout, and then to C_Finalize and C_Initialize. What no more than bad input can do leads to neither.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  # ms
  @timeout 200
  @interval 400

  defp start!(token, opts) do
    name = :"pool-#{System.unique_integer([:positive])}"
    own = [name: name, trouble_timeout: @timeout, trouble_interval: @interval]
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, Keyword.merge(own, opts))}, id: name)
    name
  end

  defp start_ready!(token, opts) do
    pool = start!(token, opts)
    Pools.key_pair!(pool, "key")
    assert {:ok, _signature} = sign(pool)
    Pools.drained!(pool)
    Chaos.reset_counts(token.chaos)
    pool
  end

  defp sign(pool), do: Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>)

  defp until_signed(pool), do: Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end)

  defp at_rest(pool, chaos) do
    status = Pools.drained!(pool)
    assert Chaos.violations(chaos) == []
    assert Chaos.inside(chaos) == %{}
    status
  end

  defp now, do: System.monotonic_time(:millisecond)

  # What is in trouble: all that reaches the device, the operations alone, operations and the login.
  @spared %{
    everything: [],
    operations: [:C_OpenSession, :C_CloseSession, :C_Login, :C_Logout],
    logins: [:C_OpenSession, :C_CloseSession]
  }

  for code <- [:general_error, :device_error, :function_failed], size <- [1, 3] do
    test "is cured by C_Finalize and C_Initialize (#{code}, #{size} sessions)",
         %{token: token, chaos: chaos} do
      pool = start_ready!(token, pool_size: unquote(size))

      for {_what, spare} <- @spared do
        Chaos.reset_counts(chaos)
        Chaos.device_trouble(chaos, unquote(code), spare: spare)
        started = now()
        assert {:error, %Error{}} = sign(pool)
        until_signed(pool)
        assert now() - started >= @timeout
        assert Chaos.calls(chaos, :C_Finalize) == 1
        assert Chaos.calls(chaos, :C_Initialize) == 1
        assert Chaos.pin_tries(chaos) == 3
        assert Chaos.status(chaos).stale_objects == 0
        # The next one is not to be held back by the last.
        Process.sleep(@interval)
      end

      at_rest(pool, chaos)
    end
  end

  test "is cured where it is the login that fails", %{token: token, chaos: chaos} do
    pool = start!(token, pool_size: 2, lazy: true)
    Chaos.device_trouble(chaos, :general_error, spare: @spared.logins)

    assert {:error, %Error{reason: :general_error, function: :C_Login}} =
             Pkcs11Pool.generate_random(pool, 8)

    Poll.until(fn -> match?({:ok, _bytes}, Pkcs11Pool.generate_random(pool, 8)) end)
    assert Chaos.calls(chaos, :C_Initialize) == 2
    at_rest(pool, chaos)
  end

  test "is cured where it is found when sessions are opened", %{token: token, chaos: chaos} do
    pool = start!(token, pool_size: 2, lazy: true)
    Chaos.device_trouble(chaos, :function_failed)
    assert {:error, %Error{function: :C_OpenSession}} = Pkcs11Pool.generate_random(pool, 8)
    Poll.until(fn -> match?({:ok, _bytes}, Pkcs11Pool.generate_random(pool, 8)) end)
    assert Chaos.calls(chaos, :C_Initialize) == 2
    at_rest(pool, chaos)
  end

  test "is cured by a logout where that does", %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 1)
    # The look at the device, once it is asked, and the operations before it.
    Chaos.fail(chaos, :C_Sign, :general_error)
    Chaos.fail(chaos, :C_GenerateRandom, :general_error, count: 1)
    assert {:error, %Error{reason: :general_error}} = sign(pool)
    Poll.until(fn -> sign(pool) && Chaos.calls(chaos, :C_Logout) == 1 end)
    Chaos.clear(chaos, :all)
    until_signed(pool)
    assert Chaos.calls(chaos, :C_Finalize) == 0
    assert Chaos.calls(chaos, :C_Login) == 1
    at_rest(pool, chaos)
  end

  test "holds back a call that may be made twice, which then succeeds", %{
    token: token,
    chaos: chaos
  } do
    pool = start_ready!(token, pool_size: 1)
    Chaos.device_trouble(chaos, :device_error, spare: @spared.operations)
    assert {:error, %Error{reason: :device_error}} = sign(pool)
    # No answer but these two: the one that finds that it lasts waits for the end of it.
    Poll.until(fn ->
      case sign(pool) do
        {:error, %Error{reason: :device_error}} -> false
        {:ok, _signature} -> true
      end
    end)

    at_rest(pool, chaos)
  end

  test "is the token's: the failures of all its pools count together, and all are cured",
       %{token: token, chaos: chaos} do
    pools = [start_ready!(token, pool_size: 1), start!(token, pool_size: 1, executor: :threads)]
    for pool <- pools, do: assert({:ok, _signature} = sign(pool))
    Chaos.reset_counts(chaos)
    Chaos.device_trouble(chaos, :general_error)
    [one, other] = pools
    assert {:error, %Error{}} = sign(one)
    # No more of this one.
    until_signed(other)
    assert Chaos.calls(chaos, :C_Initialize) == 1
    assert {:ok, _signature} = sign(one)
    assert Chaos.calls(chaos, :C_Login) == 1
    for pool <- pools, do: at_rest(pool, chaos)
  end

  test "is seen to once in :trouble_interval", %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 2)
    Chaos.device_trouble(chaos, :general_error, until: :told, spare: @spared.operations)
    started = now()

    Poll.until(fn ->
      assert {:error, %Error{reason: :general_error}} = sign(pool)
      Chaos.calls(chaos, :C_Initialize) >= 3
    end)

    assert now() - started >= 2 * @interval
    Chaos.device_trouble(chaos, :ok)
    until_signed(pool)
    at_rest(pool, chaos)
  end

  test "that lasts beyond C_Initialize brings the pool down where no session opens, and it recovers",
       %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 2)
    Chaos.device_trouble(chaos, :device_error, until: :told)
    Poll.until(fn -> match?({:error, %Error{reason: :token_unavailable}}, sign(pool)) end)
    assert %{state: :down} = Pkcs11Pool.status(pool)
    Chaos.device_trouble(chaos, :ok)
    until_signed(pool)
    assert Chaos.pin_tries(chaos) == 3
    at_rest(pool, chaos)
  end

  test "is seen to where the token gives one session only", %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 1)
    Chaos.session_limit(chaos, 1)
    Chaos.device_trouble(chaos, :general_error, spare: @spared.operations)
    until_signed(pool)
    assert Chaos.calls(chaos, :C_Initialize) == 1
    at_rest(pool, chaos)
  end

  test "is not seen to with trouble_timeout: :infinity", %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 1, trouble_timeout: :infinity)
    Chaos.device_trouble(chaos, :general_error, spare: @spared.operations)
    started = now()

    Poll.until(fn ->
      assert {:error, %Error{reason: :general_error}} = sign(pool)
      now() - started > 3 * @timeout
    end)

    assert Chaos.calls(chaos, :C_GenerateRandom) == 0
    assert Chaos.calls(chaos, :C_Finalize) == 0
    Chaos.device_trouble(chaos, :ok)
    assert {:ok, _signature} = sign(pool)
    at_rest(pool, chaos)
  end

  test "is left to the library that has initialized the module", %{token: token} do
    other = ChaosToken.second_wrapper!(token)
    first = start!(token, pool_size: 1)
    assert {:ok, _bytes} = Pkcs11Pool.generate_random(first, 8)
    pool = start_ready!(Map.merge(token, %{module: other.module, chaos: other}), pool_size: 1)
    Chaos.device_trouble(other, :general_error, until: :told)
    started = now()

    Poll.until(fn ->
      assert {:error, %Error{}} = sign(pool)
      now() - started > 3 * @interval
    end)

    Chaos.device_trouble(other, :ok)
    until_signed(pool)
    assert Chaos.calls(other, :C_Finalize) == 0
    assert Chaos.calls(other, :C_Initialize) == 0
    at_rest(pool, other)
  end

  test "waits for calls inside, as a reload does, and leaves the module while one hangs",
       %{token: token, chaos: chaos} do
    pool = start_ready!(token, pool_size: 3, executor: :threads)
    Chaos.hang(chaos, :C_Sign, nth: 1)
    hung = Task.async(fn -> sign(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    Chaos.device_trouble(chaos, :general_error, spare: @spared.operations)
    task = Task.async(fn -> until_signed(pool) end)
    # It wants to, and does not.
    Poll.until(fn -> Chaos.calls(chaos, :C_Logout) >= 1 end)
    assert Chaos.calls(chaos, :C_Finalize) == 0
    Chaos.release(chaos)
    Task.await(hung, 30_000)
    Task.await(task, 60_000)
    assert Chaos.calls(chaos, :C_Finalize) == 1
    at_rest(pool, chaos)
  end

  describe "an attacker who sends bad ciphertexts" do
    setup %{token: token} do
      pool = start_ready!(token, pool_size: 1)
      label = [label: "sealing", value_len: 32, encrypt: true, decrypt: true]
      Pkcs11Pool.generate_key!(pool, :aes_key_gen, [token: true] ++ label)
      %{pool: pool}
    end

    @gcm {:aes_gcm, iv: <<0::96>>, aad: "", tag_bits: 128}

    defp forge(pool) do
      assert {:error, %Error{reason: :decryption_failed}} =
               Pkcs11Pool.decrypt(pool, "sealing", @gcm, :crypto.strong_rand_bytes(32))
    end

    test "to an otherwise idle pool has the device asked now and then, and nothing else",
         %{pool: pool, chaos: chaos} do
      Pools.drained!(pool)
      Chaos.reset_counts(chaos)
      started = now()

      Poll.until(fn ->
        for _ <- 1..20, do: forge(pool)
        Chaos.calls(chaos, :C_GenerateRandom) >= 5
      end)

      # At most one question in :trouble_timeout.
      assert now() - started >= 5 * @timeout
      calls = Chaos.calls(chaos)
      for function <- ~w(C_Finalize C_Initialize C_Logout C_Login), do: refute(calls[function])
      # Those of the questions.
      assert calls["C_OpenSession"] == calls["C_CloseSession"]
      assert calls["C_OpenSession"] == calls["C_GenerateRandom"]
      assert %{state: :up, login: :logged_in} = Pkcs11Pool.status(pool)
      at_rest(pool, chaos)
    end

    test "and has no question asked beside successes", %{pool: pool, chaos: chaos} do
      Chaos.reset_counts(chaos)
      started = now()

      Poll.until(fn ->
        forge(pool)
        assert {:ok, _signature} = sign(pool)
        now() - started > 3 * @timeout
      end)

      calls = Chaos.calls(chaos)
      for function <- ~w(C_Finalize C_Logout C_GenerateRandom), do: refute(calls[function])
      at_rest(pool, chaos)
    end

    test "of a token without random numbers has something looked for instead",
         %{pool: pool, chaos: chaos} do
      Chaos.fail(chaos, :C_GenerateRandom, :random_no_rng)
      forge(pool)
      Chaos.reset_counts(chaos)

      Poll.until(fn ->
        forge(pool)
        Map.get(Chaos.calls(chaos), "C_FindObjectsInit", 0) >= 3
      end)

      calls = Chaos.calls(chaos)
      for function <- ~w(C_Finalize C_Logout), do: refute(calls[function])
      Chaos.clear(chaos, :all)
      at_rest(pool, chaos)
    end
  end
end
