defmodule Pkcs11Pool.TokenIVTest do
  # AES-GCM and AES-CCM with an IV that the token makes, on a token of PKCS#11 3.0, which has functions for that. What tokens of 2.40 do is in CipherTest.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Kryoptic, Pools, SoftHSM}

  @moduletag skip: Kryoptic.missing()

  setup_all do
    token = Kryoptic.new_token!()
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [])})

    {:ok, _key} =
      Pkcs11Pool.generate_key(pool, :aes_key_gen,
        value_len: 32,
        token: true,
        label: "aes",
        encrypt: true,
        decrypt: true,
        sensitive: false,
        extractable: true
      )

    {:ok, %{value: value}} = Pkcs11Pool.get_attributes(pool, "aes", [:value])
    %{pool: pool, value: value}
  end

  setup %{pool: pool} do
    on_exit(fn -> Pools.drained!(pool) end)
  end

  # What :crypto makes of it, which has the key, too.
  defp open(cipher \\ :aes_256_gcm, value, iv, sealed, aad, tag_bytes) do
    {bytes, tag} = :erlang.split_binary(sealed, byte_size(sealed) - tag_bytes)
    :crypto.crypto_one_time_aead(cipher, value, iv, bytes, aad, tag, false)
  end

  test "any data is encrypted with an IV of its own", %{pool: pool, value: value} do
    ivs =
      for size <- [0, 1, 15, 16, 17, 1_000, 1_048_576], aad <- ["", "aad"] do
        data = :crypto.strong_rand_bytes(size)
        mechanism = {:aes_gcm, iv: :token, aad: aad}
        assert {:ok, {<<_::96>> = iv, sealed}} = Pkcs11Pool.encrypt(pool, "aes", mechanism, data)
        assert byte_size(sealed) == size + 16
        assert open(value, iv, sealed, aad, 16) == data

        # And by the token itself, as any other ciphertext.
        assert Pkcs11Pool.decrypt(pool, "aes", {:aes_gcm, iv: iv, aad: aad}, sealed) ==
                 {:ok, data}

        assert {:error, %Error{reason: :decryption_failed}} =
                 Pkcs11Pool.decrypt(pool, "aes", {:aes_gcm, iv: iv, aad: "other"}, sealed)

        iv
      end

    assert ivs == Enum.uniq(ivs)
  end

  test "the tag is as long as it should be", %{pool: pool, value: value} do
    for bits <- [96, 104, 112, 120, 128] do
      mechanism = {:aes_gcm, iv: :token, tag_bits: bits}
      assert {:ok, {iv, sealed}} = Pkcs11Pool.encrypt(pool, "aes", mechanism, "data")
      assert byte_size(sealed) == 4 + div(bits, 8)
      assert open(value, iv, sealed, "", div(bits, 8)) == "data"
    end
  end

  test "AES-CCM has such a nonce, too", %{pool: pool, value: value} do
    nonces =
      for size <- [0, 1, 15, 16, 17, 1_000, 65_536], aad <- ["", "aad"], bytes <- [4, 16] do
        data = :crypto.strong_rand_bytes(size)
        params = [aad: aad, mac_length: bytes]
        mechanism = {:aes_ccm, [nonce: :token] ++ params}

        assert {:ok, {<<_::96>> = nonce, sealed}} =
                 Pkcs11Pool.encrypt(pool, "aes", mechanism, data)

        assert byte_size(sealed) == size + bytes
        assert open(:aes_256_ccm, value, nonce, sealed, aad, bytes) == data

        assert Pkcs11Pool.decrypt(pool, "aes", {:aes_ccm, [nonce: nonce] ++ params}, sealed) ==
                 {:ok, data}

        nonce
      end

    assert nonces == Enum.uniq(nonces)
  end

  test "a list has an IV for each item", %{pool: pool, value: value} do
    list = for n <- 1..50, do: "data #{n}"
    mechanism = {:aes_gcm, iv: :token}
    assert {:ok, results} = Pkcs11Pool.encrypt_many(pool, "aes", mechanism, list)
    sealed = for {:ok, {iv, sealed}} <- results, do: {iv, open(value, iv, sealed, "", 16)}
    assert Enum.map(sealed, &elem(&1, 1)) == list
    assert length(Enum.uniq_by(sealed, &elem(&1, 0))) == 50
  end

  test "the session is as good as before for what comes next", %{pool: pool} do
    Pkcs11Pool.with_session(pool, fn ->
      for _ <- 1..3 do
        assert {:ok, {iv, sealed}} =
                 Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: :token}, "data")

        assert {:ok, "data"} = Pkcs11Pool.decrypt(pool, "aes", {:aes_gcm, iv: iv}, sealed)
      end
    end)
  end

  test "a key that may not encrypt is refused", %{pool: pool} do
    template = [
      value_len: 16,
      token: true,
      label: "no",
      encrypt: false,
      decrypt: true,
      sign: true
    ]

    {:ok, _key} = Pkcs11Pool.generate_key(pool, :aes_key_gen, template)

    assert {:error, %Error{reason: reason, function: :C_MessageEncryptInit, executed: false}} =
             Pkcs11Pool.encrypt(pool, "no", {:aes_gcm, iv: :token}, "data")

    assert reason in [:key_function_not_permitted, :key_type_inconsistent]
  end
end
