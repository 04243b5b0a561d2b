defmodule Pkcs11Pool.Mechanism.Names do
  @moduledoc false
  # The names and numbers of mechanisms, and what is said of a name that is none.

  alias Pkcs11Pool.Argument.Suggestion
  alias Pkcs11Pool.Mechanism
  alias Pkcs11Pool.Mechanism.OtherNames
  alias Pkcs11Pool.Table.Mechanisms

  @names Keyword.keys(Mechanisms.all())

  @doc """
  The name of a mechanism's number; `{:vendor, number}` for one that the standard does not name.
  """
  @spec decode(non_neg_integer) :: atom | {:vendor, non_neg_integer}
  for {name, code} <- Enum.uniq_by(Mechanisms.all(), &elem(&1, 1)) do
    def decode(unquote(code)), do: unquote(name)
  end

  def decode(code) when is_integer(code) and code >= 0, do: {:vendor, code}

  @doc """
  The number of a mechanism without its parameters: of a name, `{:vendor, code}` or a number.
  Raises `ArgumentError` for another term.
  """
  @spec code!(atom | {:vendor, non_neg_integer} | non_neg_integer) :: non_neg_integer
  for {name, code} <- Mechanisms.all() do
    def code!(unquote(name)), do: unquote(code)
  end

  def code!({:vendor, code}) when is_integer(code) and code >= 0, do: code
  def code!(code) when is_integer(code) and code >= 0, do: code
  def code!(name) when is_atom(name), do: unknown!(name)

  def code!(_other) do
    raise ArgumentError, "expected a mechanism's name, {:vendor, code} or a non-negative integer"
  end

  @doc """
  The mechanism without its parameters, for logs and telemetry.
  """
  @spec name(Mechanism.t()) :: atom | {:vendor, non_neg_integer}
  def name(name) when is_atom(name), do: name
  def name({:vendor, code, _params}), do: decode(code)
  def name({name, _params}), do: name

  @doc """
  Raises `ArgumentError` for a name that no mechanism has.
  """
  @spec unknown!(atom) :: no_return
  def unknown!(nil) do
    raise ArgumentError, "expected a mechanism such as :sha256_rsa_pkcs, got: nil"
  end

  def unknown!(:vendor) do
    raise ArgumentError,
          "expected {:vendor, code, parameters}, with nil, a binary or a known mechanism as parameters"
  end

  def unknown!(name) do
    raise ArgumentError,
          "unknown mechanism #{inspect(name)}#{OtherNames.suggestion(name) || Suggestion.for(name, @names)} " <>
            "(names are PKCS#11's, in lower case without CKM_; a vendor's number is {:vendor, code, parameters})"
  end

  @doc """
  What a term that is no mechanism may have meant, for the end of a message.
  """
  @spec suggestion(term) :: String.t() | nil
  def suggestion({name, _params}), do: suggestion(name)

  def suggestion(written) when is_binary(written) do
    lower = String.downcase(written)
    name = Enum.find(@names, &(Atom.to_string(&1) == String.replace_prefix(lower, "ckm_", "")))
    if name, do: ", did you mean #{inspect(name)}?", else: OtherNames.suggestion(written)
  end

  def suggestion(_other), do: nil
end
