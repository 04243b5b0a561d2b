defmodule Pkcs11Pool.ReturnCodeTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.ReturnCode

  doctest ReturnCode

  test "names and numbers are the standard's" do
    for {name, code} <- [
          ok: 0x0,
          host_memory: 0x2,
          slot_id_invalid: 0x3,
          general_error: 0x5,
          function_failed: 0x6,
          device_error: 0x30,
          mechanism_invalid: 0x70,
          pin_incorrect: 0xA0,
          pin_locked: 0xA4,
          session_handle_invalid: 0xB3,
          signature_invalid: 0xC0,
          token_not_present: 0xE0,
          user_not_logged_in: 0x101,
          buffer_too_small: 0x150,
          cryptoki_not_initialized: 0x190,
          function_rejected: 0x200
        ] do
      assert ReturnCode.code(name) == code
      assert ReturnCode.name(code) == name
    end

    assert ReturnCode.name(0x80000001) == nil
    assert ReturnCode.code(:no_such_code) == nil
  end

  test "the codes that speak of a PIN are known" do
    assert Enum.sort(ReturnCode.credential_codes()) == [0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0x102]
  end
end
