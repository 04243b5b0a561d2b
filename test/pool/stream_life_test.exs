defmodule Pkcs11Pool.StreamLifeTest do
  # What may befall a stream between its beginning and its end: its caller, its enumerable, its session and the module.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @aes :binary.list_to_bin(Enum.to_list(1..32))
  @iv :binary.copy(<<7>>, 16)
  @part 65_536
  @data :binary.copy("0123456789abcdef", 16_384)
  @cbc {:aes_cbc_pad, iv: @iv}
  @verbs [:digest, :sign, :verify, :encrypt, :decrypt]

  setup do: ChaosToken.for_test!()

  defp start(token, opts \\ []) do
    name = :"stream-#{System.unique_integer([:positive])}"
    opts = SoftHSM.pool_opts(token, Keyword.merge([name: name, pool_size: 1], opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    on_exit(fn -> Chaos.release(token.chaos) end)
    :ok = Pkcs11Pool.await_ready(name, 30_000)
    secret = [class: :secret_key, token: true, sign: true, verify: true, value: @aes]
    aes = [key_type: :aes, label: "aes", encrypt: true, decrypt: true]
    mac = [key_type: :generic_secret, label: "mac"]
    # However slow the machine is, and short the time of the test's own calls.
    for key <- [aes, mac],
        do: Pkcs11Pool.create_object!(name, secret ++ key, operation_timeout: 30_000)

    name
  end

  defp drained(pool) do
    Poll.until(fn -> Pools.drained!(pool, 30_000).leased == 0 end)
  end

  # Nothing is leased, runs or waits; the module has no other sessions than the pool knows; and the next call is served.
  defp at_rest(pool, chaos) do
    drained(pool)
    Poll.until(fn -> Chaos.status(chaos).sessions == Pkcs11Pool.status(pool).idle end)
    for verb <- @verbs, do: assert(run(pool, verb, [input(verb)]) == expected(verb))
    drained(pool)
    assert Chaos.violations(chaos) == []
  end

  defp mac, do: :crypto.mac(:hmac, :sha256, @aes, @data)

  defp sealed do
    options = [encrypt: true, padding: :pkcs_padding]
    :crypto.crypto_one_time(:aes_256_cbc, @aes, @iv, @data, options)
  end

  # Each kind of stream, with its result as that of a function.
  defp run(pool, verb, enumerable, opts \\ [])

  defp run(pool, :digest, enumerable, opts),
    do: Pkcs11Pool.digest_stream(pool, :sha256, enumerable, opts)

  defp run(pool, :sign, enumerable, opts),
    do: Pkcs11Pool.sign_stream(pool, "mac", :sha256_hmac, enumerable, opts)

  defp run(pool, :verify, enumerable, opts),
    do: Pkcs11Pool.verify_stream(pool, "mac", :sha256_hmac, enumerable, mac(), opts)

  defp run(pool, :encrypt, enumerable, opts),
    do: collect(Pkcs11Pool.encrypt_stream(pool, "aes", @cbc, enumerable, opts))

  defp run(pool, :decrypt, enumerable, opts),
    do: collect(Pkcs11Pool.decrypt_stream(pool, "aes", @cbc, enumerable, opts))

  defp collect(stream) do
    {:ok, stream |> Enum.to_list() |> IO.iodata_to_binary()}
  rescue
    error in Error -> {:error, error}
  end

  defp expected(:digest), do: {:ok, :crypto.hash(:sha256, @data)}
  defp expected(:sign), do: {:ok, mac()}
  defp expected(:verify), do: :ok
  defp expected(:encrypt), do: {:ok, sealed()}
  defp expected(:decrypt), do: {:ok, @data}

  defp input(:decrypt), do: sealed()
  defp input(_verb), do: @data

  # Some parts of the data, then something else happens.
  defp after_parts(verb, count, fun) do
    parts = for n <- 0..(count - 1), do: binary_part(input(verb), n * @part, @part)
    Stream.concat(parts, Stream.flat_map([:then], fn _then -> fun.() end))
  end

  defp rest(verb, from) do
    data = input(verb)
    [binary_part(data, from * @part, byte_size(data) - from * @part)]
  end

  for verb <- @verbs do
    test "an enumerable of #{verb} that raises, throws or exits does so, and leaves no operation",
         %{token: token, chaos: chaos} do
      pool = start(token)
      run = &run(pool, unquote(verb), after_parts(unquote(verb), 2, &1))
      assert_raise RuntimeError, "no", fn -> run.(fn -> raise "no" end) end
      assert catch_throw(run.(fn -> throw(:ball) end)) == :ball
      assert catch_exit(run.(fn -> exit(:out) end)) == :out
      assert_raise ArgumentError, ~r/iodata/, fn -> run.(fn -> [:secret] end) end
      final = :"C_#{unquote(verb |> Atom.to_string() |> String.capitalize())}Final"
      assert Chaos.calls(chaos, final) == 0
      at_rest(pool, chaos)
    end

    test "an enumerable of #{verb} that halts has ended", %{token: token, chaos: chaos} do
      pool = start(token)
      verb = unquote(verb)
      expected = expected(verb)
      endless = Stream.concat([input(verb)], Stream.cycle([:never]))
      assert run(pool, verb, Stream.take(endless, 1)) == expected
      assert run(pool, verb, Stream.take_while(endless, &is_binary/1)) == expected
      halted = fn acc, fun -> {:halted, elem(fun.(input(verb), elem(acc, 1)), 1)} end
      if verb in [:digest, :sign], do: assert(run(pool, verb, halted) == expected)
      at_rest(pool, chaos)
    end
  end

  test "a consumer that halts early, raises or is suspended leaves no operation",
       %{token: token, chaos: chaos} do
    pool = start(token)
    closes = fn -> Chaos.calls(chaos, :C_CloseSession) end
    before = closes.()

    for verb <- [:encrypt, :decrypt] do
      stream = if verb == :encrypt, do: encrypt(pool, [@data]), else: decrypt(pool, [sealed()])
      assert [<<_::binary>>] = Enum.take(stream, 1)
      assert Enum.take(stream, 0) == []
      assert [{_, 1}, {_, 2}] = stream |> Stream.zip([1, 2]) |> Enum.to_list()

      assert_raise RuntimeError, "full", fn ->
        Enum.each(stream, fn _part -> raise "full" end)
      end

      assert catch_throw(Enum.each(stream, &throw/1)) |> is_binary()
    end

    Poll.until(fn -> closes.() > before end)
    assert Chaos.calls(chaos, :C_EncryptFinal) == 0
    at_rest(pool, chaos)
  end

  defp encrypt(pool, enumerable), do: Pkcs11Pool.encrypt_stream(pool, "aes", @cbc, enumerable)
  defp decrypt(pool, enumerable), do: Pkcs11Pool.decrypt_stream(pool, "aes", @cbc, enumerable)

  test "a lazy stream asks nothing before it is enumerated, and begins anew each time",
       %{token: token, chaos: chaos} do
    pool = start(token)
    stream = encrypt(pool, [@data])
    assert Chaos.calls(chaos, :C_EncryptInit) == 0
    assert collect(stream) == {:ok, sealed()}
    assert collect(stream) == {:ok, sealed()}
    # In whichever process.
    assert Task.await(Task.async(fn -> collect(stream) end)) == {:ok, sealed()}
    assert {:error, %Error{reason: :pool_not_found}} = collect(encrypt(:nobody, [@data]))
    at_rest(pool, chaos)
  end

  describe "a call from within a stream" do
    test "that would wait for the stream's own session fails at once", %{
      token: token,
      chaos: chaos
    } do
      pool = start(token, queue_timeout: :infinity)

      refused = fn call ->
        assert {:error, %Error{reason: :stream_in_progress, executed: false} = error} = call
        assert error.message =~ "all sessions that the pool has (1)"
        []
      end

      calls = fn ->
        refused.(Pkcs11Pool.generate_random(pool, 8))
        refused.(Pkcs11Pool.with_session(pool, fn -> :in end))
        refused.(run(pool, :digest, ["other"]))
        refused.(run(pool, :encrypt, ["other"]))
        {:ok, results} = Pkcs11Pool.sign_many(pool, "mac", :sha256_hmac, ["1"]) |> many()
        refused.(hd(results))
      end

      for verb <- @verbs do
        enumerable = Stream.concat(after_parts(verb, 2, calls), rest(verb, 2))
        assert run(pool, verb, enumerable) == expected(verb)
      end

      # From whoever consumes a lazy stream, and one stream into the other.
      Enum.reduce_while(encrypt(pool, [@data]), :ok, fn _part, :ok -> {:halt, calls.()} end)
      refused.(collect(encrypt(pool, decrypt(pool, [sealed()]))))
      # From another process the call waits, and is served.
      random = fn -> Pkcs11Pool.generate_random(pool, 8, queue_timeout: :infinity) end

      waits = fn ->
        task = Task.async(random)
        Poll.until(fn -> Pkcs11Pool.status(pool).waiting == 1 end)
        send(self(), {:waits, task})
        []
      end

      enumerable = Stream.concat(after_parts(:sign, 2, waits), rest(:sign, 2))
      assert run(pool, :sign, enumerable) == {:ok, mac()}
      assert_received {:waits, task}
      assert {:ok, <<_::64>>} = Task.await(task, 30_000)

      at_rest(pool, chaos)
    end

    test "runs on another session, where there is one", %{token: token, chaos: chaos} do
      pool = start(token, pool_size: 2)

      call = fn ->
        assert {:ok, _mac} = Pkcs11Pool.sign(pool, "mac", :sha256_hmac, "x")
        assert {:ok, _digest} = Pkcs11Pool.with_session(pool, fn -> run(pool, :digest, ["x"]) end)
        []
      end

      for verb <- @verbs do
        enumerable = Stream.concat(after_parts(verb, 1, call), rest(verb, 1))
        assert run(pool, verb, enumerable) == expected(verb)
      end

      assert collect(encrypt(pool, decrypt(pool, [sealed()]))) == {:ok, sealed()}
      at_rest(pool, chaos)
    end

    test "to log in or out does not wait for the stream", %{token: token, chaos: chaos} do
      pool = start(token, queue_timeout: :infinity)
      pin = token.pin

      log_in = fn ->
        assert Pkcs11Pool.login(pool, fn -> pin end) == :ok
        assert {:error, %Error{reason: :login_shared}} = Pkcs11Pool.logout(pool)
        []
      end

      enumerable = Stream.concat(after_parts(:sign, 1, log_in), rest(:sign, 1))
      assert run(pool, :sign, enumerable) == {:ok, mac()}
      at_rest(pool, chaos)
    end
  end

  # `sign_many/4` gives the error to each item, or is one.
  defp many({:ok, results}), do: {:ok, results}
  defp many({:error, error}), do: {:ok, [{:error, error}]}

  describe "within a block" do
    test "a stream uses the block's session, and another process is not its owner",
         %{token: token, chaos: chaos} do
      pool = start(token)
      opened = Chaos.calls(chaos, :C_OpenSession)

      Pkcs11Pool.with_session(pool, fn lease ->
        for target <- [pool, lease], verb <- @verbs do
          assert run(target, verb, [input(verb)]) == expected(verb)
        end

        task = Task.async(fn -> for verb <- @verbs, do: run(lease, verb, [input(verb)]) end)

        for result <- Task.await(task, 60_000),
            do: assert({:error, %Error{reason: :not_owner}} = result)

        # One that was begun here and is enumerated elsewhere, or the other way round.
        stream = encrypt(lease, [@data])

        assert {:error, %Error{reason: :not_owner}} =
                 Task.await(Task.async(fn -> collect(stream) end))
      end)

      assert Chaos.calls(chaos, :C_OpenSession) == opened
      at_rest(pool, chaos)
    end

    test "nothing runs on its session in the midst of a stream", %{token: token, chaos: chaos} do
      pool = start(token)

      Pkcs11Pool.with_session(pool, fn lease ->
        refused = fn call ->
          assert {:error, %Error{reason: :stream_in_progress, executed: false}} = call
          []
        end

        calls = fn ->
          for target <- [pool, lease] do
            refused.(Pkcs11Pool.generate_random(target, 8))
            refused.(Pkcs11Pool.sign(target, "mac", :sha256_hmac, "x"))
            for verb <- @verbs, do: refused.(run(target, verb, ["other"]))

            refused.(
              Pkcs11Pool.with_session(target, fn l -> Pkcs11Pool.digest(l, :sha256, "x") end)
            )
          end

          []
        end

        for verb <- @verbs do
          enumerable = Stream.concat(after_parts(verb, 2, calls), rest(verb, 2))
          assert run(lease, verb, enumerable) == expected(verb)
        end
      end)

      at_rest(pool, chaos)
    end

    test "a stream that is broken off leaves the session to the block, unless only a signature would end it",
         %{token: token, chaos: chaos} do
      pool = start(token)
      closes = Chaos.calls(chaos, :C_CloseSession)

      Pkcs11Pool.with_session(pool, fn lease ->
        for verb <- @verbs -- [:sign] do
          broken = after_parts(verb, 2, fn -> throw(:away) end)
          assert catch_throw(run(lease, verb, broken)) == :away
          # All are free to begin.
          for verb <- @verbs,
              do: assert(run(lease, verb, [input(verb)]) == expected(verb))
        end

        assert [_part] = Enum.take(encrypt(lease, [@data]), 1)
        assert run(lease, :sign, [@data]) == {:ok, mac()}
        assert Chaos.calls(chaos, :C_CloseSession) == closes
        before = Chaos.calls(chaos, :C_SignFinal)
        broken = after_parts(:sign, 2, fn -> throw(:away) end)
        assert catch_throw(run(lease, :sign, broken)) == :away
        assert {:error, %Error{reason: :lease_ended}} = Pkcs11Pool.generate_random(lease, 8)
        assert Chaos.calls(chaos, :C_SignFinal) == before
      end)

      at_rest(pool, chaos)
    end

    test "a stream that is left suspended goes with the block's session", %{
      token: token,
      chaos: chaos
    } do
      pool = start(token)

      Pkcs11Pool.with_session(pool, fn lease ->
        step = fn part, _acc -> {:suspend, part} end

        assert {:suspended, _part, _go_on} =
                 Enumerable.reduce(encrypt(lease, [@data]), {:cont, nil}, step)

        assert {:error, %Error{reason: :stream_in_progress}} =
                 Pkcs11Pool.generate_random(lease, 8)
      end)

      at_rest(pool, chaos)
    end
  end

  describe "time" do
    test "a stream that takes longer than its lease_timeout loses its session, and says how to raise it",
         %{token: token, chaos: chaos} do
      pool = start(token, lease_timeout: 150)

      wait = fn ->
        drained(pool)
        []
      end

      log =
        capture_log(fn ->
          for verb <- @verbs do
            enumerable = Stream.concat(after_parts(verb, 1, wait), rest(verb, 1))

            assert {:error, %Error{reason: :lease_ended, details: %{timeout_ms: 150}} = error} =
                     run(pool, verb, enumerable)

            assert error.message =~ "within its :lease_timeout of 150 ms"
            assert error.message =~ "Raise the option :lease_timeout"
          end
        end)

      # The pool server logs a moment later: the line of the last one may be missing.
      lines = Regex.scan(~r/longer than :lease_timeout \(150 ms\).*stream_life_test\.exs/, log)
      assert length(lines) >= length(@verbs) - 1

      slow = fn ->
        Process.sleep(400)
        []
      end

      enumerable = Stream.concat(after_parts(:digest, 1, slow), rest(:digest, 1))
      digest = {:ok, :crypto.hash(:sha256, @data)}
      assert run(pool, :digest, enumerable, lease_timeout: :infinity) == digest
      assert run(pool, :digest, enumerable, lease_timeout: 60_000) == digest
      at_rest(pool, chaos)
    end

    test "a stream waits for its session as long as it may", %{token: token, chaos: chaos} do
      pool = start(token)

      Pkcs11Pool.with_session(pool, fn ->
        for verb <- @verbs do
          task = Task.async(fn -> run(pool, verb, [input(verb)], queue_timeout: 50) end)
          assert {:error, %Error{reason: :queue_timeout, executed: false}} = Task.await(task)
        end
      end)

      at_rest(pool, chaos)
    end
  end

  @calls [
    digest: [:C_DigestInit, :C_DigestUpdate, :C_DigestFinal],
    sign: [:C_SignInit, :C_SignUpdate, :C_SignFinal],
    verify: [:C_VerifyInit, :C_VerifyUpdate, :C_VerifyFinal],
    encrypt: [:C_EncryptInit, :C_EncryptUpdate, :C_EncryptFinal],
    decrypt: [:C_DecryptInit, :C_DecryptUpdate, :C_DecryptFinal]
  ]

  for executor <- [:dirty_io, :threads] do
    test "a call of a stream that hangs frees its caller, and the pool recovers: #{executor}",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: unquote(executor), operation_timeout: 300)

      for {verb, functions} <- @calls, function <- functions do
        Chaos.hang(chaos, function, count: 1)

        assert {:error, %Error{reason: :operation_timeout, executed: :unknown}} =
                 run(pool, verb, [input(verb)])

        Chaos.release(chaos)
        drained(pool)
        # The time of a busy machine is no failure of what comes next.
        assert run(pool, verb, [input(verb)], operation_timeout: 30_000) == expected(verb)
      end

      Poll.until(fn -> Chaos.status(chaos).sessions == Pkcs11Pool.status(pool).idle end)
      assert Chaos.violations(chaos) == []
    end

    test "a caller that is killed at any point costs a session, and leaves nothing behind: #{executor}",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: unquote(executor))

      for {verb, functions} <- @calls, function <- functions do
        Chaos.hang(chaos, function, count: 1)
        caller = spawn(fn -> run(pool, verb, [input(verb)]) end)
        Poll.until(fn -> Chaos.hanging(chaos)[to_string(function)] == 1 end)
        Process.exit(caller, :kill)
        Chaos.release(chaos)
        drained(pool)
      end

      for verb <- @verbs do
        test = self()

        between = fn ->
          send(test, :between)
          Process.sleep(:infinity)
        end

        caller = spawn(fn -> run(pool, verb, after_parts(verb, 2, between)) end)
        assert_receive :between
        assert Pkcs11Pool.status(pool).leased == 1
        # One that waits for its session meanwhile, and is killed, takes none.
        waiting = spawn(fn -> run(pool, verb, [input(verb)]) end)
        Poll.until(fn -> Pkcs11Pool.status(pool).waiting == 1 end)
        Process.exit(waiting, :kill)
        Process.exit(caller, :kill)
        drained(pool)
      end

      at_rest(pool, chaos)
    end

    test "what a module answers in the midst of a stream is its error, and is not tried again: #{executor}",
         %{token: token, chaos: chaos} do
      pool = start(token, executor: unquote(executor))

      codes = [
        :operation_not_initialized,
        :device_error,
        :general_error,
        :function_failed,
        :host_memory,
        :arguments_bad,
        :session_handle_invalid,
        :key_handle_invalid,
        :user_not_logged_in,
        :function_not_supported,
        0x80000123
      ]

      for {verb, [init, update, final]} <- @calls, function <- [update, final], code <- codes do
        Chaos.reset_counts(chaos)
        Chaos.fail(chaos, function, code, nth: if(function == update, do: 2, else: 1))
        assert {:error, %Error{} = error} = run(pool, verb, [input(verb)])
        assert error.function == function

        if is_atom(code) and error.reason not in [:signature_invalid, :decryption_failed],
          do: assert(error.reason == code)

        assert Chaos.calls(chaos, init) == 1, "#{function} #{inspect(code)}"
        Chaos.clear(chaos, function)
        :ok = Pkcs11Pool.await_ready(pool, 30_000)
        drained(pool)
      end

      at_rest(pool, chaos)
    end
  end

  test "a beginning that fails for its session's sake is tried on another one", %{
    token: token,
    chaos: chaos
  } do
    pool = start(token)

    for {verb, [init | _]} <- @calls do
      # All sessions have died while they lay idle.
      Chaos.kill_sessions(chaos)
      assert run(pool, verb, [input(verb)]) == expected(verb)

      for code <- [:operation_active, :session_handle_invalid, :device_error] do
        Chaos.fail(chaos, init, code, nth: 1)
        assert run(pool, verb, [input(verb)]) == expected(verb)
      end

      Chaos.invalidate_objects(chaos)
      assert run(pool, verb, [input(verb)]) == expected(verb)
      Chaos.logout(chaos)
      assert run(pool, verb, [input(verb)]) == expected(verb)
    end

    at_rest(pool, chaos)
  end

  test "a session that is lost in the midst of a stream is its error", %{
    token: token,
    chaos: chaos
  } do
    pool = start(token)

    for verb <- @verbs do
      lose = fn ->
        Chaos.kill_sessions(chaos)
        []
      end

      enumerable = Stream.concat(after_parts(verb, 2, lose), rest(verb, 2))
      assert {:error, %Error{reason: :session_handle_invalid}} = run(pool, verb, enumerable)
    end

    at_rest(pool, chaos)
  end

  test "a token that is taken away, and a module that is initialized again, end a stream", %{
    token: token,
    chaos: chaos
  } do
    pool = start(token)

    for verb <- @verbs do
      reload = fn ->
        assert Task.await(Task.async(fn -> Pkcs11Pool.reload(pool) end), 30_000) == :ok
        []
      end

      enumerable = Stream.concat(after_parts(verb, 2, reload), rest(verb, 2))
      assert {:error, %Error{reason: :lease_ended} = error} = run(pool, verb, enumerable)
      assert error.message =~ "never continued on another"
    end

    for verb <- @verbs do
      take_away = fn ->
        Chaos.remove_token(chaos)
        []
      end

      enumerable = Stream.concat(after_parts(verb, 2, take_away), rest(verb, 2))
      assert {:error, %Error{}} = run(pool, verb, enumerable)
      Chaos.return_token(chaos)
      :ok = Pkcs11Pool.await_ready(pool, 30_000)
    end

    at_rest(pool, chaos)
  end

  test "a logout in the midst of a stream is its error, or its answer is the right one", %{
    token: token,
    chaos: chaos
  } do
    pool = start(token, pool_size: 2)

    for verb <- @verbs,
        logout <- [&Chaos.logout(elem(&1, 1)), &Pkcs11Pool.logout(elem(&1, 0), force: true)] do
      expected = expected(verb)

      log_out = fn ->
        logout.({pool, chaos})
        []
      end

      enumerable = Stream.concat(after_parts(verb, 2, log_out), rest(verb, 2))

      case run(pool, verb, enumerable) do
        {:error, %Error{reason: reason}} -> assert reason in [:user_not_logged_in, :session_lost]
        answer -> assert answer == expected
      end
    end

    at_rest(pool, chaos)
  end

  test "a pool that drains gives a stream the time that it gives, and then ends it", %{
    token: token
  } do
    pool = start(token, pool_size: 2)

    drain = fn ->
      assert {:ok, left} = Task.await(Task.async(fn -> Pkcs11Pool.drain(pool, 0) end))
      assert left >= 1
      []
    end

    enumerable = Stream.concat(after_parts(:digest, 2, drain), rest(:digest, 2))
    result = run(pool, :digest, enumerable)

    assert match?({:error, %Error{reason: :lease_ended}}, result) or
             result == {:ok, :crypto.hash(:sha256, @data)}

    Poll.until(fn -> Pools.native_status(pool).leased == 0 end)
  end

  test "a Final call whose buffer is too small is made again with a larger one", %{
    token: token,
    chaos: chaos
  } do
    pool = start(token)

    for {verb, [_init, update, final]} <- @calls,
        function <- [update, final],
        verb in [:encrypt, :decrypt] or function == final,
        verb != :verify do
      Chaos.fail(chaos, function, :buffer_too_small, nth: 1)
      assert run(pool, verb, [input(verb)]) == expected(verb)
    end

    at_rest(pool, chaos)
  end

  test "an output of a length that cannot be is never an answer", %{token: token, chaos: chaos} do
    pool = start(token)

    for {verb, [_init, update, final]} <- @calls, verb != :verify, told <- [:kept, :exceeded] do
      functions = if verb in [:encrypt, :decrypt], do: [update, final], else: [final]

      for function <- functions do
        Chaos.told_size(chaos, function, told)
        assert {:error, %Error{reason: :output_length_invalid}} = run(pool, verb, [input(verb)])
        Chaos.told_size(chaos, function, true)
      end
    end

    at_rest(pool, chaos)
  end

  test "a token that replaces the IV gives no ciphertext", %{token: token, chaos: chaos} do
    pool = start(token)
    mechanism = {:aes_gcm, iv: binary_part(@iv, 0, 12)}
    Chaos.make_iv(chaos)
    stream = Pkcs11Pool.encrypt_stream(pool, "aes", mechanism, [@data])
    assert {:error, %Error{reason: :iv_replaced, details: %{iv: <<_::96>>}}} = collect(stream)
    Chaos.make_iv(chaos, false)
    at_rest(pool, chaos)
  end

  describe "a plaintext that is not verified yet" do
    @gcm {:aes_gcm, iv: binary_part(@iv, 0, 12), aad: "aad"}

    defp gcm_sealed do
      {:aes_gcm, iv: iv, aad: aad} = @gcm
      {sealed, tag} = :crypto.crypto_one_time_aead(:aes_256_gcm, @aes, iv, @data, aad, 16, true)
      sealed <> tag
    end

    # What came out, and what it ended with.
    defp outcome(stream) do
      Process.put(:parts, [])

      try do
        Enum.each(stream, &Process.put(:parts, [&1 | Process.get(:parts)]))
      rescue
        error in Error -> {Enum.reverse(Process.get(:parts)), error}
      else
        :ok -> {Enum.reverse(Process.get(:parts)), :ok}
      end
    end

    test "does not come out of a token that gathers", %{token: token, chaos: chaos} do
      pool = start(token)
      decrypt = &Pkcs11Pool.decrypt_stream(pool, "aes", @gcm, &1, &2)

      for opts <- [[], [unverified: :allow], [unverified: :refuse]] do
        assert outcome(decrypt.([gcm_sealed()], opts)) == {[@data], :ok}
        <<first, rest::binary>> = gcm_sealed()
        forged = <<Bitwise.bxor(first, 1), rest::binary>>

        for bad <- [forged, binary_part(rest, 0, 5), "", gcm_sealed() <> "x"] do
          assert {[], %Error{reason: :decryption_failed}} = outcome(decrypt.([bad], opts))
        end
      end

      at_rest(pool, chaos)
    end

    test "is refused of a token that gives it out, and comes only if the caller says so", %{
      token: token,
      chaos: chaos
    } do
      pool = start(token)
      Chaos.early_plaintext(chaos)
      decrypt = &Pkcs11Pool.decrypt_stream(pool, "aes", @gcm, [gcm_sealed()], &1)
      assert {[], %Error{} = error} = outcome(decrypt.([]))
      assert %{reason: :plaintext_unverified, function: :C_DecryptUpdate, executed: true} = error
      assert error.message =~ "unverified: :allow"
      assert error.message =~ "decrypt/5"
      assert {[_ | _] = parts, %Error{}} = outcome(decrypt.(unverified: :allow))
      assert Enum.all?(parts, &(byte_size(&1) == @part or &1 =~ ~r/^\?+$/))
      Chaos.early_plaintext(chaos, false)
      # In one piece it is decrypted by any token.
      assert Pkcs11Pool.decrypt(pool, "aes", @gcm, gcm_sealed()) == {:ok, @data}
      at_rest(pool, chaos)
    end
  end

  test "a key that is another one's, and a forged signature or ciphertext, are refused, and the session is good",
       %{token: token, chaos: chaos} do
    pool = start(token)
    forged = binary_part(sealed(), 0, byte_size(sealed()) - 1)
    closes = Chaos.calls(chaos, :C_CloseSession)
    assert {:error, %Error{reason: :decryption_failed}} = run(pool, :decrypt, [forged])

    assert {:error, %Error{reason: :signature_invalid}} =
             Pkcs11Pool.verify_stream(pool, "mac", :sha256_hmac, [@data, "x"], mac())

    assert {:error, %Error{reason: :signature_invalid, details: %{given_bytes: 2}}} =
             Pkcs11Pool.verify_stream(pool, "mac", :sha256_hmac, [@data], "ab")

    assert {:error, %Error{reason: :key_type_inconsistent, code: nil}} =
             Pkcs11Pool.sign_stream(pool, "aes", :sha256_rsa_pkcs_pss, [@data]) |> misfit(pool)

    assert {:error, %Error{reason: :key_not_found}} =
             Pkcs11Pool.sign_stream(pool, "none", :sha256_hmac, [@data])

    assert {:error, %Error{reason: :mechanism_invalid}} =
             Pkcs11Pool.digest_stream(pool, :ripemd128, [@data])

    assert Chaos.calls(chaos, :C_CloseSession) == closes
    at_rest(pool, chaos)
  end

  # A label finds the class that the mechanism takes: the object itself finds the key that does not fit.
  defp misfit({:error, %Error{reason: :key_not_found}}, pool) do
    [%Object{} = aes] = Pkcs11Pool.find_objects!(pool, label: "aes")
    Pkcs11Pool.sign_stream(pool, aes, :sha256_rsa_pkcs_pss, [@data])
  end
end
