defmodule Pkcs11Pool.Group.Table do
  @moduledoc false
  # What the calls of a group read: whether a name is a group's, and its members. The group's server writes it; reading asks no process.
  #
  # That a name is a group's is in `:persistent_term`, since each call on a pool asks it. `true` is no heap term: to erase it costs no garbage collection of all
  # processes.

  alias Pkcs11Pool.Group.Member

  @typedoc "`available`: those that calls go to, the local ones before the others. `members`: all, in the order of the group's option."
  @type entry :: %{
          strategy: :balance | :priority,
          members: [Member.t()],
          available: %{local: tuple, remote: tuple}
        }

  @typedoc "What most calls need of it: the available members of this node, each `{pool, native pool}`."
  @type local :: {:balance | :priority, tuple}

  @doc "By the application's supervisor: so the table outlives the group's servers."
  @spec new() :: :ok
  def new do
    :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true])
    :ok
  end

  @doc "Whether this is the name of a group."
  @spec group?(name :: term) :: boolean
  def group?(name), do: :persistent_term.get({__MODULE__, name}, false)

  @doc "The group's members, as its server saw them last."
  @spec fetch(name :: atom) :: {:ok, entry} | :error
  def fetch(name) do
    case :ets.lookup(__MODULE__, name) do
      [{_name, _local, entry}] -> {:ok, entry}
      [] -> :error
    end
  end

  @doc "The same, of which only this is copied."
  @spec local(name :: atom) :: local
  def local(name) do
    :ets.lookup_element(__MODULE__, name, 2)
  rescue
    _gone in ArgumentError -> {:balance, {}}
  end

  @spec put(name :: atom, entry) :: :ok
  def put(name, entry) do
    local = for member <- Tuple.to_list(entry.available.local), do: {member.pool, member.native}
    :ets.insert(__MODULE__, {name, {entry.strategy, List.to_tuple(local)}, entry})
    unless group?(name), do: :persistent_term.put({__MODULE__, name}, true)
    :ok
  end

  @spec delete(name :: atom) :: :ok
  def delete(name) do
    :persistent_term.erase({__MODULE__, name})
    :ets.delete(__MODULE__, name)
    :ok
  end
end
