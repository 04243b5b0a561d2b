defmodule Pkcs11Pool.URITest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Argument.Key
  alias Pkcs11Pool.{Object, Options, Token, URI}
  alias Pkcs11Pool.Test.{OTPLibrary, SoftHSM}
  alias :proper_types, as: Gen

  @compile {:no_warn_undefined, [:proper, Gen]}

  doctest URI
  doctest Object, only: [to_uri: 1]
  doctest Token, only: [to_uri: 1]

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

  # RFC 7512, section 3, as they stand there.
  @examples [
    "pkcs11:",
    "pkcs11:object=my-pubkey;type=public",
    "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
    "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;type=cert;" <>
      "id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
    "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
    "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
    "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin",
    "pkcs11:slot-description=Sun%20Metaslot",
    "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23",
    "pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
    "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
    "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert",
    "pkcs11:token=my-token;object=my-certificate;type=cert;vendor-aaa=value-a?pin-source=file:/etc/token_pin&vendor-bbb=value-b"
  ]

  test "each example of the RFC is parsed, and written with the same attributes" do
    for example <- @examples do
      assert {:ok, uri} = URI.parse(example)
      written = URI.format(uri)
      assert URI.parse(written) == {:ok, uri}
      # The order is another one, and hexadecimal digits are capitals.
      assert sorted(written) == sorted(example)
    end
  end

  defp sorted(uri) do
    hex = &Regex.replace(~r/%../, &1, fn encoded -> String.upcase(encoded) end)
    uri |> hex.() |> String.split([":", ";", "?", "&"]) |> Enum.sort()
  end

  test "the query of the RFC's examples" do
    assert URI.parse!("pkcs11:object=my-key;type=private?pin-source=file:/etc/token").pin_source ==
             "file:/etc/token"

    assert URI.parse!("pkcs11:object=a?module-name=mypkcs11").module_name == "mypkcs11"

    assert URI.parse!("pkcs11:object=a?module-path=/mnt/libmypkcs11.so.1").module_path ==
             "/mnt/libmypkcs11.so.1"

    assert URI.parse!("pkcs11:token=a?pin-value=the-pin").pin_value == "the-pin"

    assert %URI{vendor: [{"vendor-aaa", "value-a"}], query: [{"vendor-bbb", "value-b"}]} =
             URI.parse!("pkcs11:token=a;vendor-aaa=value-a?vendor-bbb=value-b")
  end

  test "attributes of the query that are unknown are kept, in their order, and ignored" do
    uri = URI.parse!("pkcs11:token=a?vendor-x=1&vendor-y=%26&vendor-x=2&token=b")

    assert uri.query == [
             {"vendor-x", "1"},
             {"vendor-y", "&"},
             {"vendor-x", "2"},
             {"token", "b"}
           ]

    assert URI.format(uri) == "pkcs11:token=a?vendor-x=1&vendor-y=%26&vendor-x=2&token=b"
    assert URI.to_slot(uri) == %{token: "a"}
    assert message("pkcs11:token=a?vendor-x=%zz") =~ "percent-encoding"
    assert message("pkcs11:token=a?vendor-x=a b") =~ "percent-encoded"
    assert message("pkcs11:token=a?vendor-x") =~ "name=value"
  end

  test "an unknown attribute in the path is parsed, and matches nothing: it is named where it is used" do
    uri = URI.parse!("pkcs11:token=a;object=b;vendor-aaa=value-a")
    assert uri.vendor == [{"vendor-aaa", "value-a"}]

    for use <- [
          fn -> URI.to_slot(uri) end,
          fn -> URI.to_template(uri) end,
          fn -> Key.encode!(URI.format(uri), nil) end,
          fn -> slot!("pkcs11:token=a;vendor-aaa=value-a") end
        ] do
      text = assert_raise(ArgumentError, use) |> Exception.message()

      assert text =~
               "unknown attribute vendor-aaa, valid attributes are: id, library-description"

      refute text =~ "value-a"
    end
  end

  defp slot!(uri, opts \\ []),
    do: Options.validate!([name: :x, module: "/opt/libmypkcs11.so.1", slot: uri] ++ opts)

  test "the reserved characters of the RFC stand for themselves" do
    assert URI.parse!("pkcs11:token=:[]@!$'()*+,=&-._~").token == ":[]@!$'()*+,=&-._~"
    assert URI.parse!("PKCS11:token=a").token == "a"
    assert URI.parse!("pkcs11:slot-id=42").slot_id == 42
  end

  test "a PIN is refused where a URI is used, and never shown" do
    for use <- [&Key.encode!(&1, nil), &slot!/1],
        uri <- [
          "pkcs11:object=a?pin-value=hunter2",
          "pkcs11:object=a?x=y&pin-value=hunter2",
          "pkcs11:object=a;pin-value=hunter2"
        ] do
      text = assert_raise(ArgumentError, fn -> use.(uri) end) |> Exception.message()
      assert text =~ ":pin option"
      refute text =~ "hunter2"
    end

    text =
      assert_raise(ArgumentError, fn -> Key.encode!("pkcs11:object=a?pin-source=file:/p", nil) end)

    assert Exception.message(text) =~
             "pin-source is not accepted: a PIN belongs in the :pin option"

    text = assert_raise(ArgumentError, fn -> slot!("pkcs11:token=a?pin-value=hunter2") end)
    assert Exception.message(text) =~ "the PIN would sit in the supervisor's state"

    shown = inspect(URI.parse!("pkcs11:token=a?pin-value=hunter2"))
    assert shown == ~s|#Pkcs11Pool.URI<pin_value: :withheld, token: "a">|

    for malformed <- [
          "pkcs11:nonsense?pin-value=hunter2",
          "pkcs11:token=%zz?pin-value=hunter2",
          "pkcs11:token=a?pin-value=hunter2&pin-value=hunter2",
          "pkcs11:token=a?pin-value=hunter2&pin-source=hunter2",
          "pkcs11:token=a?pin-value=hunter2%"
        ] do
      refute message(malformed) =~ "hunter2"
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

  test "a key's URI names no module" do
    for name <- ["module-path", "module-name"] do
      assert_raise ArgumentError, ~r/#{name} is not accepted.*:module option/, fn ->
        Key.encode!("pkcs11:object=a?#{name}=/usr/lib/x.so", nil)
      end
    end
  end

  test "a slot's URI may name the module that the :module option names, and no other" do
    for own <- [
          "module-path=/opt/libmypkcs11.so.1",
          "module-path=/opt",
          "module-path=/opt/",
          "module-name=mypkcs11",
          "module-name=MyPKCS11",
          "module-name=libmypkcs11.so",
          "module-path=/opt&module-name=mypkcs11"
        ] do
      assert %{slot: {:uri, %{token: "a"}}} = slot!("pkcs11:token=a?" <> own)
    end

    for other <- [
          "module-path=/mnt/libmypkcs11.so.1",
          "module-path=/",
          "module-path=",
          "module-name=pkcs11",
          "module-name="
        ],
        check <- [
          &slot!/1,
          &Options.Token.provision!(module: "/opt/libmypkcs11.so.1", slot: &1)
        ] do
      assert_raise ArgumentError, ~r/:slot option.* names another module than the :module/, fn ->
        check.("pkcs11:token=a?" <> other)
      end
    end
  end

  describe "pin-source" do
    test "of a slot's URI is the PIN's file, if there is no :pin" do
      for source <- [
            "file:/run/my%2520pin",
            "file:///run/my%2520pin",
            "FILE://localhost/run/my%2520pin"
          ] do
        options = slot!("pkcs11:token=a?pin-source=" <> source)
        assert Options.reveal(options.pin) == {:file, "/run/my pin"}
        assert options.slot == {:uri, %{token: "a"}}
        assert inspect(options) =~ "{:file, "
      end

      options = slot!("pkcs11:token=a?pin-source=file:/run/pin", pin: {:env, "PIN"})
      assert Options.reveal(options.pin) == {:env, "PIN"}
      assert slot!("pkcs11:token=a").pin == nil
      # Pools that ask nobody for a PIN say so.
      for opts <- [[type: :cloud_hsm], [protected_authentication_path: true]] do
        assert_raise ArgumentError, ~r/:pin option/, fn ->
          slot!("pkcs11:token=a?pin-source=file:/run/pin", opts)
        end
      end

      assert %{type: :token} = slot!("pkcs11:token=a?pin-source=file:/run/pin", type: :token)
    end

    test "that is a command or anything else is refused, with the remedy" do
      assert_raise ArgumentError, ~r/:slot option: .*command.*starts no programs.*:pin/s, fn ->
        slot!("pkcs11:token=a?pin-source=|/usr/bin/hunter2")
      end

      for source <- [
            "",
            "hunter2",
            "/hunter2",
            "file:hunter2",
            "file:",
            "file://host/hunter2",
            "file:/hunter2%2500",
            "file:/hunter2%25zz",
            "file:/hunter2?x",
            "https://hunter2/pin"
          ] do
        error =
          assert_raise(ArgumentError, fn -> slot!("pkcs11:token=a?pin-source=" <> source) end)

        assert Exception.message(error) =~ "must be a file: URI of an absolute path"
        refute Exception.message(error) =~ "hunter2"
      end
    end

    test "is read as {:file, path} is, with the same look at who may read it" do
      token = SoftHSM.new_token!()
      path = Path.join(SoftHSM.dir(), "pin #{System.unique_integer([:positive])}")
      File.write!(path, token.pin <> "\n")
      File.chmod!(path, 0o600)
      # Within the file: URI, and within the PKCS#11 URI.
      source = "file:" <> (path |> String.replace(" ", "%20") |> String.replace("%", "%25"))
      uri = "pkcs11:serial=#{token.serial}?pin-source=#{source}&module-name=#{name(token.module)}"
      opts = token |> SoftHSM.pool_opts(slot: uri) |> Keyword.delete(:pin)
      start_supervised!({Pkcs11Pool, opts}, id: :own)
      pool = opts[:name]
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
      assert %{login: :logged_in} = Pkcs11Pool.status(pool)

      refute inspect(:sys.get_state(Pkcs11Pool.Test.Pools.server(pool)), limit: :infinity) =~
               token.pin

      stop_supervised!(:own)

      File.chmod!(path, 0o644)
      start_supervised!({Pkcs11Pool, opts})

      assert {:error, %Pkcs11Pool.Error{reason: :pin_source_failed} = error} =
               Pkcs11Pool.await_ready(pool, 30_000)

      assert Exception.message(error) =~ "may be read by group or others"
    end

    defp name(module), do: module |> Path.basename() |> Path.rootname()
  end

  describe "URIs of" do
    setup do
      token = SoftHSM.new_token!()
      opts = SoftHSM.pool_opts(token)
      start_supervised!({Pkcs11Pool, opts})
      %{pool: opts[:name], token: token}
    end

    test "objects find them again", %{pool: pool} do
      Pkcs11Pool.Test.Pools.key_pair!(pool, "my key; 100% á", id: <<0, 255>>)
      Pkcs11Pool.Test.Pools.key_pair!(pool, "other")

      for object <- Pkcs11Pool.find_objects!(pool, []), object.label != "" do
        uri = Object.to_uri(object)

        assert {:ok, %{class: class, label: label}} =
                 Pkcs11Pool.get_attributes(pool, uri, [:class, :label])

        assert {class, label} == {object.class, object.label}
      end

      [object | _] = Pkcs11Pool.find_objects!(pool, label: "other")
      assert Object.to_uri(object) =~ ~r/^pkcs11:token=token-\d+;serial=\w+;object=other;type=p/
      assert Object.to_uri(%{object | label: <<255>>, id: nil, class: 7}) =~ ~r/serial=\w+$/
      assert Object.to_uri(%{object | token: "by hand"}) =~ "pkcs11:object=other"
    end

    test "tokens and slots are slots of pools", %{pool: pool, token: token} do
      uri = pool |> Pkcs11Pool.token_info!() |> Token.to_uri()

      assert %URI{manufacturer: "SoftHSM project", model: "SoftHSM v2"} = parsed = URI.parse!(uri)
      assert {parsed.token, parsed.serial} == {token.label, token.serial}
      opts = [module: token.module, module_env: token.module_env]
      {:ok, %{slots: slots}} = Token.list(opts)
      uris = for slot <- slots, do: Token.to_uri(slot)
      [of_slot] = Enum.filter(uris, &(&1 =~ token.serial))
      assert URI.parse!(of_slot).slot_id == token.slot_id

      for {slot, number} <- Enum.with_index([uri, of_slot]) do
        start_supervised!(
          {Pkcs11Pool, SoftHSM.pool_opts(token, name: {pool, number}, slot: slot)},
          id: number
        )

        assert Pkcs11Pool.await_ready({pool, number}, 30_000) == :ok
      end

      assert_raise ArgumentError, ~r/expected a token/, fn -> Token.to_uri(%{}) end
    end
  end

  if OTPLibrary.load(:proper) do
    @cases if System.get_env("PKCS11_POOL_LONG"), do: 100_000, else: 2_000

    @tag timeout: :infinity
    test "what is written is read back as it was, whatever the values" do
      property =
        :proper.forall(uris(), fn uri ->
          {:ok, uri} == uri |> URI.format() |> URI.parse()
        end)

      assert :proper.quickcheck(property, [:quiet, :long_result, numtests: @cases]) == true
    end

    @tag timeout: :infinity
    test "any text is read or refused; and what is read is written, and read back as it was" do
      text =
        Gen.oneof([
          Gen.binary(),
          Gen.bind(
            {uris(), Gen.non_neg_integer(), Gen.byte()},
            fn {uri, place, byte} ->
              text = URI.format(uri)
              place = rem(place, byte_size(text) + 1)

              {head, tail} =
                {binary_part(text, 0, place), binary_part(text, place, byte_size(text) - place)}

              head <> <<byte>> <> tail
            end,
            false
          )
        ])

      property =
        :proper.forall(text, fn text ->
          case URI.parse(text) do
            {:ok, uri} -> URI.parse(URI.format(uri)) == {:ok, uri}
            {:error, message} -> String.valid?(message)
          end
        end)

      assert :proper.quickcheck(property, [:quiet, :long_result, numtests: @cases]) == true
    end

    defp uris do
      text =
        Gen.bind(
          Gen.list(Gen.oneof([Gen.integer(0, 127), 0xE1, 0x1F511])),
          &List.to_string/1,
          false
        )

      maybe = &Gen.oneof([nil, &1])
      name = Gen.bind(Gen.list(Gen.oneof(~c"azAZ09-_")), &"v#{&1}", false)
      unique = fn pairs -> Enum.uniq_by(pairs, &elem(&1, 0)) end
      pairs = Gen.list({name, Gen.binary()})

      texts =
        ~w(token serial manufacturer model slot_description slot_manufacturer library_manufacturer library_description object)a

      Gen.bind(
        {Gen.fixed_list(for _ <- texts, do: maybe.(text)),
         maybe.(Gen.integer(0, 0xFFFFFFFFFFFFFFFF)), maybe.(Gen.oneof(["3", "3.1", "255.255"])),
         maybe.(Gen.binary()),
         maybe.(Gen.oneof([:public_key, :private_key, :certificate, :secret_key, :data])),
         Gen.oneof([[], [pin_source: Gen.binary()], [pin_value: Gen.binary()]]),
         {maybe.(Gen.binary()), maybe.(Gen.binary())}, {pairs, pairs}},
        fn {values, slot_id, version, id, type, pin, {module_name, module_path}, {vendor, query}} ->
          %URI{slot_id: slot_id, library_version: version, id: id, type: type}
          |> struct!(Enum.zip(texts, values))
          |> struct!(pin)
          |> struct!(module_name: module_name, module_path: module_path)
          |> struct!(vendor: unique.(vendor), query: query)
        end,
        false
      )
    end
  else
    @tag skip: "the library PropEr is not installed: run script/bootstrap"
    test "what is written is read back as it was"
  end

  test "what no parsed URI has is not written" do
    for bad <- [
          %URI{token: <<255>>},
          %URI{token: :a},
          %URI{type: :hw_feature},
          %URI{slot_id: -1},
          %URI{library_version: "x"},
          %URI{vendor: [{"token", "a"}]},
          %URI{vendor: [{"v;w", "a"}]},
          %URI{vendor: [{"v", "1"}, {"v", "2"}]},
          %URI{vendor: :none},
          %URI{query: [{"pin-value", "hunter2"}]},
          %URI{query: [{:a, "b"}]},
          %URI{pin_value: "hunter2", pin_source: "file:/hunter2"}
        ] do
      error = assert_raise(ArgumentError, fn -> URI.format(bad) end)
      assert Exception.message(error) =~ "invalid PKCS#11 URI"
      refute Exception.message(error) =~ "hunter2"
    end

    assert "#{%URI{token: "a"}}" == "pkcs11:token=a"
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
