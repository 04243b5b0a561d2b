defmodule Pkcs11Pool.Testing.Chaos.Arguments do
  @moduledoc false
  # The arguments of a chaos module's commands, checked. Each raises `ArgumentError` for what it
  # does not know.

  import Bitwise

  alias Pkcs11Pool.ReturnCode
  alias Pkcs11Pool.Table.Constants

  @flags Constants.token_flags()

  # A CK_ULONG: codes, flags, slots and counts. Times are microseconds in 32 bits, as is the limit of wrong PINs.
  @ulong 0xFFFFFFFFFFFFFFFF
  @uint 0xFFFFFFFF
  @longest_ms div(@uint, 1000)

  # Checked here and not only in the module: one that is not loaded yet cannot refuse what it is told.
  @doc "Options as words; those that are nil are left out."
  @spec options(keyword) :: [String.t()]
  def options(options) do
    for {name, value} <- options, value != nil, do: "#{word(name)}=#{option!(name, value)}"
  end

  defp word(:slot_id), do: "slot"
  defp word(name), do: Atom.to_string(name)

  @doc "A boolean as a word."
  @spec on_or_off(boolean) :: String.t()
  def on_or_off(true), do: "on"
  def on_or_off(false), do: "off"

  @doc "The value of an option."
  @spec option!(atom, term) :: term
  def option!(name, value) when name in [:nth, :count] and value in 1..@ulong, do: value

  def option!(name, value)
      when name in [:slot_id, :from, :seed, :signature_size, :random_limits] and
             value in 0..@ulong,
      do: value

  def option!(name, value) when name in [:run, :objects] and is_boolean(value), do: value
  def option!(:code, value), do: code!(value)

  def option!(:probability, value) when is_number(value) and value >= 0 and value <= 1,
    do: value

  def option!(name, value) do
    raise ArgumentError,
          "expected #{inspect(name)} to be #{expected(name)}, got: #{inspect(value)}"
  end

  defp expected(name) when name in [:nth, :count], do: "a positive integer of at most 64 bits"
  defp expected(:probability), do: "a number from 0.0 to 1.0"
  defp expected(:run), do: "a boolean"
  defp expected(_slot_or_seed), do: "a non-negative integer of at most 64 bits"

  @doc "A return code, by name or number."
  @spec code!(term) :: non_neg_integer
  def code!(code) when code in 0..@ulong, do: code

  def code!(code) do
    (is_atom(code) && ReturnCode.code(code)) ||
      raise ArgumentError,
            "expected a return code, such as :device_error or 0x30, got: #{inspect(code)}"
  end

  @doc "A time, or two bounds of one, in microseconds."
  @spec micros!(term) :: [non_neg_integer, ...]
  def micros!(ms) when is_number(ms) and ms >= 0 and ms <= @longest_ms, do: [round(ms * 1000)]

  def micros!(%Range{first: first, last: last})
      when first >= 0 and last >= first and last <= @longest_ms,
      do: [first * 1000, last * 1000]

  def micros!(other) do
    raise ArgumentError,
          "expected milliseconds, at most #{@longest_ms}, such as 5 or 0.5 or 5..20, got: #{inspect(other)}"
  end

  @doc "A limit of sessions, or none."
  @spec session_limit!(term) :: non_neg_integer | String.t()
  def session_limit!(:infinity), do: "off"
  def session_limit!(limit) when limit in 0..@ulong, do: limit

  def session_limit!(other) do
    raise ArgumentError,
          "expected a non-negative integer or :infinity, got: #{inspect(other)}"
  end

  @doc "A limit of wrong PINs, or none."
  @spec pin_limit!(term) :: pos_integer | String.t()
  def pin_limit!(:infinity), do: "off"
  def pin_limit!(limit) when limit in 1..@uint, do: limit

  def pin_limit!(other) do
    raise ArgumentError,
          "expected an integer from 1 to #{@uint} or :infinity, got: #{inspect(other)}"
  end

  @doc "Flags of a token, by name or number, as one number."
  @spec flags!([term]) :: non_neg_integer
  def flags!(flags) do
    flags |> Enum.map(&flag!/1) |> Enum.reduce(0, &bor/2)
  end

  defp flag!(flag) when flag in 0..@ulong, do: flag

  defp flag!(flag) do
    (is_atom(flag) && @flags[flag]) ||
      raise ArgumentError,
            "expected a flag of a token, one of #{inspect(Keyword.keys(@flags))}, or a number, " <>
              "got: #{inspect(flag)}"
  end
end
