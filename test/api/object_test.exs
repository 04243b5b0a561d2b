defmodule Pkcs11Pool.ObjectTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Object

  test "classes and key types are atoms when they have a name" do
    assert %Object{
             handle: 7,
             epoch: 2,
             token: "serial",
             class: :private_key,
             key_type: :ec,
             id: <<1>>,
             label: "signing"
           } = Object.from_native({7, 2, "serial", 3, 3, <<1>>, "signing"})

    assert %Object{class: 0x80000001, key_type: 0x80000002} =
             Object.from_native({7, 2, "serial", 0x80000001, 0x80000002, "", ""})

    assert %Object{class: nil, key_type: nil, id: "", label: ""} =
             Object.from_native({7, 2, "serial", nil, nil, nil, nil})
  end

  test "the unique id is nil where the token has none" do
    native = {7, 2, "serial", 3, 3, <<1>>, "signing"}
    assert Object.from_native(native).unique_id == nil
    assert Object.from_native({native, "u"}) == %{Object.from_native(native) | unique_id: "u"}
  end

  test "an id or a label that the token refused to read is nil" do
    object = Object.from_native({7, 2, "serial", nil, nil, :unavailable, :unavailable})
    assert %Object{id: nil, label: nil} = object
    assert inspect(object) == "#Pkcs11Pool.Object<object unreadable handle=7>"
  end

  test "inspect shows what a person knows the object by" do
    object = Object.from_native({7, 2, "serial", 3, 3, <<0x0A, 0x1B>>, "signing"})

    assert inspect(object) ==
             "#Pkcs11Pool.Object<private_key \"signing\" id=0a1b key_type=ec>"

    assert inspect(%{object | label: "", key_type: nil}) ==
             "#Pkcs11Pool.Object<private_key id=0a1b>"

    assert inspect(%{object | class: nil, key_type: nil, id: ""}) ==
             "#Pkcs11Pool.Object<object \"signing\">"

    long = inspect(%{object | id: :binary.copy(<<0xAB>>, 100)})
    assert long =~ String.duplicate("ab", 32) <> "..."
    refute long =~ String.duplicate("ab", 33)
    assert inspect(%{object | label: <<255>>}) =~ "<<255>>"
  end
end
