defmodule Pkcs11Pool.BenchTaskTest do
  # Not async: while it runs, the signals of the whole VM are counted.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Pkcs11Pool.Bench
  alias Pkcs11Pool.Test.{ChaosToken, Poll, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag timeout: 300_000
  @pin_variable "BENCH_TASK_TEST_PIN"

  setup_all do
    System.put_env(@pin_variable, "1234")
    on_exit(fn -> System.delete_env(@pin_variable) end)
  end

  # A token behind a chaos module, with the keys of these labels.
  defp token(labels, opts \\ []) do
    token = ChaosToken.new!(opts)
    on_exit(fn -> Chaos.stop(token.chaos) end)

    with_pool(token, fn pool ->
      for {label, index} <- Enum.with_index(labels, 1) do
        {:ok, _keys} =
          Pkcs11Pool.generate_key_pair(
            pool,
            :ec_key_pair_gen,
            [token: true, label: label, id: <<index>>, ec_params: :secp256r1, verify: true],
            token: true,
            label: label,
            id: <<index>>,
            private: true,
            sign: true
          )
      end
    end)

    token
  end

  defp with_pool(token, fun) do
    opts = SoftHSM.pool_opts(token, name: make_ref(), pool_size: 1)
    start_supervised!({Pkcs11Pool, opts})
    result = fun.(opts[:name])
    stop_supervised!({Pkcs11Pool, opts[:name]})
    result
  end

  defp objects(token) do
    with_pool(token, fn pool ->
      {:ok, objects} = Pkcs11Pool.find_objects(pool, [])
      objects |> Enum.map(&{&1.class, &1.key_type, &1.id, &1.label}) |> Enum.sort()
    end)
  end

  defp arguments(token, more) do
    environment = for {name, value} <- token.module_env, do: ["--module-env", "#{name}=#{value}"]
    place = ["--module", token.module, "--token-serial", token.serial]

    login =
      if Enum.any?(more, &(&1 in ["--no-pin", "--pin-file", "--pin-env"])),
        do: [],
        else: ["--pin-env", @pin_variable]

    List.flatten([place, environment, login, more])
  end

  # Tiny windows: nothing here looks at how fast anything is.
  @tiny ~w(--seconds 0.06 --rounds 2)

  # Windows of a second, for an hour.
  @endless ~w(--make-keys --sessions 1,2 --seconds 400 --rounds 400)

  # What the run returns and what it prints; `typed` makes a terminal of it.
  defp bench(token, more, typed \\ nil) do
    {:ok, options} = token |> arguments(more ++ @tiny) |> Bench.Options.parse()
    with_io(typed || "", fn -> Bench.run(options, typed != nil) end)
  end

  defp sessions(output) do
    for [sessions] <-
          Regex.scan(~r/^ *(\d+) +(?:dirty_io|threads) /m, output, capture: :all_but_first),
        do: String.to_integer(sessions)
  end

  describe "a run" do
    @tag :tmp_dir
    test "measures each number of sessions with the user's key, and leaves the token as it was",
         %{tmp_dir: dir} do
      token = token(["signing"])
      before = objects(token)
      [svg, json] = for name <- ["plot.svg", "result.json"], do: Path.join(dir, name)

      {result, output} =
        bench(token, ~w(--key signing --sessions 1,2,9 --svg #{svg} --json #{json}))

      assert result == :ok
      assert sessions(output) == [1, 2, 9]
      assert output =~ ~s("signing" \(ec, id 01\) with :ecdsa)
      assert output =~ ~r/^Recommended: pool_size: (1|2|9), executor: :(dirty_io|threads)$/m
      assert objects(token) == before
      refute Map.has_key?(Chaos.calls(token.chaos), "C_CreateObject")

      assert File.read!(svg) =~ "<svg"
      assert File.read!(json) =~ ~r/"sessions": 9,\s+"executor": "threads"/
      assert Chaos.violations(token.chaos) == []
    end

    test "without a key and a terminal measures random bytes, and makes nothing" do
      token = token([])
      logins = Chaos.calls(token.chaos, :C_Login)
      {result, output} = bench(token, ~w(--no-pin --sessions 1,2))
      assert result == :ok
      assert output =~ "32 random bytes"
      calls = Chaos.calls(token.chaos)
      assert calls["C_GenerateRandom"] > 0
      assert Map.get(calls, "C_Login", 0) == logins
      refute Map.has_key?(calls, "C_GenerateKeyPair")
    end

    test "measures digests, which need no key" do
      token = token([])
      {result, output} = bench(token, ~w(--mechanism CKM_SHA256 --bytes 1000 --sessions 1))
      assert result == :ok
      assert output =~ "digests of 1000 bytes by :sha256"
      assert output =~ "Only one size was measured"
      assert Chaos.calls(token.chaos)["C_Digest"] > 0
    end

    for {mechanism, type} <- [{"sha256_rsa_pkcs", "rsa"}, {"ecdsa", "ec"}] do
      test "with --make-keys makes a key pair for #{mechanism}, and deletes it" do
        token = token(["signing"])
        before = objects(token)

        {result, output} =
          bench(token, ~w(--make-keys --mechanism #{unquote(mechanism)} --sessions 1))

        assert result == :ok
        assert output =~ ~s("pkcs11_pool-bench" \(#{unquote(type)}, id )
        assert output =~ "Deleted the key pair"
        assert objects(token) == before
      end
    end

    test "with --make-keys deletes none but its own, and tells of those that another has left" do
      token = token(["pkcs11_pool-bench"])
      before = objects(token)
      {result, output} = bench(token, ~w(--make-keys --sessions 1))
      assert result == :ok
      assert output =~ "There are 2 objects with the label"
      assert objects(token) == before
    end

    test "of a slow token is bounded by what its sessions can do" do
      token = token(["signing"])
      Chaos.latency(token.chaos, :C_Sign, 5)

      {:ok, options} =
        token
        |> arguments(~w(--key signing --sessions 1,4 --seconds 0.4 --rounds 1))
        |> Bench.Options.parse()

      target = Bench.Target.new(options)
      on_exit(fn -> Bench.Target.stop(target) end)
      :ok = Bench.Target.open(target)

      {:ok, work} =
        Bench.Target.with_pool(
          target,
          [pool_size: 1],
          &Bench.Workload.prepare(&1, options, false, fn _made -> :ok end)
        )

      test = self()

      capture_io(fn ->
        :ok = Bench.Measure.run(target, work, [1, 4], options, false, &send(test, {:sample, &1}))
      end)

      assert_received {:sample, %{sessions: 1} = one}
      assert_received {:sample, %{sessions: 4} = four}

      # Each call takes 5 ms at least, and 8 callers wait for each other.
      assert one.rate <= 200 * 1.05
      assert four.rate <= 800 * 1.05
      for sample <- [one, four], do: assert(sample.p50 >= 5 and sample.max >= sample.p99)
      assert one.failed == 0
      Bench.Target.close(target)
    end

    test "measures calls that take longer than its windows" do
      token = token(["signing"])
      Chaos.latency(token.chaos, :C_Sign, 200)
      {result, output} = bench(token, ~w(--key signing --sessions 1))
      assert result == :ok
      assert sessions(output) == [1]
    end

    test "stops growing where the token gives fewer sessions than asked, and says so" do
      token = token(["signing"])
      Chaos.session_limit(token.chaos, 3)
      {result, output} = bench(token, ~w(--key signing --sessions 1,2,4,8))
      assert result == :ok
      assert sessions(output) == [1, 2, 3]
      assert output =~ "The token gave 3 sessions and no more: larger pools were not measured"
    end

    test "counts the calls that fail, and says why the first did" do
      token = token(["signing"])
      # But the first, by which the run sees that the key signs at all.
      Chaos.fail(token.chaos, :C_Sign, :function_failed,
        nth: 2,
        count: 1_000_000,
        probability: 0.5
      )

      {result, output} = bench(token, ~w(--key signing --sessions 1))
      assert result == :ok

      assert output =~
               ~r/With 1 session, calls that failed: \d+\. The first: .*CKR_FUNCTION_FAILED/
    end

    test "in which every call fails is an error" do
      token = token(["signing"])
      Chaos.fail(token.chaos, :C_Sign, :key_function_not_permitted)
      assert {{:error, message}, _output} = bench(token, ~w(--key signing --sessions 1))
      assert message =~ "CKR_KEY_FUNCTION_NOT_PERMITTED"
    end

    test "leaves no session open" do
      token = token(["signing"])
      {:ok, _output} = bench(token, ~w(--key signing --sessions 1,4))
      calls = fn -> Chaos.calls(token.chaos) end
      assert calls.()["C_OpenSession"] == calls.()["C_CloseSession"]
      # The module is finalized behind the last close, by a thread that nobody waits for.
      Poll.until(fn -> calls.()["C_Initialize"] == calls.()["C_Finalize"] end)
    end
  end

  describe "a key" do
    test "is found by its URI where several have its label" do
      token = token(["a", "a", "b"])
      {result, output} = bench(token, ["--key", "pkcs11:object=a;id=%02", "--sessions", "1"])
      assert result == :ok
      assert output =~ ~s("a" \(ec, id 02\))
    end

    test "that is not the only match is not guessed without a terminal" do
      token = token(["a", "a", "b"])
      {{:error, message}, _output} = bench(token, ~w(--key a --sessions 1))
      assert message =~ "2 keys match"
      assert message =~ "id 01"
      assert message =~ "id 02"
      refute message =~ ~s("b")
      assert message =~ "pkcs11:object=a;id=%01"
    end

    test "that is not the only match is chosen from a list at a terminal" do
      token = token(["a", "a", "b"])
      {result, output} = bench(token, ~w(--key a --sessions 1), "9\n2\n")
      assert result == :ok
      assert output =~ "Several keys match"
      assert output =~ ~r/Measured are signatures .* id 02\)/
    end

    test "that does not exist is told together with those that do" do
      token = token(["signing"])
      {{:error, message}, _output} = bench(token, ~w(--key singing --sessions 1))
      assert message =~ "--key"
      assert message =~ ~s(there are "signing" \(ec, id 01\))
      {{:error, message}, _output} = bench(token, ~w(--key signing --no-pin --sessions 1))
      assert message =~ "--no-pin"
    end

    test "whose mechanism the token does not have is refused with those that it has" do
      token = token(["signing"])

      {{:error, message}, _output} =
        bench(token, ~w(--key signing --mechanism ecdsa_sha3_512 --sessions 1))

      assert message =~ "--mechanism"
      assert message =~ ":ecdsa,"
    end
  end

  describe "at a terminal, without a key," do
    test "random bytes may be chosen" do
      {result, output} = bench(token(["signing"]), ~w(--sessions 1), "r\n")
      assert result == :ok
      assert output =~ ~s(1  "signing" \(ec, id 01\))
      assert output =~ "Measured are 32 random bytes"
      # The bar, which a line of plain output is not.
      assert output =~ ~r/\[#+ *\]/
    end

    test "a key pair is made only after a yes, and deleted" do
      token = token([])
      before = objects(token)

      for answer <- ["n", "", "maybe"] do
        {result, output} = bench(token, ~w(--sessions 1), "m\n#{answer}\n")
        assert result == {:error, "nothing was made or measured"}
        assert output =~ "Go on? [y/N]"
      end

      # Nobody answers at all.
      {{:error, _nothing}, _output} = bench(token, ~w(--sessions 1), "m\n")
      {{:error, "nothing was chosen"}, _output} = bench(token, ~w(--sessions 1), "")
      refute Map.has_key?(Chaos.calls(token.chaos), "C_GenerateKeyPair")

      assert {:ok, _output} = bench(token, ~w(--sessions 1), "m\ny\n")
      assert Chaos.calls(token.chaos)["C_GenerateKeyPair"] == 1
      assert objects(token) == before
    end
  end

  describe "what goes wrong is told by the option, with the remedy:" do
    test "a wrong PIN is tried once" do
      token = token([])
      Chaos.pin_limit(token.chaos, 3)
      System.put_env("BENCH_TASK_WRONG_PIN", "271828")
      on_exit(fn -> System.delete_env("BENCH_TASK_WRONG_PIN") end)
      logins = Chaos.calls(token.chaos, :C_Login)

      {{:error, message}, output} =
        bench(token, ~w(--pin-env BENCH_TASK_WRONG_PIN --sessions 1,2))

      assert message =~ "--pin-env"
      assert message =~ "used up one of its tries"
      assert Chaos.calls(token.chaos, :C_Login) - logins == 1
      assert Chaos.pin_tries(token.chaos) == 2
      refute message <> output =~ "271828"
    end

    test "a PIN that is not there is not tried" do
      token = token([])
      logins = Chaos.calls(token.chaos, :C_Login)
      {{:error, message}, _output} = bench(token, ~w(--pin-env BENCH_TASK_NO_PIN))
      assert message =~ "--pin-env"
      assert message =~ "BENCH_TASK_NO_PIN is not set"
      {{:error, message}, _output} = bench(token, ~w(--pin-file /nowhere/pin))
      assert message =~ "--pin-file"
      assert Chaos.calls(token.chaos, :C_Login) == logins
    end

    test "a label that no token has comes with the labels that there are" do
      token = token([], label: "payments")

      arguments = [
        "--module",
        token.module,
        "--module-env",
        "SOFTHSM2_CONF=#{token.module_env["SOFTHSM2_CONF"]}"
      ]

      {:ok, options} = Bench.Options.parse(arguments ++ ~w(--token-label paymets --no-pin))
      {{:error, message}, _output} = with_io(fn -> Bench.run(options, false) end)
      assert message =~ "--token-label"
      assert message =~ ~s("paymets")
      assert message =~ ~s("payments" with serial number)
    end

    test "a file that is no PKCS#11 library is named" do
      {:ok, options} =
        Bench.Options.parse(["--module", __ENV__.file, "--slot-id", "0", "--no-pin"])

      {{:error, message}, _output} = with_io(fn -> Bench.run(options, false) end)
      assert message =~ "--module"
      assert message =~ __ENV__.file
    end
  end

  describe "mix pkcs11_pool.bench" do
    test "explains itself" do
      {output, 0} = System.cmd("mix", ["help", "pkcs11_pool.bench"], env: [{"MIX_ENV", "test"}])

      for option <- ~w(--module --token-label --pin-env --key --sessions --make-keys --svg),
          do: assert(output =~ option)

      assert output =~ "Recommended: pool_size"
    end

    test "ends with the message, and without anybody else's" do
      arguments = token([]) |> arguments(~w(--pin 271828))

      {output, status} =
        System.cmd("mix", ["pkcs11_pool.bench" | arguments],
          env: [{"MIX_ENV", "test"}],
          stderr_to_stdout: true
        )

      assert status == 1
      assert output =~ "** (Mix) --pin is not taken"
      refute output =~ "271828"
      refute output =~ "[error]"
    end

    for {what, keys} <- [
          {"Ctrl-C", :ctrl_c},
          {"SIGTERM", :sigterm},
          {"the end of its terminal", :hang_up}
        ] do
      test "is ended by #{what}, prints what it has measured, and deletes the key that it made" do
        token = SoftHSM.new_token!()
        terminal = start_on_terminal(arguments(token, @endless))

        # The second round has begun: each size has been measured once.
        Poll.until(fn -> output(terminal) =~ "round 2 of 400" end, 120_000)
        interrupt(terminal, unquote(keys))
        Poll.until(fn -> ended?(terminal) end, 60_000)

        if unquote(keys) != :hang_up do
          assert status(terminal) == 130
          output = output(terminal)
          assert output =~ "Interrupted: cleaning up"
          assert output =~ "Deleted the key pair"
          assert output =~ "This is what was measured so far"
          assert sessions(output) == [1, 2]
          refute output =~ "BREAK"
        end

        assert objects(token) == []
      end
    end

    test "is ended by Ctrl-C although a call hangs, and deletes the key that it made" do
      {token, chaos} = behind_chaos()
      terminal = start_on_terminal(arguments(%{token | module: chaos.module}, @endless))
      Poll.until(fn -> output(terminal) =~ "round 2 of 400" end, 120_000)
      Chaos.hang(chaos, :C_Sign)
      # No call comes any more, since all that came hang.
      Poll.until(fn -> calls_within(chaos, 200) == 0 end)
      interrupt(terminal, :ctrl_c)
      Poll.until(fn -> ended?(terminal) end, 60_000)
      assert status(terminal) == 130
      assert output(terminal) =~ "Deleted the key pair"
      assert objects(token) == []
    end

    test "is ended at once by a second Ctrl-C, and says what it leaves behind" do
      {token, chaos} = behind_chaos()
      terminal = start_on_terminal(arguments(%{token | module: chaos.module}, @endless))
      Poll.until(fn -> output(terminal) =~ "round 2 of 400" end, 120_000)
      # Nothing can be cleaned up any more.
      Chaos.hang(chaos, :C_CloseSession)
      interrupt(terminal, :ctrl_c)
      Poll.until(fn -> output(terminal) =~ "Interrupted: cleaning up" end)
      interrupt(terminal, :ctrl_c)
      Poll.until(fn -> ended?(terminal) end, 60_000)
      left = ~r/the key pair "pkcs11_pool-bench" with id [0-9a-f]{16} may still be on the token/
      assert status(terminal) == 1
      assert output(terminal) =~ left
    end
  end

  defp calls_within(chaos, ms) do
    before = Chaos.calls(chaos, :C_Sign)
    Process.sleep(ms)
    Chaos.calls(chaos, :C_Sign) - before
  end

  # A chaos module that only the other VM loads, and so answers to what is told from here. The token is looked at past it.
  defp behind_chaos do
    token = SoftHSM.new_token!()
    chaos = Chaos.start!(token.module, module_env: token.module_env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> File.rm_rf!(chaos.dir) end)
    {token, chaos}
  end

  ## A terminal, by util-linux's script(1), whose log and whose end are looked at

  defp start_on_terminal(arguments) do
    name = Path.join(SoftHSM.dir(), "terminal-#{System.unique_integer([:positive])}")
    quoted = Enum.map_join(["pkcs11_pool.bench" | arguments], " ", &"'#{&1}'")
    # The shell makes way for Mix, whose process is so known, and which is the terminal's.
    command = "echo $$ > #{name}.pid; exec mix #{quoted}"
    script = System.find_executable("script") || flunk("script(1) is not installed")
    environment = [{~c"MIX_ENV", ~c"test"}, {~c"SHELL", ~c"/bin/sh"}, {~c"TERM", ~c"xterm"}]

    port =
      Port.open({:spawn_executable, script}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        args: ["-qefc", command, name],
        env: environment
      ])

    terminal = %{port: port, log: name, pid: name <> ".pid"}
    # Of a test that has failed.
    on_exit(fn -> if not ended?(terminal), do: System.cmd("kill", ["-KILL", pid(terminal)]) end)
    terminal
  end

  defp output(terminal) do
    case File.read(terminal.log) do
      {:ok, log} -> String.replace(log, "\r", "\n")
      {:error, :enoent} -> ""
    end
  end

  defp interrupt(terminal, :ctrl_c), do: Port.command(terminal.port, <<3>>)

  defp interrupt(terminal, :sigterm),
    do: {_output, 0} = System.cmd("kill", ["-TERM", pid(terminal)])

  # script(1) ends, and with it the terminal, whose processes the kernel tells so.
  defp interrupt(terminal, :hang_up) do
    {:os_pid, script} = Port.info(terminal.port, :os_pid)
    {_output, 0} = System.cmd("kill", ["-KILL", Integer.to_string(script)])
  end

  defp pid(terminal), do: terminal.pid |> File.read!() |> String.trim()

  defp ended?(terminal) do
    {_output, status} = System.cmd("kill", ["-0", pid(terminal)], stderr_to_stdout: true)
    status != 0
  end

  # script(1) ends after the process on its terminal: then its log is whole.
  defp status(%{port: port}) do
    receive do
      {^port, {:exit_status, status}} -> status
    after
      10_000 -> flunk("script(1) did not end")
    end
  end
end
