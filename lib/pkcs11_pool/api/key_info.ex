defmodule Pkcs11Pool.API.KeyInfo do
  @moduledoc false
  # What a key is, put together from the attributes that say so. None of them is its value.

  alias Pkcs11Pool.API.Attributes
  alias Pkcs11Pool.Argument.Key
  alias Pkcs11Pool.{Error, Options, PublicKey}

  @usages [
    :encrypt,
    :decrypt,
    :sign,
    :sign_recover,
    :verify,
    :verify_recover,
    :wrap,
    :unwrap,
    :derive,
    :encapsulate,
    :decapsulate
  ]
  @flags [
    :token,
    :private,
    :sensitive,
    :extractable,
    :always_sensitive,
    :never_extractable,
    :local,
    :modifiable,
    :always_authenticate
  ]
  @names [:class, :key_type, :label, :id, :modulus, :prime, :ec_params, :value_len] ++
           [:parameter_set | @flags] ++ @usages ++ [:check_value]

  # In this order: who asks for a key by its label means the half with which something is done.
  @classes [:private_key, :secret_key, :public_key]

  @doc """
  Reads what a key is.
  """
  @spec read(Pkcs11Pool.pool(), Pkcs11Pool.key(), Options.Call.t()) ::
          {:ok, %{required(atom) => term}} | {:error, Error.t()}
  def read(pool, key, opts) do
    opts = %{opts | partial: true}
    classes = if Key.names_class?(key), do: [nil], else: @classes
    with {:ok, attributes} <- first(pool, key, classes, opts), do: {:ok, info(attributes)}
  end

  defp first(pool, key, [class], opts), do: Attributes.read(pool, key, class, @names, opts)

  defp first(pool, key, [class | others], opts) do
    case Attributes.read(pool, key, class, @names, opts) do
      {:error, %Error{reason: :key_not_found}} -> first(pool, key, others, opts)
      result -> result
    end
  end

  defp info(attributes) do
    attributes =
      Map.new(attributes, fn {name, value} -> {name, if(value != :unavailable, do: value)} end)

    {curve, bits} = size(attributes)

    attributes
    |> Map.take([:class, :label, :id | @flags])
    |> Map.merge(%{
      type: attributes[:key_type],
      curve: curve,
      parameter_set: attributes[:parameter_set],
      bits: bits,
      check_value: check_value(attributes[:check_value]),
      usage: for(usage <- @usages, attributes[usage] == true, do: usage)
    })
  end

  # SoftHSM has an empty one for a key that was unwrapped, and says that it has no bytes.
  defp check_value(""), do: nil
  defp check_value(value), do: value

  defp size(%{ec_params: params}) when is_binary(params), do: PublicKey.describe_curve(params)

  defp size(%{modulus: modulus}) when is_integer(modulus) and modulus > 0,
    do: {nil, length(Integer.digits(modulus, 2))}

  # The public parameter of DSA and Diffie-Hellman. RSA's primes are other attributes.
  defp size(%{key_type: type, prime: prime})
       when type in [:dsa, :dh, :x9_42_dh] and is_integer(prime) and prime > 0,
       do: {nil, length(Integer.digits(prime, 2))}

  # Their length is in the name, and they have no CKA_VALUE_LEN. The bits of parity are counted.
  defp size(%{key_type: :des}), do: {nil, 64}
  defp size(%{key_type: :des2}), do: {nil, 128}
  defp size(%{key_type: :des3}), do: {nil, 192}
  defp size(%{value_len: bytes}) when is_integer(bytes) and bytes > 0, do: {nil, 8 * bytes}
  defp size(_unknown), do: {nil, nil}
end
