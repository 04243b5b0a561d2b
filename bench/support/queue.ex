defmodule Bench.Queue do
  @moduledoc """
  What the pool itself costs: an operation that does nothing, through pools of different sizes and stripes, and through what else could
  stand in their place (one GenServer, GenServers asked in turn, poolboy), whose workers do nothing either.
  """

  alias Bench.{Context, Pools, Window}
  alias Bench.Queue.Worker
  alias Pkcs11Pool.Test.OTPLibrary

  @compile {:no_warn_undefined, :poolboy}

  @sizes [2, 4, 8]
  @stripes [1, 2, 4]
  @callers [1, 2, 64]

  @typedoc "Operations a second of each contestant, in the order of `callers`."
  @type result :: %{callers: [pos_integer], rates: [{String.t(), [float]}], skipped: [String.t()]}

  @spec run(Context.t()) :: result
  def run(%{rounds: rounds, warm_up: warm_up, short_window: window} = context) do
    {poolboys, skipped} = poolboys()
    contestants = [server()] ++ Enum.map(@sizes, &servers/1) ++ poolboys ++ pools(context.token)

    samples =
      for _round <- 1..rounds, {name, operation, _stop} <- contestants, callers <- @callers do
        {{name, callers}, Window.rate(operation, callers, warm_up, window)}
      end

    for {_name, _operation, stop} <- contestants, do: stop.()
    rates = Enum.group_by(samples, &elem(&1, 0), &elem(&1, 1))

    %{
      callers: @callers,
      skipped: skipped,
      rates:
        for {name, _operation, _stop} <- contestants do
          {name, for(callers <- @callers, do: Bench.Stats.median(rates[{name, callers}]))}
        end
    }
  end

  # {name, what a caller does, how it is stopped}

  defp server do
    {:ok, worker} = Worker.start_link([])
    {"one GenServer", fn -> Worker.ping(worker) end, fn -> GenServer.stop(worker) end}
  end

  defp servers(size) do
    workers = for _ <- 1..size, do: elem(Worker.start_link([]), 1)
    tuple = List.to_tuple(workers)
    table = :ets.new(__MODULE__, [:public, write_concurrency: true])
    :ets.insert(table, {:index, -1})

    operation = fn ->
      Worker.ping(elem(tuple, :ets.update_counter(table, :index, {2, 1, size - 1, 0})))
    end

    {"#{size} GenServers in turn", operation, fn -> Enum.each(workers, &GenServer.stop/1) end}
  end

  defp poolboys do
    if OTPLibrary.load(:poolboy),
      do: {Enum.map(@sizes, &poolboy/1), []},
      else: {[], ["poolboy is not installed (on Debian: apt-get install erlang-poolboy)"]}
  end

  defp poolboy(size) do
    {:ok, pool} = :poolboy.start_link(worker_module: Worker, size: size, max_overflow: 0)
    operation = fn -> :poolboy.transaction(pool, &Worker.ping/1, :infinity) end
    {"poolboy of #{size}", operation, fn -> :poolboy.stop(pool) end}
  end

  defp pools(token) do
    for size <- @sizes, stripes <- @stripes, stripes <= size do
      # The same kind of runner for all, however many pools there are.
      pool = Pools.start!(token, pool_size: size, stripes: stripes, executor: :dirty_io)
      name = "pool of #{size}, #{stripes} #{if(stripes == 1, do: "stripe", else: "stripes")}"
      {name, fn -> Pools.ping(pool.name) end, fn -> Pools.stop(pool) end}
    end
  end
end

defmodule Bench.Queue.Worker do
  @moduledoc "Does nothing, when asked."
  use GenServer

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil)

  @spec ping(GenServer.server()) :: :ok
  def ping(worker), do: GenServer.call(worker, :ping)

  @impl GenServer
  def init(nil), do: {:ok, nil}

  @impl GenServer
  def handle_call(:ping, _from, state), do: {:reply, :ok, state}
end
