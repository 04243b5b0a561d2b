defmodule Pkcs11Pool.Testing.ChaosTest do
  # The chaos module itself, on SoftHSM, mostly seen through a pool of one session. What the pool
  # makes of it is not the point here.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, ReturnCode}
  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos
  alias Pkcs11Pool.Testing.Chaos.Control

  setup do
    token = SoftHSM.new_token!()
    chaos = Chaos.start!(token.module, module_env: token.module_env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> Chaos.stop(chaos) end)
    %{token: token, chaos: chaos}
  end

  defp start_pool!(%{token: token, chaos: chaos}, overrides \\ []) do
    opts = SoftHSM.pool_opts(%{token | module: chaos.module}, [pool_size: 1] ++ overrides)
    start_supervised!({Pkcs11Pool, opts}, id: opts[:name])
    opts[:name]
  end

  # A pool that has logged in and has a P-256 key, whose handle it knows.
  defp start_ready!(context, overrides \\ []) do
    pool = start_pool!(context, overrides)

    Pools.key_pair!(pool, "key")

    assert {:ok, _signature} = sign(pool)
    Chaos.reset_counts(context.chaos)
    pool
  end

  defp sign(pool, opts \\ []), do: Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>, opts)

  defp random(pool, opts \\ []), do: Pkcs11Pool.generate_random(pool, 8, opts)

  defp code({:error, %Error{code: code}}), do: code && ReturnCode.name(code)
  defp code({:ok, _value}), do: :ok

  defp recovered(fun), do: Poll.until(fn -> match?({:ok, _value}, fun.()) end, 15_000)

  defp elapsed(fun) do
    {micros, result} = :timer.tc(fun)
    {div(micros, 1000), result}
  end

  describe "undisturbed" do
    test "it hands everything on, and counts", %{chaos: chaos} = context do
      assert Chaos.calls(chaos) == %{}
      pool = start_ready!(context)

      for _ <- 1..3, do: assert({:ok, _signature} = sign(pool))
      assert %{"C_SignInit" => 3, "C_Sign" => 3} = Chaos.calls(chaos)
      assert Chaos.calls(chaos, :C_Sign) == 3
      assert Chaos.calls(chaos, "C_Verify") == 0
      assert Chaos.size_queries(chaos) == %{}
      assert Chaos.inside(chaos) == %{}
      assert Chaos.violations(chaos) == []

      assert %{initialized: true, sessions: 1, token_away: false} = Chaos.status(chaos)

      stop_supervised!(pool)
      Poll.until(fn -> not Chaos.status(chaos).initialized end)
      assert %{initialized: false, sessions: 0} = Chaos.status(chaos)
      assert Chaos.violations(chaos) == []
    end

    test "each one is a module of its own", %{token: token, chaos: chaos} = context do
      other = Chaos.start!(token.module, module_env: token.module_env)
      on_exit(fn -> Chaos.stop(other) end)
      pool = start_pool!(context)
      start_pool!(%{context | chaos: other}, name: :"#{pool}-other")
      Chaos.reset_counts(other)

      assert {:ok, _} = random(pool)
      assert Chaos.calls(chaos, :C_GenerateRandom) == 1
      assert Chaos.calls(other, :C_GenerateRandom) == 0
    end

    test "it knows the functions that Elixir knows", %{chaos: chaos} = context do
      start_pool!(context)
      assert {:ok, names} = Control.ask(chaos, ["functions"])
      assert String.split(names) == Control.functions()
    end

    test "the environment configures it, too", %{token: token, chaos: chaos} = context do
      File.rm!(chaos.module <> ".conf")

      env = %{
        "PKCS11_POOL_CHAOS_MODULE" => token.module,
        "PKCS11_POOL_CHAOS_SOCKET" => chaos.socket
      }

      pool = start_pool!(context, module_env: Map.merge(token.module_env, env))
      assert {:ok, _} = random(pool)
      assert Chaos.calls(chaos, :C_GenerateRandom) == 1
    end
  end

  describe "functions" do
    test "take longer", %{chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.latency(chaos, :C_Sign, 50)
      assert {time, {:ok, _signature}} = elapsed(fn -> sign(pool) end)
      assert time >= 50

      Chaos.latency(chaos, :C_Sign, 20..40)
      assert {time, {:ok, _signature}} = elapsed(fn -> sign(pool) end)
      assert time >= 20

      Chaos.latency(chaos, :C_Sign, 60_000)
      Chaos.latency(chaos, :C_Sign, 0)
      assert {:ok, _signature} = sign(pool)
    end

    test "answer with an error instead of running", %{chaos: chaos} = context do
      pool = start_ready!(context)

      # The pool may try again; what it answers in the end is that there was no answer but this.
      Chaos.fail(chaos, :C_SignInit, :mechanism_invalid)
      assert code(sign(pool)) == :mechanism_invalid
      assert Chaos.calls(chaos, :C_Sign) == 0

      Chaos.clear(chaos, :C_SignInit)
      assert {:ok, _signature} = sign(pool)
    end

    test "answer on the n-th call, so many times, by chance", %{chaos: chaos} = context do
      pool = start_pool!(context)
      codes = fn n -> for _ <- 1..n, do: code(random(pool)) end

      Chaos.fail(chaos, :C_GenerateRandom, :arguments_bad, nth: 2)
      assert codes.(4) == [:ok, :arguments_bad, :ok, :ok]

      Chaos.fail(chaos, :C_GenerateRandom, 0x07, nth: 2, count: 2)
      assert codes.(4) == [:ok, :arguments_bad, :arguments_bad, :ok]

      Chaos.seed(chaos, 1)
      Chaos.fail(chaos, :C_GenerateRandom, :arguments_bad, probability: 0.5)
      mixed = codes.(64)
      assert Enum.uniq(Enum.sort(mixed)) == [:arguments_bad, :ok]
      Chaos.clear(chaos, :C_GenerateRandom)

      Chaos.seed(chaos, 1)
      Chaos.fail(chaos, :C_GenerateRandom, :arguments_bad, probability: 0.5)
      assert codes.(64) == mixed
    end

    test "answer with an error although they ran", %{chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.fail(chaos, :C_DestroyObject, :function_rejected, count: 1, run: true)
      [object] = Pkcs11Pool.find_objects!(pool, label: "key", class: :private_key)
      assert code(Pkcs11Pool.destroy_object(pool, object)) == :function_rejected
      assert Pkcs11Pool.find_objects!(pool, label: "key", class: :private_key) == []
    end

    test "hang until released, while the control works", %{chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.hang(chaos, :C_Sign)
      task = Task.async(fn -> sign(pool) end)
      Poll.until(fn -> Chaos.hanging(chaos) == %{"C_Sign" => 1} end)
      assert Chaos.inside(chaos) == %{"C_Sign" => 1}
      refute Task.yield(task, 20)

      Chaos.release(chaos)
      assert {:ok, _signature} = Task.await(task, 60_000)
      assert {:ok, _signature} = sign(pool)
      assert Chaos.hanging(chaos) == %{}
    end

    test "hang, and are released with an error", %{chaos: chaos} = context do
      pool = start_pool!(context)
      Chaos.hang(chaos, :C_GenerateRandom, nth: 1)
      task = Task.async(fn -> random(pool) end)
      Poll.until(fn -> Chaos.hanging(chaos) == %{"C_GenerateRandom" => 1} end)
      Chaos.release(chaos, function: :C_GenerateRandom, code: :arguments_bad)
      assert code(Task.await(task, 60_000)) == :arguments_bad
    end

    test "abort the process", %{token: token, chaos: chaos} do
      # pkcs11-tool is a process of its own.
      Chaos.crash(chaos, :C_GenerateRandom, nth: 1)

      {output, status} =
        System.cmd(
          "pkcs11-tool",
          ["--module", chaos.module, "--slot", "#{token.slot_id}", "--generate-random", "8"],
          env: Map.to_list(token.module_env),
          stderr_to_stdout: true
        )

      assert status == 128 + 6, output
    end
  end

  describe "sessions and objects" do
    test "there are only so many", %{chaos: chaos} = context do
      Chaos.session_limit(chaos, 0)
      pool = start_pool!(context)
      assert {:error, %Error{}} = random(pool, queue_timeout: 300)
      assert Chaos.calls(chaos, :C_OpenSession) >= 1
      assert Chaos.status(chaos).sessions == 0

      Chaos.session_limit(chaos, :infinity)
      recovered(fn -> random(pool, queue_timeout: 300) end)
    end

    test "die of not being used, and C_GetSessionInfo is no use", %{chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.session_idle_limit(chaos, 60_000)
      assert {:ok, _signature} = sign(pool)
      Chaos.session_idle_limit(chaos, 1)
      Process.sleep(5)
      # It is in no hurry to say so.
      assert Chaos.status(chaos).sessions == 1
      recovered(fn -> sign(pool) end)
      assert Chaos.status(chaos).dead_sessions >= 1
      Chaos.session_idle_limit(chaos, :infinity)
      assert {:ok, _signature} = sign(pool)
      assert_raise ArgumentError, ~r/milliseconds/, fn -> Chaos.session_idle_limit(chaos, -1) end
    end

    test "die", %{chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.kill_sessions(chaos)
      assert Chaos.status(chaos).sessions == 0

      recovered(fn -> sign(pool) end)
      assert Chaos.status(chaos).dead_sessions >= 1
      assert Chaos.calls(chaos, :C_OpenSession) >= 1
      # The last session took the login with it.
      assert Chaos.calls(chaos, :C_Login) == 1
    end

    test "lose their handles", %{chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.invalidate_objects(chaos)
      recovered(fn -> sign(pool) end)
      assert Chaos.status(chaos).stale_objects >= 1
      assert Chaos.calls(chaos, :C_FindObjectsInit) >= 1
      assert Chaos.calls(chaos, :C_Login) == 0

      # Once more: now the handles are not the real module's.
      Chaos.reset_counts(chaos)
      Chaos.invalidate_objects(chaos)
      recovered(fn -> sign(pool) end)
      assert Chaos.status(chaos).stale_objects >= 1
    end

    test "are logged out", %{chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.logout(chaos)
      recovered(fn -> sign(pool) end)
      assert Chaos.calls(chaos, :C_Login) == 1
      # Those of the control are not counted.
      assert Chaos.calls(chaos, :C_Logout) == 0

      Chaos.kill_sessions(chaos)
      assert_raise RuntimeError, ~r/no session is open/, fn -> Chaos.logout(chaos) end
    end
  end

  describe "the token" do
    test "goes, and comes back", %{chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.remove_token(chaos)
      assert %{token_away: true, sessions: 0} = Chaos.status(chaos)
      refute code(random(pool, queue_timeout: 300)) == :ok

      Chaos.return_token(chaos)
      recovered(fn -> sign(pool, queue_timeout: 300) end)
      assert %{token_away: false, sessions: 1} = Chaos.status(chaos)
      assert Chaos.calls(chaos, :C_Login) == 1
    end

    test "comes back on another slot", %{token: token, chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.remove_token(chaos)
      Chaos.return_token(chaos, slot_id: 77)

      # Either the pool finds it again, or it asks for the slot that was.
      assert Poll.until(fn ->
               code(random(pool, queue_timeout: 300)) in [:ok, :slot_id_invalid]
             end)

      stop_supervised!(pool)
      Poll.until(fn -> not Chaos.status(chaos).initialized end)

      # Nothing else than the slot's id has changed.
      assert_raise ArgumentError, ~r/no token is away/, fn ->
        Chaos.return_token(chaos, slot_id: 78)
      end

      Chaos.remove_token(chaos, slot_id: 77)
      Chaos.return_token(chaos, slot_id: token.slot_id)
      pool = start_pool!(context)
      assert {:ok, _signature} = sign(pool)
    end

    test "is away at first", %{token: token, chaos: chaos} = context do
      Chaos.remove_token(chaos, slot_id: token.slot_id, code: :session_handle_invalid)
      pool = start_pool!(context)
      assert {:error, %Error{}} = random(pool, queue_timeout: 300)
      assert Chaos.calls(chaos, :C_OpenSession) == 0
      Chaos.return_token(chaos, slot_id: 78)
      recovered(fn -> random(pool, queue_timeout: 300) end)
    end

    test "takes its calls in flight along", %{chaos: chaos} = context do
      pool = start_pool!(context)
      Chaos.hang(chaos, :C_GenerateRandom, nth: 1)
      task = Task.async(fn -> random(pool) end)
      Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
      Chaos.remove_token(chaos)
      Chaos.release(chaos)
      assert {:error, %Error{}} = Task.await(task, 60_000)
      assert Chaos.status(chaos).sessions == 0
      assert Chaos.violations(chaos) == []
    end

    test "counts wrong PINs", %{chaos: chaos} = context do
      assert_raise RuntimeError, ~r/has not been loaded/, fn -> Chaos.pin_tries(chaos) end

      pool = start_pool!(context, pin: fn -> "0000" end)
      assert code(random(pool)) == :pin_incorrect
      assert Chaos.calls(chaos, :C_Login) == 1
      assert Chaos.pin_tries(chaos) == 2
      assert Chaos.pin_tries(chaos, :so) == 3

      Chaos.pin_limit(chaos, :infinity)
      assert Chaos.pin_tries(chaos) == :infinity
    end

    test "shows that the next wrong PIN locks it, and that one did", %{chaos: chaos} = context do
      Chaos.pin_limit(chaos, 1)
      pool = start_pool!(context, pin: fn -> "0000" end)
      # The pool sees CKF_USER_PIN_FINAL_TRY, and does not.
      assert {:error, %Error{}} = random(pool, queue_timeout: 1_000)
      assert Chaos.calls(chaos, :C_Login) == 0
      assert Chaos.calls(chaos, :C_GetTokenInfo) >= 1
      stop_supervised!(pool)

      Chaos.token_flags(chaos, set: [:user_pin_locked])
      Chaos.pin_limit(chaos, 3)
      pool = start_pool!(context)
      assert {:error, %Error{}} = random(pool, queue_timeout: 1_000)
      assert Chaos.calls(chaos, :C_Login) == 0
    end

    test "is write-protected", %{token: token, chaos: chaos} = context do
      Chaos.token_flags(chaos, set: [:write_protected, 0x4], clear: [:rng])

      {output, 0} =
        System.cmd("pkcs11-tool", ["--module", chaos.module, "--list-slots"],
          env: Map.to_list(token.module_env),
          stderr_to_stdout: true
        )

      assert output =~ "readonly"

      pool = start_pool!(context, read_only: true)
      Chaos.token_flags(chaos, set: [:write_protected])
      assert {:ok, _} = random(pool)
    end
  end

  describe "the module" do
    test "is not initialized any more", %{chaos: chaos} = context do
      pool = start_ready!(context)
      Chaos.uninitialize(chaos)
      assert %{initialized: false} = Chaos.status(chaos)
      assert code(random(pool, queue_timeout: 300)) in [:ok, :cryptoki_not_initialized, nil]
      Chaos.reset(chaos)
      assert %{initialized: true} = Chaos.status(chaos)
    end

    test "cannot lock", %{chaos: chaos} = context do
      Chaos.cant_lock(chaos)
      pool = start_ready!(context)
      # Its second C_Initialize promises one thread at a time.
      assert Pkcs11Pool.status(pool).serialized
      assert code(random(pool)) == :ok
    end
  end

  test "a token makes the IVs of AES-GCM", %{chaos: chaos} = context do
    pool = start_ready!(context)
    template = [token: true, label: "aes", value_len: 16, encrypt: true]
    {:ok, _} = Pkcs11Pool.generate_key(pool, :aes_key_gen, template)
    encrypt = fn -> Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: :token}, "data") end

    Chaos.make_iv(chaos)
    assert {:ok, {<<_::96>> = one, _ciphertext}} = encrypt.()
    assert {:ok, {<<_::96>> = two, _ciphertext}} = encrypt.()
    assert one != two
    Chaos.make_iv(chaos, false)
    assert {:error, %Error{reason: :iv_not_made}} = encrypt.()
  end

  test "what is on the edge of sense is taken by the module, too", %{chaos: chaos} = context do
    _pool = start_pool!(context)

    for probability <- [0, 0.0, 1.0e-9, 1, 1.0],
        do: Chaos.fail(chaos, :C_Sign, 0xFFFFFFFFFFFFFFFF, probability: probability)

    Chaos.hang(chaos, :C_Sign, nth: 1, count: 0xFFFFFFFFFFFFFFFF)
    Chaos.latency(chaos, :C_Sign, 0..4_294_967)
    Chaos.session_limit(chaos, 0)
    Chaos.pin_limit(chaos, 0xFFFFFFFF)
    Chaos.seed(chaos, 0)
    Chaos.reset(chaos)
  end

  test "what makes no sense raises", %{chaos: chaos} do
    assert_raise ArgumentError, ~r/a PKCS#11 function/, fn -> Chaos.hang(chaos, :C_Sing) end
    assert_raise ArgumentError, ~r/a return code/, fn -> Chaos.fail(chaos, :C_Sign, :oops) end
    assert_raise ArgumentError, ~r/milliseconds/, fn -> Chaos.latency(chaos, :C_Sign, -1) end
    assert_raise ArgumentError, ~r/integer or :infinity/, fn -> Chaos.session_limit(chaos, -1) end
    assert_raise ArgumentError, ~r/flag of a token/, fn -> Chaos.token_flags(chaos, set: [:a]) end

    for {option, wrong} <- [
          nth: [0, -1, 1.5, "1", 2 ** 64],
          count: [0, -1, 1.5, :all, 2 ** 64],
          probability: [2.0, -0.1, 2, "0.5"]
        ],
        value <- wrong do
      message = ~r/expected #{inspect(option)} to be .*, got: /

      for rule <- [
            &Chaos.fail(chaos, :C_Sign, :device_error, &1),
            &Chaos.hang(chaos, :C_Sign, &1),
            &Chaos.crash(chaos, :C_Sign, &1)
          ],
          do: assert_raise(ArgumentError, message, fn -> rule.([{option, value}]) end)
    end

    for {message, wrong} <- [
          {~r/a return code/, &Chaos.fail(&1, :C_Sign, 2 ** 64)},
          {~r/a return code/, &Chaos.release(&1, code: -1)},
          {~r/:run to be a boolean/, &Chaos.fail(&1, :C_Sign, :device_error, run: :yes)},
          {~r/milliseconds/, &Chaos.latency(&1, :C_Sign, 20..5//-1)},
          {~r/milliseconds/, &Chaos.latency(&1, :C_Sign, -5..5)},
          {~r/milliseconds, at most/, &Chaos.latency(&1, :C_Sign, 5_000_000)},
          {~r/milliseconds, at most/, &Chaos.latency(&1, :C_Sign, 5..5_000_000)},
          {~r/milliseconds/, &Chaos.size_query_latency(&1, -1)},
          {~r/integer or :infinity/, &Chaos.session_limit(&1, 1.5)},
          {~r/integer or :infinity/, &Chaos.session_limit(&1, 2 ** 64)},
          {~r/integer from 1 .* or :infinity/, &Chaos.pin_limit(&1, 0)},
          {~r/integer from 1 .* or :infinity/, &Chaos.pin_limit(&1, 2 ** 32)},
          {~r/flag of a token/, &Chaos.token_flags(&1, clear: [2 ** 64])},
          {~r/:seed to be/, &Chaos.seed(&1, -1)},
          {~r/:slot_id to be/, &Chaos.remove_token(&1, slot_id: -1)},
          {~r/:slot_id to be/, &Chaos.return_token(&1, slot_id: "1")},
          {~r/:from to be/, &Chaos.return_token(&1, from: 2 ** 64)}
        ],
        do: assert_raise(ArgumentError, message, fn -> wrong.(chaos) end)

    # Nothing of it is done later, either: the module executes when it is loaded what it was told before.
    refute File.exists?(chaos.init)

    assert_raise ArgumentError, ~r/:tmp_dir/, fn ->
      Chaos.start!(chaos.module, tmp_dir: "/" <> String.duplicate("a", 100))
    end

    assert_raise ArgumentError, ~r/there is no/, fn -> Chaos.start!("no-module.so") end
  end
end
