defmodule Pkcs11Pool.PinCounterTest do
  # Whatever happens: a token loses no more tries than its sources gave different PINs, and is never locked without force.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @runs if System.get_env("PKCS11_POOL_LONG"), do: 60, else: 6
  @steps 25
  @limit 3

  @moduletag timeout: 600_000

  for seed <- 1..@runs do
    test "random callers, restarts and PINs (seed #{seed})" do
      :rand.seed(:exsss, unquote(seed))
      token = ChaosToken.new!()
      on_exit(fn -> Chaos.stop(token.chaos) end)
      source = ChaosToken.source!(Enum.random([token.pin, "wrong-0"]))

      state = %{
        token: token,
        source: source,
        pools: %{},
        # Every PIN that a source has given so far, and each that somebody insisted on.
        given: MapSet.new([peek(source)]),
        tries: @limit,
        lost: 0
      }

      Enum.reduce(1..@steps, state, fn step, state ->
        state = step(Enum.random(actions()), step, state)
        check(state)
      end)

      assert Chaos.violations(token.chaos) == []
    end
  end

  defp actions do
    [
      :start,
      :start,
      :calls,
      :calls,
      :calls,
      :stop,
      :restart,
      :right,
      :wrong,
      :lose,
      :login,
      :logout
    ] ++
      [:wrong_login, :die, :sessions]
  end

  defp step(:start, step, state) when map_size(state.pools) < 3 do
    name = :"counter-#{System.unique_integer([:positive])}"

    opts = [
      name: name,
      pin: ChaosToken.pin(state.source),
      pool_size: :rand.uniform(4),
      lazy: :rand.uniform(2) == 1,
      pin_retention: Enum.random([:per_login, :until_logout]),
      executor: Enum.random([:threads, :dirty_io])
    ]

    {:ok, _} = start_supervised({Pkcs11Pool, SoftHSM.pool_opts(state.token, opts)}, id: name)
    put_in(state.pools[name], step)
  end

  defp step(:calls, _step, state) do
    results =
      for(name <- names(state), _ <- 1..:rand.uniform(8), do: name)
      |> Enum.map(&Task.async(fn -> Pkcs11Pool.generate_random(&1, 8) end))
      |> Task.await_many(30_000)

    for {:error, error} <- results do
      # One whose session died under it may have run before.
      assert %Error{executed: executed} = error
      assert executed in [false, :unknown]
      assert error.reason in [:pin_incorrect, :pin_final_try, :pin_locked, :login_conflict]
    end

    state
  end

  defp step(:die, _step, state) do
    for name <- names(state) do
      caller = spawn(fn -> Pkcs11Pool.generate_random(name, 8) end)
      Process.exit(caller, :kill)
    end

    state
  end

  defp step(action, _step, %{pools: pools} = state)
       when action in [:stop, :restart, :login, :logout, :wrong_login] and map_size(pools) > 0 do
    name = Enum.random(names(state))

    case action do
      :stop ->
        stop_supervised!(name)
        %{state | pools: Map.delete(pools, name)}

      :restart ->
        stop_supervised!(name)
        step(:start, 0, %{state | pools: Map.delete(pools, name)})

      :login ->
        _any = Pkcs11Pool.login(name, fn -> state.token.pin end)
        state

      :wrong_login ->
        pin = "wrong-#{:rand.uniform(4)}"
        _any = Pkcs11Pool.login(name, fn -> pin end)
        # Somebody who says it twice means it twice.
        %{state | given: MapSet.put(state.given, {pin, make_ref()})}

      :logout ->
        _any = Pkcs11Pool.logout(name, force: true)
        state
    end
  end

  defp step(:right, _step, state), do: give(state, state.token.pin)
  defp step(:wrong, _step, state), do: give(state, "wrong-#{:rand.uniform(4)}")

  defp step(:lose, _step, state) do
    # Nobody may be logged in.
    try do
      Chaos.logout(state.token.chaos)
    rescue
      RuntimeError -> :ok
    end

    state
  end

  defp step(:sessions, _step, state) do
    if map_size(state.pools) > 0, do: Chaos.kill_sessions(state.token.chaos)
    state
  end

  defp step(_nothing, _step, state), do: state

  defp give(state, pin) do
    ChaosToken.give(state.source, pin)
    %{state | given: MapSet.put(state.given, pin)}
  end

  defp check(%{pools: pools} = state) when map_size(pools) == 0, do: state

  defp check(state) do
    tries = Chaos.pin_tries(state.token.chaos)
    # The last try is nobody's to use up.
    assert tries >= 1
    wrong = MapSet.delete(state.given, state.token.pin)
    lost = state.lost + max(state.tries - tries, 0)
    # A right PIN begins the count again, but what was tried once is not tried again.
    assert lost <= MapSet.size(wrong)
    %{state | tries: tries, lost: lost}
  end

  defp names(state), do: Map.keys(state.pools)
  defp peek(source), do: source |> Agent.get(&elem(&1, 0))
end
