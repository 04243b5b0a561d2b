defmodule Pkcs11Pool.Argument.PublicKey do
  @moduledoc false
  # A call's `key` that is named by a public key or a certificate, as the native side takes it: the key on the token that belongs to it.

  alias Pkcs11Pool.Argument.DER
  alias Pkcs11Pool.PublicKey.Curve
  alias Pkcs11Pool.Template

  @typedoc """
  Of RSA modulus and exponent; of a curve the key type (`CKK_EC`, `CKK_EC_EDWARDS`, `CKK_EC_MONTGOMERY`), the DER of the curve and the point;
  of a post-quantum key the key type (`CKK_ML_KEM`, `CKK_ML_DSA`, `CKK_SLH_DSA`), the parameter set and the key.
  """
  @type numbers ::
          {:rsa, modulus :: binary, exponent :: binary}
          | {:curve, key_type :: non_neg_integer, params :: binary, point :: binary}
          | {:post_quantum, key_type :: non_neg_integer, set :: non_neg_integer, value :: binary}

  @typedoc "The numbers, DER of the `SubjectPublicKeyInfo`, and the certificate's DER."
  @type encoded :: {numbers, info :: binary, certificate :: binary | nil}

  # Object identifiers: their DER.
  @rsa <<6, 9, 42, 134, 72, 134, 247, 13, 1, 1, 1>>
  @ec <<6, 7, 42, 134, 72, 206, 61, 2, 1>>

  # CKK_EC, CKK_EC_EDWARDS, CKK_EC_MONTGOMERY
  @ecdsa 0x3
  @edwards 0x40
  @montgomery 0x41

  # RFC 8410, by the last number of the identifier: the key type, and the bytes of a point.
  @one_coordinate %{
    110 => {@montgomery, 32},
    111 => {@montgomery, 56},
    112 => {@edwards, 32},
    113 => {@edwards, 57}
  }
  @edwards_arcs %{ed25519: 112, ed448: 113, x25519: 110, x448: 111}

  @doc """
  Whether a term is meant to be such a key.
  """
  defguard is_named(key)
           when is_tuple(key) and tuple_size(key) == 2 and
                  (elem(key, 0) == :public_key or elem(key, 0) == :certificate)

  @doc """
  What the native side needs. Raises `ArgumentError` for what is no public key or certificate.
  """
  @spec encode!({:public_key | :certificate, term}) :: encoded
  def encode!({:public_key, key}) do
    key = public_key(key)
    numbers = numbers!(key)
    {numbers, info(numbers, key), nil}
  rescue
    error in [ArgumentError] -> reraise error, __STACKTRACE__
    _malformed -> no_public_key!()
  end

  def encode!({:certificate, certificate}) do
    {der, plain} = certificate(certificate)
    key = plain |> elem(1) |> elem(7) |> subject_public_key()
    numbers = numbers!(key)
    {numbers, info(numbers, key), der}
  rescue
    error in [ArgumentError] -> reraise error, __STACKTRACE__
    _malformed -> no_certificate!()
  end

  ## What the caller gives

  defp public_key(bytes) when is_binary(bytes) do
    case one_of_pem(bytes, [:SubjectPublicKeyInfo, :RSAPublicKey], &no_public_key!/0) do
      {:RSAPublicKey, der} -> :public_key.der_decode(:RSAPublicKey, der)
      {_info, der} -> subject_public_key(der)
    end
  end

  defp public_key({:SubjectPublicKeyInfo, _algorithm, _key} = info), do: subject_public_key(info)

  defp public_key({:ed_pub, curve, point}) when is_map_key(@edwards_arcs, curve),
    do: {{:ECPoint, point}, {:namedCurve, {1, 3, 101, @edwards_arcs[curve]}}}

  defp public_key(record), do: record

  defp certificate(bytes) when is_binary(bytes) do
    {_name, der} = one_of_pem(bytes, [:Certificate], &no_certificate!/0)
    {der, :public_key.der_decode(:Certificate, der)}
  end

  defp certificate(record) when elem(record, 0) == :OTPCertificate do
    der = :public_key.pkix_encode(:OTPCertificate, record, :otp)
    {der, :public_key.der_decode(:Certificate, der)}
  end

  defp certificate(record) when elem(record, 0) == :Certificate,
    do: {:public_key.pkix_encode(:Certificate, record, :plain), record}

  # DER, or the DER of the one entry of a PEM that has one of these names.
  defp one_of_pem(bytes, [name | _others] = names, none) do
    case if(bytes =~ "-----BEGIN ", do: :public_key.pem_decode(bytes), else: :der) do
      :der -> {name, bytes}
      [{name, der, :not_encrypted}] -> if name in names, do: {name, der}, else: none.()
      _none_or_several -> none.()
    end
  end

  defp subject_public_key(info) do
    {:ok, key} = Pkcs11Pool.PublicKey.decode_info(info)
    key
  end

  ## What makes a key

  defp numbers!({:RSAPublicKey, modulus, exponent})
       when is_integer(modulus) and modulus > 0 and is_integer(exponent) and exponent > 0,
       do: {:rsa, :binary.encode_unsigned(modulus), :binary.encode_unsigned(exponent)}

  defp numbers!({{:ECPoint, _point} = point, {:namedCurve, name} = curve}) when is_atom(name) do
    {:ok, curve} = Curve.decode(curve)
    numbers!({point, curve})
  end

  defp numbers!({{:ECPoint, point}, {:namedCurve, {1, 3, 101, arc} = oid}})
       when is_map_key(@one_coordinate, arc) do
    {type, size} = @one_coordinate[arc]
    if byte_size(point) != size, do: no_public_key!()
    {:curve, type, DER.encode_oid(oid), point}
  end

  # 4: not compressed. That is how tokens have it.
  defp numbers!({{:ECPoint, <<4, _x_and_y::binary>> = point}, curve}) do
    {:ok, params} = Curve.encode(curve)
    {:curve, @ecdsa, params, point}
  end

  defp numbers!({{:ECPoint, <<sign, _x::binary>>}, _curve}) when sign in [2, 3] do
    raise ArgumentError,
          "the public key has a compressed point, by which no token finds a key: name the key by its label or id"
  end

  defp numbers!(other) do
    case Pkcs11Pool.PublicKey.attributes_of_post_quantum(other) do
      {type, set, value} ->
        [{_, {:ulong, type}}, {_, {:ulong, set}}] =
          Template.encode!(key_type: type, parameter_set: set)

        {:post_quantum, type, set, value}

      :error ->
        no_public_key!()
    end
  end

  # RFC 9881, 9909 and 9935: the parameter set is the algorithm.
  defp info({:post_quantum, _type, _set, value}, key) do
    {oid, ^value} = Pkcs11Pool.PublicKey.info_of_post_quantum(key)
    algorithm = DER.encode(0x30, DER.encode_oid(oid))
    DER.encode(0x30, [algorithm, DER.encode(0x03, [<<0>>, value])])
  end

  defp info(numbers, _key), do: info(numbers)

  defp info({:rsa, modulus, exponent}) do
    key = DER.encode(0x30, [integer(modulus), integer(exponent)])
    DER.encode(0x30, [DER.encode(0x30, [@rsa, <<5, 0>>]), DER.encode(0x03, [<<0>>, key])])
  end

  defp info({:curve, @ecdsa, params, point}),
    do: DER.encode(0x30, [DER.encode(0x30, [@ec, params]), DER.encode(0x03, [<<0>>, point])])

  defp info({:curve, _one_coordinate, params, point}),
    do: DER.encode(0x30, [DER.encode(0x30, params), DER.encode(0x03, [<<0>>, point])])

  defp integer(<<1::1, _rest::bitstring>> = number), do: DER.encode(0x02, [<<0>>, number])
  defp integer(number), do: DER.encode(0x02, number)

  @spec no_public_key!() :: no_return
  defp no_public_key! do
    raise ArgumentError,
          "expected {:public_key, key} with an RSA, EC, Edwards or post-quantum key as OTP's :public_key has it, such as {:RSAPublicKey, n, e} or " <>
            "{{:ECPoint, point}, {:namedCurve, oid}}, or its SubjectPublicKeyInfo in DER or PEM"
  end

  @spec no_certificate!() :: no_return
  defp no_certificate! do
    raise ArgumentError,
          "expected {:certificate, certificate} with one X.509 certificate of an RSA, EC, Edwards or post-quantum key, in DER, in PEM, or as OTP's " <>
            ":public_key has it"
  end
end
