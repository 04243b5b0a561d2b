defmodule Pkcs11Pool.ObjectSearchTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    opts = SoftHSM.pool_opts(token, pool_size: 2)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]

    Pkcs11Pool.generate_key_pair!(
      pool,
      :ec_key_pair_gen,
      [token: true, label: "key", ec_params: :secp256r1],
      token: true,
      label: "key",
      private: true,
      sign: true
    )

    %{pool: pool, chaos: chaos}
  end

  test "a search that comes while nobody is logged in any more is not answered with what is public",
       %{pool: pool, chaos: chaos} do
    Chaos.hang(chaos, :C_FindObjectsInit, nth: 1)
    search = Task.async(fn -> Pkcs11Pool.find_objects!(pool, label: "key") end)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    Chaos.logout(chaos)
    Chaos.release(chaos)
    assert length(Task.await(search, 60_000)) == 2
  end

  test "a key is not said to be missing by a search before which nobody was logged in, and after which somebody is",
       %{pool: pool, chaos: chaos} do
    Pkcs11Pool.forget_keys(pool)
    sign = fn -> Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>) end
    Chaos.hang(chaos, :C_FindObjectsInit, nth: 1)
    early = Task.async(sign)
    Poll.until(fn -> Chaos.hanging(chaos)["C_FindObjectsInit"] == 1 end)
    Chaos.logout(chaos)
    # The token has searched, and does not say yet that it has found nothing.
    Chaos.hang(chaos, :C_FindObjects, nth: 1)
    Chaos.release(chaos, function: :C_FindObjectsInit)
    Poll.until(fn -> Chaos.hanging(chaos)["C_FindObjects"] == 1 end)
    assert {:ok, _signature} = sign.()
    Chaos.release(chaos)
    assert {:ok, _signature} = Task.await(early, 60_000)
  end

  test "nothing is left out by a search after which somebody logs in while the session is asked about it",
       %{pool: pool, chaos: chaos} do
    Chaos.hang(chaos, :C_FindObjectsInit, nth: 1)
    search = Task.async(fn -> Pkcs11Pool.find_objects!(pool, label: "key") end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_FindObjectsInit"] == 1 end)
    Chaos.logout(chaos)
    Chaos.hang(chaos, :C_GetSessionInfo, nth: 1)
    Chaos.release(chaos, function: :C_FindObjectsInit)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GetSessionInfo"] == 1 end)
    assert {:ok, _signature} = Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>)
    Chaos.release(chaos)
    assert length(Task.await(search, 60_000)) == 2
  end

  test "a key is not said to be missing as long as nobody can tell whether somebody is logged in",
       %{pool: pool, chaos: chaos} do
    Chaos.fail(chaos, :C_GetSessionInfo, :function_failed)
    Chaos.logout(chaos)
    sign = fn -> Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>) end
    assert {:error, %Error{reason: :function_failed, executed: false}} = sign.()

    assert {:error, %Error{reason: :function_failed}} =
             Pkcs11Pool.find_objects(pool, label: "key")

    Chaos.clear(chaos, :C_GetSessionInfo)
    assert {:ok, _signature} = sign.()
  end

  test "a search that never ends is an error, or ends at the caller's limit", %{
    pool: pool,
    chaos: chaos
  } do
    Chaos.endless_search(chaos, true)

    assert {:error, %Error{reason: :too_many_objects, details: %{limit: 10_000}} = error} =
             Pkcs11Pool.find_objects(pool, label: "key")

    assert Exception.message(error) =~ ":limit"
    assert {:ok, found} = Pkcs11Pool.find_objects(pool, [label: "key"], limit: 100)
    assert length(found) == 100
    Chaos.endless_search(chaos, false)
    assert {:ok, [_, _]} = Pkcs11Pool.find_objects(pool, label: "key")
    assert {:ok, [_]} = Pkcs11Pool.find_objects(pool, [label: "key"], limit: 1)
    assert Chaos.violations(chaos) == []
  end

  test "an object that vanishes before it is described is left out", %{pool: pool, chaos: chaos} do
    Chaos.hang(chaos, :C_GetAttributeValue, nth: 1)
    search = Task.async(fn -> Pkcs11Pool.find_objects(pool, label: "key") end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GetAttributeValue"] == 1 end)

    for class <- [:public_key, :private_key],
        do: :ok = Pkcs11Pool.destroy_object(pool, label: "key", class: class)

    Chaos.release(chaos)
    assert {:ok, []} = Task.await(search, 60_000)
  end

  describe "an object that is found, and that the token refuses to describe" do
    setup %{pool: pool} do
      [public] = Pkcs11Pool.find_objects!(pool, label: "key", class: :public_key)
      [private] = Pkcs11Pool.find_objects!(pool, label: "key", class: :private_key)
      %{public: public, private: private}
    end

    @codes [:attribute_value_invalid, :general_error, :function_failed, :object_handle_invalid]

    test "for a moment, is described", context do
      %{pool: pool, chaos: chaos, public: public, private: private} = context

      for code <- @codes do
        Chaos.refuse_attributes(chaos, private, code, count: 2)
        assert {:ok, found} = Pkcs11Pool.find_objects(pool, label: "key")
        assert Enum.sort(found) == Enum.sort([public, private])
      end
    end

    test "and then is gone, is left out", context do
      %{pool: pool, chaos: chaos, public: public} = context

      for code <- @codes do
        {other, key} = Pools.key_pair!(pool, "key")
        :ok = Pkcs11Pool.destroy_object(pool, other)
        Chaos.refuse_attributes(chaos, key, code)
        Chaos.hang(chaos, :C_FindObjectsInit, nth: 2)
        template = [label: "key", class: :private_key]
        search = Task.async(fn -> Pkcs11Pool.find_objects(pool, template) end)
        Poll.until(fn -> Chaos.hanging(chaos)["C_FindObjectsInit"] == 1 end)
        assert Pkcs11Pool.destroy_object(pool, key) == :ok
        Chaos.release(chaos)
        assert {:ok, [private]} = Task.await(search, 60_000)
        assert private.handle != key.handle
      end

      assert {:ok, [^public]} = Pkcs11Pool.find_objects(pool, label: "key", class: :public_key)
    end

    test "does not fail the search when others are made and destroyed all the while", context do
      %{pool: pool, chaos: chaos, public: public, private: private} = context

      make = fn ->
        {other, key} = Pools.key_pair!(pool, "key")
        :ok = Pkcs11Pool.destroy_object(pool, other)
        Chaos.refuse_attributes(chaos, key, :object_handle_invalid)
        key
      end

      hang = &Chaos.hang(chaos, &1, count: 1)
      hangs? = &(Chaos.hanging(chaos)[&1] == 1)
      doomed = make.()
      hang.(:C_FindObjectsInit)
      search = Task.async(fn -> Pkcs11Pool.find_objects(pool, label: "key") end)

      for _search <- 1..8, reduce: doomed do
        doomed ->
          Poll.until(fn -> hangs?.("C_FindObjectsInit") end)
          hang.(:C_GetAttributeValue)
          Chaos.release(chaos, function: :C_FindObjectsInit)
          Poll.until(fn -> hangs?.("C_GetAttributeValue") end)
          :ok = Pkcs11Pool.destroy_object(pool, doomed)
          next = make.()
          hang.(:C_FindObjectsInit)
          Chaos.release(chaos, function: :C_GetAttributeValue)
          next
      end

      Chaos.release(chaos)
      assert {:ok, found} = Task.await(search, 60_000)
      assert Enum.sort(found) == Enum.sort([public, private])
    end

    test "is found with nil for what is not known, and can be destroyed", context do
      %{pool: pool, chaos: chaos, public: public, private: private} = context
      Chaos.refuse_attributes(chaos, private, :attribute_value_invalid)
      Chaos.reset_counts(chaos)
      assert {:ok, found} = Pkcs11Pool.find_objects(pool, [])
      assert Chaos.calls(chaos, :C_FindObjectsInit) <= 8
      assert [^public] = Enum.filter(found, &(&1.handle == public.handle))
      assert [broken] = found -- [public]

      assert broken == %{private | class: nil, key_type: nil, id: nil, label: nil}
      assert inspect(broken) =~ "unreadable"
      assert Pkcs11Pool.destroy_object(pool, broken) == :ok
      assert {:ok, [^public]} = Pkcs11Pool.find_objects(pool, [])
    end

    test "in part, is found with nil for that part", context do
      %{pool: pool, chaos: chaos, public: public, private: private} = context

      for code <- [:attribute_value_invalid, :general_error, :function_failed] do
        Chaos.refuse_attributes(chaos, private, code, attributes: [:label])
        assert {:ok, found} = Pkcs11Pool.find_objects(pool, label: "key")
        assert Enum.sort(found) == Enum.sort([public, %{private | label: nil}])
      end
    end

    test "by a code that may be the device's, is found if the token describes another one",
         context do
      %{pool: pool, chaos: chaos, public: public, private: private} = context

      for code <- [:general_error, :function_failed] do
        Chaos.refuse_attributes(chaos, private, code)
        assert {:ok, found} = Pkcs11Pool.find_objects(pool, [])

        assert Enum.sort(Enum.map(found, & &1.handle)) ==
                 Enum.sort([public.handle, private.handle])

        assert %{class: nil, label: nil} = Enum.find(found, &(&1.handle == private.handle))

        # However many others are refused, too.
        {one, other} = Pools.key_pair!(pool, "other")
        Chaos.refuse_attributes(chaos, one, code)
        assert {:ok, found} = Pkcs11Pool.find_objects(pool, [])
        assert Enum.count(found, &is_nil(&1.label)) == 2
        assert length(found) == 4
        for object <- [one, other], do: :ok = Pkcs11Pool.destroy_object(pool, object)

        # Nothing else is found, or nothing that is described.
        assert {:error, %Error{reason: ^code}} =
                 Pkcs11Pool.find_objects(pool, class: :private_key)

        Chaos.refuse_attributes(chaos, public, code)
        assert {:error, %Error{reason: ^code}} = Pkcs11Pool.find_objects(pool, label: "key")
        Chaos.refuse_attributes(chaos, public, :ok)
      end
    end

    test "by a code that is the device's, fails the search", context do
      %{pool: pool, chaos: chaos, private: private} = context
      Chaos.refuse_attributes(chaos, private, :device_error)
      assert {:error, %Error{reason: :device_error}} = Pkcs11Pool.find_objects(pool, [])
    end
  end

  test "a search that does not end stops when its caller has given it up, or is dead",
       %{pool: pool, chaos: chaos} do
    Chaos.endless_search(chaos, true)
    # By itself it would take more than a minute.
    Chaos.latency(chaos, :C_FindObjects, 5)
    search = &Pkcs11Pool.find_objects(pool, [], [limit: 1_000_000] ++ &1)

    assert {:error, %Error{reason: :operation_timeout}} = search.(operation_timeout: 100)
    Pools.drained!(pool, 20_000)

    before = Chaos.calls(chaos, :C_FindObjects)
    {caller, monitor} = spawn_monitor(fn -> search.([]) end)
    Poll.until(fn -> Chaos.calls(chaos, :C_FindObjects) > before + 3 end)
    Process.exit(caller, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^caller, :killed}
    Pools.drained!(pool, 20_000)

    Chaos.endless_search(chaos, false)
    Chaos.latency(chaos, :C_FindObjects, 0)
    assert {:ok, [_, _]} = Pkcs11Pool.find_objects(pool, label: "key")
    assert Chaos.violations(chaos) == []
  end
end
