defmodule Pkcs11Pool.PreparedTest do
  # What is prepared outlives pools, tokens, logins and handles: it finds its key anew, or says what is wrong, and never uses another key. Each key has a value that the
  # test knows, so that a MAC tells which key made it.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do: ChaosToken.for_test!()

  defp start!(token, opts \\ []) do
    name = opts[:name] || :"pool-#{System.unique_integer([:positive])}"
    opts = SoftHSM.pool_opts(token, Keyword.merge([name: name, pool_size: 2], opts))
    start_supervised!({Pkcs11Pool, opts}, id: name)
    :ok = Pkcs11Pool.await_ready(name, 30_000)
    name
  end

  defp key!(pool, label, byte) do
    Pkcs11Pool.create_object!(pool,
      class: :secret_key,
      key_type: :generic_secret,
      value: value(byte),
      label: label,
      token: true,
      sign: true,
      verify: true
    )
  end

  defp value(byte), do: :binary.copy(<<byte>>, 32)

  # The MAC that the key of this byte makes of "data".
  defp mac(byte), do: :crypto.mac(:hmac, :sha256, value(byte), "data")

  defp prepare!(pool, key \\ "key"), do: Pkcs11Pool.prepare!(pool, :sign, key, :sha256_hmac)
  defp sign(prepared), do: Pkcs11Pool.sign(prepared, "data")

  defp epoch(pool), do: Pkcs11Pool.status(pool).epoch

  test "a pool that restarts, whoever restarts it", %{token: token} do
    pool = start!(token)
    object = key!(pool, "key", 1)
    prepared = for key <- ["key", object], do: prepare!(pool, key)
    assert Enum.map(prepared, &sign/1) == [ok: mac(1), ok: mac(1)]

    stop_supervised!(pool)

    for one <- prepared do
      assert {:error, %Error{reason: :pool_not_found, pool: ^pool, executed: false}} = sign(one)

      assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.sign_many(one, ["data"])
    end

    start!(token, name: pool)
    assert Enum.map(prepared, &sign/1) == [ok: mac(1), ok: mac(1)]

    server = Pools.server(pool)
    Process.exit(server, :kill)
    Poll.until(fn -> Pkcs11Pool.Registry.whereis(:server, pool) not in [nil, server] end)
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    assert Enum.map(prepared, &sign/1) == [ok: mac(1), ok: mac(1)]
    Pools.drained!(pool)
  end

  test "a pool that restarts while it is used: each answer is right, or an error", %{token: token} do
    pool = start!(token)
    key!(pool, "key", 1)
    prepared = prepare!(pool)
    test = self()

    callers =
      for _ <- 1..8 do
        Task.async(fn ->
          Stream.repeatedly(fn -> sign(prepared) end)
          |> Enum.reduce_while(0, fn
            {:ok, mac}, right ->
              assert mac == mac(1)
              send(test, :right)
              {:cont, right + 1}

            {:error, %Error{reason: reason}}, right ->
              if reason in [:pool_not_found, :draining, :interrupted],
                do: {:halt, {right, reason}},
                else: {:halt, {right, {:other, reason}}}
          end)
        end)
      end

    for _ <- 1..100, do: assert_receive(:right, 30_000)
    stop_supervised!(pool)
    ends = Task.await_many(callers, 60_000)
    assert Enum.all?(ends, fn {_right, reason} -> reason in [:pool_not_found, :draining] end)
    start!(token, name: pool)
    assert sign(prepared) == {:ok, mac(1)}
    Pools.drained!(pool)
  end

  test "a pool of another token and another module under the same name", %{token: token} do
    pool = start!(token)
    object = key!(pool, "key", 1)
    {by_label, by_object} = {prepare!(pool), prepare!(pool, object)}
    by_uri = prepare!(pool, "pkcs11:token=#{token.label};object=key")
    stop_supervised!(pool)

    other = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(other.chaos) end)
    start!(other, name: pool)

    # As with all arguments: the key is whatever has its label there.
    assert {:error, %Error{reason: :key_not_found}} = sign(by_label)
    key!(pool, "key", 2)
    assert sign(by_label) == {:ok, mac(2)}

    # An object, and a URI that names its token, are of that token.
    for prepared <- [by_object, by_uri] do
      assert {:error, %Error{reason: :object_of_other_token, executed: false}} = sign(prepared)
    end

    Pools.drained!(pool)
  end

  test "a pool that is resized, and changes its executor", %{token: token} do
    pool = start!(token)
    key!(pool, "key", 1)
    prepared = prepare!(pool)

    for size <- [1, 12, 3] do
      :ok = Pkcs11Pool.resize(pool, size)
      assert sign(prepared) == {:ok, mac(1)}
    end

    Pools.drained!(pool)
  end

  test "a login that ends and comes again", %{token: token, chaos: chaos} do
    pool = start!(token)
    key!(pool, "key", 1)
    prepared = prepare!(pool)
    before = epoch(pool)

    Chaos.logout(chaos)
    assert sign(prepared) == {:ok, mac(1)}
    assert epoch(pool) > before

    :ok = Pkcs11Pool.logout(pool)
    assert sign(prepared) == {:ok, mac(1)}
    Pools.drained!(pool)
  end

  test "a token that is removed and comes back", %{token: token, chaos: chaos} do
    pool = start!(token)
    object = key!(pool, "key", 1)
    prepared = for key <- ["key", object], do: prepare!(pool, key)
    before = epoch(pool)

    Chaos.remove_token(chaos)

    for one <- prepared,
        do: assert({:error, %Error{reason: :token_unavailable}} = sign(one))

    Chaos.return_token(chaos)
    Poll.until(fn -> Pkcs11Pool.await_ready(pool, 30_000) == :ok end)
    assert Enum.map(prepared, &sign/1) == [ok: mac(1), ok: mac(1)]
    assert epoch(pool) > before
    Pools.drained!(pool)
  end

  test "a key that is destroyed, and another one with its label, by this pool", %{token: token} do
    pool = start!(token)
    object = key!(pool, "key", 1)
    prepared = prepare!(pool)
    assert sign(prepared) == {:ok, mac(1)}

    :ok = Pkcs11Pool.destroy_object(pool, object)
    assert {:error, %Error{reason: :key_not_found, executed: false}} = sign(prepared)

    key!(pool, "key", 2)
    assert sign(prepared) == {:ok, mac(2)}
    key!(pool, "key", 3)
    assert {:error, %Error{reason: :ambiguous_key}} = sign(prepared)
    Pools.drained!(pool)
  end

  test "a key that somebody else destroys, and another one with its label", %{
    token: token,
    chaos: chaos
  } do
    pool = start!(token)
    key!(pool, "key", 1)
    prepared = prepare!(pool)
    assert sign(prepared) == {:ok, mac(1)}

    # Another pool, on the same token by another module: this one hears nothing of it.
    other = start!(%{token | module: SoftHSM.module_path()})
    :ok = Pkcs11Pool.destroy_object(other, label: "key")
    Poll.until(fn -> match?({:error, _}, sign(prepared)) end)
    key!(other, "key", 2)
    Poll.until(fn -> sign(prepared) == {:ok, mac(2)} end)
    assert Chaos.violations(chaos) == []
    for pool <- [pool, other], do: Pools.drained!(pool)
  end

  test "handles that all become invalid, again and again, under callers who share what is prepared",
       %{token: token, chaos: chaos} do
    pool = start!(token)
    object = key!(pool, "object", 1)
    key!(pool, "label", 2)
    prepared = [{prepare!(pool, object), 1}, {prepare!(pool, "label"), 2}]

    for _ <- 1..10 do
      Chaos.invalidate_objects(chaos)

      for {one, byte} <- prepared, _ <- 1..4 do
        Task.async(fn -> {sign(one), byte} end)
      end
      |> Task.await_many(60_000)
      |> Enum.each(fn {result, byte} -> assert result == {:ok, mac(byte)} end)
    end

    Pools.drained!(pool)
  end

  test "a handle that becomes another key's", %{token: token, chaos: chaos} do
    pool = start!(token)
    Chaos.reuse_handles(chaos, true, objects: true)
    Chaos.invalidate_objects(chaos)
    first = key!(pool, "first", 1)
    prepared = prepare!(pool, "first")
    assert sign(prepared) == {:ok, mac(1)}

    :ok = Pkcs11Pool.destroy_object(pool, first)
    second = key!(pool, "second", 2)
    assert second.handle == first.handle
    assert {:error, %Error{reason: :key_not_found}} = sign(prepared)

    # The other key has the handle that this one had.
    key!(pool, "first", 3)
    assert sign(prepared) == {:ok, mac(3)}
    Pools.drained!(pool)
  end

  test "handles that change their keys when sessions die", %{token: token, chaos: chaos} do
    pool = start!(token)
    for {label, byte} <- [{"a", 1}, {"b", 2}, {"c", 3}, {"d", 4}], do: key!(pool, label, byte)
    Chaos.reuse_handles(chaos, true, objects: true)
    Chaos.invalidate_objects(chaos)

    prepared =
      for {label, byte} <- [{"a", 1}, {"b", 2}, {"c", 3}, {"d", 4}],
          do: {prepare!(pool, label), byte}

    for round <- 1..20 do
      Chaos.kill_sessions(chaos)
      # Whoever is looked for first gets the first number.
      :rand.seed(:exsss, round)
      for {one, byte} <- Enum.shuffle(prepared), do: assert(sign(one) == {:ok, mac(byte)})
    end

    assert Chaos.violations(chaos) == []
    Pools.drained!(pool)
  end
end
