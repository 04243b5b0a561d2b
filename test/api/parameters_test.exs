defmodule Pkcs11Pool.ParametersTest do
  # Mechanisms whose parameters are a C struct of their own, on a token that has them, and on one that does not look at them.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Mechanism}
  alias Pkcs11Pool.Test.{ChaosToken, Kryoptic, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  defp start!(token, opts \\ []) do
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)})
    pool
  end

  defp generate_edwards!(pool, curve) do
    public = [ec_params: curve, token: true, label: "key", verify: true]
    private = [token: true, label: "key", sign: true]

    {:ok, {public, _private}} =
      Pkcs11Pool.generate_key_pair(pool, :ec_edwards_key_pair_gen, public, private)

    {:ok, key} = Pkcs11Pool.public_key(pool, public)
    key
  end

  defp secret!(pool, key_type, value) do
    {:ok, key} =
      Pkcs11Pool.create_object(pool,
        class: :secret_key,
        key_type: key_type,
        token: true,
        label: "#{key_type}",
        value: value,
        encrypt: true,
        decrypt: true
      )

    key
  end

  for {curve, size} <- [ed25519: 64, ed448: 114] do
    test "#{curve}: SoftHSM's signatures are :crypto's, and those whose context it does not look at go to nobody" do
      pool = start!(SoftHSM.new_token!())
      {{:ECPoint, point}, _curve} = generate_edwards!(pool, unquote(curve))
      {:ok, signature} = Pkcs11Pool.sign(pool, "key", :eddsa, "message")
      assert byte_size(signature) == unquote(size)

      assert :crypto.verify(:eddsa, :none, "message", signature, [point, unquote(curve)])

      for params <- [[context: "c"], [prehash: true], [prehash: true, context: "c"]] do
        mechanism = {:eddsa, params}

        for result <- [
              Pkcs11Pool.sign(pool, "key", mechanism, "message"),
              Pkcs11Pool.verify(pool, "key", mechanism, "message", signature),
              hd(Pkcs11Pool.sign_many!(pool, "key", mechanism, ["message"]))
            ] do
          assert {:error, %Error{reason: :parameters_ignored, executed: true} = error} = result
          assert error.function in [:C_Sign, :C_Verify]
          assert Exception.message(error) =~ ":eddsa (:prehash, :context)"
        end

        # What is valid for nothing stays invalid.
        assert {:error, %Error{reason: :signature_invalid}} =
                 Pkcs11Pool.verify(pool, "key", mechanism, "another", signature)
      end

      assert :ok = Pkcs11Pool.verify(pool, "key", {:eddsa, context: ""}, "message", signature)
      Pools.drained!(pool)
    end
  end

  # A ciphertext that openssl has made with a label.
  defp encrypt_with_label!(n, e, label, data) do
    path = Path.join(SoftHSM.dir(), "label-#{System.unique_integer([:positive])}")
    info = :public_key.pem_entry_encode(:SubjectPublicKeyInfo, {:RSAPublicKey, n, e})
    File.write!(path <> ".pem", :public_key.pem_encode([info]))
    File.write!(path <> ".data", data)

    oaep =
      ~w(-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_label:)
      |> List.update_at(-1, &(&1 <> Base.encode16(label)))

    files = [
      "-pubin",
      "-inkey",
      path <> ".pem",
      "-in",
      path <> ".data",
      "-out",
      path <> ".sealed"
    ]

    SoftHSM.openssl!(["pkeyutl", "-encrypt" | files ++ oaep])
    File.read!(path <> ".sealed")
  end

  defp generate_rsa!(pool) do
    public = [modulus_bits: 2048, public_exponent: 65_537, token: true, label: "rsa"]
    private = [token: true, label: "rsa", decrypt: true]

    {:ok, {public, _private}} =
      Pkcs11Pool.generate_key_pair(pool, :rsa_pkcs_key_pair_gen, public, private)

    {:ok, {:RSAPublicKey, n, e}} = Pkcs11Pool.public_key(pool, public)
    {n, e}
  end

  defp oaep(label), do: {:rsa_pkcs_oaep, hash: :sha1, source: label}

  test "OAEP: what was encrypted with another label than the given is decrypted for nobody" do
    pool = start!(SoftHSM.new_token!())
    {n, e} = generate_rsa!(pool)
    bare = :crypto.public_encrypt(:rsa, "data", [e, n], :rsa_pkcs1_oaep_padding)
    assert {:ok, "data"} = Pkcs11Pool.decrypt(pool, "rsa", oaep(""), bare)

    for result <- [
          Pkcs11Pool.decrypt(pool, "rsa", oaep("label"), bare),
          hd(Pkcs11Pool.decrypt_many!(pool, "rsa", oaep("label"), [bare]))
        ] do
      assert {:error, %Error{reason: :parameters_ignored, function: :C_Decrypt} = error} = result
      assert Exception.message(error) =~ ":rsa_pkcs_oaep (:hash, :mgf, :source)"
    end

    labelled = encrypt_with_label!(n, e, "label", "data")

    assert {:error, %Error{reason: :decryption_failed}} =
             Pkcs11Pool.decrypt(pool, "rsa", oaep("label"), labelled)

    Pools.drained!(pool)
  end

  test "no key is unwrapped from nothing" do
    pool = start!(SoftHSM.new_token!())

    {:ok, key} =
      Pkcs11Pool.generate_key(pool, :aes_key_gen, token: true, value_len: 16, unwrap: true)

    template = [class: :secret_key, key_type: :aes, token: true, label: "unwrapped"]

    assert {:error, %Error{reason: :wrapped_key_len_range, executed: false}} =
             Pkcs11Pool.unwrap_key(pool, key, :aes_key_wrap, "", template)

    assert {:ok, []} = Pkcs11Pool.find_objects(pool, label: "unwrapped")
    Pools.drained!(pool)
  end

  test "what a token does not take is its own code, and the message names the parameters" do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = start!(token)
    secret!(pool, :aes, :crypto.strong_rand_bytes(16))

    for {reason, start} <- [
          mechanism_param_invalid: "the token does not accept these parameters of the mechanism ",
          arguments_bad: "the module does not take the arguments, and the parameters of "
        ],
        {mechanism, names, remedy} <- [
          {{:aes_gcm, iv: <<1::96>>, tag_bits: 32}, ":aes_gcm (:iv, :aad, :tag_bits)",
           "an :iv of 12 bytes and tag_bits: 128"},
          {{:aes_ctr, counter_block: <<1::128>>}, ":aes_ctr (:counter_block, :counter_bits)",
           "counter_bits: 128"},
          {{:aes_ccm, nonce: <<1::104>>}, ":aes_ccm (:nonce, :aad, :mac_length, :data_length)",
           "a :nonce of at most 12 bytes"},
          {{:aes_cbc, iv: <<1::128>>}, ":aes_cbc (:iv)", ""}
        ] do
      Chaos.fail(token.chaos, :C_EncryptInit, reason, count: 1)
      assert {:error, error} = Pkcs11Pool.encrypt(pool, "aes", mechanism, <<1::128>>)
      assert %Error{reason: ^reason, function: :C_EncryptInit} = error
      assert error.code in [0x7, 0x71]
      assert Exception.message(error) =~ start <> names
      assert Exception.message(error) =~ remedy
    end

    # One without parameters has none to blame.
    Chaos.fail(token.chaos, :C_EncryptInit, :arguments_bad, count: 1)
    assert {:error, error} = Pkcs11Pool.encrypt(pool, "aes", :aes_ecb, <<1::128>>)
    refute Exception.message(error) =~ "parameters"
    Pools.drained!(pool)
  end

  test "mechanisms/1 hides none that the token lists, not even one that it then does not know" do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = start!(token)
    listed = SoftHSM.pkcs11_tool!(token, ["--list-mechanisms"])
    lines = ~r/^  [A-Za-z0-9-]+[,\n]/m |> Regex.scan(listed) |> length()
    {:ok, mechanisms} = Pkcs11Pool.mechanisms(pool)
    # pkcs11-tool has a line for each.
    assert length(mechanisms) == lines
    assert Enum.uniq(mechanisms) == mechanisms

    Chaos.fail(token.chaos, :C_GetMechanismInfo, :mechanism_invalid, count: 1)
    {:ok, all} = Pkcs11Pool.mechanisms(pool)
    assert Enum.map(all, & &1.mechanism) == Enum.map(mechanisms, & &1.mechanism)
    assert [%{min: 0, max: 0, flags: []}] = all -- mechanisms
    Pools.drained!(pool)
  end

  describe "kryoptic" do
    @describetag skip: Kryoptic.missing()

    setup do
      %{pool: start!(Kryoptic.new_token!())}
    end

    # RFC 8032, 7.2 to 7.5.
    @vectors [
      {:ed25519, [context: "foo"],
       "0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6",
       "dfc9425e4f968f7f0c29f0259cf5f9aed6851c2bb4ad8bfb860cfee0ab248292",
       "f726936d19c800494e3fdaff20b276a8",
       "55a4cc2f70a54e04288c5f4cd1e45a7bb520b36292911876cada7323198dd87a" <>
         "8b36950b95130022907a7fb7c4e9b2d5f6cca685a587b4b21f4b888e4e7edb0d"},
      {:ed25519, [prehash: true],
       "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
       "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf", "616263",
       "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41" <>
         "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"},
      {:ed448, [context: "foo"],
       "c4eab05d357007c632f3dbb48489924d552b08fe0c353a0d4a1f00acda2c463a" <>
         "fbea67c5e8d2877c5e3bc397a659949ef8021e954e0a12274e",
       "43ba28f430cdff456ae531545f7ecd0ac834a55d9358c0372bfa0c6c6798c086" <>
         "6aea01eb00742802b8438ea4cb82169c235160627b4c3a9480", "03",
       "d4f8f6131770dd46f40867d6fd5d5055de43541f8c5e35abbcd001b32a89f7d2" <>
         "151f7647f11d8ca2ae279fb842d607217fce6e042f6815ea000c85741de5c8da" <>
         "1144a6a1aba7f96de42505d7a7298524fda538fccbbb754f578c1cad10d54d0d" <>
         "5428407e85dcbc98a49155c13764e66c3c00"}
    ]
    test "signs and verifies EdDSA's vectors with a context and with prehash", %{pool: pool} do
      for {curve, params, secret, public, message, signature} <- @vectors do
        [secret, public, message, signature] =
          for hex <- [secret, public, message, signature], do: Base.decode16!(hex, case: :lower)

        assert {^public, _} = :crypto.generate_key(:eddsa, curve, secret)
        ec_params = Map.fetch!(%{ed25519: :ed25519, ed448: :ed448}, curve)
        point = <<4, byte_size(public)>> <> public
        same = [key_type: :ec_edwards, ec_params: ec_params, token: true]

        {:ok, private_key} =
          Pkcs11Pool.create_object(
            pool,
            [class: :private_key, value: secret, sign: true, sensitive: true] ++ same
          )

        {:ok, public_key} =
          Pkcs11Pool.create_object(
            pool,
            [class: :public_key, ec_point: point, verify: true] ++ same
          )

        mechanism = {:eddsa, params}
        assert {:ok, ^signature} = Pkcs11Pool.sign(pool, private_key, mechanism, message)
        assert :ok = Pkcs11Pool.verify(pool, public_key, mechanism, message, signature)

        for {other, data, bad} <- [
              {{:eddsa, Keyword.put(params, :context, "bar")}, message, signature},
              {:eddsa, message, signature},
              {mechanism, message <> "!", signature},
              {mechanism, message, flip(signature)}
            ] do
          assert {:error, %Error{reason: :signature_invalid}} =
                   Pkcs11Pool.verify(pool, public_key, other, data, bad)
        end
      end

      Pools.drained!(pool)
    end

    test "OAEP: a label that is looked at is the ciphertext's own", %{pool: pool} do
      {n, e} = generate_rsa!(pool)
      bare = :crypto.public_encrypt(:rsa, "data", [e, n], :rsa_pkcs1_oaep_padding)
      labelled = encrypt_with_label!(n, e, "label", "data")

      for {label, ciphertext, good?} <- [
            {"label", labelled, true},
            {"other", labelled, false},
            {"", labelled, false},
            {"", bare, true},
            {"label", bare, false}
          ] do
        case Pkcs11Pool.decrypt(pool, "rsa", oaep(label), ciphertext) do
          {:ok, data} -> assert good? and data == "data"
          {:error, %Error{reason: :decryption_failed}} -> refute good?
        end
      end

      Pools.drained!(pool)
    end

    test "Ed448 needs no parameters to be named", %{pool: pool} do
      {{:ECPoint, point}, _curve} = generate_edwards!(pool, :ed448)

      for mechanism <- [:eddsa, {:eddsa, context: ""}] do
        {:ok, signature} = Pkcs11Pool.sign(pool, "key", mechanism, "message")
        assert :crypto.verify(:eddsa, :none, "message", signature, [point, :ed448])
        assert :ok = Pkcs11Pool.verify(pool, "key", :eddsa, "message", signature)
      end

      Pools.drained!(pool)
    end

    test "AES-CCM is :crypto's, in one piece and in parts", %{pool: pool} do
      for size <- [16, 24, 32] do
        value = :crypto.strong_rand_bytes(size)
        key = secret!(pool, :aes, value)
        cipher = :"aes_#{8 * size}_ccm"

        for nonce_size <- 7..13, mac_length <- [4, 16], length <- [0, 1, 16, 1000] do
          {nonce, data} =
            {:crypto.strong_rand_bytes(nonce_size), :crypto.strong_rand_bytes(length)}

          aad = Enum.random(["", "header"])
          mechanism = {:aes_ccm, nonce: nonce, aad: aad, mac_length: mac_length}

          {expected, tag} =
            :crypto.crypto_one_time_aead(cipher, value, nonce, data, aad, mac_length, true)

          sealed = expected <> tag
          assert {:ok, ^sealed} = Pkcs11Pool.encrypt(pool, key, mechanism, data)
          assert {:ok, ^data} = Pkcs11Pool.decrypt(pool, key, mechanism, sealed)
          # Of no bytes at all kryoptic makes none, and finds nothing wrong with that.
          for bad <- [flip(sealed), ""] do
            assert {:error, %Error{reason: :decryption_failed, function: :C_Decrypt}} =
                     Pkcs11Pool.decrypt(pool, key, mechanism, bad)
          end

          in_parts = Mechanism.with_params!(mechanism, data_length: length)
          parts = for(<<part::binary-size(10) <- data>>, do: part)
          parts = parts ++ [binary_part(data, length, -rem(length, 10))]
          # A stream of no part is an operation that kryoptic takes to have not begun.
          if length > 0,
            do: assert(sealed == collect(Pkcs11Pool.encrypt_stream(pool, key, in_parts, parts)))

          # kryoptic gives out what it has not verified yet.
          opened = &Pkcs11Pool.decrypt_stream(pool, key, in_parts, [&1], unverified: :allow)
          assert data == collect(opened.(sealed))

          for bad <- [flip(sealed), ""] do
            assert_raise Error, fn -> collect(opened.(bad)) end
          end
        end
      end

      Pools.drained!(pool)
    end

    test "ChaCha20, and with Poly1305, is :crypto's", %{pool: pool} do
      value = :crypto.strong_rand_bytes(32)
      key = secret!(pool, :chacha20, value)

      for length <- [0, 1, 63, 64, 65, 1000], aad <- ["", "header"] do
        {nonce, data} = {:crypto.strong_rand_bytes(12), :crypto.strong_rand_bytes(length)}
        mechanism = {:chacha20_poly1305, nonce: nonce, aad: aad}

        {expected, tag} =
          :crypto.crypto_one_time_aead(:chacha20_poly1305, value, nonce, data, aad, 16, true)

        sealed = expected <> tag
        assert {:ok, ^sealed} = Pkcs11Pool.encrypt(pool, key, mechanism, data)
        assert {:ok, ^data} = Pkcs11Pool.decrypt(pool, key, mechanism, sealed)

        for bad <- [flip(sealed), binary_part(sealed, 1, byte_size(sealed) - 1), ""] do
          assert {:error, %Error{reason: :decryption_failed}} =
                   Pkcs11Pool.decrypt(pool, key, mechanism, bad)
        end

        stream = {:chacha20, nonce: nonce, counter: 258}
        iv = <<258::little-32>> <> nonce
        ciphertext = :crypto.crypto_one_time(:chacha20, value, iv, data, true)

        if length > 0 do
          assert {:ok, ^ciphertext} = Pkcs11Pool.encrypt(pool, key, stream, data)
          assert {:ok, ^data} = Pkcs11Pool.decrypt(pool, key, stream, ciphertext)
        end
      end

      Pools.drained!(pool)
    end

    defp flip(<<first, rest::binary>>), do: <<Bitwise.bxor(first, 1), rest::binary>>
    defp collect(stream), do: stream |> Enum.to_list() |> IO.iodata_to_binary()
  end
end
