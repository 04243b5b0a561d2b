defmodule Bench.Floors.Memory do
  @moduledoc "Whether the VM grows while a million operations run: the slope of its resident memory over the last half of them."

  alias Bench.{Context, Pools, Row, Stats, Work}

  @callers 32
  # Between two looks all is quiet, and what is garbage collected: what the callers hold just now is no growth.
  @looks 40
  # Bytes per operation. A word lost each time would be eight; what the allocators keep or give back makes some two.
  @tolerance 4

  @spec rows(Context.t()) :: [Row.t()]
  def rows(context) do
    operations = Context.scaled(context, 1_000_000, 1_000_000, 4_000)

    samples =
      Pools.with_pool(context.token, [pool_size: 8], fn pool ->
        operation = Work.operation(:hmac, pool, context.token)
        share = div(operations, @looks * @callers)

        for look <- 1..@looks, do: {look * share * @callers, resident_after(operation, share)}
      end)

    half = Enum.drop(samples, div(@looks, 2))
    {_operations, last} = List.last(samples)

    [
      %Row{
        work: "#{operations} operations: growth of the resident memory over the last half",
        floor: {:at_most, @tolerance},
        of: "bytes per operation",
        measured: Stats.slope(half),
        note: "#{length(half)} looks, #{Float.round(last / 1_048_576, 1)} MiB at the end"
      }
    ]
  end

  # Bytes of the VM after each caller has done so many operations.
  defp resident_after(operation, count) do
    Task.await_many(
      for(_ <- 1..@callers, do: Task.async(fn -> repeat(operation, count) end)),
      :infinity
    )

    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    [_total, pages | _] = "/proc/self/statm" |> File.read!() |> String.split()
    String.to_integer(pages) * 4_096
  end

  defp repeat(_operation, 0), do: :ok

  defp repeat(operation, count) do
    operation.()
    repeat(operation, count - 1)
  end
end
