defmodule Pkcs11Pool.API.Preparation do
  @moduledoc false
  # Operations that are checked and encoded before the first of many uses.

  alias Pkcs11Pool.API.{Selection, Signature}
  alias Pkcs11Pool.{Call, Error, Lease, Mechanism, Native, Options, Prepared, Registry}

  @options %{
    sign: [:signature, :select],
    verify: [:signature, :select],
    encrypt: [:select],
    decrypt: [:select],
    digest: []
  }

  @doc """
  Prepares an operation.
  """
  @spec prepare(
          Pkcs11Pool.pool(),
          Prepared.operation(),
          Pkcs11Pool.key() | nil,
          Mechanism.t(),
          keyword
        ) :: {:ok, Prepared.t()} | {:error, Error.t()}
  def prepare(%Lease{}, _operation, _key, _mechanism, _opts) do
    raise ArgumentError,
          "expected the name of a pool, got a lease, which ends before what is prepared: within with_session/3 what is prepared for the pool uses its session"
  end

  def prepare(pool, operation, key, mechanism, opts) when is_map_key(@options, operation) do
    opts = Options.Call.validate!(opts, Map.fetch!(@options, operation))
    prepare_checked(pool, operation, key, mechanism, opts)
  end

  def prepare(_pool, _operation, _key, _mechanism, _opts) do
    raise ArgumentError,
          "expected an operation that can be prepared: :sign, :verify, :encrypt, :decrypt or :digest"
  end

  defp prepare_checked(pool, :digest, nil, mechanism, opts) do
    encoded = Mechanism.encode!(mechanism)

    with {:ok, _server, _entry} <- Registry.fetch(pool),
         do: {:ok, prepared(pool, :digest, nil, {mechanism, encoded}, opts)}
  end

  defp prepare_checked(_pool, :digest, _key, _mechanism, _opts),
    do: raise(ArgumentError, "expected nil in place of the key, since :digest takes none")

  defp prepare_checked(pool, operation, key, mechanism, opts) do
    encoded = Mechanism.encode_for!(operation, mechanism)
    if operation in [:sign, :encrypt], do: refuse_iv!(operation, mechanism, encoded)
    Signature.check_form!(opts, mechanism)
    class = Mechanism.class_for(operation, mechanism)
    _checked = Selection.encode!(key, class, opts)

    with {:ok, chosen} <- Selection.choose(pool, key, class, opts),
         named = Selection.encode!(chosen, class, opts),
         request = {:prepare, operation, named, encoded},
         :ok <- Call.run(pool, :prepare, Mechanism.name(mechanism), request, opts) do
      prepared = prepared(pool, operation, named, {mechanism, encoded}, opts)
      native = Native.prepare(named, encoded)
      {:ok, %{prepared | native: native, shown: Prepared.show_key(chosen)}}
    end
  end

  defp prepared(pool, operation, key, {mechanism, encoded}, opts) do
    %Prepared{
      pool: pool,
      operation: operation,
      key: key,
      mechanism: Mechanism.name(mechanism),
      encoded: encoded,
      native: nil,
      options: %{opts | select: nil},
      shown: nil
    }
  end

  # Every use would have the same IV: with GCM, GMAC or a counter mode that gives away messages, or the key's authentication.
  defp refuse_iv!(operation, mechanism, encoded) do
    cond do
      Mechanism.takes_iv?(mechanism) and Mechanism.iv(mechanism, encoded) != :token ->
        refuse!(operation, mechanism, "an IV of yours would be the same in each use")

      bytes?(mechanism) ->
        refuse!(operation, mechanism, "an IV may be in its parameters, which are bytes")

      true ->
        :ok
    end
  end

  defp bytes?({:vendor, _code, params}), do: is_binary(params) or bytes?(params)
  defp bytes?({_name, params}), do: is_binary(params)
  defp bytes?(_name), do: false

  @spec refuse!(Prepared.operation(), Mechanism.t(), String.t()) :: no_return
  defp refuse!(operation, mechanism, why) do
    raise ArgumentError,
          "mechanism #{inspect(Mechanism.name(mechanism))} cannot be prepared for #{inspect(operation)}: #{why}, and an IV must not be used " <>
            "twice with one key; give #{operation}/5 a new one each time#{if operation == :encrypt, do: ", or prepare one that the token makes (iv: :token)"}"
  end
end
