defmodule Pkcs11Pool.ObjectsTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{Poll, SoftHSM}

  setup_all do
    token = SoftHSM.new_token!()
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})
    %{token: token, pool: pool}
  end

  setup %{pool: pool} do
    on_exit(fn ->
      Poll.until(fn -> match?(%{running: 0, waiting: 0, hung: 0}, Pkcs11Pool.status(pool)) end)
    end)

    %{label: "key-#{System.unique_integer([:positive])}"}
  end

  defp generate!(pool, mechanism, public, private, label) do
    Pkcs11Pool.generate_key_pair!(
      pool,
      mechanism,
      [token: true, label: label, verify: true] ++ public,
      [token: true, label: label, private: true, sign: true] ++ private
    )
  end

  defp generate_ec!(pool, label, curve \\ :secp256r1),
    do: generate!(pool, :ec_key_pair_gen, [ec_params: curve], [sensitive: true], label)

  # The token's public key by way of OpenSC and openssl.
  defp public_key_elsewhere(token, label) do
    der = Path.join(SoftHSM.dir(), "#{label}.der")

    SoftHSM.pkcs11_tool!(
      token,
      ["--read-object", "--type", "pubkey", "--label", label, "--output-file", der]
    )

    [entry] = :public_key.pem_decode(SoftHSM.openssl!(~w(pkey -pubin -inform DER -in) ++ [der]))
    :public_key.pem_entry_decode(entry)
  end

  describe "key pairs" do
    test "RSA", %{pool: pool, token: token, label: label} do
      size = [modulus_bits: 2048, public_exponent: 65_537]
      {public, private} = generate!(pool, :rsa_pkcs_key_pair_gen, size, [id: <<7>>], label)

      assert %Object{class: :public_key, key_type: :rsa, label: ^label, id: ""} = public
      assert %Object{class: :private_key, key_type: :rsa, label: ^label, id: <<7>>} = private

      assert {:ok, {:RSAPublicKey, modulus, 65_537} = key} = Pkcs11Pool.public_key(pool, label)
      assert bit_size(:binary.encode_unsigned(modulus)) == 2048
      assert key == public_key_elsewhere(token, label)

      # The private key tells its public half, too.
      assert Pkcs11Pool.public_key(pool, private) == {:ok, key}
      assert Pkcs11Pool.public_key(pool, id: <<7>>) == {:ok, key}
    end

    test "P-256 and P-384", %{pool: pool, token: token, label: label} do
      for {curve, oid, size} <- [
            {:secp256r1, {1, 2, 840, 10_045, 3, 1, 7}, 65},
            {:secp384r1, {1, 3, 132, 0, 34}, 97}
          ] do
        label = "#{label}-#{curve}"
        {public, private} = generate_ec!(pool, label, curve)
        assert %Object{class: :public_key, key_type: :ec} = public

        assert {:ok, {{:ECPoint, point}, {:namedCurve, ^oid}}} =
                 Pkcs11Pool.public_key(pool, public)

        assert byte_size(point) == size

        # OpenSC shows the point in its DER.
        listed = SoftHSM.pkcs11_tool!(token, ~w(--list-objects --type pubkey))
        objects = String.split(listed, "Public Key Object")
        assert [object] = Enum.filter(objects, &(&1 =~ "label:      #{label}\n"))
        assert [_, der] = Regex.run(~r/EC_POINT: +([0-9a-f]+)/, object)
        assert Base.decode16!(der, case: :lower) == <<4, size, point::binary>>

        # A private EC key does not tell its point.
        assert {:error, %Error{reason: :key_type_inconsistent} = error} =
                 Pkcs11Pool.public_key(pool, private)

        assert Exception.message(error) =~ "the object holds no public key that OTP knows"
      end
    end

    test "without a public key object, EC has no public key", %{pool: pool, label: label} do
      {public, _private} = generate_ec!(pool, label)
      assert Pkcs11Pool.destroy_object(pool, public) == :ok
      assert {:error, %Error{reason: :key_not_found}} = Pkcs11Pool.public_key(pool, label)
    end

    test "what the token refuses", %{pool: pool, label: label} do
      template = [token: true, label: label]

      assert {:error, %Error{reason: :template_incomplete, function: :C_GenerateKeyPair} = error} =
               Pkcs11Pool.generate_key_pair(pool, :rsa_pkcs_key_pair_gen, template, template)

      assert Exception.message(error) =~ "the template lacks an attribute that the token needs"

      assert {:error, %Error{reason: :mechanism_invalid} = error} =
               Pkcs11Pool.generate_key_pair(pool, :sha256, template, template)

      assert Exception.message(error) =~ "the token does not have the mechanism :sha256"
      assert Pkcs11Pool.find_objects(pool, label: label) == {:ok, []}
    end
  end

  test "session objects are refused unless they are asked for", %{pool: pool, label: label} do
    token_object = [token: true, label: label, ec_params: :secp256r1]
    session_object = Keyword.delete(token_object, :token)

    for {public, private} <- [
          {session_object, token_object},
          {token_object, session_object},
          {[token: false] ++ session_object, token_object}
        ] do
      assert {:error, %Error{reason: :session_object_needs_session, executed: false} = error} =
               Pkcs11Pool.generate_key_pair(
                 pool,
                 :ec_key_pair_gen,
                 public,
                 Keyword.delete(private, :ec_params)
               )

      assert Exception.message(error) =~ "Add token: true"
    end

    assert Pkcs11Pool.find_objects(pool, label: label) == {:ok, []}

    assert {:ok, {public, private}} =
             Pkcs11Pool.generate_key_pair(
               pool,
               :ec_key_pair_gen,
               session_object,
               [label: label, sign: true],
               session_object: :allow
             )

    assert Pkcs11Pool.get_attributes(pool, public, [:token]) == {:ok, %{token: false}}
    assert Pkcs11Pool.destroy_object(pool, public) == :ok
    assert Pkcs11Pool.destroy_object(pool, private) == :ok
  end

  describe "finding" do
    test "none, one, both of a pair", %{pool: pool, label: label} do
      assert Pkcs11Pool.find_objects(pool, label: label) == {:ok, []}
      {public, private} = generate_ec!(pool, label)
      assert Pkcs11Pool.find_objects(pool, label: label, class: :private_key) == {:ok, [private]}
      assert {:ok, both} = Pkcs11Pool.find_objects(pool, label: label)
      assert Enum.sort(both) == Enum.sort([public, private])
      assert {:ok, all} = Pkcs11Pool.find_objects(pool, [])
      assert [] == both -- all
    end

    test "more than one C_FindObjects gives at once", %{label: label} do
      token = SoftHSM.new_token!()
      pool = :"#{label}-many"
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: pool, pool_size: 4)})

      1..65
      |> Task.async_stream(fn n ->
        generate!(pool, :ec_key_pair_gen, [ec_params: :secp256r1, id: <<n>>], [id: <<n>>], label)
      end)
      |> Stream.run()

      assert {:ok, objects} = Pkcs11Pool.find_objects(pool, [])

      assert objects |> Enum.map(&{&1.class, &1.id}) |> Enum.sort() ==
               for(class <- [:private_key, :public_key], n <- 1..65, do: {class, <<n>>})

      assert {:ok, publics} = Pkcs11Pool.find_objects(pool, class: :public_key)
      assert length(publics) == 65

      # Only some of so many are named.
      assert {:error, %Error{reason: :ambiguous_key} = error} = Pkcs11Pool.public_key(pool, label)
      assert length(error.details.candidates) == 10
      assert %{running: 0, waiting: 0} = Pkcs11Pool.status(pool)
    end
  end

  describe "attributes" do
    setup %{pool: pool, label: label} do
      {public, private} = generate_ec!(pool, label)
      %{public: public, private: private}
    end

    test "come in the shapes of a template", context do
      %{pool: pool, label: label, public: public, private: private} = context

      assert Pkcs11Pool.get_attributes(pool, public, [
               :class,
               :key_type,
               :label,
               :id,
               :token,
               :verify
             ]) ==
               {:ok,
                %{
                  class: :public_key,
                  key_type: :ec,
                  label: label,
                  id: "",
                  token: true,
                  verify: true
                }}

      assert Pkcs11Pool.get_attributes(pool, private, [:sensitive, :extractable, :private, :sign]) ==
               {:ok, %{sensitive: true, extractable: false, private: true, sign: true}}

      assert Pkcs11Pool.get_attributes(pool, [label: label, class: :private_key], [:label]) ==
               {:ok, %{label: label}}

      assert Pkcs11Pool.get_attributes(pool, public, []) == {:ok, %{}}
    end

    test "that are sensitive", %{pool: pool, private: private, label: label} do
      assert {:error, %Error{reason: :attribute_sensitive} = error} =
               Pkcs11Pool.get_attributes(pool, private, [:label, :value])

      assert error.details.attributes == [:value]
      assert error.function == :C_GetAttributeValue
      assert Exception.message(error) =~ "the token does not reveal the attributes :value"

      assert Pkcs11Pool.get_attributes(pool, private, [:label, :value], partial: true) ==
               {:ok, %{label: label, value: :unavailable}}
    end

    test "that the object does not have", %{pool: pool, public: public, label: label} do
      assert {:error, %Error{reason: :attribute_type_invalid} = error} =
               Pkcs11Pool.get_attributes(pool, public, [:modulus, :label, {:vendor, 0x80000123}])

      assert Enum.sort(error.details.attributes) == [:modulus, {:vendor, 0x80000123}]

      assert Pkcs11Pool.get_attributes(pool, public, [:label, :modulus], partial: true) ==
               {:ok, %{label: label, modulus: :unavailable}}
    end

    test "of a name that is none", %{pool: pool, public: public} do
      assert_raise ArgumentError, ~r/unknown attribute :lable, did you mean :label\?/, fn ->
        Pkcs11Pool.get_attributes(pool, public, [:lable])
      end
    end
  end

  describe "destroying" do
    test "an object", %{pool: pool, label: label} do
      {public, private} = generate_ec!(pool, label)
      assert Pkcs11Pool.destroy_object(pool, private) == :ok
      assert Pkcs11Pool.find_objects(pool, label: label) == {:ok, [public]}

      assert {:error, %Error{reason: :object_stale, executed: false}} =
               Pkcs11Pool.destroy_object(pool, private)

      assert Pkcs11Pool.destroy_object(pool, label: label, class: :public_key) == :ok
      assert Pkcs11Pool.find_objects(pool, label: label) == {:ok, []}
    end

    test "never the first of several", %{pool: pool, label: label} do
      {public, private} = generate_ec!(pool, label)
      assert {:error, %Error{reason: :ambiguous_key}} = Pkcs11Pool.destroy_object(pool, label)

      for key <- [[], "", [class: :public_key], "pkcs11:token=any"] do
        assert_raise ArgumentError, ~r/identifies no object/, fn ->
          Pkcs11Pool.destroy_object(pool, key)
        end
      end

      assert {:error, %Error{reason: :key_not_found}} =
               Pkcs11Pool.destroy_object(pool, "#{label}-other")

      assert {:ok, both} = Pkcs11Pool.find_objects(pool, label: label)
      assert Enum.sort(both) == Enum.sort([public, private])
    end

    test "looks for what a label means now, not for what it once meant", context do
      %{pool: pool, token: token, label: label} = context
      generate_ec!(pool, label)
      key = [label: label, class: :private_key]
      assert {:ok, _remembered} = Pkcs11Pool.get_attributes(pool, key, [:id])

      # By somebody else, so that the pool does not know.
      SoftHSM.pkcs11_tool!(
        token,
        ~w(--keypairgen --key-type EC:prime256v1 --usage-sign --id 02 --label) ++ [label]
      )

      assert {:error, %Error{reason: :ambiguous_key}} = Pkcs11Pool.destroy_object(pool, key)
    end
  end

  test "mechanisms", %{pool: pool, token: token} do
    assert {:ok, mechanisms} = Pkcs11Pool.mechanisms(pool)

    assert %{min: 512, max: 16_384, flags: flags} =
             Enum.find(mechanisms, &(&1.mechanism == :sha256_rsa_pkcs))

    assert Enum.sort(flags) == [:sign, :verify]

    # As many as OpenSC counts.
    lines = String.split(SoftHSM.pkcs11_tool!(token, ["--list-mechanisms"]), "\n")
    assert length(mechanisms) == Enum.count(lines, &String.starts_with?(&1, "  "))
    assert Pkcs11Pool.mechanisms!(pool) == mechanisms
  end

  test "digests", %{pool: pool} do
    for {mechanism, hash} <- [
          md5: :md5,
          sha_1: :sha,
          sha224: :sha224,
          sha256: :sha256,
          sha384: :sha384,
          sha512: :sha512
        ],
        data <- ["", "abc", ["a", ?b, [~c"c"]], :crypto.strong_rand_bytes(3_000_000)] do
      assert Pkcs11Pool.digest(pool, mechanism, data) == {:ok, :crypto.hash(hash, data)}
    end

    assert {:error, %Error{reason: :mechanism_invalid} = error} =
             Pkcs11Pool.digest(pool, :sha3_256, "abc")

    assert error.details.mechanism == :sha3_256
  end

  test "random bytes", %{pool: pool} do
    assert Pkcs11Pool.generate_random(pool, 0) == {:ok, ""}
    assert {:ok, <<_::binary-size(1)>>} = Pkcs11Pool.generate_random(pool, 1)
    assert {:ok, one} = Pkcs11Pool.generate_random(pool, 1_000_000)
    assert {:ok, other} = Pkcs11Pool.generate_random(pool, 1_000_000)
    assert byte_size(one) == 1_000_000 and byte_size(other) == 1_000_000
    assert one != other

    # Bytes that are not random would show: of a million, each value comes some 3,906 times.
    counts = one |> :binary.bin_to_list() |> Enum.frequencies()
    assert map_size(counts) == 256
    assert Enum.all?(Map.values(counts), &(&1 in 3_000..5_000))

    for n <- [-1, 0x100_0001, 1.0, "1"] do
      assert_raise ArgumentError, ~r/expected a number of bytes from 0 to 16777216/, fn ->
        Pkcs11Pool.generate_random(pool, n)
      end
    end
  end
end
