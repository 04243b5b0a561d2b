defmodule Pkcs11Pool.InformationTest do
  # What a module, its slots and tokens say of themselves: with a pool and without.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Token}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  defp place(token), do: Map.to_list(Map.take(token, [:module, :module_env]))

  defp slot_of({:ok, %{slots: slots}}, %{slot_id: id}) do
    assert [slot] = Enum.filter(slots, &(&1.slot_id == id))
    slot
  end

  defp start_pool!(token, opts \\ []) do
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [name: pool] ++ opts)})
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    pool
  end

  defp unused!(chaos), do: Poll.until(fn -> not Chaos.status(chaos).initialized end)

  describe "list/1" do
    test "tells of the module, its slots and tokens, without a pool or a PIN" do
      token = SoftHSM.new_token!()
      assert {:ok, %{module: module, slots: slots}} = listed = Token.list(place(token))

      assert %{
               manufacturer: "SoftHSM",
               description: "Implementation of PKCS11",
               version: {2, _},
               cryptoki_version: {2, _}
             } = module

      slot = slot_of(listed, token)
      assert slot.description =~ "SoftHSM slot ID"
      assert slot.manufacturer == "SoftHSM project"
      assert :token_present in slot.flags
      assert {_, _} = slot.hardware_version
      assert {_, _} = slot.firmware_version
      assert slot.error == nil

      assert %{label: label, serial: serial, manufacturer: "SoftHSM project"} = slot.token
      assert {label, serial} == {token.label, token.serial}
      assert slot.token.model == "SoftHSM v2"
      assert {2, _} = slot.token.hardware_version
      assert {2, _} = slot.token.firmware_version
      flags = slot.token.flags
      assert [] == [:rng, :login_required, :user_pin_initialized, :token_initialized] -- flags
      refute :user_pin_locked in flags
      assert {slot.token.min_pin_length, slot.token.max_pin_length} == {4, 255}
      # SoftHSM does not count, and has no limits.
      assert {slot.token.session_count, slot.token.max_session_count} == {:unavailable, :infinity}

      assert {slot.token.rw_session_count, slot.token.max_rw_session_count} ==
               {:unavailable, :infinity}

      assert slot.token.free_private_memory == :unavailable

      # It always has one more token, which is not initialized yet.
      assert [%{token: %{flags: flags, label: ""}}] = slots -- [slot]
      refute :token_initialized in flags

      assert Token.list!(place(token)).slots == slots
    end

    test "counts, sizes and the time are numbers and a DateTime where the token gives them" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      Chaos.session_limit(token.chaos, 7)
      Chaos.token_flags(token.chaos, set: [:clock_on_token, 0x2000_0000])
      start_pool!(token, pool_size: 1)
      info = slot_of(Token.list(place(token)), token).token
      assert {info.session_count, info.rw_session_count} == {1, 1}
      assert {info.max_session_count, info.max_rw_session_count} == {7, 7}
      assert %DateTime{utc_offset: 0} = info.utc_time
      assert abs(DateTime.diff(info.utc_time, DateTime.utc_now())) < 300
      # A flag that nobody knows has no name.
      assert Enum.all?(info.flags, &is_atom/1)

      Chaos.token_flags(token.chaos, clear: [:clock_on_token])
      assert slot_of(Token.list(place(token)), token).token.utc_time == :unavailable
    end

    test "malformed fields are no reason to say nothing" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      Chaos.malformed_info(token.chaos)
      slot = slot_of(Token.list(place(token)), token)
      assert slot.error == nil
      assert slot.description =~ ~r/\ASoftHSM slot ID [^#\0]+\z/
      assert slot.manufacturer == "\uFFFDoftHSM project"
      info = slot.token
      assert {info.label, info.serial} == {token.label, token.serial}
      assert info.manufacturer == "\uFFFDoftHSM project"
      assert :clock_on_token in info.flags
      assert info.utc_time == :unavailable
      assert {info.max_session_count, info.session_count} == {:infinity, :unavailable}
      assert {info.max_rw_session_count, info.rw_session_count} == {:unavailable, :unavailable}
      assert {info.min_pin_length, info.max_pin_length} == {:unavailable, :unavailable}

      for kind <- [:total, :free], memory <- [:public, :private] do
        assert info[:"#{kind}_#{memory}_memory"] == :unavailable
      end
    end

    test "an empty slot has no token" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      Chaos.remove_token(token.chaos, slot_id: token.slot_id)
      slot = slot_of(Token.list(place(token)), token)
      assert %{token: nil, error: nil} = slot
      refute :token_present in slot.flags
      # It is not asked about what is not in it.
      assert {:ok, %{slots: slots}} = Token.list(place(token))
      assert length(slots) == 2
      assert Chaos.calls(token.chaos, :C_GetTokenInfo) == 2
    end

    test "a slot that does not answer spoils no other" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)

      Chaos.fail(token.chaos, :C_GetTokenInfo, :device_error, nth: 1)
      assert {:ok, %{slots: [failed, good]}} = Token.list(place(token))
      assert failed.token == :unavailable
      assert %Error{reason: :device_error, function: :C_GetTokenInfo, pool: nil} = failed.error
      assert failed.description =~ "SoftHSM"
      assert %{token: %{model: "SoftHSM v2"}, error: nil} = good

      Chaos.fail(token.chaos, :C_GetSlotInfo, :general_error, nth: 2)
      assert {:ok, %{slots: [good, failed]}} = Token.list(place(token))
      assert %{error: nil, token: %{}} = good
      assert %Error{reason: :general_error, function: :C_GetSlotInfo} = failed.error
      assert {failed.description, failed.flags} == {:unavailable, :unavailable}
      # What it did say is there.
      assert %{model: "SoftHSM v2"} = failed.token

      # Taken away between the two questions.
      Chaos.fail(token.chaos, :C_GetTokenInfo, :token_not_present)

      assert {:ok, %{slots: [%{token: nil, error: nil}, %{token: nil, error: nil}]}} =
               Token.list(place(token))
    end

    test "what the module itself does not say is an error, or left out" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      Chaos.fail(token.chaos, :C_GetSlotList, :device_error, nth: 1)

      assert {:error, %Error{reason: :device_error, function: :C_GetSlotList} = error} =
               Token.list(place(token))

      assert_raise Error, Exception.message(error), fn ->
        Chaos.fail(token.chaos, :C_GetSlotList, :device_error, nth: 1)
        Token.list!(place(token))
      end

      Chaos.fail(token.chaos, :C_GetInfo, :general_error)
      assert {:ok, %{module: :unavailable, slots: [_, _]}} = Token.list(place(token))

      assert {:error, %Error{reason: :module_load_failed, details: %{path: "/no/such.so"}}} =
               Token.list(module: "/no/such.so")

      assert {:error, %Error{reason: :module_digest_mismatch}} =
               Token.list(
                 module: SoftHSM.new_module!(),
                 module_sha256: String.duplicate("0", 64)
               )
    end

    test "a module that nobody uses is finalized when the answer comes, and so may be used with other options" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      env = Map.put(token.module_env, "PKCS11_POOL_TEST", "1")
      assert {:ok, _} = Token.list(module: token.module, module_env: env)
      refute Chaos.status(token.chaos).initialized
      assert Chaos.calls(token.chaos, :C_Finalize) == 1
      # Else this would be a conflict.
      assert {:ok, _} = Token.list(place(token))
      refute Chaos.status(token.chaos).initialized
    end

    test "pools of the module work on, and it is finalized after the last of them" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      pool = start_pool!(token)

      1..8
      |> Enum.map(fn _ ->
        Task.async(fn ->
          for _ <- 1..5 do
            assert {:ok, %{slots: [_, _]}} = Token.list(place(token))
            assert {:ok, <<_::64>>} = Pkcs11Pool.generate_random(pool, 8)
          end
        end)
      end)
      |> Task.await_many(60_000)

      # What it names no options for, it takes as it is.
      assert {:ok, _} = Token.list(module: token.module)

      assert {:error, %Error{reason: :module_conflict, details: %{option: :module_env}}} =
               Token.list(module: token.module, module_env: %{"PKCS11_POOL_TEST" => "2"})

      assert Chaos.calls(token.chaos, :C_Finalize) == 0
      Pools.drained!(pool)
      stop_supervised!({Pkcs11Pool, pool})
      unused!(token.chaos)
      assert Chaos.violations(token.chaos) == []
    end

    test "in a module that serves one thread at a time it takes its turns" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      Chaos.cant_lock(token.chaos)
      pool = start_pool!(token)
      lists = for _ <- 1..4, do: Task.async(fn -> Token.list(place(token)) end)
      for _ <- 1..20, do: assert({:ok, _} = Pkcs11Pool.generate_random(pool, 8))
      assert Enum.all?(Task.await_many(lists, 60_000), &match?({:ok, _}, &1))
      assert Chaos.violations(token.chaos) == []
    end

    test "a module that hangs holds its caller for no longer than it allows, and is not finalized under the call" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      Chaos.hang(token.chaos, :C_GetTokenInfo, count: 1)
      opts = place(token)

      assert {:error, %Error{reason: :operation_timeout, pool: nil, details: details} = error} =
               Token.list([operation_timeout: 200] ++ opts)

      assert details.timeout_ms == 200
      assert Exception.message(error) =~ "the module did not answer within 200 ms"
      refute Exception.message(error) =~ "status/1"
      assert Chaos.hanging(token.chaos) == %{"C_GetTokenInfo" => 1}

      # Others get their answers all the same.
      assert {:ok, %{slots: [_, _]}} = Token.list(opts)
      assert Chaos.calls(token.chaos, :C_Finalize) == 0

      Chaos.release(token.chaos)
      unused!(token.chaos)
      assert Chaos.violations(token.chaos) == []
    end

    test "a module that hangs while it is initialized does neither" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      Chaos.hang(token.chaos, :C_Initialize, count: 1)

      assert {:error, %Error{reason: :operation_timeout}} =
               Token.list([operation_timeout: 200] ++ place(token))

      Chaos.release(token.chaos)
      unused!(token.chaos)
      # Nobody waited for it any more: nothing was asked.
      assert Chaos.calls(token.chaos, :C_GetSlotList) == 0
    end

    test "options are checked" do
      for {opts, message} <- [
            {[], ~r/required :module option not found/},
            {[module: "softhsm.so"], ~r/invalid value for :module option/},
            {[module: "/x.so", slot: {:slot_id, 0}], ~r/unknown options \[:slot\]/},
            {[module: "/x.so", operation_timeout: :infinity],
             ~r/invalid value for :operation_timeout option: expected positive integer \(milliseconds\), got: :infinity/},
            {[module: "/x.so", operation_timeout: 0], ~r/invalid value for :operation_timeout/},
            {[module: "/x.so", module_args: <<0>>], ~r/invalid value for :module_args option/},
            {"/x.so", ~r/expected options to be a keyword list/}
          ] do
        assert_raise ArgumentError, message, fn -> Token.list(opts) end
      end
    end
  end

  describe "token_info/2" do
    test "is what list/1 says of the pool's token" do
      token = SoftHSM.new_token!()
      pool = start_pool!(token)
      listed = slot_of(Token.list(place(token)), token).token
      assert {:ok, info} = Pkcs11Pool.token_info(pool)
      assert Map.delete(info, :utc_time) == Map.delete(listed, :utc_time)
      assert info.serial == token.serial
      assert %{label: label} = Pkcs11Pool.token_info!(pool)
      assert label == token.label
    end

    test "is an ordinary operation: tried again, refused while the token is away, on a lease's session" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      pool = start_pool!(token, pool_size: 1)
      Chaos.fail(token.chaos, :C_GetTokenInfo, :device_error, nth: 1)
      assert {:ok, %{serial: serial}} = Pkcs11Pool.token_info(pool)
      assert serial == token.serial

      Pkcs11Pool.with_session(pool, fn lease ->
        assert {:ok, %{session_count: 1}} =
                 Pkcs11Pool.token_info(lease, operation_timeout: 20_000)
      end)

      Chaos.remove_token(token.chaos)

      assert {:error, %Error{reason: :token_unavailable, function: :C_GetTokenInfo, pool: ^pool}} =
               Pkcs11Pool.token_info(pool)

      assert_raise Error, fn -> Pkcs11Pool.token_info!(pool) end
      assert_raise ArgumentError, fn -> Pkcs11Pool.token_info(pool, timeout: 1) end

      assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.token_info(:no_such_pool)
    end

    test "another token in the same slot is not taken for the pool's" do
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      pool = start_pool!(token, pool_size: 1)
      {:ok, %{slots: slots}} = Token.list(place(token))
      [other] = for slot <- slots, slot.slot_id != token.slot_id, do: slot.slot_id

      # The two change places, without a word to the application.
      Chaos.swap_slots(token.chaos, token.slot_id, other)

      # It is looked for, and may be found in time.
      case Pkcs11Pool.token_info(pool) do
        {:error, error} -> assert error.reason == :token_unavailable
        {:ok, info} -> assert info.serial == token.serial
      end

      assert :ok = Pkcs11Pool.await_ready(pool, 30_000)
      assert {:ok, %{serial: serial}} = Pkcs11Pool.token_info(pool)
      assert serial == token.serial
    end
  end
end
