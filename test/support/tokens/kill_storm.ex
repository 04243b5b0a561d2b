defmodule Pkcs11Pool.Test.Tokens.KillStorm do
  @moduledoc false
  # Callers that sign, verify, digest, draw random bytes and take leases, and are killed at any moment. Afterwards the pool must have all its sessions, with
  # nothing running and nobody waiting, and no answer may have been wrong.

  alias Pkcs11Pool.Test.{Poll, Pools}

  @duration 3_000
  @callers 12
  @longest_life 40

  @doc "Rages for a few seconds."
  @spec rage(term, term, atom) :: :pass | {:fail, String.t()}
  def rage(pool, key, mechanism) do
    counts = :counters.new(3, [])
    until = System.monotonic_time(:millisecond) + @duration
    :rand.seed(:exsss, {1, 2, 3})

    kill_loop(for(_ <- 1..@callers, do: caller(pool, key, mechanism, counts)), until, fn ->
      caller(pool, key, mechanism, counts)
    end)

    verdict(pool, for(index <- 1..3, do: :counters.get(counts, index)))
  end

  # One after the other is killed, and another takes its place.
  defp kill_loop(callers, until, new) do
    if System.monotonic_time(:millisecond) < until do
      Process.sleep(:rand.uniform(@longest_life))
      {victims, rest} = callers |> Enum.shuffle() |> Enum.split(:rand.uniform(4))
      Enum.each(victims, &Process.exit(&1, :kill))
      kill_loop(Enum.map(victims, fn _ -> new.() end) ++ rest, until, new)
    else
      Enum.each(callers, &Process.exit(&1, :kill))
    end
  end

  defp caller(pool, key, mechanism, counts) do
    spawn(fn -> call(pool, key, mechanism, counts) end)
  end

  defp call(pool, key, mechanism, counts) do
    data = :crypto.strong_rand_bytes(32)

    outcome =
      case :rand.uniform(4) do
        1 ->
          with {:ok, bytes} <- Pkcs11Pool.generate_random(pool, 20), do: byte_size(bytes) == 20

        2 ->
          Pkcs11Pool.with_session(pool, fn -> sign_and_verify(pool, key, mechanism, data) end)

        _ ->
          sign_and_verify(pool, key, mechanism, data)
      end

    :counters.add(counts, index(outcome), 1)
    call(pool, key, mechanism, counts)
  end

  # Right, wrong, an error.
  defp index(true), do: 1
  defp index(false), do: 2
  defp index({:error, _error}), do: 3

  defp sign_and_verify(pool, key, mechanism, data) do
    with {:ok, signature} <- Pkcs11Pool.sign(pool, key, mechanism, data) do
      case Pkcs11Pool.verify(pool, key, mechanism, data, signature) do
        :ok -> true
        {:error, %{reason: :signature_invalid}} -> false
        {:error, _error} = error -> error
      end
    end
  end

  defp verdict(_pool, [right, wrong, errors]) when wrong > 0 or errors > 0 or right == 0,
    do: {:fail, "#{right} answers were right, #{wrong} wrong, #{errors} errors"}

  defp verdict(pool, _counts) do
    Pools.drained!(pool, 60_000)
    %{ceiling: ceiling} = Pkcs11Pool.status(pool)

    # Each of them is held once, all at the same time.
    holders =
      for _ <- 1..ceiling do
        Task.async(fn -> Pkcs11Pool.with_session(pool, fn -> hold_until_told() end) end)
      end

    Poll.until(fn -> Pkcs11Pool.status(pool).leased == ceiling end)
    Enum.each(holders, &send(&1.pid, :let_go))
    Task.await_many(holders, 60_000)

    rest = fn ->
      Map.take(Pkcs11Pool.status(pool), [
        :idle,
        :running,
        :leased,
        :waiting,
        :opening,
        :hung,
        :panics
      ])
    end

    expected = %{idle: ceiling, running: 0, leased: 0, waiting: 0, opening: 0, hung: 0, panics: 0}
    Poll.until(fn -> rest.() == expected end)
    :pass
  rescue
    error in ExUnit.AssertionError ->
      {:fail, "#{error.message}: #{inspect(Pkcs11Pool.status(pool))}"}
  end

  defp hold_until_told do
    receive do
      :let_go -> :ok
    end
  end
end
