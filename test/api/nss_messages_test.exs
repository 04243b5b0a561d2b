defmodule Pkcs11Pool.NSSMessagesTest do
  # The same as MessagesTest on another token, which has AES-GCM and ChaCha20-Poly1305 by messages and does not say so. Not async: the chaos module and the pools of other tests would
  # share one NSS, and end it for each other.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Pools, SoftHSM}
  alias Pkcs11Pool.Test.Tokens.NSS
  alias Pkcs11Pool.Testing.Chaos

  @moduletag skip: NSS.missing()

  setup_all do
    opts = NSS.pool_opts()
    chaos = Chaos.start!(opts[:module], copy: false, tmp_dir: SoftHSM.dir())
    on_exit(fn -> Chaos.stop(chaos) end)
    Chaos.messages_only(chaos)
    opts = Keyword.merge(opts, module: chaos.module, module_env: chaos.module_env)
    start_supervised!({Pkcs11Pool, opts})

    keys =
      for {name, type} <- [aes_gcm: :aes, chacha20_poly1305: :chacha20], into: %{} do
        value = :crypto.strong_rand_bytes(32)
        template = [class: :secret_key, key_type: type, id: :crypto.strong_rand_bytes(8)]
        uses = [value: value, token: true, encrypt: true, decrypt: true]
        {:ok, key} = Pkcs11Pool.create_object(opts[:name], template ++ uses)
        {name, {key, value}}
      end

    %{pool: opts[:name], chaos: chaos, keys: keys}
  end

  setup %{pool: pool, chaos: chaos} do
    Chaos.reset_counts(chaos)
    on_exit(fn -> Pools.drained!(pool) end)
  end

  defp mechanism(:aes_gcm, iv), do: {:aes_gcm, iv: iv, aad: "header"}
  defp mechanism(:chacha20_poly1305 = name, iv), do: {name, nonce: iv, aad: "header"}

  defp cipher(:aes_gcm), do: :aes_256_gcm
  defp cipher(name), do: name

  defp seal(name, value, iv, data) do
    {bytes, tag} = :crypto.crypto_one_time_aead(cipher(name), value, iv, data, "header", 16, true)
    bytes <> tag
  end

  test "what it encrypts is what :crypto does, and each decrypts the other's", context do
    %{pool: pool, chaos: chaos, keys: keys} = context

    for {name, {key, value}} <- keys, size <- [0, 1, 15, 16, 17, 1_048_576] do
      {iv, data} = {:crypto.strong_rand_bytes(12), :crypto.strong_rand_bytes(size)}
      sealed = seal(name, value, iv, data)
      assert Pkcs11Pool.encrypt(pool, key, mechanism(name, iv), data) == {:ok, sealed}
      assert Pkcs11Pool.decrypt(pool, key, mechanism(name, iv), sealed) == {:ok, data}
    end

    for function <- [:C_EncryptMessage, :C_DecryptMessage],
        do: assert(Chaos.calls(chaos, function) == 12)

    for function <- [:C_EncryptInit, :C_DecryptInit],
        do: assert(Chaos.calls(chaos, function) == 0)
  end

  test "no ciphertext that was changed or cut is decrypted", %{pool: pool, keys: keys} do
    for {name, {key, value}} <- keys, data <- ["", "data"] do
      iv = :crypto.strong_rand_bytes(12)
      sealed = seal(name, value, iv, data)
      size = byte_size(sealed)

      forged =
        for place <- 0..(size - 1) do
          <<before::binary-size(place), byte, rest::binary>> = sealed
          <<before::binary, Bitwise.bxor(byte, 0x80), rest::binary>>
        end ++ for(length <- 0..(size - 1), do: binary_part(sealed, 0, length)) ++ [sealed <> "x"]

      for forged <- forged do
        assert {:error, %Error{reason: :decryption_failed, function: :C_DecryptMessage}} =
                 Pkcs11Pool.decrypt(pool, key, mechanism(name, iv), forged)
      end

      assert Pkcs11Pool.decrypt(pool, key, mechanism(name, iv), sealed) == {:ok, data}
    end
  end

  test "a list has an IV of the token's for each item", %{pool: pool, keys: keys} do
    {key, value} = keys.aes_gcm
    list = for n <- 1..50, do: "data #{n}"
    {:ok, results} = Pkcs11Pool.encrypt_many(pool, key, mechanism(:aes_gcm, :token), list)
    sealed = for {:ok, {iv, sealed}} <- results, do: {iv, sealed}

    for {data, {iv, sealed}} <- Enum.zip(list, sealed),
        do: assert(seal(:aes_gcm, value, iv, data) == sealed)

    assert sealed |> Enum.uniq_by(&elem(&1, 0)) |> length() == 50
    items = for {iv, sealed} <- sealed, do: {[iv: iv], sealed}
    mechanism = {:aes_gcm, aad: "header"}

    assert Pkcs11Pool.decrypt_many(pool, key, mechanism, items) ==
             {:ok, Enum.map(list, &{:ok, &1})}
  end
end
