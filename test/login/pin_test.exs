defmodule Pkcs11Pool.PinTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.{Error, Registry}
  alias Pkcs11Pool.Test.{Poll, SoftHSM}

  @public [token: true, ec_params: :secp256r1, verify: true]
  @private [token: true, private: true, sign: true]

  setup do
    token = SoftHSM.spy!(SoftHSM.new_token!(pin: "a PIN that is told apart"))
    %{token: token, pool: String.to_atom(token.label)}
  end

  def pin(pin), do: pin

  defp start!(token, options),
    do: start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, options)})

  defp assert_drained(pool) do
    Poll.until(fn ->
      match?(%{running: 0, waiting: 0, opening: 0, hung: 0}, Pkcs11Pool.status(pool))
    end)
  end

  describe "a source that says in an atom why it has no PIN" do
    test "is quoted to whoever waits for the login, and to login/3", %{token: token, pool: pool} do
      pin = token.pin
      {:ok, answer} = Agent.start_link(fn -> {:error, :"abgelehnt für heute"} end)
      start!(token, pin: fn -> Agent.get(answer, & &1) end, lazy: true)

      callers = for _ <- 1..3, do: Task.async(fn -> Pkcs11Pool.generate_random(pool, 8) end)

      for caller <- callers do
        assert {:error, %Error{reason: :pin_source_failed} = error} = Task.await(caller, 60_000)
        assert error.details.source_reason == :"abgelehnt für heute"
        assert Exception.message(error) =~ ~s(it returned {:error, :"abgelehnt für heute"})
      end

      assert {:error, %Error{reason: :pin_source_failed, details: %{source_reason: :cancelled}}} =
               Pkcs11Pool.login(pool, fn -> {:error, :cancelled} end)

      assert {:error, %Error{reason: :pin_source_failed} = error} =
               Pkcs11Pool.login(pool, fn -> {:error, {:cancelled, pin}} end)

      refute Map.has_key?(error.details, :source_reason)
      refute inspect(error, structs: false) =~ pin
      Agent.update(answer, fn _refused -> {:error, pin} end)

      assert Poll.until(fn ->
               {:error, error} = Pkcs11Pool.generate_random(pool, 8)
               refute inspect(error, structs: false) =~ pin
               error.reason == :pin_source_failed and error.details[:source_reason] == nil
             end)

      assert_drained(pool)
    end
  end

  describe "a PIN comes from" do
    test "a function, or a module's function", %{token: token, pool: pool} do
      pin = token.pin

      for source <- [fn -> pin end, fn -> {:ok, pin} end, {__MODULE__, :pin, [pin]}] do
        start!(token, pin: source)
        assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
        assert Pkcs11Pool.status(pool).login == :logged_in
        stop_supervised!({Pkcs11Pool, pool})
      end
    end

    test "the environment", %{token: token, pool: pool} do
      variable = "PIN_OF_#{System.unique_integer([:positive])}"
      on_exit(fn -> System.delete_env(variable) end)
      start!(token, pin: {:env, variable})

      assert {:error, %Error{reason: :pin_source_failed} = error} =
               Pkcs11Pool.await_ready(pool, 30_000)

      assert Exception.message(error) =~ "the environment variable #{variable} is not set"

      System.put_env(variable, token.pin)
      Poll.until(fn -> Pkcs11Pool.await_ready(pool, 30_000) == :ok end)
    end

    test "a file that only its owner reads, less a newline", %{token: token, pool: pool} do
      path = Path.join(SoftHSM.dir(), "#{pool}.pin")
      File.write!(path, token.pin <> "\n")
      File.chmod!(path, 0o644)
      start!(token, pin: {:file, path})

      assert {:error, %Error{reason: :pin_source_failed} = error} =
               Pkcs11Pool.await_ready(pool, 30_000)

      assert Exception.message(error) =~
               "#{path} may be read by group or others; take that right away (chmod 600)"

      File.chmod!(path, 0o600)
      Poll.until(fn -> Pkcs11Pool.await_ready(pool, 30_000) == :ok end)
      assert SoftHSM.calls(token)["C_Login"] == 1
    end
  end

  test "without a PIN, what needs none works, and the rest says so", %{token: token, pool: pool} do
    start!(token, pin: nil)
    assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    assert Pkcs11Pool.status(pool).login == :none
    assert Pkcs11Pool.digest(pool, :sha256, "abc") == {:ok, :crypto.hash(:sha256, "abc")}

    assert {:error, %Error{reason: :pin_required, executed: false} = error} =
             Pkcs11Pool.generate_key_pair(pool, :ec_key_pair_gen, @public, @private)

    assert Exception.message(error) =~ "the token needs a login and the pool has no PIN"
    refute Map.has_key?(SoftHSM.calls(token), "C_Login")
    assert_drained(pool)
  end

  test "sixteen sessions that open at once log in once", %{token: token, pool: pool} do
    test = self()
    pin = token.pin

    source = fn ->
      send(test, {:asked, self()})
      receive do: (:answer -> pin)
    end

    start!(token, pool_size: 16, lazy: true, pin: source)

    callers =
      for _ <- 1..64,
          do: Task.async(fn -> Pkcs11Pool.generate_random(pool, 8, queue_timeout: 20_000) end)

    assert_receive {:asked, asked}
    # Whoever may open a session has one by now, or waits for the login.
    Poll.until(fn -> Pkcs11Pool.status(pool).waiting >= 48 end)
    send(asked, :answer)
    assert Enum.all?(Task.await_many(callers, 20_000), &match?({:ok, _bytes}, &1))

    # All at once, now that they may.
    1..200
    |> Task.async_stream(fn _ -> {:ok, _} = Pkcs11Pool.generate_random(pool, 65_536) end,
      max_concurrency: 32,
      timeout: 20_000
    )
    |> Stream.run()

    calls = SoftHSM.calls(token)
    assert calls["C_Login"] == 1
    assert calls["C_OpenSession"] > 1
    refute_received {:asked, _again}
    assert_drained(pool)
  end

  test "two pools of a token log in once", %{token: token, pool: pool} do
    start!(token, pool_size: 2)
    start!(token, pool_size: 2, name: {pool, 2})
    assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    assert Pkcs11Pool.await_ready({pool, 2}, 30_000) == :ok
    assert SoftHSM.calls(token)["C_Login"] == 1
  end

  describe "a wrong PIN" do
    test "is tried once, by all callers and after all restarts", %{token: token, pool: pool} do
      options = [pin: fn -> "not the PIN" end, pool_size: 8]

      for _start <- 1..3 do
        start!(token, options)

        errors =
          1..50
          |> Enum.map(fn _ -> Task.async(fn -> Pkcs11Pool.generate_random(pool, 8) end) end)
          |> Task.await_many(20_000)

        for result <- errors do
          assert {:error, %Error{reason: :pin_incorrect} = error} = result
          assert error.function == :C_Login
          assert error.details.poisoned
          assert error.executed == false
          refute Error.retryable?(error)
          assert Exception.message(error) =~ "the token refused the PIN"
          assert Exception.message(error) =~ "No further C_Login is made until"
        end

        assert Pkcs11Pool.status(pool).login == :poisoned
        assert SoftHSM.calls(token)["C_Login"] == 1
        assert_drained(pool)
        stop_supervised!({Pkcs11Pool, pool})
      end

      # Killed as a crash would.
      start!(token, options)
      [{_server, _entry} = {server, _}] = Elixir.Registry.lookup(Registry, {:pool, pool})
      Process.exit(server, :kill)

      Poll.until(fn ->
        match?({:error, %Error{reason: :pin_incorrect}}, Pkcs11Pool.await_ready(pool, 30_000)) and
          match?({:ok, new, _} when new != server, Registry.lookup(pool))
      end)

      assert SoftHSM.calls(token)["C_Login"] == 1
    end

    test "does not stop another pool", %{token: token, pool: pool} do
      start!(token, pin: fn -> "not the PIN" end)
      other = SoftHSM.new_token!()
      start!(other, name: {pool, :other})
      assert {:error, %Error{reason: :pin_incorrect}} = Pkcs11Pool.await_ready(pool, 30_000)
      assert Pkcs11Pool.await_ready({pool, :other}, 30_000) == :ok
    end

    test "that is too short is poison, too", %{token: token, pool: pool} do
      start!(token, pin: fn -> "1" end)
      assert {:error, %Error{} = error} = Pkcs11Pool.await_ready(pool, 30_000)
      assert error.reason in [:pin_incorrect, :pin_len_range]
      assert error.details.poisoned
    end
  end

  # Only the one that hangs is to run out of time.
  defp pin_timeout("hangs"), do: 200
  defp pin_timeout(_name), do: 10_000

  describe "a source that gives no PIN" do
    for {name, source, text} <- [
          {"raises", quote(do: raise("the secret text")), "it raised, threw or exited"},
          {"exits", quote(do: exit("the secret text")), "it raised, threw or exited"},
          {"kills itself", quote(do: Process.exit(self(), :kill)),
           "the process that asked it was killed"},
          {"refuses", quote(do: {:error, "the secret text"}), "it returned {:error, reason}"},
          {"returns a charlist", quote(do: ~c"the secret text"), "it returned neither"},
          {"returns nil", nil, "it returned neither"},
          {"returns an empty binary", "", "it gave an empty PIN"},
          {"hangs", quote(do: Process.sleep(:infinity)), "it gave no answer within :pin_timeout"}
        ] do
      test "since it #{name}, poisons nothing", %{token: token, pool: pool} do
        works? = :atomics.new(1, [])
        pin = token.pin

        source = fn ->
          if :atomics.get(works?, 1) == 1, do: pin, else: unquote(source)
        end

        log =
          capture_log(fn ->
            start!(token, pin: source, pin_timeout: pin_timeout(unquote(name)))

            assert {:error, %Error{reason: :pin_source_failed, executed: false} = error} =
                     Pkcs11Pool.await_ready(pool, 30_000)

            assert Exception.message(error) =~ unquote(text)
            refute inspect(error, structs: false) =~ "secret text"
          end)

        refute log =~ "secret text"
        assert Pkcs11Pool.status(pool).login == :logged_out
        refute Map.has_key?(SoftHSM.calls(token), "C_Login")

        :atomics.put(works?, 1, 1)
        Poll.until(fn -> Pkcs11Pool.await_ready(pool, 30_000) == :ok end)
        assert SoftHSM.calls(token)["C_Login"] == 1
        assert_drained(pool)
      end
    end
  end

  test "a source that calls its own pool waits for itself in vain, and nothing else does",
       context do
    %{token: token, pool: pool} = context
    test = self()

    source = fn ->
      send(test, {:asked, Pkcs11Pool.generate_random(pool, 8, queue_timeout: 100)})
      {:error, :cannot}
    end

    start!(token, pin: source, pin_timeout: 5_000)
    assert_receive {:asked, {:error, %Error{reason: :queue_timeout}}}

    # With more patience than :pin_timeout has.
    source = fn -> Pkcs11Pool.generate_random(pool, 8, queue_timeout: :infinity) end
    stop_supervised!({Pkcs11Pool, pool})
    start!(token, pin: source, pin_timeout: pin_timeout("hangs"))

    assert {:error, %Error{reason: :pin_source_failed} = error} =
             Pkcs11Pool.await_ready(pool, 30_000)

    assert Exception.message(error) =~ "it gave no answer within :pin_timeout"
    assert_drained(pool)
  end

  test "a PIN is in no state, no error and no log", %{token: token, pool: pool} do
    pin = token.pin

    log =
      capture_log(fn ->
        for {start, answer, retention} <- [
              {1, pin, :per_login},
              {2, pin, :until_logout},
              {3, pin <> " is wrong", :per_login}
            ] do
          Elixir.Agent.start_link(fn -> answer end, name: :"pin #{pool} #{start}")

          source = {Elixir.Agent, :get, [:"pin #{pool} #{start}", &Function.identity/1]}

          supervisor = start!(token, pin: source, pin_retention: retention, pool_size: 2)
          result = Pkcs11Pool.generate_key_pair(pool, :ec_key_pair_gen, @public, @private)
          refute shows?(result, pin)
          refute shows?(Pkcs11Pool.status(pool), pin)

          for pid <- processes(supervisor) do
            refute shows?(:sys.get_state(pid), pin)
            refute shows?(:sys.get_status(pid), pin)
          end

          # A pool server that crashes, with its state in the report.
          {:ok, server, _entry} = Registry.lookup(pool)
          monitor = Process.monitor(server)
          :sys.replace_state(server, &%{&1 | options: nil})
          send(server, {:pkcs11_pool, {:pin_wanted, 0}})
          assert_receive {:DOWN, ^monitor, _, _, reason}
          refute shows?(reason, pin)
          stop_supervised!({Pkcs11Pool, pool})
        end
      end)

    assert log =~ "pool #{inspect(pool)}"
    refute log =~ pin
  end

  defp shows?(term, pin) do
    whole = [limit: :infinity, printable_limit: :infinity, structs: false]
    inspect(term, whole) =~ pin or :binary.match(:erlang.term_to_binary(term), pin) != :nomatch
  end

  defp processes(supervisor) do
    children =
      for {_id, pid, type, _modules} when is_pid(pid) <- Supervisor.which_children(supervisor) do
        if type == :supervisor, do: processes(pid), else: [pid]
      end

    [supervisor | List.flatten(children)]
  end
end
