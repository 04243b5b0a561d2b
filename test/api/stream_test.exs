defmodule Pkcs11Pool.StreamTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Pools, SoftHSM}

  @aes :binary.list_to_bin(Enum.to_list(1..32))
  @iv :binary.list_to_bin(Enum.to_list(101..116))
  @gcm_iv binary_part(@iv, 0, 12)
  @part 65_536
  @sizes [0, 1, 15, 16, 17, @part - 1, @part, @part + 1, 1_048_576]

  setup_all do
    opts = SoftHSM.new_token!() |> SoftHSM.pool_opts(pool_size: 3)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]
    secret = [class: :secret_key, token: true, sign: true, verify: true, value: @aes]
    aes = [key_type: :aes, label: "aes", encrypt: true, decrypt: true]
    Pkcs11Pool.create_object!(pool, secret ++ aes)
    Pkcs11Pool.create_object!(pool, secret ++ [key_type: :generic_secret, label: "mac"])
    Pools.key_pair!(pool, "ec")

    Pkcs11Pool.generate_key_pair!(
      pool,
      :rsa_pkcs_key_pair_gen,
      [token: true, label: "rsa", modulus_bits: 2048, public_exponent: 65_537, verify: true],
      token: true,
      label: "rsa",
      private: true,
      sign: true
    )

    %{pool: pool}
  end

  setup %{pool: pool} do
    on_exit(fn ->
      status = Pools.drained!(pool)
      assert status.leased == 0
    end)
  end

  defp data(0), do: ""

  defp data(size),
    do: :binary.part(:binary.copy(:crypto.strong_rand_bytes(997), div(size, 997) + 1), 0, size)

  # The same data in one piece, in small pieces of iodata, and in pieces that are larger than a part.
  defp enumerables(data) do
    size = max(byte_size(data), 1)
    small = max(div(size, 100), 1)
    large = max(div(size, 3), 1)
    nested = Stream.map(pieces(data, small), &[[&1], ""])
    [[data], nested, pieces(data, large), Stream.concat([[""], [[]], [data], [""]])]
  end

  defp pieces("", _size), do: []

  defp pieces(data, size) do
    for from <- 0..(byte_size(data) - 1)//size,
        do: binary_part(data, from, min(size, byte_size(data) - from))
  end

  defp joined(stream) do
    parts = Enum.to_list(stream)
    assert Enum.all?(parts, &(is_binary(&1) and &1 != ""))
    IO.iodata_to_binary(parts)
  end

  for hash <- [:sha1, :sha256, :sha512] do
    test "a digest of #{hash} is OTP's, whatever the parts", %{pool: pool} do
      mechanism = if unquote(hash) == :sha1, do: :sha_1, else: unquote(hash)
      name = if unquote(hash) == :sha1, do: :sha, else: unquote(hash)

      for size <- @sizes, data = data(size), enumerable <- enumerables(data) do
        expected = {:ok, :crypto.hash(name, data)}
        assert Pkcs11Pool.digest_stream(pool, mechanism, enumerable) == expected
      end
    end
  end

  test "a MAC is OTP's, and is verified", %{pool: pool} do
    for size <- @sizes, data = data(size), enumerable <- enumerables(data) do
      mac = :crypto.mac(:hmac, :sha256, @aes, data)
      assert Pkcs11Pool.sign_stream(pool, "mac", :sha256_hmac, enumerable) == {:ok, mac}
      assert Pkcs11Pool.verify_stream(pool, "mac", :sha256_hmac, enumerable, mac) == :ok

      assert {:error, %Error{reason: :signature_invalid}} =
               Pkcs11Pool.verify_stream(
                 pool,
                 "mac",
                 :sha256_hmac,
                 Stream.concat(enumerable, ["x"]),
                 mac
               )
    end
  end

  test "a CMAC is OTP's, and is verified", %{pool: pool} do
    for size <- @sizes, data = data(size), enumerable <- enumerables(data) do
      mac = :crypto.mac(:cmac, :aes_256_cbc, @aes, data)
      assert Pkcs11Pool.sign_stream(pool, "aes", :aes_cmac, enumerable) == {:ok, mac}
      assert Pkcs11Pool.verify_stream(pool, "aes", :aes_cmac, enumerable, mac) == :ok
    end
  end

  for {key, mechanism, options} <- [
        {"rsa", :sha256_rsa_pkcs, []},
        {"rsa", {:rsa_pkcs, hash: :sha256}, []},
        {"rsa", :sha256_rsa_pkcs_pss, rsa_padding: :rsa_pkcs1_pss_padding, rsa_pss_saltlen: 32},
        {"ec", {:ecdsa, hash: :sha256}, []}
      ] do
    test "a signature of #{inspect(mechanism)} is good for OTP and for the token, in one piece or in parts",
         %{pool: pool} do
      {key, mechanism} = {unquote(key), unquote(Macro.escape(mechanism))}
      public = Pkcs11Pool.public_key!(pool, key)
      form = if key == "ec", do: [signature: :der], else: []

      for size <- [0, 1, @part - 1, @part, @part + 1, 1_048_576], data = data(size) do
        enumerable = Enum.at(enumerables(data), rem(size, 4))
        {:ok, signature} = Pkcs11Pool.sign_stream(pool, key, mechanism, enumerable, form)
        options = unquote(options)
        assert :public_key.verify(data, :sha256, signature, public, options)
        assert Pkcs11Pool.verify(pool, key, mechanism, data, signature, form) == :ok
        whole = Pkcs11Pool.sign!(pool, key, mechanism, data, form)
        verify = &Pkcs11Pool.verify_stream(pool, key, mechanism, &1, whole, form)
        assert verify.(enumerable) == :ok
        assert {:error, %Error{reason: :signature_invalid}} = verify.([data, "x"])
      end
    end
  end

  for {mechanism, cipher, iv} <- [
        {{:aes_cbc_pad, iv: @iv}, :aes_256_cbc, @iv},
        {{:aes_cbc, iv: @iv}, :aes_256_cbc, @iv},
        {{:aes_ctr, counter_block: @iv, counter_bits: 128}, :aes_256_ctr, @iv},
        {:aes_ecb, :aes_256_ecb, ""}
      ] do
    name = if is_tuple(mechanism), do: elem(mechanism, 0), else: mechanism

    test "what #{name} encrypts is OTP's, and is decrypted", %{pool: pool} do
      mechanism = unquote(Macro.escape(mechanism))
      padding = if unquote(name) == :aes_cbc_pad, do: [padding: :pkcs_padding], else: []
      stream? = unquote(name) in [:aes_cbc_pad, :aes_ctr]

      for size <- @sizes, stream? or rem(size, 16) == 0, data = data(size) do
        options = [encrypt: true] ++ padding

        expected = :crypto.crypto_one_time(unquote(cipher), @aes, unquote(iv), data, options)

        for enumerable <- enumerables(data) do
          assert joined(Pkcs11Pool.encrypt_stream(pool, "aes", mechanism, enumerable)) == expected
        end

        for enumerable <- enumerables(expected) do
          assert joined(Pkcs11Pool.decrypt_stream(pool, "aes", mechanism, enumerable)) == data
        end
      end
    end
  end

  test "what AES-GCM encrypts is OTP's, tag included, and is decrypted", %{pool: pool} do
    mechanism = {:aes_gcm, iv: @gcm_iv, aad: "aad"}

    for size <- @sizes, data = data(size) do
      {sealed, tag} =
        :crypto.crypto_one_time_aead(:aes_256_gcm, @aes, @gcm_iv, data, "aad", 16, true)

      expected = sealed <> tag

      for enumerable <- enumerables(data),
          do:
            assert(
              joined(Pkcs11Pool.encrypt_stream(pool, "aes", mechanism, enumerable)) == expected
            )

      for enumerable <- enumerables(expected),
          do:
            assert(joined(Pkcs11Pool.decrypt_stream(pool, "aes", mechanism, enumerable)) == data)
    end
  end

  describe "what is no stream raises ArgumentError before anything is asked:" do
    test "a mechanism that takes its data in one piece, with the one that does not", %{pool: pool} do
      for {mechanism, instead} <- [
            {:ecdsa, "did you mean {:ecdsa, hash: :sha256}?"},
            {{:ecdsa, []}, "did you mean {:ecdsa, hash: :sha256}?"},
            {:rsa_pkcs, "did you mean {:rsa_pkcs, hash: :sha256}?"},
            {{:rsa_pkcs_pss, hash: :sha256}, "did you mean :sha256_rsa_pkcs_pss?"},
            {:dsa, "did you mean :dsa_sha256?"},
            {:rsa_x_509, "cannot be streamed"},
            {{:vendor, 0x1041, nil}, "mechanism :ecdsa takes its data in one piece"}
          ] do
        for call <- [
              fn -> Pkcs11Pool.sign_stream(pool, "rsa", mechanism, ["x"]) end,
              fn -> Pkcs11Pool.verify_stream(pool, "rsa", mechanism, ["x"], "signature") end
            ] do
          assert_raise ArgumentError, ~r/#{Regex.escape(instead)}/, call
        end
      end

      for mechanism <- [:rsa_pkcs, {:rsa_pkcs_oaep, hash: :sha1}], verb <- [:encrypt, :decrypt] do
        assert_raise ArgumentError, ~r/encrypt the data with a secret key/, fn ->
          apply(Pkcs11Pool, :"#{verb}_stream", [pool, "rsa", mechanism, ["x"]])
        end
      end
    end

    test "an IV that the token makes", %{pool: pool} do
      for mechanism <- [{:aes_gcm, iv: :token}, {:aes_ccm, nonce: :token, data_length: 1}] do
        assert_raise ArgumentError, ~r/:token is for encrypt\/5/, fn ->
          Pkcs11Pool.encrypt_stream(pool, "aes", mechanism, ["x"])
        end
      end
    end

    test "what is no enumerable", %{pool: pool} do
      for enumerable <- ["binary", :atom, 1, {1, 2}, &is_atom/1] do
        for call <- [
              fn -> Pkcs11Pool.digest_stream(pool, :sha256, enumerable) end,
              fn -> Pkcs11Pool.sign_stream(pool, "mac", :sha256_hmac, enumerable) end,
              fn -> Pkcs11Pool.verify_stream(pool, "mac", :sha256_hmac, enumerable, "mac") end,
              fn -> Pkcs11Pool.encrypt_stream(pool, "aes", :aes_ecb, enumerable) end,
              fn -> Pkcs11Pool.decrypt_stream(pool, "aes", :aes_ecb, enumerable) end
            ] do
          assert_raise ArgumentError, ~r/expected an enumerable of iodata/, call
        end
      end
    end

    test "options, keys and signatures that are none", %{pool: pool} do
      sign = &Pkcs11Pool.sign_stream(pool, &1, :sha256_hmac, ["x"], &2)
      assert_raise ArgumentError, ~r/:lease_timeout/, fn -> sign.("mac", lease_timeout: 0) end
      assert_raise ArgumentError, ~r/:unverified/, fn -> sign.("mac", unverified: :allow) end
      assert_raise ArgumentError, ~r/key/, fn -> sign.([], []) end
      assert_raise ArgumentError, ~r/:der is for ECDSA/, fn -> sign.("mac", signature: :der) end

      assert_raise ArgumentError, ~r/:unverified/, fn ->
        Pkcs11Pool.decrypt_stream(pool, "aes", :aes_ecb, ["x"], unverified: true)
      end

      assert_raise ArgumentError, ~r/expected signature to be iodata/, fn ->
        Pkcs11Pool.verify_stream(pool, "mac", :sha256_hmac, ["x"], :signature)
      end
    end
  end

  test "a token's own refusal of a mechanism in parts says what it may mean", %{pool: pool} do
    Pkcs11Pool.generate_key_pair!(
      pool,
      :ec_edwards_key_pair_gen,
      [token: true, label: "ed", ec_params: :ed25519, verify: true],
      token: true,
      label: "ed",
      private: true,
      sign: true
    )

    # SoftHSM has EdDSA in one piece only.
    assert {:error, %Error{reason: :operation_not_initialized, function: :C_SignUpdate} = error} =
             Pkcs11Pool.sign_stream(pool, "ed", :eddsa, ["message"])

    assert error.message =~ "takes its data in one piece"
  end

  test "one of several keys of a label is selected", %{pool: pool} do
    secret = [class: :secret_key, key_type: :generic_secret, token: true, label: "several"]
    keys = for id <- 1..2, do: {<<id>>, :binary.copy(<<id>>, 32)}

    for {id, value} <- keys,
        do:
          Pkcs11Pool.create_object!(
            pool,
            secret ++ [id: id, value: value, sign: true, verify: true]
          )

    sign = &Pkcs11Pool.sign_stream(pool, "several", :sha256_hmac, ["a", "b"], &1)
    assert {:error, %Error{reason: :ambiguous_key}} = sign.([])

    for {id, value} <- keys do
      select = fn candidates -> Enum.find(candidates, &(&1.id == id)) end
      mac = :crypto.mac(:hmac, :sha256, value, "ab")
      assert sign.(select: select) == {:ok, mac}
      verify = &Pkcs11Pool.verify_stream(pool, "several", :sha256_hmac, &1, mac, select: select)
      assert verify.(["ab"]) == :ok
    end

    assert {:error, %Error{reason: :key_not_found}} = sign.(select: fn _candidates -> nil end)
  end

  test "the twins give the value alone, or raise", %{pool: pool} do
    assert Pkcs11Pool.digest_stream!(pool, :sha256, ["a", "b"]) == :crypto.hash(:sha256, "ab")
    mac = Pkcs11Pool.sign_stream!(pool, "mac", :sha256_hmac, ["a", "b"])
    assert Pkcs11Pool.verify_stream!(pool, "mac", :sha256_hmac, ["ab"], mac) == :ok

    assert_raise Error, ~r/signature is not valid/, fn ->
      Pkcs11Pool.verify_stream!(pool, "mac", :sha256_hmac, ["x"], mac)
    end
  end
end
