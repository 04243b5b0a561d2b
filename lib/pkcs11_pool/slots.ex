defmodule Pkcs11Pool.Slots do
  @moduledoc """
  The registry of slots: how many sessions each slot may have, and which worker is next.

  Any term can be the name of a slot. A pool registers its name with its size when it starts, changes it with `Pkcs11Pool.resize/2`, and removes it
  when it stops. Your own code may register other slots, for workers that it starts itself. The application starts the registry.

  The sizes are in ETS, and the round-robin index is an atomic counter in native memory: reading them calls no process.
  """
  use GenServer

  # The state is which slot a pool's server has.

  require Logger

  alias Pkcs11Pool.{Native, Registry}

  # The largest round that the counter in native memory is asked for.
  @largest 4_294_967_295

  @type slot_ref :: term

  @doc "The specification for a supervisor. The application has one running already."
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(options) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [List.wrap(options)]}}
  end

  @doc "Starts the registry; `{:error, {:already_started, pid}}` if the application has started it."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(_options \\ []), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Registers a slot with its number of sessions, from 1 to 4,294,967,295. The same size again changes nothing. Another size replaces the first one, starts the round robin again,
  and logs a warning.
  """
  @spec register(slot_ref, pos_integer) :: :ok
  def register(slot_ref, size) when is_integer(size) and size in 1..@largest,
    do: GenServer.call(__MODULE__, {:register, slot_ref, size, nil})

  def register(slot_ref, size) do
    raise ArgumentError,
          "expected the size of slot #{inspect(slot_ref)} to be an integer from 1 to 4_294_967_295, got: #{inspect(size)}"
  end

  @doc false
  # A pool's server: its slot is there for as long as it lives, and changes its size without a warning. When it ends, the registry of pools forgets it.
  @spec register_pool(slot_ref, pos_integer) :: :ok
  def register_pool(slot_ref, size),
    do: GenServer.call(__MODULE__, {:register, slot_ref, size, self()})

  @doc "How many sessions a slot has; 1 if it was never registered."
  @spec pool_size(slot_ref) :: pos_integer
  def pool_size(slot_ref), do: slot_ref |> entry() |> elem(0)

  @doc """
  The number of the next worker, from 1 to the slot's size. In `k * size` calls since the last change of the size, from
  any number of processes, each number comes exactly `k` times. For a slot with one session it is always 1.
  """
  @spec next_worker_index(slot_ref) :: pos_integer
  def next_worker_index(slot_ref) do
    case entry(slot_ref) do
      {1, _counter} -> 1
      {size, counter} -> Native.next_index(counter, size) + 1
    end
  end

  defp entry(slot_ref) do
    case :ets.lookup(__MODULE__, slot_ref) do
      [{_slot_ref, size, counter, _owner}] -> {size, counter}
      [] -> {1, nil}
    end
  end

  @doc false
  # By the application's supervisor: so the table outlives this process.
  @spec new_table() :: :ok
  def new_table do
    :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true])
    :ok
  end

  @impl GenServer
  def init(nil) do
    owned =
      for [slot_ref, owner] <- :ets.match(__MODULE__, {:"$1", :_, :_, :"$2"}),
          owner != nil,
          do: {owner, slot_ref}

    for {owner, _slot_ref} <- owned, do: Process.monitor(owner)
    {:ok, Map.new(owned)}
  end

  @impl GenServer
  def handle_call({:register, slot_ref, size, owner}, _from, owned) do
    case :ets.lookup(__MODULE__, slot_ref) do
      [{_slot_ref, ^size, _counter, ^owner}] ->
        :ok

      [{_slot_ref, ^size, counter, other}] ->
        watch(owner, other)
        insert(slot_ref, size, counter, owner)

      [{_slot_ref, before, _counter, other}] ->
        if owner == nil or owner != other do
          Logger.warning("slot #{inspect(slot_ref)} had #{before} sessions, and now has #{size}")
        end

        watch(owner, other)
        insert(slot_ref, size, Native.new_index(), owner)

      [] ->
        watch(owner, nil)
        insert(slot_ref, size, Native.new_index(), owner)
    end

    {:reply, :ok, if(owner, do: Map.put(owned, owner, slot_ref), else: owned)}
  end

  @impl GenServer
  def handle_info({:DOWN, _monitor, :process, owner, _reason}, owned) do
    {slot_ref, owned} = Map.pop(owned, owner)
    Registry.forget(slot_ref, owner)
    :ets.match_delete(__MODULE__, {:_, :_, :_, owner})
    {:noreply, owned}
  end

  def handle_info(_other, owned), do: {:noreply, owned}

  defp watch(owner, before), do: if(owner not in [nil, before], do: Process.monitor(owner))

  defp insert(slot_ref, size, counter, owner),
    do: :ets.insert(__MODULE__, {slot_ref, size, counter, owner})
end
