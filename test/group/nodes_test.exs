defmodule Pkcs11Pool.GroupNodesTest do
  # A group over three nodes: this one, without tokens, and two with a pool each, whose tokens have the same key. The chaos modules are steered from here.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.{Error, Group}
  alias Pkcs11Pool.Test.{Cluster, GroupTokens, Poll}
  alias Pkcs11Pool.Testing
  alias Pkcs11Pool.Testing.Chaos

  @moduletag timeout: 300_000
  @mechanism {:ecdsa, hash: :sha256}

  setup_all do
    on_exit(Cluster.start!())
  end

  setup do
    {key, public} = GroupTokens.new_key()
    group = :"group-#{System.unique_integer([:positive])}"
    options = [name: group, scope: :pkcs11_pool_test]
    [a, b] = for _ <- 1..2, do: start_member!(group, key, options)
    start_supervised!({Group, options ++ [members: []]})
    Poll.until(fn -> length(Pkcs11Pool.status(group).members) == 2 end)
    for %{chaos: chaos} <- [a, b], do: Chaos.reset_counts(chaos)
    %{group: group, a: a, b: b, public: public}
  end

  # A node of its own, with a pool and the group.
  defp start_member!(group, key, options) do
    %{node: node} = peer = Cluster.start_node!()
    # In that node, whose chaos module is steered by a socket: so it can be from here, too.
    token = :erpc.call(node, Testing, :new_token!, [[chaos: true]])
    on_exit(fn -> File.rm_rf!(token.dir) end)
    pool = {:hsm, node}
    opts = Testing.pool_options(token, name: pool, pool_size: 4)

    {:ok, _supervisor} =
      Cluster.start_children(node, [{Pkcs11Pool, opts}, {Group, options ++ [members: [pool]]}])

    :ok = :erpc.call(node, GroupTokens, :import!, [pool, key, "signing"])
    Map.merge(peer, %{pool: pool, chaos: token.chaos, group: group})
  end

  defp sign(group, opts \\ []),
    do: Pkcs11Pool.sign(group, "signing", @mechanism, "data", [signature: :der] ++ opts)

  defp calls(member), do: Chaos.calls(member.chaos, :C_Sign)

  test "calls go to the members of other nodes", %{group: group, a: a, b: b, public: public} do
    for _ <- 1..40 do
      assert {:ok, signature} = sign(group)
      assert :public_key.verify("data", :sha256, signature, public)
    end

    assert calls(a) + calls(b) == 40
    assert calls(a) > 0 and calls(b) > 0

    assert_raise ArgumentError, ~r/unknown mechanism/, fn ->
      Pkcs11Pool.sign(group, "signing", :nonsense, "data")
    end

    assert %{health: :ready} = Pkcs11Pool.status(group)
    assert {:ok, [%{label: "signing", missing: [], same: true}]} = Group.check_keys(group)

    assert_raise Error, ~r/no member/, fn ->
      Enum.to_list(Pkcs11Pool.encrypt_stream(group, "signing", :aes_ecb, ["a"]))
    end
  end

  # Signatures are counted on both tokens, and compared with the answers: each `executed: false` added none, each `:unknown` one at most.
  for {what, disturb} <- [
        {"a node that is killed", :kill},
        {"a node that hangs", :stop},
        {"a node that is disconnected", :disconnect},
        {"a member that is drained", :drain}
      ] do
    test "#{what} under 64 callers: each call has one answer, none lies, and the other member goes on",
         %{group: group, a: a, b: b, public: public} do
      Chaos.latency(a.chaos, :C_Sign, 5)
      Chaos.latency(b.chaos, :C_Sign, 5)
      parent = self()
      counter = :counters.new(1, [])

      callers =
        for _ <- 1..64 do
          Task.async(fn ->
            for _ <- 1..25 do
              started = System.monotonic_time(:millisecond)
              result = sign(group, queue_timeout: 2_000, operation_timeout: 2_000)
              :counters.add(counter, 1, 1)
              {result, System.monotonic_time(:millisecond) - started}
            end
          end)
        end

      Poll.until(fn -> :counters.get(counter, 1) > 200 end)
      disturb(unquote(disturb), a)
      answers = callers |> Enum.flat_map(&Task.await(&1, 120_000))
      heal(unquote(disturb), a)
      send(parent, :done)
      assert_received :done
      {:messages, messages} = Process.info(self(), :messages)
      assert messages == []

      assert length(answers) == 64 * 25
      ok = for {{:ok, signature}, _ms} <- answers, do: signature
      unknown = for {{:error, %Error{executed: :unknown}}, _ms} <- answers, do: :unknown

      assert length(ok) + length(unknown) +
               Enum.count(answers, &match?({{:error, %Error{executed: false}}, _ms}, &1)) ==
               64 * 25

      for signature <- Enum.take_random(ok, 100),
          do: assert(:public_key.verify("data", :sha256, signature, public))

      unless unquote(disturb) == :kill, do: assert(calls(a) + calls(b) >= length(ok))
      # What a dead process has counted is gone.
      made = if unquote(disturb) == :kill, do: calls(b), else: calls(a) + calls(b)
      assert made <= length(ok) + length(unknown)
      # Most went well: the other member served.
      assert length(ok) > 64 * 25 * 0.8
      Poll.until(fn -> match?({:ok, _signature}, sign(group)) end)
    end
  end

  defp disturb(:kill, a), do: Cluster.signal!(a, "KILL")
  defp disturb(:stop, a), do: Cluster.signal!(a, "STOP")
  defp disturb(:disconnect, a), do: true = Node.disconnect(a.node)
  defp disturb(:drain, a), do: :erpc.call(a.node, Pkcs11Pool, :drain, [a.pool, 0])

  defp heal(:stop, a), do: Cluster.signal!(a, "CONT")
  defp heal(_other, _a), do: :ok

  test "a node that comes back is used again", %{group: group, a: a} do
    Node.disconnect(a.node)
    for _ <- 1..10, do: assert({:ok, _signature} = sign(group))
    before = calls(a)
    true = Node.connect(a.node)
    Poll.until(fn -> assert({:ok, _signature} = sign(group)) && calls(a) > before end)
  end

  test "a node that hangs is left out until it answers again", %{group: group, a: a, b: b} do
    Cluster.signal!(a, "STOP")
    # Until the group has noticed, calls may come to it.
    Poll.until(fn ->
      match?(
        {:error, %Error{reason: :node_unavailable, executed: :unknown}},
        sign(group, queue_timeout: 100, operation_timeout: 100)
      )
    end)

    before = calls(b)
    for _ <- 1..20, do: assert({:ok, _signature} = sign(group))
    assert calls(b) == before + 20
    Cluster.signal!(a, "CONT")

    Poll.until(fn ->
      assert({:ok, _signature} = sign(group)) &&
        Enum.all?(Pkcs11Pool.status(group).members, & &1.available)
    end)
  end
end
