defmodule Pkcs11Pool.UniqueIdTest do
  # Tokens that tell their objects apart by CKA_UNIQUE_ID (PKCS#11 3.0): an object is what it was, or it is stale.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    Chaos.unique_ids(chaos, :on)
    opts = SoftHSM.pool_opts(token, pool_size: 2)
    start_supervised!({Pkcs11Pool, opts})
    on_exit(fn -> assert Chaos.violations(chaos) == [] end)
    %{pool: opts[:name], token: token, chaos: chaos}
  end

  @key [label: "key", class: :private_key]

  defp sign(pool, key), do: Pkcs11Pool.sign(pool, key, :ecdsa, <<0::256>>)

  defp destroy_pair!(pool, label) do
    for class <- [:public_key, :private_key],
        do: :ok = Pkcs11Pool.destroy_object(pool, label: label, class: class)
  end

  defp assert_stale(result),
    do: assert({:error, %Error{reason: :object_stale, executed: false}} = result)

  test "every call that returns an object says its unique id", %{pool: pool, chaos: chaos} do
    {public, private} = Pools.key_pair!(pool, "key", id: <<1>>)
    assert is_binary(public.unique_id) and is_binary(private.unique_id)
    assert public.unique_id != private.unique_id
    assert {:ok, found} = Pkcs11Pool.find_objects(pool, label: "key")
    assert Enum.sort(found) == Enum.sort([public, private])

    assert {:ok, [^private]} = Pkcs11Pool.find_objects(pool, unique_id: private.unique_id)
    Chaos.unique_ids(chaos, :off)
    assert {:ok, [%Object{unique_id: nil}]} = Pkcs11Pool.find_objects(pool, @key)
    Chaos.unique_ids(chaos, :empty)
    assert {:ok, [%Object{unique_id: nil}]} = Pkcs11Pool.find_objects(pool, @key)
  end

  test "it costs no further call, whether the token has it or not", %{pool: pool, chaos: chaos} do
    Pools.key_pair!(pool, "key", id: <<1>>)

    for mode <- [:on, :off] do
      Chaos.unique_ids(chaos, mode)
      Chaos.reset_counts(chaos)
      assert {:ok, [_, _]} = Pkcs11Pool.find_objects(pool, [])
      assert Chaos.calls(chaos, :C_GetAttributeValue) == 2
    end
  end

  describe "a template with a unique id" do
    setup %{pool: pool} do
      pair = Pools.key_pair!(pool, "key", id: <<1>>)
      Pools.key_pair!(pool, "key", id: <<1>>)
      %{pair: pair}
    end

    # Also on tokens that do not search by it, or take no notice of what they do not know.
    for mode <- [:on, :refused, :ignored] do
      test "names its object in every call, also for good: #{mode}", %{pool: pool} = context do
        {public, private} = context.pair
        {own, other} = {[unique_id: private.unique_id], [unique_id: public.unique_id]}
        Chaos.unique_ids(context.chaos, unquote(mode))

        assert {:ok, signature} = sign(pool, own)
        assert Pkcs11Pool.verify(pool, other, :ecdsa, <<0::256>>, signature) == :ok
        assert Pkcs11Pool.public_key(pool, other) == Pkcs11Pool.public_key(pool, public)
        assert {:ok, %{class: :private_key}} = Pkcs11Pool.get_attributes(pool, own, [:class])
        assert {:ok, %{class: :private_key}} = Pkcs11Pool.key_info(pool, own)
        assert Pkcs11Pool.set_attributes(pool, own, label: "renamed") == :ok
        assert {:ok, _copy} = Pkcs11Pool.copy_object(pool, other, token: true, label: "copy")
        assert {:error, %Error{reason: :key_not_found}} = sign(pool, other)
        assert Pkcs11Pool.get_attributes(pool, private, [:label]) == {:ok, %{label: "renamed"}}
        :ok = Pkcs11Pool.logout(pool)
        assert Pkcs11Pool.destroy_object(pool, own) == :ok

        assert {:error, %Error{reason: :key_not_found, executed: false}} =
                 Pkcs11Pool.destroy_object(pool, own)

        assert {:ok, [_other_private]} = Pkcs11Pool.find_objects(pool, @key)
        Pools.drained!(pool)
      end
    end

    test "finds none on a token without them, and is ambiguous where several have it",
         %{pool: pool, chaos: chaos, pair: {_public, private}} do
      Chaos.unique_ids(chaos, :off)
      own = [unique_id: private.unique_id]
      assert {:error, %Error{reason: :key_not_found}} = Pkcs11Pool.destroy_object(pool, own)
      Chaos.unique_ids(chaos, :same)
      assert {:ok, [%{unique_id: same} | _others]} = Pkcs11Pool.find_objects(pool, @key)

      assert {:error, %Error{reason: :ambiguous_key}} =
               Pkcs11Pool.destroy_object(pool, unique_id: same)

      assert {:ok, [_, _]} = Pkcs11Pool.find_objects(pool, @key)
    end
  end

  describe "an object of before a logout" do
    setup %{pool: pool} do
      {public, private} = Pools.key_pair!(pool, "key", id: <<1>>)
      {_public, nameless} = Pools.key_pair!(pool, "")
      :ok = Pkcs11Pool.logout(pool)
      %{public: public, private: private, nameless: nameless}
    end

    test "is destroyed", %{pool: pool, public: public, private: private, nameless: nameless} do
      for object <- [private, nameless] do
        assert Pkcs11Pool.destroy_object(pool, object) == :ok
        assert_stale(Pkcs11Pool.destroy_object(pool, object))
      end

      assert {:ok, [found]} = Pkcs11Pool.find_objects(pool, label: "key")
      assert found.unique_id == public.unique_id
      Pools.drained!(pool)
    end

    test "is destroyed though nobody is logged in any more",
         %{pool: pool, chaos: chaos, private: private} do
      assert {:ok, _signature} = sign(pool, "key")
      Chaos.logout(chaos)
      assert Pkcs11Pool.destroy_object(pool, private) == :ok
      assert {:ok, []} = Pkcs11Pool.find_objects(pool, @key)
    end

    test "is found though its id has changed, and is destroyed",
         %{pool: pool, token: token, private: private} do
      SoftHSM.pkcs11_tool!(token, ~w(--set-id 07 --type privkey --id 01))
      assert Pkcs11Pool.get_attributes(pool, private, [:id]) == {:ok, %{id: <<7>>}}
      assert {:ok, _signature} = sign(pool, private)
      assert Pkcs11Pool.destroy_object(pool, private) == :ok
      assert {:ok, []} = Pkcs11Pool.find_objects(pool, @key)
    end

    test "is found by its unique id alone, and searched for once",
         %{pool: pool, chaos: chaos, nameless: nameless} do
      assert {:ok, _signature} = sign(pool, nameless)
      Chaos.reset_counts(chaos)
      for _ <- 1..3, do: assert({:ok, _signature} = sign(pool, nameless))
      assert Chaos.calls(chaos, :C_FindObjectsInit) == 0
    end

    test "is stale where another one has its id and label by now",
         %{pool: pool, private: private} do
      destroy_pair!(pool, "key")
      {_public, new} = Pools.key_pair!(pool, "key", id: <<1>>)

      assert_stale(Pkcs11Pool.destroy_object(pool, private))
      assert_stale(Pkcs11Pool.get_attributes(pool, private, [:label]))
      assert_stale(sign(pool, private))
      assert {:ok, [^new]} = Pkcs11Pool.find_objects(pool, @key)
      assert {:ok, _signature} = sign(pool, "key")
      Pools.drained!(pool)
    end

    test "is not destroyed where the token does not find it by its unique id, but is read",
         %{pool: pool, chaos: chaos, private: private} do
      Chaos.unique_ids(chaos, :refused)
      assert_stale(Pkcs11Pool.destroy_object(pool, private))
      assert Pkcs11Pool.get_attributes(pool, private, [:id]) == {:ok, %{id: <<1>>}}
      assert {:ok, [_private]} = Pkcs11Pool.find_objects(pool, @key)
    end

    test "is stale where a search takes no notice of unique ids, and finds another one",
         %{pool: pool, chaos: chaos, private: private} do
      destroy_pair!(pool, "key")

      for object <- Pkcs11Pool.find_objects!(pool, []),
          do: :ok = Pkcs11Pool.destroy_object(pool, object)

      {public, _new} = Pools.key_pair!(pool, "key", id: <<1>>)
      :ok = Pkcs11Pool.destroy_object(pool, public)
      Chaos.unique_ids(chaos, :ignored)
      assert_stale(Pkcs11Pool.destroy_object(pool, private))
      assert_stale(Pkcs11Pool.get_attributes(pool, private, [:label]))
      assert {:ok, [_new]} = Pkcs11Pool.find_objects(pool, [])
    end

    test "is stale where its unique id has changed", %{pool: pool, chaos: chaos, private: private} do
      Chaos.unique_ids(chaos, :same)
      assert_stale(Pkcs11Pool.destroy_object(pool, private))
      assert_stale(Pkcs11Pool.get_attributes(pool, private, [:label]))
      assert {:ok, [_private]} = Pkcs11Pool.find_objects(pool, @key)
    end
  end

  test "a unique id that several objects have proves nothing", %{pool: pool, chaos: chaos} do
    Chaos.unique_ids(chaos, :same)
    {public, private} = Pools.key_pair!(pool, "key", id: <<1>>)
    assert private.unique_id == public.unique_id
    :ok = Pkcs11Pool.logout(pool)
    assert_stale(Pkcs11Pool.destroy_object(pool, private))
    # It is found again by its id and label, as without unique ids.
    assert {:ok, _signature} = sign(pool, private)
    assert {:ok, [_private]} = Pkcs11Pool.find_objects(pool, @key)
    Pools.drained!(pool)
  end

  test "an object whose handle is another one's by now is stale, and nothing is destroyed or read",
       %{pool: pool, chaos: chaos} do
    Chaos.reuse_handles(chaos, true, objects: true)
    Chaos.invalidate_objects(chaos)
    {public, old} = Pools.key_pair!(pool, "key")
    :ok = Pkcs11Pool.destroy_object(pool, public)
    :ok = Pkcs11Pool.destroy_object(pool, @key)

    {new, other} = Pools.key_pair!(pool, "key")
    assert {new.handle, new.epoch} == {old.handle, old.epoch}
    assert_stale(Pkcs11Pool.destroy_object(pool, old))
    assert_stale(Pkcs11Pool.get_attributes(pool, old, [:label]))
    assert_stale(Pkcs11Pool.object_size(pool, old))
    assert {:ok, found} = Pkcs11Pool.find_objects(pool, label: "key")
    assert Enum.sort(found) == Enum.sort([new, other])
    assert Pkcs11Pool.get_attributes(pool, new, [:label]) == {:ok, %{label: "key"}}
    assert Pkcs11Pool.destroy_object(pool, new) == :ok
    assert {:ok, [^other]} = Pkcs11Pool.find_objects(pool, label: "key")
    Pools.drained!(pool)
  end

  test "an object that somebody has destroyed is stale, though another one has its label",
       %{pool: pool} do
    {_public, private} = Pools.key_pair!(pool, "key", id: <<1>>)
    destroy_pair!(pool, "key")
    Pools.key_pair!(pool, "key", id: <<1>>)
    assert_stale(Pkcs11Pool.destroy_object(pool, private))
    assert_stale(Pkcs11Pool.get_attributes(pool, private, [:label]))
    assert_stale(sign(pool, private))
    Pools.key_pair!(pool, "key", id: <<1>>)
    assert_stale(sign(pool, private))
    :ok = Pkcs11Pool.destroy_object(pool, hd(Pkcs11Pool.find_objects!(pool, @key)))
    # The label is whatever has it.
    assert {:ok, _signature} = sign(pool, "key")
  end
end
