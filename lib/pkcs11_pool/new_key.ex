defmodule Pkcs11Pool.NewKey do
  @moduledoc false
  # Kinds of keys by short names, for those who want a key and no template: `Pkcs11Pool.Testing` and `mix pkcs11_pool.init`.

  alias Pkcs11Pool.Error

  @rsa %{rsa2048: 2048, rsa3072: 3072, rsa4096: 4096}
  @curves %{p256: :secp256r1, p384: :secp384r1, p521: :secp521r1, secp256k1: :secp256k1}
  @secrets %{
    aes128: {:aes_key_gen, 16, [encrypt: true, decrypt: true]},
    aes256: {:aes_key_gen, 32, [encrypt: true, decrypt: true]},
    hmac: {:generic_secret_key_gen, 32, [sign: true, verify: true]}
  }
  @types Map.keys(@rsa) ++ Map.keys(@curves) ++ [:ed25519] ++ Map.keys(@secrets)

  @type type ::
          :rsa2048
          | :rsa3072
          | :rsa4096
          | :p256
          | :p384
          | :p521
          | :secp256k1
          | :ed25519
          | :aes128
          | :aes256
          | :hmac

  @doc "All kinds."
  @spec types() :: [type, ...]
  def types, do: @types

  @doc """
  For a key that is to do nothing else, cannot be read, and does not leave the token: SoftHSM lets a key do whatever its template does not forbid.
  """
  @spec strict(type) :: Pkcs11Pool.Template.t()
  def strict(type) do
    forbidden =
      case type do
        type when is_map_key(@rsa, type) -> [:unwrap]
        type when is_map_key(@curves, type) or type == :ed25519 -> [:decrypt, :unwrap, :derive]
        :hmac -> [:encrypt, :decrypt, :wrap, :unwrap, :derive]
        _aes -> [:sign, :verify, :wrap, :unwrap, :derive]
      end

    [sensitive: true, extractable: false] ++ for(use <- forbidden, do: {use, false})
  end

  @doc """
  Makes a key or key pair of token objects with this label and id, and private. `more` is added to the template of what is secret.
  """
  @spec generate(term, String.t(), binary, type, Pkcs11Pool.Template.t()) ::
          :ok | {:error, Error.t()}
  def generate(pool, label, id, type, more \\ [])

  def generate(pool, label, id, type, more) when is_map_key(@rsa, type) do
    public = [modulus_bits: @rsa[type], public_exponent: 65_537, encrypt: true]
    pair(pool, label, id, :rsa_pkcs_key_pair_gen, public, [decrypt: true] ++ more)
  end

  def generate(pool, label, id, :ed25519, more),
    do: pair(pool, label, id, :ec_edwards_key_pair_gen, [ec_params: :ed25519], more)

  def generate(pool, label, id, type, more) when is_map_key(@curves, type),
    do: pair(pool, label, id, :ec_key_pair_gen, [ec_params: @curves[type]], more)

  def generate(pool, label, id, type, more) do
    {mechanism, bytes, uses} = Map.fetch!(@secrets, type)
    template = [token: true, private: true, label: label, id: id, value_len: bytes]
    made(Pkcs11Pool.generate_key(pool, mechanism, template ++ uses ++ more))
  end

  defp pair(pool, label, id, mechanism, public, private) do
    common = [token: true, label: label, id: id]
    public = common ++ [verify: true] ++ public
    private = common ++ [private: true, sign: true] ++ private
    made(Pkcs11Pool.generate_key_pair(pool, mechanism, public, private))
  end

  defp made({:ok, _made}), do: :ok
  defp made(error), do: error
end
