defmodule Pkcs11Pool.Token.Information do
  @moduledoc false
  # What modules, slots and tokens say of themselves, from the native side's maps: flags get their names, times become DateTimes,
  # errors exceptions.

  import Bitwise

  alias Pkcs11Pool.{Error, Table, Token}

  @doc """
  A module's.
  """
  @spec module(map) :: Token.listing()
  def module(%{module: module, slots: slots}),
    do: %{module: library(module), slots: Enum.map(slots, &slot/1)}

  defp library(%{interfaces: interfaces} = library) when is_list(interfaces) do
    names = Table.Constants.interface_flags()
    interfaces = for one <- interfaces, do: Map.update!(one, :flags, &flags(&1, names))
    %{library | interfaces: interfaces}
  end

  defp library(library), do: library

  defp slot(%{flags: flags, token: token, error: error} = slot) do
    %{
      slot
      | flags: flags(flags, Table.Constants.slot_flags()),
        token: if(is_map(token), do: token(token), else: token),
        error: if(error, do: Error.from_native(error, nil))
    }
  end

  @doc """
  A token's.
  """
  @spec token(map) :: Token.info()
  def token(%{flags: flags, utc_time: time} = token) do
    flags = flags(flags, Table.Constants.token_flags())
    time = if :clock_on_token in flags, do: time(time), else: :unavailable
    %{token | flags: flags, utc_time: time}
  end

  defp flags(:unavailable, _names), do: :unavailable
  defp flags(bits, names), do: for({name, bit} <- names, band(bits, bit) != 0, do: name)

  # YYYYMMDDhhmmss, and two reserved zeros.
  defp time(
         <<year::binary-4, month::binary-2, day::binary-2, hour::binary-2, minute::binary-2,
           second::binary-2, _reserved::binary>>
       ) do
    case NaiveDateTime.from_iso8601("#{year}-#{month}-#{day}T#{hour}:#{minute}:#{second}") do
      {:ok, time} -> DateTime.from_naive!(time, "Etc/UTC")
      {:error, _malformed} -> :unavailable
    end
  end

  defp time(_malformed), do: :unavailable
end
