defmodule Pkcs11Pool.X509.Request do
  @moduledoc false
  # Certificate requests (RFC 2986).

  alias Pkcs11Pool.X509.{Extensions, Signature, SubjectPublicKey}

  @extension_request {1, 2, 840, 113_549, 1, 9, 14}

  @doc false
  @spec info(tuple, SubjectPublicKey.t(), [tuple]) :: tuple
  def info(
        subject,
        {:SubjectPublicKeyInfo, {:AlgorithmIdentifier, oid, parameters}, bits},
        extensions
      ) do
    algorithm = {:CertificationRequestInfo_subjectPKInfo_algorithm, oid, open_type(parameters)}

    {:CertificationRequestInfo, :v1, subject,
     {:CertificationRequestInfo_subjectPKInfo, algorithm, bits}, attributes(extensions)}
  end

  defp attributes([]), do: []

  defp attributes(extensions) do
    der = :public_key.der_encode(:Extensions, extensions)
    [{:"AttributePKCS-10", @extension_request, [{:asn1_OPENTYPE, der}]}]
  end

  @doc false
  @spec encode(tuple, tuple, binary) :: binary
  def encode(info, {:AlgorithmIdentifier, oid, parameters}, signature) do
    algorithm = {:CertificationRequest_signatureAlgorithm, oid, open_type(parameters)}

    :public_key.der_encode(
      :CertificationRequest,
      {:CertificationRequest, info, algorithm, signature}
    )
  end

  @doc false
  # The subject, the public key and the requested extensions of a request whose signature is that of its key.
  @spec decode(binary) ::
          {:ok, tuple, SubjectPublicKey.t(), [tuple]} | :invalid_signature | :error
  def decode(der) do
    case der_decode(der) do
      {:CertificationRequest, info, {_record, oid, parameters}, signature} ->
        {:CertificationRequestInfo, _version, subject, {_, {_, key_oid, key_parameters}, bits},
         attributes} = info

        record =
          {:SubjectPublicKeyInfo, {:AlgorithmIdentifier, key_oid, closed_type(key_parameters)},
           bits}

        algorithm = {:AlgorithmIdentifier, oid, closed_type(parameters)}
        signed = :public_key.der_encode(:CertificationRequestInfo, info)

        if Signature.valid?(SubjectPublicKey.decode!(record), algorithm, signed, signature),
          do: {:ok, subject, record, extensions(attributes)},
          else: :invalid_signature

      :error ->
        :error
    end
  end

  defp der_decode(der) do
    :public_key.der_decode(:CertificationRequest, der)
  rescue
    _no_request in [ErlangError, MatchError] -> :error
  end

  defp extensions(attributes) do
    for {:"AttributePKCS-10", @extension_request, values} <- attributes,
        value <- values,
        extension <- Extensions.decode(closed_type(value)),
        do: extension
  end

  defp open_type(:asn1_NOVALUE), do: :asn1_NOVALUE
  defp open_type(der), do: {:asn1_OPENTYPE, der}

  defp closed_type({:asn1_OPENTYPE, der}), do: der
  defp closed_type(other), do: other
end
