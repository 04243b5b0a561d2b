defmodule Pkcs11Pool.Test.SoftHSMTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{Poll, SoftHSM}

  test "each token has its own serial, slot and module" do
    one = SoftHSM.new_token!(label: "one label")
    two = SoftHSM.new_token!(label: "one label")

    assert one.serial =~ ~r/^[0-9a-f]{16}$/
    assert one.label == two.label
    assert one.serial != two.serial
    assert one.slot_id != two.slot_id
    assert one.module != two.module
    assert File.regular?(one.module)
  end

  test "the spy counts the calls" do
    token = SoftHSM.spy!(SoftHSM.new_token!())
    assert SoftHSM.calls(token) == %{}

    {_output, 0} =
      System.cmd("pkcs11-tool", ["--module", token.module, "--list-slots"],
        env: Map.to_list(token.module_env),
        stderr_to_stdout: true
      )

    assert %{"C_Initialize" => 1, "C_GetSlotList" => n} = SoftHSM.calls(token)
    assert n > 0
  end

  test "polling returns the first truthy value, and fails in the end" do
    counter = :counters.new(1, [])

    assert 3 ==
             Poll.until(fn ->
               :counters.add(counter, 1, 1)
               count = :counters.get(counter, 1)
               count >= 3 && count
             end)

    assert_raise ExUnit.AssertionError, fn -> Poll.until(fn -> false end, 20) end
  end
end
