defmodule Pkcs11Pool.OptionsTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Options

  @required [name: :hsm, module: "/usr/lib/p11.so", slot: {:token_label, "payments"}]

  defp options(more), do: Options.validate!(Keyword.merge(@required, more))

  defp message(more) do
    assert_raise(ArgumentError, fn -> options(more) end) |> Exception.message()
  end

  test "a child's specification wants options, too" do
    assert %{id: {Pkcs11Pool, :hsm}, type: :supervisor} = Pkcs11Pool.child_spec(@required)

    for bad <- [%{}, %{name: :hsm}, nil, [:name], [{"name", :hsm}]] do
      assert_raise ArgumentError, ~r/keyword list/, fn -> Pkcs11Pool.child_spec(bad) end
    end

    assert_raise ArgumentError, ~r/did you mean :pool_size/, fn ->
      Pkcs11Pool.child_spec([poolsize: 1] ++ @required)
    end
  end

  test "defaults are the documented ones" do
    assert options([]) == %Options{
             name: :hsm,
             module: "/usr/lib/p11.so",
             module_sha256: nil,
             module_env: nil,
             module_args: nil,
             slot: {:token_label, "payments"},
             profile: nil,
             type: :hsm,
             pool_size: 4,
             stripes: 1,
             pin: nil,
             pin_timeout: 10_000,
             pin_retention: :per_login,
             user: :user,
             username: nil,
             protected_authentication_path: false,
             executor: :auto,
             queue_timeout: 5_000,
             operation_timeout: 30_000,
             lease_timeout: 60_000,
             shutdown_timeout: 5_000,
             max_waiting: 1_000,
             idle_ttl: 5 * 60 * 1_000,
             max_lifetime: :infinity,
             keepalive: :off,
             random_chunk: 65_536,
             key_cache_ttl: 60_000,
             trouble_timeout: 10_000,
             trouble_interval: 30_000,
             lazy: false,
             start: :resilient,
             inactivity_timeout: 5 * 60 * 1_000,
             reauthentication: :prompt,
             read_only: false,
             serialize: false,
             session_object: :refuse,
             retry_policy: %{}
           }
  end

  test "every option is taken" do
    given = [
      name: {:any, "term"},
      module_sha256: String.duplicate("aB", 32),
      module_env: %{"SOFTHSM2_CONF" => "/etc/softhsm2.conf"},
      module_args: "configdir=/tmp",
      slot: {:slot_id, 0},
      profile: :luna,
      type: :soft_hsm,
      pool_size: 8,
      stripes: 8,
      pin: {MyApp.Secrets, :pin, []},
      pin_timeout: 1,
      pin_retention: :until_logout,
      user: :so,
      username: "operator",
      executor: :threads,
      queue_timeout: 0,
      operation_timeout: :infinity,
      lease_timeout: :infinity,
      shutdown_timeout: 0,
      max_waiting: 0,
      idle_ttl: :infinity,
      max_lifetime: 1,
      keepalive: 25_000,
      random_chunk: 1_024,
      key_cache_ttl: 0,
      trouble_timeout: :infinity,
      trouble_interval: 1,
      lazy: true,
      start: :strict,
      inactivity_timeout: 1,
      reauthentication: :fail,
      serialize: true,
      session_object: :allow,
      retry_policy: %{:general_error => :device_trouble, 0x80000123 => :dead_session}
    ]

    options = options(given)

    kept =
      Keyword.merge(given,
        type: :hsm,
        module_sha256: String.duplicate("ab", 32),
        pin: {:mfa, {MyApp.Secrets, :pin, []}},
        retry_policy: %{0x5 => :device_trouble, 0x80000123 => :dead_session}
      )

    sealed = [:pin, :module_env, :module_args]

    for {name, value} <- Keyword.drop(kept, sealed),
        do: assert({name, Map.fetch!(options, name)} == {name, value})

    for name <- sealed do
      assert is_function(Map.fetch!(options, name), 0)
      assert Options.reveal(Map.fetch!(options, name)) == kept[name]
    end
  end

  test "unknown and missing options are named as NimbleOptions does" do
    text = message(foo: 1, bar: 2)
    assert text =~ "unknown options [:foo, :bar], valid options are: [:name, :module, "
    refute text =~ "payments"
    assert message(poolsize: 1) =~ "did you mean :pool_size?"

    text =
      assert_raise(ArgumentError, fn -> Options.validate!(module: "/a", slot: {:slot_id, 1}) end)
      |> Exception.message()

    assert text == "required :name option not found, received options: [:module, :slot]"

    for bad <- [nil, %{}, "options", [1], [{"name", 1}]] do
      assert_raise ArgumentError, ~r/keyword list/, fn -> Options.validate!(bad) end
    end
  end

  test "a bad value names the option, what is expected and what came" do
    assert message(pool_size: 0) ==
             "invalid value for :pool_size option: expected positive integer of at most 1024, got: 0"

    for {name, value, text} <- [
          {:name, nil, "not nil, got: nil"},
          {:module, "p11.so", "absolute path of a PKCS#11 module, as a string, got: \"p11.so\""},
          {:module, ~c"/usr/lib/p11.so", "as a string"},
          {:module, "/a\0b", "as a string"},
          {:module, "/caf\xE9.so", "UTF-8 without zero bytes"},
          {:module_sha256, "abc", "64 hexadecimal digits"},
          {:module_env, %{"A" => 1}, "a map of strings of UTF-8 without zero bytes"},
          {:module_env, %{A: "1"}, "a map of strings of UTF-8 without zero bytes"},
          {:module_env, %{"A=B" => "1"}, "a map of strings of UTF-8 without zero bytes"},
          {:module_env, [{"A", "B"}], "a map of strings of UTF-8 without zero bytes"},
          {:module_env, %{"A" => "caf\xE9"}, "a map of strings of UTF-8 without zero bytes"},
          {:module_env, %{"caf\xE9" => "A"}, "a map of strings of UTF-8 without zero bytes"},
          {:module_args, :x, "expected a string of UTF-8 without zero bytes"},
          {:module_args, "caf\xE9", "expected a string of UTF-8 without zero bytes"},
          {:type, :yubikey, "one of [:hsm, :cloud_hsm, :token, :soft_hsm], got: :yubikey"},
          {:pool_size, -1, "positive integer of at most 1024, got: -1"},
          {:pool_size, 1.0, "positive integer of at most 1024, got: 1.0"},
          {:pool_size, 1_025, "positive integer of at most 1024, got: 1025"},
          {:stripes, 0, "positive integer of at most 1024, got: 0"},
          {:stripes, 0x1_0000_0000_0000_0000, "positive integer of at most 1024, got: 1844"},
          {:stripes, 5, "an integer from 1 to :pool_size, which is 4, got: 5"},
          {:pin_timeout, :infinity, "positive integer (milliseconds), got: :infinity"},
          {:pin_retention, :forever, "one of [:per_login, :until_logout]"},
          {:username, "", "non-empty string in UTF-8 of at most 1024 bytes, got: \"\""},
          {:username, "\xff", "non-empty string in UTF-8"},
          {:username, String.duplicate("a", 1_025), "at most 1024 bytes"},
          {:username, :operator, "non-empty string in UTF-8"},
          {:user, "so", "one of [:user, :so], got: \"so\""},
          {:executor, :dirty, "one of [:auto, :dirty_io, :threads]"},
          {:queue_timeout, -1, "non negative integer (milliseconds) or :infinity, got: -1"},
          {:operation_timeout, nil, "or :infinity, got: nil"},
          {:operation_timeout, 0x80000000, "or :infinity"},
          {:lease_timeout, 0, "positive integer (milliseconds) or :infinity, got: 0"},
          {:shutdown_timeout, 1.5, "got: 1.5"},
          {:max_waiting, -1, "non negative integer of at most 1000000, got: -1"},
          {:max_waiting, 1_000_001, "non negative integer of at most 1000000, got: 1000001"},
          {:idle_ttl, 0, "positive integer"},
          {:max_lifetime, 0, "positive integer"},
          {:key_cache_ttl, -1, "non negative integer"},
          {:trouble_timeout, 0, "positive integer (milliseconds) or :infinity"},
          {:trouble_interval, 0, "positive integer (milliseconds), got: 0"},
          {:trouble_interval, :infinity, "positive integer (milliseconds), got: :infinity"},
          {:lazy, 1, "expected boolean, got: 1"},
          {:start, :lazy, "one of [:resilient, :strict]"},
          {:inactivity_timeout, 0, "positive integer"},
          {:reauthentication, true, "one of [:prompt, :fail]"},
          {:read_only, :yes, "expected boolean, got: :yes"},
          {:serialize, nil, "expected boolean, got: nil"},
          {:protected_authentication_path, 1, "expected boolean"},
          {:retry_policy, [general_error: :caller], "map of return codes to classes"},
          {:retry_policy, %{generl_error: :caller}, "did you mean :general_error?"},
          {:retry_policy, %{general_error: :retry}, "one of [:dead_session"},
          {:retry_policy, %{-1 => :caller}, "got: -1"},
          {:retry_policy, %{0 => :caller}, "got: 0"},
          {:retry_policy, %{pin_incorrect: :device_trouble}, "so that no PIN is tried twice"}
        ] do
      text_given = message([{name, value}])
      assert text_given =~ "invalid value for #{inspect(name)} option: expected"
      assert text_given =~ text
    end
  end

  test "a slot is a label, a serial number, an id or a URI" do
    for slot <- [{:token_label, "a"}, {:token_serial, "8f3a"}, {:slot_id, 0x1D1B296C}] do
      assert options(slot: slot).slot == slot
    end

    assert options(slot: "pkcs11:token=a%20b;serial=1").slot ==
             {:uri, %{token: "a b", serial: "1"}}

    for {bad, text} <- [
          {"payments", "starts with pkcs11:"},
          {"pkcs11:tokn=a", "unknown attribute tokn"},
          {"pkcs11:token=a;object=b", "names an object"},
          {"pkcs11:token=a?module-path=/x", ":module option"},
          {{:token_label, ""}, "{:token_label, string}"},
          {{:token_label, :a}, "got: {:token_label, :a}"},
          {{:slot_id, -1}, "got: {:slot_id, -1}"},
          {{:slot_id, 0x1_0000_0000_0000_0000}, "got: {:slot_id, 18446744073709551616}"},
          {{:label, "a"}, "got: {:label, string}"},
          {0, "got: another term"},
          {nil, "got: another term"}
        ] do
      text_given = message(slot: bad)
      assert text_given =~ "invalid value for :slot option: "
      assert text_given =~ text
    end
  end

  test "the PIN comes from a source, never as a string, and is never shown" do
    fun = fn -> "1234" end

    for {given, kept} <- [
          {{MyApp, :pin, [1]}, {:mfa, {MyApp, :pin, [1]}}},
          {fun, {:fun, fun}},
          {{:env, "PIN"}, {:env, "PIN"}},
          {{:file, "/run/secrets/pin"}, {:file, "/run/secrets/pin"}},
          {{:file, "/run/secrets/pin", mode: :any}, {:file, "/run/secrets/pin", mode: :any}},
          {nil, nil}
        ] do
      assert Options.reveal(options(pin: given).pin) == kept
    end

    assert message(pin: "hunter2") =~
             "invalid value for :pin option: a PIN must not be given as a string, since it would " <>
               "sit in the supervisor's state; expected "

    for bad <- [
          "hunter2",
          ~c"hunter2",
          {:ok, "hunter2"},
          {:pin, "hunter2"},
          %{pin: "hunter2"},
          ["hunter2"],
          {:env, ~c"hunter2"},
          {:file, {"hunter2"}},
          {MyApp, :pin, "hunter2"},
          fn _ -> "hunter2" end,
          :hunter2
        ] do
      text = message(pin: bad)
      assert text =~ "invalid value for :pin option"
      refute text =~ "hunter2"
    end

    refute message(slot: "pkcs11:token=a?pin-value=hunter2") =~ "hunter2"
    refute message(slot: "pkcs12:token=a?pin-value=hunter2") =~ "hunter2"
    refute message(pin: {MyApp, :pin, []}, pool_sze: "hunter2") =~ "hunter2"
    refute message(module_env: %{"TOKEN" => {:a, "hunter2"}}) =~ "hunter2"
    refute message(module_env: %{"TOKEN" => "hunter2\xE9"}) =~ "hunter2"
    refute message(module_args: "hunter2\xE9") =~ "hunter2"
  end

  test "a :token pool has one session, is lazy, and needs a PIN" do
    options = options(type: :token, pin: {MyApp, :pin, []})
    assert options.pool_size == 1
    assert options.lazy
    refute options(type: :token, pin: {MyApp, :pin, []}, lazy: false).lazy
    assert options(type: :token, pool_size: 1, protected_authentication_path: true).pin == nil

    assert message(type: :token, pin: {MyApp, :pin, []}, pool_size: 2) =~
             "invalid value for :pool_size option: expected 1 for a pool of type :token"

    assert message(type: :token) =~ "required :pin option not found"
    assert message(type: :token, pin: {MyApp, :pin, []}, stripes: 2) =~ ":stripes"
  end

  test "a :cloud_hsm pool takes no PIN" do
    assert options(type: :cloud_hsm, pool_size: 16).type == :cloud_hsm
    assert message(type: :cloud_hsm, pin: {MyApp, :pin, []}) =~ "invalid value for :pin option"

    assert message(type: :cloud_hsm, protected_authentication_path: true) =~
             ":protected_authentication_path"
  end

  test "a name without a login is refused" do
    assert message(username: "operator") =~ "invalid value for :username option"
    assert message(type: :cloud_hsm, username: "operator") =~ ":username"
    assert options(username: "operator", protected_authentication_path: true).username
  end

  test "options that exclude each other are refused" do
    assert message(pin: {MyApp, :pin, []}, protected_authentication_path: true) =~ ":pin"
    assert message(user: :so, read_only: true) =~ ":read_only"
  end

  test "inspect shows neither the source's arguments, the variables' values nor the module's arguments" do
    options =
      options(
        pin: {MyApp.Secrets, :pin, ["hunter2"]},
        module_env: %{"KMS_TOKEN" => "hunter2"},
        module_args: "hunter2"
      )

    shown = inspect(options, limit: :infinity)
    refute shown =~ "hunter2"
    refute inspect(options, structs: false, limit: :infinity) =~ "hunter2"
    refute to_string(:io_lib.format("~p", [options])) =~ "hunter2"
    assert shown =~ "MyApp.Secrets.pin/1"
    assert shown =~ "KMS_TOKEN"
    assert shown =~ "pool_size: 4"
  end

  describe "call!" do
    test "no options leave everything to the pool" do
      assert %{
               queue_timeout: nil,
               operation_timeout: nil,
               telemetry_metadata: %{},
               signature: :raw,
               partial: false,
               session_object: nil,
               force: false,
               limit: nil,
               select: nil,
               prefix: "",
               suffix: "",
               select: nil,
               lease_timeout: nil,
               unverified: :refuse
             } == Options.Call.validate!([])
    end

    test "options of every call, and those of one" do
      assert %{queue_timeout: 0, operation_timeout: :infinity, telemetry_metadata: %{a: 1}} =
               Options.Call.validate!(
                 queue_timeout: 0,
                 operation_timeout: :infinity,
                 telemetry_metadata: %{a: 1}
               )

      assert %{signature: :der} = Options.Call.validate!([signature: :der], [:signature])
      assert %{partial: true} = Options.Call.validate!([partial: true], [:partial])

      assert %{session_object: :allow} =
               Options.Call.validate!([session_object: :allow], [:session_object])

      assert %{force: true} = Options.Call.validate!([force: true], [:force])
      # As in Keyword, the first of several counts.
      assert %{queue_timeout: 1} = Options.Call.validate!(queue_timeout: 1, queue_timeout: 2)
    end

    test "bad options are named" do
      for {bad, extra, text} <- [
            {[signature: :der], [],
             "unknown options [:signature], valid options are: [:queue_timeout,"},
            {[timeout: 1], [], "unknown options [:timeout]"},
            {[queue_timeout: -1], [], "invalid value for :queue_timeout option"},
            {[operation_timeout: "1"], [], "invalid value for :operation_timeout option"},
            {[telemetry_metadata: [a: 1]], [],
             "invalid value for :telemetry_metadata option: expected map"},
            {[signature: :jose], [:signature], "one of [:raw, :der], got: :jose"},
            {:infinity, [], "keyword list"},
            {%{}, [], "keyword list"}
          ] do
        text_given =
          assert_raise(ArgumentError, fn -> Options.Call.validate!(bad, extra) end)
          |> Exception.message()

        assert text_given =~ text
      end
    end
  end
end
