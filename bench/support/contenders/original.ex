defmodule Bench.Contenders.Original do
  @moduledoc "A GenServer per session, each asked in turn, that looks for the key before each operation: the design this library replaces, on its own NIFs."
  @behaviour Bench.Contender

  alias Bench.Contender
  alias Bench.Contenders.Worker

  @impl Contender
  def start(arena, _options) do
    workers = for _ <- 1..arena.sessions, do: elem(Worker.start_link({arena, find_key: true}), 1)

    {tuple, last} = {List.to_tuple(workers), arena.sessions - 1}
    table = :ets.new(__MODULE__, [:public, write_concurrency: true])
    :ets.insert(table, {:index, -1})

    operation = fn ->
      index = :ets.update_counter(table, :index, {2, 1, last, 0})
      Worker.run(elem(tuple, index))
    end

    stop = fn ->
      Enum.each(workers, &GenServer.stop/1)
      :ets.delete(table)
    end

    {:ok, Contender.running(operation, arena.callers, stop)}
  end
end
