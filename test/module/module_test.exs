defmodule Pkcs11Pool.ModuleTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}

  setup do
    %{token: SoftHSM.spy!(SoftHSM.new_token!())}
  end

  test "pools of one module share its C_Initialize, whatever way its path is spelled", %{
    token: token
  } do
    dir = Path.dirname(token.module)
    file = Path.basename(token.module)
    link = Path.join(dir, "link-" <> file)
    File.ln_s!(token.module, link)

    paths = [token.module, link, Path.join([dir, "..", Path.basename(dir), ".", file])]

    pools =
      for {path, index} <- Enum.with_index(paths) do
        start(token, name: {token.label, index}, module: path)
      end

    for pool <- pools, do: assert({:ok, _random} = Pkcs11Pool.generate_random(pool, 8))
    # One login does for all, too.
    assert %{"C_Initialize" => 1, "C_Login" => 1} = SoftHSM.calls(token)

    {last, others} = List.pop_at(pools, 1)
    Enum.each(others, &stop/1)
    assert {:ok, _random} = Pkcs11Pool.generate_random(last, 8)
    refute SoftHSM.calls(token)["C_Finalize"]

    stop(last)
    Poll.until(fn -> SoftHSM.calls(token)["C_Finalize"] == 1 end)
  end

  test "start and stop again and again keep C_Initialize and C_Finalize in step", %{token: token} do
    for round <- 1..10 do
      pool = start(token)
      assert {:ok, _random} = Pkcs11Pool.generate_random(pool, 8)
      stop(pool)
      Poll.until(fn -> SoftHSM.calls(token)["C_Finalize"] == round end)
    end

    calls = SoftHSM.calls(token)
    assert %{"C_Initialize" => 10, "C_Login" => 10} = calls
    assert calls["C_OpenSession"] == calls["C_CloseSession"]
  end

  test "a start does not wait for the C_Finalize of the stop before it", %{token: token} do
    for _ <- 1..20 do
      pool = start(token)
      assert {:ok, _random} = Pkcs11Pool.generate_random(pool, 8)
      stop(pool)
    end

    Poll.until(fn ->
      calls = SoftHSM.calls(token)
      calls["C_Finalize"] == calls["C_Initialize"]
    end)
  end

  test "pools that start at once initialize the module once", %{token: token} do
    pools =
      1..8
      |> Enum.map(&Task.async(fn -> start(token, name: {token.label, &1}) end))
      |> Task.await_many(60_000)

    for pool <- pools, do: assert({:ok, _random} = Pkcs11Pool.generate_random(pool, 8))
    assert %{"C_Initialize" => 1, "C_Login" => 1} = SoftHSM.calls(token)

    pools |> Enum.map(&Task.async(fn -> stop(&1) end)) |> Task.await_many(60_000)
    Poll.until(fn -> SoftHSM.calls(token)["C_Finalize"] == 1 end)
  end

  test "a pool whose token is not there lets the module go until it looks again", %{token: token} do
    pool = start(token, slot: {:token_label, "nowhere"}, lazy: true)
    assert {:error, %{reason: :slot_not_found}} = Pkcs11Pool.generate_random(pool, 8)
    Poll.until(fn -> SoftHSM.calls(token)["C_Finalize"] end)
    stop(pool)
  end

  describe "sessions" do
    test "open on demand, up to :pool_size, and are closed with the pool", %{token: token} do
      pool = start(token, pool_size: 3)
      callers = for _ <- 1..50, do: Task.async(fn -> Pkcs11Pool.generate_random(pool, 20_000) end)
      for result <- Task.await_many(callers, 30_000), do: assert({:ok, _random} = result)
      assert %{idle: 3} = Pools.drained!(pool)
      assert opened(token) == 3

      stop(pool)
      Poll.until(fn -> opened(token) == 0 end)
    end

    test "that lie idle are closed after :idle_ttl, but not the last one of a login", %{
      token: token
    } do
      pool = start(token, pool_size: 3, idle_ttl: 200)
      callers = for _ <- 1..50, do: Task.async(fn -> Pkcs11Pool.generate_random(pool, 20_000) end)
      for result <- Task.await_many(callers, 30_000), do: assert({:ok, _random} = result)
      assert SoftHSM.calls(token)["C_OpenSession"] > 1

      Poll.until(fn -> opened(token) == 1 end)
      assert %{idle: 1} = Pools.drained!(pool)
      # Several TTLs and looks later it is still there.
      Process.sleep(800)
      assert opened(token) == 1
      assert {:ok, _random} = Pkcs11Pool.generate_random(pool, 8)
      assert SoftHSM.calls(token)["C_Login"] == 1
      stop(pool)
    end

    test "are opened by a :lazy pool when they are first needed", %{token: token} do
      pool = start(token, lazy: true)
      # Module and slot are known all the same.
      assert %{"C_Initialize" => 1, "C_GetTokenInfo" => _} = SoftHSM.calls(token)
      assert %{state: :up, idle: 0} = Pkcs11Pool.status(pool)
      refute SoftHSM.calls(token)["C_OpenSession"]

      assert {:ok, _random} = Pkcs11Pool.generate_random(pool, 8)
      assert %{idle: idle} = Pools.drained!(pool)
      assert opened(token) == idle
      assert SoftHSM.calls(token)["C_Login"] == 1
      stop(pool)
    end
  end

  defp start(token, overrides \\ []) do
    opts = SoftHSM.pool_opts(token, Keyword.merge([pool_size: 2], overrides))
    {:ok, supervisor} = Pkcs11Pool.start_link(opts)
    Process.unlink(supervisor)
    unless opts[:lazy], do: :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
    opts[:name]
  end

  defp stop(pool), do: Supervisor.stop(Pools.supervisor(pool))

  defp opened(token) do
    calls = SoftHSM.calls(token)
    Map.get(calls, "C_OpenSession", 0) - Map.get(calls, "C_CloseSession", 0)
  end
end
