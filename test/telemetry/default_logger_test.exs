defmodule Pkcs11Pool.DefaultLoggerTest do
  # A stand-in for the library is loaded for these tests only.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.{Error, Telemetry}
  alias Pkcs11Pool.Telemetry.Emitter
  alias Pkcs11Pool.Test.{LogLines, SoftHSM, TelemetryStandIn}

  @moduletag :capture_log

  setup context do
    LogLines.follow!(:hsm)

    unless context[:without_library] do
      TelemetryStandIn.load!()
      TelemetryStandIn.each(fn _, _, _ -> :ok end)
    end

    :ok
  end

  defp stop(operation, result, metadata \\ %{}) do
    span = Emitter.start(:operation, Map.merge(%{pool: :hsm, operation: operation}, metadata))
    Emitter.stop(span, result)
  end

  defp lines, do: LogLines.received(:hsm)

  @tag :without_library
  test "without the library it says what is missing" do
    unless Code.ensure_loaded?(:telemetry) do
      assert_raise ArgumentError, ~r/add \{:telemetry, "~> 1.0"\}/, fn ->
        Telemetry.attach_default_logger()
      end
    end
  end

  test "it is attached once, and detached" do
    assert Telemetry.attach_default_logger() == :ok
    assert Telemetry.attach_default_logger() == {:error, :already_exists}
    assert Telemetry.detach_default_logger() == :ok
    assert Telemetry.detach_default_logger() == {:error, :not_found}
    stop(:sign, {:error, Error.new(:overloaded)})
    assert lines() == []
  end

  test "what fails is logged once in a while, with how many more there were" do
    :ok = Telemetry.attach_default_logger(interval: 3_600_000)
    overloaded = {:error, Error.new(:overloaded)}
    for _ <- 1..100, do: stop(:sign, overloaded, %{mechanism: :ecdsa, mine: "canary"})

    assert [{:warning, line}] = lines()

    assert line =~
             ~r/\Apool :hsm: sign \(ecdsa\) failed: overloaded, after \d+ (µs|ms), of which it waited \d+/

    refute line =~ "canary"

    # Another reason, and another operation.
    stop(:sign, {:error, Error.new(:queue_timeout)}, %{mechanism: :ecdsa})
    stop(:digest, overloaded)
    assert [{:warning, timeout}, {:warning, digest}] = lines()
    assert timeout =~ "sign (ecdsa) failed: queue_timeout"
    assert digest =~ "pool :hsm: digest failed: overloaded"

    # What succeeds is not.
    stop(:sign, {:ok, "signature"})
    assert lines() == []
    :ok = Telemetry.detach_default_logger()

    :ok = Telemetry.attach_default_logger(:error)
    stop(:sign, overloaded)
    assert [{:error, _}] = lines()
    :ok = Telemetry.detach_default_logger()

    :ok = Telemetry.attach_default_logger(interval: 0, level: :error)
    for _ <- 1..3, do: stop(:sign, overloaded)
    assert [{:error, _}, {:error, _}, {:error, _}] = lines()
    :ok = Telemetry.detach_default_logger()
  end

  test "the next line of its kind says how many there were" do
    :ok = Telemetry.attach_default_logger(interval: 1)
    Enum.each(1..1_000, fn _ -> stop(:sign, {:error, Error.new(:overloaded)}) end)
    # From one millisecond to the next.
    Pkcs11Pool.Test.Poll.until(fn ->
      stop(:sign, {:error, Error.new(:overloaded)})

      Enum.any?(lines(), fn {_, line} -> line =~ ~r/\(and \d+ more since the last such line\)/ end)
    end)

    :ok = Telemetry.detach_default_logger()
  end

  test "what is slow, and each success, where that is asked for" do
    :ok = Telemetry.attach_default_logger(slower_than: 0, success_level: :info)
    span = Emitter.start(:operation, %{pool: :hsm, operation: :sign})
    Process.sleep(2)
    Emitter.stop(span, {:ok, "signature"}, %{queue_time: 5})
    assert [{:warning, slow}] = lines()
    assert slow =~ "pool :hsm: sign took long, after "
    refute slow =~ "signature"
    :ok = Telemetry.detach_default_logger()

    :ok = Telemetry.attach_default_logger(success_level: :info)
    stop(:sign, :ok)
    assert [{:info, line}] = lines()
    assert line =~ "pool :hsm: sign, after "
    :ok = Telemetry.detach_default_logger()
  end

  test "exceptions, leases, logins, openings of sessions and retries" do
    :ok = Telemetry.attach_default_logger()

    assert_raise RuntimeError, fn ->
      Emitter.span(:operation, %{pool: :hsm, operation: :sign_stream}, fn -> raise "canary" end)
    end

    Emitter.stop(Emitter.start(:lease, %{pool: :hsm}), {:error, Error.new(:queue_timeout)})
    Emitter.ended(:login, 5_000, {:error, :pin_incorrect}, %{pool: :hsm, user: :user})
    Emitter.ended(:open_session, 5_000, {:error, :session_count}, %{pool: :hsm})
    retry = %{pool: :hsm, class: :device_trouble, reason: :device_error, function: :C_Sign}
    Emitter.execute([:operation, :retry], %{}, retry)
    assert [raised, lease, login, opening, retried] = for({:warning, line} <- lines(), do: line)
    assert raised =~ "sign_stream ended by an exception (RuntimeError), after "
    refute raised =~ "canary"
    assert lease =~ "with_session failed: queue_timeout"
    assert login =~ "the login failed: pin_incorrect, after 5 µs"
    assert opening =~ "the opening of a session failed: session_count"
    assert retried =~ "C_Sign returned device_error, and the operation is tried again"
    :ok = Telemetry.detach_default_logger()
  end

  test "a pool's own calls" do
    token = SoftHSM.new_token!()
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: :hsm)})
    :ok = Pkcs11Pool.await_ready(:hsm, 30_000)
    :ok = Telemetry.attach_default_logger()
    assert {:error, _} = Pkcs11Pool.sign(:hsm, "none", {:ecdsa, hash: :sha256}, "data")
    assert {:error, _} = Pkcs11Pool.generate_key(:hsm, {:vendor, 0x80000001, nil}, token: true)

    assert [_, _] =
             for(
               {:warning, line} <- lines(),
               line =~ ~r/: (sign|generate_key) \(.*\) failed: \w+, after/,
               do: line
             )

    :ok = Telemetry.detach_default_logger()
  end

  test "a bad option raises" do
    for {opts, message} <- [
          {[level: :loud], ~r/invalid value for :level option/},
          {[success_level: :loud], ~r/invalid value for :success_level option/},
          {[interval: -1], ~r/invalid value for :interval option/},
          {[slower_than: 0.5], ~r/invalid value for :slower_than option/},
          {[slow: 1], ~r/unknown options \[:slow\]/},
          {:loud, ~r/invalid value for :level option/},
          {%{}, ~r/keyword list/}
        ] do
      assert_raise ArgumentError, message, fn -> Telemetry.attach_default_logger(opts) end
    end
  end
end
