defmodule Pkcs11Pool.X509.Name do
  @moduledoc false
  # Distinguished names (RFC 5280, 4.1.2.4 and appendix A.1).

  # name => {OID, the ASN.1 type of its value, its characters, how many it may have}: OTP encodes any, and openssl would not read them.
  @attributes [
    common_name: {{2, 5, 4, 3}, :X520CommonName, :unicode, 1..64},
    serial_number: {{2, 5, 4, 5}, :X520SerialNumber, :printable, 1..64},
    country: {{2, 5, 4, 6}, :X520countryName, :printable, 2..2},
    locality: {{2, 5, 4, 7}, :X520LocalityName, :unicode, 1..128},
    state: {{2, 5, 4, 8}, :X520StateOrProvinceName, :unicode, 1..128},
    organization: {{2, 5, 4, 10}, :X520OrganizationName, :unicode, 1..64},
    organizational_unit: {{2, 5, 4, 11}, :X520OrganizationalUnitName, :unicode, 1..64},
    title: {{2, 5, 4, 12}, :X520Title, :unicode, 1..64},
    domain_component: {{0, 9, 2342, 19_200_300, 100, 1, 25}, :DomainComponent, :ascii, 1..63},
    email: {{1, 2, 840, 113_549, 1, 9, 1}, :EmailAddress, :ascii, 1..255}
  ]

  @characters %{
    unicode: {~r/^.*$/su, "characters"},
    printable: {~r/^[A-Za-z0-9 '()+,.\/:=?-]*$/, "characters of PrintableString"},
    ascii: {~r/^[\x00-\x7F]*$/, "characters of ASCII"}
  }

  @type t :: {:rdnSequence, [[{:AttributeTypeAndValue, tuple, binary}]]}

  @doc false
  @spec encode!(Pkcs11Pool.X509.name()) :: t
  def encode!(name) when is_list(name),
    do: {:rdnSequence, Enum.map(name, &[attribute!(&1)])}

  def encode!(_other), do: malformed!()

  defp attribute!({name, value}) when is_atom(name) and is_binary(value) do
    {oid, type, characters, lengths} =
      @attributes[name] ||
        raise ArgumentError,
              "unknown attribute #{inspect(name)} of a name: expected one of #{inspect(Keyword.keys(@attributes))}"

    {pattern, words} = @characters[characters]

    if String.valid?(value) and value =~ pattern and String.length(value) in lengths do
      {:AttributeTypeAndValue, oid, :public_key.der_encode(type, value(characters, value))}
    else
      raise ArgumentError,
            "invalid #{inspect(name)} of a name: expected #{lengths.first} to #{lengths.last} #{words}, got: #{inspect(value)}"
    end
  end

  defp attribute!(_other), do: malformed!()

  defp value(:unicode, value), do: {:utf8String, value}
  defp value(_others, value), do: String.to_charlist(value)

  @spec malformed!() :: no_return
  defp malformed! do
    raise ArgumentError,
          "expected a name such as [common_name: \"example.com\", organization: \"Example\"]"
  end
end
