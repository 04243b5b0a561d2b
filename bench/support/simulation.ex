defmodule Bench.Simulation do
  @moduledoc """
  A closed system of servers and callers without any cost of its own: each caller asks for one operation after the other. It says what the
  best possible queue, and what a blind round robin, would make of a sequence of operations of different length.

  The `n`-th operation of caller `c` takes `service.(c, n)`. All callers begin at 0.
  """

  @type discipline :: :fifo | :round_robin

  @typedoc "From being asked for to its end; `asked` is when. In the unit of `service`."
  @type operation :: %{caller: pos_integer, number: pos_integer, asked: number, ended: number}

  @doc """
  The operations that end until `until`.

  `:fifo`: one queue, and whichever server is free takes its head. `:round_robin`: each operation waits for the server whose turn it was when
  it was asked for.
  """
  @spec run(
          discipline,
          servers :: pos_integer,
          callers :: pos_integer,
          (pos_integer, pos_integer -> number),
          until :: number
        ) :: [operation]
  def run(discipline, servers, callers, service, until) do
    asked = :gb_sets.from_list(for caller <- 1..callers, do: {0, caller, 1})

    free = for server <- 1..servers, into: %{}, do: {server, 0}
    step(asked, free, 0, %{discipline: discipline, service: service, until: until}, [])
  end

  # Whoever has asked first is next, so that each can be given its server and its end at once.
  defp step(asked, free, turn, system, done) do
    {{time, caller, number}, asked} = :gb_sets.take_smallest(asked)

    if time >= system.until do
      done
    else
      server = server(system.discipline, free, turn)
      ended = max(time, free[server]) + system.service.(caller, number)
      asked = :gb_sets.add({ended, caller, number + 1}, asked)
      operation = %{caller: caller, number: number, asked: time, ended: ended}
      done = if(ended <= system.until, do: [operation | done], else: done)
      step(asked, Map.put(free, server, ended), turn + 1, system, done)
    end
  end

  # The first to be free.
  defp server(:fifo, free, _turn), do: free |> Enum.min_by(&elem(&1, 1)) |> elem(0)
  defp server(:round_robin, free, turn), do: rem(turn, map_size(free)) + 1
end
