defmodule Pkcs11Pool.X509.Extensions do
  @moduledoc false
  # Extensions of certificates, requests and lists (RFC 5280, 4.2 and 5.2).

  alias Pkcs11Pool.X509.SubjectPublicKey

  @subject_key_id {2, 5, 29, 14}
  @key_usage {2, 5, 29, 15}
  @san {2, 5, 29, 17}
  @basic_constraints {2, 5, 29, 19}
  @crl_number {2, 5, 29, 20}
  @crl_points {2, 5, 29, 31}
  @authority_key_id {2, 5, 29, 35}
  @extended_key_usage {2, 5, 29, 37}
  @authority_info {1, 3, 6, 1, 5, 5, 7, 1, 1}
  @ocsp {1, 3, 6, 1, 5, 5, 7, 48, 1}
  @ca_issuers {1, 3, 6, 1, 5, 5, 7, 48, 2}

  @usages [
    digital_signature: :digitalSignature,
    non_repudiation: :nonRepudiation,
    key_encipherment: :keyEncipherment,
    data_encipherment: :dataEncipherment,
    key_agreement: :keyAgreement,
    key_cert_sign: :keyCertSign,
    crl_sign: :cRLSign,
    encipher_only: :encipherOnly,
    decipher_only: :decipherOnly
  ]
  @extended_usages [
    server_auth: {1, 3, 6, 1, 5, 5, 7, 3, 1},
    client_auth: {1, 3, 6, 1, 5, 5, 7, 3, 2},
    code_signing: {1, 3, 6, 1, 5, 5, 7, 3, 3},
    email_protection: {1, 3, 6, 1, 5, 5, 7, 3, 4},
    time_stamping: {1, 3, 6, 1, 5, 5, 7, 3, 8},
    ocsp_signing: {1, 3, 6, 1, 5, 5, 7, 3, 9}
  ]
  @profiles %{server: [:server_auth], client: [:client_auth], peer: [:server_auth, :client_auth]}

  @type t :: {:Extension, tuple, boolean, binary}

  ## What is written

  @doc false
  @spec of_certificate!(SubjectPublicKey.t(), binary, [t], map) :: [t]
  def of_certificate!(info, authority_key_id, requested, opts) do
    requested!(opts, for({:Extension, @san, _, _} = san <- requested, do: san)) ++
      [
        extension(
          @subject_key_id,
          false,
          :SubjectKeyIdentifier,
          SubjectPublicKey.identifier(info)
        ),
        authority(authority_key_id)
      ] ++ distribution(opts) ++ access(opts)
  end

  @doc false
  @spec of_crl(binary, pos_integer) :: [t]
  def of_crl(authority_key_id, number),
    do: [authority(authority_key_id), extension(@crl_number, false, :CRLNumber, number)]

  @doc false
  # What a request may ask for, and a certificate grants. `requested` are the alternative names of the request that `san: :request` stands for.
  @spec requested!(map, [t]) :: [t]
  def requested!(opts, requested \\ []) do
    constraints(opts) ++
      usage(opts) ++ extended_usage(opts) ++ san(opts, requested) ++ (opts[:extensions] || [])
  end

  defp constraints(opts) do
    case opts[:ca] do
      path when is_integer(path) -> [basic(true, path)]
      true -> [basic(true, :asn1_NOVALUE)]
      _no_ca -> if opts[:profile], do: [basic(false, :asn1_NOVALUE)], else: []
    end
  end

  defp basic(ca, path),
    do: extension(@basic_constraints, true, :BasicConstraints, {:BasicConstraints, ca, path})

  defp usage(opts) do
    default =
      cond do
        opts[:ca] not in [nil, false] -> [:key_cert_sign, :crl_sign, :digital_signature]
        opts[:profile] -> [:digital_signature]
        true -> []
      end

    case opts[:key_usage] || default do
      [] -> []
      names -> [extension(@key_usage, true, :KeyUsage, for(name <- names, do: @usages[name]))]
    end
  end

  defp extended_usage(opts) do
    case opts[:extended_key_usage] || Map.get(@profiles, opts[:profile], []) do
      [] ->
        []

      names ->
        oids = for name <- names, do: if(is_tuple(name), do: name, else: @extended_usages[name])
        [extension(@extended_key_usage, false, :ExtKeyUsageSyntax, oids)]
    end
  end

  defp san(%{san: :request}, requested), do: requested

  defp san(%{san: [_ | _] = names}, _requested),
    do: [extension(@san, false, :SubjectAltName, names)]

  defp san(_none, _requested), do: []

  defp authority(key_id) do
    value = {:AuthorityKeyIdentifier, key_id, :asn1_NOVALUE, :asn1_NOVALUE}
    extension(@authority_key_id, false, :AuthorityKeyIdentifier, value)
  end

  defp distribution(%{crl_url: urls}) when urls != nil do
    points =
      for url <- List.wrap(urls),
          do: {:DistributionPoint, {:fullName, [uri(url)]}, :asn1_NOVALUE, :asn1_NOVALUE}

    [extension(@crl_points, false, :CRLDistributionPoints, points)]
  end

  defp distribution(_none), do: []

  defp access(opts) do
    case for {option, method} <- [ocsp_url: @ocsp, issuer_url: @ca_issuers],
             url = opts[option],
             do: {:AccessDescription, method, uri(url)} do
      [] ->
        []

      descriptions ->
        [extension(@authority_info, false, :AuthorityInfoAccessSyntax, descriptions)]
    end
  end

  defp uri(url), do: {:uniformResourceIdentifier, String.to_charlist(url)}

  defp extension(oid, critical, type, value),
    do: {:Extension, oid, critical, :public_key.der_encode(type, value)}

  ## What is read

  @doc false
  @spec list([t] | :asn1_NOVALUE) :: [t]
  def list(:asn1_NOVALUE), do: []
  def list(extensions), do: extensions

  @doc false
  @spec decode(binary) :: [t]
  def decode(der) do
    list(:public_key.der_decode(:Extensions, der))
  rescue
    _undecodable in [ErlangError, MatchError] -> []
  end

  @doc false
  @spec ca?([t]) :: boolean
  def ca?(extensions) do
    with der when is_binary(der) <- value(extensions, @basic_constraints),
         {:BasicConstraints, true, _path} <- :public_key.der_decode(:BasicConstraints, der) do
      true
    else
      _no_ca -> false
    end
  end

  @doc false
  @spec key_identifier([t]) :: binary | nil
  def key_identifier(extensions) do
    with der when is_binary(der) <- value(extensions, @subject_key_id),
         do: :public_key.der_decode(:SubjectKeyIdentifier, der)
  end

  defp value(extensions, oid) do
    Enum.find_value(extensions, fn {:Extension, id, _critical, der} -> id == oid && der end)
  end

  ## For the options

  @doc false
  @spec usages() :: [atom]
  def usages, do: Keyword.keys(@usages)

  @doc false
  @spec extended_usages() :: [atom]
  def extended_usages, do: Keyword.keys(@extended_usages)

  @doc false
  @spec profiles() :: [atom]
  def profiles, do: Map.keys(@profiles)
end
