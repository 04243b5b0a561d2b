defmodule Pkcs11Pool.Call.Stream.Parts do
  @moduledoc false
  # An enumerable of iodata as binaries of one size: what is small is gathered, what is large is cut. So each call into the module has a bounded size, and
  # small elements do not cost a call each.

  alias Pkcs11Pool.Argument.Data

  # Bytes. What the native side copies; it would keep a larger binary by reference.
  @size 64 * 1024

  @doc """
  How many bytes a part has, but the last one.
  """
  @spec size() :: pos_integer
  def size, do: @size

  @doc """
  Raises `ArgumentError` for what is no enumerable.
  """
  @spec check!(Enumerable.t()) :: :ok
  def check!(enumerable) do
    if Enumerable.impl_for(enumerable) == nil or not enumerable_if_function?(enumerable) do
      hint =
        if is_binary(enumerable),
          do: "; a single binary goes into a list, or into the function of one piece",
          else: ""

      raise ArgumentError, "expected an enumerable of iodata" <> hint
    end

    :ok
  end

  # The protocol is there for every function, and says only when it is asked for elements that it takes those of two arguments.
  defp enumerable_if_function?(term), do: not is_function(term) or is_function(term, 2)

  @doc """
  The parts of an enumerable, lazily. An element that is no iodata raises `ArgumentError`.
  """
  @spec of(Enumerable.t()) :: Enumerable.t()
  def of(enumerable) do
    Stream.transform(enumerable, fn -> "" end, &gather/2, &rest/1, fn _gathered -> :ok end)
  end

  defp gather(element, gathered) do
    data = Data.binary!(element, "each element of the stream")
    # What is gathered is a copy: a small part of a large binary would keep the whole of it.
    if byte_size(gathered) + byte_size(data) < @size,
      do: {[], <<gathered::binary, data::binary>>},
      else: fill(gathered, data)
  end

  defp fill("", data), do: cut(data, 0)

  defp fill(gathered, data) do
    missing = @size - byte_size(gathered)
    <<first::binary-size(missing), _rest::binary>> = data
    {parts, rest} = cut(data, missing)
    {Stream.concat([<<gathered::binary, first::binary>>], parts), rest}
  end

  # The parts of one large binary are cut as they are wanted.
  defp cut(data, from) do
    whole = div(byte_size(data) - from, @size)
    parts = Stream.map(counted(whole), &binary_part(data, from + &1 * @size, @size))
    start = from + whole * @size
    {parts, :binary.copy(binary_part(data, start, byte_size(data) - start))}
  end

  defp counted(0), do: []
  defp counted(count), do: 0..(count - 1)

  defp rest(""), do: {[], ""}
  defp rest(gathered), do: {[gathered], ""}
end
