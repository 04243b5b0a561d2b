defmodule Bench.Contenders.Worker do
  @moduledoc "A GenServer with a session of its own (a pool of one), on which it runs what it is asked for itself, without a hop to another thread's queue."
  use GenServer

  alias Bench.{Pools, Work}

  # As direct as our NIFs allow.
  @call [operation_timeout: :infinity]

  @spec start_link({Bench.Contender.arena(), keyword}) :: GenServer.on_start()
  def start_link({arena, options}), do: GenServer.start_link(__MODULE__, {arena, options})

  @impl GenServer
  def init({arena, options}) do
    Process.flag(:trap_exit, true)
    pool = Pools.start!(arena.token, pool_size: 1, executor: :dirty_io)
    operation = Work.operation(arena.operation, pool.name, arena.token, @call)
    operation = if(options[:find_key], do: finding(operation, pool.name, arena), else: operation)
    {:ok, {pool, operation}}
  end

  # The key is looked for before each operation.
  defp finding(operation, _pool, %{operation: :random}), do: operation

  defp finding(operation, pool, arena) do
    template = [class: class(arena.operation), label: Work.key(arena.operation)]

    fn ->
      {:ok, [_key]} = Pkcs11Pool.find_objects(pool, template, @call)
      operation.()
    end
  end

  defp class(name) when name in [:rsa, :ec], do: :private_key
  defp class(name) when name in [:verify_rsa, :verify_ec], do: :public_key
  defp class(_name), do: :secret_key

  @spec run(GenServer.server()) :: binary
  def run(worker), do: GenServer.call(worker, :run, :infinity)

  @impl GenServer
  def handle_call(:run, _from, {_pool, operation} = state), do: {:reply, operation.(), state}

  @impl GenServer
  def terminate(_reason, {pool, _operation}), do: Pools.stop(pool)
end
