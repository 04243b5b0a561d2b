defmodule Pkcs11Pool.DoctorTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  alias Pkcs11Pool.{Doctor, JSON}
  alias Pkcs11Pool.Test.{Poll, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag timeout: 300_000
  @pin_variable "DOCTOR_TEST_PIN"
  @wrong_variable "DOCTOR_TEST_WRONG_PIN"

  setup_all do
    System.put_env(@pin_variable, "1234")
    System.put_env(@wrong_variable, "271828")

    on_exit(fn ->
      System.delete_env(@pin_variable)
      System.delete_env(@wrong_variable)
    end)
  end

  # A token, in a module that this VM never loads.
  defp token, do: SoftHSM.new_token!()

  defp token_with_keys do
    token = token()

    SoftHSM.pkcs11_tool!(token, ~w(--keypairgen --key-type EC:prime256v1 --label signing --id 01))
    SoftHSM.pkcs11_tool!(token, ~w(--keypairgen --key-type rsa:2048 --label tls --id 02))
    token
  end

  # The commands come before the module is loaded, and so are done when the other VM does that.
  defp behind_chaos(token) do
    chaos = Chaos.start!(token.module, module_env: token.module_env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> File.rm_rf!(chaos.dir) end)
    Map.merge(token, %{module: chaos.module, module_env: chaos.module_env, chaos: chaos})
  end

  defp arguments(%{module: module} = token, more) do
    env = for {name, value} <- token.module_env, do: ["--module-env", "#{name}=#{value}"]
    # A machine may be busy: only what hangs is given a short time.
    time = if "--timeout" in more, do: [], else: ["--timeout", "120"]
    List.flatten(["--module", module, env, time, more])
  end

  defp doctor(token, more) do
    {code, output} = with_io(fn -> Doctor.main(arguments(token, more)) end)
    {code, output}
  end

  defp json(token, more \\ []) do
    {code, output} = doctor(token, ["--json" | more])
    {:ok, report} = JSON.decode(output)
    assert report["exit_code"] == code
    report
  end

  defp ids(report, level \\ "error"),
    do: for(%{"level" => ^level, "id" => id} <- report["findings"], do: id)

  defp login(variable \\ @pin_variable), do: ["--login", "--pin-env", variable]

  defp slot(report, token),
    do: Enum.find(report["slots"], &(get_in(&1, ["token", "label"]) == token.label))

  # What is no module: a path, without variables.
  defp at(path), do: %{module: path, module_env: %{}}

  describe "a token" do
    test "is described without a login: module, slots, flags, limits, mechanisms, what is public" do
      token = token_with_keys()
      report = json(token)
      assert report["exit_code"] == 0
      assert %{"manufacturer" => "SoftHSM", "cryptoki_version" => "2.40"} = report["module"]
      assert report["sha256"] =~ ~r/\A[0-9a-f]{64}\z/
      slot = slot(report, token)
      assert "login_required" in slot["token"]["flags"]
      assert slot["token"]["max_session_count"] == "infinity"

      assert Enum.any?(
               slot["mechanisms"],
               &(&1["mechanism"] == "ecdsa" and "sign" in &1["flags"])
             )

      objects =
        for object <- slot["objects"], do: {object["class"], object["label"], object["id"]}

      assert Enum.sort(objects) == [{"public_key", "signing", "01"}, {"public_key", "tls", "02"}]
      assert {slot["login"], slot["signature"]} == {nil, nil}
      # This VM has not loaded it.
      refute File.read!("/proc/self/maps") =~ token.module
    end

    test "is logged in to, signs and verifies, with consent" do
      token = token_with_keys()
      report = json(token, login())
      assert {report["exit_code"], report["findings"]} == {0, []}
      slot = slot(report, token)
      assert slot["login"] == "good"
      classes = for object <- slot["objects"], do: object["class"]
      assert Enum.frequencies(classes) == %{"private_key" => 2, "public_key" => 2}
      assert %{"verified_on_token" => true, "verified_by_otp" => true} = slot["signature"]

      for {key, mechanism} <- [{"signing", "ecdsa"}, {"tls", "rsa_pkcs"}] do
        report = json(token, login() ++ ["--key", key, "--token-label", token.label])
        signature = slot(report, token)["signature"]
        assert signature["key"]["label"] == key
        assert signature["mechanism"] =~ mechanism
        assert %{"verified_on_token" => true, "verified_by_otp" => true} = signature
      end
    end

    test "is shown as text, with the PIN in no place" do
      token = token_with_keys()
      {code, text} = doctor(token, login())
      assert code == 0
      assert text =~ "\"#{token.label}\", serial number #{token.serial}"
      assert text =~ "Login         good"
      assert text =~ "verified on the token and by"
      assert text =~ "All that was asked for works."
      # Unless a digest or number happens to have it.
      refute Regex.replace(~r/\w{5,}/, text, "") =~ "1234"
    end

    test "that has no key of that name says what to compare" do
      report = json(token_with_keys(), login() ++ ["--key", "none"])
      assert {report["exit_code"], ids(report)} == {1, ["key_not_found"]}
    end

    test "whose public key is another one's is found out" do
      token = token()
      generate = ~w(--keypairgen --key-type EC:prime256v1)
      SoftHSM.pkcs11_tool!(token, generate ++ ~w(--label one --id 01))
      SoftHSM.pkcs11_tool!(token, generate ++ ~w(--label two --id 02))

      for delete <- [~w(--type pubkey --id 01), ~w(--type privkey --id 02)],
          do: SoftHSM.pkcs11_tool!(token, ["--delete-object" | delete])

      # The private key "one" and the public key "two" have one id now.
      start = SoftHSM.pool_opts(token, name: token.label)
      start_supervised!({Pkcs11Pool, start})
      two = [class: :public_key, label: "two"]
      :ok = Pkcs11Pool.set_attributes(token.label, two, id: <<1>>)
      stop_supervised!({Pkcs11Pool, token.label})

      report = json(token, login())
      assert {report["exit_code"], ids(report)} == {1, ["signature_wrong"]}
    end

    test "that does not exist is named with those that do" do
      token = token()
      report = json(token, ["--token-label", "none such"])
      assert {report["exit_code"], ids(report)} == {1, ["slot_not_found"]}
      assert [%{"what" => what}] = report["findings"]
      assert what =~ token.label
    end

    test "is named by serial number, slot and URI" do
      token = token()

      for argument <- [
            ["--token-serial", token.serial],
            ["--slot-id", "#{token.slot_id}"],
            ["--uri", "pkcs11:token=#{token.label};library-manufacturer=SoftHSM"]
          ],
          do: assert(ids(json(token, argument)) == [])

      assert ids(json(token, ["--uri", "pkcs11:token=#{token.label};model=another"])) ==
               ["slot_not_found"]
    end
  end

  describe "a PIN" do
    test "that is wrong is tried once" do
      token = SoftHSM.spy!(token_with_keys())
      report = json(token, login(@wrong_variable))
      assert {report["exit_code"], ids(report)} == {5, ["pin_incorrect"]}
      assert slot(report, token)["login"] == "pin_incorrect"
      assert %{"C_Login" => 1} = SoftHSM.calls(token)
    end

    test "is tried once also where the token answers with a code that says nothing of a PIN" do
      for code <- [
            :general_error,
            :device_error,
            :session_handle_invalid,
            :cryptoki_not_initialized,
            :token_not_present,
            :user_not_logged_in,
            :session_count,
            0x80000123
          ] do
        spied = SoftHSM.spy!(token_with_keys())
        token = behind_chaos(spied)
        Chaos.fail(token.chaos, :C_Login, code, run: true)
        report = json(token, login(@wrong_variable))
        assert {report["exit_code"], ids(report)} == {5, ["login_failed"]}
        assert {code, SoftHSM.calls(spied)["C_Login"]} == {code, 1}
      end
    end

    test "is not tried where the token says that a wrong one locks it, or that it is locked" do
      for {flag, id} <- [
            {:user_pin_final_try, "user_pin_final_try"},
            {:user_pin_locked, "user_pin_locked"}
          ] do
        spied = SoftHSM.spy!(token_with_keys())
        token = behind_chaos(spied)
        Chaos.token_flags(token.chaos, set: [flag])
        report = json(token, login())
        assert {report["exit_code"], ids(report)} == {5, [id]}
        assert slot(report, token)["login"] == "not_tried"
        calls = SoftHSM.calls(spied)
        assert calls["C_GetTokenInfo"] > 0
        refute Map.has_key?(calls, "C_Login")
      end
    end

    test "that was wrong before is warned of" do
      token = behind_chaos(token_with_keys())
      Chaos.token_flags(token.chaos, set: [:user_pin_count_low])
      report = json(token, login())
      assert {report["exit_code"], ids(report, "warning")} == {0, ["user_pin_count_low"]}
    end

    test "is not tried where several tokens could be meant" do
      module = SoftHSM.new_module!()
      one = SoftHSM.new_token!(module: module)
      _two = SoftHSM.new_token!(module: module)
      report = json(one, login())
      assert {report["exit_code"], ids(report)} == {1, ["login_not_tried"]}
    end

    test "is not needed for a pin pad, and where there is none that is said" do
      report = json(token(), ["--login", "--pin-pad"])
      assert {report["exit_code"], ids(report)} == {1, ["login_not_tried"]}
    end

    test "whose source gives none costs no try" do
      token = SoftHSM.spy!(token())
      report = json(token, login("DOCTOR_TEST_NOT_SET"))
      assert {report["exit_code"], ids(report)} == {1, ["pin_source_failed"]}
      refute Map.has_key?(SoftHSM.calls(token), "C_Login")
    end

    test "does not come with a spy's output" do
      # It writes the PIN to the standard error.
      token = SoftHSM.spy!(token_with_keys())
      env = Map.delete(token.module_env, "PKCS11SPY_OUTPUT")
      report = json(%{token | module_env: env}, login(@wrong_variable))
      assert report["output"] =~ "C_GetMechanismInfo"
      refute report["output"] =~ "C_Login"
      refute inspect(report) =~ "271828"
    end
  end

  describe "a module" do
    @tag :tmp_dir
    test "that crashes when it is loaded is told of, and suffered by another VM", %{tmp_dir: dir} do
      report =
        json(
          at(
            library!(
              dir,
              "__attribute__((constructor)) static void f(void) { __builtin_trap(); }"
            )
          )
        )

      assert {report["exit_code"], ids(report)} == {3, ["module_crashed"]}
      assert report["step"] =~ "load the module"
      assert report["outcome"] =~ "signal"
    end

    @tag :tmp_dir
    test "that ends its program is told of", %{tmp_dir: dir} do
      source =
        "#include <stdlib.h>\n__attribute__((constructor)) static void f(void) { _Exit(0); }"

      report = json(at(library!(dir, source)))
      assert {report["exit_code"], ids(report)} == {3, ["module_exited"]}
      assert report["step"] =~ "load the module"
    end

    test "that crashes in a function is told of, with what was learnt until then" do
      for {function, step, known} <- [
            {:C_Initialize, "C_Initialize", false},
            {:C_FindObjectsInit, "C_FindObjects", true},
            {:C_Login, "log in", true},
            {:C_Sign, "sign with a key", true},
            {:C_Finalize, "C_Finalize", true}
          ] do
        token = behind_chaos(token_with_keys())
        Chaos.crash(token.chaos, function)
        report = json(token, login())
        assert {report["exit_code"], ids(report)} == {3, ["module_crashed"]}, "#{function}"
        assert report["step"] =~ step
        assert report["outcome"] == "signal 6"
        assert slot(report, token) != nil == known
      end
    end

    test "that hangs is ended after a limit, with what was learnt until then" do
      for {function, step} <- [
            {:C_Initialize, "C_Initialize"},
            {:C_FindObjectsInit, "C_FindObjects"}
          ] do
        token = behind_chaos(token_with_keys())
        Chaos.hang(token.chaos, function)
        report = json(token, ["--timeout", "6"])
        assert {report["exit_code"], ids(report)} == {4, ["module_hangs"]}, "#{function}"
        assert report["step"] =~ step
        Poll.until(fn -> not in_use?(token.module) end)
      end
    end

    test "that refuses C_Initialize is told of" do
      token = behind_chaos(token())
      Chaos.fail(token.chaos, :C_Initialize, :device_error)
      report = json(token)
      assert {report["exit_code"], ids(report)} == {1, ["module_not_initialized"]}
      assert [%{"what" => what}] = report["findings"]
      assert what =~ "C_Initialize returned CKR_DEVICE_ERROR"
    end

    @tag :tmp_dir
    test "SoftHSM without its configuration is told what it looks for", %{tmp_dir: dir} do
      missing = Path.join(dir, "missing.conf")
      report = json(%{module: SoftHSM.new_module!(), module_env: %{"SOFTHSM2_CONF" => missing}})
      assert ids(report) == ["module_not_initialized"]
      assert [%{"remedy" => remedy}] = report["findings"]
      assert remedy =~ "SOFTHSM2_CONF names #{missing}, which is not there"

      conf = Path.join(dir, "softhsm2.conf")
      File.write!(conf, "directories.tokendir = #{dir}/none\n")
      report = json(%{module: SoftHSM.new_module!(), module_env: %{"SOFTHSM2_CONF" => conf}})
      assert [%{"remedy" => remedy}] = report["findings"]
      assert remedy =~ "names #{dir}/none for its tokens, and that is not there"
    end

    test "without tokens says how one is made" do
      module = SoftHSM.new_module!()
      report = json(%{module: module, module_env: SoftHSM.module_env(module)})
      assert {report["exit_code"], ids(report)} == {1, ["no_token"]}
      assert [%{"remedy" => remedy}] = report["findings"]
      assert remedy =~ "mix pkcs11_pool.init --module #{module}"
    end

    test "whose slot cannot be read is told of, and its sessions that are few" do
      token = behind_chaos(token_with_keys())
      Chaos.session_limit(token.chaos, 2)
      report = json(token, login())
      assert {report["exit_code"], ids(report, "info")} == {0, ["few_sessions"]}

      token = behind_chaos(token_with_keys())
      Chaos.fail(token.chaos, :C_GetTokenInfo, :device_error)
      report = json(token)
      assert "slot_unreadable" in ids(report, "warning")
      assert report["exit_code"] == 1
    end
  end

  describe "a file" do
    @describetag :tmp_dir

    test "that is missing, a folder, empty or a text is never loaded", %{tmp_dir: dir} do
      empty = Path.join(dir, "empty.so")
      File.write!(empty, "")
      pipe = Path.join(dir, "pipe")
      {_, 0} = System.cmd("mkfifo", [pipe])

      for {path, id} <- [
            {Path.join(dir, "none.so"), "file_missing"},
            {dir, "file_is_folder"},
            {empty, "file_empty"},
            {pipe, "file_not_regular"},
            {__ENV__.file, "file_not_a_library"}
          ] do
        report = json(at(path))
        assert {report["exit_code"], ids(report)} == {1, [id]}
        # No other VM was started.
        assert report["outcome"] == nil
      end
    end

    test "of another machine is named as that", %{tmp_dir: dir} do
      <<head::binary-4, _bits, rest::binary>> = File.read!(SoftHSM.module_path())
      path = Path.join(dir, "softhsm32.so")
      File.write!(path, [head, 1, rest])
      report = json(at(path))
      assert {report["exit_code"], ids(report)} == {1, ["file_of_other_machine"]}
      assert [%{"what" => what}] = report["findings"]
      assert what =~ "32-bit"
      assert what =~ "this VM for"
    end

    test "that is no PKCS#11 module, or damaged, says so", %{tmp_dir: dir} do
      report = json(at(library!(dir, "int something_else = 1;")))
      assert {report["exit_code"], ids(report)} == {1, ["module_not_loaded"]}
      assert [%{"remedy" => remedy}] = report["findings"]
      assert remedy =~ "no C_GetFunctionList"

      path = Path.join(dir, "half.so")
      File.write!(path, binary_part(File.read!(SoftHSM.module_path()), 0, 4_000))
      # The system's loader refuses it, or crashes on it.
      report = json(at(path))
      assert [id] = ids(report)
      assert {id, report["exit_code"]} in [{"module_not_loaded", 1}, {"module_crashed", 3}]
    end

    test "with another digest is not loaded", %{tmp_dir: _dir} do
      report = json(token(), ["--module-sha256", String.duplicate("0", 64)])
      assert {report["exit_code"], ids(report)} == {1, ["module_digest_mismatch"]}
      {code, _output} = doctor(token(), ["--module-sha256", report["sha256"]])
      assert code == 0
    end
  end

  test "arguments that are wrong are 2, and a PIN is no argument" do
    for {arguments, part} <- [
          {[], "--module PATH is missing"},
          {["--module", "/x.so", "--pin", "271828"], "--pin-env VARIABLE or --pin-file PATH"},
          {["--module", "/x.so", "--pin-env", "X"], "give --login too"},
          {["--module", "/x.so", "--login", "--pin-env", "X", "--pin-file", "y"],
           "give one of them"},
          {["--module", "/x.so", "--timeout", "0"], "--timeout wants seconds"},
          {["--module", "/x.so", "--nothing"], "there is no option --nothing"},
          {["--module", "/x.so", "--login"], "there is no terminal"}
        ] do
      own = self()

      message = capture_io(:stderr, fn -> send(own, {:code, Doctor.main(arguments)}) end)

      assert_received {:code, 2}
      assert message =~ part
      refute message =~ "271828"
    end
  end

  test "each finding is in the guide, with its level" do
    guide = File.read!("guides/doctor.md")
    source = File.read!("lib/pkcs11_pool/doctor/findings.ex")

    found =
      ~r/\b(error|warning|info)\(\s*:(\w+),/
      |> Regex.scan(source, capture: :all_but_first)
      |> Enum.uniq()

    assert length(found) > 40

    for [level, id] <- found do
      line = guide |> String.split("\n") |> Enum.find("", &(&1 =~ "`#{id}`"))
      assert line =~ ~r/\| [\w, ]*#{level}[\w, ]* \|/, "#{id} is not in the guide as #{level}"
    end
  end

  # A library of one source file in C.
  defp library!(dir, source) do
    path = Path.join(dir, "library-#{System.unique_integer([:positive])}.so")
    File.write!(path <> ".c", source)
    {_, 0} = System.cmd("cc", ["-shared", "-fPIC", "-o", path, path <> ".c"])
    path
  end

  # Whether a process of this user has the file loaded.
  defp in_use?(path) do
    Enum.any?(Path.wildcard("/proc/[0-9]*/maps"), fn maps ->
      case File.read(maps) do
        {:ok, text} -> text =~ path
        {:error, _gone} -> false
      end
    end)
  end
end
