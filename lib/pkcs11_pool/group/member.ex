defmodule Pkcs11Pool.Group.Member do
  @moduledoc false
  # A pool of a group: of this node (`native`), or of another.

  alias Pkcs11Pool.{Native, Registry}

  @enforce_keys [:pool, :node]
  defstruct [
    :pool,
    :node,
    :native,
    :identity,
    :calls,
    available?: false,
    queue_timeout: 0,
    operation_timeout: 0
  ]

  @typedoc """
  `identity`: that of its token, by which an object finds its member. `calls`: a counter of the calls from here to another node that are under way.
  """
  @type t :: %__MODULE__{
          pool: term,
          node: node,
          native: Native.pool() | nil,
          identity: binary | nil,
          calls: :counters.counters_ref() | nil,
          available?: boolean,
          queue_timeout: timeout,
          operation_timeout: timeout
        }

  @spec local?(t) :: boolean
  def local?(%__MODULE__{node: node}), do: node == node()

  @doc "A member of this node, as it is now. Not available: one that does not run, drains, or whose health is `:down`."
  @spec look(pool :: term) :: t
  def look(pool) do
    member = %__MODULE__{pool: pool, node: node()}

    case Registry.lookup(pool) do
      {:ok, _server, %{native: native} = entry} ->
        %{
          member
          | native: native,
            identity: Native.token_identity(native),
            available?: Native.status(native).health != :down,
            queue_timeout: entry.queue_timeout,
            operation_timeout: entry.operation_timeout
        }

      :error ->
        member
    end
  end

  @doc "How much it has to do now, to be compared with others of its kind; nil if it takes nothing."
  @spec load(t) :: non_neg_integer | nil
  def load(%__MODULE__{native: nil, calls: nil}), do: nil
  def load(%__MODULE__{native: nil, calls: calls}), do: :counters.get(calls, 1)
  def load(%__MODULE__{native: native}), do: Native.load(native)
end
