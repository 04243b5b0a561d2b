defmodule Pkcs11Pool.NewObjectTest do
  # What has been made is never lost: a token that makes an object, and then does not describe it, has made it all the same.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Object
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @iv <<0::128>>

  setup_all do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 1)})
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    %{pool: pool, chaos: token.chaos}
  end

  setup %{pool: pool, chaos: chaos} do
    Chaos.reset(chaos)

    on_exit(fn ->
      Pools.drained!(pool)
      assert Chaos.violations(chaos) == []
    end)

    %{label: "made #{System.unique_integer([:positive])}"}
  end

  defp aes(label), do: [token: true, label: label, id: <<1>>, value_len: 32, encrypt: true]

  defp encrypts!(pool, key) do
    assert {:ok, ciphertext} = Pkcs11Pool.encrypt(pool, key, {:aes_ctr, counter_block: @iv}, "x")
    ciphertext
  end

  for code <- [
        :device_error,
        :general_error,
        :function_failed,
        :object_handle_invalid,
        :session_handle_invalid,
        :user_not_logged_in,
        :function_not_supported,
        0x80000123
      ] do
    test "generate_key/4 gives the key that it made though the token answers #{inspect(code)} to what it is",
         %{pool: pool, chaos: chaos, label: label} do
      Chaos.reset_counts(chaos)
      Chaos.fail(chaos, :C_GetAttributeValue, unquote(code))
      assert {:ok, %Object{} = key} = Pkcs11Pool.generate_key(pool, :aes_key_gen, aes(label))
      Chaos.clear(chaos, :C_GetAttributeValue)
      assert Chaos.calls(chaos, :C_GenerateKey) == 1

      # What the template says of it is known.
      assert %Object{class: :secret_key, label: ^label, id: <<1>>, unique_id: nil} = key
      assert {:ok, [found]} = Pkcs11Pool.find_objects(pool, label: label)
      assert {found.handle, found.epoch} == {key.handle, key.epoch}

      # By its handle, and found again after a logout.
      ciphertext = encrypts!(pool, key)
      :ok = Pkcs11Pool.logout(pool)
      assert encrypts!(pool, key) == ciphertext
      assert Pkcs11Pool.destroy_object(pool, label: label) == :ok
    end
  end

  test "one refusal is asked about again", %{pool: pool, chaos: chaos, label: label} do
    Chaos.fail(chaos, :C_GetAttributeValue, :device_error, count: 1)
    assert {:ok, key} = Pkcs11Pool.generate_key(pool, :aes_key_gen, aes(label))
    assert Pkcs11Pool.find_objects(pool, label: label) == {:ok, [key]}
    assert key.key_type == :aes
  end

  test "what neither the token nor the template says is nil, and the key is used by its handle",
       %{pool: pool, chaos: chaos} do
    Chaos.fail(chaos, :C_GetAttributeValue, :function_failed)
    template = [token: true, value_len: 32, encrypt: true]
    assert {:ok, key} = Pkcs11Pool.generate_key(pool, :aes_key_gen, template)
    Chaos.clear(chaos, :C_GetAttributeValue)
    assert %Object{class: :secret_key, key_type: nil, label: nil, id: nil} = key
    encrypts!(pool, key)
    assert Pkcs11Pool.destroy_object(pool, key) == :ok
  end

  test "both halves of a pair come back, whichever is not described",
       %{pool: pool, chaos: chaos, label: label} do
    for nth <- [nil, 1, 2, 3] do
      label = "#{label} #{nth}"
      # Each is asked about twice.
      opts = if nth, do: [nth: nth], else: []
      Chaos.fail(chaos, :C_GetAttributeValue, :device_error, opts)

      assert {:ok, {public, private}} = Pools.key_pair(pool, label)
      Chaos.clear(chaos, :C_GetAttributeValue)
      assert %Object{class: :public_key, label: ^label} = public
      assert %Object{class: :private_key, label: ^label} = private
      assert {:ok, signature} = Pkcs11Pool.sign(pool, private, :ecdsa, <<7::256>>)
      assert Pkcs11Pool.verify(pool, public, :ecdsa, <<7::256>>, signature) == :ok
    end
  end

  test "create_object/3 and copy_object/4 give what they made",
       %{pool: pool, chaos: chaos, label: label} do
    value = :crypto.strong_rand_bytes(32)
    expected = :crypto.crypto_one_time(:aes_256_ctr, value, @iv, "x", true)

    template = [
      class: :secret_key,
      key_type: :aes,
      token: true,
      label: label,
      value: value,
      encrypt: true,
      extractable: true
    ]

    Chaos.fail(chaos, :C_GetAttributeValue, :device_error)
    assert {:ok, key} = Pkcs11Pool.create_object(pool, template)
    assert %Object{class: :secret_key, key_type: :aes, label: ^label, id: nil} = key
    copied = label <> " copy"
    assert {:ok, copy} = Pkcs11Pool.copy_object(pool, key, token: true, label: copied)
    Chaos.clear(chaos, :C_GetAttributeValue)
    assert %Object{class: nil, label: ^copied} = copy
    assert encrypts!(pool, key) == expected
    assert encrypts!(pool, copy) == expected
    assert encrypts!(pool, copied) == expected
  end

  test "a key that others may now find by the same name is not hidden by what was remembered",
       %{pool: pool, chaos: chaos, label: label} do
    {:ok, _first} = Pkcs11Pool.generate_key(pool, :aes_key_gen, aes(label))
    encrypts!(pool, label)
    encrypts!(pool, id: <<1>>, label: label)
    Chaos.fail(chaos, :C_GetAttributeValue, :device_error)
    {:ok, _second} = Pkcs11Pool.generate_key(pool, :aes_key_gen, aes(label))
    Chaos.clear(chaos, :C_GetAttributeValue)

    for key <- [label, [id: <<1>>, label: label]] do
      assert {:error, %{reason: :ambiguous_key}} =
               Pkcs11Pool.encrypt(pool, key, {:aes_ctr, counter_block: @iv}, "x")
    end
  end

  test "sessions that die in between take no key with them, and no dead session stays",
       %{pool: pool, chaos: chaos, label: label} do
    Chaos.hang(chaos, :C_GetAttributeValue, nth: 1)
    task = Task.async(fn -> Pkcs11Pool.generate_key(pool, :aes_key_gen, aes(label)) end)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    Chaos.kill_sessions(chaos)
    Chaos.release(chaos)
    assert {:ok, %Object{label: ^label} = key} = Task.await(task, 30_000)

    # Nobody meets the session that is known to be dead.
    Pools.drained!(pool)
    %{dead_sessions: dead} = Chaos.status(chaos)
    assert dead > 0
    encrypts!(pool, key)
    assert Chaos.status(chaos).dead_sessions == dead
  end

  test "the session of a block stays, and so does the session object that was made there",
       %{pool: pool, chaos: chaos} do
    Pkcs11Pool.with_session(pool, fn ->
      Chaos.fail(chaos, :C_GetAttributeValue, :device_error)
      template = [value_len: 32, encrypt: true]
      assert {:ok, key} = Pkcs11Pool.generate_key(pool, :aes_key_gen, template)
      Chaos.clear(chaos, :C_GetAttributeValue)
      encrypts!(pool, key)
    end)
  end
end
