defmodule Pkcs11Pool.KeyLookupTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{Poll, SoftHSM}

  @digest :crypto.hash(:sha256, "what is to be signed")

  setup do
    token = SoftHSM.spy!(SoftHSM.new_token!())
    %{token: token, pool: start!(token, pool_size: 2)}
  end

  defp start!(token, options) do
    options = SoftHSM.pool_opts(token, options)
    start_supervised!({Pkcs11Pool, options})
    assert Pkcs11Pool.await_ready(options[:name], 30_000) == :ok
    options[:name]
  end

  defp generate!(pool, template) do
    Pkcs11Pool.generate_key_pair!(
      pool,
      :ec_key_pair_gen,
      [token: true, ec_params: :secp256r1, verify: true] ++ template,
      [token: true, private: true, sign: true] ++ template
    )
  end

  defp sign(pool, key), do: Pkcs11Pool.sign(pool, key, :ecdsa, @digest, signature: :der)

  # Signed by the private key that belongs to the public one.
  defp assert_signed({:ok, signature}, public_key),
    do: assert(:public_key.verify({:digest, @digest}, :sha256, signature, public_key))

  defp assert_drained(pool) do
    Poll.until(fn ->
      match?(%{running: 0, waiting: 0, opening: 0, hung: 0}, Pkcs11Pool.status(pool))
    end)
  end

  describe "a key is named by" do
    setup %{pool: pool} do
      generate!(pool, label: "other", id: <<9>>)
      {public, private} = generate!(pool, label: "signing", id: <<1>>)
      {:ok, public_key} = Pkcs11Pool.public_key(pool, public)
      %{private: private, public_key: public_key}
    end

    test "an object, a template, a label or a URI", context do
      %{pool: pool, token: token, public_key: public_key} = context

      for key <- [
            context.private,
            [label: "signing"],
            [id: <<1>>],
            [id: <<1>>, label: "signing", class: :private_key, key_type: :ec],
            "signing",
            "pkcs11:object=signing",
            "pkcs11:id=%01",
            "pkcs11:object=signing;id=%01;type=private",
            "pkcs11:token=#{token.label};object=signing",
            "pkcs11:serial=#{token.serial};slot-id=#{token.slot_id};object=signing"
          ] do
        assert_signed(sign(pool, key), public_key)
      end

      assert_drained(pool)
    end

    test "a URI of another token: it is not looked for here", %{pool: pool, token: token} do
      for other <- ["token=other", "serial=0000", "token=#{token.label};model=other"] do
        assert {:error, %Error{reason: :object_of_other_token, executed: false} = error} =
                 sign(pool, "pkcs11:#{other};object=signing")

        assert Exception.message(error) =~ "belongs to another token than the pool's"
      end
    end

    test "what matches nothing is not found", %{pool: pool} do
      for key <- ["nothing", [id: <<2>>], [label: "signing", id: <<9>>], "pkcs11:object=nothing"] do
        assert {:error, %Error{reason: :key_not_found, executed: false}} = sign(pool, key)
      end

      assert_drained(pool)
    end

    test "what matches several names the candidates", %{pool: pool} do
      generate!(pool, label: "signing", id: <<2>>)

      assert {:error, %Error{reason: :ambiguous_key, executed: false} = error} =
               sign(pool, "signing")

      assert Enum.sort(error.details.candidates) == [{<<1>>, "signing"}, {<<2>>, "signing"}]
      assert Exception.message(error) =~ ~s("signing" with id 01)
      assert Exception.message(error) =~ ~s("signing" with id 02)

      # Nothing is remembered of it.
      assert {:ok, _signature} = sign(pool, label: "signing", id: <<2>>)
      assert {:error, %Error{reason: :ambiguous_key}} = sign(pool, "signing")
    end
  end

  test "a key made after a search in vain is found", %{pool: pool, token: token} do
    assert {:error, %Error{reason: :key_not_found}} = sign(pool, "late")
    {public, _private} = generate!(pool, label: "late")
    assert_signed(sign(pool, "late"), Pkcs11Pool.public_key!(pool, public))

    # So is one that another process puts on the token.
    assert {:error, %Error{reason: :key_not_found}} = sign(pool, "later")

    SoftHSM.pkcs11_tool!(
      token,
      ~w(--keypairgen --key-type EC:prime256v1 --usage-sign --label later)
    )

    assert_signed(sign(pool, "later"), Pkcs11Pool.public_key!(pool, "later"))
  end

  test "an object belongs to its token", %{pool: pool} do
    {_public, private} = generate!(pool, label: "signing", id: <<1>>)
    other = start!(SoftHSM.new_token!(), pool_size: 1)
    generate!(other, label: "signing", id: <<1>>)

    assert {:error, %Error{reason: :object_of_other_token, executed: false} = error} =
             sign(other, private)

    assert Exception.message(error) =~ "Use it with the pool it came from"

    assert {:error, %Error{reason: :object_of_other_token}} =
             Pkcs11Pool.destroy_object(other, private)

    assert {:ok, _signature} = sign(other, "signing")
    assert_drained(other)
  end

  test "an object outlives its epoch", %{pool: pool, token: token} do
    {public, private} = generate!(pool, label: "signing", id: <<1>>)
    public_key = Pkcs11Pool.public_key!(pool, public)
    {_public, nameless} = generate!(pool, [])
    {destroyed_public, destroyed} = generate!(pool, label: "destroyed")

    restart!(pool, token)

    assert {:error, %Error{reason: :object_stale}} =
             Pkcs11Pool.destroy_object(pool, destroyed_public)

    assert :ok = Pkcs11Pool.destroy_object(pool, label: "destroyed", class: :public_key)
    assert :ok = Pkcs11Pool.destroy_object(pool, label: "destroyed", class: :private_key)

    assert_signed(sign(pool, private), public_key)
    assert Pkcs11Pool.public_key(pool, public) == {:ok, public_key}

    # Neither id nor label to find it by: no handle of an old epoch reaches the module.
    assert {:error, %Error{reason: :object_stale, executed: false} = error} = sign(pool, nameless)
    assert Exception.message(error) =~ "give objects an id or a label"
    assert {:error, %Error{reason: :object_stale, executed: false}} = sign(pool, destroyed)
    assert_drained(pool)
  end

  defp restart!(pool, token) do
    before = SoftHSM.calls(token)
    stop_supervised!({Pkcs11Pool, pool})
    Poll.until(fn -> SoftHSM.calls(token)["C_Finalize"] == 1 end)
    assert start!(token, pool_size: 2) == pool
    assert SoftHSM.calls(token)["C_Initialize"] == before["C_Initialize"] + 1
  end

  test "an object of before a logout does not destroy the key that has its id and label by now",
       %{pool: pool} do
    {_public, old} = generate!(pool, label: "signing", id: <<1>>)
    {_public, untouched} = generate!(pool, label: "untouched", id: <<2>>)
    :ok = Pkcs11Pool.logout(pool)
    :ok = Pkcs11Pool.destroy_object(pool, label: "signing", class: :public_key)
    :ok = Pkcs11Pool.destroy_object(pool, label: "signing", class: :private_key)
    {public, _new} = generate!(pool, label: "signing", id: <<1>>)
    public_key = Pkcs11Pool.public_key!(pool, public)

    for object <- [old, untouched] do
      assert {:error, %Error{reason: :object_stale, executed: false}} =
               Pkcs11Pool.destroy_object(pool, object)
    end

    assert_signed(sign(pool, "signing"), public_key)

    # Found anew, it is destroyed.
    [found] = Pkcs11Pool.find_objects!(pool, label: "untouched", class: :private_key)
    assert Pkcs11Pool.destroy_object(pool, found) == :ok
    assert_drained(pool)
  end

  test "an object whose key was destroyed", %{pool: pool, token: token} do
    {_public, private} = generate!(pool, label: "signing", id: <<1>>)
    assert {:ok, _signature} = sign(pool, "signing")
    assert {:ok, _signature} = sign(pool, private)

    # By somebody else, so that the pool does not know.
    SoftHSM.pkcs11_tool!(token, ~w(--delete-object --type privkey --label signing))

    assert {:error, %Error{reason: :key_not_found}} = sign(pool, "signing")
    assert {:error, %Error{reason: :object_stale}} = sign(pool, private)

    assert {:error, %Error{reason: :object_stale}} =
             Pkcs11Pool.get_attributes(pool, private, [:id])

    assert {:error, %Error{reason: :object_stale}} = Pkcs11Pool.destroy_object(pool, private)
    assert_drained(pool)
  end

  test "a key destroyed and made anew under its label is found again", %{pool: pool, token: token} do
    {old_public, old_private} = generate!(pool, label: "signing", id: <<1>>)
    old_key = Pkcs11Pool.public_key!(pool, old_public)
    assert_signed(sign(pool, "signing"), old_key)

    # By the pool.
    assert Pkcs11Pool.destroy_object(pool, old_public) == :ok
    assert Pkcs11Pool.destroy_object(pool, old_private) == :ok
    {public, private} = generate!(pool, label: "signing", id: <<1>>)
    public_key = Pkcs11Pool.public_key!(pool, public)
    assert public_key != old_key
    assert_signed(sign(pool, "signing"), public_key)

    # Behind its back: the handle that it remembers is refused, and the key found anew, for the label and for the object.
    SoftHSM.pkcs11_tool!(token, ~w(--delete-object --type privkey --label signing))
    SoftHSM.pkcs11_tool!(token, ~w(--delete-object --type pubkey --label signing))

    SoftHSM.pkcs11_tool!(
      token,
      ~w(--keypairgen --key-type EC:prime256v1 --usage-sign --label signing --id 01)
    )

    signature = sign(pool, "signing")
    assert_signed(signature, Pkcs11Pool.public_key!(pool, "signing"))
    assert_signed(sign(pool, private), Pkcs11Pool.public_key!(pool, "signing"))
    assert_drained(pool)
  end

  test "forget_keys has keys found anew", %{pool: pool, token: token} do
    generate!(pool, label: "signing")
    assert {:ok, _signature} = sign(pool, "signing")
    found = SoftHSM.calls(token)["C_FindObjectsInit"]

    assert {:ok, _signature} = sign(pool, "signing")
    assert SoftHSM.calls(token)["C_FindObjectsInit"] == found

    assert Pkcs11Pool.forget_keys(pool) == :ok
    assert {:ok, _signature} = sign(pool, "signing")
    assert SoftHSM.calls(token)["C_FindObjectsInit"] == found + 1

    assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.forget_keys(:nobody)
  end

  test "a warm signature takes two C calls", %{pool: pool, token: token} do
    {_public, private} = generate!(pool, label: "signing", id: <<1>>)
    keys = ["signing", private, [id: <<1>>], "pkcs11:token=#{token.label};object=signing"]
    for key <- keys, do: assert({:ok, _signature} = sign(pool, key))

    # Both sessions are open, and log nothing more than what is asked of them.
    Poll.until(fn -> SoftHSM.calls(token)["C_Sign"] == 4 end)
    before = SoftHSM.calls(token)
    for key <- keys, _ <- 1..25, do: assert({:ok, _signature} = sign(pool, key))

    assert calls_since(before, token) == %{"C_SignInit" => 100, "C_Sign" => 100}
  end

  defp calls_since(before, token) do
    for {function, count} <- SoftHSM.calls(token),
        count > Map.get(before, function, 0),
        into: %{},
        do: {function, count - Map.get(before, function, 0)}
  end

  test "a handle is trusted for :key_cache_ttl", %{token: token} do
    pool = start!(token, name: :"#{token.label}-ttl", key_cache_ttl: 0)
    generate!(pool, label: "signing")
    assert {:ok, _signature} = sign(pool, "signing")
    before = SoftHSM.calls(token)
    # The clock ticks in milliseconds.
    now = System.monotonic_time(:millisecond)
    Poll.until(fn -> System.monotonic_time(:millisecond) > now + 1 end)
    assert {:ok, _signature} = sign(pool, "signing")
    assert %{"C_FindObjectsInit" => 1, "C_Sign" => 1} = calls_since(before, token)
    assert_drained(pool)
  end

  test "an object may be kept, sent and shown", %{pool: pool} do
    {_public, private} = generate!(pool, label: "signing", id: <<1, 0xAB>>)

    assert %Object{class: :private_key, key_type: :ec, label: "signing", id: <<1, 0xAB>>} =
             private

    assert inspect(private) == ~s(#Pkcs11Pool.Object<private_key "signing" id=01ab key_type=ec>)
    stored = private |> :erlang.term_to_binary() |> :erlang.binary_to_term()
    assert {:ok, _signature} = fn -> sign(pool, stored) end |> Task.async() |> Task.await(60_000)
  end
end
