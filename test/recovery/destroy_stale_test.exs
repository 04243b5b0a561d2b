defmodule Pkcs11Pool.DestroyStaleTest do
  # A token that makes all its handles invalid, without a word: what is destroyed then is the object that is meant, or nothing.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    opts = SoftHSM.pool_opts(token, pool_size: 2)
    start_supervised!({Pkcs11Pool, opts})
    on_exit(fn -> assert Chaos.violations(chaos) == [] end)
    %{pool: opts[:name], chaos: chaos}
  end

  @private [label: "key", class: :private_key]

  defp left(pool), do: pool |> Pkcs11Pool.find_objects!([]) |> Enum.map(& &1.class) |> Enum.sort()

  test "what a label or a template names is found anew, and destroyed",
       %{pool: pool, chaos: chaos} do
    {public, _private} = Pools.key_pair!(pool, "key")
    {:ok, _signature} = Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>)
    Chaos.invalidate_objects(chaos)
    assert Pkcs11Pool.destroy_object(pool, @private) == :ok
    assert left(pool) == [:public_key]
    assert {:error, %Error{reason: :key_not_found}} = Pkcs11Pool.destroy_object(pool, @private)
    Chaos.invalidate_objects(chaos)
    assert Pkcs11Pool.destroy_object(pool, public.label) == :ok
    assert left(pool) == []
    Pools.drained!(pool)
  end

  test "an object with a unique id is found by it, and destroyed", %{pool: pool, chaos: chaos} do
    Chaos.unique_ids(chaos, :on)
    {public, private} = Pools.key_pair!(pool, "key")
    {_public, other} = Pools.key_pair!(pool, "key")
    assert is_binary(private.unique_id)
    Chaos.invalidate_objects(chaos)
    assert Pkcs11Pool.destroy_object(pool, private) == :ok

    # Once, and none of those that are named like it.
    assert {:error, %Error{reason: :object_stale, executed: false}} =
             Pkcs11Pool.destroy_object(pool, private)

    assert {:ok, [found]} = Pkcs11Pool.find_objects(pool, @private)
    assert found.unique_id == other.unique_id
    Chaos.invalidate_objects(chaos)
    assert Pkcs11Pool.destroy_object(pool, public) == :ok
    assert left(pool) == [:private_key, :public_key]
    Pools.drained!(pool)
  end

  test "an object without one is stale, and nothing is destroyed, until it is found again",
       %{pool: pool, chaos: chaos} do
    {_public, private} = Pools.key_pair!(pool, "key")
    assert private.unique_id == nil
    Chaos.invalidate_objects(chaos)

    for _ <- 1..2 do
      assert {:error, %Error{reason: :object_stale, executed: false} = error} =
               Pkcs11Pool.destroy_object(pool, private)

      assert Exception.message(error) =~ "find_objects/3"
    end

    assert left(pool) == [:private_key, :public_key]
    assert {:ok, [found]} = Pkcs11Pool.find_objects(pool, @private)
    assert Pkcs11Pool.destroy_object(pool, found) == :ok
    assert left(pool) == [:public_key]
    Pools.drained!(pool)
  end

  test "handles that become invalid in the call itself: nothing is destroyed, and the error says so",
       %{pool: pool, chaos: chaos} do
    {_public, private} = Pools.key_pair!(pool, "key")

    for {key, reason} <- [{private, :object_stale}, {@private, :object_handle_invalid}] do
      Chaos.hang(chaos, :C_DestroyObject, nth: 1)
      task = Task.async(fn -> Pkcs11Pool.destroy_object(pool, key) end)
      Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
      Chaos.invalidate_objects(chaos)
      Chaos.release(chaos)
      assert {:error, %Error{reason: ^reason, executed: false}} = Task.await(task, 30_000)
      assert left(pool) == [:private_key, :public_key]
    end

    assert Pkcs11Pool.destroy_object(pool, @private) == :ok
    assert left(pool) == [:public_key]
    Pools.drained!(pool)
  end
end
