defmodule Pkcs11Pool.JWS.Algorithm do
  @moduledoc false
  # The algorithms of signed JSON (RFC 7518, 3.1; RFC 8037; RFC 8812), as mechanisms of a token and as arguments of :public_key.

  alias Pkcs11Pool.{Mechanism, PublicKey}

  @p256 {1, 2, 840, 10_045, 3, 1, 7}
  @p384 {1, 3, 132, 0, 34}
  @p521 {1, 3, 132, 0, 35}
  @secp256k1 {1, 3, 132, 0, 10}
  @edwards [{1, 3, 101, 112}, {1, 3, 101, 113}]

  # name => {mechanism, hash, the key that it takes: RSA with its padding, or the OIDs of curves}
  @algorithms %{
    "RS256" => {{:rsa_pkcs, hash: :sha256}, :sha256, :pkcs1},
    "RS384" => {{:rsa_pkcs, hash: :sha384}, :sha384, :pkcs1},
    "RS512" => {{:rsa_pkcs, hash: :sha512}, :sha512, :pkcs1},
    "PS256" => {:sha256_rsa_pkcs_pss, :sha256, :pss},
    "PS384" => {:sha384_rsa_pkcs_pss, :sha384, :pss},
    "PS512" => {:sha512_rsa_pkcs_pss, :sha512, :pss},
    "ES256" => {{:ecdsa, hash: :sha256, curve: :secp256r1}, :sha256, [@p256]},
    "ES384" => {{:ecdsa, hash: :sha384, curve: :secp384r1}, :sha384, [@p384]},
    "ES512" => {{:ecdsa, hash: :sha512, curve: :secp521r1}, :sha512, [@p521]},
    "ES256K" => {{:ecdsa, hash: :sha256, curve: :secp256k1}, :sha256, [@secp256k1]},
    "EdDSA" => {:eddsa, :none, @edwards},
    "Ed25519" => {:eddsa, :none, [hd(@edwards)]},
    "Ed448" => {:eddsa, :none, tl(@edwards)}
  }
  @sizes %{@p256 => 32, @p384 => 48, @p521 => 66, @secp256k1 => 32}
  @signature_sizes %{
    "ES256" => 64,
    "ES384" => 96,
    "ES512" => 132,
    "ES256K" => 64,
    "Ed25519" => 64,
    "Ed448" => 114
  }

  @doc false
  @spec names() :: [String.t()]
  def names, do: @algorithms |> Map.keys() |> Enum.sort()

  @doc false
  @spec known?(term) :: boolean
  def known?(name), do: is_map_key(@algorithms, name)

  @doc false
  @spec mechanism(String.t()) :: Mechanism.t()
  def mechanism(name), do: @algorithms |> Map.fetch!(name) |> elem(0)

  @doc false
  # The curves of keys that it takes; nil for RSA.
  @spec curves(String.t()) :: [tuple] | nil
  def curves(name) do
    with {_mechanism, _hash, curves} when is_list(curves) <- Map.fetch!(@algorithms, name),
         do: curves,
         else: (_rsa -> nil)
  end

  @doc false
  # How long its signatures are; nil where that depends on the key.
  @spec signature_size(String.t()) :: pos_integer | nil
  def signature_size(name), do: @signature_sizes[name]

  @doc false
  # The one that a key is used with where nobody says which.
  @spec default(PublicKey.t()) :: String.t() | nil
  def default({:RSAPublicKey, _modulus, _exponent}), do: "RS256"

  def default({_point, {:namedCurve, oid}}) do
    Enum.find_value(["ES256", "ES384", "ES512", "ES256K", "EdDSA"], fn name ->
      if oid in curves(name), do: name
    end)
  end

  def default(_other), do: nil

  @doc false
  # Whether a signature in the form of JOSE is the message's and the key's.
  @spec verify(String.t(), PublicKey.t(), iodata, binary) :: boolean
  def verify(name, key, message, signature) do
    {_mechanism, hash, takes} = Map.fetch!(@algorithms, name)
    verify(key, takes, hash, message, signature)
  rescue
    # What crypto cannot make a key of.
    _error in [ErlangError, ArgumentError, FunctionClauseError] -> false
  end

  defp verify({:RSAPublicKey, modulus, _} = key, :pkcs1, hash, message, signature),
    do: whole?(modulus, signature) and :public_key.verify(message, hash, signature, key)

  defp verify({:RSAPublicKey, modulus, _} = key, :pss, hash, message, signature) do
    size = byte_size(:crypto.hash(hash, ""))
    options = [rsa_padding: :rsa_pkcs1_pss_padding, rsa_pss_saltlen: size, rsa_mgf1_md: hash]
    whole?(modulus, signature) and :public_key.verify(message, hash, signature, key, options)
  end

  defp verify({{:ECPoint, point}, {:namedCurve, oid} = curve}, curves, hash, message, signature)
       when is_list(curves) do
    cond do
      oid not in curves ->
        false

      oid in @edwards ->
        name = if oid == hd(@edwards), do: :ed25519, else: :ed448
        :crypto.verify(:eddsa, :none, message, signature, [point, name])

      byte_size(signature) != 2 * @sizes[oid] ->
        false

      true ->
        {:ok, der} = Pkcs11Pool.EcdsaSignature.to_der(signature)
        :public_key.verify(message, hash, der, {{:ECPoint, point}, curve})
    end
  end

  defp verify(_key, _takes, _hash, _message, _signature), do: false

  # RFC 8017, 8.1.2 and 8.2.2.
  defp whole?(modulus, signature),
    do: byte_size(signature) == byte_size(:binary.encode_unsigned(modulus))
end
