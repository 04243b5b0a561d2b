defmodule Pkcs11Pool.SignTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Registry}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @hashes [sha1: :sha, sha224: :sha224, sha256: :sha256, sha384: :sha384, sha512: :sha512]
  @data "what is to be signed"

  # The keys are made by openssl and put on the token: what is known of them is known without the pool.
  setup_all do
    token = SoftHSM.new_token!()

    keys =
      for {label, id, algorithm} <- [
            {"rsa", <<1>>, ~w(RSA -pkeyopt rsa_keygen_bits:2048)},
            {"p256", <<2>>, ~w(EC -pkeyopt ec_paramgen_curve:P-256)},
            {"p384", <<3>>, ~w(EC -pkeyopt ec_paramgen_curve:P-384)},
            {"ed25519", <<4>>, ~w(ED25519)}
          ],
          into: %{} do
        pem = Path.join(SoftHSM.dir(), "#{token.label}-#{label}.pem")
        SoftHSM.openssl!(["genpkey", "-out", pem, "-algorithm" | algorithm])
        SoftHSM.import!(token, pem, label, id)
        public = SoftHSM.openssl!(["pkey", "-in", pem, "-pubout"])
        {label, {decode(File.read!(pem)), decode(public)}}
      end

    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})
    %{token: token, pool: pool, keys: keys}
  end

  setup %{pool: pool} do
    on_exit(fn ->
      Poll.until(fn -> match?(%{running: 0, waiting: 0, hung: 0}, Pkcs11Pool.status(pool)) end)
    end)
  end

  defp decode(pem) do
    case :public_key.pem_decode(pem) do
      # RFC 8410: the key's 32 bytes come last. OTP 25 does not decode it.
      [{:SubjectPublicKeyInfo, <<_::binary-size(12), point::binary-size(32)>>, _}] ->
        {{:ECPoint, point}, {:namedCurve, {1, 3, 101, 112}}}

      [entry] ->
        :public_key.pem_entry_decode(entry)
    end
  end

  # One of a wrong length does not reach the module.
  defp assert_invalid(result, executed \\ true) do
    assert {:error, %Error{reason: :signature_invalid} = error} = result
    assert error.executed == executed
    assert Exception.message(error) =~ "the signature is not valid"
  end

  # Both ways: the pool's signature is verified by OTP, OTP's by the pool; and a changed one by neither.
  defp both_ways(%{pool: pool} = context, label, mechanism, verified, opts \\ []) do
    {private, public} = context.keys[label]
    {data, hash, padding} = verified

    assert {:ok, signature} = Pkcs11Pool.sign(pool, label, mechanism, @data, opts)
    assert :public_key.verify(data, hash, signature, public, padding)

    foreign = :public_key.sign(data, hash, private, padding)
    assert Pkcs11Pool.verify(pool, label, mechanism, @data, foreign, opts) == :ok
    assert_invalid(Pkcs11Pool.verify(pool, label, mechanism, @data <> "!", foreign, opts))
  end

  defp generate_on!(pool, label, curve, encoding) do
    file = Path.join(SoftHSM.dir(), "#{pool}-#{label}.der")
    args = ~w(ecparam -name #{curve} -param_enc #{encoding} -outform DER -out #{file})
    SoftHSM.openssl!(args)

    {:ok, _pair} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :ec_key_pair_gen,
        [token: true, label: label, ec_params: File.read!(file), verify: true],
        token: true,
        label: label,
        private: true,
        sign: true
      )
  end

  describe "RSA" do
    test "PKCS #1 v1.5 with a hash", context do
      for {name, hash} <- [{:md5, :md5} | @hashes] do
        both_ways(context, "rsa", :"#{name}_rsa_pkcs", {@data, hash, []})
      end
    end

    test "PKCS #1 v1.5 of a DigestInfo", %{pool: pool, keys: %{"rsa" => {_private, public}}} do
      # The prefix of RFC 8017, 9.2, for SHA-256.
      prefix = Base.decode16!("3031300D060960864801650304020105000420")
      digest_info = prefix <> :crypto.hash(:sha256, @data)

      assert {:ok, signature} = Pkcs11Pool.sign(pool, "rsa", :rsa_pkcs, digest_info)
      assert :public_key.verify(@data, :sha256, signature, public)
      assert Pkcs11Pool.verify(pool, "rsa", :rsa_pkcs, digest_info, signature) == :ok
    end

    test "PKCS #1 v1.5 of more than fits into the key is SoftHSM's general error", %{pool: pool} do
      # 2048 bits less 11 bytes of padding.
      assert {:ok, _signature} = Pkcs11Pool.sign(pool, "rsa", :rsa_pkcs, <<0::size(245)-unit(8)>>)

      assert {:error, %Error{reason: :general_error, function: :C_Sign, executed: :unknown}} =
               Pkcs11Pool.sign(pool, "rsa", :rsa_pkcs, <<0::size(246)-unit(8)>>)
    end

    test "PSS with a hash, its salt as long as that", context do
      for {name, hash} <- @hashes do
        padding = [
          rsa_padding: :rsa_pkcs1_pss_padding,
          rsa_mgf1_md: hash,
          rsa_pss_saltlen: byte_size(:crypto.hash(hash, ""))
        ]

        both_ways(context, "rsa", :"#{name}_rsa_pkcs_pss", {@data, hash, padding})
      end
    end

    test "PSS with another salt", context do
      padding = [
        rsa_padding: :rsa_pkcs1_pss_padding,
        rsa_mgf1_md: :sha256,
        rsa_pss_saltlen: 20
      ]

      mechanism = {:sha256_rsa_pkcs_pss, salt_length: 20}
      both_ways(context, "rsa", mechanism, {@data, :sha256, padding})

      # As long as that of the hash: another signature scheme.
      assert {:ok, signature} = Pkcs11Pool.sign(context.pool, "rsa", mechanism, @data)

      assert_invalid(
        Pkcs11Pool.verify(context.pool, "rsa", :sha256_rsa_pkcs_pss, @data, signature)
      )
    end

    test "PSS of a digest", %{pool: pool, keys: %{"rsa" => {private, public}}} do
      padding = [
        rsa_padding: :rsa_pkcs1_pss_padding,
        rsa_mgf1_md: :sha384,
        rsa_pss_saltlen: 48
      ]

      mechanism = {:rsa_pkcs_pss, hash: :sha384}
      digest = :crypto.hash(:sha384, @data)

      assert {:ok, signature} = Pkcs11Pool.sign(pool, "rsa", mechanism, digest)
      assert :public_key.verify(@data, :sha384, signature, public, padding)

      foreign = :public_key.sign(@data, :sha384, private, padding)
      assert Pkcs11Pool.verify(pool, "rsa", mechanism, digest, foreign) == :ok
    end

    test "raw", %{pool: pool, keys: %{"rsa" => {_private, public}}} do
      block = <<0, :binary.copy("x", 255)::binary>>
      assert {:ok, signature} = Pkcs11Pool.sign(pool, "rsa", :rsa_x_509, block)

      assert :public_key.decrypt_public(signature, public, rsa_padding: :rsa_no_padding) ==
               block

      assert Pkcs11Pool.verify(pool, "rsa", :rsa_x_509, block, signature) == :ok

      assert {:error, %Error{reason: :data_len_range, executed: false}} =
               Pkcs11Pool.sign(pool, "rsa", :rsa_x_509, <<block::binary, 0>>)
    end
  end

  describe "ECDSA" do
    test "DER", context do
      for {label, hash} <- [{"p256", :sha256}, {"p384", :sha384}] do
        {private, public} = context.keys[label]
        digest = :crypto.hash(hash, @data)
        der = [signature: :der]

        assert {:ok, signature} = Pkcs11Pool.sign(context.pool, label, :ecdsa, digest, der)
        assert :public_key.verify({:digest, digest}, hash, signature, public)

        foreign = :public_key.sign({:digest, digest}, hash, private)
        assert Pkcs11Pool.verify(context.pool, label, :ecdsa, digest, foreign, der) == :ok

        other = :crypto.hash(hash, "something else")
        assert_invalid(Pkcs11Pool.verify(context.pool, label, :ecdsa, other, foreign, der))
      end
    end

    test "raw: r and s, each as long as the curve's order", context do
      for {label, hash, size} <- [{"p256", :sha256, 32}, {"p384", :sha384, 48}] do
        {private, public} = context.keys[label]
        digest = :crypto.hash(hash, @data)

        assert {:ok, <<r::size(size)-unit(8), s::size(size)-unit(8)>>} =
                 Pkcs11Pool.sign(context.pool, label, :ecdsa, digest)

        der = :public_key.der_encode(:"ECDSA-Sig-Value", {:"ECDSA-Sig-Value", r, s})
        assert :public_key.verify({:digest, digest}, hash, der, public)

        foreign = :public_key.sign({:digest, digest}, hash, private)
        {_, r, s} = :public_key.der_decode(:"ECDSA-Sig-Value", foreign)
        raw = <<r::size(size)-unit(8), s::size(size)-unit(8)>>
        assert Pkcs11Pool.verify(context.pool, label, :ecdsa, digest, raw) == :ok
      end
    end

    test "what is no DER signature is no valid signature", %{pool: pool} do
      digest = :crypto.hash(:sha256, @data)

      for signature <- ["", "rubbish", <<0x30, 6, 2, 1, 1, 2, 1>>, :binary.copy("x", 64)] do
        result = Pkcs11Pool.verify(pool, "p256", :ecdsa, digest, signature, signature: :der)
        assert {:error, %Error{reason: :signature_invalid, executed: false}} = result
      end
    end

    # OTP knows neither of the first two, and the last has no name on the token.
    for {curve, encoding} <- [
          {"SM2", "named_curve"},
          {"prime239v1", "named_curve"},
          {"prime256v1", "explicit"}
        ] do
      test "DER on #{curve}, #{encoding}", %{pool: pool} do
        label = "der-" <> unquote(curve)
        generate_on!(pool, label, unquote(curve), unquote(encoding))
        digest = :crypto.hash(:sha224, @data)
        der = [signature: :der]

        # Some of so many have an r or s that begins with zeros.
        for _ <- 1..20 do
          {:ok, signature} = Pkcs11Pool.sign(pool, label, :ecdsa, digest, der)
          assert Pkcs11Pool.verify(pool, label, :ecdsa, digest, signature, der) == :ok
        end

        {:ok, signature} = Pkcs11Pool.sign(pool, label, :ecdsa, digest, der)
        other = :crypto.hash(:sha224, "something else")
        assert_invalid(Pkcs11Pool.verify(pool, label, :ecdsa, other, signature, der))

        assert {:ok, [{:ok, true}, {:error, %Error{reason: :signature_invalid}}]} =
                 Pkcs11Pool.verify_many(
                   pool,
                   label,
                   :ecdsa,
                   [{digest, signature}, {other, signature}],
                   der
                 )
      end
    end

    test "DER with a key of another type", %{pool: pool} do
      digest = :crypto.hash(:sha256, @data)
      {:ok, signature} = Pkcs11Pool.sign(pool, "p256", :ecdsa, digest, signature: :der)

      for label <- ["rsa", "ed25519"] do
        result = Pkcs11Pool.verify(pool, label, :ecdsa, digest, signature, signature: :der)
        assert {:error, %Error{reason: :key_type_inconsistent, executed: false} = error} = result
        assert Exception.message(error) =~ "the key's type does not fit the mechanism"

        list = [{digest, signature}]
        results = Pkcs11Pool.verify_many(pool, label, :ecdsa, list, signature: :der)
        assert results == {:ok, [{:error, error}]}
      end
    end

    test "DER is ECDSA's alone", %{pool: pool} do
      message =
        "invalid value for :signature option: :der is for ECDSA mechanisms, got the mechanism :sha256_rsa_pkcs"

      assert_raise ArgumentError, message, fn ->
        Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, @data, signature: :der)
      end

      assert_raise ArgumentError, message, fn ->
        Pkcs11Pool.verify(pool, "rsa", :sha256_rsa_pkcs, @data, "x", signature: :der)
      end
    end

    test "DER of another mechanism is refused before anything is signed", %{token: token} do
      chaos_token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(chaos_token.chaos) end)
      pool = {token.label, :der}
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(chaos_token, name: pool)})
      key = [token: true, label: "mac", value_len: 32, sign: true, verify: true]
      {:ok, _key} = Pkcs11Pool.generate_key(pool, :generic_secret_key_gen, key)
      der = [signature: :der]

      for pool <- [pool, :nobody], label <- ["mac", "none"], list <- [[], ["a", "b"]] do
        signed = for data <- list, do: {data, "signature"}

        for call <- [
              fn -> Pkcs11Pool.sign(pool, label, :sha256_hmac, "a", der) end,
              fn -> Pkcs11Pool.sign_many(pool, label, :sha256_hmac, list, der) end,
              fn -> Pkcs11Pool.verify(pool, label, :sha256_hmac, "a", "s", der) end,
              fn -> Pkcs11Pool.verify_many(pool, label, :sha256_hmac, signed, der) end
            ] do
          assert_raise ArgumentError, ~r/:der is for ECDSA mechanisms/, call
        end
      end

      assert Chaos.calls(chaos_token.chaos, :C_SignInit) == 0

      # What is no mechanism at all is called that.
      for mechanism <- ["ecdsa", :no_such, {:vendor, -1, nil}] do
        assert_raise ArgumentError, ~r/mechanism/, fn ->
          Pkcs11Pool.sign(pool, "mac", mechanism, "a", der)
        end
      end
    end

    test "what is no ECDSA signature has no DER: the module's fault", %{pool: pool, token: token} do
      # An odd number of bytes, by a number that the call says is a vendor's for ECDSA.
      pem = Path.join(SoftHSM.dir(), "#{token.label}-odd.pem")
      SoftHSM.openssl!(~w(genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1032 -out) ++ [pem])
      odd = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(odd.chaos) end)
      SoftHSM.import!(odd, pem, "odd", <<5>>)
      pool = {pool, :odd}
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(odd, name: pool)})
      mechanism = {:vendor, 0x40, :ecdsa}

      assert {:ok, <<_::129-binary>>} = Pkcs11Pool.sign(pool, "odd", mechanism, @data)

      assert {:error, %Error{} = error} =
               Pkcs11Pool.sign(pool, "odd", mechanism, @data, signature: :der)

      assert %{reason: :general_error, code: nil, function: :C_Sign, executed: true} = error
      assert error.pool == pool
      assert Exception.message(error) =~ "gave 129 bytes for an ECDSA signature"

      assert_raise Error, fn ->
        Pkcs11Pool.sign!(pool, "odd", mechanism, @data, signature: :der)
      end

      assert {:ok, [{:error, %Error{reason: :general_error}}]} =
               Pkcs11Pool.sign_many(pool, "odd", mechanism, [@data], signature: :der)
    end

    test "a message is hashed where the token has no mechanism that does it", context do
      for {hash, name} <- @hashes do
        both_ways(context, "p256", {:ecdsa, hash: hash}, {@data, name, []}, signature: :der)
        both_ways(context, "p384", {:ecdsa, hash: hash}, {@data, name, []}, signature: :der)
      end

      for hash <- [:sha3_224, :sha3_256, :sha3_384, :sha3_512] do
        both_ways(context, "p384", {:ecdsa, hash: hash}, {@data, hash, []}, signature: :der)
      end

      %{pool: pool, keys: %{"p256" => {_private, public}}} = context
      messages = [@data, "", :binary.copy("x", 100_000)]
      mechanism = {:ecdsa, hash: :sha256}
      assert {:ok, signed} = Pkcs11Pool.sign_many(pool, "p256", mechanism, messages)
      signatures = for {:ok, signature} <- signed, do: signature
      assert length(signatures) == 3

      for {message, signature} <- Enum.zip(messages, signatures) do
        {:ok, der} = Pkcs11Pool.EcdsaSignature.to_der(signature)
        assert :public_key.verify(message, :sha256, der, public)
      end

      pairs = Enum.zip(messages, signatures) ++ [{"another", hd(signatures)}]

      assert {:ok, [{:ok, true}, {:ok, true}, {:ok, true}, {:error, error}]} =
               Pkcs11Pool.verify_many(pool, "p256", mechanism, pairs)

      assert error.reason == :signature_invalid
    end

    test "a message in place of a digest raises", %{pool: pool} do
      message = :binary.copy("x", 200)

      for run <- [
            &Pkcs11Pool.sign(pool, "p256", &1, message),
            &Pkcs11Pool.sign(pool, "p256", &1, [message]),
            &Pkcs11Pool.sign(pool, "p256", &1, message, signature: :der),
            &Pkcs11Pool.verify(pool, "p256", &1, message, <<0::512>>),
            &Pkcs11Pool.sign_many(pool, "p256", &1, [<<0::256>>, message]),
            &Pkcs11Pool.verify_many(pool, "p256", &1, [{message, <<0::512>>}])
          ],
          mechanism <- [:ecdsa, {:ecdsa, nil}, {:vendor, 0x1041, nil}] do
        error = assert_raise ArgumentError, fn -> run.(mechanism) end
        assert error.message =~ "got: 200 bytes"
        assert error.message =~ "{:ecdsa, hash: :sha256}"
        refute error.message =~ "xxx"
      end

      assert_raise ArgumentError, ~r/:dsa_sha256/, fn ->
        Pkcs11Pool.sign(pool, "p256", :dsa, message)
      end
    end

    test "SoftHSM has no ECDSA with a hash", %{pool: pool} do
      assert {:error, %Error{reason: :mechanism_invalid, executed: false} = error} =
               Pkcs11Pool.sign(pool, "p256", :ecdsa_sha256, @data)

      assert Exception.message(error) =~
               "the token does not have the mechanism :ecdsa_sha256, or not for this operation"
    end
  end

  describe "Ed25519" do
    test "a key that openssl made", %{pool: pool, keys: %{"ed25519" => {private, public}}} do
      assert {:ok, signature} = Pkcs11Pool.sign(pool, "ed25519", :eddsa, @data)
      assert :public_key.verify(@data, :none, signature, public)
      # It has but one signature of each message.
      assert signature == :public_key.sign(@data, :none, private)
    end

    # The public keys that softhsm2-util imports lack the DER around their point: SoftHSM cannot verify with them.
    test "a key that the token made", %{pool: pool} do
      assert {:ok, {public, private}} =
               Pkcs11Pool.generate_key_pair(
                 pool,
                 :ec_edwards_key_pair_gen,
                 [token: true, label: "ed25519 made", ec_params: :ed25519, verify: true],
                 token: true,
                 label: "ed25519 made",
                 private: true,
                 sign: true
               )

      assert {:ok, signature} = Pkcs11Pool.sign(pool, private, :eddsa, @data)
      assert Pkcs11Pool.verify(pool, public, :eddsa, @data, signature) == :ok
      assert_invalid(Pkcs11Pool.verify(pool, public, :eddsa, @data <> "!", signature))

      {:ok, public_key} = Pkcs11Pool.public_key(pool, public)
      assert :public_key.verify(@data, :none, signature, public_key)
    end
  end

  describe "MACs" do
    setup %{token: token} do
      label = "mac-#{System.unique_integer([:positive])}"
      path = Path.join(SoftHSM.dir(), label)

      SoftHSM.pkcs11_tool!(
        token,
        ~w(--keygen --key-type GENERIC:64 --extractable --label) ++ [label]
      )

      SoftHSM.pkcs11_tool!(
        token,
        ~w(--read-object --type secrkey --output-file) ++ [path, "--label", label]
      )

      %{label: label, key: File.read!(path)}
    end

    test "of :crypto are verified by the token", %{pool: pool, label: label, key: key} do
      for {mechanism, hash} <- [
            md5_hmac: :md5,
            sha_1_hmac: :sha,
            sha224_hmac: :sha224,
            sha256_hmac: :sha256,
            sha384_hmac: :sha384,
            sha512_hmac: :sha512
          ] do
        mac = :crypto.mac(:hmac, hash, key, @data)
        assert Pkcs11Pool.verify(pool, label, mechanism, @data, mac) == :ok
        assert_invalid(Pkcs11Pool.verify(pool, label, mechanism, "other", mac))

        assert_invalid(
          Pkcs11Pool.verify(pool, label, mechanism, @data, binary_part(mac, 0, 8)),
          false
        )
      end
    end

    test "of the token are :crypto's", %{pool: pool, label: label, key: key} do
      assert Pkcs11Pool.sign(pool, label, :sha256_hmac, @data) ==
               {:ok, :crypto.mac(:hmac, :sha256, key, @data)}
    end
  end

  describe "a key that the token made" do
    test "signs what openssl verifies", %{pool: pool} do
      assert {:ok, {_public, private}} =
               Pkcs11Pool.generate_key_pair(
                 pool,
                 :ec_key_pair_gen,
                 [token: true, label: "made", ec_params: :secp256r1, verify: true],
                 token: true,
                 label: "made",
                 private: true,
                 sign: true
               )

      assert {:ok, {{:ECPoint, point}, curve}} = Pkcs11Pool.public_key(pool, "made")

      entry = :public_key.pem_entry_encode(:SubjectPublicKeyInfo, {{:ECPoint, point}, curve})

      digest = :crypto.hash(:sha256, @data)
      {:ok, signature} = Pkcs11Pool.sign(pool, private, :ecdsa, digest, signature: :der)

      [pem, data, signed] =
        for name <- ~w(pem data sig), do: Path.join(SoftHSM.dir(), "#{pool}.#{name}")

      File.write!(pem, :public_key.pem_encode([entry]))
      File.write!(data, @data)
      File.write!(signed, signature)

      assert SoftHSM.openssl!(["dgst", "-sha256", "-verify", pem, "-signature", signed, data]) =~
               "Verified OK"
    end
  end

  describe "a wrong signature" do
    test "is invalid, whatever its length", %{pool: pool} do
      {:ok, signature} = Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, @data)
      <<first, rest::binary>> = signature

      for wrong <- [<<255 - first, rest::binary>>, rest, signature <> <<0>>, ""] do
        result = Pkcs11Pool.verify(pool, "rsa", :sha256_rsa_pkcs, @data, wrong)
        assert_invalid(result, byte_size(wrong) == byte_size(signature))
      end

      digest = :crypto.hash(:sha256, @data)
      {:ok, signature} = Pkcs11Pool.sign(pool, "p256", :ecdsa, digest)

      for wrong <- [
            :binary.copy(<<1>>, 64),
            binary_part(signature, 0, 63),
            signature <> <<0>>,
            ""
          ] do
        result = Pkcs11Pool.verify(pool, "p256", :ecdsa, digest, wrong)
        assert_invalid(result, byte_size(wrong) == byte_size(signature))
      end
    end

    test "harms no later call", %{pool: pool} do
      {:ok, signature} = Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, @data)

      for _ <- 1..20 do
        assert_invalid(
          Pkcs11Pool.verify(pool, "rsa", :sha256_rsa_pkcs, @data, "rubbish"),
          false
        )

        changed = :binary.copy("x", byte_size(signature))
        assert_invalid(Pkcs11Pool.verify(pool, "rsa", :sha256_rsa_pkcs, @data, changed))
        assert Pkcs11Pool.verify(pool, "rsa", :sha256_rsa_pkcs, @data, signature) == :ok
      end
    end
  end

  describe "the data" do
    test "may be iodata, for data and signature", %{pool: pool} do
      {:ok, signature} =
        Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, ["what ", [?i, "s"], " signed"])

      assert Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, "what is signed") == {:ok, signature}

      <<start::binary-size(100), rest::binary>> = signature

      assert Pkcs11Pool.verify(pool, "rsa", :sha256_rsa_pkcs, [~c"what", " is signed"], [
               start,
               [rest]
             ]) ==
               :ok
    end

    test "may be empty", context do
      {_private, public} = context.keys["rsa"]

      for data <- ["", [], [[]]] do
        {:ok, signature} = Pkcs11Pool.sign(context.pool, "rsa", :sha256_rsa_pkcs, data)
        assert :public_key.verify("", :sha256, signature, public)
        assert Pkcs11Pool.verify(context.pool, "rsa", :sha256_rsa_pkcs, data, signature) == :ok
      end
    end

    test "may be large", context do
      {_private, public} = context.keys["rsa"]

      for size <- [65_535, 65_536, 65_537, 8 * 1024 * 1024] do
        data = :crypto.strong_rand_bytes(size)
        {:ok, signature} = Pkcs11Pool.sign(context.pool, "rsa", :sha256_rsa_pkcs, data)
        assert :public_key.verify(data, :sha256, signature, public)
        assert Pkcs11Pool.verify(context.pool, "rsa", :sha256_rsa_pkcs, data, signature) == :ok
      end
    end

    test "may be part of a larger binary", context do
      {_private, public} = context.keys["rsa"]

      <<_::binary-size(3), data::binary-size(100_000), _::binary>> =
        :crypto.strong_rand_bytes(200_000)

      {:ok, signature} = Pkcs11Pool.sign(context.pool, "rsa", :sha256_rsa_pkcs, data)
      assert :public_key.verify(data, :sha256, signature, public)
    end
  end

  test "large data that its caller has dropped is kept until it is signed", context do
    pool = :"#{context.pool}-dropped"

    start_supervised!(
      {Pkcs11Pool,
       SoftHSM.pool_opts(context.token, name: pool, pool_size: 1, executor: :dirty_io)}
    )

    # Afterwards no caller waits for anything but its answer: not for modules that are loaded, either.
    assert {:ok, _signature} = Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, "")
    assert %{idle: 1} = Pools.drained!(pool)
    [{_, runner, _, _}] = DynamicSupervisor.which_children(Registry.via(:runners, pool))

    # Nothing runs for now.
    :sys.suspend(runner)
    size = 4 * 1024 * 1024

    caller =
      Task.async(fn -> Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, :binary.copy("x", size)) end)

    holds? = fn ->
      {:binary, binaries} = Process.info(caller.pid, :binary)
      Enum.any?(binaries, fn {_address, held, _references} -> held >= size end)
    end

    # The operation has been taken, and then its caller waits.
    Poll.until(fn ->
      status = Pkcs11Pool.status(pool)

      status.running + status.waiting == 1 and
        Process.info(caller.pid, :status) == {:status, :waiting}
    end)

    :erlang.garbage_collect(caller.pid)
    refute holds?.()
    :sys.resume(runner)

    assert {:ok, signature} = Task.await(caller, 60_000)
    {_private, public} = context.keys["rsa"]
    assert :public_key.verify(:binary.copy("x", size), :sha256, signature, public)
    assert %{running: 0, waiting: 0} = Pkcs11Pool.status(pool)
  end

  test "a key that may not sign does not", %{pool: pool} do
    {:ok, _} =
      Pkcs11Pool.generate_key_pair(
        pool,
        :ec_key_pair_gen,
        [token: true, label: "derive", ec_params: :secp256r1],
        token: true,
        label: "derive",
        private: true,
        sign: false,
        derive: true
      )

    assert {:error, %Error{reason: :key_function_not_permitted, function: :C_SignInit} = error} =
             Pkcs11Pool.sign(pool, "derive", :ecdsa, :crypto.hash(:sha256, @data))

    assert error.executed == false
  end

  test "a key of another type is refused before the module is asked, and harms no later call",
       context do
    %{pool: pool, keys: %{"rsa" => {_private, public}}} = context

    for _ <- 1..10 do
      assert {:error, %Error{reason: :key_type_inconsistent, executed: false} = error} =
               Pkcs11Pool.sign(pool, "p256", :sha256_rsa_pkcs, @data)

      assert Exception.message(error) =~ "of type :ec does not fit the mechanism :sha256_rsa_pkcs"
      assert {:ok, signature} = Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, @data)
      assert :public_key.verify(@data, :sha256, signature, public)
    end
  end

  describe "a token that does not hash" do
    setup do
      %{token: token, chaos: chaos} = ChaosToken.for_test!()
      pool = String.to_atom(token.label)
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 1)}, id: pool)

      {:ok, _pair} =
        Pkcs11Pool.generate_key_pair(
          pool,
          :rsa_pkcs_key_pair_gen,
          [token: true, label: "rsa", modulus_bits: 2048, verify: true],
          token: true,
          label: "rsa",
          private: true,
          sign: true
        )

      {:ok, public} = Pkcs11Pool.public_key(pool, "rsa")
      %{unkind: pool, chaos: chaos, public: public}
    end

    test "signs and verifies messages that are hashed for it, and is asked once", context do
      %{unkind: pool, chaos: chaos, public: public} = context

      for {mechanism, plain, options} <- [
            {{:rsa_pkcs, hash: :sha256}, :sha256_rsa_pkcs, []},
            {:sha256_rsa_pkcs_pss, :sha256_rsa_pkcs_pss,
             rsa_padding: :rsa_pkcs1_pss_padding, rsa_pss_saltlen: 32, rsa_mgf1_md: :sha256}
          ] do
        Pkcs11Pool.forget_keys(pool)
        {:ok, by_token} = Pkcs11Pool.sign(pool, "rsa", plain, @data)
        Chaos.fail(chaos, :C_SignInit, :mechanism_invalid, count: 1)
        Chaos.fail(chaos, :C_VerifyInit, :mechanism_invalid, count: 1)
        Chaos.reset_counts(chaos)

        assert {:ok, signature} = Pkcs11Pool.sign(pool, "rsa", mechanism, @data)
        assert :public_key.verify(@data, :sha256, signature, public, options)
        if options == [], do: assert(signature == by_token)
        assert Chaos.calls(chaos, :C_SignInit) == 2
        assert {:ok, _signature} = Pkcs11Pool.sign(pool, "rsa", mechanism, @data)
        assert Chaos.calls(chaos, :C_SignInit) == 3

        assert Pkcs11Pool.verify(pool, "rsa", mechanism, @data, by_token) == :ok
        assert Chaos.calls(chaos, :C_VerifyInit) == 2
        assert_invalid(Pkcs11Pool.verify(pool, "rsa", mechanism, @data <> "!", by_token))
        assert Chaos.calls(chaos, :C_VerifyInit) == 3
      end
    end

    test "that refuses the raw mechanism, too, says so; other errors are not taken for a refusal",
         %{unkind: pool, chaos: chaos} do
      Chaos.fail(chaos, :C_SignInit, :mechanism_invalid)
      mechanism = {:rsa_pkcs, hash: :sha256}

      assert {:error, %Error{reason: :mechanism_invalid, executed: false}} =
               Pkcs11Pool.sign(pool, "rsa", mechanism, @data)

      Chaos.clear(chaos, :C_SignInit)
      Pkcs11Pool.forget_keys(pool)
      Chaos.fail(chaos, :C_SignInit, :key_function_not_permitted, count: 1)
      Chaos.reset_counts(chaos)

      assert {:error, %Error{reason: :key_function_not_permitted}} =
               Pkcs11Pool.sign(pool, "rsa", mechanism, @data)

      assert Chaos.calls(chaos, :C_SignInit) == 1
    end

    test "by the token's own name it is not hashed elsewhere", %{unkind: pool, chaos: chaos} do
      Chaos.fail(chaos, :C_SignInit, :mechanism_invalid, count: 1)

      assert {:error, %Error{reason: :mechanism_invalid}} =
               Pkcs11Pool.sign(pool, "rsa", :sha256_rsa_pkcs, @data)
    end
  end
end
