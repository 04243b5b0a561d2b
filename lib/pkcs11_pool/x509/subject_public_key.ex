defmodule Pkcs11Pool.X509.SubjectPublicKey do
  @moduledoc false
  # SubjectPublicKeyInfo (RFC 5280, 4.1; RFC 3279, 5480 and 8410) from and to the public keys of :public_key.

  alias Pkcs11Pool.Argument.DER
  alias Pkcs11Pool.PublicKey
  alias Pkcs11Pool.PublicKey.Curve

  @rsa {1, 2, 840, 113_549, 1, 1, 1}
  @ec {1, 2, 840, 10_045, 2, 1}

  @type t ::
          {:SubjectPublicKeyInfo, {:AlgorithmIdentifier, tuple, binary | :asn1_NOVALUE}, binary}

  @doc false
  @spec record(PublicKey.t()) :: t
  def record({:RSAPublicKey, _modulus, _exponent} = key),
    do: info(@rsa, <<5, 0>>, :public_key.der_encode(:RSAPublicKey, key))

  # RFC 8410: the curve is the algorithm.
  def record({{:ECPoint, point}, {:namedCurve, {1, 3, 101, _arc} = oid}}),
    do: info(oid, :asn1_NOVALUE, point)

  def record({{:ECPoint, point}, curve}) do
    case Curve.encode(curve) do
      {:ok, params} -> info(@ec, params, point)
      :error -> unsupported!()
    end
  end

  # RFC 9881, 9909 and 9935: the parameter set is the algorithm.
  def record(other) do
    case PublicKey.info_of_post_quantum(other) do
      {oid, key} -> info(oid, :asn1_NOVALUE, key)
      :error -> unsupported!()
    end
  end

  @spec unsupported!() :: no_return
  defp unsupported! do
    raise ArgumentError,
          "expected a public key of :public_key, of RSA, of an elliptic curve, Ed25519 or Ed448"
  end

  defp info(oid, parameters, bits),
    do: {:SubjectPublicKeyInfo, {:AlgorithmIdentifier, oid, parameters}, bits}

  @doc false
  @spec encode!(PublicKey.t()) :: binary
  def encode!(key) do
    {:SubjectPublicKeyInfo, {:AlgorithmIdentifier, oid, parameters}, bits} = record(key)
    # By hand: OTP 28 does not take the parameters of a curve as DER.
    parameters = if parameters == :asn1_NOVALUE, do: "", else: parameters
    algorithm = DER.encode(0x30, [DER.encode_oid(oid), parameters])
    DER.encode(0x30, [algorithm, DER.encode(0x03, [0, bits])])
  end

  @doc false
  @spec decode!(t) :: PublicKey.t()
  def decode!({:SubjectPublicKeyInfo, {:AlgorithmIdentifier, @rsa, _null}, bits}),
    do: :public_key.der_decode(:RSAPublicKey, bits)

  def decode!({:SubjectPublicKeyInfo, {:AlgorithmIdentifier, @ec, parameters}, point}) do
    case Curve.decode(parameters) do
      {:ok, curve} -> {{:ECPoint, point}, curve}
      :error -> no_algorithm!()
    end
  end

  def decode!(
        {:SubjectPublicKeyInfo, {:AlgorithmIdentifier, {1, 3, 101, _} = oid, _none}, point}
      ),
      do: {{:ECPoint, point}, {:namedCurve, oid}}

  def decode!(_other), do: no_algorithm!()

  @spec no_algorithm!() :: no_return
  defp no_algorithm! do
    raise ArgumentError,
          "the public key is of no algorithm that is supported: RSA, ECDSA, Ed25519, Ed448"
  end

  @doc false
  # RFC 5280, 4.2.1.2 (1).
  @spec identifier(t) :: binary
  def identifier({:SubjectPublicKeyInfo, _algorithm, bits}), do: :crypto.hash(:sha, bits)
end
