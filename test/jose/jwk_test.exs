defmodule Pkcs11Pool.JWKTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.JWK

  # RFC 7638, 3.1.
  @rfc7638 %{
    "kty" => "RSA",
    "n" =>
      "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e" => "AQAB",
    "alg" => "RS256",
    "kid" => "2011-04-29"
  }

  test "the thumbprint is that of RFC 7638's and RFC 8037's examples" do
    assert JWK.thumbprint(@rfc7638) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"

    # RFC 8037, A.3.
    assert JWK.thumbprint(%{
             "kty" => "OKP",
             "crv" => "Ed25519",
             "x" => "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
           }) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

    assert_raise ArgumentError, fn -> JWK.thumbprint(%{"kty" => "oct", "k" => "secret"}) end
  end

  test "a public key goes both ways, for each curve, with leading zeros" do
    for {curve, size} <- [secp256r1: 32, secp384r1: 48, secp521r1: 66, secp256k1: 32] do
      point = <<4, 0::size(size)-unit(8), 1::size(size)-unit(8)>>
      oid = :pubkey_cert_records.namedCurves(curve)
      key = {{:ECPoint, point}, {:namedCurve, oid}}
      assert {:ok, jwk} = JWK.from_public_key(key)
      assert byte_size(Base.url_decode64!(jwk["x"], padding: false)) == size
      assert JWK.to_public_key(jwk) == {:ok, key}
    end

    for {arc, size} <- [{112, 32}, {113, 57}] do
      key = {{:ECPoint, :binary.copy(<<7>>, size)}, {:namedCurve, {1, 3, 101, arc}}}
      assert {:ok, jwk} = JWK.from_public_key(key)
      assert JWK.to_public_key(jwk) == {:ok, key}
    end

    assert {:ok, {:RSAPublicKey, modulus, 65_537} = key} = JWK.to_public_key(@rfc7638)
    assert byte_size(:binary.encode_unsigned(modulus)) == 256
    assert JWK.from_public_key(key) == {:ok, Map.take(@rfc7638, ["kty", "n", "e"])}
  end

  test "what JOSE has no name for, and what is no key, is none" do
    brainpool = :pubkey_cert_records.namedCurves(:brainpoolP256r1)
    assert JWK.from_public_key({{:ECPoint, <<4, 0::512>>}, {:namedCurve, brainpool}}) == :error

    assert JWK.from_public_key(
             {{:ECPoint, <<2, 0::256>>}, {:namedCurve, {1, 2, 840, 10_045, 3, 1, 7}}}
           ) == :error

    for jwk <- [
          %{},
          %{"kty" => "oct", "k" => "AAAA"},
          %{"kty" => "EC", "crv" => "P-256", "x" => "AAAA", "y" => "AAAA"},
          %{"kty" => "EC", "crv" => "P-256", "x" => 1, "y" => nil},
          %{
            "kty" => "OKP",
            "crv" => "X25519",
            "x" => Base.url_encode64(<<0::256>>, padding: false)
          },
          %{"kty" => "RSA", "n" => "!", "e" => "AQAB"},
          %{"kty" => "RSA", "n" => "", "e" => ""}
        ] do
      assert {jwk, JWK.to_public_key(jwk)} == {jwk, :error}
    end
  end
end
