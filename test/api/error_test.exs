defmodule Pkcs11Pool.ErrorTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.ReturnCode

  @stats %{size: 8, idle: 0, running: 8, waiting: 12, hung: 1}

  defp text(reason, fields),
    do: Exception.message(Error.new(reason, [pool: MyApp.HSM] ++ fields))

  test "a queue time-out says how long, how busy, and what to change" do
    text = text(:queue_timeout, details: %{timeout_ms: 5000, elapsed_ms: 5001, stats: @stats})

    assert text ==
             "pool MyApp.HSM: no session came free within 5000 ms, the operation never started " <>
               "(after 5001 ms; size=8 idle=0 running=8 waiting=12 hung=1). Raise :pool_size or " <>
               ":queue_timeout, or make fewer calls at the same time"
  end

  test "an operation's time-out says that it may have run" do
    error =
      Error.new(:operation_timeout,
        pool: MyApp.HSM,
        function: :C_Sign,
        details: %{timeout_ms: 30_000, stats: @stats}
      )

    assert error.executed == :unknown
    assert error.message =~ "C_Sign was not done within 30000 ms"
    assert error.message =~ "unknown whether the operation ran"
    assert error.message =~ ":operation_timeout"

    refute text(:operation_timeout, executed: false) =~ "unknown whether"
  end

  test "a return code is told by function, name and number" do
    assert text(:device_error, code: 0x30, function: :C_Sign) =~
             "pool MyApp.HSM: the token refused the operation (C_Sign returned CKR_DEVICE_ERROR (0x30))"

    assert text(:vendor_error, code: 0x80000123, function: :C_Sign) =~
             "C_Sign returned the vendor's return code 0x80000123"
  end

  test "what the native side gives becomes an error, without new atoms" do
    error = Error.from_native({:pin_incorrect, 0xA0, "C_Login", true, %{poisoned: true}}, :hsm)

    assert %Error{
             reason: :pin_incorrect,
             code: 0xA0,
             function: :C_Login,
             pool: :hsm,
             executed: true,
             details: %{poisoned: true}
           } = error

    assert error.message =~ "the token refused the PIN"
    assert error.message =~ "CKR_PIN_INCORRECT (0xA0)"
    assert error.message =~ "No further C_Login is made until login/3"

    assert %Error{reason: :device_error} =
             Error.from_native({nil, 0x30, nil, :unknown, %{}}, :hsm)

    assert %Error{reason: :vendor_error, function: nil} =
             Error.from_native({nil, 0x80000001, "C_NoSuchFunctionOfOurs", :unknown, %{}}, :hsm)
  end

  test "every reason has words, a pool and no crash, whatever the details are" do
    documented =
      ~w(queue_timeout operation_timeout overloaded pool_not_found draining key_not_found
      ambiguous_key object_stale too_many_objects object_of_other_token session_object_needs_session
      attribute_sensitive attribute_type_invalid pin_required pin_source_failed pin_final_try
      login_conflict reauthentication_required signature_invalid curve_not_supported decryption_failed
      mechanism_invalid iv_replaced token_unavailable module_load_failed module_digest_mismatch module_conflict
      slot_not_found ambiguous_slot slot_in_use not_owner lease_ended)a

    rubbish = %{
      stats: :none,
      timeout_ms: "x",
      elapsed_ms: nil,
      candidates: :x,
      attributes: 1,
      cause: {:a, "b"},
      path: 1,
      available: nil,
      retry_after_ms: :x,
      max_waiting: nil
    }

    for reason <- documented ++ ReturnCode.names(), details <- [%{}, rubbish, nil] do
      text = text(reason, details: details, code: ReturnCode.code(reason))
      assert text =~ ~r/^pool MyApp.HSM: \w/
      refute text =~ "  "
    end

    assert Error.new(:queue_timeout).message =~ ~r/^no session/
  end

  test "messages name what the user must look at" do
    for {reason, details, expected} <- [
          {:overloaded, %{max_waiting: 1000}, "1000 operations wait already (:max_waiting)"},
          {:pool_not_found, %{}, "{Pkcs11Pool, name: ...}"},
          {:draining, %{}, "restart"},
          {:key_not_found, %{}, "find_objects/3"},
          {:ambiguous_key, %{candidates: [{<<1>>, "a"}, {"", "a"}]},
           "\"a\" with id 01, \"a\" with id empty"},
          {:too_many_objects, %{limit: 10_000}, ":limit"},
          {:object_stale, %{}, "find_objects/3"},
          {:object_of_other_token, %{}, "another token"},
          {:session_object_needs_session, %{}, "token: true"},
          {:attribute_sensitive, %{attributes: [:value, :prime_1]},
           "the attributes :value, :prime_1"},
          {:pin_required, %{}, ":pin source"},
          {:pin_source_failed, %{cause: {:file_mode, "/run/pin"}}, "chmod 600"},
          {:pin_source_failed, %{cause: :raised}, "withheld"},
          {:pin_source_failed, %{cause: :timeout}, ":pin_timeout"},
          {:pin_locked, %{poisoned: true}, "security officer"},
          {:pin_expired, %{}, "expired"},
          {:login_conflict, %{}, "same :user, :username and :pin"},
          {:reauthentication_required, %{}, "login/3"},
          {:curve_not_supported, %{}, "signature: :raw"},
          {:mechanism_invalid, %{mechanism: :eddsa}, ":eddsa"},
          {:token_unavailable, %{cause: :token_not_present, retry_after_ms: 250},
           "CKR_TOKEN_NOT_PRESENT (0xE0)"},
          {:token_unavailable, %{cause: :token_not_present, retry_after_ms: 250}, "250 ms"},
          {:module_load_failed, %{path: "/lib/a.so", cause: "file too short"},
           "/lib/a.so could not be loaded: file too short"},
          {:module_digest_mismatch, %{path: "/lib/a.so"}, ":module_sha256"},
          {:module_conflict, %{path: "/lib/a.so", option: :module_env}, ":module_env"},
          {:slot_not_found, %{selector: {:token_label, "a"}, available: ["b", "c"]},
           "{:token_label, \"a\"}; there are \"b\", \"c\""},
          {:slot_not_found, %{selector: {:token_label, "a"}, available: []},
           "no slot has a token"},
          {:ambiguous_slot, %{selector: {:token_label, "a"}}, ":token_serial"},
          {:slot_in_use, %{}, "a pool of type :token has its token for itself"}
        ] do
      assert text(reason, details: details) =~ expected
    end

    no_names = [function: :C_LoginUser, details: %{path: "/lib/a.so", option: :username}]
    assert text(:function_not_supported, no_names) =~ "/lib/a.so does not offer C_LoginUser"
    assert text(:function_not_supported, no_names) =~ "Leave :username out"

    many = for n <- 1..9, do: {<<n>>, "a"}
    text = text(:ambiguous_key, details: %{candidates: many})
    assert text =~ "id 05, ..."
    refute text =~ "id 06"
  end

  test "a device's error names the option that says what the code means on this token" do
    message = text(:device_error, code: 0x30, function: :C_Decrypt)
    assert message =~ "retry_policy: %{device_error: :caller}"
  end

  test "messages without a pool do not speak of one: they are Pkcs11Pool.Token's" do
    pins =
      ~w(pin_incorrect pin_invalid pin_len_range pin_expired pin_locked pin_final_try user_pin_not_initialized
      pin_source_failed)a

    for reason <- pins, details <- [%{}, %{poisoned: true}] do
      with_pool = Error.new(reason, pool: :hsm, details: details).message
      without = Error.new(reason, details: details).message
      assert with_pool =~ ~r/login/
      refute without =~ ~r/login|:pin source/
    end

    assert Error.new(:pin_final_try).message =~ "force: true"
    assert Error.new(:user_pin_not_initialized).message =~ "init_pin/3"
    refute Error.new(:slot_in_use).message =~ "type :token"
    assert Error.new(:slot_in_use).message =~ "Stop the pools"
  end

  test "a token that went away a moment ago: no time that says nothing" do
    message = &Error.new(:token_unavailable, details: &1).message
    now = message.(%{away_ms: 0, retry_after_ms: 1})
    assert now =~ "the token is unavailable"
    assert now =~ "The pool looks for it by itself, and nothing has to be restarted"
    refute now =~ ~r/\d/

    for {ms, said} <- [
          {1_500, "1500 ms"},
          {12_345, "12 s"},
          {119_999, "119 s"},
          {120_000, "2 min"},
          {7_199_999, "119 min"},
          {7_200_000, "2 h"},
          {200_000_000, "55 h"}
        ] do
      later = message.(%{away_ms: ms, retry_after_ms: ms})
      assert later =~ "the token has been unavailable for #{said}"
      assert later =~ "looks for it by itself, next in #{said},"
    end
  end

  test "a module that does not initialize: where it looks for its configuration" do
    message = &Error.new(:module_initialize_failed, code: 5, details: &1).message
    of = &message.(%{path: "/usr/lib/" <> &1})
    assert of.("softhsm/libsofthsm2.so") =~ "SOFTHSM2_CONF"
    assert of.("libkmsp11.so") =~ "KMS_PKCS11_CONFIG"
    assert of.("pkcs11/yubihsm_pkcs11.so") =~ "YUBIHSM_PKCS11_CONF"
    assert of.("libCryptoki2_64.so") =~ "Chrystoki.conf"
    assert of.("libopencryptoki.so") =~ "pkcsslotd"
    refute of.("libopencryptoki.so") =~ "Chrystoki"

    for details <- [%{path: "/opt/vendor/lib.so"}, %{path: :none}, %{}] do
      assert message.(details) =~ "Check its configuration (the files and variables that its"
    end
  end

  test "only what never ran and may mend itself is retryable" do
    for reason <- [:queue_timeout, :overloaded, :draining, :token_unavailable, :pin_source_failed] do
      assert Error.retryable?(Error.new(reason))
      assert Error.retryable?(%Error{reason: reason})
    end

    assert Error.retryable?(Error.new(:session_handle_invalid, code: 0xB3, executed: false))
    assert Error.retryable?(Error.new(:operation_timeout, executed: false))

    for {reason, executed} <- [
          operation_timeout: :unknown,
          operation_timeout: true,
          device_error: :unknown,
          general_error: :unknown,
          queue_timeout: true,
          signature_invalid: true,
          key_not_found: false,
          pin_incorrect: false,
          pin_locked: false,
          pool_not_found: false,
          mechanism_invalid: false
        ] do
      refute Error.retryable?(Error.new(reason, executed: executed))
    end

    refute Error.retryable?(Error.new(:token_unavailable, details: %{poisoned: true}))
  end

  describe "http_status/1" do
    test "says when to come back where the same call may succeed, and only there" do
      for {details, seconds} <- [
            {%{retry_after_ms: 1}, "1"},
            {%{retry_after_ms: 1_000}, "1"},
            {%{retry_after_ms: 1_001}, "2"},
            {%{retry_after_ms: 15_000}, "15"},
            {%{retry_after_ms: 0}, "1"},
            {%{retry_after_ms: :x}, "1"},
            {%{}, "1"}
          ] do
        error = Error.new(:token_unavailable, details: details)
        assert Error.http_status(error) == {503, [{"retry-after", seconds}]}
      end

      for reason <- [:overloaded, :queue_timeout, :draining, :starting, :module_initialize_failed] do
        assert Error.http_status(Error.new(reason)) == {503, [{"retry-after", "1"}]}
      end

      # It may have run.
      lost = Error.new(:token_unavailable, code: 0x32, executed: :unknown)
      assert Error.http_status(lost) == {502, []}
      assert Error.http_status(Error.new(:operation_timeout)) == {504, []}
      # It waited in vain for a session.
      assert {503, [_]} = Error.http_status(Error.new(:operation_timeout, executed: false))
    end

    test "tells the client's fault from the token's and from ours" do
      for {status, reasons} <- [
            {400, [:signature_invalid, :decryption_failed, :jws_invalid, :data_len_range]},
            {503, [:pin_incorrect, :pin_locked, :pin_required, :pool_not_found, :slot_not_found]},
            {502, [:device_error, :general_error, :function_failed, :session_lost]}
          ],
          reason <- reasons do
        assert Error.http_status(Error.new(reason)) == {status, []}
      end

      # A PIN that was refused is not tried again by itself.
      poisoned = Error.new(:pin_locked, executed: false, details: %{poisoned: true})
      assert Error.http_status(poisoned) == {503, []}
      assert Error.http_status(Error.new(:vendor_defined, code: 0x80000001)) == {502, []}

      for reason <- [:key_not_found, :ambiguous_key, :mechanism_invalid, :object_stale] do
        assert Error.http_status(Error.new(reason, executed: false)) == {500, []}
      end
    end

    test "has an answer to every reason there is" do
      for reason <- ReturnCode.names(),
          executed <- [true, false, :unknown],
          details <- [%{}, nil] do
        error = %Error{reason: reason, executed: executed, details: details}
        assert {status, headers} = Error.http_status(error)
        assert status in [400, 500, 502, 503, 504] and headers in [[], [{"retry-after", "1"}]]
      end
    end
  end

  test "inspected, it is its reason and its sentence" do
    error = Error.new(:operation_timeout, pool: :hsm, details: %{timeout_ms: 5})

    assert inspect(error) ==
             "#Pkcs11Pool.Error<:operation_timeout, executed: :unknown, #{error.message}>"

    assert inspect(%Error{reason: :draining}) =~ "the pool is stopping"
  end

  test "it can be raised" do
    assert_raise Error, ~r/no such pool/, fn ->
      raise Error, reason: :pool_not_found, pool: :nope
    end

    error = Error.new(:pool_not_found, pool: :nope)
    assert_raise Error, error.message, fn -> raise error end

    assert Exception.message(%Error{reason: :draining, pool: :p}) =~
             "pool :p: the pool is stopping"
  end
end
