defmodule Pkcs11Pool.KeyTypeTest do
  # SoftHSM crashes, and the VM with it, when CKM_DSA is given an AES key: that these tests end is part of what they show.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @digest <<7::256>>

  setup_all do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})

    {:ok, aes} =
      Pkcs11Pool.generate_key(pool, :aes_key_gen,
        token: true,
        label: "aes",
        id: <<1>>,
        value_len: 32,
        sign: true,
        verify: true,
        encrypt: true,
        decrypt: true
      )

    ec = Pools.key_pair!(pool, "ec")

    rsa = Pools.rsa_pair!(pool)

    File.write!(data = Path.join(SoftHSM.dir(), "#{pool}.data"), "an object that is no key")

    SoftHSM.pkcs11_tool!(
      %{token | module_env: Map.drop(token.module_env, [])},
      ~w(--write-object #{data} --type data --label data)
    )

    %{pool: pool, chaos: token.chaos, aes: aes, ec: ec, rsa: rsa}
  end

  setup context do
    Chaos.reset(context.chaos)
    on_exit(fn -> Pools.drained!(context.pool) end)
  end

  defp refused(result, class, type, mechanism) do
    assert {:error, %Error{reason: :key_type_inconsistent, executed: false} = error} = result
    assert %{code: nil, function: nil} = error
    assert %{class: ^class, mechanism: ^mechanism} = error.details
    assert error.details[:key_type] == type
    assert Exception.message(error) =~ "does not fit the mechanism #{inspect(mechanism)}"
    refute Error.retryable?(error)
  end

  # No call that begins an operation.
  defp untouched(chaos) do
    for function <- [:C_SignInit, :C_VerifyInit, :C_EncryptInit, :C_DecryptInit],
        do: assert(Chaos.calls(chaos, function) == 0)
  end

  test "a key of another type does not reach the module, by whatever road it comes", context do
    %{pool: pool, chaos: chaos, aes: aes} = context

    for key <- [
          aes,
          %{aes | epoch: 0},
          %Object{aes | class: nil},
          [label: "aes", class: :secret_key],
          [id: <<1>>, class: :secret_key],
          "pkcs11:object=aes;type=secret-key"
        ],
        mechanism <- [:dsa, :dsa_sha256, :ecdsa, :sha256_rsa_pkcs, {:vendor, 0x11, nil}] do
      name = Pkcs11Pool.Mechanism.name(mechanism)
      check = &refused(&1, :secret_key, :aes, name)

      # Twice: found, and remembered.
      for _ <- 1..2, do: check.(Pkcs11Pool.sign(pool, key, mechanism, @digest))
      check.(Pkcs11Pool.verify(pool, key, mechanism, @digest, <<0::512>>))

      assert {:ok, results} = Pkcs11Pool.sign_many(pool, key, mechanism, [@digest, "b", "c"])
      assert length(results) == 3
      Enum.each(results, check)

      assert {:ok, results} = Pkcs11Pool.verify_many(pool, key, mechanism, [{@digest, "s"}])
      Enum.each(results, check)

      Pkcs11Pool.with_session(pool, fn lease ->
        check.(Pkcs11Pool.sign(lease, key, mechanism, @digest))
        assert {:ok, [refused]} = Pkcs11Pool.sign_many(pool, key, mechanism, [@digest])
        check.(refused)
      end)
    end

    untouched(chaos)

    assert_raise Error, ~r/does not fit the mechanism :dsa/, fn ->
      Pkcs11Pool.sign!(pool, aes, :dsa, @digest)
    end
  end

  test "types are told apart among keys of one class", context do
    %{pool: pool, chaos: chaos, aes: aes} = context
    {{ec_public, ec_private}, {rsa_public, rsa_private}} = {context.ec, context.rsa}

    for {key, mechanism} <- [
          {ec_private, :sha256_rsa_pkcs},
          {rsa_private, :ecdsa},
          {rsa_private, :eddsa}
        ] do
      type = if key == ec_private, do: :ec, else: :rsa
      refused(Pkcs11Pool.sign(pool, key, mechanism, @digest), :private_key, type, mechanism)
    end

    refused(
      Pkcs11Pool.verify(pool, ec_public, :sha256_rsa_pkcs, "", ""),
      :public_key,
      :ec,
      :sha256_rsa_pkcs
    )

    refused(Pkcs11Pool.verify(pool, rsa_public, :ecdsa, "", ""), :public_key, :rsa, :ecdsa)
    oaep = {:rsa_pkcs_oaep, hash: :sha1}
    refused(Pkcs11Pool.encrypt(pool, ec_public, oaep, "a"), :public_key, :ec, :rsa_pkcs_oaep)
    cbc = {:des3_cbc, iv: <<0::64>>}
    refused(Pkcs11Pool.encrypt(pool, aes, cbc, <<0::64>>), :secret_key, :aes, :des3_cbc)
    untouched(chaos)
  end

  test "a key of another class does not reach the module", context do
    %{pool: pool, chaos: chaos} = context
    {{ec_public, ec_private}, {rsa_public, rsa_private}} = {context.ec, context.rsa}
    oaep = {:rsa_pkcs_oaep, hash: :sha1}
    refused(Pkcs11Pool.sign(pool, ec_public, :ecdsa, @digest), :public_key, :ec, :ecdsa)

    refused(
      Pkcs11Pool.sign(pool, [label: "ec", class: :public_key], :ecdsa, @digest),
      :public_key,
      :ec,
      :ecdsa
    )

    refused(
      Pkcs11Pool.verify(pool, ec_private, :ecdsa, @digest, <<0::512>>),
      :private_key,
      :ec,
      :ecdsa
    )

    refused(Pkcs11Pool.encrypt(pool, rsa_private, oaep, "a"), :private_key, :rsa, :rsa_pkcs_oaep)

    refused(
      Pkcs11Pool.decrypt(pool, rsa_public, oaep, <<0::1024>>),
      :public_key,
      :rsa,
      :rsa_pkcs_oaep
    )

    refused(Pkcs11Pool.sign(pool, ec_private, :sha256_hmac, ""), :private_key, :ec, :sha256_hmac)

    {:ok, [data]} = Pkcs11Pool.find_objects(pool, class: :data, label: "data")
    gcm = {:aes_gcm, iv: <<1::96>>}
    refused(Pkcs11Pool.decrypt(pool, data, gcm, <<0::256>>), :data, nil, :aes_gcm)
    refused(Pkcs11Pool.sign(pool, data, :hotp, ""), :data, nil, :hotp)
    untouched(chaos)

    assert {:error, error} = Pkcs11Pool.sign(pool, ec_public, :ecdsa, @digest)
    assert Exception.message(error) =~ "a private key signs, decrypts, unwraps and derives"
  end

  test "what is known of a key is read once", %{pool: pool, chaos: chaos} do
    Pkcs11Pool.forget_keys(pool)
    Chaos.reset_counts(chaos)
    for _ <- 1..3, do: {:ok, _} = Pkcs11Pool.encrypt(pool, "aes", :aes_ecb, <<0::128>>)
    assert Chaos.calls(chaos, :C_GetAttributeValue) == 1
  end

  test "where the token does not say what a key is, and of a vendor's mechanism, the module decides",
       context do
    %{pool: pool, chaos: chaos, aes: aes} = context
    vendor = {:vendor, 0x80000011, nil}

    assert {:error, %Error{reason: :mechanism_invalid, function: :C_SignInit}} =
             Pkcs11Pool.sign(pool, aes, vendor, @digest)

    Pkcs11Pool.forget_keys(pool)
    Chaos.fail(chaos, :C_GetAttributeValue, :function_not_supported)
    assert {:error, error} = Pkcs11Pool.encrypt(pool, aes, {:des3_cbc, iv: <<0::64>>}, <<0::64>>)
    assert error.function in [:C_EncryptInit, :C_Encrypt]
    {_public, private} = context.ec
    assert {:ok, _signature} = Pkcs11Pool.sign(pool, private, :ecdsa, @digest)
    Chaos.clear(chaos, :C_GetAttributeValue)
    Pkcs11Pool.forget_keys(pool)
  end

  test "a digest longer than the order of the key's curve raises, where the curve is known",
       context do
    %{pool: pool, chaos: chaos} = context

    for size <- [20, 32],
        do: {:ok, _} = Pkcs11Pool.sign(pool, "ec", :ecdsa, <<7::size(size)-unit(8)>>)

    Chaos.reset_counts(chaos)

    for run <- [
          &Pkcs11Pool.sign(pool, "ec", &1, <<7::264>>),
          &Pkcs11Pool.sign!(pool, "ec", &1, <<7::264>>),
          &Pkcs11Pool.verify(pool, "ec", &1, <<7::264>>, <<0::512>>),
          &Pkcs11Pool.sign_many(pool, "ec", &1, [<<7::264>>]),
          &Pkcs11Pool.verify_many(pool, "ec", &1, [{<<7::264>>, <<0::512>>}])
        ],
        mechanism <- [:ecdsa, {:ecdsa, []}, {:vendor, 0x1041, nil}] do
      error = assert_raise ArgumentError, fn -> run.(mechanism) end
      assert error.message =~ "expected data of at most 32 bytes"
      assert error.message =~ "got: 33 bytes"
      assert error.message =~ "{:ecdsa, hash: :sha256}"
    end

    untouched(chaos)

    # In a list, the digests around it are signed; nothing is left in the mailbox.
    digests = List.duplicate(@digest, 200) ++ [<<7::264>>] ++ List.duplicate(@digest, 200)
    assert_raise ArgumentError, fn -> Pkcs11Pool.sign_many(pool, "ec", :ecdsa, digests) end
    refute_received _message

    # A message's own digest is cut to what the curve takes.
    {:ok, signature} =
      Pkcs11Pool.sign(pool, "ec", {:ecdsa, hash: :sha512}, "message", signature: :der)

    {:ok, public} = Pkcs11Pool.public_key(pool, "ec")
    assert :public_key.verify("message", :sha512, signature, public)
    first = binary_part(:crypto.hash(:sha512, "message"), 0, 32)
    assert Pkcs11Pool.verify(pool, "ec", :ecdsa, first, signature, signature: :der) == :ok
  end
end
