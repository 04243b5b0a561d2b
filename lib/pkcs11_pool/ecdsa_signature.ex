defmodule Pkcs11Pool.EcdsaSignature do
  @moduledoc """
  The two forms of an ECDSA signature. PKCS#11 and JOSE use the *raw* form: r and s, one after the other, each as long as the curve's
  order. `:public_key`, X.509 and TLS use *DER*, the `Ecdsa-Sig-Value`. Calls take the option `signature: :raw | :der`; these functions convert
  signatures that you have already.
  """

  @doc """
  The DER form of a raw signature; `:error` unless it has an even, non-zero number of bytes.

      iex> Pkcs11Pool.EcdsaSignature.to_der(<<0, 1, 0x80, 0>>)
      {:ok, <<0x30, 8, 2, 1, 1, 2, 3, 0, 0x80, 0>>}
  """
  @spec to_der(raw :: binary) :: {:ok, der :: binary} | :error
  def to_der(raw) when is_binary(raw) and raw != "" and rem(byte_size(raw), 2) == 0 do
    size = div(byte_size(raw), 2)
    <<r::unsigned-size(size)-unit(8), s::unsigned-size(size)-unit(8)>> = raw
    content = [integer(r), integer(s)]
    {:ok, IO.iodata_to_binary([0x30, length_octets(IO.iodata_length(content)), content])}
  end

  def to_der(raw) when is_binary(raw), do: :error

  @doc """
  The raw form of a DER signature: r and s of `size` bytes each (32 for P-256, 48 for P-384, 66 for
  P-521). `:error` if this is not the DER of two non-negative integers that fit, or if there are more
  bytes.
  """
  @spec from_der(der :: binary, size :: pos_integer) :: {:ok, raw :: binary} | :error
  def from_der(der, size) when is_binary(der) and is_integer(size) and size > 0 do
    with {:ok, content, ""} <- element(0x30, der),
         {:ok, r, rest} <- unsigned(content, size),
         {:ok, s, ""} <- unsigned(rest, size) do
      {:ok, r <> s}
    else
      _malformed -> :error
    end
  end

  defp integer(value) do
    case :binary.encode_unsigned(value) do
      <<1::1, _rest::bitstring>> = bytes -> [2, length_octets(byte_size(bytes) + 1), 0, bytes]
      bytes -> [2, length_octets(byte_size(bytes)), bytes]
    end
  end

  defp length_octets(length) when length < 0x80, do: length

  defp length_octets(length) do
    octets = :binary.encode_unsigned(length)
    [0x80 + byte_size(octets), octets]
  end

  # DER only: the shortest length, and no superfluous leading byte in an integer.
  defp unsigned(der, size) do
    case element(2, der) do
      {:ok, <<0, 1::1, _bits::bitstring>> = bytes, rest} ->
        bytes |> binary_part(1, byte_size(bytes) - 1) |> padded(size, rest)

      {:ok, <<0>>, rest} ->
        padded("", size, rest)

      {:ok, <<0::1, bits::bitstring>> = bytes, rest} when bits != "" ->
        if match?(<<0, _next, _rest::binary>>, bytes), do: :error, else: padded(bytes, size, rest)

      _negative_or_malformed ->
        :error
    end
  end

  defp padded(bytes, size, rest) when byte_size(bytes) <= size do
    missing = size - byte_size(bytes)
    {:ok, <<0::size(missing)-unit(8), bytes::binary>>, rest}
  end

  defp padded(_too_long, _size, _rest), do: :error

  defp element(tag, <<tag, 0::1, length::7, content::binary-size(length), rest::binary>>),
    do: {:ok, content, rest}

  defp element(tag, <<tag, 0x81, length, content::binary-size(length), rest::binary>>)
       when length >= 0x80,
       do: {:ok, content, rest}

  defp element(tag, <<tag, 0x82, length::16, content::binary-size(length), rest::binary>>)
       when length >= 0x100,
       do: {:ok, content, rest}

  defp element(_tag, _malformed), do: :error
end
