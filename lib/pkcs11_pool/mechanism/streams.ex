defmodule Pkcs11Pool.Mechanism.Streams do
  @moduledoc false
  # Mechanisms that cannot be streamed.

  alias Pkcs11Pool.Mechanism
  alias Pkcs11Pool.Mechanism.{Names, Params}
  alias Pkcs11Pool.Table.Mechanisms

  # PKCS#11 has them for "single-part operations only".
  @single_part [
    :rsa_pkcs,
    :rsa_9796,
    :rsa_x_509,
    :rsa_pkcs_oaep,
    :rsa_x9_31,
    :rsa_pkcs_pss,
    :rsa_pkcs_tpm_1_1,
    :rsa_pkcs_oaep_tpm_1_1,
    :dsa,
    :ecdsa,
    :hash_ml_dsa,
    :hash_slh_dsa
  ]

  @codes for {name, code} <- Mechanisms.all(), name in @single_part, do: {code, name}
  @names Map.new(@codes)

  @doc """
  Raises `ArgumentError` for an encoded mechanism that takes its data in one piece only, or whose IV could not be told.
  """
  @spec check!(Mechanism.operation() | :digest, {code :: non_neg_integer, Params.t()}) :: :ok
  def check!(operation, {code, params}) when is_map_key(@names, code) do
    if Params.hashed?(params), do: :ok, else: refuse!(operation, Map.fetch!(@names, code))
  end

  def check!(:encrypt, {code, params})
      when elem(params, 0) in [:gcm, :ccm] and elem(params, 1) == :token do
    raise ArgumentError,
          "invalid parameter #{inspect(Params.token_iv(params))} of mechanism #{inspect(Names.decode(code))}: :token is for encrypt/5, since a stream of ciphertext has no place " <>
            "for the IV; give an IV that is used once"
  end

  def check!(operation, {code, {:ccm, _nonce, _aad, _mac_length, nil}})
      when operation in [:encrypt, :decrypt] do
    raise ArgumentError,
          "mechanism #{inspect(Names.decode(code))} needs the parameter :data_length in a stream: how many bytes the whole plaintext has"
  end

  def check!(operation, {code, {:eddsa, prehash, context}}) when prehash or context != "" do
    raise ArgumentError,
          "mechanism #{inspect(Names.decode(code))} with :prehash or :context cannot be streamed, since a token may not look at them; " <>
            "give the data to #{operation}/#{if operation == :verify, do: 6, else: 5} in one piece"
  end

  def check!(_operation, _encoded), do: :ok

  @spec refuse!(Mechanism.operation() | :digest, atom) :: no_return
  defp refuse!(operation, name) do
    raise ArgumentError,
          "mechanism #{inspect(name)} takes its data in one piece, and cannot be streamed#{instead(operation, name)}"
  end

  defp instead(operation, name) when operation in [:sign, :verify] do
    case name do
      :ecdsa -> "; did you mean {:ecdsa, hash: :sha256}?"
      :rsa_pkcs -> "; did you mean {:rsa_pkcs, hash: :sha256}?"
      :rsa_pkcs_pss -> "; did you mean :sha256_rsa_pkcs_pss?"
      :dsa -> "; did you mean :dsa_sha256?"
      :hash_ml_dsa -> "; did you mean :hash_ml_dsa_sha256?"
      :hash_slh_dsa -> "; did you mean :hash_slh_dsa_sha256?"
      _none -> ""
    end
  end

  defp instead(_operation, _name),
    do: "; encrypt the data with a secret key, and that key with it"
end
