defmodule Pkcs11Pool.X509.Time do
  @moduledoc false
  # When certificates and lists are valid (RFC 5280, 4.1.2.5).

  @doc false
  @spec certificate!(map) :: {DateTime.t(), DateTime.t()}
  def certificate!(opts) do
    not_before = opts[:not_before] || DateTime.add(DateTime.utc_now(), -300, :second)

    not_after =
      opts[:not_after] || DateTime.add(not_before, (opts[:days] || 365) * 86_400, :second)

    order!(not_before, not_after, ":not_after")
  end

  @doc false
  @spec crl!(map) :: {DateTime.t(), DateTime.t()}
  def crl!(opts) do
    now = DateTime.utc_now()
    next = opts[:next_update] || DateTime.add(now, (opts[:days] || 7) * 86_400, :second)
    order!(now, next, ":next_update")
  end

  defp order!(first, last, option) do
    if DateTime.compare(first, last) == :lt do
      {first, last}
    else
      raise ArgumentError,
            "invalid value for #{option} option: expected a time after the beginning"
    end
  end

  @doc false
  # Two digits of the year until 2049, four from then on.
  @spec encode(DateTime.t()) :: {:utcTime | :generalTime, charlist}
  def encode(time) do
    time = DateTime.shift_zone!(time, "Etc/UTC")

    if time.year in 1950..2049 do
      {:utcTime, time |> Calendar.strftime("%y%m%d%H%M%SZ") |> String.to_charlist()}
    else
      {:generalTime, time |> Calendar.strftime("%Y%m%d%H%M%SZ") |> String.to_charlist()}
    end
  end
end
