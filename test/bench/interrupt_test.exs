defmodule Pkcs11Pool.Bench.InterruptTest do
  # The signals are those of the whole VM.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.Bench.Interrupt
  alias Pkcs11Pool.Test.Poll

  defp signal! do
    count = Interrupt.count()
    {"", 0} = System.cmd("kill", ["-TERM", System.pid()])
    Poll.until(fn -> Interrupt.count() > count end)
  end

  test "a signal that came before the work began, but after those that were seen, ends it at once" do
    Interrupt.trap(fn ->
      seen = Interrupt.count()
      signal!()

      assert Interrupt.run(fn _tell -> Process.sleep(:infinity) end, seen) == {:interrupted, []}
    end)
  end

  test "a signal that was seen does not end the next work, whose results and words are given" do
    Interrupt.trap(fn ->
      signal!()

      work = fn tell ->
        tell.(:begun)
        :result
      end

      assert Interrupt.run(work, Interrupt.count()) == {{:done, :result}, [:begun]}
    end)
  end
end
