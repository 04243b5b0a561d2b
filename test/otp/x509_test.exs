defmodule Pkcs11Pool.X509Test do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, X509}
  alias Pkcs11Pool.Test.{Pools, SoftHSM}

  @subject [country: "CH", organization: "Beispiel", common_name: "Wurzel äöü"]

  setup_all do
    token = SoftHSM.new_token!()
    opts = SoftHSM.pool_opts(token)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]

    for {label, curve} <- [p256: :secp256r1, p384: :secp384r1, p521: :secp521r1] do
      {:ok, _pair} =
        Pkcs11Pool.generate_key_pair(
          pool,
          :ec_key_pair_gen,
          [token: true, label: "#{label}", id: "#{label}", ec_params: curve, verify: true],
          token: true,
          label: "#{label}",
          id: "#{label}",
          private: true,
          sign: true
        )
    end

    {:ok, _pair} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :ec_edwards_key_pair_gen,
        [token: true, label: "ed25519", ec_params: :ed25519, verify: true],
        token: true,
        label: "ed25519",
        private: true,
        sign: true
      )

    for label <- ["rsa", "leaf"] do
      {:ok, _pair} =
        Pkcs11Pool.generate_key_pair(
          pool,
          :rsa_pkcs_key_pair_gen,
          [token: true, label: label, modulus_bits: 2048, public_exponent: 65_537, verify: true],
          token: true,
          label: label,
          private: true,
          sign: true
        )
    end

    on_exit(fn -> :ok end)
    %{pool: pool}
  end

  defp file!(kind, der) do
    path = Path.join(SoftHSM.dir(), "x509-#{System.unique_integer([:positive])}.pem")
    File.write!(path, X509.to_pem(kind, der))
    path
  end

  defp text(kind, der) do
    command = %{certificate: "x509", request: "req", crl: "crl"}[kind]
    SoftHSM.openssl!([command, "-noout", "-text", "-in", file!(kind, der)])
  end

  # {key, options of its signatures, what openssl calls them}
  @signatures [
    {"rsa", [], "sha256WithRSAEncryption"},
    {"rsa", [hash: :sha384], "sha384WithRSAEncryption"},
    {"rsa", [padding: :pss], "rsassaPss"},
    {"rsa", [padding: :pss, hash: :sha512], "rsassaPss"},
    {"p256", [], "ecdsa-with-SHA256"},
    {"p384", [], "ecdsa-with-SHA384"},
    {"p521", [], "ecdsa-with-SHA512"},
    {"p256", [hash: :sha512], "ecdsa-with-SHA512"},
    {"ed25519", [], "ED25519"}
  ]

  for {key, opts, algorithm} <- @signatures do
    test "#{key} #{inspect(opts)}: openssl verifies a request, a root, a certificate and a list",
         %{
           pool: pool
         } do
      {key, opts, algorithm} = {unquote(key), unquote(opts), unquote(algorithm)}

      {:ok, request} =
        X509.request(pool, key, [common_name: "example.com"], [san: ["example.com"]] ++ opts)

      path = file!(:request, request)
      assert SoftHSM.openssl!(["req", "-verify", "-noout", "-in", path]) =~ "verify OK"
      assert text(:request, request) =~ algorithm

      {:ok, root} = X509.self_signed(pool, key, @subject, [ca: 0, days: 3650] ++ opts)
      {:ok, leaf_request} = X509.request(pool, "leaf", common_name: "leaf.example.com")

      {:ok, leaf} =
        X509.certificate(
          pool,
          key,
          root,
          leaf_request,
          [profile: :server, san: ["leaf.example.com", {:ip, "::1"}]] ++ opts
        )

      {:ok, crl} =
        X509.crl(pool, key, root, [{leaf, reason: :key_compromise}], [number: 1] ++ opts)

      root_path = file!(:certificate, root)

      verify = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", root_path]
      assert SoftHSM.openssl!(verify ++ [file!(:certificate, leaf)]) =~ ": OK"

      assert SoftHSM.openssl!(["crl", "-noout", "-CAfile", root_path, "-in", file!(:crl, crl)]) =~
               "verify OK"

      assert text(:certificate, leaf) =~ algorithm

      assert_raise RuntimeError, ~r/certificate revoked/, fn ->
        SoftHSM.openssl!(
          ["verify", "-crl_check", "-CRLfile", file!(:crl, crl), "-CAfile", root_path] ++
            [file!(:certificate, leaf)]
        )
      end

      # OTP verifies PSS only of keys whose certificates say that they sign nothing but PSS.
      unless algorithm == "rsassaPss",
        do: assert({:ok, _} = :public_key.pkix_path_validation(root, [leaf], []))

      # What is not of the issuer is told.
      assert {:error, _} = :public_key.pkix_path_validation(leaf, [root], [])
    end
  end

  test "a certificate says what the options say", %{pool: pool} do
    {:ok, certificate} =
      X509.self_signed(pool, "p256", @subject,
        ca: 2,
        san:
          ["a.example", {:dns, "*.b.example"}, {:ip, "10.0.0.1"}, {:ip, "2001:db8::1"}] ++
            [{:email, "a@b.example"}, {:uri, "https://c.example/x"}],
        key_usage: [:digital_signature, :key_cert_sign],
        extended_key_usage: [:client_auth, {1, 3, 6, 1, 4, 1, 311, 20, 2, 2}],
        crl_url: "http://crl.example/1.crl",
        ocsp_url: "http://ocsp.example",
        issuer_url: "http://ca.example/ca.der",
        serial: 0x1234567890,
        not_before: ~U[2030-01-02 03:04:05Z],
        not_after: ~U[2051-02-03 04:05:06Z],
        extensions: [{:Extension, {1, 2, 3, 4}, false, <<4, 1, 7>>}]
      )

    text = text(:certificate, certificate)

    for expected <- [
          "Version: 3",
          "(0x1234567890)",
          "Issuer: C",
          "Beispiel",
          "Not Before: Jan  2 03:04:05 2030 GMT",
          "Not After : Feb  3 04:05:06 2051 GMT",
          "CA:TRUE, pathlen:2",
          "X509v3 Basic Constraints: critical",
          "X509v3 Key Usage: critical",
          "Digital Signature, Certificate Sign",
          "TLS Web Client Authentication",
          "DNS:a.example, DNS:*.b.example, IP Address:10.0.0.1, IP Address:2001:DB8:0:0:0:0:0:1, email:a@b.example, URI:https://c.example/x",
          "URI:http://crl.example/1.crl",
          "OCSP - URI:http://ocsp.example",
          "CA Issuers - URI:http://ca.example/ca.der",
          "1.2.3.4"
        ] do
      assert text =~ expected
    end

    [ski] = Regex.run(~r/Subject Key Identifier: \n +([0-9A-F:]+)/, text, capture: :all_but_first)
    assert text =~ ~r/Authority Key Identifier: \n +(keyid:)?#{ski}/
  end

  test "serial numbers have 128 bits, and differ", %{pool: pool} do
    serials =
      for _ <- 1..3 do
        {:ok, der} = X509.self_signed(pool, "p256", common_name: "x")
        {:OTPCertificate, tbs, _, _} = :public_key.pkix_decode_cert(der, :otp)
        elem(tbs, 2)
      end

    assert serials == Enum.uniq(serials)
    assert Enum.all?(serials, &(&1 >= Integer.pow(2, 126) and &1 < Integer.pow(2, 127)))
  end

  test "a public key is what openssl reads, of every kind of key", %{pool: pool} do
    for {key, expected} <- [
          {"rsa", "Public-Key: (2048 bit)"},
          {"p384", "NIST CURVE: P-384"},
          {"ed25519", "ED25519 Public-Key"}
        ] do
      {:ok, der} = X509.subject_public_key_info(pool, key)
      path = file!(:public_key, der)
      assert SoftHSM.openssl!(["pkey", "-pubin", "-noout", "-text", "-in", path]) =~ expected
    end
  end

  test "alternative names of a request are taken when asked for, its other wishes never", %{
    pool: pool
  } do
    {:ok, root} = X509.self_signed(pool, "rsa", @subject, ca: true)

    {:ok, request} =
      X509.request(pool, "leaf", [common_name: "leaf"], ca: true, san: ["wanted.example"])

    {:ok, with_names} =
      X509.certificate(pool, "rsa", root, request, san: :request, profile: :server)

    {:ok, without} = X509.certificate(pool, "rsa", root, request, subject: [common_name: "other"])

    assert text(:certificate, with_names) =~ "DNS:wanted.example"
    assert text(:certificate, with_names) =~ "CA:FALSE"
    refute text(:certificate, without) =~ "wanted.example"
    refute text(:certificate, without) =~ "CA:TRUE"
    assert text(:certificate, without) =~ ~r"CN ?= ?other"
  end

  test "a public key gets a certificate, too", %{pool: pool} do
    {:ok, root} = X509.self_signed(pool, "rsa", @subject, ca: true)
    key = :public_key.generate_key({:namedCurve, :secp256r1})
    public = {{:ECPoint, elem(key, 4)}, {:namedCurve, {1, 2, 840, 10_045, 3, 1, 7}}}
    subject = [common_name: "outside"]
    {:ok, certificate} = X509.certificate(pool, "rsa", root, public, subject: subject)
    assert {:ok, _} = :public_key.pkix_path_validation(root, [certificate], [])

    info = Pkcs11Pool.X509.SubjectPublicKey.encode!(public)
    assert {:ok, _} = X509.certificate(pool, "rsa", root, info, subject: subject)
    assert_raise ArgumentError, ~r/:subject/, fn -> X509.certificate(pool, "rsa", root, info) end
  end

  test "a private key that is not the certificate's signs nothing", %{pool: pool} do
    {:ok, root} = X509.self_signed(pool, "rsa", @subject, ca: true)
    {:ok, request} = X509.request(pool, "p256", common_name: "x")

    assert {:error, %Error{reason: :signature_invalid, executed: true, message: message}} =
             X509.certificate(pool, "leaf", root, request)

    assert message =~ "does not belong to the public key"
  end

  test "a forged request, no CA, and rubbish are refused", %{pool: pool} do
    {:ok, root} = X509.self_signed(pool, "rsa", @subject, ca: true)
    {:ok, leaf} = X509.self_signed(pool, "rsa", @subject)
    {:ok, request} = X509.request(pool, "p256", common_name: "honest")
    forged = :binary.replace(request, "honest", "forger")

    for {message, fun} <- [
          {~r/signature of the certificate request/,
           fn -> X509.certificate(pool, "rsa", root, forged) end},
          {~r/not the certificate of a CA/,
           fn -> X509.certificate(pool, "rsa", leaf, request) end},
          {~r/from_pem/, fn -> X509.certificate(pool, "rsa", "rubbish", request) end},
          {~r/from_pem/,
           fn -> X509.certificate(pool, "rsa", root, X509.to_pem(:request, request)) end},
          {~r/:number/, fn -> X509.crl(pool, "rsa", root, [], []) end},
          {~r/serial number/, fn -> X509.crl(pool, "rsa", root, [:one], number: 1) end},
          {~r/:reason/, fn -> X509.crl(pool, "rsa", root, [{1, reason: :x}], number: 1) end},
          {~r/unknown options \[:sann\]/,
           fn -> X509.request(pool, "rsa", @subject, sann: []) end},
          {~r/:country/, fn -> X509.request(pool, "rsa", country: "Schweiz") end},
          {~r/unknown attribute :cn/, fn -> X509.request(pool, "rsa", cn: "x") end},
          {~r/expected a name/, fn -> X509.request(pool, "rsa", "CN=x") end},
          {~r/:san/, fn -> X509.request(pool, "rsa", @subject, san: ["exämple.com"]) end},
          {~r/:san/, fn -> X509.request(pool, "rsa", @subject, san: :request) end},
          {~r/:ip/, fn -> X509.request(pool, "rsa", @subject, san: [ip: "1.2.3"]) end},
          {~r/:not_after/,
           fn -> X509.self_signed(pool, "rsa", @subject, not_after: ~U[2020-01-01 00:00:00Z]) end},
          {~r/:hash/, fn -> X509.request(pool, "rsa", @subject, hash: :md5) end}
        ] do
      error = catch_error(fun.())
      assert {message, %ArgumentError{message: text}} = {message, error}
      assert text =~ message
    end
  end

  test "what the token or the pool refuses is an error, and the twins raise it", %{pool: pool} do
    assert {:error, %Error{reason: :key_not_found}} = X509.request(pool, "none", @subject)
    assert {:error, %Error{reason: :pool_not_found}} = X509.self_signed(:no_pool, "rsa", @subject)
    assert_raise Error, fn -> X509.self_signed!(pool, "none", @subject) end
    assert is_binary(X509.subject_public_key_info!(pool, "rsa"))
    Pools.drained!(pool)
  end

  test "PEM of a chain goes both ways", %{pool: pool} do
    {:ok, one} = X509.self_signed(pool, "rsa", @subject)
    {:ok, two} = X509.self_signed(pool, "p256", @subject)
    assert X509.from_pem(X509.to_pem(:certificate, [one, two])) == [one, two]
  end

  test "an empty list is one", %{pool: pool} do
    {:ok, root} = X509.self_signed(pool, "rsa", @subject, ca: true)
    {:ok, crl} = X509.crl(pool, "rsa", root, [], number: 7)
    assert text(:crl, crl) =~ "No Revoked Certificates"
  end
end
