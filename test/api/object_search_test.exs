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
