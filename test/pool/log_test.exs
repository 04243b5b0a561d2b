defmodule Pkcs11Pool.LogTest do
  # What somebody reads at 3 a.m. who has nothing but the log.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Log}
  alias Pkcs11Pool.Test.{ChaosToken, LogLines, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag :capture_log

  setup do
    name = :"log-#{System.unique_integer([:positive])}"
    LogLines.follow!(name)
    %{name: name}
  end

  defp start(token, name, opts \\ []) do
    opts = SoftHSM.pool_opts(token, [name: name, pool_size: 2] ++ opts)
    start_supervised!({Pkcs11Pool, opts}, id: name)
  end

  # The next line at this level, after those of debug.
  defp assert_line(name, level) do
    assert_receive {:log, ^name, ^level, text}
    assert text =~ ~r/\Apool #{Regex.escape(inspect(name))}: /
    # The name once, at the beginning.
    assert length(String.split(text, inspect(name))) == 2
    text
  end

  test "a pool that becomes ready says so in one line", %{name: name} do
    # Of itself it takes the one that other tests leave it.
    start(SoftHSM.new_token!(), name, executor: :threads)
    :ok = Pkcs11Pool.await_ready(name, 30_000)
    assert assert_line(name, :info) =~ ": ready: 2 sessions at most, executor threads"
    # The server has looked again since.
    for _ <- 1..2, do: send(Pools.server(name), :tick)
    :ok = Pkcs11Pool.resize(name, 3)
    assert LogLines.received(name) == []
  end

  test "a pool that is lazy is ready when it has its token", %{name: name} do
    start(SoftHSM.new_token!(), name, lazy: true)
    assert assert_line(name, :info) =~ ": ready: "
  end

  test "a token that goes and comes back: a line when the pool is down, and one when it is ready again",
       %{name: name} do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    start(token, name)
    assert assert_line(name, :info) =~ ": ready: "
    Chaos.remove_token(token.chaos)

    assert {:error, %Error{reason: :token_unavailable}} = Pkcs11Pool.generate_random(name, 8)

    down = assert_line(name, :error)

    assert down =~
             ": down: the token is unavailable (C_GenerateRandom returned CKR_DEVICE_REMOVED"

    assert down =~ "The pool looks for it by itself"
    refute down =~ " ms"

    # However long it lasts, and whoever calls meanwhile.
    for _ <- 1..50, do: assert({:error, _} = Pkcs11Pool.generate_random(name, 8))
    for _ <- 1..2, do: send(Pools.server(name), :tick)
    :ok = Pkcs11Pool.resize(name, 3)
    assert LogLines.received(name) == []

    Chaos.return_token(token.chaos)
    assert assert_line(name, :info) =~ ~r/: ready again, after \d+ (ms|s): 3 sessions at most/
    assert LogLines.received(name) == []
  end

  test "a variable for the PIN that is not set is an error, until the pool is ready", %{
    name: name
  } do
    variable = "PKCS11_POOL_UNSET_#{System.unique_integer([:positive])}"
    token = SoftHSM.new_token!()
    start(token, name, pin: {:env, variable})
    line = assert_line(name, :error)

    assert line =~
             ": down: the :pin source gave no PIN: the environment variable #{variable} is not set"

    assert {:error, %Error{reason: :pin_source_failed}} = Pkcs11Pool.generate_random(name, 8)
    send(Pools.server(name), :tick)
    :ok = Pkcs11Pool.resize(name, 3)
    assert LogLines.received(name) == []
    System.put_env(variable, token.pin)
    assert {:ok, _} = Pkcs11Pool.generate_random(name, 8)
    assert assert_line(name, :info) =~ ": ready: "
  end

  test "a PIN that is refused is one error, with what to do", %{name: name} do
    start(SoftHSM.new_token!(), name, pin: fn -> "0000" end)
    line = assert_line(name, :error)
    assert line =~ ": down: the token refused the PIN (C_Login returned CKR_PIN_INCORRECT (0xA0))"
    assert line =~ "No further C_Login is made until login/3"
    Poll.until(fn -> Pkcs11Pool.status(name).login == :poisoned end)
    send(Pools.server(name), :tick)
    :ok = Pkcs11Pool.resize(name, 3)
    assert LogLines.received(name) == []
  end

  test "a module that does not initialize, and a slot that is not there, are an error each",
       %{name: name} do
    token = SoftHSM.new_token!()
    start(token, name, slot: {:token_label, "nobody's"})
    line = assert_line(name, :error)
    assert line =~ ": down: no slot with a token matches :slot"
    assert line =~ ". The pool looks for its token until it is there"
    stop_supervised!(name)

    conf = Path.join(SoftHSM.dir(), "#{token.label}.conf")
    File.write!(conf, "directories.tokendir = /no/such/directory\n")
    other = SoftHSM.new_token!()
    start(other, name, module_env: %{"SOFTHSM2_CONF" => conf})
    assert assert_line(name, :error) =~ ~r/: down: the PKCS#11 module .* did not initialize/
    assert LogLines.received(name) == []
  end

  test "a pool that is stopped or drained says nothing of its health", %{name: name} do
    start(SoftHSM.new_token!(), name)
    assert_line(name, :info)
    assert {:ok, 0} = Pkcs11Pool.drain(name, 30_000)
    send(Pools.server(name), :tick)
    _state = :sys.get_state(Pools.server(name))
    stop_supervised!(name)
    # The login goes with the last session.
    assert LogLines.received(name) |> Enum.reject(fn {_, text} -> text =~ "logged out" end) == []
  end

  test "no file but one writes lines about a pool" do
    writers =
      for path <- Path.wildcard("lib/**/*.ex"), File.read!(path) =~ "require Logger", do: path

    # Of slots, which are no pools.
    assert Enum.sort(writers) == ["lib/pkcs11_pool/log.ex", "lib/pkcs11_pool/slots.ex"]
  end

  test "what an error says in a line that begins with its pool's name already" do
    error = Error.new(:draining, pool: {:my, "pool"})
    assert Log.sentence(error) =~ ~r/\Athe pool is stopping/
    assert Log.sentence(Error.new(:draining)) == Exception.message(Error.new(:draining))
    assert Log.sentence(%Error{error | message: "other"}) == "other"
    assert Log.sentence(%RuntimeError{message: "boom"}) == "boom"
  end
end
