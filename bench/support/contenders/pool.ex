defmodule Bench.Contenders.Pool do
  @moduledoc "The pool: with default options but room for all that may wait, or an executor of one's choice, or other options of the call, or with what is prepared."
  @behaviour Bench.Contender

  alias Bench.{Contender, Pools, Work}

  # Nobody else refuses a call, or gives one up, while the machine stands still for a while.
  @room [max_waiting: 100_000, queue_timeout: 60_000]

  @impl Contender
  def start(arena, options) do
    {call, options} = Keyword.pop(options, :call, [])
    {prepared?, options} = Keyword.pop(options, :prepared, false)

    if prepared? and arena.operation not in Work.preparable() do
      {:skip, "an IV of the caller's, and random bytes, are not prepared"}
    else
      pool = Pools.start!(arena.token, [pool_size: arena.sessions] ++ @room ++ options)
      operation = if prepared?, do: &Work.prepared/4, else: &Work.operation/4
      operation = operation.(arena.operation, pool.name, arena.token, call)
      {:ok, Contender.running(operation, arena.callers, fn -> Pools.stop(pool) end)}
    end
  end
end
