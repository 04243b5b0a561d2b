defmodule Pkcs11Pool.CreateObjectTest do
  # Objects that are made of their attributes, copied and changed.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup_all do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})
    %{pool: pool, chaos: token.chaos, token: token}
  end

  setup %{pool: pool, chaos: chaos} do
    Chaos.reset(chaos)
    on_exit(fn -> Pools.drained!(pool) end)
  end

  defp label, do: "object #{System.unique_integer([:positive])}"

  defp aes(label, value),
    do: [
      class: :secret_key,
      key_type: :aes,
      token: true,
      label: label,
      value: value,
      encrypt: true,
      decrypt: true
    ]

  test "a secret key of a known value does what :crypto does with it", %{pool: pool} do
    {label, value, iv} = {label(), :crypto.strong_rand_bytes(32), :crypto.strong_rand_bytes(16)}

    assert {:ok, %Object{class: :secret_key, label: ^label}} =
             Pkcs11Pool.create_object(pool, aes(label, value))

    for size <- [0, 1, 15, 16, 17, 10_000], data = :binary.copy("x", size) do
      expected = :crypto.crypto_one_time(:aes_256_ctr, value, iv, data, true)

      assert Pkcs11Pool.encrypt(pool, label, {:aes_ctr, counter_block: iv}, data) ==
               {:ok, expected}

      assert Pkcs11Pool.decrypt(pool, label, {:aes_ctr, counter_block: iv}, expected) ==
               {:ok, data}
    end
  end

  test "a public key of a known value verifies what :crypto has signed", %{pool: pool} do
    label = label()
    {[e, n], _} = {public, private} = :crypto.generate_key(:rsa, {2048, 65_537})
    assert public == [e, n]

    assert {:ok, _} =
             Pkcs11Pool.create_object(pool,
               class: :public_key,
               key_type: :rsa,
               token: true,
               label: label,
               verify: true,
               modulus: :binary.decode_unsigned(n),
               public_exponent: :binary.decode_unsigned(e)
             )

    signature = :crypto.sign(:rsa, :sha256, "message", private)
    assert :ok = Pkcs11Pool.verify(pool, label, :sha256_rsa_pkcs, "message", signature)

    assert {:error, %Error{reason: :signature_invalid}} =
             Pkcs11Pool.verify(pool, label, :sha256_rsa_pkcs, "another", signature)
  end

  test "data and certificates come back byte by byte", %{pool: pool, token: token} do
    for size <- [0, 1, 100_000], value = :crypto.strong_rand_bytes(size) do
      template = [class: :data, token: true, label: label(), value: value]
      assert {:ok, object} = Pkcs11Pool.create_object(pool, template)
      assert {:ok, %{value: ^value}} = Pkcs11Pool.get_attributes(pool, object, [:value])
    end

    der = certificate(token)

    template = [
      class: :certificate,
      certificate_type: :x_509,
      token: true,
      label: label(),
      subject: "x",
      value: der
    ]

    assert object = Pkcs11Pool.create_object!(pool, template)
    assert {:ok, %{value: ^der}} = Pkcs11Pool.get_attributes(pool, object, [:value])
  end

  defp certificate(token) do
    path = Path.join(SoftHSM.dir(), "#{token.label}-certificate")
    arguments = ~w(req -x509 -newkey rsa:2048 -nodes -subj /CN=test -days 1 -outform DER -keyout)
    SoftHSM.openssl!(arguments ++ [path <> ".key", "-out", path])
    File.read!(path)
  end

  test "a changed label is what finds the object from then on", %{pool: pool} do
    {old, new} = {label(), label()}
    value = :crypto.strong_rand_bytes(16)
    {:ok, object} = Pkcs11Pool.create_object(pool, aes(old, value))
    iv = :binary.copy(<<0>>, 16)
    {:ok, ciphertext} = Pkcs11Pool.encrypt(pool, old, {:aes_ctr, counter_block: iv}, "data")

    assert :ok = Pkcs11Pool.set_attributes(pool, object, label: new)

    assert {:error, %Error{reason: :key_not_found}} =
             Pkcs11Pool.encrypt(pool, old, {:aes_ctr, counter_block: iv}, "data")

    assert {:ok, ^ciphertext} =
             Pkcs11Pool.encrypt(pool, new, {:aes_ctr, counter_block: iv}, "data")

    # What is found by its label alone is ambiguous as soon as two have it, whatever was remembered.
    {:ok, other} = Pkcs11Pool.create_object(pool, aes(label(), :crypto.strong_rand_bytes(16)))
    assert :ok = Pkcs11Pool.set_attributes!(pool, other, label: new)

    assert {:error, %Error{reason: :ambiguous_key}} =
             Pkcs11Pool.encrypt(pool, new, {:aes_ctr, counter_block: iv}, "data")
  end

  test "a change that may have been made, though it failed, is looked for anew", %{
    pool: pool,
    chaos: chaos
  } do
    {old, new} = {label(), label()}
    value = :crypto.strong_rand_bytes(16)
    iv = :binary.copy(<<0>>, 16)
    {:ok, object} = Pkcs11Pool.create_object(pool, aes(old, value))
    {:ok, ciphertext} = Pkcs11Pool.encrypt(pool, old, {:aes_ctr, counter_block: iv}, "data")
    Chaos.fail(chaos, :C_SetAttributeValue, :device_error, count: 1, run: true)

    assert {:error, %Error{reason: :device_error, executed: :unknown}} =
             Pkcs11Pool.set_attributes(pool, object, label: new)

    assert {:error, %Error{reason: :key_not_found}} =
             Pkcs11Pool.encrypt(pool, old, {:aes_ctr, counter_block: iv}, "data")

    assert Pkcs11Pool.encrypt(pool, new, {:aes_ctr, counter_block: iv}, "data") ==
             {:ok, ciphertext}
  end

  test "a copy is another object with what was to differ", %{pool: pool} do
    {original, copy} = {label(), label()}
    value = :crypto.strong_rand_bytes(16)

    {:ok, object} =
      Pkcs11Pool.create_object(pool, [copyable: true, extractable: true] ++ aes(original, value))

    assert {:ok, copied} = Pkcs11Pool.copy_object(pool, object, token: true, label: copy)
    assert copied.label == copy and copied.handle != object.handle
    iv = :binary.copy(<<0>>, 16)
    expected = :crypto.crypto_one_time(:aes_128_ctr, value, iv, "data", true)

    assert Pkcs11Pool.encrypt(pool, copy, {:aes_ctr, counter_block: iv}, "data") ==
             {:ok, expected}

    assert :ok = Pkcs11Pool.destroy_object(pool, copied)

    assert {:ok, ^expected} =
             Pkcs11Pool.encrypt(pool, original, {:aes_ctr, counter_block: iv}, "data")
  end

  test "a session object needs a session", %{pool: pool} do
    template = [class: :data, label: label(), value: "x"]

    assert {:error, %Error{reason: :session_object_needs_session}} =
             Pkcs11Pool.create_object(pool, template)

    assert {:ok, _} = Pkcs11Pool.create_object(pool, template, session_object: :allow)

    Pkcs11Pool.with_session(pool, fn ->
      assert {:ok, object} = Pkcs11Pool.create_object(pool, template)

      assert {:error, %Error{reason: :object_of_other_token}} =
               Pkcs11Pool.copy_object(pool, %{object | token: "other"}, [])

      assert {:ok, _} = Pkcs11Pool.copy_object(pool, object, label: label())
    end)
  end

  test "what fails in the module may have run and is not tried again", %{pool: pool, chaos: chaos} do
    {:ok, object} =
      Pkcs11Pool.create_object(pool, class: :data, token: true, label: label(), value: "x")

    for {function, call} <- [
          C_CreateObject: fn ->
            Pkcs11Pool.create_object(pool, class: :data, token: true, label: label(), value: "x")
          end,
          C_CopyObject: fn ->
            Pkcs11Pool.copy_object(pool, object, token: true, label: label())
          end,
          C_SetAttributeValue: fn -> Pkcs11Pool.set_attributes(pool, object, label: label()) end
        ] do
      Chaos.reset_counts(chaos)
      Chaos.fail(chaos, function, :device_error, count: 1)

      assert {:error, %Error{reason: :device_error, function: ^function, executed: :unknown}} =
               call.()

      assert Chaos.calls(chaos, function) == 1
    end
  end

  test "an object of before a logout is neither changed nor copied: another may have its label",
       %{
         pool: pool
       } do
    label = label()
    template = [class: :data, token: true, label: label, value: "x"]
    {:ok, object} = Pkcs11Pool.create_object(pool, template)
    assert object.unique_id == nil
    :ok = Pkcs11Pool.logout(pool)

    assert {:error, %Error{reason: :object_stale, executed: false}} =
             Pkcs11Pool.set_attributes(pool, object, label: label())

    assert {:error, %Error{reason: :object_stale, executed: false}} =
             Pkcs11Pool.copy_object(pool, object, token: true)

    assert {:ok, [again]} = Pkcs11Pool.find_objects(pool, label: label)
    changed = label()
    assert :ok = Pkcs11Pool.set_attributes(pool, again, label: changed)
    assert Pkcs11Pool.get_attributes(pool, again, [:label]) == {:ok, %{label: changed}}
  end

  test "a caller killed in the call: it runs once, and the session serves the next", %{
    pool: pool,
    chaos: chaos
  } do
    {created, changed, copied} = {label(), label(), label()}
    template = [class: :data, token: true, label: label(), value: "x"]
    {:ok, object} = Pkcs11Pool.create_object(pool, template)

    for {function, call, label} <- [
          {:C_CreateObject,
           fn -> Pkcs11Pool.create_object(pool, Keyword.put(template, :label, created)) end,
           created},
          {:C_CopyObject,
           fn -> Pkcs11Pool.copy_object(pool, object, token: true, label: copied) end, copied},
          {:C_SetAttributeValue,
           fn -> Pkcs11Pool.set_attributes(pool, object, label: changed) end, changed}
        ] do
      Chaos.reset_counts(chaos)
      Chaos.hang(chaos, function, count: 1)
      caller = spawn(call)
      Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
      Process.exit(caller, :kill)
      Chaos.release(chaos)
      Pools.drained!(pool)
      assert Chaos.calls(chaos, function) == 1
      assert {:ok, [%Object{class: :data}]} = Pkcs11Pool.find_objects(pool, label: label)
    end
  end

  test "the size is what the token says, in bytes, or :unavailable where it does not tell", %{
    pool: pool,
    chaos: chaos
  } do
    template = [class: :data, token: true, label: label(), value: "x"]
    {:ok, object} = Pkcs11Pool.create_object(pool, template)

    for found <- [object, [label: object.label]] do
      # SoftHSM never tells; some modules write 32 bits of what says so.
      assert Pkcs11Pool.object_size(pool, found) == {:ok, :unavailable}
      Chaos.answer_count(chaos, :C_GetObjectSize, 0xFFFFFFFF)
      assert Pkcs11Pool.object_size(pool, found) == {:ok, :unavailable}
      Chaos.answer_count(chaos, :C_GetObjectSize, 1_234)
      assert Pkcs11Pool.object_size(pool, found) == {:ok, 1_234}

      assert Pkcs11Pool.with_session(pool, fn -> Pkcs11Pool.object_size!(pool, found) end) ==
               1_234

      Chaos.clear(chaos, :C_GetObjectSize)
    end

    assert {:error, %Error{reason: :key_not_found, executed: false}} =
             Pkcs11Pool.object_size(pool, label: label())

    assert {:error, %Error{reason: :object_of_other_token}} =
             Pkcs11Pool.object_size(pool, %{object | token: "other"})
  end

  test "a size is asked for again where it failed, and a refusal is the token's own", %{
    pool: pool,
    chaos: chaos
  } do
    template = [class: :data, token: true, label: label(), value: "x"]
    {:ok, object} = Pkcs11Pool.create_object(pool, template)
    Chaos.reset_counts(chaos)
    Chaos.fail(chaos, :C_GetObjectSize, :session_handle_invalid, count: 1)
    assert Pkcs11Pool.object_size(pool, object) == {:ok, :unavailable}
    assert Chaos.calls(chaos, :C_GetObjectSize) == 2

    Chaos.fail(chaos, :C_GetObjectSize, :information_sensitive, count: 1)

    assert {:error, %Error{reason: :information_sensitive, function: :C_GetObjectSize}} =
             Pkcs11Pool.object_size(pool, object)

    # It is found again after a logout, as what is read is.
    :ok = Pkcs11Pool.logout(pool)
    assert Pkcs11Pool.object_size(pool, object) == {:ok, :unavailable}
  end

  test "the token's own refusal names its function", %{pool: pool} do
    assert {:error, %Error{function: :C_CreateObject, executed: true} = error} =
             Pkcs11Pool.create_object(pool, token: true, label: label())

    assert error.reason in [
             :template_incomplete,
             :attribute_value_invalid,
             :template_inconsistent
           ]

    {:ok, object} =
      Pkcs11Pool.create_object(pool, class: :data, token: true, label: label(), value: "x")

    assert {:error, %Error{function: :C_SetAttributeValue, reason: :attribute_read_only}} =
             Pkcs11Pool.set_attributes(pool, object, class: :certificate)
  end
end
