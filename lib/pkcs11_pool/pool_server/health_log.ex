defmodule Pkcs11Pool.PoolServer.HealthLog do
  @moduledoc false
  # One line of the log when a pool becomes ready, one when it is down, and why, and one when it is ready again. What comes between, such as the moment in
  # which a pool starts, is not worth a line; nor is the end of a pool.

  alias Pkcs11Pool.{Error, Log}

  # `shown`: what the last line said. `ill_since`: when the first line said so that the pool is not ready, in ms; nil: it has been ready since.
  defstruct shown: nil, ill_since: nil, was_ready?: false

  @type t :: %__MODULE__{
          shown: nil | :ready | {:down | :degraded, Error.reason()},
          ill_since: integer | nil,
          was_ready?: boolean
        }

  # A pool in this state serves, or says what is wrong by other lines.
  @silent [:starting, :token_unavailable, :sessions_hung]

  @doc """
  Looks at the snapshot of a pool, and writes a line if it says something new.
  """
  @spec observe(t, status :: map, name :: term, executor :: atom) :: t
  def observe(log, %{draining: true}, _name, _executor), do: log
  def observe(%{shown: :ready} = log, %{health: :ready}, _name, _executor), do: log

  def observe(log, %{health: :ready} = status, name, executor) do
    Log.write(:info, name, [ready(log), ": ", sessions(status.size), ", executor ", "#{executor}"])

    %{log | shown: :ready, ill_since: nil, was_ready?: true}
  end

  def observe(log, %{health: health, health_reason: native}, name, _executor) do
    error = Error.from_native(native, name)

    cond do
      log.shown == {health, error.reason} -> log
      health == :degraded and error.reason in @silent -> log
      true -> write(log, health, error)
    end
  end

  @doc """
  The pool has lost its token, or has not found it.
  """
  @spec lost_token(t, Error.t()) :: t
  def lost_token(%{shown: {:down, reason}} = log, %{reason: reason}), do: log
  # Its message says what follows.
  def lost_token(log, %{reason: :token_unavailable} = error), do: write(log, :down, error)

  def lost_token(log, error),
    do: write(log, :down, error, ". The pool looks for its token until it is there")

  defp write(log, health, error, more \\ "") do
    Log.write(level(health, error), error.pool, ["#{health}: ", Log.sentence(error), more])
    %{log | shown: {health, error.reason}, ill_since: log.ill_since || now()}
  end

  # That somebody has to log in is as the pool's options want it.
  defp level(:down, %{reason: :reauthentication_required}), do: :warning
  defp level(:down, _error), do: :error
  defp level(:degraded, _error), do: :warning

  defp ready(%{was_ready?: false}), do: "ready"
  defp ready(%{ill_since: nil}), do: "ready again"

  defp ready(%{ill_since: since}),
    do: "ready again, after #{Error.Details.duration(now() - since)}"

  defp sessions(1), do: "1 session at most"
  defp sessions(size), do: "#{size} sessions at most"

  defp now, do: System.monotonic_time(:millisecond)
end
