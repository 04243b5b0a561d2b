defmodule Pkcs11Pool.TelemetryTest do
  # A stand-in for the library is loaded for these tests only.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Telemetry.Emitter
  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM, TelemetryStandIn}

  setup context do
    unless context[:without_library], do: TelemetryStandIn.load!()
    :ok
  end

  @tag :without_library
  test "without the library nothing happens" do
    unless Code.ensure_loaded?(:telemetry) do
      refute Emitter.enabled?()
      assert Emitter.execute([:pool, :down], %{}, %{pool: :hsm}) == :ok
      assert Emitter.start(:operation, %{pool: :hsm}) == nil
      assert Emitter.stop(nil, :ok) == :ok
      assert Emitter.exception(nil, :error, :boom, []) == :ok
      assert Emitter.span(:operation, %{}, fn -> 42 end) == 42
    end
  end

  test "events get the library's prefix, and a time when they measure nothing" do
    assert Emitter.enabled?()
    assert Emitter.execute([:session, :hung], %{}, %{pool: :hsm}) == :ok
    assert_received {[:pkcs11_pool, :session, :hung], %{system_time: time}, %{pool: :hsm}}
    assert is_integer(time)

    Emitter.execute([:key, :ambiguous], %{count: 2}, %{pool: :hsm})
    assert_received {[:pkcs11_pool, :key, :ambiguous], %{count: 2} = measured, _metadata}
    assert map_size(measured) == 1
  end

  test "a health check's call is nobody's operation" do
    token = SoftHSM.new_token!()
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: :checked)})
    :ok = Pkcs11Pool.await_ready(:checked, 30_000)
    assert Pkcs11Pool.Health.check(:checked, call: true, timeout: 30_000) == :ok
    assert {:ok, _} = Pkcs11Pool.generate_random(:checked, 8)

    assert_received {[:pkcs11_pool, :operation, :stop], _,
                     %{pool: :checked, operation: :generate_random}}

    refute_received {[:pkcs11_pool, :operation, :stop], _, %{pool: :checked, operation: :probe}}
    Pools.drained!(:checked)
  end

  test "a call that hangs is an event, and so is the end of its session" do
    alias Pkcs11Pool.Test.{ChaosToken, SoftHSM}
    alias Pkcs11Pool.Testing.Chaos

    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    opts = SoftHSM.pool_opts(token, name: :hanging, executor: :threads, operation_timeout: 200)
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(:hanging, 30_000)
    Chaos.hang(token.chaos, :C_GenerateRandom, count: 1)
    assert {:error, %Error{reason: :operation_timeout}} = Pkcs11Pool.generate_random(:hanging, 8)

    assert_receive {[:pkcs11_pool, :session, :hung], %{duration: duration},
                    %{
                      pool: :hanging,
                      session: session,
                      operation: :generate_random,
                      executor: :threads,
                      hung: 1,
                      reason: :replaced
                    }}

    assert System.convert_time_unit(duration, :native, :millisecond) >= 200
    Chaos.release(token.chaos)

    assert_receive {[:pkcs11_pool, :session, :closed], _measured,
                    %{pool: :hanging, session: ^session, reason: :hung}}
  end

  describe "each session that was opened is closed in the events, too, when its pool" do
    setup do
      # What stops has all the time that it needs.
      opts = SoftHSM.pool_opts(SoftHSM.new_token!(), pool_size: 4, shutdown_timeout: 60_000)
      start_supervised!({Pkcs11Pool, opts})
      pool = opts[:name]

      # As many as it may have: a lease within a lease, each of another process.
      lease = fn
        _lease, 0 ->
          :ok

        lease, left ->
          inner = fn -> lease.(lease, left - 1) end
          Task.await(Task.async(fn -> Pkcs11Pool.with_session(pool, inner) end), 60_000)
      end

      assert lease.(lease, 4) == :ok
      opened = for _ <- 1..4, do: session(pool, :opened)
      %{pool: pool, opened: Enum.sort(opened)}
    end

    defp session(pool, event) do
      assert_receive {[:pkcs11_pool, :session, ^event], _, %{pool: ^pool} = metadata}
      if event == :closed, do: assert(metadata.reason in [:drain, :surplus])
      metadata.session
    end

    defp assert_closed(%{pool: pool, opened: opened}) do
      assert Enum.sort(for(_ <- opened, do: session(pool, :closed))) == opened
      refute_received {[:pkcs11_pool, :session, :closed], _, %{pool: ^pool}}
    end

    test "stops", context do
      stop_supervised!({Pkcs11Pool, context.pool})
      assert_closed(context)
    end

    test "drains, and stops after that", context do
      assert {:ok, 0} = Pkcs11Pool.drain(context.pool, 60_000)
      stop_supervised!({Pkcs11Pool, context.pool})
      assert_closed(context)
    end

    test "is started again", context do
      GenServer.stop(Pools.server(context.pool), :shutdown, 60_000)
      assert_closed(context)
    end

    test "stops while one of them is leased", %{pool: pool} = context do
      test = self()

      holder =
        Task.async(fn ->
          Pkcs11Pool.with_session(pool, fn ->
            send(test, :held)
            receive do: (:let_go -> :ok)
          end)
        end)

      assert_receive :held

      releaser =
        Task.async(fn ->
          Poll.until(fn -> Pkcs11Pool.status(pool).state == :draining end)
          send(holder.pid, :let_go)
        end)

      stop_supervised!({Pkcs11Pool, pool})
      assert [:ok, :let_go] = Task.await_many([holder, releaser], 60_000)
      assert_closed(context)
    end
  end

  test "a span is a start and a stop with result and reason" do
    span = Emitter.start(:operation, %{pool: :hsm, operation: :sign, mine: 1})

    assert_received {[:pkcs11_pool, :operation, :start], %{system_time: _},
                     %{pool: :hsm, operation: :sign, mine: 1}}

    Emitter.stop(span, {:ok, "signature"}, %{queue_time: 5}, %{session: 2})

    assert_received {[:pkcs11_pool, :operation, :stop], %{duration: duration, queue_time: 5},
                     %{pool: :hsm, operation: :sign, mine: 1, session: 2, result: :ok} = metadata}

    assert duration >= 0
    refute inspect(metadata) =~ "signature"

    span = Emitter.start(:login, %{pool: :hsm})
    Emitter.stop(span, {:error, Error.new(:pin_incorrect)})

    assert_received {[:pkcs11_pool, :login, :stop], _measured,
                     %{result: :error, reason: :pin_incorrect}}
  end

  test "a login is a span of its caller's, around the PIN source, whose failure ends it" do
    token = SoftHSM.new_token!()
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, lazy: true)})
    test = self()

    TelemetryStandIn.each(fn
      [_, :operation, step], _, metadata -> send(test, {step, self(), metadata})
      _other, _, _ -> :ok
    end)

    _earlier = flush()
    source = fn -> send(test, {:asked, self()}) && token.pin end
    opts = [telemetry_metadata: %{mine: 1}]
    assert :ok = Pkcs11Pool.login(pool, source, opts)
    assert {:messages, messages} = Process.info(self(), :messages)
    own = %{pool: pool, operation: :login, mine: 1}
    assert [{:start, ^test, ^own}, {:asked, asked}, {:stop, ^test, stopped}] = messages
    assert {session, ^own} = Map.pop!(Map.delete(stopped, :result), :session)
    assert stopped.result == :ok and session > 0
    assert asked != test

    assert {:error, %Error{reason: :pin_source_failed}} =
             Pkcs11Pool.login(pool, fn -> nil end, opts)

    failed = Map.merge(own, %{result: :error, reason: :pin_source_failed})
    assert_received {:stop, ^test, ^failed}
  end

  test "a list is one span, with how many items it has and how many of them failed" do
    token = SoftHSM.new_token!()
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})

    key = [token: true, label: "mac", value_len: 32, sign: true, verify: true]
    {:ok, _} = Pkcs11Pool.generate_key(pool, :generic_secret_key_gen, key)
    {:ok, mac} = Pkcs11Pool.sign(pool, "mac", :sha256_hmac, "a")
    _earlier = flush()

    list = List.duplicate({"a", mac}, 199) ++ [{"b", mac}]
    opts = [telemetry_metadata: %{mine: 1}]
    {:ok, _} = Pkcs11Pool.verify_many(pool, "mac", :sha256_hmac, list, opts)

    assert [{[_, _, :start], _, started}, {[_, _, :stop], measured, stopped}] =
             Enum.filter(flush(), &match?({[:pkcs11_pool, :operation, _], _, _}, &1))

    assert %{pool: ^pool, operation: :verify_many, mechanism: :sha256_hmac, mine: 1} = started
    assert %{count: 200, failed: 1, duration: _, queue_time: _} = measured
    assert stopped == Map.put(started, :result, :ok)

    {:ok, _} = Pkcs11Pool.generate_key(pool, :generic_secret_key_gen, key)
    _earlier = flush()
    {:ok, _} = Pkcs11Pool.sign_many(pool, "mac", :sha256_hmac, ["a", "b"])
    ambiguous = [:pkcs11_pool, :key, :ambiguous]
    assert [{_, %{count: 2}, told}] = Enum.filter(flush(), &match?({^ambiguous, _, _}, &1))
    assert told == %{pool: pool, operation: :sign_many}
  end

  test "what has no shape starts no span, and leaves no data in its stack trace" do
    token = SoftHSM.new_token!()
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 1)})
    key = [token: true, label: "aes", value_len: 32, encrypt: true]
    {:ok, object} = Pkcs11Pool.generate_key(pool, :aes_key_gen, key)
    _earlier = flush()
    secret = "the secret data"

    for call <- [
          &Pkcs11Pool.encrypt(pool, &1, {:aes_cbc_pad, iv: <<0::127>>}, secret),
          &Pkcs11Pool.encrypt(pool, &1, {:vendor, Integer.pow(2, 70), nil}, secret),
          &Pkcs11Pool.encrypt_many(pool, &1, {:vendor, Integer.pow(2, 70), nil}, [secret]),
          &Pkcs11Pool.sign(pool, &1, {:sha256_hmac_general, length: Integer.pow(2, 70)}, secret),
          &Pkcs11Pool.sign(pool, &1, :aes_cmac, [secret, <<1::9>>]),
          &Pkcs11Pool.sign_many(pool, &1, :aes_cmac, [[secret | <<1::9>>]]),
          fn key ->
            Pkcs11Pool.sign(pool, %{key | handle: Integer.pow(2, 70)}, :aes_cmac, secret)
          end,
          fn key -> Pkcs11Pool.sign(pool, %{key | label: :aes}, :aes_cmac, secret) end,
          fn key -> Pkcs11Pool.destroy_object(pool, %{key | token: :token}) end
        ] do
      {error, stacktrace} =
        try do
          call.(object)
        rescue
          error in ArgumentError -> {error, __STACKTRACE__}
        end

      refute Exception.message(error) =~ ~r/^(argument error|errors were found)/
      refute inspect(stacktrace) =~ secret
      refute Exception.format(:error, error, stacktrace) =~ secret
    end

    assert [] = for({[_, :operation, _], _, _} = event <- flush(), do: event)
  end

  describe "the queue time" do
    test "of what never started is all of its duration" do
      token = SoftHSM.new_token!()
      pool = String.to_atom(token.label)
      opts = SoftHSM.pool_opts(token, pool_size: 1, max_waiting: 1)
      start_supervised!({Pkcs11Pool, opts})
      :ok = Pkcs11Pool.await_ready(pool, 30_000)
      _earlier = flush()

      assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.generate_random(:nobody, 8)

      assert_waited(:nobody, :generate_random, :pool_not_found)

      assert {:error, %Error{reason: :pool_not_found}} =
               Pkcs11Pool.sign_many(:nobody, "key", :sha256_hmac, ["a"])

      assert_waited(:nobody, :sign_many, :pool_not_found)

      Pkcs11Pool.with_session(pool, fn ->
        other = fn fun -> Task.await(Task.async(fun), 30_000) end

        assert {:error, %Error{reason: :queue_timeout}} =
                 other.(fn -> Pkcs11Pool.generate_random(pool, 8, queue_timeout: 20) end)

        waited = assert_waited(pool, :generate_random, :queue_timeout)
        assert System.convert_time_unit(waited, :native, :millisecond) >= 20

        assert {:error, %Error{reason: :queue_timeout}} =
                 other.(fn -> Pkcs11Pool.with_session(pool, fn -> :ok end, queue_timeout: 20) end)

        assert_received {[:pkcs11_pool, :lease, :stop], %{duration: same, queue_time: same}, _}

        assert {:error, %Error{reason: :queue_timeout}} =
                 other.(fn -> Pkcs11Pool.logout(pool, force: true, queue_timeout: 20) end)

        assert_waited(pool, :logout, :queue_timeout)
      end)

      # A pool whose token was never there.
      absent = SoftHSM.pool_opts(token, name: :absent, slot: {:token_label, "absent"})
      start_supervised!({Pkcs11Pool, absent}, id: :absent)
      assert {:error, %Error{reason: reason}} = Pkcs11Pool.generate_random(:absent, 8)
      assert_waited(:absent, :generate_random, reason)
      Pools.drained!(pool)
    end

    test "of a login, a logout and a reload is the wait before they are made" do
      token = SoftHSM.new_token!()
      pool = String.to_atom(token.label)
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, lazy: true)})
      assert :ok = Pkcs11Pool.login(pool, fn -> token.pin end)
      assert :ok = Pkcs11Pool.logout(pool)
      assert :ok = Pkcs11Pool.reload(pool)

      for operation <- [:login, :logout, :reload] do
        assert_received {[:pkcs11_pool, :operation, :stop], measured,
                         %{operation: ^operation, result: :ok}}

        assert measured.queue_time > 0 and measured.queue_time < measured.duration
      end
    end

    defp assert_waited(pool, operation, reason) do
      assert_received {[:pkcs11_pool, :operation, :stop], measured,
                       %{pool: ^pool, operation: ^operation, reason: ^reason}}

      assert measured.queue_time == measured.duration
      measured.queue_time
    end
  end

  test "what a pool does by itself, and await_ready/2, are nobody's operations" do
    token = SoftHSM.new_token!()
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token)})
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    Pools.drained!(pool)
    assert_receive {[:pkcs11_pool, :session, :opened], _, %{pool: ^pool}}
    refute Enum.any?(flush(), &match?({[_, :operation, _], _, _}, &1))
  end

  test "the functions that emit events are nobody's to call" do
    assert Pkcs11Pool.Telemetry.__info__(:functions) == [
             attach_default_logger: 0,
             attach_default_logger: 1,
             detach_default_logger: 0
           ]

    assert {:docs_v1, _, _, _, %{"en" => _documented}, _, _} =
             Code.fetch_docs(Pkcs11Pool.Telemetry)

    assert {:docs_v1, _, _, _, :hidden, _, _} = Code.fetch_docs(Emitter)
  end

  describe "where the library says which handlers there are" do
    setup do
      key = {__MODULE__, :watched}
      :persistent_term.put(key, [])

      {:module, table, _, _} =
        Module.create(
          :telemetry_handler_table,
          quote do
            def list_for_event(event),
              do: Enum.filter(:persistent_term.get(unquote(Macro.escape(key))), &(&1 == event))
          end,
          Macro.Env.location(__ENV__)
        )

      on_exit(fn ->
        :code.purge(table)
        :code.delete(table)
        :code.purge(table)
        :persistent_term.erase(key)
      end)

      token = SoftHSM.new_token!()
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: :watched)})
      :ok = Pkcs11Pool.await_ready(:watched, 30_000)

      %{
        watch: fn steps ->
          :persistent_term.put(key, for(step <- steps, do: [:pkcs11_pool, :operation, step]))
        end
      }
    end

    defp operations do
      for {[:pkcs11_pool, :operation, step], _, %{pool: :watched}} <- flush(), do: step
    end

    test "an operation of which nobody hears emits nothing, and one of which anybody does, all",
         %{watch: watch} do
      assert {:ok, _} = Pkcs11Pool.generate_random(:watched, 8)
      assert operations() == []

      for step <- [:start, :stop] do
        watch.([step])
        assert {:ok, _} = Pkcs11Pool.generate_random(:watched, 8)
        assert operations() == [:start, :stop]
      end

      watch.([:exception])
      assert {:ok, _} = Pkcs11Pool.generate_random(:watched, 8)
      assert operations() == []
    end

    test "what ends by an exception is not forgotten, nor an ambiguous key" do
      assert_raise RuntimeError, fn ->
        Pkcs11Pool.digest_stream(:watched, :sha256, Stream.map([1], fn _ -> raise "boom" end))
      end

      assert operations() == [:start, :exception]
      key = [token: true, label: "twice", value_len: 32, sign: true]

      for _ <- 1..2,
          do: {:ok, _} = Pkcs11Pool.generate_key(:watched, :generic_secret_key_gen, key)

      assert {:error, _} = Pkcs11Pool.sign(:watched, "twice", :sha256_hmac, "data")

      assert [{_, %{count: 2}, %{pool: :watched, operation: :sign}}] =
               Enum.filter(flush(), &match?({[_, :key, :ambiguous], _, _}, &1))
    end
  end

  test "each signature for OTP that fails is an event, however few of them are logged" do
    failures = Pkcs11Pool.OTP.Failure.new()
    error = Error.new(:token_unavailable, pool: :hsm)

    log =
      ExUnit.CaptureLog.capture_log(fn ->
        for _ <- 1..5, do: Pkcs11Pool.OTP.Failure.report(failures, :hsm, :rsa, error)
        Pkcs11Pool.OTP.Failure.report(failures, :hsm, :ecdsa, %ArgumentError{message: "canary"})
      end)

    assert [away, other] = Regex.scan(~r/pool :hsm: a signature for .*/, log)
    assert hd(away) =~ "the token is unavailable"
    assert hd(other) =~ "(and 4 more since the last such line)"

    for _ <- 1..5 do
      assert_received {[:pkcs11_pool, :private_key, :failed], %{system_time: time},
                       %{pool: :hsm, algorithm: :rsa, reason: :token_unavailable}}

      assert is_integer(time)
    end

    assert_received {[:pkcs11_pool, :private_key, :failed], _,
                     %{pool: :hsm, algorithm: :ecdsa, reason: ArgumentError} = metadata}

    refute inspect(metadata) =~ "canary"
    refute_received {[:pkcs11_pool, :private_key, :failed], _, _}
  end

  test "a key for OTP whose signature fails emits it, too" do
    if Pkcs11Pool.OTP.supported?() do
      %{sign_fun: sign} = Pkcs11Pool.OTP.private_key!(:nobody, "key", algorithm: :rsa)

      ExUnit.CaptureLog.capture_log(fn ->
        assert_raise Error, fn -> sign.("message", :sha256, []) end
      end)

      assert_received {[:pkcs11_pool, :private_key, :failed], _,
                       %{pool: :nobody, algorithm: :rsa, reason: :pool_not_found}}
    end
  end

  defp flush do
    receive do
      event -> [event | flush()]
    after
      0 -> []
    end
  end

  test "what raises ends the span without text or arguments" do
    assert_raise RuntimeError, "hunter2", fn ->
      Emitter.span(:operation, %{pool: :hsm}, fn -> raise "hunter2" end)
    end

    assert_received {[:pkcs11_pool, :operation, :start], _measured, _metadata}

    assert_received {[:pkcs11_pool, :operation, :exception], %{duration: _},
                     %{pool: :hsm, kind: :error, reason: RuntimeError, stacktrace: [_ | _]} = all}

    refute inspect(all) =~ "hunter2"

    assert catch_error(
             Emitter.span(:operation, %{}, fn -> apply(String, :upcase, [:not_a_string]) end)
           )

    assert_received {[:pkcs11_pool, :operation, :exception], _measured, %{stacktrace: stacktrace}}

    for entry <- stacktrace, is_tuple(entry) and tuple_size(entry) == 4 do
      assert is_integer(elem(entry, 2))
    end

    assert catch_throw(Emitter.span(:lease, %{}, fn -> throw({:a, "hunter2"}) end))
    assert_received {[:pkcs11_pool, :lease, :exception], _measured, %{kind: :throw, reason: :a}}
  end

  test "what tells of the token, digests a key and seeds are operations as others are" do
    token = SoftHSM.new_token!()
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: :telling)})
    template = [token: true, label: "k", value_len: 16, sensitive: false, extractable: true]
    {:ok, _key} = Pkcs11Pool.generate_key(:telling, :generic_secret_key_gen, template)
    opts = [telemetry_metadata: %{own: 1}]
    {:ok, _info} = Pkcs11Pool.token_info(:telling, opts)
    {:ok, _digest} = Pkcs11Pool.digest_key(:telling, :sha256, "k", opts)
    :ok = Pkcs11Pool.seed_random(:telling, "seed", opts)

    own = %{pool: :telling, own: 1}

    for more <- [
          %{operation: :token_info},
          %{operation: :digest_key, mechanism: :sha256},
          %{operation: :seed_random}
        ] do
      started = Map.merge(own, more)
      operation = more.operation
      assert_received {[:pkcs11_pool, :operation, :start], _, ^started}

      assert_received {[:pkcs11_pool, :operation, :stop], %{duration: _, queue_time: _},
                       %{pool: :telling, operation: ^operation, result: :ok, own: 1}}
    end

    Pools.drained!(:telling)
  end

  test "a stream is one operation, with the bytes that went into it" do
    token = SoftHSM.new_token!()
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: :streaming)})
    template = [token: true, label: "k", value_len: 32, encrypt: true, sign: true]
    {:ok, _key} = Pkcs11Pool.generate_key(:streaming, :aes_key_gen, template)
    opts = [telemetry_metadata: %{own: 1}]
    data = :binary.copy("x", 100_000)
    {:ok, _digest} = Pkcs11Pool.digest_stream(:streaming, :sha256, [data, "y"], opts)

    assert_received {[:pkcs11_pool, :operation, :start], %{system_time: _},
                     %{pool: :streaming, operation: :digest_stream, mechanism: :sha256, own: 1}}

    assert_received {[:pkcs11_pool, :operation, :stop],
                     %{bytes: 100_001, duration: _, queue_time: queue_time},
                     %{operation: :digest_stream, result: :ok, session: session, own: 1}}

    assert is_integer(session) and queue_time >= 0
    # Neither its parts nor its lease are operations of their own.
    refute_received {[:pkcs11_pool, :operation, _], _,
                     %{pool: :streaming, operation: :digest_stream}}

    refute_received {[:pkcs11_pool, :lease, _], _, _}

    encrypt = &Pkcs11Pool.encrypt_stream(:streaming, "k", :aes_ecb, &1, opts)
    [_part] = Enum.take(encrypt.([data]), 1)

    assert_received {[:pkcs11_pool, :operation, :stop], %{bytes: 65_536, queue_time: _},
                     %{operation: :encrypt_stream, result: :halted}}

    assert_raise Error, fn -> Enum.to_list(encrypt.(["no block"])) end

    assert_received {[:pkcs11_pool, :operation, :stop], %{bytes: 8},
                     %{operation: :encrypt_stream, result: :error, reason: reason}}

    assert is_atom(reason)

    broken = Stream.concat([data], Stream.map([1], fn _ -> raise "canary" end))

    assert_raise RuntimeError, fn ->
      Pkcs11Pool.sign_stream(:streaming, "k", :aes_cmac, broken, opts)
    end

    assert_received {[:pkcs11_pool, :operation, :exception], %{bytes: 65_536, duration: _},
                     %{operation: :sign_stream, kind: :error, reason: RuntimeError, own: 1}}

    {:error, _} = Pkcs11Pool.sign_stream(:streaming, "none", :aes_cmac, [data], opts)

    assert_received {[:pkcs11_pool, :operation, :stop], _,
                     %{operation: :sign_stream, result: :error, reason: :key_not_found}}

    Pools.drained!(:streaming)
  end
end
