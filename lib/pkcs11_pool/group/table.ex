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
      [{_name, entry}] -> {:ok, entry}
      [] -> :error
    end
  end

  @spec put(name :: atom, entry) :: :ok
  def put(name, entry) do
    :ets.insert(__MODULE__, {name, entry})
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
