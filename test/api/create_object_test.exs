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

  # Token objects, and session objects in a block: what is made does what :crypto does with the same key.
  for token? <- [true, false] do
    describe "made with token: #{token?}" do
      @token? token?

      setup %{pool: pool} do
        %{make: fn template -> Pkcs11Pool.create_object(pool, [{:token, @token?} | template]) end}
      end

      test "RSA keys sign, verify, encrypt and decrypt", %{pool: pool, make: make} do
        {[e, n], [e, n, d, p, q, dp, dq, qi]} =
          {public, private} = :crypto.generate_key(:rsa, {2048, 65_537})

        within(pool, @token?, fn pool ->
          numbers = [modulus: n, public_exponent: e]

          assert {:ok, %Object{class: :private_key, key_type: :rsa} = own} =
                   make.(
                     [
                       class: :private_key,
                       key_type: :rsa,
                       label: label(),
                       sign: true,
                       decrypt: true
                     ] ++
                       numbers ++
                       [private_exponent: d, prime_1: p, prime_2: q] ++
                       [exponent_1: dp, exponent_2: dq, coefficient: qi]
                   )

          assert {:ok, %Object{class: :public_key} = other} =
                   make.(
                     [
                       class: :public_key,
                       key_type: :rsa,
                       label: label(),
                       verify: true,
                       encrypt: true
                     ] ++ numbers
                   )

          assert {:ok, %{token: @token?}} = Pkcs11Pool.get_attributes(pool, own, [:token])
          {:ok, signature} = Pkcs11Pool.sign(pool, own, :sha256_rsa_pkcs, "message")
          assert :crypto.verify(:rsa, :sha256, "message", signature, public)
          signature = :crypto.sign(:rsa, :sha256, "message", private)
          assert Pkcs11Pool.verify(pool, other, :sha256_rsa_pkcs, "message", signature) == :ok
          {:ok, ciphertext} = Pkcs11Pool.encrypt(pool, other, :rsa_pkcs, "secret")

          assert :crypto.private_decrypt(:rsa, ciphertext, private, :rsa_pkcs1_padding) ==
                   "secret"

          assert Pkcs11Pool.decrypt(pool, own, :rsa_pkcs, ciphertext) == {:ok, "secret"}
        end)
      end

      test "EC keys sign and verify", %{pool: pool, make: make} do
        for curve <- [:secp256r1, :secp384r1, :secp521r1] do
          {point, value} = :crypto.generate_key(:ecdh, curve)
          digest = :crypto.hash(:sha256, "message")
          octets = ec_point(point)

          within(pool, @token?, fn pool ->
            assert {:ok, own} =
                     make.(
                       class: :private_key,
                       key_type: :ec,
                       label: label(),
                       sign: true,
                       ec_params: curve,
                       value: value
                     )

            assert {:ok, other} =
                     make.(
                       class: :public_key,
                       key_type: :ec,
                       label: label(),
                       verify: true,
                       ec_params: curve,
                       ec_point: octets
                     )

            {:ok, signature} = Pkcs11Pool.sign(pool, own, :ecdsa, digest, signature: :der)
            assert :crypto.verify(:ecdsa, :sha256, "message", signature, [point, curve])
            signature = :crypto.sign(:ecdsa, :sha256, "message", [value, curve])

            assert Pkcs11Pool.verify(pool, other, :ecdsa, digest, signature, signature: :der) ==
                     :ok
          end)
        end
      end

      test "Ed25519 keys sign and verify", %{pool: pool, make: make} do
        {point, value} = :crypto.generate_key(:eddsa, :ed25519)

        within(pool, @token?, fn pool ->
          curve = [key_type: :ec_edwards, ec_params: :ed25519, label: label()]
          assert {:ok, own} = make.([class: :private_key, sign: true, value: value] ++ curve)

          assert {:ok, other} =
                   make.([class: :public_key, verify: true, ec_point: ec_point(point)] ++ curve)

          {:ok, signature} = Pkcs11Pool.sign(pool, own, :eddsa, "message")
          assert :crypto.verify(:eddsa, :none, "message", signature, [point, :ed25519])
          assert signature == :crypto.sign(:eddsa, :none, "message", [value, :ed25519])
          assert Pkcs11Pool.verify(pool, other, :eddsa, "message", signature) == :ok

          assert {:error, %Error{reason: :signature_invalid}} =
                   Pkcs11Pool.verify(pool, other, :eddsa, "another", signature)
        end)
      end

      test "AES and generic secret keys", %{pool: pool, make: make} do
        value = :crypto.strong_rand_bytes(32)

        within(pool, @token?, fn pool ->
          secret = [class: :secret_key, label: label(), value: value]
          assert {:ok, aes} = make.([key_type: :aes, encrypt: true, decrypt: true] ++ secret)
          iv = :crypto.strong_rand_bytes(16)
          expected = :crypto.crypto_one_time(:aes_256_ctr, value, iv, "data", true)

          assert Pkcs11Pool.encrypt(pool, aes, {:aes_ctr, counter_block: iv}, "data") ==
                   {:ok, expected}

          assert Pkcs11Pool.decrypt(pool, aes, {:aes_ctr, counter_block: iv}, expected) ==
                   {:ok, "data"}

          assert {:ok, generic} =
                   make.([key_type: :generic_secret, sign: true, verify: true] ++ secret)

          mac = :crypto.mac(:hmac, :sha256, value, "data")
          assert Pkcs11Pool.sign(pool, generic, :sha256_hmac, "data") == {:ok, mac}
          assert Pkcs11Pool.verify(pool, generic, :sha256_hmac, "data", mac) == :ok
        end)
      end

      test "certificates and data", %{pool: pool, make: make, token: token} do
        der = certificate(token)

        within(pool, @token?, fn pool ->
          assert {:ok, object} =
                   make.(
                     class: :certificate,
                     certificate_type: :x_509,
                     label: label(),
                     subject: "x",
                     value: der
                   )

          assert {:ok, %{value: ^der, certificate_type: :x_509, token: @token?}} =
                   Pkcs11Pool.get_attributes(pool, object, [:value, :certificate_type, :token])

          value = :crypto.strong_rand_bytes(1_000)

          assert {:ok, object} =
                   make.(class: :data, label: label(), application: "a", value: value)

          assert Pkcs11Pool.get_attributes(pool, object, [:value, :application]) ==
                   {:ok, %{value: value, application: "a"}}
        end)
      end
    end
  end

  defp within(pool, true, fun), do: fun.(pool)
  defp within(pool, false, fun), do: Pkcs11Pool.with_session(pool, fn _lease -> fun.(pool) end)

  defp ec_point(point) when byte_size(point) < 128, do: <<4, byte_size(point), point::binary>>
  defp ec_point(point), do: <<4, 0x81, byte_size(point), point::binary>>

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
