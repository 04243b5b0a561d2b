defmodule Bench.Contenders.Batch do
  @moduledoc "Many operations in one call of the pool."
  @behaviour Bench.Contender

  alias Bench.{Contender, Pools, Work}

  @size 64

  @impl Contender
  def start(arena, _options) do
    pool = Pools.start!(arena.token, pool_size: arena.sessions)
    operation = Work.batch(arena.operation, pool.name, @size)
    {:ok, Contender.running(operation, arena.callers, @size, fn -> Pools.stop(pool) end)}
  end
end
