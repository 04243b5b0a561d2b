defmodule Pkcs11Pool.InitTest do
  # Not async: what is written to the standard error is captured for the whole VM.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Pkcs11Pool.{GenConfig, NewToken, Token}
  alias Pkcs11Pool.Test.SoftHSM
  alias Pkcs11Pool.Testing.Chaos

  @moduletag timeout: 300_000
  @variables %{
    "INIT_TEST_SO_PIN" => "so-5678",
    "INIT_TEST_PIN" => "user-1234",
    "INIT_TEST_WRONG_PIN" => "271828",
    "INIT_TEST_SHORT_PIN" => "12"
  }

  setup_all do
    System.put_env(@variables)
    on_exit(fn -> Enum.each(@variables, fn {name, _value} -> System.delete_env(name) end) end)
  end

  # A copy of SoftHSM, without tokens, which this VM loads only where a test says so.
  defp new_module do
    module = SoftHSM.new_module!()
    %{module: module, module_env: SoftHSM.module_env(module)}
  end

  defp behind_chaos(%{module: module, module_env: env}) do
    chaos = Chaos.start!(module, module_env: env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> File.rm_rf!(chaos.dir) end)
    %{module: chaos.module, module_env: chaos.module_env, chaos: chaos}
  end

  defp module_arguments(%{module: module, module_env: env}) do
    env = for {name, value} <- env, do: ["--module-env", "#{name}=#{value}"]
    List.flatten(["--module", module, env])
  end

  @pins ["--so-pin-env", "INIT_TEST_SO_PIN", "--pin-env", "INIT_TEST_PIN"]

  defp init(module, label, more \\ [], pins \\ @pins) do
    time = if "--timeout" in more, do: [], else: ["--timeout", "120"]

    run(fn ->
      NewToken.main(module_arguments(module) ++ ["--token-label", label] ++ pins ++ time ++ more)
    end)
  end

  defp gen_config(module, more),
    do: run(fn -> GenConfig.main(module_arguments(module) ++ ["--timeout", "120"] ++ more) end)

  # The exit code, and what was written to the standard output and error.
  defp run(fun) do
    own = self()

    error =
      capture_io(:stderr, fn ->
        output = capture_io(fn -> send(own, {:code, fun.()}) end)
        send(own, {:output, output})
      end)

    assert_received {:code, code}
    assert_received {:output, output}
    # No PIN is anywhere.
    for {_name, pin} <- @variables, byte_size(pin) > 2, do: refute(output <> error =~ pin)
    {code, output, error}
  end

  # By another library than the one under test.
  defp labels(module) do
    env = Map.to_list(module.module_env)
    {text, 0} = System.cmd("softhsm2-util", ["--show-slots"], env: env)

    for [label] <- Regex.scan(~r/Label: +(\S+)/, text, capture: :all_but_first), do: label
  end

  defp start_pool(module, label, more \\ []) do
    opts = [name: {__MODULE__, label}, slot: {:token_label, label}, pin: fn -> "user-1234" end]
    opts = Map.to_list(Map.take(module, [:module, :module_env])) ++ opts ++ more
    start_supervised!({Pkcs11Pool, opts}, id: {label, more})
    opts[:name]
  end

  describe "init" do
    test "makes a token with its PINs and keys, which a pool uses" do
      module = new_module()

      {code, output, ""} =
        init(module, "payments", ~w(--key signing:p256 --key a:b:aes256 --key mac:hmac))

      assert code == 0

      assert output =~
               ~s(Made the token "payments".\nSet its user PIN.\nMade the key "signing" (p256, id )

      assert output =~ "mix pkcs11_pool.gen.config --module #{module.module}"
      assert labels(module) == ["payments"]

      pool = start_pool(module, "payments")
      signature = Pkcs11Pool.sign!(pool, "signing", {:ecdsa, hash: :sha256}, "data")
      assert :ok = Pkcs11Pool.verify(pool, "signing", {:ecdsa, hash: :sha256}, "data", signature)
      info = Pkcs11Pool.key_info!(pool, "signing")
      assert %{sensitive: true, extractable: false, private: true, token: true} = info
      assert byte_size(info.id) == 8
      refute Enum.any?([:decrypt, :unwrap, :derive], &(&1 in info.usage))
      assert %{bits: 256, usage: [:encrypt, :decrypt]} = Pkcs11Pool.key_info!(pool, "a:b")
      assert %{usage: [:sign, :verify]} = Pkcs11Pool.key_info!(pool, "mac")

      # The security officer's PIN is the one that was given.
      stop_supervised!({"payments", []})
      opts = Map.to_list(module) ++ [slot: {:token_label, "payments"}]
      officer = fn -> "so-5678" end
      assert :ok = Token.init_pin(opts, officer, fn -> "user-1234" end)
    end

    test "makes keys of all types" do
      module = new_module()
      keys = for type <- Pkcs11Pool.NewKey.types(), do: ["--key", "#{type}:#{type}"]
      assert {0, _output, ""} = init(module, "all", List.flatten(keys))
      pool = start_pool(module, "all")

      for type <- Pkcs11Pool.NewKey.types() do
        info = Pkcs11Pool.key_info!(pool, "#{type}")
        assert %{sensitive: true, extractable: false, private: true} = info
        # SoftHSM gives C_SignRecover to whatever may sign.
        uses = info.usage -- [:sign_recover]

        expected =
          case "#{type}" do
            "rsa" <> _bits -> [:decrypt, :sign]
            "aes" <> _bits -> [:encrypt, :decrypt]
            "hmac" -> [:sign, :verify]
            _curve -> [:sign]
          end

        assert {type, uses} == {type, expected}
      end
    end

    test "makes one token beside another, and leaves those that are there alone" do
      module = new_module()
      assert {0, _output, ""} = init(module, "one", ~w(--key signing:p256))
      assert {0, _output, ""} = init(module, "two")
      assert {1, "", error} = init(module, "one")
      assert error =~ ~s(There is a token "one" already)
      assert error =~ "Nothing was done."
      assert Enum.sort(labels(module)) == ["one", "two"]

      pool = start_pool(module, "one")
      assert {:ok, _signature} = Pkcs11Pool.sign(pool, "signing", {:ecdsa, hash: :sha256}, "data")
    end

    test "refuses a slot that is initialized, unless it is told to make its token anew" do
      module = new_module()
      assert {0, _output, ""} = init(module, "old", ~w(--key signing:p256))
      {:ok, %{slots: slots}} = Token.list(Map.to_list(module))
      %{slot_id: id} = Enum.find(slots, &(&1.token.label == "old"))

      assert {1, "", error} = init(module, "new", ["--slot-id", "#{id}"])
      assert error =~ ~s(--slot-id names the token "old", which is initialized)
      assert labels(module) == ["old"]

      assert {0, output, ""} = init(module, "new", ["--slot-id", "#{id}", "--reinitialize"])
      assert output =~ ~s(Made the token "new")
      assert labels(module) == ["new"]
      pool = start_pool(module, "new")
      assert {:ok, []} = Pkcs11Pool.find_objects(pool, [])
      stop_supervised!({"new", []})

      # By its label, which it keeps.
      assert {0, _output, ""} = init(module, "new", ~w(--reinitialize --key other:ed25519))
      assert labels(module) == ["new"]
      assert {1, "", error} = init(module, "none", ["--reinitialize"])
      assert error =~ ~s(There is no token "none" to make anew)
    end

    test "tries a security officer's PIN once, and not where a wrong one locks it" do
      module = new_module()
      assert {0, _output, ""} = init(module, "token")
      wrong = ["--so-pin-env", "INIT_TEST_WRONG_PIN", "--pin-env", "INIT_TEST_PIN"]
      spied = SoftHSM.spy!(module)
      assert {5, "", error} = init(spied, "token", ["--reinitialize"], wrong)
      assert error =~ "--so-pin-env: the token refused the security officer's PIN"
      assert error =~ "Nothing was made."
      assert %{"C_InitToken" => 1} = SoftHSM.calls(spied)

      spied = SoftHSM.spy!(module)
      chaos = behind_chaos(spied)
      Chaos.token_flags(chaos.chaos, set: [:so_pin_final_try])
      assert {5, "", error} = init(chaos, "token", ["--reinitialize"])
      assert error =~ "one more wrong PIN would lock the token"
      refute Map.has_key?(SoftHSM.calls(spied), "C_InitToken")
    end

    test "refuses PINs that do not do before anything is done" do
      module = new_module()

      for {so_pin, pin, part} <- [
            {"INIT_TEST_SO_PIN", "INIT_TEST_SHORT_PIN",
             "--pin: the token takes PINs of 4 to 255 bytes"},
            {"INIT_TEST_SHORT_PIN", "INIT_TEST_PIN",
             "--so-pin: the token takes PINs of 4 to 255 bytes"},
            {"INIT_TEST_PIN", "INIT_TEST_PIN", "are the same"},
            {"INIT_TEST_NOT_SET", "INIT_TEST_PIN",
             "--so-pin-env: the environment variable INIT_TEST_NOT_SET is not set"}
          ] do
        assert {1, "", error} =
                 init(module, "token", [], ["--so-pin-env", so_pin, "--pin-env", pin])

        assert error =~ part
        assert error =~ "Nothing was done."
      end

      assert labels(module) == []
    end

    test "says what is done where it fails in the midst" do
      chaos = behind_chaos(new_module())
      Chaos.fail(chaos.chaos, :C_InitPIN, :pin_invalid)
      assert {1, output, error} = init(chaos, "token", ~w(--key signing:p256))
      assert output == ~s(Made the token "token".\n)
      assert error =~ "The user PIN was not set"
      assert error =~ "without a user PIN and without keys"

      chaos = behind_chaos(new_module())
      Chaos.fail(chaos.chaos, :C_GenerateKey, :device_memory)

      assert {1, output, error} =
               init(chaos, "token", ~w(--key one:p256 --key two:hmac --key three:p256))

      assert output =~ ~s(Made the key "one")
      refute output =~ "three"
      assert error =~ ~s(The key "two" was not made)
      assert error =~ ~s(Not made: "two", "three")
    end

    test "tells of a module that crashes or hangs, and leaves nothing open" do
      chaos = behind_chaos(new_module())
      Chaos.crash(chaos.chaos, :C_InitToken)
      assert {3, "", error} = init(chaos, "token")
      assert error =~ "The module crashed (SIGABRT) when it was to make the token"
      assert error =~ "may have been done all the same"
      refute error =~ "Nothing was made."

      chaos = behind_chaos(new_module())
      Chaos.hang(chaos.chaos, :C_InitPIN)
      assert {4, output, error} = init(chaos, "token", ["--timeout", "6"])
      assert output == ~s(Made the token "token".\n)
      assert error =~ "The module did not return within 6 s when it was to set the user PIN"
      assert error =~ "without a user PIN"

      chaos = behind_chaos(new_module())
      Chaos.crash(chaos.chaos, :C_Initialize)
      assert {3, "", error} = init(chaos, "token")
      assert error =~ "Nothing was made."
      assert {1, "", error} = init(%{module: "/none.so", module_env: %{}}, "token")
      assert error =~ "There is no file /none.so. Look for the path"
    end

    test "where no slot is free, or several are, it says so" do
      chaos = behind_chaos(new_module())
      assert {0, _output, ""} = init(chaos, "token")
      Chaos.token_flags(chaos.chaos, set: [:token_initialized])
      assert {1, "", error} = init(chaos, "other")
      assert error =~ "No slot has a token that nobody has initialized; there are: "
      Chaos.token_flags(chaos.chaos, clear: [:token_initialized])
      assert {1, "", error} = init(chaos, "other")
      assert error =~ "Several slots have a token that nobody has initialized"
      assert error =~ "Name one by --slot-id."
    end

    test "takes no PIN as an argument, and refuses what it does not know" do
      for {arguments, part} <- [
            {["--so-pin", "271828"], "--so-pin-env VARIABLE or --so-pin-file PATH"},
            {["--pin", "271828"], "--pin-env VARIABLE or --pin-file PATH"},
            {["--token-label", String.duplicate("x", 33)], "1 to 32 bytes"},
            {["--token-label", "a "], "without spaces at its ends"},
            {["--token-label", "a", "--key", "signing"], "LABEL:TYPE"},
            {["--token-label", "a", "--key", "signing:rsa"], "LABEL:TYPE"},
            {["--token-label", "a", "--key", "x:p256", "--key", "x:hmac"],
             "two keys have the label x"},
            {["--token-label", "a", "--token-serial", "1"], "give --reinitialize too"},
            {[], "--token-label LABEL is missing"},
            {["--token-label", "a"], "there is no terminal to ask for the PIN"}
          ] do
        assert {2, "", error} = run(fn -> NewToken.main(["--module", "/x.so" | arguments]) end)
        assert error =~ part
      end
    end
  end

  describe "gen.config" do
    test "prints a specification by which a pool starts, with the token's label" do
      module = new_module()
      assert {0, _output, ""} = init(module, "payments", ~w(--key signing:p256))
      more = ~w(--name MyApp.HSM --pin-env INIT_TEST_PIN)
      assert {0, output, ""} = gen_config(module, more)
      assert output =~ ~s(slot: {:token_label, "payments"})

      {{Pkcs11Pool, opts} = specification, _binding} = Code.eval_string(output)
      assert opts[:pin] == {:env, "INIT_TEST_PIN"}
      assert opts[:name] == MyApp.HSM
      start_supervised!(specification)
      assert {:ok, _} = Pkcs11Pool.sign(MyApp.HSM, "signing", {:ecdsa, hash: :sha256}, "data")
    end

    test "names the token by what tells it from the others" do
      module = SoftHSM.new_module!()
      one = SoftHSM.new_token!(module: module, label: "same")
      two = SoftHSM.new_token!(module: module, label: "same")
      other = SoftHSM.new_token!(module: module, label: ~s(it's "other"\#{1}))

      assert {1, "", error} = gen_config(one, [])
      assert error =~ "there are several tokens"
      assert {1, "", error} = gen_config(one, ["--token-label", "same"])
      assert error =~ "--token-label matches several tokens"
      assert error =~ two.serial

      for {token, argument, slot} <- [
            {two, ["--slot-id", "#{two.slot_id}"], {:token_serial, two.serial}},
            {other, ["--slot-id", "#{other.slot_id}"], {:token_label, other.label}},
            {other, ["--uri", "pkcs11:serial=#{other.serial}"], {:token_label, other.label}}
          ] do
        assert {0, output, ""} = gen_config(token, argument)
        {{Pkcs11Pool, opts}, _binding} = Code.eval_string(output)
        assert opts[:slot] == slot
        assert opts[:pin] == {:env, "HSM_PIN"}
        # Whatever it prints is an option of a pool.
        assert %{id: {Pkcs11Pool, MyApp.HSM}} = Pkcs11Pool.child_spec(opts)
      end
    end

    test "respects what the token says: few sessions, write-protected, a PIN pad, no login" do
      token = SoftHSM.new_token!()

      for {flags, expected} <- [
            {[set: [:write_protected]], [read_only: true, pin: {:env, "HSM_PIN"}]},
            {[set: [:protected_authentication_path]],
             [protected_authentication_path: true, pin: nil]},
            {[clear: [:login_required]], [pin: nil]}
          ] do
        chaos = behind_chaos(token)
        Chaos.token_flags(chaos.chaos, flags)
        Chaos.session_limit(chaos.chaos, 2)
        assert {0, output, ""} = gen_config(chaos, [])
        {{Pkcs11Pool, opts}, _binding} = Code.eval_string(output)
        assert opts[:pool_size] == 2
        for {name, value} <- expected, do: assert(opts[name] == value)
        assert Pkcs11Pool.child_spec(opts)
      end
    end

    test "prints nothing but what is wrong where there is no token" do
      assert {1, "", error} = gen_config(new_module(), [])
      assert error =~ "No token is initialized"
      assert {1, "", error} = gen_config(SoftHSM.new_token!(), ["--token-label", "none"])
      assert error =~ "No token matches --token-label"
      assert {2, "", error} = gen_config(%{module: "/x.so", module_env: %{}}, ["--name", "a b"])
      assert error =~ "--name wants"
      chaos = behind_chaos(new_module())
      Chaos.crash(chaos.chaos, :C_GetSlotList)
      assert {3, "", error} = gen_config(chaos, [])
      assert error =~ "The module crashed"
    end
  end
end
