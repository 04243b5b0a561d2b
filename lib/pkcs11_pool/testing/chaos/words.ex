defmodule Pkcs11Pool.Testing.Chaos.Words do
  @moduledoc false
  # The arguments of a chaos module's commands, checked. Each raises `ArgumentError` for what it
  # does not know.

  import Bitwise

  alias Pkcs11Pool.ReturnCode

  @flags [
    rng: 0x1,
    write_protected: 0x2,
    login_required: 0x4,
    user_pin_initialized: 0x8,
    restore_key_not_needed: 0x20,
    clock_on_token: 0x40,
    protected_authentication_path: 0x100,
    dual_crypto_operations: 0x200,
    token_initialized: 0x400,
    secondary_authentication: 0x800,
    user_pin_count_low: 0x10000,
    user_pin_final_try: 0x20000,
    user_pin_locked: 0x40000,
    user_pin_to_be_changed: 0x80000,
    so_pin_count_low: 0x100000,
    so_pin_final_try: 0x200000,
    so_pin_locked: 0x400000,
    so_pin_to_be_changed: 0x800000,
    error_state: 0x1000000
  ]

  @doc "Options as words; those that are nil are left out."
  @spec options(keyword) :: [String.t()]
  def options(options) do
    for {name, value} <- options, value != nil, do: "#{name}=#{value}"
  end

  @doc "A return code, by name or number."
  @spec code!(term) :: non_neg_integer
  def code!(code) when is_integer(code) and code >= 0, do: code

  def code!(code) do
    (is_atom(code) && ReturnCode.code(code)) ||
      raise ArgumentError,
            "expected a return code, such as :device_error or 0x30, got: #{inspect(code)}"
  end

  @doc "A time, or two bounds of one, in microseconds."
  @spec micros!(term) :: [non_neg_integer, ...]
  def micros!(ms) when is_number(ms) and ms >= 0, do: [round(ms * 1000)]

  def micros!(%Range{first: first, last: last}) when first >= 0 and last >= first,
    do: [first * 1000, last * 1000]

  def micros!(other) do
    raise ArgumentError,
          "expected milliseconds, such as 5 or 0.5 or 5..20, got: #{inspect(other)}"
  end

  @doc "A limit, or none."
  @spec limit!(term) :: non_neg_integer | String.t()
  def limit!(:infinity), do: "off"
  def limit!(limit) when is_integer(limit) and limit >= 0, do: limit

  def limit!(other) do
    raise ArgumentError, "expected a non-negative integer or :infinity, got: #{inspect(other)}"
  end

  @doc "Flags of a token, by name or number, as one number."
  @spec flags!([term]) :: non_neg_integer
  def flags!(flags) do
    flags |> Enum.map(&flag!/1) |> Enum.reduce(0, &bor/2)
  end

  defp flag!(flag) when is_integer(flag) and flag >= 0, do: flag

  defp flag!(flag) do
    @flags[flag] ||
      raise ArgumentError,
            "expected a flag of a token, one of #{inspect(Keyword.keys(@flags))}, or a number, " <>
              "got: #{inspect(flag)}"
  end
end
