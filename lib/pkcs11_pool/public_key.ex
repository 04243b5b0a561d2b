defmodule Pkcs11Pool.PublicKey do
  @moduledoc false
  # From the attributes of a key object to a public key of OTP's :public_key.

  alias Pkcs11Pool.{Error, Object}

  @type t ::
          {:RSAPublicKey, modulus :: pos_integer, public_exponent :: pos_integer}
          | {{:ECPoint, binary}, {:namedCurve, tuple}}

  @attributes [:key_type, :modulus, :public_exponent, :ec_params, :ec_point]

  @doc "Reads it: from the public key's object, or else from the private key's."
  def read(pool, key, opts, attributes) do
    opts = %{opts | partial: true}

    case attributes.(pool, key, :public_key, @attributes, opts) do
      {:ok, read} ->
        convert(pool, read)

      {:error, %Error{reason: :key_not_found} = error} when not is_struct(key, Object) ->
        with {:ok, read} <- attributes.(pool, key, :private_key, @attributes, opts) do
          # A private key that does not tell its public half is as good as none here.
          with {:error, %Error{reason: :key_type_inconsistent}} <- convert(pool, read),
               do: {:error, error}
        end

      {:error, error} ->
        {:error, error}
    end
  end

  defp convert(_pool, %{modulus: modulus, public_exponent: exponent})
       when is_integer(modulus) and is_integer(exponent),
       do: {:ok, {:RSAPublicKey, modulus, exponent}}

  defp convert(pool, %{ec_params: params, ec_point: point})
       when is_binary(params) and is_binary(point) do
    case curve(params) do
      {:ok, curve} -> {:ok, {{:ECPoint, point(point)}, curve}}
      :error -> {:error, inconsistent(pool)}
    end
  end

  defp convert(pool, _other), do: {:error, inconsistent(pool)}

  defp inconsistent(pool) do
    Error.new(:key_type_inconsistent,
      pool: pool,
      executed: true,
      details: %{cause: "the object holds no public key that OTP knows"}
    )
  end

  defp curve(params) do
    {:ok, :public_key.der_decode(:EcpkParameters, params)}
  rescue
    _undecodable -> :error
  end

  # A DER OCTET STRING by the standard; some tokens give the bare point.
  defp point(<<4, size, point::binary-size(size)>>), do: point
  defp point(<<4, 0x81, size, point::binary-size(size)>>), do: point
  defp point(bare), do: bare

  @doc "Bytes of the order of the curve with these parameters (DER)."
  @spec order_size(binary) :: {:ok, pos_integer} | :error
  def order_size(params) do
    with {:ok, {:namedCurve, oid}} <- curve(params) do
      {_field, _curve, _base, order, _cofactor} =
        oid |> :pubkey_cert_records.namedCurves() |> :crypto.ec_curve()

      {:ok, byte_size(order)}
    end
  rescue
    _unknown_curve -> :error
  end
end
