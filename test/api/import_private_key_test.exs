defmodule Pkcs11Pool.ImportPrivateKeyTest do
  # Private keys that were made elsewhere, put on the token: what they sign there, another implementation verifies.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup_all do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})
    %{pool: pool, chaos: token.chaos, rsa: :public_key.generate_key({:rsa, 2048, 65_537})}
  end

  setup %{pool: pool, chaos: chaos} do
    Chaos.reset(chaos)
    on_exit(fn -> Pools.drained!(pool) end)
    %{label: "key #{System.unique_integer([:positive])}"}
  end

  defp template(label, usage \\ [sign: true]),
    do: [token: true, label: label, id: <<7>>, private: true, sensitive: true] ++ usage

  defp import!(pool, key, label, usage \\ [sign: true]) do
    assert {:ok, %Object{class: :private_key, label: ^label, id: <<7>>} = object} =
             Pkcs11Pool.import_private_key(pool, key, template(label, usage))

    assert {:ok, [^object]} = Pkcs11Pool.find_objects(pool, label: label)
    object
  end

  # All forms in which somebody may have a key.
  defp forms(record) do
    type = elem(record, 0)
    entry = :public_key.pem_entry_encode(type, record)
    traditional = :public_key.pem_encode([entry])
    pkcs8 = pkcs8(traditional)
    [pkcs8_entry] = :public_key.pem_decode(pkcs8)

    [
      record: record,
      der: elem(entry, 1),
      pem: traditional,
      pem_entry: entry,
      pkcs8_pem: pkcs8,
      pkcs8_der: elem(pkcs8_entry, 1),
      pkcs8_pem_entry: pkcs8_entry,
      pkcs8_decoded: :public_key.pem_entry_decode(pkcs8_entry),
      pkcs8_record: info_record(elem(pkcs8_entry, 1))
    ]
  end

  # By openssl.
  defp pkcs8(pem), do: convert(pem, ~w(pkcs8 -topk8 -nocrypt))

  defp convert(pem, args) do
    file = Path.join(SoftHSM.dir(), "key-#{System.unique_integer([:positive])}.pem")
    File.write!(file, pem)
    SoftHSM.openssl!(args ++ ["-in", file])
  end

  # What OTP's ASN.1 itself has of it, before :public_key looks into it.
  defp info_record(der) do
    {:ok, record} = :"PKCS-FRAME".decode(:PrivateKeyInfo, der)
    record
  end

  test "RSA, in each form", %{pool: pool, label: label, rsa: rsa} do
    public = {:RSAPublicKey, elem(rsa, 2), elem(rsa, 3)}

    for {form, key} <- forms(rsa) do
      label = "#{label} #{form}"
      object = import!(pool, key, label, sign: true, decrypt: true)
      assert object.key_type == :rsa

      {:ok, signature} = Pkcs11Pool.sign(pool, label, :sha256_rsa_pkcs, "message")
      assert :public_key.verify("message", :sha256, signature, public)

      ciphertext = :public_key.encrypt_public("secret", public)
      assert Pkcs11Pool.decrypt(pool, object, :rsa_pkcs, ciphertext) == {:ok, "secret"}

      # The private key of RSA tells its public half.
      assert Pkcs11Pool.public_key(pool, label) == {:ok, public}

      assert {:error, %Error{reason: :attribute_sensitive}} =
               Pkcs11Pool.get_attributes(pool, object, [:private_exponent])
    end
  end

  for curve <- [:secp256r1, :secp384r1, :secp521r1, :secp256k1, :brainpoolP256r1] do
    test "#{curve}, in each form", %{pool: pool, label: label} do
      key = :public_key.generate_key({:namedCurve, unquote(curve)})
      public = {{:ECPoint, elem(key, 4)}, elem(key, 3)}

      for {form, key} <- forms(key) do
        label = "#{label} #{form}"
        object = import!(pool, key, label)
        assert object.key_type == :ec
        digest = :crypto.hash(:sha256, "message")
        {:ok, signature} = Pkcs11Pool.sign(pool, label, :ecdsa, digest, signature: :der)
        assert :public_key.verify("message", :sha256, signature, public)
      end
    end
  end

  test "Ed25519, in each form", %{pool: pool, label: label} do
    key = :public_key.generate_key({:namedCurve, :ed25519})
    {:ECPrivateKey, 1, value, curve, point, _attributes} = key
    pem = :public_key.pem_encode([:public_key.pem_entry_encode(:PrivateKeyInfo, key)])
    [{_type, der, :not_encrypted} = entry] = :public_key.pem_decode(pem)
    by_openssl = SoftHSM.openssl!(~w(genpkey -algorithm ed25519))

    assert_raise ArgumentError, fn ->
      Pkcs11Pool.import_private_key(pool, value, template(label))
    end

    forms = [
      record: key,
      pkcs8_pem: pem,
      pkcs8_der: der,
      pem_entry: entry,
      decoded: :public_key.pem_entry_decode(entry),
      info_record: info_record(der),
      ssh: {:ed_pri, :ed25519, point, value}
    ]

    for {form, key} <- forms do
      object = import!(pool, key, "#{label} #{form}")
      assert object.key_type == :ec_edwards
      {:ok, signature} = Pkcs11Pool.sign(pool, object, :eddsa, "message")
      assert :public_key.verify("message", :none, signature, {{:ECPoint, point}, curve})
    end

    # One that OTP has not made.
    object = import!(pool, by_openssl, label)
    public = convert(by_openssl, ~w(pkey -pubout -outform DER))
    {:ok, signature} = Pkcs11Pool.sign(pool, object, :eddsa, "message")
    point = binary_part(public, byte_size(public), -32)
    assert :crypto.verify(:eddsa, :none, "message", signature, [point, :ed25519])
  end

  test "a key with the parameters of its curve written out", %{pool: pool, label: label} do
    args = ~w(genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt)
    pem = SoftHSM.openssl!(args ++ ["ec_param_enc:explicit"])
    [entry] = :public_key.pem_decode(pem)

    {:ECPrivateKey, _, _, {:ecParameters, _}, point, _} =
      key = :public_key.pem_entry_decode(entry)

    for {form, key} <- [pem: pem, record: key, traditional: convert(pem, ~w(ec))] do
      object = import!(pool, key, "#{label} #{form}")

      {:ok, signature} =
        Pkcs11Pool.sign(pool, object, {:ecdsa, hash: :sha256}, "m", signature: :der)

      named = {:namedCurve, {1, 2, 840, 10_045, 3, 1, 7}}
      assert :public_key.verify("m", :sha256, signature, {{:ECPoint, point}, named})
      assert {:ok, %{ec_params: params}} = Pkcs11Pool.get_attributes(pool, object, [:ec_params])
      assert {:ecParameters, _} = :public_key.der_decode(:EcpkParameters, params)
    end
  end

  describe "as OTP 28 has it" do
    test "an EC key whose version is a name", %{pool: pool, label: label} do
      key = :public_key.generate_key({:namedCurve, :secp256r1})
      object = import!(pool, put_elem(key, 1, :ecPrivkeyVer1), label)

      {:ok, signature} =
        Pkcs11Pool.sign(pool, object, {:ecdsa, hash: :sha256}, "m", signature: :der)

      assert :public_key.verify("m", :sha256, signature, {{:ECPoint, elem(key, 4)}, elem(key, 3)})
    end

    test "a PrivateKeyInfo whose curve is decoded", %{pool: pool, label: label} do
      {:ECPrivateKey, 1, value, curve, point, _} =
        key = :public_key.generate_key({:namedCurve, :secp256r1})

      bare = {:ECPrivateKey, 1, value, :asn1_NOVALUE, :asn1_NOVALUE, :asn1_NOVALUE}
      inner = :public_key.der_encode(:ECPrivateKey, bare)

      for {version, record} <- [
            v1:
              {:PrivateKeyInfo, :v1,
               {:PrivateKeyInfo_privateKeyAlgorithm, {1, 2, 840, 10_045, 2, 1}, curve}, inner,
               :asn1_NOVALUE},
            v2:
              {:OneAsymmetricKey, :v2,
               {:OneAsymmetricKey_privateKeyAlgorithm, {1, 2, 840, 10_045, 2, 1}, curve}, inner,
               :asn1_NOVALUE, elem(key, 4)}
          ] do
        object = import!(pool, record, "#{label} #{version}")

        {:ok, signature} =
          Pkcs11Pool.sign(pool, object, {:ecdsa, hash: :sha256}, "m", signature: :der)

        assert :public_key.verify("m", :sha256, signature, {{:ECPoint, point}, curve})
      end
    end
  end

  test "a PEM with a certificate beside the key", %{pool: pool, label: label} do
    file = Path.join(SoftHSM.dir(), "key-#{System.unique_integer([:positive])}")

    SoftHSM.openssl!(
      ~w(req -x509 -newkey rsa:1024 -nodes -subj /CN=a -days 1 -out #{file}.crt -keyout #{file}.key)
    )

    object = import!(pool, File.read!(file <> ".crt") <> File.read!(file <> ".key"), label)
    {:ok, signature} = Pkcs11Pool.sign(pool, object, :sha256_rsa_pkcs, "message")
    [{_, der, _}] = :public_key.pem_decode(File.read!(file <> ".crt"))
    otp = :public_key.pkix_decode_cert(der, :otp)
    public = otp |> elem(1) |> elem(7) |> elem(2)
    assert :public_key.verify("message", :sha256, signature, public)
  end

  test "a session object in a block, and one that is allowed", %{
    pool: pool,
    label: label,
    rsa: rsa
  } do
    session = Keyword.delete(template(label), :token)

    assert {:error, %Error{reason: :session_object_needs_session, executed: false}} =
             Pkcs11Pool.import_private_key(pool, rsa, session)

    public = {:RSAPublicKey, elem(rsa, 2), elem(rsa, 3)}

    Pkcs11Pool.with_session(pool, fn ->
      assert {:ok, key} = Pkcs11Pool.import_private_key(pool, rsa, session)
      assert Pkcs11Pool.get_attributes(pool, key, [:token]) == {:ok, %{token: false}}
      {:ok, signature} = Pkcs11Pool.sign(pool, key, :sha256_rsa_pkcs, "message")
      assert :public_key.verify("message", :sha256, signature, public)
      assert Pkcs11Pool.destroy_object(pool, key) == :ok
    end)

    assert {:ok, key} = Pkcs11Pool.import_private_key(pool, rsa, session, session_object: :allow)
    assert Pkcs11Pool.destroy_object(pool, key) == :ok
  end

  test "what fails in the module may have run and is not tried again",
       %{pool: pool, chaos: chaos, label: label, rsa: rsa} do
    Chaos.reset_counts(chaos)
    Chaos.fail(chaos, :C_CreateObject, :device_error, count: 1)

    assert {:error, %Error{reason: :device_error, function: :C_CreateObject, executed: :unknown}} =
             Pkcs11Pool.import_private_key(pool, rsa, template(label))

    assert Chaos.calls(chaos, :C_CreateObject) == 1
    assert %Object{} = Pkcs11Pool.import_private_key!(pool, rsa, template(label))
    assert_raise Error, fn -> Pkcs11Pool.import_private_key!(:nobody, rsa, template(label)) end
  end

  describe "the template" do
    test "may repeat what the key says", %{pool: pool, label: label, rsa: rsa} do
      same = [class: :private_key, key_type: :rsa, modulus: elem(rsa, 2)]
      assert {:ok, _key} = Pkcs11Pool.import_private_key(pool, rsa, same ++ template(label))
    end

    test "may not say otherwise", %{pool: pool, label: label, rsa: rsa} do
      for {name, value} <- [class: :public_key, key_type: :ec, modulus: 7, prime_1: 7] do
        error =
          assert_raise ArgumentError, fn ->
            Pkcs11Pool.import_private_key(pool, rsa, [{name, value} | template(label)])
          end

        assert error.message =~
                 "attribute #{inspect(name)} of the template is another one than the private key's"
      end
    end
  end

  describe "what is no private key" do
    test "raises, and shows nothing of it", %{pool: pool, label: label, rsa: rsa} do
      secret = "correct horse battery staple"
      ec = :public_key.generate_key({:namedCurve, :secp256r1})
      pkcs8_dsa = SoftHSM.openssl!(~w(dsaparam -genkey -noout 1024))
      dsa = convert(pkcs8_dsa, ~w(pkey -traditional))
      [{:DSAPrivateKey, dsa_der, _}] = :public_key.pem_decode(dsa)
      pem = :public_key.pem_encode([:public_key.pem_entry_encode(:RSAPrivateKey, rsa)])
      der = :public_key.der_encode(:RSAPrivateKey, rsa)
      public = {:RSAPublicKey, elem(rsa, 2), elem(rsa, 3)}

      for {bad, text} <- [
            {secret, "expected a private key"},
            {"", "expected a private key"},
            {nil, "expected a private key"},
            {{}, "expected a private key"},
            {[secret], "expected a private key"},
            {%{key: secret}, "expected a private key"},
            {public, "expected a private key"},
            {:public_key.der_encode(:RSAPublicKey, public), "expected a private key"},
            {pem <> pem, "expected a private key"},
            {binary_part(der, 0, 500), "expected a private key"},
            {der <> <<0>>, "expected a private key"},
            {"-----BEGIN PRIVATE KEY-----\n#{secret}", "expected a private key"},
            {put_elem(rsa, 2, secret), "expected a private key"},
            {put_elem(rsa, 4, -1), "expected a private key"},
            {put_elem(rsa, 10, [{:OtherPrimeInfo, 3, 5, 7}]), "unsupported type"},
            {put_elem(ec, 2, :asn1_NOVALUE), "expected a private key"},
            {put_elem(ec, 3, :asn1_NOVALUE), "does not say on which curve"},
            {put_elem(ec, 3, {:namedCurve, :nonsense}), "does not say on which curve"},
            {put_elem(ec, 3, {:namedCurve, {1, 3, 101, 112}}) |> put_elem(2, secret),
             "expected a private key"},
            {{:PrivateKeyInfo, :v1, secret, secret, secret}, "expected a private key"},
            {dsa, "expected a private key"},
            {dsa_der, "expected a private key"},
            {pkcs8_dsa, "unsupported type"},
            {convert(pem, ~w(pkcs8 -topk8 -passout pass:a)), "is encrypted"},
            {convert(pem, ~w(rsa -aes128 -passout pass:a -traditional)), "is encrypted"}
          ] do
        error =
          assert_raise ArgumentError, fn ->
            Pkcs11Pool.import_private_key(pool, bad, template(label))
          end

        assert error.message =~ text
        refute error.message =~ "staple"
      end

      encrypted = convert(pem, ~w(pkcs8 -topk8 -passout pass:a -outform DER))

      assert_raise ArgumentError, ~r/is encrypted/, fn ->
        Pkcs11Pool.import_private_key(pool, encrypted, template(label))
      end

      assert Pkcs11Pool.find_objects(pool, label: label) == {:ok, []}
    end

    test "in any part of a DER, raises nothing but that", %{pool: pool, label: label} do
      ec = :public_key.generate_key({:namedCurve, :secp256r1})
      der = :public_key.der_encode(:ECPrivateKey, ec)

      for at <- 0..(byte_size(der) - 1), flipped <- [0x00, 0x80, 0xFF] do
        <<before::binary-size(at), byte, rest::binary>> = der

        try do
          Pkcs11Pool.Argument.PrivateKey.template!(
            <<before::binary, Bitwise.bxor(byte, flipped), rest::binary>>,
            template(label)
          )
        rescue
          error in [ArgumentError] -> assert error.message =~ "private key"
        end
      end

      assert {:ok, []} = Pkcs11Pool.find_objects(pool, label: label)
    end
  end
end
