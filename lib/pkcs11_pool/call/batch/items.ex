defmodule Pkcs11Pool.Call.Batch.Items do
  @moduledoc false
  # The items of a batch, each with its encoded mechanism: checked all of them, before any of them runs.

  import Pkcs11Pool.Argument.Data, only: [binary!: 2]

  alias Pkcs11Pool.Mechanism

  @type verb :: :sign | :verify | :encrypt | :decrypt
  @type input :: binary | {data :: binary, signature :: binary}
  @type t :: {{non_neg_integer, Mechanism.Params.t()}, input}

  @doc """
  The items of a caller's list. Raises `ArgumentError`, without an item's value.

  An item of `:encrypt` and `:decrypt` may be `{parameters, data}`: these are added to the mechanism's. With `:encrypt`, no two items may have
  an IV of the caller's in common: with AES-GCM or a counter mode that gives away both messages, and with GCM the key's authentication. So has GMAC:
  with `:sign`, only one item may have its IV.
  """
  @spec encode!(verb, Mechanism.t(), list) :: [t]
  def encode!(verb, mechanism, list) when verb in [:sign, :verify] and length(list) >= 0 do
    encoded = Mechanism.encode_for!(verb, mechanism)
    if verb == :sign and Mechanism.name(mechanism) == :aes_gmac, do: one_gmac!(list)
    for item <- list, do: {encoded, input!(verb, item, encoded)}
  end

  def encode!(verb, mechanism, list) when length(list) >= 0 do
    # With the items' parameters it is encoded; without any item it should be one all the same.
    Mechanism.known!(mechanism)
    bare? = Enum.any?(list, &(not is_tuple(&1)))
    shared = if bare?, do: Mechanism.encode_for!(verb, mechanism)
    items = for item <- list, do: item!(verb, mechanism, shared, item)

    if verb == :encrypt and Mechanism.takes_iv?(mechanism) do
      if shared && Mechanism.iv(mechanism, shared) != :token, do: shared_iv!(mechanism)
      different_ivs!(mechanism, items)
    end

    items
  end

  def encode!(_verb, _mechanism, _other), do: no_list!()

  @doc """
  The items of a caller's list for an encoded mechanism that has all its parameters. Raises `ArgumentError`, without an item's value.
  """
  @spec of_prepared!(verb, encoded, list) :: [t]
        when encoded: {non_neg_integer, Mechanism.Params.t()}
  def of_prepared!(verb, encoded, list) when verb in [:sign, :verify] and length(list) >= 0,
    do: for(item <- list, do: {encoded, input!(verb, item, encoded)})

  def of_prepared!(_verb, encoded, list) when length(list) >= 0 do
    for item <- list do
      if is_tuple(item) do
        raise ArgumentError,
              "expected a list of data, since the parameters of the mechanism are prepared: give encrypt_many/5 and decrypt_many/5 a list of {parameters, data}"
      end

      {encoded, binary!(item, "data")}
    end
  end

  def of_prepared!(_verb, _encoded, _other), do: no_list!()

  @spec no_list!() :: no_return
  defp no_list!, do: raise(ArgumentError, "expected a list of what is to be done")

  defp input!(:verify, {data, signature}, encoded) do
    data = binary!(data, "data")
    Mechanism.digest!(encoded, data)
    {data, binary!(signature, "signature")}
  end

  defp input!(:verify, _other, _encoded),
    do: raise(ArgumentError, "expected a list of {data, signature}")

  defp input!(:sign, data, encoded) do
    data = binary!(data, "data")
    Mechanism.digest!(encoded, data)
    data
  end

  defp item!(verb, mechanism, _shared, {params, data}) do
    encoded = Mechanism.encode_for!(verb, Mechanism.with_params!(mechanism, params))
    {encoded, binary!(data, "data")}
  end

  defp item!(_verb, _mechanism, _shared, tuple) when is_tuple(tuple),
    do: raise(ArgumentError, "expected a list of data, or of {parameters, data}")

  defp item!(_verb, _mechanism, shared, data), do: {shared, binary!(data, "data")}

  @spec shared_iv!(Mechanism.t()) :: no_return
  defp shared_iv!(mechanism) do
    raise ArgumentError,
          "the IV of mechanism #{inspect(Mechanism.name(mechanism))} would be used for every item, which is " <>
            "insecure; give each item its own, as {[iv: iv], data}, or iv: :token where the token makes it"
  end

  defp one_gmac!([_first, _second | _rest]) do
    raise ArgumentError,
          "the IV of mechanism :aes_gmac would be used for every item, which gives away the key's authentication; " <>
            "sign each with sign/5, and an IV of its own"
  end

  defp one_gmac!(_list), do: :ok

  defp different_ivs!(mechanism, items) do
    ivs =
      for {encoded, _data} <- items,
          iv = Mechanism.iv(mechanism, encoded),
          iv != :token,
          do: iv

    if length(Enum.uniq(ivs)) < length(ivs) do
      raise ArgumentError,
            "two items have the same IV of mechanism #{inspect(Mechanism.name(mechanism))}, which is insecure"
    end
  end
end
