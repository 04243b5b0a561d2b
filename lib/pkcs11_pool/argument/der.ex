defmodule Pkcs11Pool.Argument.DER do
  @moduledoc false
  # The few parts of DER that keys are made of (X.690): read without :public_key, whose records differ between releases of OTP.

  @type element :: {tag :: byte, content :: binary}

  @doc """
  The one element that bytes are; `:error` for what is none, or has bytes left over.
  """
  @spec element(term) :: {:ok, element} | :error
  def element(bytes) do
    with {:ok, [element]} <- elements(bytes),
         do: {:ok, element},
         else: (_none_or_several -> :error)
  end

  @doc """
  The elements that follow each other, as in the content of a SEQUENCE.
  """
  @spec elements(term) :: {:ok, [element]} | :error
  def elements(""), do: {:ok, []}

  def elements(<<tag, 0::1, length::7, content::binary-size(length), rest::binary>>),
    do: followed({tag, content}, rest)

  def elements(<<tag, 1::1, count::7, rest::binary>>) when count in 1..4 do
    with <<length::size(count)-unit(8), content::binary-size(length), rest::binary>> <- rest,
         do: followed({tag, content}, rest),
         else: (_too_short -> :error)
  end

  def elements(_malformed), do: :error

  defp followed(element, rest) do
    with {:ok, others} <- elements(rest), do: {:ok, [element | others]}
  end

  @doc """
  An element of this tag, of less than 64 KiB.
  """
  @spec encode(tag :: byte, iodata) :: binary
  def encode(tag, content) do
    content = IO.iodata_to_binary(content)
    <<tag, encode_length(byte_size(content))::binary, content::binary>>
  end

  defp encode_length(size) when size < 0x80, do: <<size>>

  defp encode_length(size) do
    bytes = :binary.encode_unsigned(size)
    <<0x80 + byte_size(bytes), bytes::binary>>
  end

  @doc """
  The content of an OBJECT IDENTIFIER as OTP has it.
  """
  @spec oid(binary) :: {:ok, tuple} | :error
  def oid(content) do
    case arcs(content, 0, []) do
      [first | rest] when first < 80 ->
        {:ok, List.to_tuple([div(first, 40), rem(first, 40) | rest])}

      [first | rest] ->
        {:ok, List.to_tuple([2, first - 80 | rest])}

      _none_or_error ->
        :error
    end
  end

  defp arcs("", 0, arcs), do: Enum.reverse(arcs)

  defp arcs(<<0::1, digit::7, rest::binary>>, arc, arcs),
    do: arcs(rest, 0, [arc * 128 + digit | arcs])

  # None that is meant seriously has an arc of more than 64 bits.
  defp arcs(<<1::1, digit::7, rest::binary>>, arc, arcs)
       when arc < 0x100000000000000 and rest != "",
       do: arcs(rest, arc * 128 + digit, arcs)

  defp arcs(_malformed, _arc, _arcs), do: :error

  @doc """
  An OBJECT IDENTIFIER.
  """
  @spec encode_oid(tuple) :: binary
  def encode_oid(oid) do
    [first, second | rest] = Tuple.to_list(oid)
    encode(0x06, Enum.map([40 * first + second | rest], &encode_arc/1))
  end

  defp encode_arc(arc) do
    {last, others} = arc |> Integer.digits(128) |> List.pop_at(-1)
    Enum.map(others, &(&1 + 128)) ++ [last]
  end
end
