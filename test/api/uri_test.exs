defmodule Pkcs11Pool.URITest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.URI

  doctest URI

  defp message(uri),
    do: assert_raise(ArgumentError, fn -> URI.parse!(uri) end) |> Exception.message()

  # RFC 7512, section 3
  test "the RFC's examples" do
    assert URI.parse!("pkcs11:") == %URI{}

    assert URI.parse!("pkcs11:object=my-pubkey;type=public") ==
             %URI{object: "my-pubkey", type: :public_key}

    assert URI.parse!("pkcs11:object=my-key;type=private") ==
             %URI{object: "my-key", type: :private_key}

    assert URI.parse!(
             "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;" <>
               "manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;type=cert;" <>
               "id=%69%95%3E%5C%F4%BD%EC%91;serial="
           ) == %URI{
             token: "The Software PKCS#11 Softtoken",
             manufacturer: "Snake Oil, Inc.",
             model: "1.0",
             object: "my-certificate",
             type: :certificate,
             id: <<0x69, 0x95, 0x3E, 0x5C, 0xF4, 0xBD, 0xEC, 0x91>>,
             serial: ""
           }

    assert URI.parse!("pkcs11:slot-description=Sun%20Metaslot") ==
             %URI{slot_description: "Sun Metaslot"}

    assert URI.parse!(
             "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;" <>
               "library-description=Soft%20Token%20Library;library-version=1.23"
           ) == %URI{
             library_manufacturer: "Snake Oil, Inc.",
             library_description: "Soft Token Library",
             library_version: "1.23"
           }

    # "My token%" in UTF-8, and an id of bytes that are no UTF-8
    assert URI.parse!(
             "pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;id=%01%02%03%Ba%dd%Ca%fe%04%05%06"
           ) ==
             %URI{
               token: "My token% created by Joe",
               library_version: "3",
               id: <<1, 2, 3, 0xBA, 0xDD, 0xCA, 0xFE, 4, 5, 6>>
             }

    assert URI.parse!(
             "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert"
           ) ==
             %URI{
               token: "A name with a substring %;",
               object: "my-certificate",
               type: :certificate
             }

    assert URI.parse!("pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1").token ==
             "Name with a small A with acute: á"
  end

  test "an RFC example with an unknown query attribute: the query's is ignored" do
    assert URI.parse!("pkcs11:token=a?vendor-x=1&vendor-x=2") == %URI{token: "a"}
    assert message("pkcs11:token=a?vendor-x=%zz") =~ "percent-encoding"
    assert message("pkcs11:token=a?vendor-x=a b") =~ "percent-encoded"
    assert message("pkcs11:token=a?vendor-x") =~ "name=value"
  end

  test "an unknown attribute in the path could never match: it is named" do
    text = message("pkcs11:token=a;vendor-aaa=value-a")
    assert text =~ "unknown attribute vendor-aaa, valid attributes are: id, library-description"
    refute text =~ "value-a"
  end

  test "the reserved characters of the RFC stand for themselves" do
    assert URI.parse!("pkcs11:token=:[]@!$'()*+,=&-._~").token == ":[]@!$'()*+,=&-._~"
    assert URI.parse!("PKCS11:token=a").token == "a"
    assert URI.parse!("pkcs11:slot-id=42").slot_id == 42
  end

  test "a PIN is refused and never shown" do
    for uri <- [
          "pkcs11:token=a?pin-value=hunter2",
          "pkcs11:token=a?pin-source=file:/hunter2",
          "pkcs11:token=a?x=y&pin-value=hunter2",
          "pkcs11:token=a;pin-value=hunter2",
          "pkcs11:nonsense?pin-value=hunter2",
          "pkcs11:token=%zz?pin-value=hunter2"
        ] do
      text = message(uri)
      assert text =~ ":pin option"
      refute text =~ "hunter2"
    end

    for uri <- [
          "hunter2",
          "pkcs11;hunter2",
          "pkcs11:hunter2",
          "pkcs11:token=%hunter2",
          "pkcs11:token=hunter2 ",
          "pkcs11:token=a?hunter2",
          "pkcs11:hunter2 =a",
          "pkcs11:slot-id=hunter2",
          "pkcs11:type=hunter2"
        ] do
      refute message(uri) =~ "hunter2"
    end
  end

  test "a module is refused with the remedy" do
    for name <- ["module-path", "module-name"] do
      assert message("pkcs11:token=a?#{name}=/usr/lib/x.so") =~ ":module option"
    end
  end

  test "malformed URIs say what is wrong" do
    for {uri, text} <- [
          {"", "starts with pkcs11:"},
          {"pkcs11", "starts with pkcs11:"},
          {"http://token=a", "starts with pkcs11:"},
          {"pkcs11:token", "name=value"},
          {"pkcs11:=a", "name=value"},
          {"pkcs11:token=a;", "name=value"},
          {"pkcs11:;token=a", "name=value"},
          {"pkcs11:token=a;token=b", "attribute token occurs more than once"},
          {"pkcs11:token=;token=b", "attribute token occurs more than once"},
          {"pkcs11:token=a%2", "attribute token has malformed percent-encoding"},
          {"pkcs11:token=a%", "malformed percent-encoding"},
          {"pkcs11:token=a%g0", "malformed percent-encoding"},
          {"pkcs11:token=a b", "must be percent-encoded"},
          {"pkcs11:token=a/b", "must be percent-encoded"},
          {"pkcs11:token=á", "must be percent-encoded"},
          {"pkcs11:token=%FF", "must be UTF-8"},
          {"pkcs11:type=key", "public, private, cert, secret-key, data"},
          {"pkcs11:type=", "public, private"},
          {"pkcs11:slot-id=0x1", "decimal"},
          {"pkcs11:slot-id=", "decimal"},
          {"pkcs11:slot-id=-1", "decimal"},
          {"pkcs11:slot-id=" <> String.duplicate("9", 1_000_000), "decimal"},
          {"pkcs11:library-version=" <> String.duplicate("9", 1_000_000), "version"},
          {"pkcs11:library-version=a", "version"},
          {"pkcs11:library-version=1.", "version"}
        ] do
      assert message(uri) =~ text
    end

    assert_raise ArgumentError, fn -> URI.parse!(nil) end
  end

  test "a URI's key is a template, its slot a selector" do
    uri =
      URI.parse!("pkcs11:token=payments;slot-id=3;object=signing;id=%01;type=secret-key;serial=x")

    assert URI.to_template(uri) == [class: :secret_key, label: "signing", id: <<1>>]
    assert URI.to_slot(uri) == %{token: "payments", slot_id: 3, serial: "x"}
    assert URI.to_template(URI.parse!("pkcs11:token=a")) == []
    assert URI.to_slot(URI.parse!("pkcs11:object=a")) == %{}
  end

  test "a version without a minor number is that of .0, and versions are numbers of a byte each" do
    slot = &Pkcs11Pool.URI.to_slot(Pkcs11Pool.URI.parse!("pkcs11:library-version=" <> &1))
    assert slot.("3") == %{library_version: "3.0"}
    assert slot.("3.0") == %{library_version: "3.0"}
    assert slot.("3.04") == %{library_version: "3.4"}
    assert slot.("255.255") == %{library_version: "255.255"}

    for version <- ["256", "3.256", "99999999999999999999"] do
      assert_raise ArgumentError, ~r/library-version must be a version/, fn -> slot.(version) end
    end
  end

  test "a slot id has 64 bits" do
    assert Pkcs11Pool.URI.parse!("pkcs11:slot-id=18446744073709551615").slot_id ==
             18_446_744_073_709_551_615

    assert_raise ArgumentError, ~r/slot-id must be a decimal number of at most 64 bits/, fn ->
      Pkcs11Pool.URI.parse!("pkcs11:slot-id=18446744073709551616")
    end
  end

  test "a slot is named by a URI whatever the case of its scheme" do
    opts = [name: :x, module: "/x.so", slot: "PKCS11:token=y"]
    assert %{slot: {:uri, %{token: "y"}}} = Pkcs11Pool.Options.validate!(opts)
  end
end
