defmodule Pkcs11Pool.FindCertificatesTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object, X509}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup_all do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = String.to_atom(token.label)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, pool_size: 2)})
    %{pool: pool, chaos: token.chaos, certificate: certificate("example.com")}
  end

  setup %{pool: pool, chaos: chaos} do
    Chaos.reset(chaos)

    on_exit(fn ->
      Pools.drained!(pool)
      assert Chaos.violations(chaos) == []
    end)

    %{label: "certificate #{System.unique_integer([:positive])}"}
  end

  # By openssl: its DER, and its key.
  defp certificate(name) do
    file = Path.join(SoftHSM.dir(), "certificate-#{System.unique_integer([:positive])}")

    SoftHSM.openssl!(
      ~w(req -x509 -newkey rsa:1024 -nodes -utf8 -days 1 -set_serial 0x80000001 -subj) ++
        ["/C=AT/O=Prüfung/CN=#{name}", "-outform", "DER", "-out", file, "-keyout", file <> ".key"]
    )

    %{der: File.read!(file), key: File.read!(file <> ".key")}
  end

  defp plain(der), do: der |> :public_key.pkix_decode_cert(:plain) |> elem(1)
  defp otp(der), do: der |> :public_key.pkix_decode_cert(:otp) |> elem(1)
  defp name_der(name), do: :public_key.der_encode(:Name, name)

  defp store!(pool, der, label, extra \\ []) do
    template =
      Keyword.merge(
        [
          class: :certificate,
          certificate_type: :x_509,
          token: true,
          label: label,
          subject: name_der(elem(plain(der), 6)),
          issuer: name_der(elem(plain(der), 4)),
          serial_number: <<2, 5, 0, 0x80, 0, 0, 1>>,
          value: der
        ],
        extra
      )

    Pkcs11Pool.create_object!(pool, template)
  end

  test "come with their DER, which OTP decodes", %{pool: pool, label: label} = context do
    %{certificate: %{der: der}} = context
    object = store!(pool, der, label, id: <<7>>)
    assert Pkcs11Pool.find_certificates(pool, label: label) == {:ok, [%{object | der: der}]}

    assert [%Object{class: :certificate, id: <<7>>, der: ^der}] =
             Pkcs11Pool.find_certificates!(pool, label: label)

    assert inspect(%{object | der: der}) == inspect(object)
    assert {:OTPCertificate, _, _, _} = :public_key.pkix_decode_cert(der, :otp)
    # It is an object as any other.
    assert {:ok, %{value: ^der}} = Pkcs11Pool.get_attributes(pool, %{object | der: der}, [:value])
    assert {:ok, all} = Pkcs11Pool.find_certificates(pool, [])
    assert %{object | der: der} in all
    assert Pkcs11Pool.find_certificates(pool, label: label <> " other") == {:ok, []}
  end

  test "are X.509 certificates only", %{pool: pool, label: label} = context do
    object = store!(pool, context.certificate.der, label)
    Pkcs11Pool.create_object!(pool, class: :data, token: true, label: label, value: "x")
    Pools.key_pair!(pool, label)
    assert {:ok, [found]} = Pkcs11Pool.find_certificates(pool, label: label)
    assert found.handle == object.handle
    same = [class: :certificate, certificate_type: :x_509, label: label]
    assert Pkcs11Pool.find_certificates(pool, same) == {:ok, [found]}

    for {name, value} <- [class: :private_key, certificate_type: :wtls] do
      assert_raise ArgumentError, ~r/leave #{inspect(name)} out/, fn ->
        Pkcs11Pool.find_certificates(pool, [{name, value}])
      end
    end
  end

  test "by label, id, subject, issuer and serial number", %{pool: pool, label: label} = context do
    %{certificate: %{der: der}} = context
    own = store!(pool, der, label, id: label)
    other = certificate("other.example.com").der
    store!(pool, other, label <> " other", id: "other " <> label)
    assert subject = elem(plain(der), 6)
    by_us = [country: "AT", organization: "Prüfung", common_name: "example.com"]

    for template <- [
          [label: label],
          [id: label],
          [id: label, subject: name_der(subject)],
          [id: label, subject: subject],
          [id: label, subject: elem(otp(der), 6)],
          [id: label, subject: by_us],
          [id: label, issuer: subject],
          [id: label, issuer: elem(otp(der), 4)],
          [id: label, serial_number: 0x80000001],
          [id: label, serial_number: <<2, 5, 0, 0x80, 0, 0, 1>>],
          [id: label, issuer: by_us, serial_number: 0x80000001, subject: by_us]
        ] do
      assert {template, Pkcs11Pool.find_certificates(pool, template)} ==
               {template, {:ok, [%{own | der: der}]}}
    end

    for template <- [
          [id: label, subject: [common_name: "example.com"]],
          [id: label, subject: elem(otp(other), 6)],
          [id: label, serial_number: 1]
        ] do
      assert Pkcs11Pool.find_certificates(pool, template) == {:ok, []}
    end
  end

  test "name their key", %{pool: pool, label: label} = context do
    %{certificate: %{der: der, key: key}} = context
    store!(pool, der, label)
    template = [token: true, label: label, private: true, sign: true]
    Pkcs11Pool.import_private_key!(pool, key, template)
    {:ok, [%{der: der}]} = Pkcs11Pool.find_certificates(pool, label: label)
    {:ok, signature} = Pkcs11Pool.sign(pool, {:certificate, der}, :sha256_rsa_pkcs, "m")
    assert :public_key.verify("m", :sha256, signature, otp(der) |> elem(7) |> elem(2))
  end

  test "that Pkcs11Pool.X509 has made are found by the name that it was given", %{
    pool: pool,
    label: label
  } do
    Pools.key_pair!(pool, label)
    name = [common_name: label, email: "a@example.com"]
    {:ok, der} = X509.self_signed(pool, label, name, days: 1)
    store!(pool, der, label)
    assert {:ok, [%{der: ^der}]} = Pkcs11Pool.find_certificates(pool, subject: name)
  end

  test "as many as the limit says", %{pool: pool, label: label} = context do
    for n <- 1..3, do: store!(pool, context.certificate.der, label, id: <<n>>)
    assert {:ok, [_, _, _]} = Pkcs11Pool.find_certificates(pool, label: label)
    assert {:ok, [%{der: der}, _]} = Pkcs11Pool.find_certificates(pool, [label: label], limit: 2)
    assert der == context.certificate.der
  end

  test "of a session, in a block", %{pool: pool, label: label} = context do
    Pkcs11Pool.with_session(pool, fn lease ->
      store!(lease, context.certificate.der, label, token: false)
      assert {:ok, [%{der: der}]} = Pkcs11Pool.find_certificates(lease, label: label)
      assert der == context.certificate.der
    end)
  end

  test "one that is destroyed before it is read is left out",
       %{pool: pool, chaos: chaos, label: label} = context do
    object = store!(pool, context.certificate.der, label, id: <<1>>)
    other = store!(pool, context.certificate.der, label, id: <<2>>)
    # The first call after those of the search.
    Chaos.reset_counts(chaos)
    {:ok, [_, _]} = Pkcs11Pool.find_objects(pool, label: label)
    searching = Chaos.calls(chaos, :C_GetAttributeValue)
    Chaos.hang(chaos, :C_GetAttributeValue, nth: searching + 1)
    task = Task.async(fn -> Pkcs11Pool.find_certificates(pool, label: label) end)
    Poll.until(fn -> Chaos.hanging(chaos)["C_GetAttributeValue"] == 1 end)
    for %{id: <<1>>} = one <- [object, other], do: :ok = Pkcs11Pool.destroy_object(pool, one)
    Chaos.release(chaos)
    assert {:ok, [found]} = Task.await(task, 30_000)
    assert found.id == <<2>>
  end

  test "the token's error is returned", %{pool: pool, chaos: chaos, label: label} = context do
    object = store!(pool, context.certificate.der, label)
    Chaos.fail(chaos, :C_FindObjectsInit, :function_failed)

    assert {:error, %Error{reason: :function_failed}} =
             Pkcs11Pool.find_certificates(pool, label: label)

    Chaos.clear(chaos, :C_FindObjectsInit)
    Chaos.refuse_attributes(chaos, object, :general_error, attributes: [:value])

    assert {:error, %Error{reason: :general_error}} =
             Pkcs11Pool.find_certificates(pool, label: label)

    assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.find_certificates(:nobody, [])
  end

  test "a template that is none says what is wrong", %{pool: pool} do
    for {bad, text} <- [
          {"label", "expected a template"},
          {[lable: "a"], "did you mean :label?"},
          {[:label], "element"},
          {[{:label, "a"} | :b], "ends improperly"},
          {[subject: "é" <> <<0>>, class: 7], "leave :class out"},
          {[subject: [common: "a"]], "unknown attribute :common of a name"},
          {[subject: {:rdnSequence, :none}], "expected a name as OTP has it"},
          {[issuer: {:rdnSequence, [[{:AttributeTypeAndValue, 1, 2}]]}],
           "expected a name as OTP has it"},
          {[subject: 7], "attribute :subject: expected a binary"},
          {[serial_number: -7], "attribute :serial_number: expected a binary"}
        ] do
      error = assert_raise ArgumentError, fn -> Pkcs11Pool.find_certificates(pool, bad) end
      assert error.message =~ text
    end

    assert_raise ArgumentError, ~r/unknown options \[:partial\]/, fn ->
      Pkcs11Pool.find_certificates(pool, [], partial: true)
    end
  end
end
