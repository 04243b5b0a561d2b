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

  describe "SP 800-108:" do
    @label "a label"
    @context_bytes :binary.copy("c", 30)

    # What goes into the function for each block, in several orders, with numbers of several lengths.
    @counter_data [
      [{:counter, 32}, @label, <<0>>, @context_bytes, {:length, 32}],
      [@label, {:counter, 8}, @context_bytes],
      [{:counter, 16}, @label],
      [@label, {:counter, 24, :little}, {:length, 16, :little}],
      [{:length, 64}, {:counter, 32, :little}],
      [{:counter, 8}]
    ]
    @feedback_data [
      [:previous, {:counter, 32}, @label, <<0>>, @context_bytes, {:length, 32}],
      [:previous, @label],
      [@label, :previous, {:counter, 8}],
      [{:counter, 16, :little}, :previous, @label, {:length, 24, :little}]
    ]
    # A part of a block, a block, and more than one, of each function.
    @sizes [16, 20, 32, 33, 64, 100]

    test "in counter mode, each block is made of its number", context do
      on_each([context.kryoptic, context.nss], fn pool ->
        for {prf, type, key} <- prfs(), data <- @counter_data do
          base = base!(pool, type, key)

          for size <- @sizes do
            mechanism = {:sp800_108_counter_kdf, prf: prf, data: data}

            assert {pool, prf, data, size, derive(pool, base, mechanism, :generic_secret, size)} ==
                     {pool, prf, data, size, {:ok, kdf(:counter, prf, key, "", data, size)}}
          end
        end
      end)
    end

    test "in feedback mode, of the block before it, and the first one of the IV", context do
      on_each([context.kryoptic, context.nss], fn pool ->
        for {prf, type, key} <- prfs(),
            data <- @feedback_data,
            iv <- ["", "iv", :binary.copy("v", 40)] do
          base = base!(pool, type, key)
          given = if iv == "", do: [], else: [iv: iv]

          for size <- @sizes do
            mechanism = {:sp800_108_feedback_kdf, [prf: prf, data: data] ++ given}

            assert {pool, prf, data, iv, size,
                    derive(pool, base, mechanism, :generic_secret, size)} ==
                     {pool, prf, data, iv, size, {:ok, kdf(:feedback, prf, key, iv, data, size)}}
          end
        end
      end)
    end

    # Kryoptic 1.5 has no such mode.
    test "in double pipeline mode, of what the function makes of the data again and again",
         context do
      on_each([context.nss], fn pool ->
        for {prf, type, key} <- prfs(), data <- @feedback_data do
          base = base!(pool, type, key)

          for size <- @sizes do
            mechanism = {:sp800_108_double_pipeline_kdf, prf: prf, data: data}

            assert {prf, data, size, derive(pool, base, mechanism, :generic_secret, size)} ==
                     {prf, data, size, {:ok, kdf(:double_pipeline, prf, key, "", data, size)}}
          end
        end
      end)
    end

    test "the key is one of those that the template asks for, and says the same as by HMAC",
         context do
      on_each([context.kryoptic], fn pool ->
        base = base!(pool, :generic_secret, @base)
        data = [{:counter, 32}, "label", <<0>>, "context", {:length, 32}]
        mechanism = {:sp800_108_counter_kdf, prf: :sha256_hmac, data: data}
        template = secret(:aes, value_len: 16, encrypt: true)
        assert {:ok, key} = Pkcs11Pool.derive_key(pool, base, mechanism, template)

        <<expected::binary-16, _rest::binary>> =
          :crypto.mac(:hmac, :sha256, @base, <<1::32, "label", 0, "context", 128::32>>)

        block = <<7::128>>

        assert Pkcs11Pool.encrypt(pool, key, :aes_ecb, block) ==
                 {:ok, :crypto.crypto_one_time(:aes_128_ecb, expected, block, true)}
      end)
    end

    test "what is not derived so raises, in words that say what is, and show no data" do
      for {mechanism, says} <- [
            {:sp800_108_counter_kdf, "data: [{:counter, 32}, label"},
            {{:sp800_108_feedback_kdf, prf: :sha256_hmac}, "data: [:previous, {:counter, 32}"},
            {counter([], []), "a list that is not empty"},
            {counter("data", []), "a list that is not empty"},
            {counter(["secret"], []), "needs {:counter, bits}"},
            {counter([{:counter, 8}, {:counter, 8}], []), "{:counter, bits} more than once"},
            {counter([{:counter, 8}, {:length, 8}, {:length, 8}], []), "{:length, bits} more"},
            {counter([{:counter, 64}], []), "bits in [8, 16, 24, 32]"},
            {counter([{:counter, 8}, {:length, 40}], []), "bits in [8, 16, 24, 32, 64]"},
            {counter([{:counter, 8, :middle}], []), ":little"},
            {counter([{:counter, 8}, :previous], []), "takes binaries"},
            {counter([{:counter, 8}, ""], []), "binaries that are not empty"},
            {counter([{:counter, 8}], iv: "iv"), "unknown parameter :iv"},
            {counter([{:counter, 8}], prf: :sha256), "expected one of [:aes_cmac"},
            {{:sp800_108_feedback_kdf, prf: :sha256_hmac, data: [{:counter, 8}]}, ":previous"},
            {{:sp800_108_feedback_kdf, prf: :aes_cmac, data: [:previous], iv: 1}, ":iv"},
            {{:sp800_108_counter_kdf, "bytes of a struct"}, "must be a keyword list"}
          ] do
        error = assert_raise ArgumentError, fn -> Pkcs11Pool.Mechanism.encode!(mechanism) end
        assert error.message =~ says
        refute error.message =~ "secret"
      end
    end

    defp counter(data, opts),
      do: {:sp800_108_counter_kdf, Keyword.merge([prf: :sha256_hmac, data: data], opts)}

    defp prfs do
      hmacs =
        for hash <- [:sha_1, :sha256, :sha384, :sha512],
            do: {:"#{hash}_hmac", :generic_secret, @base}

      hmacs ++ [{:aes_cmac, :aes, @base}]
    end

    # NIST SP 800-108, 4.
    defp kdf(mode, prf, key, iv, data, size) do
      blocks = ceil(size / byte_size(prf(prf, key, "")))
      first = if mode == :double_pipeline, do: fixed(data, size), else: iv

      {blocks, _last} =
        Enum.map_reduce(1..blocks, first, fn number, before ->
          # The first iteration of the pipeline is of all that is no variable.
          before = if mode == :double_pipeline, do: prf(prf, key, before), else: before
          block = prf(prf, key, for(part <- data, do: part(part, number, before, size)))
          {block, if(mode == :double_pipeline, do: before, else: block)}
        end)

      blocks |> IO.iodata_to_binary() |> binary_part(0, size)
    end

    defp fixed(data, size) do
      for part <- data,
          part != :previous and not counter?(part),
          into: "",
          do: part(part, 0, "", size)
    end

    defp counter?(part), do: is_tuple(part) and elem(part, 0) == :counter

    defp part(part, _number, _before, _size) when is_binary(part), do: part
    defp part(:previous, _number, before, _size), do: before
    defp part({:counter, bits}, number, _before, _size), do: <<number::size(bits)>>
    defp part({:counter, bits, :little}, n, _before, _size), do: <<n::little-size(bits)>>
    defp part({:length, bits}, _number, _before, size), do: <<8 * size::size(bits)>>
    defp part({:length, bits, :little}, _n, _before, size), do: <<8 * size::little-size(bits)>>

    defp prf(:aes_cmac, key, data), do: :crypto.mac(:cmac, :aes_256_cbc, key, data)
    defp prf(:sha_1_hmac, key, data), do: :crypto.mac(:hmac, :sha, key, data)
    defp prf(:sha256_hmac, key, data), do: :crypto.mac(:hmac, :sha256, key, data)
    defp prf(:sha384_hmac, key, data), do: :crypto.mac(:hmac, :sha384, key, data)
    defp prf(:sha512_hmac, key, data), do: :crypto.mac(:hmac, :sha512, key, data)
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
