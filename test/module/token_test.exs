defmodule Pkcs11Pool.TokenTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Token}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  defp opts(%{module: module, module_env: env}, slot),
    do: [module: module, module_env: env, slot: slot]

  # A module of its own, which sees an empty slot.
  defp new_module do
    module = SoftHSM.new_module!()
    %{module: module, module_env: SoftHSM.module_env(module)}
  end

  defp empty_slot(module) do
    assert {:error, %Error{reason: :slot_not_found, details: %{available: available}}} =
             Token.init_pin(opts(module, {:token_label, "none such"}), pin("1"), pin("1"))

    Enum.find_value(available, fn {label, _serial, id} -> if label == "", do: id end)
  end

  defp pin(pin), do: fn -> pin end

  test "a token is made, gets its PINs, and serves a pool" do
    module = new_module()
    label = "made-#{System.unique_integer([:positive])}"
    slot = empty_slot(module)
    assert :ok = Token.init(opts(module, {:slot_id, slot}), label, pin("so-pin"))

    opts = opts(module, {:token_label, label})

    assert {:error, %Error{reason: :pin_incorrect}} =
             Token.init_pin(opts, pin("wrong"), pin("1234"))

    assert :ok = Token.init_pin(opts, pin("so-pin"), pin("1234"))

    assert {:error, %Error{reason: :pin_incorrect} = error} =
             Token.set_pin(opts, pin("4321"), pin("5678"))

    refute Exception.message(error) =~ "login/3"

    assert :ok = Token.set_pin(opts, pin("1234"), pin("5678"))
    assert :ok = Token.set_pin([user: :so] ++ opts, pin("so-pin"), pin("new-so-pin"))
    assert :ok = Token.init_pin(opts, pin("new-so-pin"), pin("5678"))

    start_supervised!({Pkcs11Pool, [name: label, pin: pin("5678"), lazy: true] ++ opts})
    assert {:ok, _} = Pkcs11Pool.generate_random(label, 8)
    officer = label <> "-officer"
    stop_supervised!({Pkcs11Pool, label})

    start_supervised!(
      {Pkcs11Pool, [name: officer, user: :so, pin: pin("new-so-pin"), lazy: true] ++ opts}
    )

    assert {:ok, _} = Pkcs11Pool.generate_random(officer, 8)
  end

  test "a token is made in the slot that is uninitialized, whatever its number" do
    module = new_module()
    opts = opts(module, :uninitialized)
    assert :ok = Token.init(opts, "first", pin("so-pin"))
    assert :ok = Token.init(opts, "second", pin("so-pin"))

    {:ok, %{slots: slots}} = Token.list(Keyword.delete(opts, :slot))
    labels = for %{token: %{label: label}} <- slots, do: label
    # SoftHSM offers another slot as soon as one is used.
    assert Enum.sort(labels) == ["", "first", "second"]

    assert_raise ArgumentError, ~r/invalid value for :slot option/, fn ->
      Token.init_pin(opts, pin("so-pin"), pin("1234"))
    end
  end

  test "no token is made where all are initialized, or where several are not" do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    # Every token says that it is initialized, the new one, too.
    Chaos.token_flags(token.chaos, set: [:token_initialized])

    assert {:error, %Error{reason: :slot_not_found} = error} =
             Token.init(opts(token, :uninitialized), "other", pin(token.so_pin))

    assert Exception.message(error) =~ "no slot has an uninitialized token"
    assert Chaos.calls(token.chaos, :C_InitToken) == 0

    # Both say that they are not.
    Chaos.token_flags(token.chaos, clear: [:token_initialized])

    assert {:error, %Error{reason: :ambiguous_slot} = error} =
             Token.init(opts(token, :uninitialized), "other", pin(token.so_pin))

    assert Exception.message(error) =~ "Name one by {:slot_id, number}"
    assert Chaos.calls(token.chaos, :C_InitToken) == 0
  end

  test "nothing is done while a pool uses the token" do
    token = SoftHSM.new_token!()
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: token.label)})
    opts = opts(token, {:token_serial, token.serial})

    for result <- [
          Token.init(opts, "other", pin(token.so_pin)),
          Token.init_pin(opts, pin(token.so_pin), pin("1234")),
          Token.set_pin(opts, pin(token.pin), pin("1234"))
        ] do
      assert {:error, %Error{reason: :slot_in_use, pool: nil} = error} = result
      assert Exception.message(error) =~ "Stop the pools of the token first"
    end

    stop_supervised!({Pkcs11Pool, token.label})
    assert :ok = Token.set_pin(opts, pin(token.pin), pin("5678"))
  end

  test "a PIN that was refused here is not tried by a pool, and a new one pardons it" do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    opts = opts(token, {:token_serial, token.serial})

    assert {:error, %Error{reason: :pin_incorrect}} =
             Token.set_pin(opts, pin("999999"), pin("5678"))

    pool = SoftHSM.pool_opts(token, name: token.label, pin: pin("999999"), lazy: true)
    start_supervised!({Pkcs11Pool, pool})
    assert {:error, %Error{reason: :pin_incorrect}} = Pkcs11Pool.generate_random(token.label, 8)
    assert {Chaos.calls(token.chaos, :C_Login), Chaos.pin_tries(token.chaos)} == {0, 2}
    stop_supervised!({Pkcs11Pool, token.label})

    # Not before the pool has let go of its token.
    Poll.until(fn -> Token.init_pin(opts, pin(token.so_pin), pin("999999")) == :ok end)
    start_supervised!({Pkcs11Pool, pool})
    assert {:ok, _} = Pkcs11Pool.generate_random(token.label, 8)
  end

  test "a token that is nearly locked is left alone, except by force" do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    opts = opts(token, {:token_serial, token.serial})
    Chaos.token_flags(token.chaos, set: [:user_pin_final_try, :so_pin_locked])
    assert {:error, %Error{reason: :pin_final_try}} = Token.set_pin(opts, pin("1"), pin("2"))
    assert {:error, %Error{reason: :pin_locked}} = Token.init_pin(opts, pin("1"), pin("2"))
    assert {Chaos.calls(token.chaos, :C_Login), Chaos.calls(token.chaos, :C_SetPIN)} == {0, 0}
    assert :ok = Token.set_pin([force: true] ++ opts, pin(token.pin), pin("5678"))
  end

  test "no PIN is asked for where the options are none that could reach the module" do
    asked = fn -> flunk("asked") end

    for opts <- [
          [module: "/usr/lib/caf\xE9/x.so", slot: {:slot_id, 0}],
          [module: "/x.so", slot: {:slot_id, 0x1_0000_0000_0000_0000}],
          [module: "/x.so", slot: {:slot_id, 0}, module_args: "caf\xE9"],
          [module: "/x.so", slot: {:slot_id, 0}, module_env: %{"A" => "caf\xE9"}]
        ] do
      assert_raise ArgumentError, ~r/invalid value for :(module|slot)/, fn ->
        Token.set_pin(opts, asked, asked)
      end
    end
  end

  test "a source that fails changes nothing, and options are checked" do
    opts = opts(%{module: SoftHSM.module_path(), module_env: %{}}, {:slot_id, 0})

    assert {:error, %Error{reason: :pin_source_failed} = error} =
             Token.init_pin(opts, fn -> raise "4711" end, pin("1234"))

    refute inspect(error) =~ "4711"

    assert {:error, %Error{reason: :pin_source_failed}} =
             Token.init_pin(
               [pin_timeout: 50] ++ opts,
               fn -> Process.sleep(:infinity) end,
               pin("1")
             )

    assert_raise ArgumentError, ~r/unknown options \[:pool_size\]/, fn ->
      Token.init([pool_size: 1] ++ opts, "label", pin("1"))
    end

    assert_raise ArgumentError, ~r/required :slot option not found/, fn ->
      Token.set_pin([module: "/x.so"], pin("1"), pin("2"))
    end

    for label <- [nil, String.duplicate("x", 33)],
        do: assert_raise(ArgumentError, fn -> Token.init(opts, label, pin("1")) end)

    error = assert_raise ArgumentError, fn -> Token.init_pin(opts, "4711", pin("1")) end
    refute error.message =~ "4711"
  end
end
