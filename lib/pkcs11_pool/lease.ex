defmodule Pkcs11Pool.Lease do
  @moduledoc """
  A session that is reserved for one process during a `Pkcs11Pool.with_session/3` block.

  Calls take a lease in place of the pool's name. Only the process that runs the block may use it; others get `:not_owner`. It ends with the block, after the
  pool's `:lease_timeout`, or if its session breaks; then the error is `:lease_ended`.
  """

  alias Pkcs11Pool.{Error, Native, Registry}

  @enforce_keys [:pool, :holder, :native, :entry]
  defstruct [:pool, :holder, :native, :entry]

  @type t :: %__MODULE__{
          pool: term,
          holder: pid,
          native: term,
          entry: term
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

  @doc false
  # A stream of the calling process's has a session of the pool, which no other call of its gets.
  @spec add_stream(t) :: :ok
  def add_stream(lease) do
    Process.put({__MODULE__, :streams, lease.pool}, [lease.native | streams(lease.pool)])
    :ok
  end

  @doc false
  @spec remove_stream(t) :: :ok
  def remove_stream(lease) do
    case List.delete(streams(lease.pool), lease.native) do
      [] -> Process.delete({__MODULE__, :streams, lease.pool})
      others -> Process.put({__MODULE__, :streams, lease.pool}, others)
    end

    :ok
  end

  defp streams(pool), do: Process.get({__MODULE__, :streams, pool}, [])

  @doc false
  # Fails if the calling process has all sessions of the pool for streams of its own: another one would never come free.
  @spec check_streams(pool :: term, Registry.entry()) :: :ok | {:error, Error.t()}
  def check_streams(pool, entry) do
    # Mostly there are none.
    if streams(pool) == [] or held(pool) < Native.status(entry.native).ceiling do
      :ok
    else
      details = %{sessions: held(pool)}
      {:error, Error.new(:stream_in_progress, pool: pool, executed: false, details: details)}
    end
  end

  @doc false
  # How many sessions of the pool the calling process has for itself.
  @spec held(pool :: term) :: non_neg_integer
  def held(pool) do
    streams = Enum.count(streams(pool), &(Native.is_lease_active(&1) == true))
    if own(pool) == nil, do: streams, else: streams + 1
  end

  defimpl Inspect do
    def inspect(lease, _opts),
      do:
        "#Pkcs11Pool.Lease<pool #{Kernel.inspect(lease.pool)}, holder #{Kernel.inspect(lease.holder)}>"
  end
end
