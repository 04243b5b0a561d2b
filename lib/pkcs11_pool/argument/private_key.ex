defmodule Pkcs11Pool.Argument.PrivateKey do
  @moduledoc false
  # A private key that a caller has in the clear, as the attributes of an object. No error tells anything of its value.

  alias Pkcs11Pool.Argument.DER
  alias Pkcs11Pool.PublicKey.Curve
  alias Pkcs11Pool.Template

  @integer 0x02
  @octet_string 0x04
  @object_identifier 0x06
  @sequence 0x30
  @parameters 0xA0

  # rsaEncryption, id-RSASSA-PSS, id-RSAES-OAEP
  @rsa for arc <- [1, 10, 7], do: {1, 2, 840, 113_549, 1, 1, arc}
  @ec {1, 2, 840, 10_045, 2, 1}

  # RFC 8410: key type, and bytes of the key.
  @one_coordinate %{
    {1, 3, 101, 110} => {:ec_montgomery, 32},
    {1, 3, 101, 111} => {:ec_montgomery, 56},
    {1, 3, 101, 112} => {:ec_edwards, 32},
    {1, 3, 101, 113} => {:ec_edwards, 57}
  }

  @rsa_attributes [
    :modulus,
    :public_exponent,
    :private_exponent,
    :prime_1,
    :prime_2,
    :exponent_1,
    :exponent_2,
    :coefficient
  ]

  @expected "expected a private key: an RSAPrivateKey, ECPrivateKey or PrivateKeyInfo as OTP's :public_key has it, or one of these in DER or PEM"

  @doc """
  The template, encoded, with the attributes that the key has. Raises `ArgumentError` for what is no key, and for a template that says otherwise than
  the key.
  """
  @spec template!(term, Template.t()) :: Template.encoded()
  def template!(key, template) do
    own = Template.encode!([{:class, :private_key} | attributes!(key)])
    Enum.reduce(own, Template.encode!(template), &put!/2)
  end

  defp put!({code, value} = attribute, template) do
    case List.keyfind(template, code, 0) do
      nil -> template ++ [attribute]
      {_code, ^value} -> template
      _another -> contradicts!(code)
    end
  end

  defp attributes!(key) do
    key |> normalize!() |> attributes()
  catch
    :throw, {:refused, text} -> raise ArgumentError, text
    # What is raised where a key is read may show it.
    :error, _malformed -> raise ArgumentError, @expected
  end

  ## What the caller gives: to the numbers of an RSA key, or curve and value

  defp normalize!(bytes) when is_binary(bytes) do
    if bytes =~ "-----BEGIN ", do: pem!(bytes), else: der!(bytes)
  end

  # An entry of a PEM, as :public_key.pem_decode/1 has it.
  defp normalize!({type, der, :not_encrypted}) when is_atom(type) and is_binary(der),
    do: der!(der)

  defp normalize!({type, der, {_cipher, _how}}) when is_atom(type) and is_binary(der),
    do: encrypted!()

  defp normalize!(record) when is_tuple(record) and elem(record, 0) == :RSAPrivateKey do
    [:RSAPrivateKey, _version | rest] = Tuple.to_list(record)
    rsa!(Enum.take(rest, 8), Enum.at(rest, 8))
  end

  # With the parameters that a key for RSASSA-PSS alone has.
  defp normalize!({record, _parameters})
       when is_tuple(record) and elem(record, 0) == :RSAPrivateKey,
       do: normalize!(record)

  # The version is 1, or its name from OTP 28 on.
  defp normalize!(record) when is_tuple(record) and elem(record, 0) == :ECPrivateKey,
    do: ec!(elem(record, 3), elem(record, 2))

  defp normalize!({:ed_pri, curve, _public, value}) when curve in [:ed25519, :ed448],
    do: ec!({:namedCurve, curve}, value)

  # As it is named to OTP 27 and from 28 on.
  defp normalize!(record)
       when is_tuple(record) and elem(record, 0) in [:PrivateKeyInfo, :OneAsymmetricKey] do
    algorithm = elem(record, 2)
    info!(elem(algorithm, 1), elem(algorithm, 2), IO.iodata_to_binary(elem(record, 3)))
  end

  defp normalize!(_other), do: no_key!()

  defp pem!(pem) do
    entries = :public_key.pem_decode(pem)
    types = [:RSAPrivateKey, :ECPrivateKey, :PrivateKeyInfo, :OneAsymmetricKey]

    # Beside the key there may be its certificate, or the parameters of its curve.
    case Enum.filter(entries, &(elem(&1, 0) in types)) do
      [entry] -> normalize!(entry)
      _none_or_several -> no_key!()
    end
  end

  # What it is, its second element says: PrivateKeyInfo, RSAPrivateKey or ECPrivateKey.
  defp der!(der) do
    with {:ok, {@sequence, content}} <- DER.element(der),
         {:ok, elements} <- DER.elements(content) do
      case elements do
        [{@integer, _version}, {@sequence, algorithm}, {@octet_string, key} | _attributes] ->
          {:ok, [{@object_identifier, oid} | parameters]} = DER.elements(algorithm)
          {:ok, oid} = DER.oid(oid)
          info!(oid, parameters(parameters), key)

        [{@integer, _version} | [_1, _2, _3, _4, _5, _6, _7, _8 | others] = numbers] ->
          rsa!(for({@integer, number} <- Enum.take(numbers, 8), do: unsigned!(number)), others)

        [{@integer, _version}, {@octet_string, value} | optional] ->
          case List.keyfind(optional, @parameters, 0) do
            {@parameters, curve} -> ec!(curve, value)
            nil -> ec!(:none, value)
          end

        [{@sequence, _algorithm}, {@octet_string, _encrypted}] ->
          encrypted!()

        _other ->
          no_key!()
      end
    else
      _malformed -> no_key!()
    end
  end

  defp parameters([{tag, content}]), do: DER.encode(tag, content)
  defp parameters(_none), do: :none

  # RFC 5958. The curve stands with the algorithm; that of the key itself is left out mostly.
  defp info!(oid, _parameters, key) when oid in @rsa, do: der!(key)

  defp info!(@ec, parameters, key) do
    {:ok, {@sequence, content}} = DER.element(key)
    {:ok, [{@integer, _version}, {@octet_string, value} | _optional]} = DER.elements(content)
    ec!(parameters, value)
  end

  defp info!(oid, _parameters, key) when is_map_key(@one_coordinate, oid) do
    {:ok, {@octet_string, value}} = DER.element(key)
    ec!({:namedCurve, oid}, value)
  end

  defp info!(_oid, _parameters, _key), do: unsupported!()

  # DER has them with a sign.
  defp unsigned!(<<1::1, _negative::bitstring>>), do: no_key!()
  defp unsigned!(bytes), do: :binary.decode_unsigned(bytes)

  defp rsa!(numbers, others) do
    cond do
      others not in [[], :asn1_NOVALUE, nil] -> unsupported!()
      length(numbers) != 8 or not Enum.all?(numbers, &(is_integer(&1) and &1 > 0)) -> no_key!()
      true -> {:rsa, numbers}
    end
  end

  defp ec!(curve, value) when is_binary(value) and value != "" do
    case {Curve.decode(curve), Curve.encode(curve)} do
      {{:ok, {:namedCurve, oid}}, {:ok, params}} -> {:curve, oid, params, value}
      {_explicit, {:ok, params}} -> {:curve, nil, params, value}
      {_no_curve, :error} -> no_curve!()
    end
  end

  defp ec!(_curve, _no_value), do: no_key!()

  ## What the token gets

  defp attributes({:rsa, numbers}), do: [{:key_type, :rsa} | Enum.zip(@rsa_attributes, numbers)]

  defp attributes({:curve, oid, params, value}) when is_map_key(@one_coordinate, oid) do
    {key_type, size} = @one_coordinate[oid]
    if byte_size(value) != size, do: no_key!()
    [key_type: key_type, ec_params: params, value: value]
  end

  defp attributes({:curve, _oid, params, value}),
    do: [key_type: :ec, ec_params: params, value: value]

  ## Errors

  @spec no_key!() :: no_return
  defp no_key!, do: throw({:refused, @expected})

  @spec unsupported!() :: no_return
  defp unsupported! do
    throw(
      {:refused,
       "unsupported type of private key: RSA keys of two primes and keys on curves (ECDSA, Edwards, Montgomery) are imported. " <>
         "Of another key make the template yourself, for create_object/3"}
    )
  end

  @spec encrypted!() :: no_return
  defp encrypted! do
    throw(
      {:refused,
       "the private key is encrypted: decrypt it before, as with :public_key.pem_entry_decode(entry, password)"}
    )
  end

  @spec no_curve!() :: no_return
  defp no_curve! do
    throw(
      {:refused,
       "the private key does not say on which curve it is, or not in a way that this release of OTP can encode"}
    )
  end

  @spec contradicts!(non_neg_integer) :: no_return
  defp contradicts!(code) do
    raise ArgumentError,
          "attribute #{inspect(Template.name(code))} of the template is another one than the private key's: leave it out"
  end
end
