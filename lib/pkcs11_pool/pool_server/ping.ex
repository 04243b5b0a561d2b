defmodule Pkcs11Pool.PoolServer.Ping do
  @moduledoc false
  # Operations that the pool makes by itself, so that it has a session and a login: when its token has come up, and every now and then while it is not
  # well and nobody calls it for that reason. Each runs in a process of its own.

  alias Pkcs11Pool.{Call, Log, Native, Options}

  @doc """
  Opens the first session, and with it logs in. Not for a lazy pool.
  """
  @spec open_first_session(Options.t(), Native.pool()) :: :ok
  def open_first_session(%{lazy: true}, _pool), do: :ok

  def open_first_session(%{name: name}, pool) do
    ping(name, fn error ->
      # A pool that is down says so, and why, in a line of its own.
      unless error.reason in [:draining, :pool_not_found] or Native.status(pool).health == :down do
        Log.write(:warning, name, ["the first session is not open: ", Log.sentence(error)])
      end
    end)
  end

  @doc """
  Makes an operation if it may put right what is wrong with the pool.
  """
  @spec try_to_mend(Options.t(), Native.pool()) :: :ok
  def try_to_mend(options, pool) do
    if starts_by_itself?(options) and mendable?(Native.status(pool)),
      do: ping(options.name, fn _error -> :ok end),
      else: :ok
  end

  # A PIN pad or a person may be behind the source of a :token pool: they are not asked without need.
  defp starts_by_itself?(%{lazy: lazy, type: type}), do: not lazy and type != :token

  # Whether an operation may put it right, without trying a PIN that may count as wrong. A PIN that was refused is not tried again; after another
  # failure of C_Login nobody knows. The native side itself looks for a token that is away.
  defp mendable?(%{health_reason: {reason, _code, function, _executed, details}}) do
    reason in [:pin_source_failed, :starting] or function == "C_OpenSession" or
      match?(%{poisoned: true}, details)
  end

  defp mendable?(_ready), do: false

  # Without a span: it is nobody's operation.
  defp ping(name, failed) do
    spawn(fn ->
      with {:ok, target} <- Call.target(name, Options.Call.validate!([])),
           {{:ok, _done}, _ticket} <- Call.attempt(target, :ping) do
        :ok
      else
        {:error, error} -> failed.(error)
        {{:error, error}, _ticket} -> failed.(error)
        {:ok, _ticket} -> :ok
      end
    end)

    :ok
  end
end
