defmodule Bench.Contenders.Pool do
  @moduledoc "The pool: with default options, or an executor of one's choice, or other options of the call."
  @behaviour Bench.Contender

  alias Bench.{Contender, Pools, Work}

  @impl Contender
  def start(arena, options) do
    {call, options} = Keyword.pop(options, :call, [])

    pool = Pools.start!(arena.token, [pool_size: arena.sessions] ++ options)
    operation = Work.operation(arena.operation, pool.name, arena.token, call)
    {:ok, Contender.running(operation, arena.callers, fn -> Pools.stop(pool) end)}
  end
end
