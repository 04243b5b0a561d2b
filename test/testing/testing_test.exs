defmodule Pkcs11Pool.TestingTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Testing
  alias Pkcs11Pool.Testing.Chaos

  @secrets %{aes128: 16, aes256: 32}

  test "one call gives a pool with keys of every kind, which do what they are for" do
    pairs = [
      rsa2048: :sha256_rsa_pkcs,
      p256: {:ecdsa, hash: :sha256},
      p384: {:ecdsa, hash: :sha384},
      p521: {:ecdsa, hash: :sha512},
      secp256k1: {:ecdsa, hash: :sha256},
      ed25519: :eddsa,
      hmac: :sha256_hmac
    ]

    keys = for {type, _mechanism} <- pairs, do: {"key #{type}", type}
    keys = keys ++ [aes128: :aes128, aes256: :aes256]
    assert %{pool: pool, token: token, chaos: nil} = Testing.start_pool!(keys: keys, pool_size: 2)
    assert Pkcs11Pool.status(pool).size == 2

    for {type, mechanism} <- pairs do
      assert {:ok, signature} = Pkcs11Pool.sign(pool, "key #{type}", mechanism, "data")
      assert :ok = Pkcs11Pool.verify(pool, "key #{type}", mechanism, "data", signature)
    end

    for {label, size} <- @secrets do
      mechanism = {:aes_gcm, iv: <<0::96>>}
      assert {:ok, sealed} = Pkcs11Pool.encrypt(pool, "#{label}", mechanism, "data")
      assert {:ok, "data"} = Pkcs11Pool.decrypt(pool, "#{label}", mechanism, sealed)
      assert {:ok, %{bits: bits}} = Pkcs11Pool.key_info(pool, "#{label}")
      assert bits == 8 * size
    end

    # All ends with the test, in this order: pool, then folder.
    assert File.dir?(token.dir)
  end

  test "two tokens see nothing of each other" do
    %{pool: one} = Testing.start_pool!(keys: [signing: :p256], label: "same")
    token = Testing.new_token!(label: "same")

    opts = Testing.pool_options(token, name: :"second of two tokens", pool_size: 1)
    start_supervised!(Supervisor.child_spec({Pkcs11Pool, opts}, id: :second))
    assert {:ok, _} = Pkcs11Pool.sign(one, "signing", {:ecdsa, hash: :sha256}, "x")
    assert {:ok, []} = Pkcs11Pool.find_objects(:"second of two tokens", [])
    stop_supervised!(:second)
    assert :ok = Testing.delete_token(token)
    refute File.exists?(token.dir)
  end

  test "a token behind a chaos module misbehaves on command" do
    %{pool: pool, chaos: chaos} = Testing.start_pool!(keys: [signing: :p256], chaos: true)
    assert {:ok, _} = Pkcs11Pool.sign(pool, "signing", :ecdsa, <<0::256>>)
    Chaos.remove_token(chaos)

    assert {:error, %Pkcs11Pool.Error{}} = Pkcs11Pool.sign(pool, "signing", :ecdsa, <<0::256>>)
  end

  test "nothing is left of a test, and nothing of the user's is touched" do
    before = System.get_env("SOFTHSM2_CONF")
    dir = Path.join(System.tmp_dir!(), "testing-#{System.unique_integer([:positive])}")
    File.mkdir_p!(dir)
    token = Testing.new_token!(tmp_dir: dir, chaos: true)
    assert [_one] = File.ls!(dir)
    Testing.delete_token(token)
    assert File.ls!(dir) == []
    File.rmdir!(dir)
    assert System.get_env("SOFTHSM2_CONF") == before
  end

  test "what cannot be is said, and what was made until then is removed" do
    for {message, opts} <- [
          {~r/unknown options \[:keyz\]/, [keyz: []]},
          {~r/with one of the types/, [keys: [signing: :dsa]]},
          {~r/with one of the types/, [keys: ["signing"]]},
          {~r/:pool_size/, [pool_size: 0]}
        ] do
      assert_raise ArgumentError, message, fn -> Testing.start_pool!(opts) end
    end

    # SoftHSM's own bound, in the token's words.
    dir = Path.join(System.tmp_dir!(), "testing-#{System.unique_integer([:positive])}")

    assert_raise Pkcs11Pool.Error, ~r/PIN is too short/, fn ->
      Testing.new_token!(pin: "1", tmp_dir: dir)
    end

    assert File.ls!(dir) == []
    File.rmdir!(dir)
  end
end
