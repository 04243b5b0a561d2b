defmodule Pkcs11Pool.OTP.PrivateKeyTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.OTP.Signer
  alias Pkcs11Pool.Test.{Pools, SoftHSM}
  alias Pkcs11Pool.{Error, OTP}

  setup_all do
    token = SoftHSM.new_token!()
    opts = SoftHSM.pool_opts(token)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]
    Pools.key_pair!(pool, "p256")

    {:ok, _pair} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :rsa_pkcs_key_pair_gen,
        [token: true, label: "rsa", modulus_bits: 2048, public_exponent: 65_537, verify: true],
        token: true,
        label: "rsa",
        private: true,
        sign: true
      )

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

    public =
      for label <- ["rsa", "p256", "ed25519"],
          into: %{},
          do: {label, Pkcs11Pool.public_key!(pool, label)}

    %{pool: pool, public: public, otp?: OTP.supported?()}
  end

  # The function as public_key calls it, on any OTP.
  defp sign(pool, key, algorithm, message, hash, options \\ []),
    do: Signer.sign!(pool, key, algorithm, message, hash, options, [])

  @message ["iodata ", ["of", ?\s, "a message"]]
  @bytes "iodata of a message"

  for hash <- [:sha, :sha224, :sha256, :sha384, :sha512, :sha3_256] do
    @tag hash: hash
    test "RSA and ECDSA sign what is asked for with #{hash}, of messages and of digests",
         context do
      %{pool: pool, public: public, hash: hash} = context
      digest = :crypto.hash(hash, @bytes)

      for message <- [@message, {:digest, digest}] do
        signature = sign(pool, "rsa", :rsa, message, hash)
        assert :public_key.verify(@bytes, hash, signature, public["rsa"])

        options = [rsa_padding: :rsa_pkcs1_pss_padding, rsa_pss_saltlen: 20, rsa_mgf1_md: :sha256]

        # SoftHSM takes PSS with the hash of its MGF only.
        if hash == :sha256 do
          signature = sign(pool, "rsa", :rsa, message, hash, options)
          assert :public_key.verify(@bytes, hash, signature, public["rsa"], options)
        end

        # A digest is as long as it is: SHA-512 of P-256 too.
        signature = sign(pool, "p256", :ecdsa, message, hash)
        assert :public_key.verify(@bytes, hash, signature, public["p256"])
      end
    end
  end

  for hash <- [:sha256, :sha384, :sha512] do
    test "PSS with #{hash} has a salt as long as the hash where nobody says otherwise", context do
      %{pool: pool, public: public} = context
      hash = unquote(hash)
      size = byte_size(:crypto.hash(hash, ""))
      expected = [rsa_padding: :rsa_pkcs1_pss_padding, rsa_pss_saltlen: size, rsa_mgf1_md: hash]

      for {algorithm, options} <- [
            {:rsa_pss_pss, []},
            {:rsa, [rsa_padding: :rsa_pkcs1_pss_padding]},
            {:rsa, [rsa_padding: :rsa_pkcs1_pss_padding, rsa_pss_saltlen: -1]},
            {:rsa, expected}
          ],
          message <- [@message, {:digest, :crypto.hash(hash, @bytes)}] do
        signature = sign(pool, "rsa", algorithm, message, hash, options)
        assert :public_key.verify(@bytes, hash, signature, public["rsa"], expected)
      end
    end
  end

  test "a digest without the name of its hash is signed as it is", %{pool: pool, public: public} do
    digest = :crypto.hash(:sha256, @bytes)
    signature = sign(pool, "p256", :ecdsa, digest, :none)
    assert :public_key.verify(@bytes, :sha256, signature, public["p256"])

    signature = sign(pool, "rsa", :rsa, "raw", :none)
    assert :public_key.decrypt_public(signature, public["rsa"]) == "raw"
  end

  test "EdDSA signs messages, and no digests", %{pool: pool, public: public} do
    signature = sign(pool, "ed25519", :eddsa, @message, :none)
    {{:ECPoint, point}, _curve} = public["ed25519"]
    assert :crypto.verify(:eddsa, :none, @bytes, signature, [point, :ed25519])

    assert_raise ArgumentError, ~r/no digests/, fn ->
      sign(pool, "ed25519", :eddsa, {:digest, <<0::512>>}, :sha512)
    end
  end

  test "what cannot be signed names what is wrong", %{pool: pool} do
    for {message, arguments} <- [
          {~r/expected a digest of 32 bytes/, [:rsa, {:digest, "short"}, :sha256, []]},
          {~r/unsupported hash.*:whirlpool/, [:rsa, {:digest, <<0::512>>}, :whirlpool, []]},
          {~r/unsupported hash.*:md5/, [:rsa_pss_pss, "x", :md5, []]},
          {~r/unsupported :rsa_padding/, [:rsa, "x", :sha256, [rsa_padding: :rsa_no_padding]]}
        ] do
      [algorithm, data, hash, options] = arguments

      assert_raise ArgumentError, message, fn ->
        sign(pool, "rsa", algorithm, data, hash, options)
      end
    end
  end

  describe "private_key/3" do
    test "gives a key of public_key, or says which OTP it needs", context do
      %{pool: pool, public: public} = context

      if context.otp? do
        for {label, algorithm, hash} <- [
              {"rsa", :rsa, :sha256},
              {"p256", :ecdsa, :sha256},
              {"ed25519", :eddsa, :none}
            ] do
          assert {:ok, %{algorithm: ^algorithm, sign_fun: fun} = key} =
                   OTP.private_key(pool, label)

          # encrypt_fun would be taken first, for signatures, too.
          assert map_size(key) == 2
          assert is_function(fun, 3)
          signature = :public_key.sign(@bytes, hash, key, [])
          assert :public_key.verify(@bytes, hash, signature, public[label])
        end
      else
        assert {:error, %Error{reason: :otp_too_old, executed: false, message: message}} =
                 OTP.private_key(pool, "rsa")

        assert message =~ "OTP 27"
        assert message =~ "this is OTP #{:erlang.system_info(:otp_release)}"
        assert_raise Error, ~r/OTP 27/, fn -> OTP.private_key!(pool, "rsa") end
      end
    end

    test "asks nobody where the algorithm is given: the pool need not run yet", %{otp?: otp?} do
      if otp?,
        do: assert({:ok, %{algorithm: :rsa}} = OTP.private_key(:not_yet, "rsa", algorithm: :rsa)),
        else:
          assert(
            {:error, %Error{reason: :otp_too_old}} =
              OTP.private_key(:not_yet, "rsa", algorithm: :rsa)
          )
    end

    test "refuses options and keys that are none", %{pool: pool} do
      for {message, key, opts} <- [
            {~r/:algorithm/, "rsa", [algorithm: :dsa]},
            {~r/unknown option/, "rsa", [algorithms: :rsa]},
            {~r/keyword list/, "rsa", %{}},
            {~r/./, [], []}
          ] do
        assert_raise ArgumentError, message, fn -> OTP.private_key(pool, key, opts) end
      end
    end
  end

  test "a signature that fails is logged once in a while, and each is an event", %{pool: pool} do
    failures = OTP.Failure.new()
    error = fn reason -> Error.new(reason, pool: pool) end

    log =
      capture_log(fn ->
        for _ <- 1..5, do: OTP.Failure.report(failures, pool, :rsa, error.(:token_unavailable))
        OTP.Failure.report(failures, pool, :rsa, error.(:key_not_found))
      end)

    lines = for line <- String.split(log, "\n"), line =~ inspect(pool), do: line
    assert [away, gone] = lines
    assert away =~ "a signature for :public_key or :ssl failed"
    assert gone =~ "no object on the token matches the key"
    assert gone =~ "and 4 more"
  end
end
