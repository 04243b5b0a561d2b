defmodule Pkcs11Pool.JWS do
  @moduledoc """
  Signed JSON (JWS, RFC 7515) and tokens (JWT, RFC 7519) with keys of a pool, in the compact form.

      {:ok, token} = Pkcs11Pool.JWS.sign(MyApp.HSM, "signing", %{"sub" => "1234"}, alg: "ES256", header: %{"typ" => "JWT"})
      {:ok, %{payload: payload}} = Pkcs11Pool.JWS.verify(token, public_key, algorithms: ["ES256"])

  ## Algorithms

  `RS256`, `RS384`, `RS512` (RSA, PKCS #1 v1.5), `PS256`, `PS384`, `PS512` (RSA, PSS), `ES256` (P-256), `ES384` (P-384), `ES512` (P-521), `ES256K` (secp256k1),
  and `EdDSA` (Ed25519, Ed448; also by their own names, `Ed25519` and `Ed448`). An ECDSA signature is r and s, one after the other, as in RFC 7518. `none` and MACs are
  neither made nor accepted, so that no token can choose them.
  """

  import Pkcs11Pool.API.Bang, only: [defbang: 1]

  alias Pkcs11Pool.{Error, JSON, JWK}
  alias Pkcs11Pool.JWS.Algorithm

  @typedoc "A JWS in its compact form: header, payload and signature in base64url, with dots between them. If it is detached, nothing is between the dots."
  @type compact :: String.t()

  @typedoc """
  Options of `sign/4`, besides those of each call (`:queue_timeout` and so on):

    * `:alg` - required: the algorithm, such as `"ES256"`
    * `:header` - further members of the header, a map with strings (`"typ"`, `"kid"`, `"cty"`, ...); this module sets `"alg"`, `"b64"` and `"crit"` itself
    * `:detached` - `true`: the payload is not in the result (RFC 7515, appendix F)
    * `:b64` - `false`: the payload is signed as it is, not in base64url (RFC 7797). Then it must be detached, or printable ASCII without dots
  """
  @type sign_option ::
          Pkcs11Pool.call_option()
          | {:alg, String.t()}
          | {:header, %{String.t() => term}}
          | {:detached, boolean}
          | {:b64, boolean}

  @typedoc """
  Options of `verify/3` and `verify_on_token/4`:

    * `:algorithms` - required: the algorithms that are accepted, such as `["ES256"]`. The header of the JWS can only choose one of these
    * `:payload` - the payload of a detached JWS
    * `:crit` - the names of critical header members that your code understands and checks itself; this module understands `"b64"`
  """
  @type verify_option ::
          {:algorithms, [String.t(), ...]} | {:payload, iodata} | {:crit, [String.t()]}

  @typedoc "What was signed: the header that was protected, and the payload as bytes."
  @type verified :: %{header: %{String.t() => term}, payload: binary}

  @doc """
  Signs a payload: bytes, or a map, whose JSON is signed.

  The key must fit the algorithm: a key on another curve is `:key_type_inconsistent`. Calls `C_SignInit` and `C_Sign`.
  """
  @spec sign(Pkcs11Pool.pool(), Pkcs11Pool.key(), iodata | map, [sign_option]) ::
          {:ok, compact} | {:error, Error.t()}
  def sign(pool, key, payload, opts) do
    {own, opts} = split!(opts, [:alg, :header, :detached, :b64])
    alg = algorithm!(own[:alg])
    payload = payload!(payload)
    header = header!(own[:header] || %{}, alg, boolean!(own, :b64, true))
    detached = boolean!(own, :detached, false)
    body = body!(header, payload, detached)
    protected = encode64(IO.iodata_to_binary(JSON.encode(header)))

    with {:ok, signature} <- signature(pool, key, alg, [protected, ?., body], opts) do
      {:ok, Enum.join([protected, if(detached, do: "", else: body), encode64(signature)], ".")}
    end
  end

  defbang sign!(
            pool :: Pkcs11Pool.pool(),
            key :: Pkcs11Pool.key(),
            payload :: iodata | map,
            opts :: [sign_option]
          ) :: compact

  @doc false
  # The signature of a message in the form of JOSE.
  @spec signature(Pkcs11Pool.pool(), Pkcs11Pool.key(), String.t(), iodata, keyword) ::
          {:ok, binary} | {:error, Error.t()}
  def signature(pool, key, alg, message, opts) do
    with {:ok, signature} <- Pkcs11Pool.sign(pool, key, Algorithm.mechanism(alg), message, opts) do
      # A token that does not say on which curve its key is.
      if Algorithm.signature_size(alg) in [nil, byte_size(signature)],
        do: {:ok, signature},
        else: {:error, other_curve(pool, alg)}
    end
  end

  defp other_curve(pool, alg) do
    details = %{
      mechanism: Pkcs11Pool.Mechanism.name(Algorithm.mechanism(alg)),
      cause: :other_curve
    }

    Error.new(:key_type_inconsistent, pool: pool, executed: true, details: details)
  end

  @doc """
  Verifies a JWS with a public key, in this VM: the token is not called.

  `key` is a public key of `:public_key` (`Pkcs11Pool.public_key/3`), a JWK, or a JWK set. From a set, the key with the `kid` of the header is used; if the header has no `kid`, any key of the
  set may fit.

  The error is `:jws_invalid` if this is not a JWS or its header is not accepted (`details.cause`: `:malformed`, `:algorithm`, `:critical`, `:payload`, `:no_key`), or
  `:signature_invalid`.
  """
  @spec verify(compact, Pkcs11Pool.public_key() | JWK.t(), [verify_option]) ::
          {:ok, verified} | {:error, Error.t()}
  def verify(compact, key, opts) do
    {own, rest} = split!(opts, [:algorithms, :payload, :crit])
    no_more!(rest)

    with {:ok, jws} <- parse(compact, own),
         {:ok, keys} <- keys(key, jws.header) do
      if Enum.any?(keys, &Algorithm.verify(jws.alg, &1, jws.message, jws.signature)),
        do: {:ok, Map.take(jws, [:header, :payload])},
        else: {:error, Error.new(:signature_invalid, executed: false)}
    end
  end

  defbang verify!(
            compact :: compact,
            key :: Pkcs11Pool.public_key() | JWK.t(),
            opts :: [verify_option]
          ) :: verified

  @doc """
  Verifies a JWS with a public key on the token (`Pkcs11Pool.verify/6`). If you have the public key, `verify/3` is faster and does not use the token.
  """
  @spec verify_on_token(Pkcs11Pool.pool(), Pkcs11Pool.key(), compact, [
          verify_option | Pkcs11Pool.call_option()
        ]) :: {:ok, verified} | {:error, Error.t()}
  def verify_on_token(pool, key, compact, opts) do
    {own, opts} = split!(opts, [:algorithms, :payload, :crit])

    with {:ok, jws} <- parse(compact, own),
         mechanism = Algorithm.mechanism(jws.alg),
         :ok <- Pkcs11Pool.verify(pool, key, mechanism, jws.message, jws.signature, opts),
         do: {:ok, Map.take(jws, [:header, :payload])}
  end

  defbang verify_on_token!(
            pool :: Pkcs11Pool.pool(),
            key :: Pkcs11Pool.key(),
            compact :: compact,
            opts :: [verify_option | Pkcs11Pool.call_option()]
          ) :: verified

  ## What is signed

  @own_members ["alg", "b64", "crit"]

  defp header!(header, alg, b64) do
    is_map(header) or raise ArgumentError, "invalid value for :header option: expected a map"

    for {name, _value} <- header, not is_binary(name) or name in @own_members do
      raise ArgumentError,
            "invalid value for :header option: expected names that are strings, other than #{inspect(@own_members)}, got: #{inspect(name)}"
    end

    header = Map.put(header, "alg", alg)
    # RFC 7797, 6: who does not know it must not take the token.
    if b64, do: header, else: Map.merge(header, %{"b64" => false, "crit" => ["b64"]})
  end

  defp payload!(payload) when is_map(payload) and not is_struct(payload),
    do: IO.iodata_to_binary(JSON.encode(payload))

  defp payload!(payload), do: Pkcs11Pool.Argument.Data.binary!(payload, "payload")

  defp body!(%{"b64" => false}, payload, detached) do
    # RFC 7797, 5.2.
    detached or payload =~ ~r/\A[\x20-\x2D\x2F-\x7E]*\z/ ||
      raise ArgumentError,
            "a payload with b64: false that is not detached must be printable ASCII without dots: give detached: true"

    payload
  end

  defp body!(_header, payload, _detached), do: encode64(payload)

  ## What is verified

  @spec parse(term, keyword) :: {:ok, map} | {:error, Error.t()}
  defp parse(compact, own) do
    algorithms = algorithms!(own[:algorithms])
    understood = understood!(own[:crit] || [])
    payload = if own[:payload], do: Pkcs11Pool.Argument.Data.binary!(own[:payload], "payload")

    with [protected, body, signature] <- is_binary(compact) && String.split(compact, "."),
         {:ok, signature} <- decode64(signature),
         {:ok, json} <- decode64(protected),
         {:ok, %{"alg" => alg} = header} <- JSON.decode(json) do
      cond do
        # An algorithm that is not known cannot be in the list.
        alg not in algorithms -> invalid(:algorithm)
        not critical?(header, understood) -> invalid(:critical)
        true -> payload(header, alg, protected, body, payload, signature)
      end
    else
      _malformed -> invalid(:malformed)
    end
  end

  defp payload(header, alg, protected, body, given, signature) do
    raw? = header["b64"] == false

    body =
      cond do
        given == nil -> body
        body != "" -> :twice
        raw? -> given
        true -> encode64(given)
      end

    with true <- is_binary(body),
         {:ok, payload} <- if(raw?, do: {:ok, body}, else: decode64(body)) do
      message = [protected, ?., body]
      {:ok, %{header: header, alg: alg, payload: payload, message: message, signature: signature}}
    else
      _twice_or_malformed -> invalid(:payload)
    end
  end

  # Names of RFC 7515 and 7518 that must not be critical.
  @registered ~w(alg jku jwk kid x5u x5c x5t x5t#S256 typ cty crit epk apu apv iv tag p2s p2c zip enc)

  defp critical?(%{"crit" => [_ | _] = names} = header, understood) do
    names == Enum.uniq(names) and
      Enum.all?(names, &(&1 in ["b64" | understood] and is_map_key(header, &1))) and b64?(header)
  end

  defp critical?(%{"crit" => _empty_or_no_list}, _understood), do: false
  # RFC 7797, 6: without "crit" it does not count, and who wrote it meant something else.
  defp critical?(%{"b64" => b64}, _understood), do: b64 == true
  defp critical?(_header, _understood), do: true

  defp b64?(%{"b64" => b64, "crit" => names}),
    do: is_boolean(b64) and (b64 or "b64" in names)

  defp b64?(_header), do: true

  defp keys(%{"keys" => jwks}, header) when is_list(jwks) do
    jwks = for %{} = jwk <- jwks, jwk["use"] in [nil, "sig"], fits?(jwk, header), do: jwk

    case for jwk <- jwks, {:ok, key} <- [JWK.to_public_key(jwk)], do: key do
      [] -> invalid(:no_key)
      keys -> {:ok, keys}
    end
  end

  defp keys(%{"kty" => _} = jwk, header) do
    with true <- jwk["alg"] in [nil, header["alg"]], {:ok, key} <- JWK.to_public_key(jwk) do
      {:ok, [key]}
    else
      _other -> invalid(:no_key)
    end
  end

  defp keys(key, _header) when is_tuple(key), do: {:ok, [key]}

  defp keys(_other, _header) do
    raise ArgumentError, "expected a public key of :public_key, a JWK or a JWK set"
  end

  defp fits?(jwk, header) do
    jwk["alg"] in [nil, header["alg"]] and
      (header["kid"] == nil or jwk["kid"] == nil or jwk["kid"] == header["kid"])
  end

  defp invalid(cause),
    do: {:error, Error.new(:jws_invalid, executed: false, details: %{cause: cause})}

  ## Options

  defp split!(opts, names) do
    Keyword.keyword?(opts) || raise ArgumentError, "expected options to be a keyword list"
    Keyword.split(opts, names)
  end

  defp no_more!([]), do: :ok

  defp no_more!(rest) do
    raise ArgumentError,
          "unknown options #{inspect(Keyword.keys(rest))}, valid options are: [:algorithms, :payload, :crit]"
  end

  defp algorithm!(alg) do
    if Algorithm.known?(alg),
      do: alg,
      else: raise(ArgumentError, "invalid value for :alg option: #{expected()}")
  end

  defp algorithms!([_ | _] = algorithms) do
    if Enum.all?(algorithms, &Algorithm.known?/1),
      do: algorithms,
      else: raise(ArgumentError, "invalid value for :algorithms option: #{expected()}")
  end

  defp algorithms!(_none) do
    raise ArgumentError,
          "required :algorithms option not found: the list of those that are taken, such as [\"ES256\"]"
  end

  defp expected, do: "expected one of #{inspect(Algorithm.names())}"

  defp understood!(names) do
    if is_list(names) and Enum.all?(names, &(is_binary(&1) and &1 not in @registered)),
      do: names,
      else: raise(ArgumentError, "invalid value for :crit option: expected a list of names")
  end

  defp boolean!(own, name, default) do
    case Keyword.get(own, name, default) do
      value when is_boolean(value) ->
        value

      _other ->
        raise ArgumentError, "invalid value for #{inspect(name)} option: expected a boolean"
    end
  end

  defp encode64(bytes), do: Base.url_encode64(bytes, padding: false)
  defp decode64(text), do: Base.url_decode64(text, padding: false)
end
