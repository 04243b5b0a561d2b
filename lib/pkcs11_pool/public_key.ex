defmodule Pkcs11Pool.PublicKey do
  @moduledoc false
  # From the attributes of a key object to a public key of OTP's :public_key.

  alias Pkcs11Pool.Table.Curves
  alias Pkcs11Pool.Template

  @type t :: Pkcs11Pool.public_key()

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
    with {:ok, curve} <- curve(params), do: {:ok, {{:ECPoint, point(point, curve)}, curve}}
  end

  def decode(_other), do: :error

  # PKCS#11 3.0, 6.3: a name in place of an identifier. SoftHSM 2.6 has it of private keys on Edwards and Montgomery curves, whichever way they were made.
  @named %{
    "edwards25519" => :ed25519,
    "edwards448" => :ed448,
    "curve25519" => :x25519,
    "curve448" => :x448
  }

  # A PrintableString.
  defp curve(<<0x13, size, name::binary-size(size)>>) when is_map_key(@named, name),
    do: {:ok, {:namedCurve, Keyword.fetch!(Curves.all(), @named[name])}}

  defp curve(params) do
    {:ok, :public_key.der_decode(:EcpkParameters, params)}
  rescue
    _undecodable -> :error
  end

  # A DER OCTET STRING by the standard. Some tokens give the bare point, which may look like one: its size tells.
  defp point(encoded, curve) do
    if byte_size(encoded) == point_size(curve), do: encoded, else: octets(encoded)
  end

  defp octets(<<4, size, point::binary-size(size)>>), do: point
  defp octets(<<4, 0x81, size, point::binary-size(size)>>), do: point
  defp octets(bare), do: bare

  # RFC 8410: X25519, X448, Ed25519, Ed448.
  @one_coordinate %{110 => 32, 111 => 56, 112 => 32, 113 => 57}

  defp point_size({:namedCurve, {1, 3, 101, arc}}), do: @one_coordinate[arc]

  defp point_size({:namedCurve, oid}) do
    {_field, _curve, base, _order, _cofactor} = parameters(oid)
    byte_size(base)
  rescue
    _unknown_curve -> nil
  end

  defp point_size(_own_parameters), do: nil

  @doc """
  The name of a key's curve, from its attribute `:ec_params`, and the bits of the curve's order; of Edwards and Montgomery curves, those of the field. Each
  is nil where it is not known.
  """
  @spec describe_curve(binary) :: {atom | nil, pos_integer | nil}
  def describe_curve(params) do
    case curve(params) do
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
    with {:ok, curve} <- curve(params),
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
