defmodule Pkcs11Pool.DigestKeyTest do
  # The digest of a key, and a seed for the token's random generator.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @hashes [sha_1: :sha, sha224: :sha224, sha256: :sha256, sha384: :sha384, sha512: :sha512]

  setup do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: pool, pool_size: 2)})
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    %{pool: pool, chaos: chaos}
  end

  # A key whose value the token reveals, and the value.
  defp readable_key!(pool, label, type \\ :generic_secret_key_gen) do
    key =
      Pkcs11Pool.generate_key!(pool, type,
        token: true,
        label: label,
        value_len: 32,
        private: true,
        sensitive: false,
        extractable: true,
        sign: true
      )

    {:ok, %{value: value}} = Pkcs11Pool.get_attributes(pool, key, [:value])
    {key, value}
  end

  defp rested!(pool, chaos) do
    Pools.drained!(pool)
    assert Chaos.violations(chaos) == []
  end

  describe "digest_key/4" do
    test "is the digest of the key's value, by object, label and template", %{
      pool: pool,
      chaos: chaos
    } do
      {key, value} = readable_key!(pool, "kcv")

      for {mechanism, hash} <- @hashes, key <- [key, "kcv", [label: "kcv"]] do
        assert Pkcs11Pool.digest_key(pool, mechanism, key) == {:ok, :crypto.hash(hash, value)}
      end

      {_key, value} = readable_key!(pool, "aes", :aes_key_gen)
      assert Pkcs11Pool.digest_key!(pool, :sha256, "aes") == :crypto.hash(:sha256, value)
      assert Chaos.calls(chaos, :C_DigestUpdate) == 0
      rested!(pool, chaos)
    end

    test "what comes before and after the key is digested with it", %{pool: pool, chaos: chaos} do
      {_key, value} = readable_key!(pool, "kdf")
      long = :binary.copy("long", 100_000)

      for {prefix, suffix} <- [
            {"nonce", ""},
            {"", "info"},
            {["non", ?c | "e"], ["in", [[]], "fo"]},
            {long, long}
          ] do
        expected = :crypto.hash(:sha384, [prefix, value, suffix])

        opts = [prefix: prefix, suffix: suffix]
        assert Pkcs11Pool.digest_key(pool, :sha384, "kdf", opts) == {:ok, expected}
      end

      rested!(pool, chaos)
    end

    test "a key that may not be digested, or is not there, is told, and the session serves on", %{
      pool: pool,
      chaos: chaos
    } do
      Pkcs11Pool.generate_key!(pool, :aes_key_gen,
        token: true,
        label: "hidden",
        value_len: 32,
        sensitive: true,
        extractable: false,
        encrypt: true
      )

      Pools.drained!(pool)
      opened = Chaos.calls(chaos, :C_OpenSession)

      # Which keys those are is the token's to say: with MD5, SoftHSM takes none that may not leave it.
      assert {:error,
              %Error{reason: :key_indigestible, function: :C_DigestKey, pool: ^pool} = error} =
               Pkcs11Pool.digest_key(pool, :md5, "hidden")

      refute Error.retryable?(error)

      assert {:error, %Error{reason: :key_not_found, executed: false}} =
               Pkcs11Pool.digest_key(pool, :sha256, "none such")

      assert {:error, %Error{reason: :mechanism_invalid, function: :C_DigestInit} = error} =
               Pkcs11Pool.digest_key(pool, :sha3_256, "hidden")

      assert Exception.message(error) =~ "sha3_256"

      # No operation is left on a session, or it would be refused here.
      for _ <- 1..8 do
        assert Pkcs11Pool.digest(pool, :sha256, "abc") == {:ok, :crypto.hash(:sha256, "abc")}
      end

      assert Chaos.calls(chaos, :C_OpenSession) == opened
      rested!(pool, chaos)
    end

    test "an operation that a refused key leaves behind is ended, and the session serves on", %{
      pool: pool,
      chaos: chaos
    } do
      {_key, value} = readable_key!(pool, "kept")
      Pools.drained!(pool)
      opened = Chaos.calls(chaos, :C_OpenSession)
      Chaos.fail(chaos, :C_DigestKey, :key_indigestible, count: 1)

      assert {:error, %Error{reason: :key_indigestible, executed: false}} =
               Pkcs11Pool.digest_key(pool, :sha256, "kept")

      for _ <- 1..8 do
        assert Pkcs11Pool.digest_key(pool, :sha256, "kept") ==
                 {:ok, :crypto.hash(:sha256, value)}
      end

      assert Chaos.calls(chaos, :C_OpenSession) == opened
      rested!(pool, chaos)
    end

    test "an operation that cannot be ended costs its session, and nobody else's", %{
      pool: pool,
      chaos: chaos
    } do
      {_key, value} = readable_key!(pool, "left")
      Chaos.fail(chaos, :C_DigestKey, :key_indigestible, count: 1)
      Chaos.fail(chaos, :C_DigestFinal, :function_failed, count: 1)

      assert {:error, %Error{reason: :key_indigestible}} =
               Pkcs11Pool.digest_key(pool, :sha256, "left")

      for _ <- 1..8 do
        assert Pkcs11Pool.digest_key(pool, :sha256, "left") ==
                 {:ok, :crypto.hash(:sha256, value)}
      end

      rested!(pool, chaos)
    end

    test "is tried again where the token, and not the caller, is to blame", %{
      pool: pool,
      chaos: chaos
    } do
      {_key, value} = readable_key!(pool, "again")
      digest = {:ok, :crypto.hash(:sha256, ["<", value, ">"])}
      opts = [prefix: "<", suffix: ">"]

      for function <- [:C_DigestInit, :C_DigestUpdate, :C_DigestKey, :C_DigestFinal],
          code <- [:session_handle_invalid, :device_error, :user_not_logged_in] do
        Chaos.fail(chaos, function, code, count: 1)
        :ok = Pkcs11Pool.await_ready(pool, 30_000)

        assert {function, code, Pkcs11Pool.digest_key(pool, :sha256, "again", opts)} ==
                 {function, code, digest}
      end

      # A handle that is not good any more is found again.
      Chaos.invalidate_objects(chaos)
      assert Pkcs11Pool.digest_key(pool, :sha256, "again", opts) == digest
      rested!(pool, chaos)
    end

    test "runs on a lease's session, with session keys", %{pool: pool, chaos: chaos} do
      Pkcs11Pool.with_session(pool, fn lease ->
        template = [label: "s", value_len: 16, sensitive: false, extractable: true]
        key = Pkcs11Pool.generate_key!(lease, :generic_secret_key_gen, template)
        %{value: value} = Pkcs11Pool.get_attributes!(lease, key, [:value])

        assert Pkcs11Pool.digest_key(lease, :sha256, key) ==
                 {:ok, :crypto.hash(:sha256, value)}
      end)

      rested!(pool, chaos)
    end

    test "options are checked, and their values not shown", %{pool: pool} do
      error =
        assert_raise ArgumentError, ~r/invalid value for :prefix option: expected iodata/, fn ->
          Pkcs11Pool.digest_key(pool, :sha256, "k", prefix: {:key, "hunter2"})
        end

      refute error.message =~ "hunter2"

      assert_raise ArgumentError, ~r/unknown options \[:before\]/, fn ->
        Pkcs11Pool.digest_key(pool, :sha256, "k", before: "x")
      end

      assert_raise ArgumentError, fn -> Pkcs11Pool.digest_key(pool, :sha257, "k") end
    end
  end

  describe "seed_random/3" do
    test "mixes a seed into the token's random generator", %{pool: pool, chaos: chaos} do
      assert Pkcs11Pool.seed_random(pool, "seed") == :ok
      assert Pkcs11Pool.seed_random!(pool, ["s", [?e | "ed"]]) == :ok
      assert Pkcs11Pool.seed_random(pool, :binary.copy("seed", 50_000)) == :ok
      assert Chaos.calls(chaos, :C_SeedRandom) == 3
      # It adds to what the generator has, and does not replace it.
      assert :ok = Pkcs11Pool.seed_random(pool, "same")
      {:ok, one} = Pkcs11Pool.generate_random(pool, 32)
      assert :ok = Pkcs11Pool.seed_random(pool, "same")
      {:ok, two} = Pkcs11Pool.generate_random(pool, 32)
      assert one != two
      rested!(pool, chaos)
    end

    test "a token that takes no seed says so, once", %{pool: pool, chaos: chaos} do
      for code <- [:random_seed_not_supported, :random_no_rng, :function_not_supported] do
        Chaos.reset_counts(chaos)
        Chaos.fail(chaos, :C_SeedRandom, code, count: 1)

        assert {:error, %Error{reason: ^code, function: :C_SeedRandom} = error} =
                 Pkcs11Pool.seed_random(pool, "hunter2")

        refute inspect(error) =~ "hunter2"
        refute Error.retryable?(error)
        assert Chaos.calls(chaos, :C_SeedRandom) == 1
      end

      rested!(pool, chaos)
    end

    test "is tried again where the token is to blame: a seed may come twice", %{
      pool: pool,
      chaos: chaos
    } do
      for code <- [:session_handle_invalid, :device_error] do
        Chaos.fail(chaos, :C_SeedRandom, code, count: 1)
        assert :ok = Pkcs11Pool.seed_random(pool, "seed")
      end

      rested!(pool, chaos)
    end

    test "no seed at all, or what is none, is a mistake", %{pool: pool, chaos: chaos} do
      for seed <- ["", [], nil, :hunter2, ["a", 256]] do
        error =
          assert_raise ArgumentError, ~r/expected the seed to be/, fn ->
            Pkcs11Pool.seed_random(pool, seed)
          end

        refute error.message =~ "hunter2"
      end

      assert Chaos.calls(chaos, :C_SeedRandom) == 0
      assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.seed_random(:none_such, "s")
    end
  end
end
