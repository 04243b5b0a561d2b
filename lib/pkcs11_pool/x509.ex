defmodule Pkcs11Pool.X509 do
  @moduledoc """
  Certificates, certificate requests (CSR) and revocation lists (CRL) that a key of a pool signs. Works with every OTP that the library supports.

      {:ok, root} =
        Pkcs11Pool.X509.self_signed(MyApp.HSM, "root", [common_name: "Root"], ca: true, days: 3650)

      {:ok, request} = Pkcs11Pool.X509.request(MyApp.HSM, "tls", [common_name: "example.com"], san: ["example.com"])
      {:ok, certificate} = Pkcs11Pool.X509.certificate(MyApp.HSM, "root", root, request, san: :request, profile: :server)
      pem = Pkcs11Pool.X509.to_pem(:certificate, certificate)

  All arguments and results are DER, as in `:public_key` and `:ssl`; `to_pem/2` and `from_pem/1` convert.

  ## Names

  A name (`subject`) is a keyword list; its order is kept: `:common_name`, `:country` (two letters), `:state`, `:locality`, `:organization`,
  `:organizational_unit`, `:serial_number`, `:title`, `:email`, `:domain_component`. A key may occur more than once.

  ## Signatures

  RSA keys sign with PKCS #1 v1.5 and SHA-256, or with PSS if you give `padding: :pss`. ECDSA keys sign with the hash that has the strength of their curve (SHA-256, from 384 bits on SHA-384,
  from 512 bits on SHA-512). `:hash` chooses another hash. Ed25519 and Ed448 need none. Each signature is verified with the public key before it is returned: if private and public key do not
  belong together, the error is `:signature_invalid`. OTP itself (`:ssl`, `:public_key.pkix_path_validation/3`) does not verify PSS signatures of ordinary RSA keys,
  although other software does. So use PKCS #1 v1.5 for certificates that Erlang verifies.

  The public key is read from the token (`Pkcs11Pool.public_key/3`), unless the option `:public_key` gives it.

  ## Options

  For all functions that sign, besides those of each call (`:queue_timeout` and so on):

    * `:hash` - `:sha256`, `:sha384`, `:sha512`, `:sha224`, or `:sha` for SHA-1
    * `:padding` - `:pkcs1` (the default) or `:pss`, for RSA keys
    * `:public_key` - the signing key's public key

  For functions that make a certificate:

    * `:days` - how long it is valid, 365 by default; or `:not_after`, a `DateTime`
    * `:not_before` - a `DateTime`; by default five minutes ago, since clocks differ
    * `:serial` - a positive integer of at most 20 bytes; by default 128 random bits (from this VM's generator)
    * `:profile` - `:server`, `:client` or `:peer` (both): key usage and extended key usage for TLS
    * `:ca` - `true`, or the greatest number of CA certificates below it: basic constraints, and the key usage of a CA
    * `:san` - subject alternative names: a list of host names, `{:ip, "127.0.0.1"}`, `{:email, address}`, `{:uri, uri}`, `{:dns, name}`;
      `:request` takes the names from the request
    * `:key_usage` - a list of `:digital_signature`, `:non_repudiation`, `:key_encipherment`, `:data_encipherment`, `:key_agreement`, `:key_cert_sign`,
      `:crl_sign`, `:encipher_only`, `:decipher_only`
    * `:extended_key_usage` - a list of `:server_auth`, `:client_auth`, `:code_signing`, `:email_protection`, `:time_stamping`, `:ocsp_signing`, or OIDs as tuples
    * `:crl_url` - a URL, or a list of them, where the issuer's CRL is
    * `:ocsp_url`, `:issuer_url` - URLs of authority information access
    * `:extensions` - more `:Extension` records of `:public_key`, each with its value in DER

  A certificate always has subject and authority key identifiers (SHA-1 of the public key, RFC 5280, 4.2.1.2).
  """

  import Pkcs11Pool.API.Bang, only: [defbang: 1]

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.X509.{Extensions, Name, Options, Request, Signature, SubjectPublicKey, Time}

  @typedoc "A binary in DER."
  @type der :: binary

  @typedoc "A distinguished name, see above."
  @type name :: [{atom, String.t()}]

  @typedoc "Whose certificate it is: a CSR in DER, or a public key (an OTP record, or SubjectPublicKeyInfo in DER)."
  @type requester :: der | Pkcs11Pool.public_key()

  @doc """
  The public key of a key as SubjectPublicKeyInfo (RFC 5280, 4.1), in DER.
  """
  @spec subject_public_key_info(Pkcs11Pool.pool(), Pkcs11Pool.key(), keyword) ::
          {:ok, der} | {:error, Error.t()}
  def subject_public_key_info(pool, key, opts \\ []) do
    opts = Options.validate!(opts, [])
    with {:ok, public} <- public_key(pool, key, opts), do: {:ok, SubjectPublicKey.encode!(public)}
  end

  defbang subject_public_key_info!(
            pool :: Pkcs11Pool.pool(),
            key :: Pkcs11Pool.key(),
            opts :: keyword
          ) :: der

  @doc """
  A certificate request (PKCS #10, RFC 2986) for a key of the token. `:san`, `:key_usage`, `:extended_key_usage`, `:ca`, `:profile` and `:extensions` become its
  requested extensions.
  """
  @spec request(Pkcs11Pool.pool(), Pkcs11Pool.key(), name, keyword) ::
          {:ok, der} | {:error, Error.t()}
  def request(pool, key, subject, opts \\ []) do
    opts = Options.validate!(opts, [:extensions])
    subject = Name.encode!(subject)
    extensions = Extensions.requested!(opts)

    with {:ok, public} <- public_key(pool, key, opts) do
      info = Request.info(subject, SubjectPublicKey.record(public), extensions)
      der = :public_key.der_encode(:CertificationRequestInfo, info)

      with {:ok, algorithm, signature} <- Signature.sign(pool, key, public, der, opts),
           do: {:ok, Request.encode(info, algorithm, signature)}
    end
  end

  defbang request!(
            pool :: Pkcs11Pool.pool(),
            key :: Pkcs11Pool.key(),
            subject :: name,
            opts :: keyword
          ) :: der

  @doc """
  A self-signed certificate (RFC 5280), such as that of a root CA.
  """
  @spec self_signed(Pkcs11Pool.pool(), Pkcs11Pool.key(), name, keyword) ::
          {:ok, der} | {:error, Error.t()}
  def self_signed(pool, key, subject, opts \\ []) do
    opts = Options.validate!(opts, [:certificate, :extensions])
    subject = Name.encode!(subject)

    with {:ok, public} <- public_key(pool, key, opts) do
      info = SubjectPublicKey.record(public)
      issuer = %{name: subject, key_id: SubjectPublicKey.identifier(info), public_key: public}
      issue(pool, key, issuer, subject, info, [], opts)
    end
  end

  defbang self_signed!(
            pool :: Pkcs11Pool.pool(),
            key :: Pkcs11Pool.key(),
            subject :: name,
            opts :: keyword
          ) :: der

  @doc """
  A certificate for `requester`, signed by the CA's `key`, whose certificate is `ca_certificate` (RFC 5280).

  The requester is a CSR or a public key. The signature of a CSR is verified (`ArgumentError` if it is wrong). The subject is taken from the CSR, unless you give `:subject`; the
  alternative names are taken with `san: :request`. The other extensions of the CSR are ignored: the CA decides what a certificate may be used for.

  Raises `ArgumentError` if `ca_certificate` is not the certificate of a CA.
  """
  @spec certificate(Pkcs11Pool.pool(), Pkcs11Pool.key(), der, requester, keyword) ::
          {:ok, der} | {:error, Error.t()}
  def certificate(pool, key, ca_certificate, requester, opts \\ []) do
    opts = Options.validate!(opts, [:certificate, :extensions, :subject])
    issuer = issuer!(ca_certificate)
    {requested_name, info, requested} = requester!(requester)

    subject =
      case opts[:subject] do
        nil -> requested_name || raise ArgumentError, "a public key has no name: give :subject"
        name -> Name.encode!(name)
      end

    issue(pool, key, issuer, subject, info, requested, opts)
  end

  defbang certificate!(
            pool :: Pkcs11Pool.pool(),
            key :: Pkcs11Pool.key(),
            ca_certificate :: der,
            requester :: requester,
            opts :: keyword
          ) :: der

  @doc """
  A certificate revocation list (version 2, RFC 5280, 5) of the CA with this `key` and certificate.

  `revoked` is a list of serial numbers or certificates in DER, or of `{serial_or_certificate, options}` with `:at` (a `DateTime`, now by default) and `:reason`
  (`:key_compromise`, `:ca_compromise`, `:affiliation_changed`, `:superseded`, `:cessation_of_operation`, `:certificate_hold`, `:privilege_withdrawn`).

  Options: `:number` (the CRL number, required; each list must have a higher number than the one before), `:days` until the next list (7 by default) or `:next_update`, and those for signatures.
  """
  @spec crl(Pkcs11Pool.pool(), Pkcs11Pool.key(), der, list, keyword) ::
          {:ok, der} | {:error, Error.t()}
  def crl(pool, key, ca_certificate, revoked, opts) do
    opts = Options.validate!(opts, [:crl])
    issuer = issuer!(ca_certificate)
    {now, next} = Time.crl!(opts)
    entries = Pkcs11Pool.X509.Revocation.entries!(revoked, now)
    algorithm = Signature.algorithm!(issuer.public_key, opts)
    extensions = Extensions.of_crl(issuer.key_id, opts[:number])

    list =
      {:TBSCertList, :v2, algorithm, issuer.name, Time.encode(now), Time.encode(next), entries,
       extensions}

    der = :public_key.der_encode(:TBSCertList, list)

    with {:ok, algorithm, signature} <- Signature.sign(pool, key, issuer.public_key, der, opts) do
      {:ok,
       :public_key.der_encode(
         :CertificateList,
         {:CertificateList, list, algorithm, signature}
       )}
    end
  end

  defbang crl!(
            pool :: Pkcs11Pool.pool(),
            key :: Pkcs11Pool.key(),
            ca_certificate :: der,
            revoked :: list,
            opts :: keyword
          ) :: der

  @pem %{
    certificate: :Certificate,
    request: :CertificationRequest,
    crl: :CertificateList,
    public_key: :SubjectPublicKeyInfo
  }

  @doc """
  Converts DER to PEM. `kind` is `:certificate`, `:request`, `:crl` or `:public_key`. A list gives one entry after the other, as in a chain.
  """
  @spec to_pem(:certificate | :request | :crl | :public_key, der | [der]) :: String.t()
  def to_pem(kind, der) when is_map_key(@pem, kind) do
    :public_key.pem_encode(for der <- List.wrap(der), do: {@pem[kind], der, :not_encrypted})
  end

  @doc """
  Converts PEM to a list with the DER of each entry, in the same order.
  """
  @spec from_pem(String.t()) :: [der]
  def from_pem(pem) when is_binary(pem),
    do: for({_type, der, _} <- :public_key.pem_decode(pem), do: der)

  ## Parts

  defp issue(pool, key, issuer, subject, info, requested, opts) do
    algorithm = Signature.algorithm!(issuer.public_key, opts)
    {not_before, not_after} = Time.certificate!(opts)
    extensions = Extensions.of_certificate!(info, issuer.key_id, requested, opts)

    tbs =
      {:TBSCertificate, :v3, Options.serial(opts), algorithm, issuer.name,
       {:Validity, Time.encode(not_before), Time.encode(not_after)}, subject, info, :asn1_NOVALUE,
       :asn1_NOVALUE, extensions}

    der = :public_key.der_encode(:TBSCertificate, tbs)

    with {:ok, algorithm, signature} <- Signature.sign(pool, key, issuer.public_key, der, opts),
         do:
           {:ok, :public_key.der_encode(:Certificate, {:Certificate, tbs, algorithm, signature})}
  end

  defp issuer!(der) do
    {:Certificate, tbs, _algorithm, _signature} = decode!(:Certificate, der, "ca_certificate")
    info = elem(tbs, 7)
    extensions = Extensions.list(elem(tbs, 10))

    Extensions.ca?(extensions) ||
      raise ArgumentError,
            "ca_certificate is not the certificate of a CA: its basic constraints do not say so"

    %{
      name: elem(tbs, 6),
      key_id: Extensions.key_identifier(extensions) || SubjectPublicKey.identifier(info),
      public_key: SubjectPublicKey.decode!(info)
    }
  end

  defp requester!(der) when is_binary(der) do
    case Request.decode(der) do
      {:ok, name, info, extensions} ->
        {name, info, extensions}

      :invalid_signature ->
        raise ArgumentError, "the signature of the certificate request is not that of its key"

      :error ->
        {nil, decode!(:SubjectPublicKeyInfo, der, "requester"), []}
    end
  end

  defp requester!(public_key), do: {nil, SubjectPublicKey.record(public_key), []}

  defp decode!(type, der, argument) do
    is_binary(der) || raise ArgumentError, "expected #{argument} to be DER, a binary"
    :public_key.der_decode(type, der)
  rescue
    error in ErlangError -> reraise_no_der(error, argument, __STACKTRACE__)
    error in MatchError -> reraise_no_der(error, argument, __STACKTRACE__)
  end

  defp reraise_no_der(_error, argument, stacktrace) do
    message = "expected #{argument} to be DER; from_pem/1 converts PEM"
    reraise ArgumentError, [message: message], stacktrace
  end

  defp public_key(pool, key, opts) do
    case opts[:public_key] do
      nil -> Pkcs11Pool.public_key(pool, key, Options.call(opts))
      public -> {:ok, public}
    end
  end
end
