defmodule Pkcs11Pool.SlotEventsTest do
  # A token that is taken out of its reader for long, and put back.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @moduletag timeout: 300_000

  # One module, two tokens, a pool on each.
  setup do
    module = SoftHSM.new_module!()
    tokens = for _ <- 1..2, do: SoftHSM.new_token!(module: module)
    env = SoftHSM.module_env(module)
    chaos = Chaos.start!(module, module_env: env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> Chaos.stop(chaos) end)

    pools =
      for token <- tokens do
        pool = String.to_atom(token.label)
        opts = [name: pool, module: chaos.module, pool_size: 1]
        {Pkcs11Pool, SoftHSM.pool_opts(token, opts)}
      end

    %{chaos: chaos, specs: pools}
  end

  defp start!(specs) do
    for {_module, opts} = spec <- specs do
      start_supervised!(spec)
      :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
      opts[:name]
    end
  end

  defp random(pool), do: Pkcs11Pool.generate_random(pool, 8)

  # Until the next look of each is a while away: when it is due.
  defp long_away!(pools, ms) do
    Poll.until(
      fn ->
        asked = now()
        left = Enum.map(pools, &next_look/1)
        if Enum.all?(left, &(&1 > ms)), do: Enum.map(left, &(asked + &1))
      end,
      120_000
    )
  end

  defp next_look(pool) do
    assert {:error, %Error{reason: :token_unavailable, details: details}} = random(pool)
    details.retry_after_ms
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp back_early?(chaos, pools, tries) do
    Chaos.remove_token(chaos)
    due = long_away!(pools, 3_000)
    Chaos.return_token(chaos)

    back =
      for pool <- pools do
        Task.async(fn ->
          :ok = Pkcs11Pool.await_ready(pool, 30_000)
          now()
        end)
      end

    early = back |> Task.await_many(60_000) |> Enum.zip(due)
    # A machine may be busy elsewhere; without events none is early, ever.
    Enum.all?(early, fn {back, due} -> back < due end) or
      (tries > 1 and back_early?(chaos, pools, tries - 1))
  end

  test "a token that is put back is noticed before the next look for it, by all pools of the module",
       %{chaos: chaos, specs: specs} do
    Chaos.slot_events(chaos)
    pools = start!(specs)
    # Nobody asks while nothing is wrong.
    for pool <- pools, _ <- 1..10, do: assert({:ok, _} = random(pool))
    assert Chaos.calls(chaos, :C_WaitForSlotEvent) == 0

    assert back_early?(chaos, pools, 3)

    for pool <- pools do
      assert {:ok, _} = random(pool)
      Pools.drained!(pool)
    end

    asked = Chaos.calls(chaos, :C_WaitForSlotEvent)
    assert asked > 0
    for pool <- pools, _ <- 1..10, do: assert({:ok, _} = random(pool))
    assert Chaos.calls(chaos, :C_WaitForSlotEvent) == asked
    assert Chaos.violations(chaos) == []
  end

  test "a module whose slots are no readers is not asked, nor one that serves one thread at a time",
       %{chaos: chaos, specs: specs} do
    pools = start!(specs)

    away_and_back = fn ->
      Chaos.remove_token(chaos)
      long_away!(pools, 500)
      Chaos.return_token(chaos)
      for pool <- pools, do: assert(:ok = Pkcs11Pool.await_ready(pool, 60_000))
      assert Chaos.calls(chaos, :C_WaitForSlotEvent) == 0
    end

    away_and_back.()
    for pool <- pools, do: stop_supervised!({Pkcs11Pool, pool})
    Poll.until(fn -> not Chaos.status(chaos).initialized end)

    Chaos.slot_events(chaos)
    Chaos.cant_lock(chaos)
    ^pools = start!(specs)
    away_and_back.()
    assert Chaos.violations(chaos) == []
  end

  test "a module that knows no events is asked once", %{chaos: chaos, specs: specs} do
    Chaos.slot_events(chaos)
    Chaos.fail(chaos, :C_WaitForSlotEvent, :function_not_supported)
    [one, two] = start!(specs)
    Chaos.remove_token(chaos)
    long_away!([one, two], 1_000)
    # Two may ask at the same time.
    assert Chaos.calls(chaos, :C_WaitForSlotEvent) in 1..2
    Chaos.return_token(chaos)
    for pool <- [one, two], do: assert(:ok = Pkcs11Pool.await_ready(pool, 60_000))
    assert Chaos.calls(chaos, :C_WaitForSlotEvent) in 1..2
  end

  test "the events of other tokens make nobody initialize the module again", %{
    chaos: chaos,
    specs: specs
  } do
    Chaos.slot_events(chaos)
    [pool, _other] = start!(specs)
    Chaos.remove_token(chaos)
    long_away!([pool], 2_000)
    Chaos.reset_counts(chaos)
    # One event after the other, of a token that does not answer.
    Chaos.fail(chaos, :C_GetTokenInfo, :token_not_recognized)

    for _ <- 1..5 do
      Chaos.return_token(chaos)
      Chaos.remove_token(chaos)
      asked = Chaos.calls(chaos, :C_WaitForSlotEvent)
      Poll.until(fn -> Chaos.calls(chaos, :C_WaitForSlotEvent) > asked + 2 end)
    end

    # One at each look that would have come in any case.
    assert Chaos.calls(chaos, :C_Initialize) <= 4
    Chaos.clear(chaos, :C_GetTokenInfo)
    Chaos.return_token(chaos)
    assert :ok = Pkcs11Pool.await_ready(pool, 60_000)
    assert Chaos.violations(chaos) == []
  end

  test "a module that blocks all the same stops no pool, and lets go when a token comes", %{
    chaos: chaos,
    specs: specs
  } do
    Chaos.slot_events(chaos)
    [pool, other] = start!(specs)
    Chaos.hang(chaos, :C_WaitForSlotEvent)
    Chaos.remove_token(chaos)
    assert {:error, %Error{reason: :token_unavailable}} = random(pool)
    assert {:error, %Error{reason: :token_unavailable}} = random(other)
    Poll.until(fn -> Chaos.hanging(chaos)["C_WaitForSlotEvent"] == 2 end)
    stop_supervised!({Pkcs11Pool, other})
    assert {:error, %Error{reason: :token_unavailable}} = random(pool)
    Chaos.return_token(chaos)
    Chaos.release(chaos, function: :C_WaitForSlotEvent)
    assert :ok = Pkcs11Pool.await_ready(pool, 60_000)
    Pools.drained!(pool)
    stop_supervised!({Pkcs11Pool, pool})
    Poll.until(fn -> not Chaos.status(chaos).initialized end)
    assert Chaos.violations(chaos) == []
  end
end
