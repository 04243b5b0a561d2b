defmodule Pkcs11Pool.JWSTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{Pools, SoftHSM}
  alias Pkcs11Pool.{Error, JWK, JWS}

  @claims %{"iss" => "joe", "exp" => 1_300_819_380, "http://example.com/is_root" => true}

  # {algorithm, label of the key}
  @algorithms [
    {"RS256", "rsa"},
    {"RS384", "rsa"},
    {"RS512", "rsa"},
    {"PS256", "rsa"},
    {"PS384", "rsa"},
    {"PS512", "rsa"},
    {"ES256", "p256"},
    {"ES384", "p384"},
    {"ES512", "p521"},
    {"ES256K", "k256"},
    {"EdDSA", "ed25519"},
    {"Ed25519", "ed25519"}
  ]

  setup_all do
    token = SoftHSM.new_token!()
    opts = SoftHSM.pool_opts(token)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]
    rsa = [modulus_bits: 2048, public_exponent: 65_537]
    Pools.signing_pair!(pool, "rsa", :rsa_pkcs_key_pair_gen, rsa)
    Pools.signing_pair!(pool, "other", :rsa_pkcs_key_pair_gen, rsa)

    for {label, curve} <- [
          {"p256", :secp256r1},
          {"p384", :secp384r1},
          {"p521", :secp521r1},
          {"k256", :secp256k1}
        ],
        do: Pools.signing_pair!(pool, label, :ec_key_pair_gen, ec_params: curve)

    Pools.signing_pair!(pool, "ed25519", :ec_edwards_key_pair_gen, ec_params: :ed25519)
    %{pool: pool}
  end

  defp encode(bytes), do: Base.url_encode64(bytes, padding: false)
  defp decode(text), do: Base.url_decode64!(text, padding: false)

  defp invalid(cause), do: {:error, {:jws_invalid, cause}}

  defp outcome({:error, %Error{reason: :jws_invalid, executed: false, details: details}}),
    do: {:error, {:jws_invalid, details.cause}}

  defp outcome({:error, %Error{reason: reason}}), do: {:error, reason}
  defp outcome(other), do: other

  for {alg, label} <- @algorithms do
    test "#{alg} is verified here, on the token, and with its JWK; and nothing that was changed is",
         %{
           pool: pool
         } do
      {alg, label} = {unquote(alg), unquote(label)}
      key = Pkcs11Pool.public_key!(pool, label)
      jwk = JWK.public!(pool, label)
      {:ok, jws} = JWS.sign(pool, label, @claims, alg: alg, header: %{"typ" => "JWT"})
      opts = [algorithms: [alg]]

      for result <- [
            JWS.verify(jws, key, opts),
            JWS.verify(jws, jwk, opts),
            JWS.verify(jws, %{"keys" => [JWK.public!(pool, "other"), jwk]}, opts),
            JWS.verify_on_token(pool, label, jws, opts)
          ] do
        assert {:ok, %{header: %{"alg" => ^alg, "typ" => "JWT"}, payload: payload}} = result
        assert Pkcs11Pool.JSON.decode(payload) == {:ok, @claims}
      end

      [header, payload, signature] = String.split(jws, ".")
      <<first, rest::binary>> = decode(signature)

      for changed <- [
            Enum.join([header, encode("{}"), signature], "."),
            Enum.join([header, payload, encode(<<Bitwise.bxor(first, 1), rest::binary>>)], "."),
            Enum.join([header, payload, encode(rest)], "."),
            Enum.join([header, payload, encode(<<first, rest::binary, 0>>)], "."),
            Enum.join([header, payload, ""], "."),
            Enum.join([encode(~s({"alg":"#{alg}"})), payload, signature], ".")
          ],
          result <- [
            JWS.verify(changed, key, opts),
            JWS.verify_on_token(pool, label, changed, opts)
          ] do
        assert outcome(result) == {:error, :signature_invalid}
      end
    end
  end

  test "only the algorithms of the list are taken, and no algorithm is none", %{pool: pool} do
    key = Pkcs11Pool.public_key!(pool, "rsa")
    jws = JWS.sign!(pool, "rsa", "x", alg: "RS256")
    assert outcome(JWS.verify(jws, key, algorithms: ["PS256", "ES256"])) == invalid(:algorithm)

    for alg <- ["none", "None", "HS256", nil, 1, ["RS256"]] do
      header = encode(IO.iodata_to_binary(Pkcs11Pool.JSON.encode(%{"alg" => alg})))
      unsigned = header <> "." <> encode("x") <> "."
      assert outcome(JWS.verify(unsigned, key, algorithms: ["RS256"])) == invalid(:algorithm)
    end

    for opts <- [[], [algorithms: []], [algorithms: "RS256"]] do
      assert_raise ArgumentError, ~r/required :algorithms/, fn -> JWS.verify(jws, key, opts) end
    end

    for algorithms <- [["none"], ["HS256"], ["RS256", "none"], [:rs256]] do
      assert_raise ArgumentError, ~r/invalid value for :algorithms/, fn ->
        JWS.verify(jws, key, algorithms: algorithms)
      end
    end

    for alg <- ["none", "HS256", :es256, nil] do
      assert_raise ArgumentError, ~r/:alg/, fn -> JWS.sign(pool, "rsa", "x", alg: alg) end
    end
  end

  test "a key of another type or curve neither signs nor verifies", %{pool: pool} do
    for {alg, label} <- [
          {"ES256", "p384"},
          {"ES256", "k256"},
          {"ES256K", "p256"},
          {"ES512", "p256"},
          {"RS256", "p256"},
          {"ES256", "rsa"},
          {"EdDSA", "rsa"}
        ] do
      assert {:error, %Error{reason: :key_type_inconsistent, executed: false}} =
               JWS.sign(pool, label, "x", alg: alg)
    end

    # Signed by the curve's own algorithm, and said to be of another.
    key = Pkcs11Pool.public_key!(pool, "k256")
    header = encode(~s({"alg":"ES256"}))
    message = header <> "." <> encode("x")
    signature = Pkcs11Pool.sign!(pool, "k256", {:ecdsa, hash: :sha256}, message)
    jws = message <> "." <> encode(signature)
    assert outcome(JWS.verify(jws, key, algorithms: ["ES256"])) == {:error, :signature_invalid}

    assert outcome(JWS.verify_on_token(pool, "k256", jws, algorithms: ["ES256"])) ==
             {:error, :key_type_inconsistent}
  end

  test "a payload is detached, and is not in base64url where nobody wants it so", %{pool: pool} do
    key = Pkcs11Pool.public_key!(pool, "p256")
    taken = [algorithms: ["ES256"]]
    sign = &JWS.sign!(pool, "p256", &1, [alg: "ES256"] ++ &2)

    detached = sign.("a.b", detached: true)
    assert [_header, "", _signature] = String.split(detached, ".")
    assert {:ok, %{payload: "a.b"}} = JWS.verify(detached, key, [payload: ["a", ".b"]] ++ taken)

    assert outcome(JWS.verify(detached, key, [payload: "a.c"] ++ taken)) ==
             {:error, :signature_invalid}

    raw = sign.("a.b\n\0", detached: true, b64: false)
    [header, "", _signature] = String.split(raw, ".")

    assert Pkcs11Pool.JSON.decode(decode(header)) ==
             {:ok, %{"alg" => "ES256", "b64" => false, "crit" => ["b64"]}}

    assert {:ok, %{payload: "a.b\n\0"}} = JWS.verify(raw, key, [payload: "a.b\n\0"] ++ taken)

    inside = sign.("$02", b64: false)
    assert [_header, "$02", _signature] = String.split(inside, ".")
    assert {:ok, %{payload: "$02"}} = JWS.verify(inside, key, taken)

    whole = sign.("x", [])
    assert outcome(JWS.verify(whole, key, [payload: "x"] ++ taken)) == invalid(:payload)

    for bad <- ["a.b", "é", "\n"] do
      assert_raise ArgumentError, ~r/detached: true/, fn -> sign.(bad, b64: false) end
    end
  end

  test "critical members of a header are understood, or the token is not taken", %{pool: pool} do
    key = Pkcs11Pool.public_key!(pool, "p256")

    signed = fn header ->
      message = encode(IO.iodata_to_binary(Pkcs11Pool.JSON.encode(header))) <> "." <> encode("x")
      message <> "." <> encode(Pkcs11Pool.sign!(pool, "p256", {:ecdsa, hash: :sha256}, message))
    end

    for {members, crit, expected} <- [
          {%{"crit" => ["exp"], "exp" => 1}, [], invalid(:critical)},
          {%{"crit" => ["exp"], "exp" => 1}, ["exp"], :ok},
          {%{"crit" => ["exp"]}, ["exp"], invalid(:critical)},
          {%{"crit" => ["exp", "exp"], "exp" => 1}, ["exp"], invalid(:critical)},
          {%{"crit" => []}, [], invalid(:critical)},
          {%{"crit" => "b64", "b64" => true}, [], invalid(:critical)},
          {%{"crit" => ["alg"]}, [], invalid(:critical)},
          {%{"b64" => false}, [], invalid(:critical)},
          {%{"b64" => true}, [], :ok},
          {%{"b64" => "false", "crit" => ["b64"]}, [], invalid(:critical)},
          {%{"b64" => false, "crit" => ["exp"], "exp" => 1}, ["exp"], invalid(:critical)},
          {%{"b64" => true, "crit" => ["b64"]}, [], :ok}
        ] do
      jws = signed.(Map.put(members, "alg", "ES256"))
      result = outcome(JWS.verify(jws, key, algorithms: ["ES256"], crit: crit))
      assert {members, if(match?({:ok, _}, result), do: :ok, else: result)} == {members, expected}
    end

    assert_raise ArgumentError, ~r/:crit/, fn ->
      JWS.verify("a.b.c", key, algorithms: ["ES256"], crit: ["alg"])
    end
  end

  test "what is no JWS is said to be none", %{pool: pool} do
    key = Pkcs11Pool.public_key!(pool, "rsa")
    jws = JWS.sign!(pool, "rsa", "x", alg: "RS256")
    [header, payload, signature] = String.split(jws, ".")
    twice = encode(~s({"alg":"RS256","alg":"RS256"}))

    for text <- [
          "",
          "..",
          "a.b",
          jws <> ".x",
          jws <> "=",
          header <> "." <> payload,
          "!." <> payload <> "." <> signature,
          encode("[]") <> "." <> payload <> "." <> signature,
          encode("{}") <> "." <> payload <> "." <> signature,
          encode(<<0xFF>>) <> "." <> payload <> "." <> signature,
          twice <> "." <> payload <> "." <> signature,
          <<0xFF, 0xFE>>,
          nil,
          1
        ] do
      assert {text, outcome(JWS.verify(text, key, algorithms: ["RS256"]))} ==
               {text, invalid(:malformed)}
    end

    assert outcome(JWS.verify(header <> ".!." <> signature, key, algorithms: ["RS256"])) ==
             invalid(:payload)
  end

  test "of a set the key with the id of the header is taken", %{pool: pool} do
    jwks = JWK.set!(pool, ["other", {"rsa", kid: "2026", alg: "RS256"}])
    assert %{"keys" => [%{"kid" => _thumbprint}, %{"kid" => "2026", "use" => "sig"}]} = jwks
    opts = [algorithms: ["RS256", "PS256"]]

    for {header, alg, expected} <- [
          {%{"kid" => "2026"}, "RS256", :ok},
          {%{}, "RS256", :ok},
          {%{"kid" => "2025"}, "RS256", invalid(:no_key)},
          {%{"kid" => "2026"}, "PS256", invalid(:no_key)},
          {%{"kid" => hd(jwks["keys"])["kid"]}, "RS256", {:error, :signature_invalid}}
        ] do
      jws = JWS.sign!(pool, "rsa", "x", alg: alg, header: header)
      result = outcome(JWS.verify(jws, jwks, opts))
      assert {header, if(match?({:ok, _}, result), do: :ok, else: result)} == {header, expected}
    end

    # Secret members make no difference: they are no public key.
    assert outcome(
             JWS.verify(
               JWS.sign!(pool, "rsa", "x", alg: "RS256"),
               %{"keys" => [%{"kty" => "oct", "k" => "AAAA"}]},
               opts
             )
           ) ==
             invalid(:no_key)
  end

  test "bad arguments raise, what fails is an error, and the twins raise it", %{pool: pool} do
    for {message, opts} <- [
          {~r/:alg/, []},
          {~r/:header/, [alg: "RS256", header: [typ: "JWT"]]},
          {~r/:header/, [alg: "RS256", header: %{"alg" => "none"}]},
          {~r/:header/, [alg: "RS256", header: %{"crit" => []}]},
          {~r/:header/, [alg: "RS256", header: %{kid: "x"}]},
          {~r/:b64/, [alg: "RS256", b64: nil]},
          {~r/unknown/, [alg: "RS256", kid: "x"]}
        ] do
      assert_raise ArgumentError, message, fn -> JWS.sign(pool, "rsa", "x", opts) end
    end

    assert {:error, %Error{reason: :key_not_found}} = JWS.sign(pool, "none", "x", alg: "RS256")
    assert_raise Error, fn -> JWS.sign!(pool, "none", "x", alg: "RS256") end

    assert_raise Error, ~r/no JWS/, fn ->
      JWS.verify!("x", %{"kty" => "oct"}, algorithms: ["RS256"])
    end

    assert {:error, %Error{reason: :key_not_found}} = JWK.public(pool, "none")
    Pools.drained!(pool)
  end

  describe "RFC 7515's examples" do
    test "A.2 (RS256) and A.3 (ES256) are verified" do
      payload =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"

      rsa = %{
        "kty" => "RSA",
        "n" =>
          "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e" => "AQAB"
      }

      signature =
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"

      jws = Enum.join(["eyJhbGciOiJSUzI1NiJ9", payload, signature], ".")
      assert {:ok, %{payload: bytes}} = JWS.verify(jws, rsa, algorithms: ["RS256"])
      assert Pkcs11Pool.JSON.decode(bytes) == {:ok, @claims}

      ec = %{
        "kty" => "EC",
        "crv" => "P-256",
        "x" => "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y" => "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
      }

      signature =
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"

      jws = Enum.join(["eyJhbGciOiJFUzI1NiJ9", payload, signature], ".")
      assert {:ok, %{payload: ^bytes}} = JWS.verify(jws, ec, algorithms: ["ES256"])
    end

    test "A.4 (ES512) and RFC 8037's A.4 (EdDSA) are verified" do
      ec = %{
        "kty" => "EC",
        "crv" => "P-521",
        "x" =>
          "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y" =>
          "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"
      }

      jws =
        "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"

      assert {:ok, %{payload: "Payload"}} = JWS.verify(jws, ec, algorithms: ["ES512"])

      ed = %{
        "kty" => "OKP",
        "crv" => "Ed25519",
        "x" => "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
      }

      jws =
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"

      assert {:ok, %{payload: "Example of Ed25519 signing"}} =
               JWS.verify(jws, ed, algorithms: ["EdDSA"])
    end
  end
end
