defmodule Pkcs11Pool.P11KitTest do
  # A module that runs in another process, by p11-kit's server and client: what kills the one does not kill the VM, and the pool comes back.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, P11Kit, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do
    # The server's module is one that can be made to hang.
    token = ChaosToken.new!()
    server = P11Kit.new!(token)

    on_exit(fn ->
      P11Kit.stop!(server)
      Chaos.stop(token.chaos)
    end)

    P11Kit.start!(server)
    pool = :"pool-#{System.unique_integer([:positive])}"

    opts = [
      name: pool,
      module: server.client,
      module_env: server.client_env,
      slot: {:token_label, token.label},
      pin: fn -> token.pin end,
      pool_size: 4
    ]

    start_supervised!({Pkcs11Pool, opts})
    Poll.until(fn -> Pkcs11Pool.await_ready(pool, 30_000) == :ok end)

    Pools.key_pair!(pool, "key")

    %{pool: pool, server: server, chaos: token.chaos}
  end

  defp sign(pool, opts \\ []), do: Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>, opts)

  test "operations run as they do without it", %{pool: pool} do
    assert {:ok, signature} = sign(pool)
    assert :ok = Pkcs11Pool.verify(pool, "key", :ecdsa, <<0::256>>, signature)
    results = Task.await_many(for(_ <- 1..32, do: Task.async(fn -> sign(pool) end)), 60_000)
    for result <- results, do: assert({:ok, _signature} = result)
    Pools.drained!(pool)
  end

  test "a server that is killed in the midst of operations, and started again", %{
    pool: pool,
    server: server,
    chaos: chaos
  } do
    pool_server = Pools.server(pool)
    assert {:ok, _signature} = sign(pool)
    Chaos.hang(chaos, :C_Sign)
    callers = for _ <- 1..8, do: Task.async(fn -> sign(pool) end)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)
    P11Kit.kill!(server)

    for result <- Task.await_many(callers, 20_000), do: assert({:error, %Error{}} = result)
    down = Poll.until(fn -> Pkcs11Pool.status(pool)[:down] end)
    assert %Error{reason: :token_unavailable} = down
    assert {:error, %Error{reason: :token_unavailable, executed: false}} = sign(pool)

    P11Kit.start!(server)
    Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end, 20_000)
    assert Pools.server(pool) == pool_server
    assert %{state: :up, login: :logged_in} = Pkcs11Pool.status(pool)
    Pools.drained!(pool)
  end

  test "a server that crashes and is up again before anybody notices", %{
    pool: pool,
    server: server
  } do
    assert {:ok, _signature} = sign(pool)
    P11Kit.kill!(server)
    P11Kit.start!(server)
    Poll.until(fn -> match?({:ok, _signature}, sign(pool)) end, 20_000)
    Pools.drained!(pool)
  end

  test "a pool that starts before the server", %{server: server} do
    P11Kit.kill!(server)
    late = P11Kit.new!(SoftHSM.new_token!())
    on_exit(fn -> P11Kit.stop!(late) end)
    pool = :"pool-#{System.unique_integer([:positive])}"
    token = late.token

    opts = [
      name: pool,
      module: late.client,
      module_env: late.client_env,
      slot: {:token_label, token.label},
      pin: fn -> token.pin end
    ]

    start_supervised!({Pkcs11Pool, opts}, id: pool)
    assert {:error, %Error{}} = Pkcs11Pool.generate_random(pool, 8)
    P11Kit.start!(late)
    assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    assert {:ok, _bytes} = Pkcs11Pool.generate_random(pool, 8)
    Pools.drained!(pool)
  end
end
