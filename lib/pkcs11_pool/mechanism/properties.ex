defmodule Pkcs11Pool.Mechanism.Properties do
  @moduledoc false
  # What is known of a mechanism: the class of its keys, its hash, whether it takes an IV, whether it is ECDSA. Most of it is told by the name.

  alias Pkcs11Pool.Mechanism
  alias Pkcs11Pool.Mechanism.Params
  alias Pkcs11Pool.Table.Mechanisms

  @hash_in_name Regex.compile!(
                  "^(?:hash_(?:ml|slh)_dsa_|(?:ec)?dsa_)?(#{Enum.join(Map.keys(Params.hashes()), "|")})(?:$|_rsa_|_hmac)"
                )
  @asymmetric ~r/rsa|dsa|^(ecdh|ecmqv|dh_pkcs_derive|x9_42|ml_kem|hss$|xmss|kea_|gostr3410)/

  @doc """
  Whether the mechanism takes an IV, or a counter, which must not be used twice with one key. A
  number of the standard's is its name.
  """
  @spec takes_iv?(Mechanism.t()) :: boolean
  def takes_iv?(mechanism), do: iv_kind(mechanism) != nil

  @doc """
  The IV or counter of a mechanism that takes one, from what `encode!/1` made of it.

  Of a counter only the block: how many of its bits count changes nothing of where its key stream
  begins.
  """
  @spec iv(Mechanism.t(), {code :: non_neg_integer, Params.t()}) :: binary | :token | nil
  def iv(mechanism, {_code, params}) do
    case {iv_kind(mechanism), params} do
      {nil, _params} -> nil
      {_kind, {:gcm, iv, _aad, _tag_bits}} -> iv
      {_kind, {:ccm, nonce, _aad, _mac_length, _data_length}} -> nonce
      {_kind, {:poly1305, nonce, _aad}} -> nonce
      {_kind, {:chacha20, counter, nonce}} -> counter <> nonce
      {:ctr, struct} when byte_size(struct) > 16 -> binary_part(struct, byte_size(struct), -16)
      {_kind, iv} when is_binary(iv) -> iv
      _none -> nil
    end
  end

  @with_iv for {name, code} <- Mechanisms.all(),
               kind = Params.kind(name),
               kind in [:gcm, :ccm, :poly1305, :chacha20, :ctr] or match?({:iv, _size}, kind),
               do: {name, code, kind}

  for {name, _code, kind} <- @with_iv do
    defp iv_kind(unquote(name)), do: unquote(kind)
  end

  for {_name, code, kind} <- Enum.uniq_by(@with_iv, &elem(&1, 1)) do
    defp iv_kind(unquote(code)), do: unquote(kind)
  end

  # Its C struct is that of the parameters; bytes are what its number says.
  defp iv_kind({:vendor, code, params}), do: iv_kind(params) || iv_kind(code)
  defp iv_kind({name, _params}), do: iv_kind(name)
  defp iv_kind(_other), do: nil

  @doc """
  The hash that a mechanism computes or is told by its parameters, as `:crypto` names it; nil where
  there is none. Expects a mechanism that `encode!/1` accepts.
  """
  @spec hash(Mechanism.t()) :: Mechanism.hash() | nil
  def hash({:vendor, _code, params}) when is_atom(params) or is_tuple(params), do: hash(params)
  def hash({:vendor, _code, _params}), do: nil

  def hash({name, params}) when is_list(params) do
    case Keyword.fetch(params, :hash) do
      {:ok, hash} -> Map.get(Params.hashes(), hash)
      :error -> hash(name)
    end
  end

  def hash({name, _params}), do: hash(name)

  for {name, _code} <- Mechanisms.all(),
      [_all, hash] <- [Regex.run(@hash_in_name, Atom.to_string(name))] do
    def hash(unquote(name)), do: unquote(Map.fetch!(Params.hashes(), String.to_atom(hash)))
  end

  def hash(_mechanism), do: nil

  @doc """
  Whether the mechanism's signatures are ECDSA's, which PKCS#11 gives as r and s side by side. Takes
  a mechanism or its number.
  """
  @spec ecdsa?(Mechanism.t() | non_neg_integer) :: boolean
  def ecdsa?({:vendor, code, params}), do: ecdsa?(code) or (is_atom(params) and ecdsa?(params))
  def ecdsa?({name, _params}), do: ecdsa?(name)

  for {name, code} <- Mechanisms.all(),
      String.match?(Atom.to_string(name), ~r/^ecdsa(_sha\w+)?$/) do
    def ecdsa?(unquote(name)), do: true
    def ecdsa?(unquote(code)), do: true
  end

  def ecdsa?(_mechanism), do: false

  @doc """
  The class of the key that an operation with this mechanism takes: `:public_key`, `:private_key`
  or `:secret_key`. Nil for a number that the standard does not name. Takes a mechanism or its number.
  """
  @spec class_for(Mechanism.operation(), Mechanism.t() | non_neg_integer) ::
          :public_key | :private_key | :secret_key | nil
  def class_for(operation, mechanism)

  def class_for(operation, mechanism) when is_atom(mechanism) or is_integer(mechanism) do
    case {symmetry(mechanism), operation} do
      {:asymmetric, operation}
      when operation in [:sign, :decrypt, :unwrap, :derive, :decapsulate] ->
        :private_key

      {:asymmetric, operation} when operation in [:verify, :encrypt, :wrap, :encapsulate] ->
        :public_key

      {:symmetric, _operation} ->
        :secret_key

      {nil, _operation} ->
        nil
    end
  end

  def class_for(operation, {:vendor, code, params}) do
    case class_for(operation, code) do
      nil when is_tuple(params) -> class_for(operation, params)
      nil when is_atom(params) and params != nil -> class_for(operation, params)
      class -> class
    end
  end

  def class_for(operation, {name, _params}), do: class_for(operation, name)

  for {name, code} <- Mechanisms.all() do
    symmetry =
      if Regex.match?(@asymmetric, Atom.to_string(name)), do: :asymmetric, else: :symmetric

    defp symmetry(unquote(name)), do: unquote(symmetry)

    # Names that share a number share the answer.
    if {name, code} == List.keyfind(Mechanisms.all(), code, 1) do
      defp symmetry(unquote(code)), do: unquote(symmetry)
    end
  end

  defp symmetry(_unknown), do: nil
end
