defmodule Pkcs11Pool.API.WithSession do
  @moduledoc false
  # A block of code that has a session for itself.

  alias Pkcs11Pool.{Call, Error, Lease, Native, Options}
  alias Pkcs11Pool.Telemetry.Emitter

  @doc """
  Runs `fun` with a session of the pool, or with the one that the calling process has there already.
  """
  @spec run(Pkcs11Pool.pool(), (Lease.t() -> result) | (() -> result), keyword) ::
          result | {:error, Error.t()}
        when result: term
  def run(%Lease{} = lease, fun, opts) when is_function(fun, 0) or is_function(fun, 1) do
    _checked = Options.Call.validate!(opts)

    with :ok <- Lease.check(lease), do: apply_to(fun, lease)
  end

  def run(pool, fun, opts) when is_function(fun, 0) or is_function(fun, 1) do
    opts = Options.Call.validate!(opts)

    case Lease.current(pool) do
      nil -> run_leased(pool, fun, opts)
      lease -> run(lease, fun, [])
    end
  end

  def run(_pool, _other, _opts),
    do: raise(ArgumentError, "expected a function that takes the lease, or nothing")

  defp run_leased(pool, fun, opts) do
    span = Emitter.start(:lease, Map.put(opts.telemetry_metadata, :pool, pool))

    case Call.lease(pool, :ping, opts) do
      {:ok, lease, ticket} ->
        Lease.set_current(lease)

        try do
          apply_to(fun, lease)
        catch
          kind, reason ->
            Emitter.exception(span, kind, reason, __STACKTRACE__)
            :erlang.raise(kind, reason, __STACKTRACE__)
        else
          result ->
            {measurements, metadata} = Call.Span.timing(ticket)
            Emitter.stop(span, :ok, measurements, metadata)
            result
        after
          Lease.clear_current(lease)
          Native.end_lease(lease.native)
        end

      {:error, error} ->
        Emitter.stop(span, {:error, error})
        {:error, error}
    end
  end

  defp apply_to(fun, _lease) when is_function(fun, 0), do: fun.()
  defp apply_to(fun, lease), do: fun.(lease)
end
