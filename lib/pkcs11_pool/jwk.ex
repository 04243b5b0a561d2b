defmodule Pkcs11Pool.JWK do
  @moduledoc """
  Public keys of the token as JSON Web Keys (RFC 7517): maps with strings, for any JSON library.

      {:ok, jwks} = Pkcs11Pool.JWK.set(MyApp.HSM, ["2025", "2026"])
      json(conn, jwks)

  The keys may be RSA keys, EC keys on P-256, P-384, P-521 and secp256k1 (RFC 7518, RFC 8812), Ed25519 and Ed448 (RFC 8037). Only public keys have a JWK, no private ones.
  """

  import Pkcs11Pool.API.Bang, only: [defbang: 1]

  alias Pkcs11Pool.{Error, JSON}

  @typedoc ~S|A key, such as `%{"kty" => "EC", "crv" => "P-256", "x" => "...", "y" => "...", "kid" => "..."}`.|
  @type t :: %{String.t() => term}

  @typedoc """
  Options: those of each call (`:queue_timeout` and so on), and

    * `:kid` - the key's id; by default its thumbprint
    * `:alg` - the algorithm of the key (`"ES256"`); by default it is left out
  """
  @type option :: Pkcs11Pool.call_option() | {:kid, String.t()} | {:alg, String.t()}

  # name => {OID, bytes of a coordinate}
  @curves [
    {"P-256", {1, 2, 840, 10_045, 3, 1, 7}, 32},
    {"P-384", {1, 3, 132, 0, 34}, 48},
    {"P-521", {1, 3, 132, 0, 35}, 66},
    {"secp256k1", {1, 3, 132, 0, 10}, 32}
  ]
  @edwards [{"Ed25519", {1, 3, 101, 112}, 32}, {"Ed448", {1, 3, 101, 113}, 57}]

  @doc """
  The JWK of a key on the token, with `use` and `kid`. The public key is read as by `Pkcs11Pool.public_key/3`.

  Fails as `Pkcs11Pool.public_key/3` does, and with `:curve_not_supported` for a curve that JOSE has no name for. A post-quantum key is
  `:key_type_inconsistent`.
  """
  @spec public(Pkcs11Pool.pool(), Pkcs11Pool.key(), [option]) :: {:ok, t} | {:error, Error.t()}
  def public(pool, key, opts \\ []) do
    {own, opts} = split!(opts)

    with {:ok, public} <- Pkcs11Pool.public_key(pool, key, opts) do
      case from_public_key(public) do
        {:ok, jwk} -> {:ok, describe(jwk, own)}
        :error -> {:error, Error.new(without_name(public), pool: pool, executed: false)}
      end
    end
  end

  defp without_name({{:ECPoint, _point}, _curve}), do: :curve_not_supported
  defp without_name(_other), do: :key_type_inconsistent

  defbang public!(pool :: Pkcs11Pool.pool(), key :: Pkcs11Pool.key(), opts :: [option]) :: t

  @doc """
  A set of public keys (RFC 7517, 5): `%{"keys" => [...]}`, for a `/.well-known/jwks.json`. `keys` are keys, or `{key, options}`.
  """
  @spec set(Pkcs11Pool.pool(), [Pkcs11Pool.key() | {Pkcs11Pool.key(), [option]}], [option]) ::
          {:ok, %{String.t() => [t]}} | {:error, Error.t()}
  def set(pool, keys, opts \\ []) when is_list(keys) do
    keys
    |> Enum.reduce_while([], fn key, jwks ->
      {key, own} = with key when not is_tuple(key) <- key, do: {key, []}

      case public(pool, key, Keyword.merge(opts, own)) do
        {:ok, jwk} -> {:cont, [jwk | jwks]}
        {:error, error} -> {:halt, {:error, error}}
      end
    end)
    |> case do
      {:error, error} -> {:error, error}
      jwks -> {:ok, %{"keys" => Enum.reverse(jwks)}}
    end
  end

  defbang set!(
            pool :: Pkcs11Pool.pool(),
            keys :: [Pkcs11Pool.key() | {Pkcs11Pool.key(), [option]}],
            opts :: [option]
          ) :: %{String.t() => [t]}

  @doc """
  The SHA-256 thumbprint of a key (RFC 7638, RFC 8037), in base64url. Raises `ArgumentError` if this is not a JWK that has a thumbprint.
  """
  @spec thumbprint(t) :: String.t()
  def thumbprint(jwk) do
    members =
      case jwk do
        %{"kty" => "RSA", "n" => n, "e" => e} ->
          [e: e, kty: "RSA", n: n]

        %{"kty" => "EC", "crv" => crv, "x" => x, "y" => y} ->
          [crv: crv, kty: "EC", x: x, y: y]

        %{"kty" => "OKP", "crv" => crv, "x" => x} ->
          [crv: crv, kty: "OKP", x: x]

        _other ->
          raise ArgumentError, "expected a JWK of kty RSA, EC or OKP with its public members"
      end

    # The names in the order of the alphabet, without white space.
    encode(:crypto.hash(:sha256, JSON.encode(members)))
  end

  @doc """
  The JWK of a public key of `:public_key`, without `use` and `kid`; `:error` if JOSE has no name for its curve.
  """
  @spec from_public_key(Pkcs11Pool.public_key()) :: {:ok, t} | :error
  def from_public_key({:RSAPublicKey, modulus, exponent}) do
    {:ok, %{"kty" => "RSA", "n" => integer(modulus), "e" => integer(exponent)}}
  end

  for {crv, oid, size} <- @curves do
    def from_public_key({
          {:ECPoint, <<4, x::binary-size(unquote(size)), y::binary-size(unquote(size))>>},
          {:namedCurve, unquote(Macro.escape(oid))}
        }),
        do: {:ok, %{"kty" => "EC", "crv" => unquote(crv), "x" => encode(x), "y" => encode(y)}}
  end

  for {crv, oid, size} <- @edwards do
    def from_public_key(
          {{:ECPoint, <<x::binary-size(unquote(size))>>},
           {:namedCurve, unquote(Macro.escape(oid))}}
        ),
        do: {:ok, %{"kty" => "OKP", "crv" => unquote(crv), "x" => encode(x)}}
  end

  def from_public_key(_other), do: :error

  @doc """
  The public key of a JWK, as `:public_key` has it; `:error` if this is not a public key. Private members (`d`, ...) are ignored.
  """
  @spec to_public_key(t) :: {:ok, Pkcs11Pool.public_key()} | :error
  def to_public_key(%{"kty" => "RSA", "n" => n, "e" => e}) do
    with {:ok, n} <- decode(n), {:ok, e} <- decode(e), true <- n != "" and e != "" do
      {:ok, {:RSAPublicKey, :binary.decode_unsigned(n), :binary.decode_unsigned(e)}}
    else
      _malformed -> :error
    end
  end

  for {crv, oid, size} <- @curves do
    def to_public_key(%{"kty" => "EC", "crv" => unquote(crv), "x" => x, "y" => y}) do
      with {:ok, <<x::binary-size(unquote(size))>>} <- decode(x),
           {:ok, <<y::binary-size(unquote(size))>>} <- decode(y) do
        {:ok,
         {{:ECPoint, <<4, x::binary, y::binary>>}, {:namedCurve, unquote(Macro.escape(oid))}}}
      else
        _malformed -> :error
      end
    end
  end

  for {crv, oid, size} <- @edwards do
    def to_public_key(%{"kty" => "OKP", "crv" => unquote(crv), "x" => x}) do
      with {:ok, <<x::binary-size(unquote(size))>>} <- decode(x),
           do: {:ok, {{:ECPoint, x}, {:namedCurve, unquote(Macro.escape(oid))}}},
           else: (_malformed -> :error)
    end
  end

  def to_public_key(_other), do: :error

  @own [:kid, :alg]

  defp split!(opts) do
    Keyword.keyword?(opts) || raise ArgumentError, "expected options to be a keyword list"
    {own, opts} = Keyword.split(opts, @own)

    for {name, value} <- own, not (is_binary(value) and String.valid?(value)) do
      raise ArgumentError, "invalid value for #{inspect(name)} option: expected a string"
    end

    {own, opts}
  end

  defp describe(jwk, own) do
    kid = own[:kid] || thumbprint(jwk)
    jwk = Map.merge(jwk, %{"use" => "sig", "kid" => kid})
    if own[:alg], do: Map.put(jwk, "alg", own[:alg]), else: jwk
  end

  defp integer(value), do: value |> :binary.encode_unsigned() |> encode()
  defp encode(bytes), do: Base.url_encode64(bytes, padding: false)
  defp decode(text) when is_binary(text), do: Base.url_decode64(text, padding: false)
  defp decode(_other), do: :error
end
