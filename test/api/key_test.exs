defmodule Pkcs11Pool.KeyTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Argument.Key
  alias Pkcs11Pool.Object

  @private {0x0, {:ulong, 3}}
  @public {0x0, {:ulong, 2}}

  test "a label is looked for with the operation's class" do
    assert Key.encode!("signing", :private_key) == {:find, [@private, {0x3, "signing"}]}
    assert Key.encode!("signing", nil) == {:find, [{0x3, "signing"}]}
  end

  test "a template gets the operation's class unless it has one" do
    assert Key.encode!([id: <<1>>], :private_key) == {:find, [@private, {0x102, <<1>>}]}

    assert Key.encode!([id: <<1>>, class: :public_key], :private_key) ==
             {:find, [{0x102, <<1>>}, @public]}
  end

  test "a URI is a template, and names its token" do
    assert Key.encode!("pkcs11:object=signing;id=%01", :private_key) ==
             {:find, [@private, {0x3, "signing"}, {0x102, <<1>>}]}

    assert Key.encode!("pkcs11:object=signing;type=public", :private_key) ==
             {:find, [@public, {0x3, "signing"}]}

    assert Key.encode!("pkcs11:token=payments;object=signing", :private_key) ==
             {:find, [@private, {0x3, "signing"}], [{"token", "payments"}]}
  end

  test "an object is its handle and the template to find it again" do
    object = Object.from_native({7, 2, "serial", 3, 0, <<1>>, "signing"})

    assert Key.encode!(object, :public_key) ==
             {:object, 7, 2, "serial", [@private, {0x102, <<1>>}, {0x3, "signing"}]}

    assert Key.encode!(%{object | id: ""}, nil) ==
             {:object, 7, 2, "serial", [@private, {0x3, "signing"}]}

    assert Key.encode!(%{object | id: "", label: ""}, nil) == {:object, 7, 2, "serial", []}

    assert Key.encode!(%{object | unique_id: "u"}, nil) ==
             {:object, 7, 2, "serial", [@private, {0x102, <<1>>}, {0x3, "signing"}], "u"}

    assert Key.encode!(%{object | class: nil}, :private_key) ==
             {:object, 7, 2, "serial", [@private, {0x102, <<1>>}, {0x3, "signing"}]}

    # A label that is no UTF-8 came from the token, and is looked for as it is.
    assert {:object, 7, 2, "serial", [@private, {0x3, <<255>>}]} =
             Key.encode!(%{object | id: "", label: <<255>>}, nil)
  end

  test "an object that no call returned is refused, without its values" do
    object = Object.from_native({7, 2, "serial", 3, 0, <<1>>, "signing"})

    for {field, values} <- [
          handle: [nil, -1, Integer.pow(2, 64), 7.0, "7"],
          epoch: [nil, -1, Integer.pow(2, 70), :two],
          token: [nil, :serial, 7, {"a", "b"}, <<1::3>>],
          id: [1, :one, [1], <<1::3>>],
          label: [:signing, ~c"signing", 1, <<1::3>>],
          unique_id: ["", :one, 1, <<1::3>>],
          class: ["private_key", -1, Integer.pow(2, 70), :no_such_class]
        ],
        value <- values do
      message =
        assert_raise(ArgumentError, fn ->
          Key.encode!(Map.put(object, field, value), :private_key)
        end)
        |> Exception.message()

      assert message =~ "#{inspect(field)}"
      refute message =~ "signing"
    end

    assert {:object, 7, 2, "serial", []} =
             Key.encode!(%{object | id: nil, label: nil}, :private_key)
  end

  test "a key that tells no object from another is refused, whatever the operation implies" do
    for class <- [nil, :private_key],
        key <- [
          "",
          [],
          [class: :private_key],
          [class: :secret_key, key_type: :aes, token: true, private: true, sign: true],
          [key_type: :ec, ec_params: :secp256r1],
          [value_len: 32],
          [label: ""],
          [id: ""],
          [id: "", label: "", class: :private_key],
          "pkcs11:",
          "pkcs11:token=payments",
          "pkcs11:slot-id=1;library-manufacturer=x;type=private",
          "pkcs11:object=;id="
        ] do
      assert_raise ArgumentError, ~r/identifies no object.*label/s, fn ->
        Key.encode!(key, class)
      end
    end
  end

  test "a key that has what differs from object to object is taken" do
    for key <- [
          "signing",
          [label: "signing"],
          [label: "", id: <<0>>],
          [id: <<1>>, class: :secret_key],
          [unique_id: "7"],
          [ec_point: <<4, 1, 2>>],
          [modulus: 12_345],
          [value: <<1>>, class: :certificate],
          [{{:vendor, 0x8000_0001}, <<7>>}],
          "pkcs11:object=signing",
          "pkcs11:token=payments;id=%01"
        ] do
      assert elem(Key.encode!(key, nil), 0) == :find
    end
  end

  test "what is no key is refused" do
    for bad <- [nil, :signing, 1, {:label, "a"}, %{label: "a"}] do
      assert_raise ArgumentError, ~r/expected a key/, fn -> Key.encode!(bad, :private_key) end
    end

    assert_raise ArgumentError, ~r/did you mean :label/, fn -> Key.encode!([lable: "a"], nil) end
    assert_raise ArgumentError, ~r/PKCS#11 URI/, fn -> Key.encode!("pkcs11:x", nil) end
    assert_raise ArgumentError, ~r/UTF-8/, fn -> Key.encode!(<<255>>, nil) end
  end

  test "a URI is one whatever the case of its scheme" do
    assert Key.encode!("PKCS11:object=r", nil) == Key.encode!("pkcs11:object=r", nil)
    assert {:find, [{_class, _}, {_label, "r"}]} = Key.encode!("Pkcs11:object=r", :private_key)

    assert_raise ArgumentError, ~r/pin-value is not accepted/, fn ->
      Key.encode!("PKCS11:object=r?pin-value=1234", nil)
    end
  end
end
