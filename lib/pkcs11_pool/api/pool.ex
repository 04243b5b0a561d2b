defmodule Pkcs11Pool.API.Pool do
  @moduledoc false
  # What `Pkcs11Pool` does with a pool as a whole: starts it, says how it is, changes its size, drains it, reloads its module.

  alias Pkcs11Pool.Call.AwaitReady
  alias Pkcs11Pool.{Call, Error, Lease, Native, Options, Registry}

  # The default of :queue_timeout of a reload, in ms. It is shorter than that of a call, so that no call fails when a reload is given up.
  @reload_wait 3_000

  @doc """
  Starts a pool with checked options.
  """
  @spec start_link(Options.t()) ::
          {:ok, pid} | {:error, Error.t() | {:already_started, pid} | term}
  def start_link(options) do
    with :ok <- Registry.check_application(options.name), do: start(options)
  end

  defp start(options) do
    case Pkcs11Pool.Supervisor.start_link(options) do
      {:ok, supervisor} when options.start == :strict -> await_strictly(supervisor, options)
      {:ok, supervisor} -> {:ok, supervisor}
      {:error, {:shutdown, {:failed_to_start_child, _child, %Error{} = error}}} -> {:error, error}
      {:error, reason} -> {:error, reason}
    end
  end

  defp await_strictly(supervisor, options) do
    with {:error, error} <- AwaitReady.await(options.name, start_timeout(options), :fail) do
      stop(supervisor)
      {:error, error}
    else
      :ok -> {:ok, supervisor}
    end
  end

  # The supervisor may have ended by itself meanwhile.
  defp stop(supervisor) do
    Process.unlink(supervisor)
    Supervisor.stop(supervisor, :shutdown)
  catch
    :exit, _gone -> :ok
  after
    receive do
      {:EXIT, ^supervisor, _reason} -> :ok
    after
      0 -> :ok
    end
  end

  defp start_timeout(%{pin_timeout: pin_timeout, operation_timeout: :infinity}),
    do: pin_timeout + 60_000

  # The sum of the two longest timeouts is longer than the options of a call may be.
  defp start_timeout(options),
    do: min(options.pin_timeout + options.operation_timeout, 0x7FFFFFFF)

  @doc """
  The snapshot of a pool. Raises `Pkcs11Pool.Error` for an unknown pool.
  """
  @spec status(Pkcs11Pool.pool()) :: %{required(atom) => term}
  def status(pool) do
    pool = Lease.pool_name(pool)

    case Registry.fetch(pool) do
      {:ok, _server, %{native: native, executor: executor}} ->
        status = Native.status(native)

        status
        |> Map.drop([:draining, :down, :runners, :active])
        |> Map.merge(%{state: state(status), executor: executor})
        |> Map.update!(:health_reason, &(&1 && Error.from_native(&1, pool)))
        |> Map.merge(reason_of_down(status, pool))

      {:error, error} ->
        raise error
    end
  end

  defp state(%{draining: true}), do: :draining
  defp state(%{down: nil}), do: :up
  defp state(_status), do: :down

  defp reason_of_down(%{down: nil}, _pool), do: %{}
  defp reason_of_down(%{down: native}, pool), do: %{down: Error.from_native(native, pool)}

  @doc """
  Grows or shrinks the pool.
  """
  @spec resize(Pkcs11Pool.pool(), 1..1_024) :: :ok | {:error, Error.t()}
  def resize(pool, n) do
    n = Options.size!(n)
    pool = Lease.pool_name(pool)

    case Registry.fetch(pool) do
      {:ok, _server, %{type: :token}} when n != 1 ->
        {:error, Error.new(:pool_size_fixed, pool: pool, executed: false)}

      {:ok, server, _entry} ->
        call_server(pool, server, {:resize, n})

      {:error, error} ->
        {:error, error}
    end
  end

  # Without a timeout: the server does it in any case, so that a caller who stops waiting would learn nothing.
  defp call_server(pool, server, request) do
    GenServer.call(server, request, :infinity)
  catch
    :exit, _gone -> {:error, Error.new(:pool_not_found, pool: pool)}
  end

  @doc """
  Drains the pool, and waits for its sessions to be closed: the number of those that are left.
  """
  @spec drain(Pkcs11Pool.pool(), timeout) ::
          {:ok, left :: non_neg_integer} | {:error, Error.t()}
  def drain(pool, timeout) when timeout == :infinity or (is_integer(timeout) and timeout >= 0) do
    pool = Lease.pool_name(pool)

    with {:ok, _server, %{native: native}} <- Registry.fetch(pool) do
      Native.drain(native)
      deadline = if timeout == :infinity, do: :infinity, else: now() + timeout
      {:ok, await_closed(native, pool, deadline)}
    end
  end

  def drain(_pool, timeout) do
    raise ArgumentError,
          "expected a time in ms that is not negative, or :infinity, got: #{inspect(timeout)}"
  end

  defp await_closed(native, pool, deadline) do
    left = Native.left(native)
    own = if Lease.own(pool), do: 1, else: 0

    if left > own and (deadline == :infinity or now() < deadline) do
      Process.sleep(5)
      await_closed(native, pool, deadline)
    else
      left
    end
  end

  @doc """
  Forgets the handles of all keys.
  """
  @spec forget_keys(Pkcs11Pool.pool()) :: :ok | {:error, Error.t()}
  def forget_keys(pool) do
    with {:ok, _server, %{native: native}} <- Registry.fetch(Lease.pool_name(pool)),
         do: Native.forget_keys(native)
  end

  @doc """
  Finalizes the pool's module and initializes it again.
  """
  @spec reload(Pkcs11Pool.pool(), keyword) :: :ok | {:error, Error.t()}
  def reload(pool, opts) do
    pool = Lease.pool_name(pool)
    opts = Options.Call.validate!(opts)
    wait = opts.queue_timeout || @reload_wait
    ms = if wait != :infinity, do: wait

    # The native side's own error after that time says more than a timeout here would: it is waited for.
    opts = %{opts | queue_timeout: if(ms, do: ms + 5_000, else: :infinity)}

    Call.Span.within(pool, :reload, opts, fn ->
      Call.submit(pool, opts, fn native, tag, _queue_timeout -> Native.reload(native, tag, ms) end)
    end)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
