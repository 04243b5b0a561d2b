defmodule Pkcs11Pool.Mechanism.Digests do
  @moduledoc false
  # Mechanisms and digests that are taken for each other: a message given to a mechanism that signs digests, a digest's mechanism given to an operation
  # of a key.

  alias Pkcs11Pool.Mechanism
  alias Pkcs11Pool.Mechanism.{Names, Params}
  alias Pkcs11Pool.Table.Mechanisms

  # The longest orders that a curve in use has (B-571, K-571), and q of DSA.
  @longest_digests %{0x1041 => 72, 0x0011 => 32}

  @doc """
  Raises `ArgumentError` for data that is no digest, given to a raw signature mechanism: the token would sign its first bytes. What is too long for any
  key is refused here, the rest by the native side, which knows the key's curve.
  """
  @spec check_length!({code :: non_neg_integer, Params.t()}, binary) :: :ok
  def check_length!({code, params}, data)
      when is_map_key(@longest_digests, code) and not is_tuple(params) do
    {size, longest} = {byte_size(data), Map.fetch!(@longest_digests, code)}
    if size > longest, do: no_digest_but_message!(Names.decode(code), size, longest), else: :ok
  end

  def check_length!(_encoded, _data), do: :ok

  @doc """
  The same of what the native side found too long for the key's curve. Any other result is returned.
  """
  @spec check_result!(result, name :: atom | {:vendor, non_neg_integer}) :: result
        when result: term
  def check_result!({:error, %{reason: :digest_too_long, details: details}}, name) do
    %{size: size, longest: longest} = details
    no_digest_but_message!(name, size, longest)
  end

  def check_result!(result, _name), do: result

  @spec no_digest_but_message!(atom | {:vendor, non_neg_integer}, pos_integer, pos_integer) ::
          no_return
  defp no_digest_but_message!(name, size, longest) do
    hashing = if name == :dsa, do: ":dsa_sha256", else: "{#{inspect(name)}, hash: :sha256}"

    raise ArgumentError,
          "expected data of at most #{longest} bytes, since mechanism #{inspect(name)} signs a digest and no message, got: #{size} bytes; " <>
            "give #{hashing} the message, or #{inspect(name)} the first #{longest} bytes of a longer digest"
  end

  @doc """
  Raises `ArgumentError` for a mechanism that is a digest, in an operation that takes a key.
  """
  @spec refuse_digest!(Mechanism.operation(), atom | {:vendor, non_neg_integer}) :: :ok
  def refuse_digest!(operation, name)

  for {name, _code} <- Mechanisms.all(), Params.digest(name) != nil do
    hash = if name == :sha_1, do: :sha1, else: name

    signing =
      for {mechanism, text} <- [
            {:"#{hash}_rsa_pkcs", "#{inspect(:"#{hash}_rsa_pkcs")} (RSA)"},
            {:"ecdsa_#{hash}", "{:ecdsa, hash: #{inspect(hash)}} (EC)"},
            {:"#{name}_hmac", "#{inspect(:"#{name}_hmac")} (a secret key)"}
          ],
          List.keymember?(Mechanisms.all(), mechanism, 0),
          do: text

    message =
      "mechanism #{inspect(name)} is a digest, and signs nothing; did you mean #{Enum.join(signing, " or ")}?"

    def refuse_digest!(operation, unquote(name)) when operation in [:sign, :verify],
      do: raise(ArgumentError, unquote(message))

    def refuse_digest!(_operation, unquote(name)) do
      raise ArgumentError,
            "mechanism #{inspect(unquote(name))} is a digest, which takes no key; digest/4 computes it"
    end
  end

  def refuse_digest!(_operation, _name), do: :ok
end
