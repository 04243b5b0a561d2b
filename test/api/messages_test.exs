defmodule Pkcs11Pool.MessagesTest do
  # A token of PKCS#11 3.0 that offers its authenticating ciphers by messages only: kryoptic behind a chaos module that hides C_EncryptInit and C_DecryptInit for them.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Kryoptic, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag skip: Kryoptic.missing()

  @encryption [:C_MessageEncryptInit, :C_EncryptMessage, :C_MessageEncryptFinal]
  @decryption [:C_MessageDecryptInit, :C_DecryptMessage, :C_MessageDecryptFinal]
  @plain [:C_EncryptInit, :C_Encrypt, :C_DecryptInit, :C_Decrypt]

  setup_all do
    token = Kryoptic.new_token!()
    chaos = Chaos.start!(token.module, module_env: token.module_env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> Chaos.stop(chaos) end)
    Chaos.messages_only(chaos)
    token = %{token | module: chaos.module, module_env: chaos.module_env}
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 1)})

    values =
      for {label, type, size} <- [
            {"aes-128", :aes, 16},
            {"aes-256", :aes, 32},
            {"chacha", :chacha20, 32}
          ],
          into: %{} do
        value = :crypto.strong_rand_bytes(size)
        template = [class: :secret_key, key_type: type, label: label, value: value, token: true]
        {:ok, _key} = Pkcs11Pool.create_object(pool, template ++ [encrypt: true, decrypt: true])
        {label, value}
      end

    %{pool: pool, chaos: chaos, values: values}
  end

  setup %{pool: pool, chaos: chaos} do
    Chaos.reset_counts(chaos)

    on_exit(fn ->
      Pools.drained!(pool)
      for function <- @encryption ++ @decryption, do: Chaos.clear(chaos, function)
    end)
  end

  # A key, :crypto's name of its cipher, the mechanism with these parameters, how many bytes the tag has, and the nonce.
  defp ciphers(aad) do
    nonce = &:crypto.strong_rand_bytes/1

    for iv <- [nonce.(12), nonce.(1), nonce.(16)], bits <- [96, 128] do
      [
        {"aes-128", :aes_128_gcm, {:aes_gcm, iv: iv, aad: aad, tag_bits: bits}, div(bits, 8), iv},
        {"aes-256", :aes_256_gcm, {:aes_gcm, iv: iv, aad: aad, tag_bits: bits}, div(bits, 8), iv}
      ]
    end ++
      for iv <- [nonce.(7), nonce.(12), nonce.(13)], bytes <- [4, 16] do
        [
          {"aes-128", :aes_128_ccm, {:aes_ccm, nonce: iv, aad: aad, mac_length: bytes}, bytes,
           iv},
          {"aes-256", :aes_256_ccm, {:aes_ccm, nonce: iv, aad: aad, mac_length: bytes}, bytes, iv}
        ]
      end ++
      for iv <- [nonce.(12)] do
        [{"chacha", :chacha20_poly1305, {:chacha20_poly1305, nonce: iv, aad: aad}, 16, iv}]
      end
  end

  defp all_ciphers(aad), do: aad |> ciphers() |> List.flatten()

  defp calls(chaos, functions), do: for(name <- functions, do: Chaos.calls(chaos, name))

  defp flip(bytes, place) do
    <<before::binary-size(place), byte, rest::binary>> = bytes
    <<before::binary, Bitwise.bxor(byte, 1), rest::binary>>
  end

  test "it says so of its mechanisms", %{pool: pool} do
    {:ok, mechanisms} = Pkcs11Pool.mechanisms(pool)
    flags = Map.new(mechanisms, &{&1.mechanism, &1.flags})

    for name <- [:aes_gcm, :aes_ccm, :chacha20_poly1305] do
      assert :message_encrypt in flags[name] and :message_decrypt in flags[name]
      refute :encrypt in flags[name] or :decrypt in flags[name]
    end
  end

  test "what it encrypts is what :crypto does, and each decrypts the other's", context do
    %{pool: pool, chaos: chaos, values: values} = context

    for aad <- ["", "header"],
        {label, cipher, mechanism, tag_bytes, nonce} <- all_ciphers(aad),
        size <- [0, 1, 15, 16, 17, 1_000] do
      data = :crypto.strong_rand_bytes(size)

      {bytes, tag} =
        :crypto.crypto_one_time_aead(cipher, values[label], nonce, data, aad, tag_bytes, true)

      sealed = bytes <> tag
      assert Pkcs11Pool.encrypt(pool, label, mechanism, data) == {:ok, sealed}
      assert Pkcs11Pool.decrypt(pool, label, mechanism, sealed) == {:ok, data}
    end

    assert calls(chaos, @plain) == [0, 0, 0, 0]
    assert [count, count, count] = calls(chaos, @encryption)
    assert [^count, ^count, ^count] = calls(chaos, @decryption)
  end

  test "what is prepared does so, too", %{pool: pool, chaos: chaos} do
    encrypt = Pkcs11Pool.prepare!(pool, :encrypt, "aes-256", {:aes_gcm, iv: :token})
    Chaos.reset_counts(chaos)
    {:ok, {iv, sealed}} = Pkcs11Pool.encrypt(encrypt, "data")
    decrypt = Pkcs11Pool.prepare!(pool, :decrypt, "aes-256", {:aes_gcm, iv: iv})
    assert Pkcs11Pool.decrypt(decrypt, sealed) == {:ok, "data"}
    assert calls(chaos, @encryption ++ @decryption) == [1, 1, 1, 1, 1, 1]
  end

  test "a stream is refused, and nothing is left active", %{pool: pool, chaos: chaos} do
    mechanism = {:aes_gcm, iv: <<1::96>>}

    for stream <- [&Pkcs11Pool.encrypt_stream/4, &Pkcs11Pool.decrypt_stream/4] do
      error = catch_error(Enum.to_list(stream.(pool, "aes-256", mechanism, ["data"])))
      assert %Error{reason: :mechanism_invalid, executed: false} = error
    end

    assert {:ok, _sealed} = Pkcs11Pool.encrypt(pool, "aes-256", mechanism, "data")
    assert Chaos.calls(chaos, :C_OpenSession) == 0
  end

  test "a MiB", %{pool: pool, values: values} do
    data = :crypto.strong_rand_bytes(1_048_576)

    for {label, cipher, name} <- [
          {"aes-256", :aes_256_gcm, :aes_gcm},
          {"chacha", :chacha20_poly1305, :chacha20_poly1305}
        ] do
      iv = :crypto.strong_rand_bytes(12)
      mechanism = if name == :aes_gcm, do: {name, iv: iv}, else: {name, nonce: iv}
      {bytes, tag} = :crypto.crypto_one_time_aead(cipher, values[label], iv, data, "", 16, true)
      assert Pkcs11Pool.encrypt(pool, label, mechanism, data) == {:ok, bytes <> tag}
      assert Pkcs11Pool.decrypt(pool, label, mechanism, bytes <> tag) == {:ok, data}
    end
  end

  test "no ciphertext that was changed or cut is decrypted, and nothing is left active",
       context do
    %{pool: pool, chaos: chaos} = context

    Pkcs11Pool.with_session(pool, fn ->
      for {label, _cipher, {name, params} = mechanism, tag_bytes, _nonce} <-
            all_ciphers("header"),
          size <- [0, 5] do
        data = :crypto.strong_rand_bytes(size)
        {:ok, sealed} = Pkcs11Pool.encrypt(pool, label, mechanism, data)
        other = {name, Keyword.put(params, :aad, "other")}

        forged =
          for(place <- 0..(byte_size(sealed) - 1), do: {mechanism, flip(sealed, place)}) ++
            for(
              length <- 0..(byte_size(sealed) - 1),
              do: {mechanism, binary_part(sealed, 0, length)}
            ) ++
            [{mechanism, sealed <> <<0>>}, {other, sealed}]

        for {mechanism, forged} <- forged do
          assert {:error, %Error{reason: :decryption_failed, function: :C_DecryptMessage}} =
                   Pkcs11Pool.decrypt(pool, label, mechanism, forged),
                 inspect({mechanism, tag_bytes, size, byte_size(forged)})
        end

        assert Pkcs11Pool.decrypt(pool, label, mechanism, sealed) == {:ok, data}
      end
    end)

    assert Chaos.calls(chaos, :C_OpenSession) == 0
  end

  test "a list begins and ends the operation once, as long as it has the session", context do
    %{pool: pool, chaos: chaos} = context
    list = for n <- 1..100, do: {[iv: <<n::96>>], "data #{n}"}
    assert {:ok, results} = Pkcs11Pool.encrypt_many(pool, "aes-256", :aes_gcm, list)
    sealed = for {{params, _data}, {:ok, sealed}} <- Enum.zip(list, results), do: {params, sealed}
    assert length(sealed) == 100
    assert [slices, 100, slices] = calls(chaos, @encryption)
    assert slices < 100

    {bad_params, bad} = Enum.at(sealed, 49)
    sealed = List.replace_at(sealed, 49, {bad_params, flip(bad, 0)})
    assert {:ok, results} = Pkcs11Pool.decrypt_many(pool, "aes-256", :aes_gcm, sealed)

    for {{{_params, data}, result}, n} <- Enum.with_index(Enum.zip(list, results), 1) do
      if n == 50,
        do: assert({:error, %Error{reason: :decryption_failed}} = result),
        else: assert(result == {:ok, data})
    end

    assert [begun, 100, ended] = calls(chaos, @decryption)
    assert begun == ended and begun < 100
  end

  test "a list of messages whose IVs the token makes", context do
    %{pool: pool, chaos: chaos, values: values} = context

    for {mechanism, cipher} <- [
          {{:aes_gcm, iv: :token}, :aes_256_gcm},
          {{:aes_ccm, nonce: :token}, :aes_256_ccm}
        ] do
      Chaos.reset_counts(chaos)
      list = for n <- 1..100, do: "data #{n}"
      assert {:ok, results} = Pkcs11Pool.encrypt_many(pool, "aes-256", mechanism, list)

      ivs =
        for {data, {:ok, {iv, sealed}}} <- Enum.zip(list, results) do
          {bytes, tag} = :erlang.split_binary(sealed, byte_size(sealed) - 16)
          value = values["aes-256"]
          assert :crypto.crypto_one_time_aead(cipher, value, iv, bytes, "", tag, false) == data
          iv
        end

      assert length(Enum.uniq(ivs)) == 100
      assert [slices, 100, slices] = calls(chaos, @encryption)
      assert slices < 100
    end
  end

  test "an operation that cannot be ended is cancelled, and its message is given", context do
    %{pool: pool, chaos: chaos} = context
    mechanism = {:aes_gcm, iv: <<1::96>>}
    {:ok, sealed} = Pkcs11Pool.encrypt(pool, "aes-256", mechanism, "data")
    Chaos.reset_counts(chaos)

    for function <- [:C_MessageEncryptFinal, :C_MessageDecryptFinal],
        do: Chaos.fail(chaos, function, :device_error)

    for _ <- 1..3 do
      assert Pkcs11Pool.encrypt(pool, "aes-256", mechanism, "data") == {:ok, sealed}
      assert Pkcs11Pool.decrypt(pool, "aes-256", mechanism, sealed) == {:ok, "data"}

      assert {:error, %Error{reason: :decryption_failed}} =
               Pkcs11Pool.decrypt(pool, "aes-256", mechanism, flip(sealed, 0))
    end

    assert Chaos.calls(chaos, :C_OpenSession) == 0
    assert Chaos.calls(chaos, :C_SessionCancel) > 0
  end

  test "or its session is closed", %{pool: pool, chaos: chaos} do
    mechanism = {:aes_gcm, iv: <<1::96>>}
    {:ok, sealed} = Pkcs11Pool.encrypt(pool, "aes-256", mechanism, "data")
    Chaos.reset_counts(chaos)
    on_exit(fn -> Chaos.clear(chaos, :C_SessionCancel) end)
    Chaos.fail(chaos, :C_SessionCancel, :function_not_supported)
    Chaos.fail(chaos, :C_MessageDecryptFinal, :device_error, count: 1)
    assert Pkcs11Pool.decrypt(pool, "aes-256", mechanism, sealed) == {:ok, "data"}
    assert Pkcs11Pool.decrypt(pool, "aes-256", mechanism, sealed) == {:ok, "data"}
    assert Chaos.calls(chaos, :C_OpenSession) == 1
  end

  test "a device that fails in the midst of a message is not taken for a wrong tag", context do
    %{pool: pool, chaos: chaos} = context
    mechanism = {:aes_gcm, iv: <<1::96>>}
    {:ok, sealed} = Pkcs11Pool.encrypt(pool, "aes-256", mechanism, "data")

    # Where it has died, or has no memory, the message is tried again.
    for code <- [:session_handle_invalid, :device_memory] do
      Chaos.reset_counts(chaos)
      Chaos.fail(chaos, :C_DecryptMessage, code, count: 1)
      assert Pkcs11Pool.decrypt(pool, "aes-256", mechanism, sealed) == {:ok, "data"}
      assert Chaos.calls(chaos, :C_DecryptMessage) == 2
    end

    Chaos.fail(chaos, :C_EncryptMessage, :device_error, count: 1)

    assert {:error,
            %Error{reason: :device_error, function: :C_EncryptMessage, executed: :unknown}} =
             Pkcs11Pool.encrypt(pool, "aes-256", {:aes_gcm, iv: :token}, "data")

    assert {:ok, {_iv, _sealed}} =
             Pkcs11Pool.encrypt(pool, "aes-256", {:aes_gcm, iv: :token}, "data")
  end

  test "a length that cannot be is not believed", %{pool: pool, chaos: chaos} do
    mechanism = {:aes_gcm, iv: <<1::96>>}
    {:ok, sealed} = Pkcs11Pool.encrypt(pool, "aes-256", mechanism, "data")

    for told <- [:kept, :exceeded] do
      Chaos.told_size(chaos, :C_EncryptMessage, told)
      Chaos.told_size(chaos, :C_DecryptMessage, told)
      assert {:error, %Error{}} = Pkcs11Pool.encrypt(pool, "aes-256", mechanism, "data")
      assert {:error, %Error{}} = Pkcs11Pool.decrypt(pool, "aes-256", mechanism, sealed)
      Chaos.told_size(chaos, :C_EncryptMessage, true)
      Chaos.told_size(chaos, :C_DecryptMessage, true)
      assert Pkcs11Pool.decrypt(pool, "aes-256", mechanism, sealed) == {:ok, "data"}
    end
  end
end
