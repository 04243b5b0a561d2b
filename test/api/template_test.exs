defmodule Pkcs11Pool.TemplateTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Table.{Attributes, Constants, Curves}
  alias Pkcs11Pool.Template

  @word :erlang.system_info(:wordsize) * 8

  defp message(fun), do: assert_raise(ArgumentError, fun) |> Exception.message()
  defp ulong(number), do: <<number::native-size(@word)>>

  test "names and values have the standard's numbers, in the order given" do
    assert Template.encode!(
             class: :private_key,
             key_type: :ec,
             label: "clé",
             id: <<1, 0, 255>>,
             token: true,
             private: false,
             modulus_bits: 2048,
             public_exponent: 65_537,
             modulus: <<0, 1>>,
             value_len: 0,
             start_date: ~D[2024-02-29],
             end_date: "20301231",
             certificate_type: :x_509
           ) == [
             {0x0, {:ulong, 3}},
             {0x100, {:ulong, 3}},
             {0x3, "clé"},
             {0x102, <<1, 0, 255>>},
             {0x1, true},
             {0x2, false},
             {0x121, {:ulong, 2048}},
             {0x122, <<1, 0, 1>>},
             {0x120, <<0, 1>>},
             {0x161, {:ulong, 0}},
             {0x110, "20240229"},
             {0x111, "20301231"},
             {0x80, {:ulong, 0}}
           ]

    assert Template.encode!([]) == []
  end

  test "classes and key types go by name or number" do
    for {name, number} <- [data: 0, certificate: 1, public_key: 2, private_key: 3, secret_key: 4] do
      assert Template.encode!(class: name) == [{0x0, {:ulong, number}}]
      assert Template.encode!(class: number) == [{0x0, {:ulong, number}}]
      assert Template.class(number) == name
      assert Template.class!(name) == number
    end

    for {name, number} <- [
          rsa: 0,
          ec: 3,
          generic_secret: 0x10,
          des3: 0x15,
          aes: 0x1F,
          ec_edwards: 0x40
        ] do
      assert Template.encode!(key_type: name) == [{0x100, {:ulong, number}}]
      assert Template.key_type(number) == name
    end

    assert Template.encode!(class: 0x80000001) == [{0x0, {:ulong, 0x80000001}}]
    assert Template.class(0x80000001) == 0x80000001
  end

  test "curves go by :public_key's names, as DER" do
    for {curve, der} <- [
          secp256r1: "06082a8648ce3d030107",
          prime256v1: "06082a8648ce3d030107",
          secp384r1: "06052b81040022",
          secp521r1: "06052b81040023",
          secp256k1: "06052b8104000a",
          brainpoolP256r1: "06092b2403030208010107",
          ed25519: "06032b6570",
          ed448: "06032b6571",
          x25519: "06032b656e",
          x448: "06032b656f"
        ] do
      assert Template.encode!(ec_params: curve) ==
               [{0x180, Base.decode16!(der, case: :lower)}]
    end

    for {curve, oid} <- Curves.all() do
      assert [{0x180, der}] = Template.encode!(ec_params: curve)
      assert der == :public_key.der_encode(:EcpkParameters, {:namedCurve, oid})
    end

    assert Template.encode!(ec_params: <<6, 1, 0>>) == [{0x180, <<6, 1, 0>>}]
    assert message(fn -> Template.encode!(ec_params: :secp256r9) end) =~ "did you mean"
  end

  test "mechanisms and nested templates" do
    assert Template.encode!(allowed_mechanisms: [:ecdsa, {:vendor, 0x80000001}, 0x40]) ==
             [{0x40000600, {:ulongs, [0x1041, 0x80000001, 0x40]}}]

    assert Template.encode!(wrap_template: [class: :secret_key, extractable: false]) ==
             [{0x40000211, {:template, [{0x0, {:ulong, 4}}, {0x162, false}]}}]

    assert message(fn -> Template.encode!(allowed_mechanisms: [:ecdas]) end) =~
             "attribute :allowed_mechanisms: unknown mechanism :ecdas, did you mean :ecdsa?"

    assert message(fn -> Template.encode!(unwrap_template: [lable: "x"]) end) =~
             "in attribute :unwrap_template: unknown attribute :lable, did you mean :label?"
  end

  test "a vendor's attribute takes booleans, numbers and binaries" do
    assert Template.encode!([{{:vendor, 0x80000001}, true}, {{:vendor, 0x80000002}, 7}]) ==
             [{0x80000001, true}, {0x80000002, {:ulong, 7}}]

    assert Template.encode!([{{:vendor, 0x80000001}, "x"}]) == [{0x80000001, "x"}]
    assert Template.name!({:vendor, 0x80000001}) == 0x80000001
    assert Template.name(0x80000001) == {:vendor, 0x80000001}
    # A known attribute by its number is that attribute.
    assert message(fn -> Template.encode!([{{:vendor, 3}, 1}]) end) =~ "UTF-8"
  end

  test "malformed templates say where and what is expected" do
    for {bad, text} <- [
          {%{}, "expected a template"},
          {:label, "expected a template"},
          {"label", "expected a template"},
          {[:label], "element 1 of the template is malformed"},
          {[{:label, "a"}, {:id, 1, 2}], "element 2 of the template is malformed"},
          {[{:label, "a"} | :b], "ends improperly"},
          {[{"label", "a"}], "an attribute's name must be an atom"},
          {[{{:vendor, -1}, "a"}], "{:vendor, number}"},
          {[lable: "a"], "unknown attribute :lable, did you mean :label?"},
          {[CKA_LABEL: "a"], "did you mean :label?"},
          {[label: "a", id: "b", label: "c"], "attribute :label occurs more than once"},
          {[ec_params: :secp256r1, ecdsa_params: :secp256r1], "more than once"},
          {[token: "true"], "attribute :token: expected true or false, got: a binary"},
          {[token: 1], "got: 1"},
          {[label: <<255>>], "attribute :label: expected a UTF-8 string"},
          {[label: :a], "got: :a"},
          {[id: ~c"ab"], "attribute :id: expected a binary, got: a list"},
          {[value_len: -1], "attribute :value_len: expected a non-negative integer"},
          {[value_len: 1.0], "another term"},
          {[value_len: Bitwise.bsl(1, @word)], "got: an integer"},
          {[modulus: -1], "attribute :modulus: expected a non-negative integer, or"},
          {[class: :privatekey], "did you mean :private_key?"},
          {[class: -1], "an object class"},
          {[key_type: "rsa"], "a key type"},
          {[start_date: "2024-01-01"], "a Date, or 8 digits"},
          {[start_date: "20241301"], "a Date, or 8 digits"},
          {[start_date: ~T[00:00:00]], "a Time struct"},
          {[wrap_template: "x"], "a template"},
          {[allowed_mechanisms: :ecdsa], "a list of mechanisms' names"}
        ] do
      assert message(fn -> Template.encode!(bad) end) =~ text
    end
  end

  test "no message shows key material" do
    secret = "correct horse battery staple"
    number = :binary.decode_unsigned(secret)

    for bad <- [
          [value: [secret]],
          [value: String.to_charlist(secret)],
          [value: number],
          [value: %{key: secret}],
          [value: {secret}],
          [private_exponent: -number],
          [token: secret],
          [class: secret],
          [start_date: secret],
          [label: secret <> <<255>>],
          [value_len: secret],
          [{secret, secret}],
          [secret],
          [{:value, secret, secret}],
          secret,
          [allowed_mechanisms: [secret]],
          [wrap_template: [value: [secret]]],
          [wrap_template: secret]
        ] do
      text = message(fn -> Template.encode!(bad) end)
      refute text =~ "correct"
      refute text =~ "staple"
      refute text =~ Integer.to_string(number)
    end
  end

  test "every attribute of the standard has a kind that encodes and reads back" do
    samples = %{
      bool: true,
      ulong: 5,
      ulongs: [1, 2],
      bytes: <<0, 255>>,
      string: "a",
      bigint: 65_537,
      date: ~D[2024-01-02],
      class: :secret_key,
      key_type: :aes,
      certificate_type: :wtls,
      mechanism: :ecdsa,
      mechanisms: [:ecdsa, :rsa_pkcs],
      ec_params: <<6, 1, 0>>,
      template: [label: "nested", token: true],
      certificate_category: :authority,
      security_domain: :operator,
      hw_feature_type: :clock,
      otp_format: :hexadecimal,
      otp_requirement: :mandatory,
      profile_id: :complete_provider,
      validation_type: :hybrid,
      validation_authority_type: :nist_cmvp,
      trust: :trust_anchor,
      # Its name depends on the key type, which is not known here.
      parameter_set: 2,
      version: {3, 2}
    }

    for {name, code, kind} <- Attributes.all() do
      value = Map.fetch!(samples, kind)
      assert [{^code, encoded}] = Template.encode!([{name, value}])
      assert {read_name, ^value} = Template.decode(code, as_bytes(encoded))
      assert Template.name!(read_name) == code
    end
  end

  # What a token returns for an encoded value.
  defp as_bytes(true), do: <<1>>
  defp as_bytes(false), do: <<0>>
  defp as_bytes({:ulong, number}), do: ulong(number)
  defp as_bytes({:ulongs, numbers}), do: Enum.map_join(numbers, &ulong/1)

  defp as_bytes({:template, nested}),
    do: for({code, value} <- nested, do: {code, as_bytes(value)})

  defp as_bytes(binary), do: binary

  test "what a token returns reads as documented" do
    assert Template.decode(0x0, ulong(3)) == {:class, :private_key}
    assert Template.decode(0x0, ulong(0x80000001)) == {:class, 0x80000001}
    assert Template.decode(0x100, <<3::native-32>>) == {:key_type, :ec}
    assert Template.decode(0x1, <<1>>) == {:token, true}
    assert Template.decode(0x1, <<0>>) == {:token, false}
    assert Template.decode(0x120, <<0, 1, 0, 1>>) == {:modulus, 65_537}
    assert Template.decode(0x3, "clé") == {:label, "clé"}
    assert Template.decode(0x3, <<255>>) == {:label, <<255>>}
    assert Template.decode(0x110, "20240102") == {:start_date, ~D[2024-01-02]}
    assert Template.decode(0x110, "") == {:start_date, ""}
    assert Template.decode(0x110, "00000000") == {:start_date, "00000000"}
    assert Template.decode(0x166, ulong(0x1040)) == {:key_gen_mechanism, :ec_key_pair_gen}
    assert Template.decode(0x166, :binary.copy(<<255>>, 8)) == {:key_gen_mechanism, nil}
    assert Template.decode(0x121, <<1, 2, 3>>) == {:modulus_bits, <<1, 2, 3>>}
    assert Template.decode(0x1, "") == {:token, ""}
    assert Template.decode(0x80000001, <<1>>) == {{:vendor, 0x80000001}, <<1>>}
  end

  describe "what the crate's bindings of PKCS#11 3.2 name" do
    for {prefix, table} <- [
          CKA: Enum.map(Attributes.all(), fn {name, code, _kind} -> {name, code} end),
          CKO: Constants.classes(),
          CKK: Constants.key_types(),
          CKC: Constants.certificate_types(),
          CKH: Constants.enumerations()[:hw_feature_type],
          CKT: Constants.enumerations()[:trust],
          CK_CERTIFICATE_CATEGORY: Constants.enumerations()[:certificate_category],
          CK_SECURITY_DOMAIN: Constants.enumerations()[:security_domain],
          CK_OTP_FORMAT: Constants.enumerations()[:otp_format],
          CK_OTP_PARAM: Constants.enumerations()[:otp_requirement],
          CKV_TYPE: Constants.enumerations()[:validation_type],
          CKV_AUTHORITY_TYPE: Constants.enumerations()[:validation_authority_type],
          CKP:
            Constants.enumerations()[:profile_id] ++
              for({_key_type, sets} <- Constants.parameter_sets(), set <- sets, do: set)
        ] do
      @table table
      test "#{prefix}_ has its name and number here" do
        standard = Pkcs11Pool.Test.Header.constants(unquote(to_string(prefix)))
        # Parameters of mechanisms; where the vendors' begin.
        elsewhere =
          ~r/^(vendor_defined|pkcs5_pbkd2_.*|hedge_preferred|hedge_required|deterministic_required)$/

        standard =
          for {name, code} <- standard,
              name not in [""],
              not (name =~ elsewhere),
              do: {name, code}

        assert standard != []
        ours = for {name, code} <- @table, do: {Atom.to_string(name), code}
        assert standard -- ours == []
      end
    end

    test "is read for the version that the tables claim" do
      assert {"major", 3} in Pkcs11Pool.Test.Header.constants("CRYPTOKI_VERSION")
      assert {"minor", 2} in Pkcs11Pool.Test.Header.constants("CRYPTOKI_VERSION")
      assert length(Pkcs11Pool.Test.Header.constants("CKA")) == 160
    end
  end

  test "enumerations go by name or number" do
    assert Template.encode!(
             certificate_category: :authority,
             trust_email_protection: :not_trusted
           ) ==
             [{0x87, {:ulong, 2}}, {0x62F, {:ulong, 3}}]

    assert Template.encode!(hw_feature_type: 0x80000001) == [{0x300, {:ulong, 0x80000001}}]
    assert Template.decode(0x300, ulong(0x80000001)) == {:hw_feature_type, 0x80000001}
    assert Template.encode!(validation_version: {3, 2}) == [{0x620, <<3, 2>>}]

    assert message(fn -> Template.encode!(certificate_category: :autority) end) =~
             "attribute :certificate_category: expected one of [:unspecified, :token_user, :authority, :other_entity], " <>
               "or a number, got: :autority, did you mean :authority?"

    assert message(fn -> Template.encode!(validation_version: {3, 256}) end) =~ "{major, minor}"
  end

  test "a parameter set is named by its key type" do
    for {name, number, key_type} <- [
          {:ml_dsa_44, 1, :ml_dsa},
          {:ml_kem_768, 2, :ml_kem},
          {:slh_dsa_shake_256f, 12, :slh_dsa}
        ] do
      assert Template.encode!(parameter_set: name) == [{0x61D, {:ulong, number}}]
      assert Template.parameter_set(number, key_type) == name
    end

    assert Template.decode(0x61D, ulong(2)) == {:parameter_set, 2}
    assert Template.parameter_set(13, :slh_dsa) == 13
    assert Template.parameter_set(2, :rsa) == 2

    assert message(fn -> Template.encode!(parameter_set: :ml_dsa_45) end) =~
             "did you mean :ml_dsa_"
  end

  test "no name has two numbers, and all kinds are known" do
    names = for {name, _code, _kind} <- Attributes.all(), do: name
    assert names == Enum.uniq(names)

    for table <- [Constants.classes(), Constants.key_types(), Constants.certificate_types()] do
      assert Keyword.keys(table) == Enum.uniq(Keyword.keys(table))
    end
  end
end
