defmodule Pkcs11Pool.OTP do
  @moduledoc """
  A key of a pool as a private key for OTP: for `:ssl`, `:public_key.sign/4` and `:public_key.pkix_sign/2`.

      {:ok, key} = Pkcs11Pool.OTP.private_key(MyApp.HSM, "tls")
      :ssl.listen(443, certs_keys: [%{cert: certificates, key: key}])

  Needs OTP 27 or newer, where a private key may be a function.
  """

  import Pkcs11Pool.API.Bang, only: [defbang: 1]

  alias Pkcs11Pool.OTP.{Failure, Signer}
  alias Pkcs11Pool.{Error, Options, PublicKey}

  @algorithms [:rsa, :rsa_pss_pss, :ecdsa, :eddsa]

  @typedoc "A private key of `:public_key` and `:ssl` that signs by a function."
  @type private_key :: %{
          algorithm: :rsa | :rsa_pss_pss | :ecdsa | :eddsa,
          sign_fun:
            (message :: iodata | {:digest, binary}, hash :: atom, options :: list -> binary)
        }

  @typedoc "Options of `private_key/3`."
  @type option ::
          {:algorithm, :rsa | :rsa_pss_pss | :ecdsa | :eddsa} | Pkcs11Pool.call_option()

  @doc """
  The private key for `:ssl` (`key:`, `certs_keys:`), `:public_key.sign/4` and `:public_key.pkix_sign/2`. Each signature is one call of
  `Pkcs11Pool.sign/5`, in the process that needs the signature; for `:ssl` that is the process of the connection.

  `key` names the key as in `Pkcs11Pool.sign/5`. Options:

    * `:algorithm` - `:rsa`, `:ecdsa`, `:eddsa`, or `:rsa_pss_pss` for a key whose certificate is for RSASSA-PSS. Without it, the pool asks the token what the
      key is. With it, no call is made, so that the pool need not run yet, for instance in `config/runtime.exs`
    * `:queue_timeout`, `:operation_timeout`, `:telemetry_metadata` - for each signature. A TLS handshake of `:ssl` has its own time-out

  OTP chooses the hash. For RSA it chooses PKCS #1 v1.5 or PSS, and the salt length (a negative one, as in OpenSSL, means the length of the hash). ECDSA signatures are DER. Messages
  that are hashed already (`{:digest, digest}`) are signed as they are.

  If a signature fails during a handshake, OTP makes an alert of it that does not say so. Therefore each signature that fails is logged, at most once in 30 s for a key and
  a reason, and emits the event `[:pkcs11_pool, :private_key, :failed]` (`Pkcs11Pool.Telemetry`). Then the function raises `Pkcs11Pool.Error`.

  The error is `:otp_too_old` before OTP 27, `:key_type_inconsistent` for a key that cannot make a signature that `:public_key` knows, or an error of
  `Pkcs11Pool.key_info/3`. An unknown option raises `ArgumentError`.
  """
  @spec private_key(Pkcs11Pool.pool(), Pkcs11Pool.key(), [option]) ::
          {:ok, private_key} | {:error, Error.t()}
  def private_key(pool, key, opts \\ []) do
    {algorithm, opts} = pop_algorithm!(opts)
    checked = Options.Call.validate!(opts)
    _checked = Pkcs11Pool.Argument.Key.encode!(key, :private_key)

    with :ok <- check_otp(pool),
         {:ok, algorithm} <- algorithm(pool, key, algorithm, checked) do
      {:ok, %{algorithm: algorithm, sign_fun: sign_fun(pool, key, algorithm, opts)}}
    end
  end

  defbang private_key!(pool :: Pkcs11Pool.pool(), key :: Pkcs11Pool.key(), opts :: [option]) ::
            private_key

  @doc """
  Whether the running OTP takes a private key that is a function.
  """
  # The specification of OTP 25's function knows no such key.
  @dialyzer {:nowarn_function, supported?: 0}
  @spec supported?() :: boolean
  def supported? do
    :public_key.sign("", :sha256, %{algorithm: :rsa, sign_fun: fn _, _, _ -> "signed" end}, []) ==
      "signed"
  rescue
    _badarg -> false
  end

  defp check_otp(pool) do
    if supported?() do
      :ok
    else
      details = %{release: to_string(:erlang.system_info(:otp_release))}
      {:error, Error.new(:otp_too_old, pool: pool, executed: false, details: details)}
    end
  end

  defp pop_algorithm!(opts) do
    Keyword.keyword?(opts) || raise ArgumentError, "expected options to be a keyword list"
    {algorithm, opts} = Keyword.pop(opts, :algorithm)

    if algorithm in [nil | @algorithms] do
      {algorithm, opts}
    else
      raise ArgumentError,
            "invalid value for :algorithm option: expected one of #{inspect(@algorithms)}, got: #{inspect(algorithm)}"
    end
  end

  defp algorithm(_pool, _key, algorithm, _opts) when algorithm != nil, do: {:ok, algorithm}

  defp algorithm(pool, key, nil, opts) do
    with {:ok, attributes} <- Signer.attributes(pool, key, [:key_type], opts) do
      case attributes.key_type do
        :rsa -> {:ok, :rsa}
        :ec -> {:ok, :ecdsa}
        :ec_edwards -> {:ok, :eddsa}
        other -> {:error, no_signing_key(pool, other)}
      end
    end
  end

  defp no_signing_key(pool, type) do
    Error.new(:key_type_inconsistent,
      pool: pool,
      executed: false,
      details: %{class: :private_key, key_type: type}
    )
  end

  # Only `algorithm` and `sign_fun`: public_key takes `encrypt_fun` first where both are there, and ssl drops `sign_opts` for RSA-PSS.
  defp sign_fun(pool, key, algorithm, opts) do
    failures = Failure.new()

    fn message, hash, options ->
      try do
        Signer.sign!(pool, key, algorithm, message, hash, options, opts)
      rescue
        error ->
          Failure.report(failures, pool, algorithm, error)
          reraise error, __STACKTRACE__
      end
    end
  end

  @doc false
  # What signs with a key of this public key, in X.509 and JOSE.
  @spec algorithm_of(PublicKey.t()) :: :rsa | :ecdsa | :eddsa | :unknown
  def algorithm_of({:RSAPublicKey, _modulus, _exponent}), do: :rsa

  def algorithm_of({{:ECPoint, _point}, {:namedCurve, {1, 3, 101, arc}}}) when arc in [112, 113],
    do: :eddsa

  def algorithm_of({{:ECPoint, _point}, {:namedCurve, {1, 3, 101, _arc}}}), do: :unknown
  def algorithm_of({{:ECPoint, _point}, _parameters}), do: :ecdsa
  def algorithm_of(_other), do: :unknown
end
