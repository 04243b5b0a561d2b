defmodule Pkcs11Pool.CipherTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{ChaosToken, OTPLibrary, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos
  alias :proper_types, as: Gen

  @compile {:no_warn_undefined, [:proper, Gen]}

  @data "what is to be kept secret"
  @sizes [0, 1, 15, 16, 17, 1_000, 1_000_000]

  # The AES keys' values are read from the token, the RSA key is openssl's: so both are known without the pool.
  setup_all do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pem = Path.join(SoftHSM.dir(), "#{token.label}.pem")
    SoftHSM.openssl!(~w(genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out) ++ [pem])
    [entry] = :public_key.pem_decode(File.read!(pem))
    {:RSAPrivateKey, _, n, e, _, _, _, _, _, _, _} = private = :public_key.pem_entry_decode(entry)
    SoftHSM.import!(token, pem, "rsa", <<1>>)

    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})
    for label <- ["aes", "other"], do: {:ok, _} = generate_aes(pool, label, 32)
    {:ok, %{value: aes}} = Pkcs11Pool.get_attributes(pool, "aes", [:value])

    %{
      token: token,
      chaos: token.chaos,
      pool: pool,
      aes: aes,
      private: private,
      public: {:RSAPublicKey, n, e}
    }
  end

  setup context do
    Chaos.reset(context.chaos)
    on_exit(fn -> Pools.drained!(context.pool) end)
  end

  defp generate_aes(pool, label, size, extra \\ []) do
    readable = [token: true, private: true, sensitive: false, extractable: true]
    template = readable ++ [label: label, value_len: size, encrypt: true, decrypt: true]
    Pkcs11Pool.generate_key(pool, :aes_key_gen, Keyword.merge(template, extra))
  end

  defp assert_undecryptable(result) do
    assert {:error, %Error{reason: :decryption_failed, function: :C_Decrypt} = error} = result
    assert error.executed == true
    assert is_integer(error.code)
    assert Exception.message(error) =~ "the token could not decrypt"
    refute Error.retryable?(error)
  end

  defp iv(size \\ 12), do: :crypto.strong_rand_bytes(size)

  describe "AES-GCM" do
    test "is what :crypto makes of it, and the other way round", %{pool: pool, aes: aes} do
      for size <- @sizes, aad <- ["", "header"], tag_bits <- [96, 128] do
        {iv, data} = {iv(), :crypto.strong_rand_bytes(size)}
        mechanism = {:aes_gcm, iv: iv, aad: aad, tag_bits: tag_bits}
        tag_size = div(tag_bits, 8)

        {ciphertext, tag} =
          :crypto.crypto_one_time_aead(:aes_256_gcm, aes, iv, data, aad, tag_size, true)

        assert Pkcs11Pool.encrypt(pool, "aes", mechanism, data) == {:ok, ciphertext <> tag}
        assert Pkcs11Pool.decrypt(pool, "aes", mechanism, [ciphertext, tag]) == {:ok, data}
      end
    end

    test "uses all of an IV, however long one may be", %{pool: pool, aes: aes} do
      for size <- [1, 8, 13, 16, 64, 127, 128] do
        iv = iv(size)

        {ciphertext, tag} =
          :crypto.crypto_one_time_aead(:aes_256_gcm, aes, iv, @data, "", 16, true)

        assert Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: iv}, @data) ==
                 {:ok, ciphertext <> tag}
      end

      # SoftHSM would use the first 12 bytes of these, and so the same IV twice.
      same = iv()
      items = for last <- ["a", "b"], do: {[iv: same <> String.duplicate(last, 117)], @data}

      for call <- [
            fn -> Pkcs11Pool.encrypt_many(pool, "aes", :aes_gcm, items) end,
            fn -> Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: iv(257)}, @data) end,
            fn -> Pkcs11Pool.decrypt(pool, "aes", {:aes_gcm, iv: iv(129)}, @data) end
          ] do
        assert_raise ArgumentError, ~r/:iv .* at most 128 bytes/, call
      end
    end

    test "refuses what is not the ciphertext that was made", %{pool: pool} do
      iv = iv()
      mechanism = {:aes_gcm, iv: iv, aad: "header"}
      {:ok, good} = Pkcs11Pool.encrypt(pool, "aes", mechanism, @data)
      size = byte_size(good)

      changed =
        for position <- [0, size - 1] do
          <<before::binary-size(position), byte, rest::binary>> = good
          <<before::binary, Bitwise.bxor(byte, 1), rest::binary>>
        end

      for bad <- changed ++ [binary_part(good, 0, size - 1), good <> "!", <<0::128>>] do
        assert_undecryptable(Pkcs11Pool.decrypt(pool, "aes", mechanism, bad))
        assert Pkcs11Pool.decrypt(pool, "aes", mechanism, good) == {:ok, @data}
      end

      for {key, wrong} <- [
            {"other", mechanism},
            {"aes", {:aes_gcm, iv: iv, aad: "footer"}},
            {"aes", {:aes_gcm, iv: iv(), aad: "header"}}
          ] do
        assert_undecryptable(Pkcs11Pool.decrypt(pool, key, wrong, good))
      end

      assert Pkcs11Pool.decrypt(pool, "aes", mechanism, good) == {:ok, @data}
    end

    test "is two calls once the key is known, and never asks for a size", context do
      %{pool: pool, chaos: chaos} = context
      mechanism = {:aes_gcm, iv: iv()}
      {:ok, ciphertext} = Pkcs11Pool.encrypt(pool, "aes", mechanism, @data)
      {:ok, @data} = Pkcs11Pool.decrypt(pool, "aes", mechanism, ciphertext)
      Chaos.reset_counts(chaos)
      {:ok, ^ciphertext} = Pkcs11Pool.encrypt(pool, "aes", mechanism, @data)
      assert Chaos.calls(chaos) == %{"C_EncryptInit" => 1, "C_Encrypt" => 1}
      Chaos.reset_counts(chaos)
      {:ok, @data} = Pkcs11Pool.decrypt(pool, "aes", mechanism, ciphertext)
      assert Chaos.calls(chaos) == %{"C_DecryptInit" => 1, "C_Decrypt" => 1}
      assert Chaos.size_queries(chaos) == %{}
    end
  end

  describe "an IV that the token makes" do
    test "comes with the ciphertext, another one each time", context do
      %{pool: pool, chaos: chaos, aes: aes} = context
      Chaos.make_iv(chaos)
      mechanism = {:aes_gcm, iv: :token, aad: "header"}

      ivs =
        for _ <- 1..3 do
          assert {:ok, {iv, sealed}} = Pkcs11Pool.encrypt(pool, "aes", mechanism, @data)
          size = byte_size(sealed) - 16
          <<ciphertext::binary-size(size), tag::binary>> = sealed

          assert :crypto.crypto_one_time_aead(
                   :aes_256_gcm,
                   aes,
                   iv,
                   ciphertext,
                   "header",
                   tag,
                   false
                 ) ==
                   @data

          assert byte_size(iv) == 12
          iv
        end

      assert Enum.uniq(ivs) == ivs
    end

    test "but is none: there is no ciphertext", %{pool: pool} do
      assert {:error, %Error{reason: :iv_not_made, executed: true} = error} =
               Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: :token}, @data)

      assert Exception.message(error) =~ "made no IV"
      assert error.details == %{}
    end

    test "in place of a given one: there is the IV, and no ciphertext", context do
      Chaos.make_iv(context.chaos)
      given = iv()

      assert {:error, %Error{reason: :iv_replaced, executed: true} = error} =
               Pkcs11Pool.encrypt(context.pool, "aes", {:aes_gcm, iv: given}, @data)

      assert %{iv: <<_::binary-size(12)>> = made} = error.details
      assert made != given
    end

    test "is used once: nothing is tried again", %{pool: pool, chaos: chaos} do
      Chaos.make_iv(chaos)
      {:ok, _} = Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: :token}, @data)
      Chaos.fail(chaos, :C_Encrypt, :session_handle_invalid, count: 1)
      Chaos.reset_counts(chaos)

      assert {:error, %Error{reason: :session_handle_invalid, executed: :unknown}} =
               Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: :token}, @data)

      assert Chaos.calls(chaos, :C_EncryptInit) == 1

      # With an IV of the caller's the same comes out twice.
      Chaos.make_iv(chaos, false)
      Chaos.fail(chaos, :C_Encrypt, :session_handle_invalid, count: 1)
      assert {:ok, _} = Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: iv()}, @data)
    end

    test "is for encryption only", %{pool: pool} do
      for call <- [
            &Pkcs11Pool.decrypt(pool, "aes", &1, @data),
            &Pkcs11Pool.sign(pool, "aes", &1, @data),
            &Pkcs11Pool.decrypt_many(pool, "aes", &1, [@data])
          ] do
        assert_raise ArgumentError, ~r/:token is for encryption/, fn ->
          call.({:aes_gcm, iv: :token})
        end
      end
    end
  end

  describe "other ciphers" do
    test "AES-CBC with padding, without, and in counter mode", %{pool: pool, aes: aes} do
      iv = iv(16)

      for size <- @sizes do
        data = :crypto.strong_rand_bytes(size)

        padded =
          :crypto.crypto_one_time(:aes_256_cbc, aes, iv, data,
            encrypt: true,
            padding: :pkcs_padding
          )

        assert Pkcs11Pool.encrypt(pool, "aes", {:aes_cbc_pad, iv: iv}, data) == {:ok, padded}
        assert Pkcs11Pool.decrypt(pool, "aes", {:aes_cbc_pad, iv: iv}, padded) == {:ok, data}

        counted = :crypto.crypto_one_time(:aes_256_ctr, aes, iv, data, true)
        counter = {:aes_ctr, counter_block: iv}
        assert Pkcs11Pool.encrypt(pool, "aes", counter, data) == {:ok, counted}
        assert Pkcs11Pool.decrypt(pool, "aes", counter, counted) == {:ok, data}
      end

      blocks = :crypto.strong_rand_bytes(64)
      plain = :crypto.crypto_one_time(:aes_256_cbc, aes, iv, blocks, true)
      assert Pkcs11Pool.encrypt(pool, "aes", {:aes_cbc, iv: iv}, blocks) == {:ok, plain}
      assert Pkcs11Pool.decrypt(pool, "aes", {:aes_cbc, iv: iv}, plain) == {:ok, blocks}

      assert_undecryptable(Pkcs11Pool.decrypt(pool, "aes", {:aes_cbc_pad, iv: iv}, <<0::256>>))
      assert_undecryptable(Pkcs11Pool.decrypt(pool, "aes", {:aes_cbc_pad, iv: iv}, "short"))
    end

    test "OAEP with a hash that SoftHSM does not take: the message names the hash", context do
      %{pool: pool} = context
      oaep = {:rsa_pkcs_oaep, hash: :sha256}

      assert {:error, %Error{reason: :arguments_bad} = error} =
               Pkcs11Pool.encrypt(pool, "rsa", oaep, @data)

      assert {:ok, [{:error, %Error{reason: :arguments_bad} = listed}]} =
               Pkcs11Pool.encrypt_many(pool, "rsa", oaep, [@data])

      for error <- [error, listed] do
        assert error.details.mechanism == :rsa_pkcs_oaep
        assert Exception.message(error) =~ "the hash of :rsa_pkcs_oaep is a likely cause"
        assert Exception.message(error) =~ "{:rsa_pkcs_oaep, hash: :sha1}"
      end

      Chaos.fail(context.chaos, :C_EncryptInit, :arguments_bad, count: 1)
      assert {:error, error} = Pkcs11Pool.encrypt(pool, "aes", {:aes_gcm, iv: iv()}, @data)
      refute Exception.message(error) =~ "hash"
    end

    test "RSA OAEP and PKCS #1 v1.5, with the public key's half and the private one's", context do
      %{pool: pool, public: public, private: private} = context

      for {mechanism, padding} <- [
            {{:rsa_pkcs_oaep, hash: :sha1}, :rsa_pkcs1_oaep_padding},
            {:rsa_pkcs, :rsa_pkcs1_padding}
          ],
          data <- ["", "a", @data] do
        assert {:ok, ciphertext} = Pkcs11Pool.encrypt(pool, "rsa", mechanism, data)

        assert :public_key.decrypt_private(ciphertext, private, rsa_padding: padding) == data

        foreign = :public_key.encrypt_public(data, public, rsa_padding: padding)
        assert Pkcs11Pool.decrypt(pool, "rsa", mechanism, foreign) == {:ok, data}
      end

      oaep = {:rsa_pkcs_oaep, hash: :sha1}
      assert_undecryptable(Pkcs11Pool.decrypt(pool, "rsa", oaep, <<1::2048>>))
      assert_undecryptable(Pkcs11Pool.decrypt(pool, "rsa", oaep, "short"))

      assert {:error, %Error{function: :C_Encrypt}} =
               Pkcs11Pool.encrypt(pool, "rsa", oaep, <<0::2048>>)

      assert {:ok, _} = Pkcs11Pool.encrypt(pool, "rsa", oaep, @data)
    end
  end

  describe "what the token says" do
    test "of a key that may not", %{pool: pool} do
      {:ok, _} = generate_aes(pool, "may not", 16, encrypt: false, decrypt: false)

      for call <- [&Pkcs11Pool.encrypt/4, &Pkcs11Pool.decrypt/4] do
        assert {:error, %Error{reason: :key_function_not_permitted, executed: false}} =
                 call.(pool, "may not", {:aes_gcm, iv: iv()}, @data)
      end
    end

    test "of a key that is not there, or not of the class", %{pool: pool} do
      for {key, mechanism} <- [{"none", {:aes_gcm, iv: iv()}}, {"aes", :rsa_pkcs}] do
        assert {:error, %Error{reason: :key_not_found, executed: false}} =
                 Pkcs11Pool.decrypt(pool, key, mechanism, @data)
      end
    end

    test "of a token that fails is not the ciphertext's fault", %{pool: pool, chaos: chaos} do
      mechanism = {:aes_gcm, iv: iv()}
      {:ok, ciphertext} = Pkcs11Pool.encrypt(pool, "aes", mechanism, @data)
      Chaos.fail(chaos, :C_Decrypt, :general_error, count: 1)
      Chaos.fail(chaos, :C_GetSessionInfo, :device_error, count: 1)

      assert {:error, %Error{reason: :general_error}} =
               Pkcs11Pool.decrypt(pool, "aes", mechanism, ciphertext)

      assert Pkcs11Pool.decrypt(pool, "aes", mechanism, ciphertext) == {:ok, @data}
    end

    test "of data in codes of its own", %{pool: pool, chaos: chaos} do
      mechanism = {:aes_gcm, iv: iv()}
      {:ok, ciphertext} = Pkcs11Pool.encrypt(pool, "aes", mechanism, @data)

      for code <- [
            :encrypted_data_invalid,
            :encrypted_data_len_range,
            :aead_decrypt_failed,
            :function_failed
          ] do
        Chaos.fail(chaos, :C_Decrypt, code, count: 1, run: true)
        assert_undecryptable(Pkcs11Pool.decrypt(pool, "aes", mechanism, ciphertext))
      end

      Chaos.fail(chaos, :C_Decrypt, :device_memory, count: 2, run: true)

      assert {:error, %Error{reason: :device_memory}} =
               Pkcs11Pool.decrypt(pool, "aes", mechanism, ciphertext, operation_timeout: 5_000)

      Chaos.reset(chaos)
      assert Pkcs11Pool.decrypt(pool, "aes", mechanism, ciphertext) == {:ok, @data}
    end
  end

  test "what is no data, or no mechanism for it, raises", %{pool: pool} do
    for call <- [&Pkcs11Pool.encrypt/4, &Pkcs11Pool.decrypt/4] do
      assert_raise ArgumentError, "expected data to be iodata", fn ->
        call.(pool, "aes", {:aes_gcm, iv: iv()}, :secret)
      end

      assert_raise ArgumentError, ~r/needs parameters/, fn -> call.(pool, "aes", :aes_gcm, "") end
    end
  end

  test "the twins raise the error", %{pool: pool} do
    mechanism = {:aes_gcm, iv: iv()}
    ciphertext = Pkcs11Pool.encrypt!(pool, "aes", mechanism, @data)
    assert Pkcs11Pool.decrypt!(pool, "aes", mechanism, ciphertext) == @data

    error = assert_raise Error, fn -> Pkcs11Pool.decrypt!(pool, "aes", mechanism, <<0::128>>) end
    assert error.reason == :decryption_failed
  end

  if OTPLibrary.load(:proper) do
    test "what was encrypted is decrypted, whatever it is", %{pool: pool} do
      mechanism =
        Gen.oneof([
          {:aes_gcm, iv: Gen.binary(12), aad: Gen.binary()},
          {:aes_cbc_pad, iv: Gen.binary(16)},
          {:aes_ctr, counter_block: Gen.binary(16)}
        ])

      size = Gen.oneof([Gen.integer(0, 100), Gen.integer(0, 100_000)])

      property =
        :proper.forall({mechanism, Gen.bind(size, &Gen.binary/1, false)}, fn {mechanism, data} ->
          {:ok, ciphertext} = Pkcs11Pool.encrypt(pool, "aes", mechanism, data)
          Pkcs11Pool.decrypt(pool, "aes", mechanism, ciphertext) == {:ok, data}
        end)

      result = :proper.quickcheck(property, [:quiet, :long_result, numtests: 200])
      assert result == true, inspect(result, limit: 20)
    end
  end

  describe "generate_key/4" do
    test "makes a secret key with what the template says", %{pool: pool} do
      assert {:ok, %Object{class: :secret_key, key_type: :aes, label: "made"} = key} =
               generate_aes(pool, "made", 16, id: <<7>>)

      assert {:ok, %{value_len: 16, id: <<7>>, token: true}} =
               Pkcs11Pool.get_attributes(pool, key, [:value_len, :id, :token])

      assert {:ok, _} = Pkcs11Pool.encrypt(pool, key, {:aes_gcm, iv: iv()}, @data)
      assert :ok = Pkcs11Pool.destroy_object(pool, key)
    end

    test "makes a generic secret, as for HMAC", %{pool: pool} do
      key =
        Pkcs11Pool.generate_key!(pool, :generic_secret_key_gen,
          token: true,
          label: "mac",
          value_len: 32,
          sensitive: false,
          extractable: true,
          sign: true,
          verify: true
        )

      {:ok, %{value: value}} = Pkcs11Pool.get_attributes(pool, key, [:value])
      mac = :crypto.mac(:hmac, :sha256, value, @data)
      assert Pkcs11Pool.sign(pool, "mac", :sha256_hmac, @data) == {:ok, mac}
      assert Pkcs11Pool.verify(pool, "mac", :sha256_hmac, @data, mac) == :ok
    end

    test "refuses a session object outside of with_session", %{pool: pool} do
      template = [label: "brief", value_len: 16, encrypt: true]

      for template <- [template, [token: false] ++ template] do
        assert {:error, %Error{reason: :session_object_needs_session, executed: false}} =
                 Pkcs11Pool.generate_key(pool, :aes_key_gen, template)
      end

      assert {:ok, key} =
               Pkcs11Pool.generate_key(pool, :aes_key_gen, template, session_object: :allow)

      assert :ok = Pkcs11Pool.destroy_object(pool, key)

      Pkcs11Pool.with_session(pool, fn lease ->
        for place <- [pool, lease] do
          assert {:ok, key} = Pkcs11Pool.generate_key(place, :aes_key_gen, template)
          assert {:ok, _} = Pkcs11Pool.encrypt(place, key, {:aes_gcm, iv: iv()}, @data)
          assert :ok = Pkcs11Pool.destroy_object(place, key)
        end
      end)
    end

    test "is never tried again, and gives the token's reason", %{pool: pool, chaos: chaos} do
      Chaos.reset_counts(chaos)
      Chaos.fail(chaos, :C_GenerateKey, :session_handle_invalid, count: 1, run: true)

      assert {:error, %Error{reason: :session_handle_invalid, executed: :unknown}} =
               generate_aes(pool, "once", 16)

      assert Chaos.calls(chaos, :C_GenerateKey) == 1
      assert {:ok, [_one]} = Pkcs11Pool.find_objects(pool, label: "once")
      assert {:error, %Error{function: :C_GenerateKey}} = generate_aes(pool, "odd", 17)
    end

    test "a label that is given again is ambiguous from then on", %{pool: pool} do
      {:ok, _} = generate_aes(pool, "twice", 16)
      {:ok, _} = Pkcs11Pool.encrypt(pool, "twice", {:aes_gcm, iv: iv()}, @data)
      {:ok, _} = generate_aes(pool, "twice", 16)

      assert {:error, %Error{reason: :ambiguous_key}} =
               Pkcs11Pool.encrypt(pool, "twice", {:aes_gcm, iv: iv()}, @data)
    end
  end
end
