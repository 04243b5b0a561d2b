defmodule Pkcs11Pool.Prepared do
  @moduledoc """
  An operation that `Pkcs11Pool.prepare/5` has checked and encoded, to be used often.

  Any number of processes of the node on which it was made may use it at the same time, and nobody has to give it back. It has the name of its pool, the key as you
  named it, the mechanism and the options. It has no session and no handle of an object. Each use looks for the pool by its name, and for the key as
  `Pkcs11Pool.sign/5` does. So it goes on after a restart of the pool or of the token, and after `Pkcs11Pool.resize/2`. If the pool has gone, the error is
  `:pool_not_found`; if the key has gone, it is `:key_not_found`.

  Its fields are not for use.
  """

  alias Pkcs11Pool.{Object, Options}

  # `native`: key and mechanism as the native side has them, nil for a digest. `key` and `encoded`: the same as terms, for lists and digests.
  @enforce_keys [:pool, :operation, :key, :mechanism, :encoded, :native, :options, :shown]
  defstruct @enforce_keys

  @typedoc "What `Pkcs11Pool.prepare/5` returns."
  @type t :: %__MODULE__{
          pool: term,
          operation: operation,
          key: term,
          mechanism: atom | {:vendor, non_neg_integer},
          encoded: {non_neg_integer, term},
          native: reference | nil,
          options: map,
          shown: String.t() | nil
        }

  @typedoc "What can be prepared."
  @type operation :: :sign | :verify | :encrypt | :decrypt | :digest

  @doc false
  # The options of a call: those that were prepared, with these in place of theirs. Raises `ArgumentError` for what was not prepared for this operation.
  @spec options!(t, operation, keyword) :: Options.Call.t()
  def options!(
        %__MODULE__{
          operation: operation,
          encoded: {code, _params},
          native: native,
          options: %{queue_timeout: _, telemetry_metadata: _} = options
        },
        operation,
        opts
      )
      when is_integer(code) and
             (native == nil or (is_reference(native) and node(native) == node())),
      do: Options.Call.override!(options, opts)

  def options!(%__MODULE__{operation: operation, native: native}, operation, _opts)
      when is_reference(native) and node(native) != node() do
    raise ArgumentError,
          "what prepare/5 has made on node #{inspect(node(native))} is for that node: prepare it here, too"
  end

  def options!(%__MODULE__{operation: other}, operation, _opts)
      when is_atom(other) and other not in [nil, operation] do
    raise ArgumentError,
          "expected what prepare/5 has made for #{inspect(operation)}, got what it has made for #{inspect(other)}"
  end

  def options!(_other, operation, _opts) do
    raise ArgumentError,
          "expected what prepare/5 has made for #{inspect(operation)} (or, in place of it, a pool, and all arguments of #{operation})"
  end

  @doc false
  # A key for who reads of it: nothing of a template's values but names, and no more of a URI than where the object is.
  @spec show_key(Pkcs11Pool.key()) :: String.t()
  def show_key(%Object{} = object), do: inspect(object)

  def show_key(name) when is_binary(name) do
    if Pkcs11Pool.URI.uri?(name),
      do: name |> String.split("?") |> hd() |> inspect(),
      else: inspect(name)
  end

  def show_key(template) when is_list(template),
    do: template |> Keyword.take([:class, :label, :id, :unique_id]) |> inspect()

  def show_key({kind, _value}), do: "the #{String.replace(to_string(kind), "_", " ")}'s"

  defimpl Inspect do
    def inspect(prepared, _opts) do
      key = if prepared.shown, do: " with key #{prepared.shown}"
      what = "#{Kernel.inspect(prepared.operation)} #{Kernel.inspect(prepared.mechanism)}"
      "#Pkcs11Pool.Prepared<#{what}#{key}, pool #{Kernel.inspect(prepared.pool)}>"
    end
  end
end
