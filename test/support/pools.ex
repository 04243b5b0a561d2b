defmodule Pkcs11Pool.Test.Pools do
  @moduledoc "What tests see of a pool's inside: its processes, its native side, and whether everything has come to rest."

  alias Pkcs11Pool.{Native, Registry}
  alias Pkcs11Pool.Test.Poll

  @doc "Makes what `slow/2` digests: one binary for all, which pools keep by reference."
  @spec start!() :: :ok
  def start!, do: :persistent_term.put(__MODULE__, :binary.copy("x", 128 * 1_048_576))

  @doc "The pool's keeper."
  @spec keeper(term) :: pid
  def keeper(pool) do
    {:ok, keeper, _entry} = Registry.lookup(pool)
    keeper
  end

  @doc "The pool's supervisor."
  @spec supervisor(term) :: pid
  def supervisor(pool), do: GenServer.whereis(Registry.via(:supervisor, pool))

  @doc "The processes of the pool's runners, which are none for `executor: :threads`."
  @spec runners(term) :: [pid]
  def runners(pool) do
    for {_id, pid, _type, _modules} <-
          DynamicSupervisor.which_children(Registry.via(:runners, pool)),
        do: pid
  end

  @doc "The snapshot of the native side, which knows more than `Pkcs11Pool.status/1`."
  @spec native_status(term) :: map
  def native_status(pool) do
    {:ok, _keeper, %{native: native}} = Registry.lookup(pool)
    Map.put(Native.status(native), :vacancies, Native.vacancies(native))
  end

  @doc "Waits until nothing runs, waits, opens or closes; then the snapshot."
  @spec drained!(term, non_neg_integer) :: map
  def drained!(pool, timeout \\ 10_000) do
    Poll.until(
      fn ->
        status = native_status(pool)

        if Enum.all?([:running, :waiting, :opening, :closing, :hung], &(status[&1] == 0)),
          do: status
      end,
      timeout
    )
  end

  @doc "Waits until the pool has as many runners as it may have sessions."
  @spec full_strength!(term, non_neg_integer) :: map
  def full_strength!(pool, timeout \\ 10_000) do
    Poll.until(
      fn ->
        status = native_status(pool)
        if status.vacancies == 0 and status.runners == status.size, do: status
      end,
      timeout
    )
  end

  @doc """
  An operation that keeps a session busy for a good while, but not for ever: a digest of `:mib` (at most 128, by default 64) MiB takes
  some tenths of a second.
  """
  @spec slow(term, keyword) :: {:ok, binary} | {:error, Pkcs11Pool.Error.t()}
  def slow(pool, opts \\ []) do
    {mib, opts} = Keyword.pop(opts, :mib, 64)

    Pkcs11Pool.digest(
      pool,
      :sha512,
      binary_part(:persistent_term.get(__MODULE__), 0, mib * 1_048_576),
      opts
    )
  end
end
