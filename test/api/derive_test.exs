defmodule Pkcs11Pool.DeriveTest do
  # Keys that are made of others, or of a password: what :crypto makes of the same.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{Kryoptic, Pools, SoftHSM, Tokens}

  @base :binary.list_to_bin(for i <- 1..32, do: i)

  setup_all do
    softhsm = start!(SoftHSM.new_token!())
    kryoptic = unless Kryoptic.missing(), do: start!(Kryoptic.new_token!())
    nss = start_nss()

    %{
      softhsm: softhsm,
      kryoptic: kryoptic,
      nss: nss,
      pools: for(pool <- [softhsm, kryoptic, nss], pool, do: pool)
    }
  end

  setup %{pools: pools} do
    on_exit(fn -> for pool <- pools, do: Pools.drained!(pool) end)
  end

  defp start!(token) do
    opts = SoftHSM.pool_opts(token, pool_size: 2)
    start_supervised!({Pkcs11Pool, opts}, id: opts[:name])
    opts[:name]
  end

  # Nil where it is not installed.
  defp start_nss do
    File.mkdir!(dir = Path.join(SoftHSM.dir(), "nss-#{System.unique_integer([:positive])}"))

    with {:ok, [%{opts: opts, pin: pin}]} <- Tokens.NSS.set_up(dir) do
      name = :"nss-#{System.unique_integer([:positive])}"
      opts = Keyword.merge(opts, name: name, pin: fn -> pin end, pool_size: 2)
      start_supervised!({Pkcs11Pool, opts}, id: name)
      name
    else
      {:not_tested, _reason} -> nil
    end
  end

  # NSS derives nothing from keys that are on the token, and reveals no value of theirs: the keys of most tests are their session's.
  defp on_each(pools, fun) do
    for pool <- pools, pool != nil, do: Pkcs11Pool.with_session(pool, fn -> fun.(pool) end)
  end

  defp label, do: "key #{System.unique_integer([:positive])}"

  defp secret(type, opts \\ []) do
    Keyword.merge(
      [
        class: :secret_key,
        key_type: type,
        private: true,
        label: label(),
        sensitive: false,
        extractable: true
      ],
      opts
    )
  end

  defp base!(pool, type, value, opts \\ []),
    do: Pkcs11Pool.create_object!(pool, secret(type, [value: value, derive: true] ++ opts))

  defp value!(pool, key), do: Pkcs11Pool.get_attributes!(pool, key, [:value]).value

  defp derive(pool, base, mechanism, type, size) do
    with {:ok, %Object{class: :secret_key} = key} <-
           Pkcs11Pool.derive_key(pool, base, mechanism, secret(type, value_len: size)),
         do: {:ok, value!(pool, key)}
  end

  # RFC 5869.
  defp extract(hash, salt, key), do: :crypto.mac(:hmac, hash, salt, key)

  defp expand(hash, key, info, size, block \\ "", counter \\ 1, done \\ "")

  defp expand(_hash, _key, _info, size, _block, _counter, done) when byte_size(done) >= size,
    do: binary_part(done, 0, size)

  defp expand(hash, key, info, size, block, counter, done) do
    block = :crypto.mac(:hmac, hash, key, block <> info <> <<counter>>)
    expand(hash, key, info, size, block, counter + 1, done <> block)
  end

  test "the data is encrypted with the base key", %{pools: pools} do
    data = :crypto.strong_rand_bytes(32)
    iv = :crypto.strong_rand_bytes(16)

    on_each(pools, fn pool ->
      base = base!(pool, :aes, @base)
      ecb = :crypto.crypto_one_time(:aes_256_ecb, @base, data, true)
      cbc = :crypto.crypto_one_time(:aes_256_cbc, @base, iv, data, true)

      assert derive(pool, base, {:aes_ecb_encrypt_data, data: data}, :generic_secret, 32) ==
               {:ok, ecb}

      assert derive(pool, base, {:aes_cbc_encrypt_data, iv: iv, data: data}, :aes, 32) ==
               {:ok, cbc}
    end)
  end

  test "the data is encrypted with the base key, of DES, too", %{softhsm: pool} do
    on_each([pool], fn pool ->
      # Of odd parity.
      key = Base.decode16!("0123456789ABCDEFFEDCBA98765432108976452301EFCDAB")
      base = base!(pool, :des3, key)
      data = :crypto.strong_rand_bytes(32)
      iv = :crypto.strong_rand_bytes(8)
      cbc = :crypto.crypto_one_time(:des_ede3_cbc, key, iv, data, true)

      assert derive(
               pool,
               base,
               {:des3_cbc_encrypt_data, iv: iv, data: data},
               :generic_secret,
               32
             ) == {:ok, cbc}
    end)
  end

  test "a secret that both sides derive is the same, on each curve", %{pools: pools} do
    on_each(pools, fn pool ->
      for curve <- [:secp256r1, :secp384r1, :secp521r1], do: ecdh(pool, curve)
    end)
  end

  defp ecdh(pool, curve) do
    {:ok, {public, private}} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :ec_key_pair_gen,
        [label: label(), ec_params: curve],
        label: label(),
        private: true,
        derive: true
      )

    {:ok, {{:ECPoint, own}, _curve}} = Pkcs11Pool.public_key(pool, public)
    {point, secret} = :crypto.generate_key(:ecdh, curve)
    shared = :crypto.compute_key(:ecdh, own, secret, curve)

    assert derive(
             pool,
             private,
             {:ecdh1_derive, public_data: point},
             :generic_secret,
             byte_size(shared)
           ) == {:ok, shared}
  end

  describe "on kryoptic," do
    @describetag skip: Kryoptic.missing()

    test "a key derivation function makes a key of the shared secret", %{kryoptic: pool} do
      on_each([pool], fn pool ->
        {:ok, {public, private}} =
          Pkcs11Pool.generate_key_pair(
            pool,
            :ec_key_pair_gen,
            [label: label(), ec_params: :secp256r1],
            label: label(),
            private: true,
            derive: true
          )

        {:ok, {{:ECPoint, own}, _curve}} = Pkcs11Pool.public_key(pool, public)
        {point, secret} = :crypto.generate_key(:ecdh, :secp256r1)
        z = :crypto.compute_key(:ecdh, own, secret, :secp256r1)
        shared = "shared data"

        # ANSI X9.63: hash(Z || counter || SharedInfo).
        x963 = fn hash -> :crypto.hash(hash, [z, <<1::32>>, shared]) end
        # NIST SP 800-56A: hash(counter || Z || FixedInfo).
        sp800 = fn hash -> :crypto.hash(hash, [<<1::32>>, z, shared]) end

        for {kdf, expected} <- [
              {:sha256_kdf, x963.(:sha256)},
              {:sha384, x963.(:sha384)},
              {:sha512_kdf, x963.(:sha512)},
              {:sha256_kdf_sp800, sp800.(:sha256)},
              {:sha512_kdf_sp800, sp800.(:sha512)}
            ],
            size <- [16, 32] do
          mechanism = {:ecdh1_derive, kdf: kdf, public_data: point, shared_data: shared}

          assert {kdf, derive(pool, private, mechanism, :generic_secret, size)} ==
                   {kdf, {:ok, binary_part(expected, 0, size)}}
        end
      end)
    end

    test "X25519", %{kryoptic: pool} do
      on_each([pool], fn pool ->
        {:ok, {public, private}} =
          Pkcs11Pool.generate_key_pair(
            pool,
            :ec_montgomery_key_pair_gen,
            [label: label(), ec_params: :x25519],
            label: label(),
            private: true,
            derive: true
          )

        {:ok, {{:ECPoint, own}, _curve}} = Pkcs11Pool.public_key(pool, public)
        {point, secret} = :crypto.generate_key(:ecdh, :x25519)
        shared = :crypto.compute_key(:ecdh, own, secret, :x25519)

        assert derive(pool, private, {:ecdh1_derive, public_data: point}, :generic_secret, 32) ==
                 {:ok, shared}
      end)
    end
  end

  test "HKDF, with its salt as bytes, as a key, or without one", context do
    on_each([context.kryoptic, context.nss], fn pool ->
      for hash <- [:sha256, :sha512], do: hkdf(pool, hash)
    end)
  end

  defp hkdf(pool, hash) do
    salt = :crypto.strong_rand_bytes(20)
    base = base!(pool, :generic_secret, @base)
    salt_key = base!(pool, :generic_secret, salt)
    none = :binary.copy(<<0>>, byte_size(:crypto.hash(hash, "")))

    for {given, salt} <- [
          {salt, salt},
          {{:key, salt_key}, salt},
          {{:key, [label: salt_key.label]}, salt},
          {nil, none},
          {"", none}
        ],
        {info, size} <- [{"", 16}, {"info", 32}, {:binary.copy("i", 100), 100}] do
      expected = expand(hash, extract(hash, salt, @base), info, size)
      mechanism = {:hkdf_derive, hash: hash, salt: given, info: info}
      assert derive(pool, base, mechanism, :generic_secret, size) == {:ok, expected}
    end

    only = extract(hash, salt, @base)
    mechanism = {:hkdf_derive, hash: hash, salt: salt, expand: false}
    assert derive(pool, base, mechanism, :generic_secret, byte_size(only)) == {:ok, only}

    prk = base!(pool, :generic_secret, only)
    mechanism = {:hkdf_derive, hash: hash, extract: false, info: "info"}

    assert derive(pool, prk, mechanism, :generic_secret, 42) ==
             {:ok, expand(hash, only, "info", 42)}
  end

  test "concatenation, exclusive or, and a part of a key", context do
    on_each([context.kryoptic, context.nss], fn pool ->
      base = base!(pool, :generic_secret, @base)
      other = base!(pool, :generic_secret, "another key")

      for {mechanism, expected} <- [
            {{:concatenate_base_and_key, key: other}, @base <> "another key"},
            {{:concatenate_base_and_key, key: [label: other.label]}, @base <> "another key"},
            {{:concatenate_base_and_data, data: "data"}, @base <> "data"},
            {{:concatenate_data_and_base, data: "data"}, "data" <> @base},
            {{:xor_base_and_data, data: @base}, :binary.copy(<<0>>, 32)},
            {{:extract_key_from_key, first_bit: 16}, binary_part(@base, 2, 8)}
          ] do
        size = byte_size(expected)

        assert {mechanism, derive(pool, base, mechanism, :generic_secret, size)} ==
                 {mechanism, {:ok, expected}}
      end
    end)
  end

  test "PBKDF2 makes a key of a password", context do
    on_each([context.kryoptic, context.nss], fn pool ->
      for {prf, hash} <- [hmac_sha1: :sha, hmac_sha256: :sha256, sha512: :sha512],
          {password, salt, count, size} <- [{"password", "salt", 1000, 32}, {"p", "NaCl", 1, 16}] do
        mechanism = {:pkcs5_pbkd2, prf: prf, iterations: count, salt: salt, password: password}
        template = Keyword.delete(secret(:aes, value_len: size), :class)

        assert {:ok, %Object{} = key} =
                 Pkcs11Pool.generate_key(pool, mechanism, [class: :secret_key] ++ template)

        assert value!(pool, key) == :crypto.pbkdf2_hmac(hash, password, salt, count, size)
      end
    end)
  end

  test "a key that the mechanism names is found as any is, and the error says which it is",
       context do
    on_each([context.kryoptic, context.nss], fn pool ->
      base = base!(pool, :generic_secret, @base)
      label = label()
      for _ <- 1..2, do: base!(pool, :generic_secret, @base, label: label)

      for {reason, other} <- [
            key_not_found: "nobody",
            ambiguous_key: label,
            object_of_other_token: %{base | token: "another"}
          ],
          mechanism <- [
            {:concatenate_base_and_key, key: other},
            {:hkdf_derive, hash: :sha256, salt: {:key, other}}
          ] do
        assert {:error, %Error{reason: ^reason, executed: false} = error} =
                 Pkcs11Pool.derive_key(pool, base, mechanism, secret(:generic_secret))

        assert error.details.argument == :mechanism
      end

      mechanism = {:concatenate_base_and_key, key: base}

      assert {:error, %Error{reason: :key_not_found} = error} =
               Pkcs11Pool.derive_key(pool, "nobody", mechanism, secret(:generic_secret))

      assert error.details.argument == :base_key

      choose = fn [one | _more] -> one end

      assert {:ok, %Object{}} =
               Pkcs11Pool.derive_key(
                 pool,
                 base,
                 {:concatenate_base_and_key, key: label},
                 secret(:generic_secret, value_len: 64),
                 select: choose
               )
    end)
  end

  test "a key that the mechanism names is found again when its handle is not good any more",
       context do
    for pool <- [context.kryoptic], pool != nil do
      on_token = [token: true]
      base = base!(pool, :generic_secret, @base, on_token)
      label = label()
      old = base!(pool, :generic_secret, "the old one", [label: label] ++ on_token)
      mechanism = {:concatenate_base_and_key, key: label}

      template = secret(:generic_secret, [value_len: 43] ++ on_token)
      assert {:ok, key} = Pkcs11Pool.derive_key(pool, base, mechanism, template)
      assert value!(pool, key) == @base <> "the old one"

      # As if its unique id were not known, so that nothing tells that it is another one.
      remembered = %{old | unique_id: nil}
      :ok = Pkcs11Pool.destroy_object(pool, old)
      base!(pool, :generic_secret, "the new one", [label: label] ++ on_token)
      mechanism = {:concatenate_base_and_key, key: remembered}
      assert {:ok, key} = Pkcs11Pool.derive_key(pool, base, mechanism, template)
      assert value!(pool, key) == @base <> "the new one"
    end
  end

  test "parameters that are malformed raise, and show no secret", %{softhsm: pool} do
    for {mechanism, says} <- [
          {:hkdf_derive, "needs parameters"},
          {{:hkdf_derive, salt: "secret"}, "needs the parameter :hash"},
          {{:hkdf_derive, hash: :sha255}, "invalid parameter :hash"},
          {{:hkdf_derive, hash: :sha256, salt: :none}, "invalid parameter :salt"},
          {{:hkdf_derive, hash: :sha256, salt: "secret", extract: false}, "extract: false"},
          {{:hkdf_derive, hash: :sha256, extract: false, expand: false}, "both false"},
          {{:hkdf_derive, hash: :sha256, extract: 1}, "invalid parameter :extract"},
          {{:hkdf_derive, hash: :sha256, info: 'secret'}, "invalid parameter :info"},
          {{:hkdf_derive, hash: :sha256, salt: {:key, :none}}, "expected a key"},
          {{:concatenate_base_and_key, key: 1}, "expected a key"},
          {{:concatenate_base_and_key, []}, "needs parameters"},
          {{:concatenate_base_and_data, "secret"}, "must be a keyword list"},
          {{:xor_base_and_data, data: 1}, "invalid parameter :data"},
          {{:xor_base_and_data, dat: "secret"}, "did you mean :data"},
          {{:aes_cbc_encrypt_data, data: "secret"}, "needs the parameter :iv"},
          {{:aes_cbc_encrypt_data, iv: "secret", data: ""}, "a binary of 16 bytes"},
          {{:extract_key_from_key, first_bit: -1}, "invalid parameter :first_bit"}
        ] do
      error =
        assert_raise ArgumentError, fn ->
          Pkcs11Pool.derive_key(pool, "nobody", mechanism, secret(:aes))
        end

      assert error.message =~ says
      refute error.message =~ "secret"
    end

    good = [prf: :sha256, iterations: 1, salt: "secret", password: "secret"]

    for {params, says} <- [
          {[], "needs parameters"},
          {Keyword.delete(good, :prf), "needs the parameter :prf"},
          {Keyword.put(good, :prf, :md5), "invalid parameter :prf"},
          {Keyword.put(good, :iterations, 0), "a positive integer"},
          {Keyword.put(good, :salt, ""), "not empty"},
          {Keyword.put(good, :password, 'secret'), "invalid parameter :password"}
        ] do
      error =
        assert_raise ArgumentError, fn ->
          Pkcs11Pool.generate_key(pool, {:pkcs5_pbkd2, params}, secret(:aes))
        end

      assert error.message =~ says
      refute error.message =~ "secret"
    end
  end

  test "a mechanism that names a key is for derivations", %{softhsm: pool} do
    mechanism = {:concatenate_base_and_key, key: "other"}
    template = secret(:aes)

    for call <- [
          fn -> Pkcs11Pool.sign(pool, "key", mechanism, "data") end,
          fn -> Pkcs11Pool.sign_many(pool, "key", mechanism, ["data"]) end,
          fn -> Pkcs11Pool.encrypt(pool, "key", mechanism, "data") end,
          fn -> Pkcs11Pool.digest(pool, mechanism, "data") end,
          fn -> Pkcs11Pool.generate_key(pool, mechanism, template) end,
          fn -> Pkcs11Pool.wrap_key(pool, "key", mechanism, "key") end,
          fn -> Pkcs11Pool.unwrap_key(pool, "key", mechanism, "wrapped", template) end,
          fn -> Pkcs11Pool.sign(pool, "key", {:vendor, 1, mechanism}, "data") end
        ] do
      assert_raise ArgumentError, ~r/for derive_key\/5 only/, call
    end
  end
end
