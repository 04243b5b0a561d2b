defmodule Pkcs11Pool.Call.AwaitReady do
  @moduledoc false
  # Waits until a pool has a session, logged in where it logs in. It tries again while the pool is down, and while the queue has no place.

  alias Pkcs11Pool.{Call, Error, Native, Options}

  # ms between two tries.
  @pause 20

  @doc """
  Waits for at most `timeout` ms in all; with `:fail` only as long as the pool is not down.
  """
  @spec await(pool :: term, timeout, when_down :: :wait | :fail) :: :ok | {:error, Error.t()}
  def await(pool, timeout, when_down) do
    opts = Options.Call.validate!(queue_timeout: timeout, operation_timeout: timeout)
    deadline = if timeout == :infinity, do: :infinity, else: now() + timeout
    pool |> try_until_ready(opts, deadline, when_down) |> with_whole_timeout(timeout)
  end

  defp try_until_ready(pool, opts, deadline, when_down) do
    left = left(deadline)

    with {:ok, {_name, %{native: native}, _lease} = target} <- Call.target(pool, opts) do
      # It may come up, or go down, between the attempt and the question.
      down_before? = down?(native)
      {result, _ticket} = Call.attempt(within(target, deadline, left), :ping)

      if wait_on?(result, down_before? or down?(native), when_down) and left > 0 do
        Process.sleep(min(left, @pause))
        try_until_ready(pool, opts, deadline, when_down)
      else
        result
      end
    end
  end

  defp within({name, entry, lease}, deadline, left) do
    entry = %{entry | queue_timeout: left, operation_timeout: left}
    {name, Map.put(entry, :deadline, deadline), lease}
  end

  # Whether to wait and try again: the error may pass by itself.
  defp wait_on?({:error, %Error{reason: :draining}}, _down?, _when_down), do: false
  # With a :max_waiting of 0 there is no place to wait in for the login.
  defp wait_on?({:error, %Error{reason: :overloaded}}, _down?, _when_down), do: true
  defp wait_on?({:error, _error}, _down?, :fail), do: false
  defp wait_on?({:error, %Error{reason: :token_unavailable}}, _down?, :wait), do: true
  defp wait_on?({:error, _error}, down?, :wait), do: down?
  defp wait_on?(_ready, _down?, _when_down), do: false

  # What a lease of another node has is no pool: the attempt says so.
  defp down?(native), do: match?(%{down: down} when down != nil, Native.status(native))

  # The last attempt had only what was left of the time.
  defp with_whole_timeout(
         {:error, %Error{details: %{timeout_ms: _left} = details} = error},
         timeout
       ) do
    error = %{error | message: nil, details: %{details | timeout_ms: timeout}}
    {:error, %{error | message: Exception.message(error)}}
  end

  defp with_whole_timeout(result, _timeout), do: result

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - now(), 0)

  defp now, do: System.monotonic_time(:millisecond)
end
