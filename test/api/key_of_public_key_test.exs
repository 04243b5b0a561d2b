defmodule Pkcs11Pool.KeyOfPublicKeyTest do
  # A key that is named by a public key or a certificate: the key on the token that belongs to it, or none.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @message "what is to be signed"

  setup do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    opts = SoftHSM.pool_opts(token, pool_size: 2)
    start_supervised!({Pkcs11Pool, opts})
    on_exit(fn -> assert Chaos.violations(chaos) == [] end)
    %{pool: opts[:name], chaos: chaos, token: token}
  end

  defp pair!(pool, type, label, opts \\ [])

  defp pair!(pool, :rsa, label, opts) do
    Pkcs11Pool.generate_key_pair!(
      pool,
      :rsa_pkcs_key_pair_gen,
      [token: true, label: label, modulus_bits: 1024, verify: true, encrypt: true] ++ opts,
      [token: true, label: label, private: true, sign: true, decrypt: true] ++ opts
    )
  end

  defp pair!(pool, curve, label, opts) do
    mechanism =
      if curve in [:ed25519, :ed448], do: :ec_edwards_key_pair_gen, else: :ec_key_pair_gen

    Pkcs11Pool.generate_key_pair!(
      pool,
      mechanism,
      [token: true, label: label, ec_params: curve, verify: true] ++ opts,
      [token: true, label: label, private: true, sign: true] ++ opts
    )
  end

  # As a caller has it who knows of no token.
  defp public!(pool, object), do: Pkcs11Pool.public_key!(pool, object)

  defp signs?(pool, key, :rsa, public) do
    case Pkcs11Pool.sign(pool, key, :sha256_rsa_pkcs, @message) do
      {:ok, signature} -> :public_key.verify(@message, :sha256, signature, public)
      {:error, error} -> error
    end
  end

  defp signs?(pool, key, edwards, public) when edwards in [:ed25519, :ed448] do
    case Pkcs11Pool.sign(pool, key, :eddsa, @message) do
      {:ok, signature} -> :public_key.verify(@message, :none, signature, public)
      {:error, error} -> error
    end
  end

  defp signs?(pool, key, _curve, public) do
    case Pkcs11Pool.sign(pool, key, {:ecdsa, hash: :sha256}, @message, signature: :der) do
      {:ok, signature} -> :public_key.verify(@message, :sha256, signature, public)
      {:error, error} -> error
    end
  end

  defp pem(public), do: :public_key.pem_encode([entry(public)])
  defp der(public), do: public |> entry() |> elem(1)
  defp entry(public), do: :public_key.pem_entry_encode(:SubjectPublicKeyInfo, public)

  # A certificate of this public key, by whoever.
  defp certificate(public) do
    %{cert: root} = :public_key.pkix_test_root_cert(~c"a", [])
    otp = :public_key.pkix_decode_cert(root, :otp)
    plain = :public_key.der_decode(:Certificate, root)
    info = :public_key.der_decode(:SubjectPublicKeyInfo, der(public))
    plain = put_elem(plain, 1, plain |> elem(1) |> put_elem(7, info))
    true = elem(otp, 0) == :OTPCertificate
    :public_key.der_encode(:Certificate, plain)
  end

  defp put_certificate!(pool, der, opts) do
    {:Certificate, tbs, _algorithm, _signature} = :public_key.der_decode(:Certificate, der)
    subject = :public_key.der_encode(:Name, elem(tbs, 6))

    Pkcs11Pool.create_object!(
      pool,
      [class: :certificate, certificate_type: :x_509, token: true, subject: subject, value: der] ++
        opts
    )
  end

  defp destroy!(pool, object), do: :ok = Pkcs11Pool.destroy_object(pool, object)

  for type <- [:rsa, :secp256r1, :secp384r1, :secp521r1, :ed25519, :ed448] do
    test "a #{type} key is found by its public key and its certificate, in every form", context do
      %{pool: pool} = context
      pair!(pool, unquote(type), "other", id: <<9>>)
      {public, _private} = pair!(pool, unquote(type), "own", id: <<1>>)
      key = public!(pool, public)
      der = certificate(key)

      for named <- [
            {:public_key, key},
            {:public_key, der(key)},
            {:public_key, pem(key)},
            {:certificate, der},
            {:certificate, :public_key.pem_encode([{:Certificate, der, :not_encrypted}])},
            {:certificate, :public_key.der_decode(:Certificate, der)},
            {:certificate, :public_key.pkix_decode_cert(der, :otp)}
          ] do
        assert signs?(pool, named, unquote(type), key) == true
        assert Pkcs11Pool.public_key(pool, named) == {:ok, key}
      end

      Pools.drained!(pool)
    end
  end

  test "it is taken everywhere: verify, encrypt, decrypt, lists, attributes, key_info, changes",
       %{
         pool: pool
       } do
    {public, _private} = pair!(pool, :rsa, "own")
    key = {:public_key, public!(pool, public)}
    {:ok, signature} = Pkcs11Pool.sign(pool, key, :sha256_rsa_pkcs, @message)
    assert Pkcs11Pool.verify(pool, key, :sha256_rsa_pkcs, @message, signature) == :ok
    {:ok, sealed} = Pkcs11Pool.encrypt(pool, key, :rsa_pkcs, "secret")
    assert Pkcs11Pool.decrypt(pool, key, :rsa_pkcs, sealed) == {:ok, "secret"}

    assert {:ok, [{:ok, ^signature}]} =
             Pkcs11Pool.sign_many(pool, key, :sha256_rsa_pkcs, [@message])

    assert {:ok, %{class: :private_key, label: "own"}} =
             Pkcs11Pool.get_attributes(pool, key, [:class, :label])

    assert {:ok, %{class: :private_key, bits: 1024}} = Pkcs11Pool.key_info(pool, key)
    assert :ok = Pkcs11Pool.set_attributes(pool, key, label: "renamed")

    assert {:ok, %{label: "renamed"}} = Pkcs11Pool.get_attributes(pool, key, [:label])
    assert :ok = Pkcs11Pool.destroy_object(pool, key)
    assert {:ok, [%{class: :public_key}]} = Pkcs11Pool.find_objects(pool, [])

    assert {:error, %Error{reason: :key_not_found, executed: false}} =
             Pkcs11Pool.destroy_object(pool, key)
  end

  test "a warm key costs no call more than one that is named by its label", context do
    %{pool: pool, chaos: chaos} = context

    for type <- [:rsa, :secp256r1] do
      {public, _private} = pair!(pool, type, "own", id: "#{type}")
      key = public!(pool, public)
      assert signs?(pool, {:public_key, key}, type, key) == true
      Chaos.reset_counts(chaos)
      assert signs?(pool, {:public_key, key}, type, key) == true
      assert signs?(pool, {:public_key, der(key)}, type, key) == true

      assert %{"C_SignInit" => 2, "C_Sign" => 2} == chaos |> Chaos.calls() |> used()
    end
  end

  defp used(calls), do: for({name, count} <- calls, count > 0, into: %{}, do: {name, count})

  describe "never a wrong key" do
    setup %{pool: pool} do
      {a_public, a_private} = pair!(pool, :secp256r1, "a", id: <<1>>)
      {b_public, b_private} = pair!(pool, :secp256r1, "b", id: <<1>>)
      a = public!(pool, a_public)
      %{a: a, objects: {a_public, a_private, b_public, b_private}}
    end

    test "two that share their id are told apart by a signature", %{pool: pool, a: a} do
      assert signs?(pool, {:public_key, a}, :secp256r1, a) == true
    end

    test "another one that has its id is not taken in its place", %{pool: pool, a: a} = context do
      {_a_public, a_private, b_public, _b_private} = context.objects
      destroy!(pool, a_private)
      destroy!(pool, b_public)

      assert %Error{reason: :key_not_found, executed: false, details: details} =
               error = signs?(pool, {:public_key, a}, :secp256r1, a)

      assert %{public_keys: 1, certificates: 0, unproved: 0} = details
      assert Exception.message(error) =~ "no key on the token is proved"
    end

    test "nor is one that cannot be proved, and the error counts it", %{pool: pool} = context do
      {a_public, a_private, _b_public, b_private} = context.objects
      destroy!(pool, b_private)
      :ok = Pkcs11Pool.set_attributes(pool, a_private, sign: false)

      assert %Error{reason: :key_not_found, details: %{unproved: 1}} =
               error = signs?(pool, {:public_key, context.a}, :secp256r1, context.a)

      assert Exception.message(error) =~ "1 private keys have that id, and could not be proved"
      assert Exception.message(error) =~ "by its label or id"
      :ok = Pkcs11Pool.set_attributes(pool, a_private, sign: true)
      assert signs?(pool, {:public_key, context.a}, :secp256r1, context.a) == true
      assert Pkcs11Pool.public_key(pool, {:public_key, context.a}) == {:ok, context.a}
      destroy!(pool, a_public)
    end

    test "a certificate does where there is no public key; without both nothing leads to the key",
         %{pool: pool, a: a} = context do
      {a_public, _a_private, b_public, _b_private} = context.objects
      der = certificate(a)
      destroy!(pool, a_public)
      destroy!(pool, b_public)
      assert %Error{reason: :key_not_found} = signs?(pool, {:certificate, der}, :secp256r1, a)
      put_certificate!(pool, der, id: <<1>>)
      assert signs?(pool, {:certificate, der}, :secp256r1, a) == true
      # What proves it leaves nothing behind.
      assert {:ok, []} = Pkcs11Pool.find_objects(pool, class: :public_key)
      Pools.drained!(pool)
    end

    test "two copies are ambiguous", %{pool: pool, a: a} = context do
      {_a_public, a_private, _b_public, _b_private} = context.objects
      Pkcs11Pool.copy_object!(pool, a_private, token: true, label: "copy")

      assert %Error{reason: :ambiguous_key, details: %{candidates: candidates}} =
               signs?(pool, {:public_key, a}, :secp256r1, a)

      assert Enum.sort(candidates) == [{<<1>>, "a"}, {<<1>>, "copy"}]
    end

    test "an RSA key of the same modulus with another exponent is another key", %{pool: pool} do
      {public, _private} = pair!(pool, :rsa, "own")
      {:RSAPublicKey, n, 65_537} = key = public!(pool, public)
      assert signs?(pool, {:public_key, key}, :rsa, key) == true

      assert {:error, %Error{reason: :key_not_found}} =
               Pkcs11Pool.sign(
                 pool,
                 {:public_key, {:RSAPublicKey, n, 3}},
                 :sha256_rsa_pkcs,
                 @message
               )
    end
  end

  test "it is found again after a logout, a reload, and in place of a key that was replaced",
       %{pool: pool, chaos: chaos} do
    {public, private} = pair!(pool, :secp256r1, "own", id: <<1>>)
    key = public!(pool, public)
    der = certificate(key)
    assert signs?(pool, {:certificate, der}, :secp256r1, key) == true

    :ok = Pkcs11Pool.logout(pool)
    assert signs?(pool, {:certificate, der}, :secp256r1, key) == true
    :ok = Pkcs11Pool.reload(pool)
    assert signs?(pool, {:certificate, der}, :secp256r1, key) == true
    Chaos.invalidate_objects(chaos)
    assert signs?(pool, {:certificate, der}, :secp256r1, key) == true

    # Another key pair takes its label, its id and its handles.
    {:ok, [private]} = Pkcs11Pool.find_objects(pool, class: :private_key, label: private.label)
    {:ok, [public]} = Pkcs11Pool.find_objects(pool, class: :public_key, label: public.label)
    destroy!(pool, private)
    destroy!(pool, public)
    {public, _private} = pair!(pool, :secp256r1, "own", id: <<1>>)

    assert %Error{reason: :key_not_found} = signs?(pool, {:certificate, der}, :secp256r1, key)
    other = public!(pool, public)
    assert signs?(pool, {:public_key, other}, :secp256r1, other) == true
  end

  test "a fault while it is looked for is the fault of the call, and nothing was executed",
       %{pool: pool, chaos: chaos} do
    {public, _private} = pair!(pool, :secp256r1, "own", id: <<1>>)
    key = public!(pool, public)

    for function <- [:C_FindObjectsInit, :C_GetAttributeValue, :C_SignInit, :C_Sign, :C_Verify] do
      :ok = Pkcs11Pool.forget_keys(pool)
      Chaos.fail(chaos, function, :device_memory, count: 1)
      result = signs?(pool, {:public_key, key}, :secp256r1, key)
      assert result == true, "after #{function}: #{inspect(result)}"

      # Of what may mean anything nothing is tried again: but the signature of the proof is none of the caller's.
      :ok = Pkcs11Pool.forget_keys(pool)
      Chaos.fail(chaos, function, :general_error, count: 1)

      assert %Error{reason: :general_error, executed: false} =
               signs?(pool, {:public_key, key}, :secp256r1, key),
             "after #{function}"

      assert signs?(pool, {:public_key, key}, :secp256r1, key) == true
    end

    Pools.drained!(pool)
  end

  test "what is no public key or certificate raises, and shows nothing of it" do
    for bad <- [
          {:public_key, "secret"},
          {:public_key, ""},
          {:public_key, nil},
          {:public_key, {:RSAPublicKey, -1, 3}},
          {:public_key, {{:ECPoint, "secret"}, {:namedCurve, {1, 3, 101, 112}}}},
          {:public_key, {{:ECPoint, <<4, 1>>}, {:namedCurve, :no_such}}},
          {:public_key, {{:ECPoint, <<2, 0::256>>}, {:namedCurve, {1, 2, 840, 10_045, 3, 1, 7}}}},
          {:public_key, "-----BEGIN PUBLIC KEY-----\nsecret\n-----END PUBLIC KEY-----\n"},
          {:certificate, "secret"},
          {:certificate, {}},
          {:certificate, nil},
          {:certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}
        ] do
      error =
        assert_raise(ArgumentError, fn -> Pkcs11Pool.sign(:nobody, bad, :ecdsa, <<0::256>>) end)

      assert Exception.message(error) =~ ~r/public_key|public key|certificate/
      refute Exception.message(error) =~ "secret"
    end

    # Which of several is meant, nobody knows.
    key = {:RSAPublicKey, 3233, 17}
    two = :public_key.pem_encode([entry(key), entry(key)])
    assert_raise ArgumentError, fn -> Pkcs11Pool.sign(:nobody, {:public_key, two}, :ecdsa, "") end
  end
end
