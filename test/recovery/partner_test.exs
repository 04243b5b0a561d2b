defmodule Pkcs11Pool.PartnerTest do
  # Two tokens of one label, as of a highly available pair: what a pool knows of the one's login is nothing to the other.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do
    real = SoftHSM.new_module!()
    label = "partners-#{System.unique_integer([:positive])}"
    one = SoftHSM.new_token!(module: real, label: label)
    two = SoftHSM.new_token!(module: real, label: label, pin: "87654321")
    chaos = Chaos.start!(real, module_env: one.module_env, tmp_dir: SoftHSM.dir())
    on_exit(fn -> Chaos.stop(chaos) end)
    [one, two] = for token <- [one, two], do: %{token | module: chaos.module}
    %{one: one, two: two, chaos: chaos, label: label}
  end

  defp start(token, opts) do
    name = :"partner-#{System.unique_integer([:positive])}"
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [name: name] ++ opts)}, id: name)
    name
  end

  defp random(pool), do: Pkcs11Pool.generate_random(pool, 8)

  test "a wrong PIN is tried once, though its source was asked for the other token",
       %{one: one, two: two, chaos: chaos, label: label} do
    test = self()
    watcher = start(one, pin: nil)
    assert {:ok, _} = random(watcher)
    Chaos.remove_token(chaos, slot_id: two.slot_id)

    source =
      ChaosToken.source!(fn ->
        send(test, {:asked, self()})
        receive do: (:go -> "00000000")
      end)

    opts = [slot: {:token_label, label}, pin: ChaosToken.pin(source), lazy: true, pool_size: 2]
    pool = start(one, opts)
    caller = Task.async(fn -> random(pool) end)
    assert_receive {:asked, asker}
    Chaos.return_token(chaos)
    Chaos.remove_token(chaos, slot_id: one.slot_id)
    assert {:error, _} = random(watcher)
    Poll.until(fn -> Pkcs11Pool.status(pool).state == :up end)
    ChaosToken.give(source, "00000000")
    send(asker, :go)
    assert {:error, _} = Task.await(caller, 60_000)

    for _ <- 1..3, do: assert({:error, %Error{reason: :pin_incorrect}} = random(pool))
    assert Chaos.calls(chaos, :C_Login) == 1
  end

  test "a login there with another PIN is a conflict",
       %{one: one, two: two, chaos: chaos, label: label} do
    Chaos.remove_token(chaos, slot_id: two.slot_id)
    pool = start(one, slot: {:token_label, label}, pool_size: 2)
    assert {:ok, _} = random(pool)
    Chaos.return_token(chaos)
    other = start(two, [])
    assert {:ok, _} = random(other)
    Chaos.remove_token(chaos, slot_id: one.slot_id)

    found = fn ->
      case random(pool) do
        {:error, %Error{reason: :token_unavailable}} -> nil
        found -> found
      end
    end

    assert {:error, %Error{reason: :login_conflict}} = Poll.until(found)
    stop_supervised!(other)
  end
end
