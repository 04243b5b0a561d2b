defmodule Pkcs11Pool.PublicKey do
  @moduledoc false
  # From the attributes of a key object to a public key of OTP's :public_key.

  alias Pkcs11Pool.PublicKey.Curve
  alias Pkcs11Pool.Table.Curves
  alias Pkcs11Pool.Template

  @type t :: Pkcs11Pool.public_key()

  # {CKA_PARAMETER_SET, OTP's name, id-..., bytes}: FIPS 203 to 205, RFC 9881, 9909 and 9935.
  @post_quantum [
    {:ml_kem_512, :mlkem512, {2, 16, 840, 1, 101, 3, 4, 4, 1}, 800},
    {:ml_kem_768, :mlkem768, {2, 16, 840, 1, 101, 3, 4, 4, 2}, 1_184},
    {:ml_kem_1024, :mlkem1024, {2, 16, 840, 1, 101, 3, 4, 4, 3}, 1_568},
    {:ml_dsa_44, :mldsa44, {2, 16, 840, 1, 101, 3, 4, 3, 17}, 1_312},
    {:ml_dsa_65, :mldsa65, {2, 16, 840, 1, 101, 3, 4, 3, 18}, 1_952},
    {:ml_dsa_87, :mldsa87, {2, 16, 840, 1, 101, 3, 4, 3, 19}, 2_592}
    | for {{set, size}, index} <-
            Enum.with_index(
              slh_dsa_sha2_128s: 32,
              slh_dsa_sha2_128f: 32,
              slh_dsa_sha2_192s: 48,
              slh_dsa_sha2_192f: 48,
              slh_dsa_sha2_256s: 64,
              slh_dsa_sha2_256f: 64,
              slh_dsa_shake_128s: 32,
              slh_dsa_shake_128f: 32,
              slh_dsa_shake_192s: 48,
              slh_dsa_shake_192f: 48,
              slh_dsa_shake_256s: 64,
              slh_dsa_shake_256f: 64
            ) do
        {set, set, {2, 16, 840, 1, 101, 3, 4, 3, 20 + index}, size}
      end
  ]

  # RFC 8410: X25519, X448, Ed25519, Ed448, and the bytes of a point.
  @one_coordinate %{110 => 32, 111 => 56, 112 => 32, 113 => 57}

  @doc """
  The attributes that `decode/1` makes a public key of.
  """
  @spec attributes() :: [Template.name()]
  def attributes, do: [:key_type, :modulus, :public_exponent, :ec_params, :ec_point]

  @doc """
  The public key that a key object's attributes tell; `:error` if they tell none that OTP knows.
  """
  @spec decode(%{optional(Template.name()) => term}) :: {:ok, t} | :error
  def decode(%{modulus: modulus, public_exponent: exponent})
      when is_integer(modulus) and is_integer(exponent),
      do: {:ok, {:RSAPublicKey, modulus, exponent}}

  def decode(%{ec_params: params, ec_point: point}) when is_binary(params) and is_binary(point) do
    with {:ok, curve} <- Curve.decode(params), do: {:ok, {{:ECPoint, point(point, curve)}, curve}}
  end

  def decode(_other), do: :error

  @doc """
  Whether attributes are of a key whose public half `decode/1` does not tell, but `decode_info/1` or `decode_post_quantum/1`.
  """
  @spec post_quantum?(%{optional(Template.name()) => term}) :: boolean
  def post_quantum?(attributes), do: attributes[:key_type] in [:ml_kem, :ml_dsa, :slh_dsa]

  @doc """
  The public key of which this is the `SubjectPublicKeyInfo`, in DER or as OTP has it; `:error` for what is none that OTP knows.
  """
  @spec decode_info(term) :: {:ok, t} | :error
  def decode_info(der) when is_binary(der) do
    decode_info(:public_key.der_decode(:SubjectPublicKeyInfo, der))
  rescue
    _undecodable -> :error
  end

  # To OTP 27 the parameters are DER; OTP 28 has decoded those of a curve.
  def decode_info({:SubjectPublicKeyInfo, algorithm, bits}) when is_binary(bits) do
    case {elem(algorithm, 1), elem(algorithm, 2)} do
      # rsaEncryption, and keys that are for OAEP or PSS only.
      {{1, 2, 840, 113_549, 1, 1, arc}, _parameters} when arc in [1, 7, 10] ->
        {:ok, :public_key.der_decode(:RSAPublicKey, bits)}

      {{1, 2, 840, 10_045, 2, 1}, parameters} ->
        with {:ok, curve} <- Curve.decode(parameters), do: {:ok, {{:ECPoint, bits}, curve}}

      # RFC 8410
      {{1, 3, 101, arc} = oid, _none} when is_map_key(@one_coordinate, arc) ->
        {:ok, {{:ECPoint, bits}, {:namedCurve, oid}}}

      {oid, _none} ->
        post_quantum(oid, 2, bits)
    end
  rescue
    _undecodable -> :error
  end

  def decode_info(_none), do: :error

  @doc """
  The public key of ML-KEM, ML-DSA or SLH-DSA that a public key object's parameter set and value tell.
  """
  @spec decode_post_quantum(%{optional(Template.name()) => term}) :: {:ok, t} | :error
  def decode_post_quantum(%{class: :public_key, parameter_set: set, value: value}),
    do: post_quantum(set, 0, value)

  def decode_post_quantum(_other), do: :error

  defp post_quantum(named, position, value) do
    case List.keyfind(@post_quantum, named, position) do
      {_set, name, _oid, size} when byte_size(value) == size ->
        {:ok, post_quantum_key(name, value)}

      _other ->
        :error
    end
  end

  # As records of OTP 28; for ML-KEM there is none.
  defp post_quantum_key(name, key) do
    case Atom.to_string(name) do
      "mlkem" <> _size -> {name, key}
      "mldsa" <> _size -> {:"ML-DSAPublicKey", name, key}
      "slh_dsa" <> _set -> {:"SLH-DSAPublicKey", name, key}
    end
  end

  @doc """
  The object identifier of the algorithm of such a key, and its bytes; `:error` for any other key.
  """
  @spec info_of_post_quantum(term) :: {tuple, binary} | :error
  def info_of_post_quantum(key) do
    with {_set, oid, value} <- parts_of_post_quantum(key), do: {oid, value}
  end

  @doc """
  The `CKA_KEY_TYPE`, `CKA_PARAMETER_SET` and `CKA_VALUE` of such a key; `:error` for any other key.
  """
  @spec attributes_of_post_quantum(term) :: {type :: atom, set :: atom, binary} | :error
  def attributes_of_post_quantum(key) do
    with {set, _oid, value} <- parts_of_post_quantum(key) do
      case Atom.to_string(set) do
        "ml_kem" <> _size -> {:ml_kem, set, value}
        "ml_dsa" <> _size -> {:ml_dsa, set, value}
        "slh_dsa" <> _set -> {:slh_dsa, set, value}
      end
    end
  end

  defp parts_of_post_quantum({record, name, key})
       when record in [:"ML-DSAPublicKey", :"SLH-DSAPublicKey"],
       do: parts_of_post_quantum({name, key})

  defp parts_of_post_quantum({name, key}) when is_atom(name) and is_binary(key) do
    case List.keyfind(@post_quantum, name, 1) do
      {set, _name, oid, size} when byte_size(key) == size -> {set, oid, key}
      _other -> :error
    end
  end

  defp parts_of_post_quantum(_other), do: :error

  # A DER OCTET STRING by the standard. Some tokens give the bare point, which may look like one: its size tells.
  defp point(encoded, curve) do
    if byte_size(encoded) == point_size(curve), do: encoded, else: octets(encoded, curve)
  end

  # A DER BIT STRING, as some have it of Edwards and Montgomery curves.
  defp octets(<<3, size, 0, point::binary>>, {:namedCurve, {1, 3, 101, _arc}})
       when byte_size(point) == size - 1,
       do: point

  defp octets(encoded, _curve), do: octets(encoded)

  defp octets(<<4, size, point::binary-size(size)>>), do: point
  defp octets(<<4, 0x81, size, point::binary-size(size)>>), do: point
  defp octets(bare), do: bare

  defp point_size({:namedCurve, {1, 3, 101, arc}}), do: @one_coordinate[arc]

  defp point_size({:namedCurve, oid}) do
    {_field, _curve, base, _order, _cofactor} = parameters(oid)
    byte_size(base)
  rescue
    _unknown_curve -> nil
  end

  defp point_size(_own_parameters), do: nil

  @doc """
  The name of a key's curve, from its attribute `:ec_params` or as OTP has it, and the bits of the curve's order; of Edwards and Montgomery curves, those of the field. Each
  is nil where it is not known.
  """
  @spec describe_curve(term) :: {atom | nil, pos_integer | nil}
  def describe_curve(params) do
    case Curve.decode(params) do
      {:ok, {:namedCurve, oid}} -> {curve_name(oid), curve_bits(oid)}
      _own_or_none -> {nil, nil}
    end
  end

  defp curve_name(oid) do
    with {name, ^oid} <- List.keyfind(Curves.all(), oid, 1), do: name
  end

  # RFC 7748.
  defp curve_bits({1, 3, 101, arc}) when arc in [110, 112], do: 255
  defp curve_bits({1, 3, 101, arc}) when arc in [111, 113], do: 448

  defp curve_bits(oid) do
    {_field, _curve, _base, order, _cofactor} = parameters(oid)
    order |> :binary.decode_unsigned() |> Integer.digits(2) |> length()
  rescue
    _unknown_curve -> nil
  end

  defp parameters(oid), do: oid |> :pubkey_cert_records.namedCurves() |> :crypto.ec_curve()

  @doc """
  Bytes of the order of an ECDSA key's curve, from its attributes `:key_type` and `:ec_params`. They are not guessed from the size of its point, which
  is that of the field: order and field differ in length on curves such as secp160r1, sect233k1 and c2pnb176v1.
  """
  @spec order_size(%{key_type: term, ec_params: term}) ::
          {:ok, pos_integer} | {:error, :curve_not_supported | :key_type_inconsistent}
  def order_size(%{key_type: type, ec_params: params}) do
    with {:ok, curve} <- Curve.decode(params),
         {:ok, size} <- curve_order_size(curve) do
      {:ok, size}
    else
      # A number is a vendor's key type.
      :error when is_atom(type) and type not in [:ec, :unavailable, nil] ->
        {:error, :key_type_inconsistent}

      :error ->
        {:error, :curve_not_supported}
    end
  end

  @order_sizes Curves.order_sizes()

  defp curve_order_size({:namedCurve, oid}) when is_map_key(@order_sizes, oid),
    do: Map.fetch(@order_sizes, oid)

  defp curve_order_size({:namedCurve, oid}) do
    {_field, _curve, _base, order, _cofactor} = parameters(oid)
    {:ok, byte_size(order)}
  rescue
    _unknown_curve -> :error
  end

  defp curve_order_size(
         {:ecParameters, {:ECParameters, _version, _field, _curve, _base, order, _cofactor}}
       )
       when is_integer(order) and order > 0,
       do: {:ok, order |> :binary.encode_unsigned() |> byte_size()}

  # Parameters that the key inherits from whoever certified it, or that make no sense.
  defp curve_order_size(_other), do: :error
end
