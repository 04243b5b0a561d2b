defmodule Pkcs11Pool.Soak.Gauges do
  @moduledoc false
  # What a VM holds of the system's resources, sampled every half a second.

  @interval 500
  @page 4_096

  @doc "Now: resident memory in bytes, threads, file descriptors."
  def read do
    [_size, resident | _rest] = "/proc/self/statm" |> File.read!() |> String.split()
    %{rss: String.to_integer(resident) * @page, threads: entries("task"), files: entries("fd")}
  end

  defp entries(folder), do: length(File.ls!("/proc/self/#{folder}"))

  def start, do: spawn_link(fn -> sample([]) end)

  @doc "The samples of resident memory: `[{ms, bytes}]`, oldest first."
  def stop(sampler) do
    send(sampler, {:stop, self()})
    receive do: ({^sampler, samples} -> samples)
  end

  defp sample(samples) do
    samples = [{System.monotonic_time(:millisecond), read().rss} | samples]

    receive do
      {:stop, from} -> send(from, {self(), Enum.reverse(samples)})
    after
      @interval -> sample(samples)
    end
  end

  @doc "By how many bytes the regression line of the last half of the samples rises, and their mean."
  def rise(samples) do
    half = Enum.drop(samples, div(length(samples), 2))
    count = length(half)
    mean_x = Enum.sum(Enum.map(half, &elem(&1, 0))) / count
    mean_y = Enum.sum(Enum.map(half, &elem(&1, 1))) / count
    covariance = Enum.sum(for {x, y} <- half, do: (x - mean_x) * (y - mean_y))
    variance = Enum.sum(for {x, _y} <- half, do: (x - mean_x) * (x - mean_x))
    {first, _} = List.first(half)
    {last, _} = List.last(half)
    slope = if variance == 0, do: 0.0, else: covariance / variance
    {slope * (last - first), mean_y}
  end
end
