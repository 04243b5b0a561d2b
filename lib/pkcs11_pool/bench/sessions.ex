defmodule Pkcs11Pool.Bench.Sessions do
  @moduledoc false
  # How many sessions a token gives to a pool: all are taken at once, each by a process of its own.

  alias Pkcs11Pool.Error

  @queue_timeout 60_000
  @interval 50

  @doc """
  Opens a pool's sessions, and leaves them open: how many of so many the token gives, and what it says to one more. An error: not a single one.
  """
  @spec open(pool :: term, pos_integer) ::
          {:ok, given :: pos_integer, refusal :: Error.t() | nil} | {:error, Error.t()}
  def open(pool, size) do
    {held, refusal} = hold(pool, size, [], nil)

    for lease <- held, do: send(lease, :release)
    for lease <- held, do: receive_over(lease)

    case {length(held), refusal} do
      {0, %Error{} = error} -> {:error, error}
      {given, refusal} -> {:ok, given, refusal}
    end
  end

  # One that is refused a session of its own does not wait for one that comes free a moment later, such as that of the pool's first operation. So
  # it is tried again while any is not held.
  defp hold(pool, size, held, refusal) do
    parent = self()
    leases = for _ <- 1..(size - length(held)), do: spawn_link(fn -> lease(pool, parent) end)
    {more, new} = await(pool, leases, length(held), [], nil)
    # Those that were neither given a session nor refused one wait for nothing.
    for lease <- leases -- more, do: kill(lease)

    held = more ++ held
    refusal = refusal || new
    status = Pkcs11Pool.status(pool)

    if held != [] and length(held) < size and status.idle + status.running > 0,
      do: hold(pool, size, held, refusal),
      else: {held, refusal}
  end

  defp lease(pool, parent) do
    hold = fn ->
      send(parent, {:held, self()})

      receive do
        :release -> :ok
      end
    end

    result = Pkcs11Pool.with_session(pool, hold, queue_timeout: @queue_timeout)
    send(parent, {:over, self(), result})
  end

  defp await(_pool, [], _before, held, refusal), do: {held, refusal}

  defp await(pool, waiting, before, held, refusal) do
    receive do
      {:held, lease} ->
        await(pool, List.delete(waiting, lease), before, [lease | held], refusal)

      {:over, lease, {:error, error}} ->
        await(pool, List.delete(waiting, lease), before, held, refusal || error)
    after
      @interval ->
        # More than the pool's ceiling do not come.
        given = before + length(held)

        if given > 0 and Pkcs11Pool.status(pool).ceiling <= given,
          do: {held, refusal},
          else: await(pool, waiting, before, held, refusal)
    end
  end

  defp receive_over(lease) do
    receive do
      {:over, ^lease, _result} -> :ok
    end
  end

  defp kill(process) do
    Process.unlink(process)
    Process.exit(process, :kill)
  end
end
