defmodule Pkcs11Pool.EncapsulationTest do
  # ML-KEM, on a token that has it; and what tokens say that do not.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{Kryoptic, Pools, SoftHSM}

  # FIPS 203, table 3: bytes of the public key and of the ciphertext.
  @sets [ml_kem_512: {800, 768}, ml_kem_768: {1_184, 1_088}, ml_kem_1024: {1_568, 1_568}]

  setup_all do
    if Kryoptic.missing() do
      :ok
    else
      token = Kryoptic.new_token!()
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [])})
      %{pool: String.to_atom(token.label)}
    end
  end

  defp label, do: "key #{System.unique_integer([:positive])}"

  defp generate!(pool, set) do
    names = [token: true, label: label()]
    public = [parameter_set: set, encapsulate: true] ++ names

    Pkcs11Pool.generate_key_pair!(
      pool,
      :ml_kem_key_pair_gen,
      public,
      [decapsulate: true] ++ names
    )
  end

  defp secret(more \\ []) do
    Keyword.merge(
      [
        class: :secret_key,
        key_type: :generic_secret,
        value_len: 32,
        token: true,
        label: label(),
        sensitive: false,
        extractable: true
      ],
      more
    )
  end

  defp value!(pool, object), do: Pkcs11Pool.get_attributes!(pool, object, [:value]).value

  describe "a token with ML-KEM:" do
    @describetag skip: Kryoptic.missing()

    setup %{pool: pool} do
      on_exit(fn -> Pools.drained!(pool) end)
    end

    for {set, {public_bytes, ciphertext_bytes}} <- @sets do
      test "#{set}: both sides have the same secret", %{pool: pool} do
        {public, private} = generate!(pool, unquote(set))

        otp = unquote(set |> Atom.to_string() |> String.replace("_", "") |> String.to_atom())
        assert {:ok, {^otp, raw}} = Pkcs11Pool.public_key(pool, public)
        assert byte_size(raw) == unquote(public_bytes)
        assert Pkcs11Pool.public_key(pool, private) == {:ok, {otp, raw}}

        assert {:ok, %{type: :ml_kem, parameter_set: unquote(set), usage: [:encapsulate]}} =
                 Pkcs11Pool.key_info(pool, public)

        assert {:ok, {ciphertext, %Object{class: :secret_key} = object}} =
                 Pkcs11Pool.encapsulate(pool, public, :ml_kem, secret())

        assert byte_size(ciphertext) == unquote(ciphertext_bytes)
        value = value!(pool, object)
        assert byte_size(value) == 32

        assert {:ok, same} =
                 Pkcs11Pool.decapsulate(pool, private, :ml_kem, [ciphertext], secret())

        assert value!(pool, same) == value

        # FIPS 203, 6.3: another key comes of a changed ciphertext.
        <<first, rest::binary>> = ciphertext
        changed = <<Bitwise.bxor(first, 1), rest::binary>>
        assert {:ok, other} = Pkcs11Pool.decapsulate(pool, private, :ml_kem, changed, secret())
        assert value!(pool, other) != value

        assert {again, %Object{} = further} =
                 Pkcs11Pool.encapsulate!(pool, public, :ml_kem, secret())

        assert again != ciphertext
        assert value!(pool, further) != value
        assert %Object{} = Pkcs11Pool.decapsulate!(pool, private, :ml_kem, again, secret())
      end
    end

    test "the key encrypts what the other side decrypts, and is not seen in between", %{
      pool: pool
    } do
      {public, private} = generate!(pool, :ml_kem_768)

      aes =
        secret(key_type: :aes, sensitive: true, extractable: false, encrypt: true, decrypt: true)

      gcm = {:aes_gcm, iv: <<0::96>>}

      {:ok, {ciphertext, key}} = Pkcs11Pool.encapsulate(pool, public, :ml_kem, aes)
      {:ok, sealed} = Pkcs11Pool.encrypt(pool, key, gcm, "data")

      {:ok, same} =
        Pkcs11Pool.decapsulate(pool, private, :ml_kem, ciphertext, Keyword.put(aes, :label, "b"))

      assert Pkcs11Pool.decrypt(pool, same, gcm, sealed) == {:ok, "data"}

      assert {:error, %Error{reason: :attribute_sensitive}} =
               Pkcs11Pool.get_attributes(pool, key, [:value])
    end

    test "keys are found by their label, each side by its class", %{pool: pool} do
      {%Object{label: label}, _private} = generate!(pool, :ml_kem_512)
      assert {:ok, {ciphertext, _}} = Pkcs11Pool.encapsulate(pool, label, :ml_kem, secret())
      assert {:ok, _key} = Pkcs11Pool.decapsulate(pool, label, :ml_kem, ciphertext, secret())

      assert {:error, %Error{reason: :key_not_found}} =
               Pkcs11Pool.encapsulate(pool, "nobody", :ml_kem, secret())
    end

    test "keys are found by the public key, which came from elsewhere", %{pool: pool} do
      {public, _private} = generate!(pool, :ml_kem_768)
      {:ok, key} = Pkcs11Pool.public_key(pool, public)
      named = {:public_key, key}
      assert {:ok, {ciphertext, one}} = Pkcs11Pool.encapsulate(pool, named, :ml_kem, secret())
      assert {:ok, same} = Pkcs11Pool.decapsulate(pool, named, :ml_kem, ciphertext, secret())
      assert value!(pool, one) == value!(pool, same)
    end

    test "a ciphertext of another length is refused before the token is asked", %{pool: pool} do
      {_public, private} = generate!(pool, :ml_kem_768)

      for size <- [0, 1, 1_087, 1_089, 768] do
        assert {:error, error} =
                 Pkcs11Pool.decapsulate(
                   pool,
                   private,
                   :ml_kem,
                   <<0::size(size)-unit(8)>>,
                   secret()
                 )

        assert %Error{reason: :encrypted_data_len_range, code: nil, executed: false} = error
        assert error.details == %{given_bytes: size, expected_bytes: 1_088}
        assert Exception.message(error) =~ "the ciphertext has #{size} bytes"
      end
    end

    test "the wrong half, or a key of another kind, is refused before the token is asked", %{
      pool: pool
    } do
      {public, private} = generate!(pool, :ml_kem_512)

      {:ok, {ec, _private}} =
        Pkcs11Pool.generate_key_pair(
          pool,
          :ec_key_pair_gen,
          [ec_params: :secp256r1, token: true],
          token: true
        )

      for key <- [private, ec] do
        assert {:error, %Error{reason: :key_type_inconsistent, code: nil, executed: false}} =
                 Pkcs11Pool.encapsulate(pool, key, :ml_kem, secret())
      end

      assert {:error, %Error{reason: :key_type_inconsistent, code: nil}} =
               Pkcs11Pool.decapsulate(pool, public, :ml_kem, <<0::6144>>, secret())
    end

    test "a session object needs a session", %{pool: pool} do
      {public, private} = generate!(pool, :ml_kem_512)
      template = secret(token: false)

      assert {:error, %Error{reason: :session_object_needs_session}} =
               Pkcs11Pool.encapsulate(pool, public, :ml_kem, template)

      assert {:error, %Error{reason: :session_object_needs_session}} =
               Pkcs11Pool.decapsulate(pool, private, :ml_kem, <<0::6144>>, template)

      Pkcs11Pool.with_session(pool, fn ->
        assert {:ok, {ciphertext, one}} = Pkcs11Pool.encapsulate(pool, public, :ml_kem, template)

        assert {:ok, other} = Pkcs11Pool.decapsulate(pool, private, :ml_kem, ciphertext, template)

        assert value!(pool, one) == value!(pool, other)
      end)
    end

    test "what the token refuses has its own code", %{pool: pool} do
      {public, _private} = generate!(pool, :ml_kem_512)

      assert {:error, %Error{function: :C_EncapsulateKey, code: code, executed: true}} =
               Pkcs11Pool.encapsulate(pool, public, :ml_kem, secret(key_type: 0x7777))

      assert is_integer(code)
    end

    @tag skip: Kryoptic.openssl_missing()
    test "openssl makes the same secret of the ciphertext, and a ciphertext of which the token makes it",
         %{pool: pool} do
      dir = Path.join(SoftHSM.dir(), "openssl-#{System.unique_integer([:positive])}")
      File.mkdir_p!(dir)
      path = &Path.join(dir, &1)

      # The token's key: openssl encapsulates.
      {public, private} = generate!(pool, :ml_kem_768)
      File.write!(path.("public"), Pkcs11Pool.X509.subject_public_key_info!(pool, public))

      {_, 0} =
        Kryoptic.openssl(
          ~w(pkeyutl -encap -pubin -keyform DER -inkey) ++
            [path.("public"), "-out", path.("ciphertext"), "-secret", path.("secret")]
        )

      ciphertext = File.read!(path.("ciphertext"))
      {:ok, key} = Pkcs11Pool.decapsulate(pool, private, :ml_kem, ciphertext, secret())
      assert value!(pool, key) == File.read!(path.("secret"))

      # openssl's key: the token encapsulates.
      {_, 0} = Kryoptic.openssl(["genpkey", "-algorithm", "ML-KEM-768", "-out", path.("key")])

      {_, 0} =
        Kryoptic.openssl([
          "pkey",
          "-in",
          path.("key"),
          "-pubout",
          "-outform",
          "DER",
          "-out",
          path.("own")
        ])

      {:SubjectPublicKeyInfo, _, raw} =
        :public_key.der_decode(:SubjectPublicKeyInfo, File.read!(path.("own")))

      theirs =
        Pkcs11Pool.create_object!(pool,
          class: :public_key,
          key_type: :ml_kem,
          parameter_set: :ml_kem_768,
          value: raw,
          encapsulate: true,
          token: true,
          label: label()
        )

      {:ok, {ciphertext, key}} = Pkcs11Pool.encapsulate(pool, theirs, :ml_kem, secret())
      File.write!(path.("ciphertext"), ciphertext)

      {_, 0} =
        Kryoptic.openssl(
          ~w(pkeyutl -decap -inkey) ++
            [path.("key"), "-in", path.("ciphertext"), "-secret", path.("secret")]
        )

      assert value!(pool, key) == File.read!(path.("secret"))
    end
  end

  describe "a token of PKCS#11 2.40" do
    test "has no such function" do
      token = SoftHSM.new_token!()
      pool = String.to_atom(token.label)
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [])})
      names = [token: true, label: "rsa"]

      {:ok, _pair} =
        Pkcs11Pool.generate_key_pair(
          pool,
          :rsa_pkcs_key_pair_gen,
          [modulus_bits: 1024] ++ names,
          names
        )

      for result <- [
            Pkcs11Pool.encapsulate(pool, "rsa", :rsa_pkcs, secret()),
            Pkcs11Pool.decapsulate(pool, "rsa", :rsa_pkcs, "", secret())
          ] do
        assert {:error, %Error{reason: :function_not_supported, executed: false}} = result
      end

      Pools.drained!(pool)
    end
  end

  test "what is malformed raises" do
    assert_raise ArgumentError, ~r/takes no parameters/, fn ->
      Pkcs11Pool.encapsulate(:nobody, "key", {:ml_kem, hash: :sha256}, secret())
    end

    assert_raise ArgumentError, "expected ciphertext to be iodata", fn ->
      Pkcs11Pool.decapsulate(:nobody, "key", :ml_kem, :none, secret())
    end

    assert {:error, %Error{reason: :pool_not_found}} =
             Pkcs11Pool.encapsulate(:nobody, "key", :ml_kem, secret())
  end
end
