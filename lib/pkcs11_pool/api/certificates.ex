defmodule Pkcs11Pool.API.Certificates do
  @moduledoc false
  # Certificates on a token, with what they are.

  alias Pkcs11Pool.API.{Attributes, Objects}
  alias Pkcs11Pool.Argument.DER
  alias Pkcs11Pool.{Error, Object, Options, Template}
  alias Pkcs11Pool.X509.Name

  @integer 0x02
  @names [:subject, :issuer]

  @doc """
  The X.509 certificates that have all that the template says.
  """
  @spec find(Pkcs11Pool.pool(), Template.t(), keyword) ::
          {:ok, [Object.t()]} | {:error, Error.t()}
  def find(pool, template, opts) do
    checked = Options.Call.validate!(opts, [:limit])

    with {:ok, objects} <- Objects.find(pool, template!(template), opts) do
      read_all(pool, objects, %{checked | partial: true}, [])
    end
  end

  defp read_all(_pool, [], _opts, read), do: {:ok, Enum.reverse(read)}

  defp read_all(pool, [object | objects], opts, read) do
    case Attributes.read(pool, object, nil, [:value], opts) do
      {:ok, %{value: der}} when is_binary(der) and der != "" ->
        read_all(pool, objects, opts, [%{object | der: der} | read])

      # What is elsewhere, at CKA_URL, has no value.
      {:ok, _no_value} ->
        read_all(pool, objects, opts, [object | read])

      # It has been destroyed since it was found.
      {:error, %Error{reason: :object_stale}} ->
        read_all(pool, objects, opts, read)

      {:error, error} ->
        {:error, error}
    end
  end

  # The list is looked at here only as far as its elements are what they should be: what is wrong with the others, the template's own check says.
  defp template!(template) when is_list(template) and length(template) >= 0 do
    given = Enum.map(template, &attribute!/1)

    for {name, value} <- [class: :certificate, certificate_type: :x_509], reduce: given do
      given -> put!(given, name, value)
    end
  end

  defp template!(other), do: other

  defp put!(template, name, value) do
    case List.keyfind(template, name, 0) do
      nil ->
        [{name, value} | template]

      {_name, ^value} ->
        template

      _another ->
        raise ArgumentError,
              "find_certificates/3 finds X.509 certificates: leave #{inspect(name)} out of the template"
    end
  end

  defp attribute!({name, {:rdnSequence, _rdns} = value}) when name in @names,
    do: {name, name!(name, value)}

  defp attribute!({name, [_ | _] = value}) when name in @names,
    do: {name, name!(name, Name.encode!(value))}

  # As DER has it: with a sign.
  defp attribute!({:serial_number, number}) when is_integer(number) and number >= 0 do
    bytes = :binary.encode_unsigned(number)
    sign = if match?(<<1::1, _rest::bitstring>>, bytes), do: <<0>>, else: ""
    {:serial_number, DER.encode(@integer, [sign, bytes])}
  end

  defp attribute!(other), do: other

  defp name!(name, {:rdnSequence, rdns} = value) do
    plain? = Enum.all?(rdns, fn rdn -> Enum.all?(rdn, &is_binary(elem(&1, 2))) end)
    plain = if plain?, do: value, else: :pubkey_cert_records.transform(value, :encode)
    :public_key.der_encode(:Name, plain)
  rescue
    _malformed ->
      raise ArgumentError,
            "invalid value for attribute #{inspect(name)}: expected a name as OTP has it ({:rdnSequence, _}), as Pkcs11Pool.X509 has it " <>
              "([common_name: \"example.com\"]), or its DER"
  end
end
