defmodule Pkcs11Pool.PublicKey.Curve do
  @moduledoc false
  # Curves of keys, in all the forms in which tokens and releases of OTP have them. To OTP 27 the parameters of an EC key in a SubjectPublicKeyInfo or
  # PrivateKeyInfo are DER; OTP 28 has decoded them to `{:namedCurve, oid}`, and knows no parameters that are written out any more.

  alias Pkcs11Pool.Argument.DER
  alias Pkcs11Pool.Table.Curves

  @typedoc "As OTP has it: the identifier of a curve, or its parameters written out."
  @type t :: {:namedCurve, tuple} | {:ecParameters, tuple}

  # PKCS#11 3.0, 6.3: a name in place of an identifier. SoftHSM 2.6 has it of private keys on Edwards and Montgomery curves, whichever way they were made.
  @named %{
    "edwards25519" => :ed25519,
    "edwards448" => :ed448,
    "curve25519" => :x25519,
    "curve448" => :x448
  }

  @object_identifier 0x06
  @printable_string 0x13
  @sequence 0x30

  @doc """
  The curve; `:error` for what is none, or none that this OTP can express.
  """
  @spec decode(term) :: {:ok, t} | :error
  def decode({:namedCurve, oid}) when is_tuple(oid), do: {:ok, {:namedCurve, oid}}
  def decode({:namedCurve, name}) when is_atom(name), do: named(name)
  def decode({:ecParameters, parameters} = curve) when is_tuple(parameters), do: {:ok, curve}
  def decode({:asn1_OPENTYPE, der}), do: decode(der)

  def decode(der) when is_binary(der) do
    case DER.element(der) do
      {:ok, {@object_identifier, content}} ->
        with {:ok, oid} <- DER.oid(content), do: {:ok, {:namedCurve, oid}}

      {:ok, {@printable_string, name}} when is_map_key(@named, name) ->
        named(@named[name])

      {:ok, {@sequence, _parameters}} ->
        explicit(der)

      _other ->
        :error
    end
  end

  def decode(_other), do: :error

  defp named(name) do
    {:ok, {:namedCurve, Curves.all()[name] || :pubkey_cert_records.namedCurves(name)}}
  rescue
    _unknown in [FunctionClauseError] -> :error
  end

  defp explicit(der) do
    with {:ecParameters, _parameters} = curve <- :public_key.der_decode(:EcpkParameters, der),
         do: {:ok, curve},
         else: (_other -> :error)
  rescue
    _undecodable -> :error
  end

  @doc """
  DER of the curve, as in `CKA_EC_PARAMS`; `:error` for what is none, or none that this OTP can encode.
  """
  @spec encode(term) :: {:ok, binary} | :error
  def encode(<<@sequence, _rest::binary>> = der) do
    # As they were given, whether this OTP can decode them or not.
    with {:ok, _element} <- DER.element(der), do: {:ok, der}
  end

  def encode(curve) do
    case decode(curve) do
      {:ok, {:namedCurve, oid}} -> {:ok, DER.encode_oid(oid)}
      {:ok, explicit} -> {:ok, :public_key.der_encode(:EcpkParameters, explicit)}
      :error -> :error
    end
  rescue
    _unencodable -> :error
  end
end
