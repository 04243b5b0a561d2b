defmodule Pkcs11Pool.Lease do
  @moduledoc """
  A session that one process has for itself, for the time of a `Pkcs11Pool.with_session/3` block.

  Calls take it in place of the pool's name. Only the process that took it may use it (`:not_owner`), and only until the block ends, the
  pool's `:lease_timeout` passes, or its session breaks (`:lease_ended`).
  """

  alias Pkcs11Pool.{Error, Native, Registry}

  @enforce_keys [:pool, :holder, :native, :entry]
  defstruct [:pool, :holder, :native, :entry]

  @type t :: %__MODULE__{
          pool: term,
          holder: pid,
          native: Native.lease(),
          entry: Registry.entry()
        }

  @doc false
  # Whether the calling process may use it now. Whatever is no live lease of this node (it came from another one, or was made by hand) never was its
  # caller's.
  @spec check(t) :: :ok | {:error, Error.t()}
  def check(%__MODULE__{holder: holder} = lease) when holder != self(),
    do: {:error, Error.new(:not_owner, pool: lease.pool, executed: false)}

  def check(lease) do
    if Native.is_lease_active(lease.native) == true,
      do: :ok,
      else: {:error, Error.new(:lease_ended, pool: lease.pool, executed: false)}
  end

  @doc false
  # The lease that the calling process has on the pool of this name. An entry of the process dictionary, since it is the process that holds
  # it, and nobody else may.
  @spec current(pool :: term) :: t | nil
  def current(pool), do: Process.get({__MODULE__, pool})

  @doc false
  # The same, as long as it has its session.
  @spec own(pool :: term) :: t | nil
  def own(pool) do
    with %__MODULE__{} = lease <- current(pool), do: if(check(lease) == :ok, do: lease)
  end

  @doc false
  # The name of the pool, where a call takes a lease in its place.
  @spec pool_name(t | term) :: term
  def pool_name(%__MODULE__{pool: name}), do: name
  def pool_name(name), do: name

  @doc false
  @spec set_current(t) :: :ok
  def set_current(lease) do
    Process.put({__MODULE__, lease.pool}, lease)
    :ok
  end

  @doc false
  @spec clear_current(t) :: :ok
  def clear_current(lease) do
    Process.delete({__MODULE__, lease.pool})
    :ok
  end

  defimpl Inspect do
    def inspect(lease, _opts),
      do:
        "#Pkcs11Pool.Lease<pool #{Kernel.inspect(lease.pool)}, holder #{Kernel.inspect(lease.holder)}>"
  end
end
