defmodule Pkcs11Pool.LaterFunctionsTest do
  # Faults in the functions of PKCS#11 3.0 and 3.2, on a token that has them (kryoptic), behind a chaos module.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Token}
  alias Pkcs11Pool.Test.{ChaosToken, Kryoptic, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag skip: Kryoptic.missing()

  @gcm {:aes_gcm, iv: :token}

  setup do
    bare = Kryoptic.new_token!()
    token = ChaosToken.wrap!(bare)
    on_exit(fn -> Chaos.stop(token.chaos) end)
    %{bare: bare, token: token, chaos: token.chaos}
  end

  # With an AES key, and a pair of ML-KEM keys.
  defp start(token, opts) do
    opts = SoftHSM.pool_opts(token, opts)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]
    on_exit(fn -> Chaos.release(token.chaos) end)
    :ok = Pkcs11Pool.await_ready(pool, 30_000)

    aes = [value_len: 32, label: "aes", encrypt: true, decrypt: true, sign: true]
    visible = [token: true, sensitive: false, extractable: true]
    {:ok, _key} = Pkcs11Pool.generate_key(pool, :aes_key_gen, aes ++ visible)
    public = [token: true, label: "kem", parameter_set: :ml_kem_768, encapsulate: true]
    private = [token: true, label: "kem", private: true, decapsulate: true]
    {:ok, _pair} = Pkcs11Pool.generate_key_pair(pool, :ml_kem_key_pair_gen, public, private)
    Chaos.reset_counts(token.chaos)
    pool
  end

  defp encrypt(pool, data, opts \\ []), do: Pkcs11Pool.encrypt(pool, "aes", @gcm, data, opts)

  # Kryoptic's own decryption, and :crypto's.
  defp assert_encrypted(pool, {:ok, {iv, sealed}}, data) do
    assert Pkcs11Pool.decrypt(pool, "aes", {:aes_gcm, iv: iv}, sealed) == {:ok, data}
    %{value: value} = Pkcs11Pool.get_attributes!(pool, "aes", [:value])
    {bytes, tag} = :erlang.split_binary(sealed, byte_size(sealed) - 16)
    assert :crypto.crypto_one_time_aead(:aes_256_gcm, value, iv, bytes, "", tag, false) == data
  end

  defp shared(label) do
    [class: :secret_key, key_type: :generic_secret, value_len: 32, token: true, label: label] ++
      [sensitive: false, extractable: true]
  end

  defp drained!(pool, chaos) do
    Chaos.release(chaos)
    Pools.drained!(pool)
    Poll.until(fn -> Chaos.status(chaos).sessions == Pkcs11Pool.status(pool).idle end)
    assert Chaos.violations(chaos) == []
  end

  test "the chaos module has the interfaces of the module that it wraps, and no others",
       %{bare: bare, token: token} do
    [wrapped, real, softhsm] =
      for %{module: module, module_env: env} <- [token, bare, ChaosToken.new!()] do
        {:ok, %{module: info}} = Token.list(module: module, module_env: env)
        {info.function_list, Enum.map(info.interfaces, &{&1.name, &1.version, &1.flags})}
      end

    assert {{3, 2}, [_, _ | _]} = real
    assert wrapped == real
    assert softhsm == {{2, 40}, []}
  end

  test "the functions of PKCS#11 3.x are called by way of the chaos module, which changes nothing",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 1)
    assert_encrypted(pool, encrypt(pool, "data"), "data")

    assert {:ok, {ciphertext, key}} = Pkcs11Pool.encapsulate(pool, "kem", :ml_kem, shared("one"))

    assert {:ok, same} = Pkcs11Pool.decapsulate(pool, "kem", :ml_kem, ciphertext, shared("two"))

    [one, two] = for object <- [key, same], do: Pkcs11Pool.get_attributes!(pool, object, [:value])
    assert one == two and byte_size(one.value) == 32

    for function <-
          [:C_MessageEncryptInit, :C_EncryptMessage, :C_MessageEncryptFinal] ++
            [:C_EncapsulateKey, :C_DecapsulateKey],
        do: assert(Chaos.calls(chaos, function) >= 1)

    drained!(pool, chaos)
  end

  test "a message that hangs frees its caller at its deadline, and its session is replaced",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 1, executor: :threads, operation_timeout: 500)
    # The keys are known: else the look-up takes of the time, too.
    assert {:ok, _sealed} = encrypt(pool, "warm", operation_timeout: 30_000)

    for function <- [:C_MessageEncryptInit, :C_EncryptMessage, :C_MessageEncryptFinal] do
      Chaos.hang(chaos, function, nth: 1)

      assert {:error, %Error{reason: :operation_timeout, executed: :unknown}} =
               encrypt(pool, "hangs")

      assert Chaos.hanging(chaos)[to_string(function)] == 1
      assert %{hung: 1} = Pkcs11Pool.status(pool)
      assert_encrypted(pool, encrypt(pool, "next", operation_timeout: 30_000), "next")
      drained!(pool, chaos)
    end
  end

  # Another one would use up another IV: hence only what was not begun is begun again.
  test "a message whose session has died is begun on another one, given if it was made, or else an error",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 2)
    died = [:session_handle_invalid, :session_closed]

    for code <- died,
        # C_SessionCancel shows that the session lives, where the message was made.
        {function, calls, closed} <- [
          {:C_MessageEncryptInit, 2, 1},
          {:C_EncryptMessage, 1, 1},
          {:C_MessageEncryptFinal, 1, 0}
        ] do
      Chaos.reset_counts(chaos)
      Chaos.fail(chaos, function, code, count: 1)
      result = encrypt(pool, "data")
      assert Chaos.calls(chaos, function) == calls

      if function == :C_EncryptMessage do
        assert {:error, %Error{reason: ^code, executed: :unknown, function: ^function}} = result
      else
        assert_encrypted(pool, result, "data")
      end

      drained!(pool, chaos)
      assert Chaos.calls(chaos, :C_CloseSession) == closed
      assert Chaos.calls(chaos, :C_SessionCancel) == 1 - closed
    end

    # A code that always comes is the caller's to hear.
    Chaos.fail(chaos, :C_MessageEncryptInit, :session_handle_invalid)

    assert {:error, %Error{reason: :session_handle_invalid, function: :C_MessageEncryptInit}} =
             encrypt(pool, "data")

    Chaos.reset(chaos)
    assert_encrypted(pool, encrypt(pool, "data"), "data")
    drained!(pool, chaos)
  end

  test "a token that is taken out while it encrypts a message is the error, and found again when it is back",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 2)
    Chaos.hang(chaos, :C_EncryptMessage, nth: 1)
    caller = Task.async(fn -> encrypt(pool, "data", operation_timeout: 60_000) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_EncryptMessage"] == 1 end)
    Chaos.remove_token(chaos)
    Chaos.release(chaos)

    assert {:error, %Error{reason: :token_unavailable, executed: :unknown, function: function}} =
             Task.await(caller, 60_000)

    assert function == :C_EncryptMessage

    Chaos.return_token(chaos)
    assert :ok = Pkcs11Pool.await_ready(pool, 60_000)
    assert_encrypted(pool, encrypt(pool, "data"), "data")
    drained!(pool, chaos)
  end

  describe "a stream that is broken off within a block" do
    # The enumerable raises behind the first part; then a signature on the session of the block.
    defp break_off(pool) do
      Pkcs11Pool.with_session(pool, fn ->
        parts =
          Stream.map([1, 2], fn
            1 -> :binary.copy("x", 100_000)
            2 -> raise "broken off"
          end)

        assert_raise RuntimeError, fn -> Pkcs11Pool.sign_stream(pool, "aes", :aes_cmac, parts) end
        Pkcs11Pool.generate_random(pool, 8)
      end)
    end

    test "is cancelled, and the block keeps its session", %{token: token, chaos: chaos} do
      pool = start(token, pool_size: 1)
      assert {:ok, <<_::64>>} = break_off(pool)
      assert Chaos.calls(chaos, :C_SessionCancel) == 1
      drained!(pool, chaos)
      assert Chaos.calls(chaos, :C_CloseSession) == 0
      assert {:ok, _mac} = Pkcs11Pool.sign(pool, "aes", :aes_cmac, "data")
    end

    test "costs the session where C_SessionCancel fails or is not there: nobody gets it any more",
         %{token: token, chaos: chaos} do
      pool = start(token, pool_size: 1)

      for code <- [:operation_cancel_failed, :function_not_supported, :general_error] do
        Chaos.reset_counts(chaos)
        Chaos.fail(chaos, :C_SessionCancel, code)

        assert {:error, %Error{reason: :lease_ended}} = break_off(pool)
        assert Chaos.calls(chaos, :C_SessionCancel) >= 1
        Chaos.clear(chaos, :C_SessionCancel)
        assert {:ok, _mac} = Pkcs11Pool.sign(pool, "aes", :aes_cmac, "data")
        Poll.until(fn -> Chaos.calls(chaos, :C_CloseSession) == 1 end)
        assert Chaos.calls(chaos, :C_OpenSession) == 1
        drained!(pool, chaos)
      end
    end
  end

  test "a message that fails, and whose end fails, costs the session where C_SessionCancel fails, too",
       %{token: token, chaos: chaos} do
    pool = start(token, pool_size: 1)

    for {cancel, closed} <- [{:ok, 0}, {:operation_cancel_failed, 1}] do
      Chaos.reset_counts(chaos)
      Chaos.fail(chaos, :C_EncryptMessage, :data_invalid, count: 1)
      Chaos.fail(chaos, :C_MessageEncryptFinal, :function_failed, count: 1)
      if cancel != :ok, do: Chaos.fail(chaos, :C_SessionCancel, cancel, count: 1)
      assert {:error, %Error{reason: :data_invalid}} = encrypt(pool, "data")
      drained!(pool, chaos)
      Poll.until(fn -> Chaos.calls(chaos, :C_CloseSession) == closed end)
      assert Chaos.calls(chaos, :C_SessionCancel) == 1
      Chaos.reset(chaos)
      assert_encrypted(pool, encrypt(pool, "next"), "next")
    end
  end

  describe "a secret that is shared" do
    test "and of which the answer is lost may have left a key behind, and is not made twice",
         %{token: token, chaos: chaos} do
      pool = start(token, pool_size: 1)

      for {function, make} <- [
            C_EncapsulateKey: &Pkcs11Pool.encapsulate(pool, "kem", :ml_kem, shared(&1)),
            C_DecapsulateKey:
              &Pkcs11Pool.decapsulate(pool, "kem", :ml_kem, ciphertext(pool), shared(&1))
          ],
          {runs?, keys} <- [{true, 1}, {false, 0}] do
        label = "#{function} #{runs?}"
        Chaos.reset_counts(chaos)
        Chaos.fail(chaos, function, :device_error, count: 1, run: runs?)

        assert {:error, %Error{reason: :device_error, function: ^function, executed: :unknown}} =
                 make.(label)

        assert Chaos.calls(chaos, function) == 1
        # The caller finds it by the label that it gave it.
        assert {:ok, found} = Pkcs11Pool.find_objects(pool, label: label)
        assert length(found) == keys
      end

      drained!(pool, chaos)
    end

    test "whose key's handle is stale is looked for again, and made once",
         %{token: token, chaos: chaos} do
      pool = start(token, pool_size: 1)
      ciphertext = ciphertext(pool)

      for {function, make} <- [
            C_EncapsulateKey: &Pkcs11Pool.encapsulate(pool, "kem", :ml_kem, shared(&1)),
            C_DecapsulateKey:
              &Pkcs11Pool.decapsulate(pool, "kem", :ml_kem, ciphertext, shared(&1))
          ] do
        label = "#{function}"
        assert {:ok, _made} = make.("warm")
        Chaos.reset_counts(chaos)
        Chaos.invalidate_objects(chaos)
        assert {:ok, _made} = make.(label)
        # The first one was refused for its key.
        assert Chaos.calls(chaos, function) == 2
        assert {:ok, [_only]} = Pkcs11Pool.find_objects(pool, label: label)
      end

      drained!(pool, chaos)
    end

    test "whose caller has given up leaves no key behind, whenever the answer comes",
         %{token: token, chaos: chaos} do
      pool = start(token, pool_size: 1, executor: :threads)
      Chaos.hang(chaos, :C_EncapsulateKey, nth: 1)
      opts = [operation_timeout: 300]

      assert {:error, %Error{reason: :operation_timeout, executed: :unknown}} =
               Pkcs11Pool.encapsulate(pool, "kem", :ml_kem, shared("late"), opts)

      Chaos.release(chaos)
      Poll.until(fn -> Chaos.calls(chaos, :C_DestroyObject) == 1 end)
      Poll.until(fn -> Pkcs11Pool.find_objects(pool, label: "late") == {:ok, []} end)
      drained!(pool, chaos)
    end

    defp ciphertext(pool) do
      {:ok, {ciphertext, key}} =
        Pkcs11Pool.encapsulate(pool, "kem", :ml_kem, shared("of the ciphertext"))

      :ok = Pkcs11Pool.destroy_object(pool, key)
      ciphertext
    end
  end

  test "a PIN that C_LoginUser refuses is tried once, and counted as one of C_Login",
       %{token: token, chaos: chaos} do
    # Kryoptic has it in its list, and answers each time that it does not support it.
    Chaos.fail(chaos, :C_LoginUser, :pin_incorrect)
    opts = SoftHSM.pool_opts(token, username: "operator")
    start_supervised!({Pkcs11Pool, opts})

    for _ <- 1..3 do
      assert {:error, %Error{reason: :pin_incorrect, function: :C_LoginUser}} =
               Pkcs11Pool.sign(opts[:name], "aes", :aes_cmac, "data")
    end

    assert Chaos.calls(chaos, :C_LoginUser) == 1
    assert Chaos.calls(chaos, :C_Login) == 0
  end
end
