defmodule Pkcs11Pool.SessionHandleTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, KeyWrap, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @keys 16
  @callers 24
  # In all tests of the storm together.
  @answers 500_000
  # What may be answered while sessions are lost all the time.
  @reasons [:session_handle_invalid, :session_lost, :lease_ended, :token_unavailable] ++
             [:operation_not_initialized, :operation_active, :user_not_logged_in] ++
             [:key_handle_invalid, :object_handle_invalid, :wrapping_key_handle_invalid] ++
             [:general_error]

  setup do
    ChaosToken.for_test!()
  end

  # The module loses all sessions every 20 ms, while the token stays, and gives out their numbers again, and those of objects. In half
  # of the storm, a second Init replaces the first.
  for executor <- [:dirty_io, :threads], replaces? <- [false, true] do
    @tag timeout: 300_000
    test "no answer is made with another caller's key, executor #{executor}, second Init replaces: #{replaces?}",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: unquote(executor), pool_size: 8)
      keys = keys(pool)
      Chaos.replace_operations(chaos, unquote(replaces?))
      Chaos.reuse_handles(chaos, true, objects: true)

      # So that it happens between two calls of one operation, too: without the check of who owns a number, one answer in a thousand is wrong.
      for name <- [:C_Sign, :C_Verify, :C_Encrypt, :C_Decrypt],
          function <- [name, :"#{name}Update", :"#{name}Final"],
          do: Chaos.latency(chaos, function, 0.1)

      Chaos.latency(chaos, :C_WrapKey, 0.1)

      counts = storm(pool, chaos, keys, div(@answers, 4))
      assert counts.ok >= div(@answers, 4)
      assert counts.wrong == 0
      assert Map.keys(counts.errors) -- @reasons == []
      # Two threads on one session would be a session that another's operation runs on.
      assert Chaos.violations(chaos) == []

      Chaos.reset(chaos)
      assert :ok = Pkcs11Pool.await_ready(pool, 30_000)
      Pools.drained!(pool)
      stop_supervised!({Pkcs11Pool, pool})
      Poll.until(fn -> Chaos.status(chaos).sessions == 0 end)
    end
  end

  test "a session whose number was given out again is not closed by it, nor used", %{
    token: token,
    chaos: chaos
  } do
    Chaos.reuse_handles(chaos)
    pool = start(token, pool_size: 1)
    first = lessee(pool, "first")
    Chaos.kill_sessions(chaos)
    :ok = Pkcs11Pool.resize(pool, 2)
    second = lessee(pool, "second")
    assert Chaos.status(chaos).sessions == 1
    %{"C_CloseSession" => closes, "C_Digest" => digests} = calls(chaos)

    send(first.pid, :go_on)
    assert {:error, %Error{reason: :lease_ended, executed: false}} = Task.await(first)
    Poll.until(fn -> Pools.native_status(pool).closing == 0 end)
    assert %{"C_CloseSession" => ^closes, "C_Digest" => ^digests} = calls(chaos)

    send(second.pid, :go_on)
    assert Task.await(second) == {:ok, :crypto.hash(:sha256, "second")}
    assert Chaos.violations(chaos) == []
  end

  test "an answer is not believed whose session was lost and its number given out again before it came",
       %{token: token, chaos: chaos} do
    Chaos.reuse_handles(chaos)
    pool = start(token, pool_size: 1)
    keys = keys(pool)
    {_mechanism, label, _value} = elem(keys, 1)
    {:ok, _mac} = Pkcs11Pool.sign(pool, label, :sha256_hmac, "warm")

    # Its first session hangs before the module looks the number up.
    Chaos.hang(chaos, :C_Sign, nth: 1)
    caller = Task.async(fn -> Pkcs11Pool.sign(pool, label, :sha256_hmac, "first") end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_Sign"] == 1 end)
    Chaos.kill_sessions(chaos)
    :ok = Pkcs11Pool.resize(pool, 2)
    # The next session is given the number that is in use, and leaves it alone.
    assert {:ok, _digest} = Pkcs11Pool.digest(pool, :sha256, "second")
    Chaos.release(chaos)

    {:ok, mac} = Task.await(caller)
    assert verifies?(keys, label, "first", mac)
    assert Chaos.violations(chaos) == []
    Pools.drained!(pool)
    # Nobody uses the session that was left alone, and it is closed.
    Poll.until(fn -> Chaos.status(chaos).sessions == Pools.native_status(pool).idle end)
  end

  # Somebody logs in again while a key is wrapped (the epoch moves), and one of the two handles is another key's by then; the other handle is still good.
  for replaced <- ["kek", "key"] do
    test "a wrapped key is not believed where the handle of the #{replaced} was another key's before the module looked at it",
         %{token: token, chaos: chaos} do
      Chaos.reuse_handles(chaos, true, objects: true)
      pool = start(token, pool_size: 2)
      # The numbers that the application knows are the chaos module's own from here on.
      Chaos.invalidate_objects(chaos)
      [kek, key, other, new] = for _ <- 1..4, do: :crypto.strong_rand_bytes(32)
      for {label, value} <- [{"kek", kek}, {"key", key}], do: create!(pool, label, value)
      template = [token: true, private: true, label: "private", value_len: 32, encrypt: true]
      {:ok, _object} = Pkcs11Pool.generate_key(pool, :aes_key_gen, template)
      wrap = fn -> Pkcs11Pool.wrap_key(pool, "kek", :aes_key_wrap, "key") end
      assert wrap.() == {:ok, KeyWrap.wrap(kek, key)}

      # The handles are found, and the module has not looked at them.
      Chaos.hang(chaos, :C_WrapKey, nth: 1)
      caller = Task.async(wrap)
      Poll.until(fn -> Chaos.hanging(chaos)["C_WrapKey"] == 1 end)
      %{handle: handle} = find!(pool, unquote(replaced))
      :ok = Pkcs11Pool.destroy_object(pool, unquote(replaced))
      assert %{handle: ^handle} = create!(pool, "other", other)
      create!(pool, unquote(replaced), new)
      log_in_again(pool, chaos)
      Chaos.release(chaos)

      # It was wrapped, and with the other key: nobody gets that.
      assert {:error, %Error{reason: :session_lost, executed: :unknown}} = Task.await(caller)
      assert Chaos.calls(chaos, :C_WrapKey) == 2
      [kek, key] = if unquote(replaced) == "kek", do: [new, key], else: [kek, new]
      assert wrap.() == {:ok, KeyWrap.wrap(kek, key)}
      assert Chaos.violations(chaos) == []
      Pools.drained!(pool)
    end
  end

  test "an operation that must not run twice says so when its session was lost under it", %{
    token: token,
    chaos: chaos
  } do
    Chaos.reuse_handles(chaos)
    pool = start(token, pool_size: 1)
    Chaos.hang(chaos, :C_GenerateKey, nth: 1)
    template = [token: true, label: "lost", value_len: 32]
    caller = Task.async(fn -> Pkcs11Pool.generate_key(pool, :aes_key_gen, template) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GenerateKey"] == 1 end)
    Chaos.kill_sessions(chaos)
    :ok = Pkcs11Pool.resize(pool, 2)
    assert {:ok, _digest} = Pkcs11Pool.digest(pool, :sha256, "second")
    Chaos.release(chaos)

    assert {:error, %Error{reason: :session_lost, executed: :unknown} = error} =
             Task.await(caller)

    assert Exception.message(error) =~ "not used"
    refute Error.retryable?(error)
  end

  # A public object: its handle is good whoever is logged in.
  defp create!(pool, label, value) do
    Pkcs11Pool.create_object!(pool,
      class: :secret_key,
      key_type: :aes,
      token: true,
      private: false,
      label: label,
      value: value,
      wrap: true,
      sensitive: false,
      extractable: true
    )
  end

  defp find!(pool, label) do
    {:ok, [object]} = Pkcs11Pool.find_objects(pool, label: label)
    object
  end

  # The module has logged out by itself, and the pool notices it when it uses a private key.
  defp log_in_again(pool, chaos) do
    logins = Chaos.calls(chaos, :C_Login)
    Chaos.logout(chaos)
    {:ok, _ciphertext} = Pkcs11Pool.encrypt(pool, "private", :aes_ecb, <<0::128>>)
    assert Chaos.calls(chaos, :C_Login) == logins + 1
  end

  # A process that has a session for itself, and calculates a digest on it when it is told to.
  defp lessee(pool, data) do
    test = self()

    digest = fn lease ->
      send(test, {:leased, self()})
      receive do: (:go_on -> Pkcs11Pool.digest(lease, :sha256, data))
    end

    task = Task.async(fn -> Pkcs11Pool.with_session(pool, digest) end)
    %{pid: pid} = task
    assert_receive {:leased, ^pid}, 10_000
    task
  end

  defp calls(chaos),
    do: Map.merge(%{"C_CloseSession" => 0, "C_Digest" => 0}, Chaos.calls(chaos))

  defp verifies?(keys, label, data, mac) do
    {_mechanism, ^label, value} = List.keyfind(Tuple.to_list(keys), label, 1)
    :crypto.mac(:hmac, :sha256, value, data) == mac
  end

  defp start(token, opts) do
    opts = SoftHSM.pool_opts(token, opts)
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
    opts[:name]
  end

  # HMAC keys and AES keys, with their values.
  defp keys(pool) do
    for index <- 1..@keys do
      {mechanism, uses} =
        if rem(index, 2) == 0,
          do: {:generic_secret_key_gen, [sign: true, verify: true]},
          else: {:aes_key_gen, [encrypt: true, decrypt: true, wrap: true]}

      label = "key #{index}"
      attributes = [token: true, label: label, value_len: 32, sensitive: false, extractable: true]
      {:ok, object} = Pkcs11Pool.generate_key(pool, mechanism, attributes ++ uses)
      {:ok, %{value: value}} = Pkcs11Pool.get_attributes(pool, object, [:value])
      {mechanism, label, value}
    end
    |> List.to_tuple()
  end

  # Callers call until there are so many answers; each is checked outside of the token.
  defp storm(pool, chaos, keys, answers) do
    done = :counters.new(1, [])

    callers =
      for _ <- 1..@callers, do: Task.async(fn -> calls(pool, keys, done, answers, counts()) end)

    killer = Task.async(fn -> kill(chaos, done, answers) end)
    counts = callers |> Task.await_many(280_000) |> Enum.reduce(counts(), &add/2)
    Task.await(killer, 10_000)
    counts
  end

  defp counts, do: %{ok: 0, wrong: 0, errors: %{}}

  defp add(one, two) do
    errors = Map.merge(one.errors, two.errors, fn _reason, a, b -> a + b end)
    %{ok: one.ok + two.ok, wrong: one.wrong + two.wrong, errors: errors}
  end

  defp kill(chaos, done, answers) do
    if :counters.get(done, 1) < answers do
      Process.sleep(20)
      Chaos.kill_sessions(chaos)
      kill(chaos, done, answers)
    end
  end

  defp calls(pool, keys, done, answers, counts) do
    if :counters.get(done, 1) >= answers do
      counts
    else
      [key, other] = for _ <- 1..2, do: elem(keys, :rand.uniform(@keys) - 1)
      results = results(pool, key, other, :rand.uniform(20))
      :counters.add(done, 1, Enum.count(results, &(&1 == :ok)))
      calls(pool, keys, done, answers, Enum.reduce(results, counts, &count/2))
    end
  end

  defp count(:ok, counts), do: %{counts | ok: counts.ok + 1}
  defp count(:wrong, counts), do: %{counts | wrong: counts.wrong + 1}

  defp count({:error, %Error{reason: reason}}, counts),
    do: %{counts | errors: Map.update(counts.errors, reason, 1, &(&1 + 1))}

  # One on a lease, one in a list, one in parts, one of two keys, else one by itself.
  defp results(pool, {:aes_key_gen, label, value}, {_mechanism, other, wrapped}, 4) do
    wrap = Pkcs11Pool.wrap_key(pool, label, :aes_key_wrap, other)
    [judge(wrap, KeyWrap.wrap(value, wrapped))]
  end

  defp results(pool, key, _other, of), do: results(pool, key, of)

  defp results(pool, key, 1) do
    leased = fn -> for _ <- 1..3, do: result(pool, key, :rand.bytes(32)) end

    case Pkcs11Pool.with_session(pool, leased) do
      {:error, error} -> [{:error, error}]
      results -> results
    end
  end

  defp results(pool, {:generic_secret_key_gen, label, value}, 2) do
    data = for _ <- 1..10, do: :rand.bytes(32)
    {:ok, results} = Pkcs11Pool.sign_many(pool, label, :sha256_hmac, data)
    for {result, data} <- Enum.zip(results, data), do: judge(result, mac(value, data))
  end

  # That takes as long as many of the others.
  defp results(pool, key, 3) do
    if :rand.uniform(4) == 1,
      do: [in_parts(pool, key, :rand.bytes(150_000))],
      else: [result(pool, key, :rand.bytes(32))]
  end

  defp results(pool, key, _other), do: [result(pool, key, :rand.bytes(32))]

  defp in_parts(pool, {:generic_secret_key_gen, label, value}, data) do
    mac = mac(value, data)

    case :rand.uniform(2) do
      1 -> judge(Pkcs11Pool.verify_stream(pool, label, :sha256_hmac, [data], mac), :ok)
      2 -> judge(Pkcs11Pool.sign_stream(pool, label, :sha256_hmac, [data]), mac)
    end
  end

  defp in_parts(pool, {:aes_key_gen, label, value}, data) do
    iv = :rand.bytes(16)
    cipher = [encrypt: true, padding: :pkcs_padding]
    ciphertext = :crypto.crypto_one_time(:aes_256_cbc, value, iv, data, cipher)

    case :rand.uniform(2) do
      1 -> judge(joined(pool, :encrypt_stream, [label, {:aes_cbc_pad, iv}, [data]]), ciphertext)
      2 -> judge(joined(pool, :decrypt_stream, [label, {:aes_cbc_pad, iv}, [ciphertext]]), data)
    end
  end

  defp joined(pool, function, arguments) do
    {:ok,
     apply(Pkcs11Pool, function, [pool | arguments]) |> Enum.to_list() |> IO.iodata_to_binary()}
  rescue
    error in Error -> {:error, error}
  end

  defp result(pool, {:generic_secret_key_gen, label, value}, data) do
    mac = mac(value, data)

    case :rand.uniform(3) do
      1 -> judge(Pkcs11Pool.verify(pool, label, :sha256_hmac, data, mac), :ok)
      _ -> judge(Pkcs11Pool.sign(pool, label, :sha256_hmac, data), mac)
    end
  end

  defp result(pool, {:aes_key_gen, label, value}, data) do
    iv = :rand.bytes(16)
    cipher = [encrypt: true, padding: :pkcs_padding]
    ciphertext = :crypto.crypto_one_time(:aes_256_cbc, value, iv, data, cipher)

    case :rand.uniform(2) do
      1 -> judge(Pkcs11Pool.encrypt(pool, label, {:aes_cbc_pad, iv}, data), ciphertext)
      2 -> judge(Pkcs11Pool.decrypt(pool, label, {:aes_cbc_pad, iv}, ciphertext), data)
    end
  end

  defp mac(value, data), do: :crypto.mac(:hmac, :sha256, value, data)

  # What another key would give, or says of what is right that it is wrong, is a wrong answer.
  defp judge(:ok, :ok), do: :ok
  defp judge({:ok, same}, same), do: :ok

  defp judge({:error, %Error{reason: reason} = error}, _expected) do
    if reason in [:signature_invalid, :decryption_failed], do: :wrong, else: {:error, error}
  end

  defp judge(_other, _expected), do: :wrong
end
