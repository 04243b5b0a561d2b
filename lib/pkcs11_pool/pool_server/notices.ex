defmodule Pkcs11Pool.PoolServer.Notices do
  @moduledoc false
  # Notices of the native side that nothing has to be done about: they become telemetry events and lines of the log.

  alias Pkcs11Pool.{Error, Log, Native, Options}
  alias Pkcs11Pool.Telemetry.Emitter

  @doc """
  Reports a notice.
  """
  @spec report(notice :: term, Options.t(), pool :: reference) :: :ok
  def report({:session_opened, session, nanoseconds}, options, _pool) do
    metadata = %{pool: options.name, session: session}
    Emitter.ended(:open_session, nanoseconds, :ok, metadata)
    Emitter.execute([:session, :opened], %{}, Map.put(metadata, :reason, :demand))
  end

  def report({:session_refused, reason, nanoseconds}, options, _pool) do
    Emitter.ended(:open_session, nanoseconds, {:error, reason}, %{pool: options.name})
  end

  def report({:session_closed, session, reason}, options, _pool) do
    metadata = %{pool: options.name, session: session, reason: reason}
    Emitter.execute([:session, :closed], %{}, metadata)
  end

  def report({:session_hung, session, operation, ms, cost, executor, hung}, options, pool) do
    duration = System.convert_time_unit(ms, :millisecond, :native)

    Emitter.execute([:session, :hung], %{duration: duration}, %{
      pool: options.name,
      session: session,
      operation: operation,
      executor: executor,
      hung: hung,
      reason: cost
    })

    Log.write(
      :warning,
      options.name,
      "#{call(operation, session)} has not returned for #{ms} ms; " <>
        cost(cost, hung, Native.status(pool))
    )
  end

  def report({:hung_returned, session, operation, ms}, options, _pool) do
    Log.write(
      :info,
      options.name,
      "#{call(operation, session)}, which hung, has returned after #{ms} ms"
    )
  end

  def report({:login_ended, result, nanoseconds}, options, _pool) do
    metadata = %{pool: options.name, user: options.user}

    # What has failed is in the line that says that the pool is down.
    result = if result == :ok, do: :ok, else: {:error, result}
    Emitter.ended(:login, nanoseconds, result, metadata)
  end

  def report({:logged_out, reason}, options, _pool) do
    Log.write(:info, options.name, "logged out (#{reason})")
  end

  def report({:lease_expired, holder, caller, ms}, options, _pool) do
    Log.write(
      :warning,
      options.name,
      "#{inspect(holder)} held a session for longer than :lease_timeout " <>
        "(#{ms} ms), and has lost it; it was taken in #{caller}"
    )
  end

  def report({:retried, class, reason, function}, options, _pool) do
    function = Error.function(function)
    metadata = %{pool: options.name, class: class, reason: reason, function: function}
    Emitter.execute([:operation, :retry], %{}, metadata)
  end

  def report({:reinitialized, cause}, options, _pool) do
    Emitter.execute([:module, :reinitialized], %{}, %{pool: options.name, reason: cause})

    {level, why} = reinitialized(cause)

    Log.write(
      level,
      options.name,
      "the PKCS#11 module #{why} initialized again, for all its pools"
    )
  end

  defp reinitialized(:lost), do: {:warning, "had lost its initialization, and has been"}

  defp reinitialized(:trouble),
    do:
      {:warning, "failed all calls, though it said that all was well, and has been finalized and"}

  defp reinitialized(:keys_vanished),
    do: {:warning, "found none of the keys that it had found, and has been finalized and"}

  defp reinitialized(:reload), do: {:info, "was finalized by reload/2 and has been"}

  defp call(operation, 0), do: "the opening of a session (for #{operation})"
  defp call(operation, session), do: "#{operation} on session #{session}"

  defp cost(:replaced, hung, status),
    do: "its session is replaced (#{hung} hung; at most #{status.size} are replaced)"

  defp cost(:session, _hung, status) do
    why = if status.serialized, do: "the module is serialized", else: "no more are replaced"
    "it holds one of the pool's #{status.size} sessions until it returns (#{why})"
  end

  defp cost(:scheduler, _hung, _status) do
    schedulers = :erlang.system_info(:dirty_io_schedulers)

    "it holds one of the VM's #{schedulers} dirty-IO schedulers until it returns; with executor: :threads it would not"
  end

  defp cost(:login, _hung, _status), do: "nobody logs in or out until it returns"
end
