defmodule Pkcs11Pool.PinProcessTest do
  # What is done with a PIN may fail in any way: the caller hears of it, and nobody hears the PIN.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Native, Pin}
  alias Pkcs11Pool.Test.{Poll, SoftHSM}

  defp pin, do: "pin" <> Base.encode32(:crypto.strong_rand_bytes(10), padding: false)

  # A handler of the logger's.
  def log(event, %{config: %{test: test}}), do: send(test, {:logged, event})

  # All that is logged while `fun` runs. The VM tells of processes that end by a fault in the order of their ends: one of ours is the last.
  defp logged(fun) do
    handler = :"#{__MODULE__} #{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(handler, __MODULE__, %{config: %{test: self()}})
    fun.()
    {last, monitor} = spawn_monitor(fn -> raise "the last one" end)
    assert_receive {:DOWN, ^monitor, :process, ^last, _reason}
    assert_receive {:logged, %{meta: %{pid: ^last}}}
    :ok = :logger.remove_handler(handler)
    events()
  end

  defp events do
    receive do
      {:logged, event} -> [event | events()]
    after
      0 -> []
    end
  end

  for {name, fails} <- [
        {"raises", quote(do: fn pin -> raise("it is #{pin}") end)},
        {"throws", quote(do: fn pin -> throw({:pin, pin}) end)},
        {"exits", quote(do: fn pin -> exit({:pin, pin}) end)},
        {"calls what does not exist",
         quote(do: fn pin -> apply(Native, :no_such_function, [pin]) end)}
      ] do
    test "a function that #{name} is an error without the PIN, and no line in the log" do
      pin = pin()
      test = self()

      logged =
        logged(fn ->
          assert {:error, %Error{reason: :interrupted, executed: :unknown, pool: :some} = error} =
                   Pin.Process.run(:some, [fun: fn -> pin end], 30_000, fn [pin] ->
                     send(test, {:held, self()})
                     unquote(fails).(pin)
                   end)

          refute inspect(error, structs: false) =~ pin
          assert Exception.message(error) =~ "what it said is withheld"
        end)

      assert_received {:held, process}
      refute Enum.any?(logged, &(&1.meta.pid == process))
      refute inspect(logged, limit: :infinity, printable_limit: :infinity) =~ pin
    end
  end

  test "the process ends with nothing but that it failed" do
    pin = pin()

    {_pid, monitor} =
      Pin.Process.start([fun: fn -> pin end], 30_000, fn {:ok, [pin]} -> raise pin end)

    assert_receive {:DOWN, ^monitor, :process, _pid, reason}
    refute inspect(reason, structs: false) =~ pin
    assert Pin.Process.outcome(reason, Pin.Process.now(), 30_000) == :failed
  end

  test "the end of a process that the source is linked to is no result" do
    source = fn ->
      exit_of_another = fn -> exit({:shutdown, {:ok, "not a result"}}) end
      spawn_link(exit_of_another)
      Process.sleep(:infinity)
    end

    assert {:error, %Error{reason: :pin_source_failed}} =
             Pin.Process.run(:some, [fun: source], 30_000, fn _pins -> :ok end)
  end

  test "a source whose name is not UTF-8 is told so that everybody can read it" do
    token = SoftHSM.new_token!()
    path = Path.join(SoftHSM.dir(), "caf\xE9")
    pool = token.label
    opts = SoftHSM.pool_opts(token, name: pool, pin: {:file, path}, lazy: true)
    start_supervised!({Pkcs11Pool, opts})

    assert {:error, %Error{reason: :pin_source_failed} = error} =
             Pkcs11Pool.generate_random(pool, 8)

    assert Exception.message(error) =~ "cannot be read: no such file or directory"
    assert String.valid?(Exception.message(error))
    assert Poll.until(fn -> Pkcs11Pool.status(pool).waiting == 0 end)

    assert_raise ArgumentError, ~r/expected a PIN source/, fn ->
      Pkcs11Pool.login(pool, {:env, "caf\xE9"})
    end
  end
end
