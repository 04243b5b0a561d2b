defmodule Pkcs11Pool.X509.Revocation do
  @moduledoc false
  # The entries of a revocation list (RFC 5280, 5.1.2.6 and 5.3).

  alias Pkcs11Pool.X509.Time

  @reason_extension {2, 5, 29, 21}
  @reasons [
    key_compromise: :keyCompromise,
    ca_compromise: :cACompromise,
    affiliation_changed: :affiliationChanged,
    superseded: :superseded,
    cessation_of_operation: :cessationOfOperation,
    certificate_hold: :certificateHold,
    privilege_withdrawn: :privilegeWithdrawn
  ]

  @doc false
  @spec entries!(list, DateTime.t()) :: [tuple] | :asn1_NOVALUE
  # An empty list must be absent.
  def entries!([], _now), do: :asn1_NOVALUE
  def entries!(revoked, now) when is_list(revoked), do: Enum.map(revoked, &entry!(&1, now))

  def entries!(_other, _now),
    do: raise(ArgumentError, "expected a list of serial numbers or certificates")

  defp entry!({which, opts}, now) when is_list(opts) do
    case Keyword.keys(opts) -- [:at, :reason] do
      [] ->
        {:TBSCertList_revokedCertificates_SEQOF, serial!(which), at!(opts, now), reason!(opts)}

      unknown ->
        raise ArgumentError,
              "unknown options #{inspect(unknown)}, valid options are: [:at, :reason]"
    end
  end

  defp entry!(which, now), do: entry!({which, []}, now)

  defp serial!(serial) when is_integer(serial) and serial > 0, do: serial

  defp serial!(der) when is_binary(der) do
    {:Certificate, tbs, _algorithm, _signature} = :public_key.der_decode(:Certificate, der)
    elem(tbs, 2)
  rescue
    _undecodable in [ErlangError, MatchError] -> malformed!()
  end

  defp serial!(_other), do: malformed!()

  @spec malformed!() :: no_return
  defp malformed!,
    do:
      raise(
        ArgumentError,
        "expected a serial number (a positive integer) or a certificate in DER"
      )

  defp at!(opts, now) do
    case Keyword.get(opts, :at, now) do
      %DateTime{} = time -> Time.encode(time)
      _other -> raise ArgumentError, "invalid value for :at option: expected a DateTime"
    end
  end

  defp reason!(opts) do
    case opts[:reason] do
      nil ->
        :asn1_NOVALUE

      reason ->
        name =
          @reasons[reason] ||
            raise ArgumentError,
                  "invalid value for :reason option: expected one of #{inspect(Keyword.keys(@reasons))}, got: #{inspect(reason)}"

        [{:Extension, @reason_extension, false, :public_key.der_encode(:CRLReason, name)}]
    end
  end
end
