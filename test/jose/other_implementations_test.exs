defmodule Pkcs11Pool.JOSEInteroperabilityTest do
  # Signed JSON in the eyes of two other implementations: Erlang's jose and Python's jwcrypto.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{OTPLibrary, Pools, SoftHSM}
  alias Pkcs11Pool.{Error, JOSE, JWK, JWS}

  @compile {:no_warn_undefined, [:jose, :jose_jwk, :jose_jws, :jose_jwt]}

  defmodule Codec do
    @moduledoc false
    # jose asks for a JSON library.
    def encode(term), do: term |> Pkcs11Pool.JSON.encode() |> IO.iodata_to_binary()

    def decode(binary) do
      {:ok, term} = Pkcs11Pool.JSON.decode(binary)
      term
    end
  end

  @keys [
    {"rsa", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]},
    {"p256", ["ES256"]},
    {"p384", ["ES384"]},
    {"p521", ["ES512"]},
    {"k256", ["ES256K"]},
    {"ed25519", ["EdDSA"]}
  ]
  @claims %{"sub" => "1234567890", "name" => "Jöhn", "admin" => true}

  setup_all do
    token = SoftHSM.new_token!()
    opts = SoftHSM.pool_opts(token)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]

    Pools.signing_pair!(pool, "rsa", :rsa_pkcs_key_pair_gen,
      modulus_bits: 2048,
      public_exponent: 65_537
    )

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

  describe "Erlang's jose" do
    setup do
      true = OTPLibrary.load(:jose)
      {:ok, _started} = Application.ensure_all_started(:jose)
      :jose.json_module(Codec)
      :ok
    end

    test "verifies what is signed here, with the exported key, and has its thumbprint", %{
      pool: pool
    } do
      for {label, algorithms} <- @keys, alg <- algorithms do
        jwk = JWK.public!(pool, label)
        key = :jose_jwk.from_map(jwk)
        assert :jose_jwk.thumbprint(key) == jwk["kid"]
        jws = JWS.sign!(pool, label, @claims, alg: alg)
        assert {true, payload, _header} = :jose_jws.verify_strict(key, [alg], jws)
        assert Codec.decode(payload) == @claims
      end
    end

    test "signs with a key of the token, and what it signs is verified here and there", %{
      pool: pool
    } do
      for {label, algorithms} <- @keys, alg <- algorithms do
        jwk = JOSE.jwk!(pool, label)
        {_fields, signed} = :jose_jwt.sign(jwk, %{"alg" => alg}, @claims)
        {_fields, compact} = :jose_jws.compact(signed)

        assert {:ok, %{payload: payload}} =
                 JWS.verify(compact, JWK.public!(pool, label), algorithms: [alg])

        assert Codec.decode(payload) == @claims
        # With the key itself, and with its public half.
        assert {true, ^payload, _header} = :jose_jws.verify_strict(jwk, [alg], compact)
        public = :jose_jwk.to_public(jwk)
        assert {true, ^payload, _header} = :jose_jws.verify_strict(public, [alg], compact)
      end
    end

    test "gets the default algorithm of a key, its public half, and the pool's errors", %{
      pool: pool
    } do
      for {label, alg} <- [{"rsa", "RS256"}, {"p384", "ES384"}, {"ed25519", "EdDSA"}] do
        jwk = JOSE.jwk!(pool, label, kid: "mine")
        assert %{"alg" => ^alg} = :jose_jwk.signer(jwk)
        {_kind, map} = :jose_jwk.to_public_map(jwk)

        assert Map.take(map, ["kty", "kid", "n", "x", "y"]) ==
                 Map.take(JWK.public!(pool, label, kid: "mine"), ["kty", "kid", "n", "x", "y"])

        {_kind, whole} = :jose_jwk.to_map(jwk)
        refute is_map_key(whole, "d")
      end

      assert_raise Error, ~r/another curve/, fn ->
        :jose_jwt.sign(JOSE.jwk!(pool, "p256"), %{"alg" => "ES256K"}, @claims)
      end

      assert {:error, %Error{reason: :key_not_found}} = JOSE.jwk(pool, "none")
    end
  end

  describe "Python's jwcrypto" do
    @python "/usr/bin/python3"
    @there File.exists?(@python) and
             match?(
               {_, 0},
               System.cmd(@python, ["-c", "import jwcrypto"], stderr_to_stdout: true)
             )

    unless @there, do: @describetag(skip: "python3-jwcrypto is not installed")

    # Verifies each line's token with its key, and signs the payload again with a key of its own.
    @script """
    import base64, json, sys
    from jwcrypto import jwk, jws
    for line in sys.stdin:
        item = json.loads(line)
        key = jwk.JWK(**item["jwk"])
        token = jws.JWS()
        token.allowed_algs = [item["alg"]]
        compact = item["jws"]
        if item["payload"] is not None:
            header, nothing, signature = compact.split(".")
            assert nothing == ""
            payload = base64.urlsafe_b64encode(item["payload"].encode()).decode().rstrip("=")
            compact = ".".join([header, payload, signature])
        token.deserialize(compact)
        token.verify(key)
        own = jwk.JWK.generate(**item["own"])
        again = jws.JWS(b"made there")
        again.allowed_algs = [item["alg"]]
        again.add_signature(own, None, json.dumps({"alg": item["alg"]}))
        print(json.dumps({"thumbprint": key.thumbprint(), "jws": again.serialize(compact=True), "jwk": json.loads(own.export_public())}))
    """

    @own %{
      "rsa" => %{kty: "RSA", size: 2048},
      "p256" => %{kty: "EC", crv: "P-256"},
      "p384" => %{kty: "EC", crv: "P-384"},
      "p521" => %{kty: "EC", crv: "P-521"},
      "k256" => %{kty: "EC", crv: "secp256k1"},
      "ed25519" => %{kty: "OKP", crv: "Ed25519"}
    }

    test "verifies what is signed here, and what it signs is verified here", %{pool: pool} do
      items =
        for {label, algorithms} <- @keys, alg <- algorithms, detached <- [false, true] do
          jws = JWS.sign!(pool, label, "made here", alg: alg, detached: detached)

          %{
            alg: alg,
            jwk: JWK.public!(pool, label),
            jws: jws,
            payload: if(detached, do: "made here"),
            own: @own[label]
          }
        end

      answers = python(Enum.map(items, &[Pkcs11Pool.JSON.encode(&1), "\n"]))
      assert length(answers) == length(items)

      for {item, answer} <- Enum.zip(items, answers) do
        {:ok, %{"thumbprint" => thumbprint, "jws" => jws, "jwk" => jwk}} =
          Pkcs11Pool.JSON.decode(answer)

        assert thumbprint == item.jwk["kid"]

        assert {:ok, %{payload: "made there"}} = JWS.verify(jws, jwk, algorithms: [item.alg])
      end
    end

    defp python(lines) do
      base = Path.join(SoftHSM.dir(), "jwcrypto-#{System.unique_integer([:positive])}")
      File.write!(base <> ".py", @script)
      File.write!(base <> ".in", lines)
      {output, 0} = System.shell("#{@python} #{base}.py < #{base}.in 2>&1")
      String.split(output, "\n", trim: true)
    end
  end
end
