defmodule Pkcs11Pool.JOSE do
  @moduledoc """
  Keys of a pool for the library JOSE (Erlang's `jose`, Elixir's `JOSE`): JOSE makes and verifies its tokens, and the signature is made on the token.

      {:ok, jwk} = Pkcs11Pool.JOSE.jwk(MyApp.HSM, "signing")
      {_, token} = jwk |> JOSE.JWT.sign(%{"alg" => "ES256"}, %{"sub" => "1234"}) |> JOSE.JWS.compact()

  JOSE is not a dependency of this library: add it to your own. In the place of a private key, JOSE has the name of the pool and of the key. If a signature fails, it raises
  `Pkcs11Pool.Error`.
  """

  import Pkcs11Pool.API.Bang, only: [defbang: 1]

  alias Pkcs11Pool.{Error, JWK, JWS}
  alias Pkcs11Pool.JWS.Algorithm

  alias JOSE.JWK, as: ElixirKey

  @typedoc "JOSE's own key: `%JOSE.JWK{}` if the application has Elixir's JOSE, otherwise Erlang's record `:jose_jwk`."
  @type jwk :: struct | tuple

  @doc """
  A JOSE key that signs on the token. Options: those of each call (`:queue_timeout` and so on), which are used for each signature, and `:kid`.

  It reads the public key (`Pkcs11Pool.public_key/3`), which JOSE needs to verify and to export.
  """
  @spec jwk(Pkcs11Pool.pool(), Pkcs11Pool.key(), [Pkcs11Pool.JWK.option()]) ::
          {:ok, jwk} | {:error, Error.t()}
  def jwk(pool, key, opts \\ []) do
    with {:ok, public} <- JWK.public(pool, key, opts) do
      {:ok, otp_key} = JWK.to_public_key(public)
      {:jose_jwk, keys, kty, fields} = jose(:jose_jwk, :from_map, [public])
      call = Keyword.drop(opts, [:kid, :alg])
      own = {__MODULE__, {pool, key, call, Algorithm.default(otp_key), kty}}
      {:ok, to_struct({:jose_jwk, keys, own, fields})}
    end
  end

  defbang jwk!(
            pool :: Pkcs11Pool.pool(),
            key :: Pkcs11Pool.key(),
            opts :: [Pkcs11Pool.JWK.option()]
          ) :: jwk

  # By a variable: the compiler and dialyzer look for a module that is written out.
  defp jose(module, function, arguments), do: apply(module, function, arguments)

  defp to_struct(record) do
    if Code.ensure_loaded?(ElixirKey),
      do: jose(ElixirKey, :from_record, [record]),
      else: record
  end

  ## What JOSE asks of a kind of key (jose_jwk, jose_jwk_kty, jose_jwk_use_sig). All that is public is asked of JOSE's own kind.

  @doc false
  def sign(message, alg, {pool, key, opts, _default, _public}) do
    case JWS.signature(pool, key, to_string(alg), message, opts) do
      {:ok, signature} -> signature
      {:error, error} -> raise error
    end
  end

  @doc false
  def signer(_kty, %{"alg" => alg}), do: %{"alg" => alg}
  def signer({_pool, _key, _opts, default, _public}, _fields), do: %{"alg" => default}

  # The public half of a key, which JOSE makes of the map that `to_public_map/2` gave it.
  @doc false
  def from_map(map) do
    {:jose_jwk, _keys, kty, fields} = jose(:jose_jwk, :from_map, [map])
    {kty, fields}
  end

  @doc false
  def verifier(key, fields), do: ask(key, :verifier, [fields])

  @doc false
  def verify(message, alg, signature, key) do
    {module, kty} = public(key)
    module.verify(message, alg, signature, kty)
  end

  @doc false
  def to_key(key), do: ask(key, :to_key, [])

  # There is no private half to write.
  @doc false
  def to_map(key, fields), do: ask(key, :to_map, [fields])

  @doc false
  def to_public_map(key, fields), do: ask(key, :to_public_map, [fields])

  @doc false
  def to_thumbprint_map(key, fields), do: ask(key, :to_thumbprint_map, [fields])

  defp ask(key, function, arguments) do
    {module, kty} = public(key)
    apply(module, function, [kty | arguments])
  end

  defp public({_pool, _key, _opts, _default, public}), do: public
  defp public({_module, _kty} = public), do: public

  @doc false
  def key_encryptor(kty, fields, key), do: jose(:jose_jwk_kty, :key_encryptor, [kty, fields, key])
end
