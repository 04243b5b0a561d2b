defmodule Pkcs11Pool.GroupTest do
  # A group of two pools of this node, each on a token of its own with the same key.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Group, Health, JWK, JWS, OTP, X509}
  alias Pkcs11Pool.Registry
  alias Pkcs11Pool.Test.{GroupTokens, Poll, Pools}
  alias Pkcs11Pool.Testing.Chaos

  @mechanism {:ecdsa, hash: :sha256}

  setup context do
    {key, public} = GroupTokens.new_key()
    a = GroupTokens.start!(key, pool_size: 2)
    b = GroupTokens.start!(key, pool_size: 2)
    group = :"group-#{System.unique_integer([:positive])}"
    options = [name: group, members: [a.pool, b.pool]] ++ Map.get(context, :group, [])
    start_supervised!({Group, options})
    for %{chaos: chaos} <- [a, b], do: Chaos.reset_counts(chaos)
    %{group: group, a: a, b: b, key: key, public: public}
  end

  defp signs?(group, public) do
    with {:ok, signature} <-
           Pkcs11Pool.sign(group, "signing", @mechanism, "data", signature: :der),
         do: :public_key.verify("data", :sha256, signature, public)
  end

  defp calls(member, function \\ :C_Sign), do: Chaos.calls(member.chaos, function)

  test "calls with the group's name are shared among its members", %{
    group: group,
    a: a,
    b: b,
    public: public
  } do
    for _ <- 1..60, do: assert(signs?(group, public))
    assert calls(a) + calls(b) == 60
    # Of 60 fair choices, fewer than 5 of one side come once in 10^11.
    assert calls(a) >= 5 and calls(b) >= 5
  end

  test "of two, the one with fewer operations waiting gets the call", %{
    group: group,
    a: a,
    b: b,
    public: public
  } do
    Chaos.hang(a.chaos, :C_Sign)

    stuck =
      for _ <- 1..4,
          do:
            Task.async(fn ->
              Pkcs11Pool.sign(a.pool, "signing", @mechanism, "data", operation_timeout: 60_000)
            end)

    Poll.until(fn -> Pkcs11Pool.status(a.pool).waiting == 2 end)
    for _ <- 1..30, do: assert(signs?(group, public))
    assert calls(b) == 30
    Chaos.release(a.chaos)
    for task <- stuck, do: assert({:ok, _signature} = Task.await(task, 60_000))
  end

  test "a member whose token is away gets no calls, and gets them again when it is back", %{
    group: group,
    a: a,
    b: b,
    public: public
  } do
    Chaos.remove_token(a.chaos)
    for _ <- 1..20, do: assert(signs?(group, public))
    assert calls(b) >= 20
    Chaos.return_token(a.chaos)
    assert :ok = Pkcs11Pool.await_ready(a.pool, 30_000)
    Chaos.reset_counts(a.chaos)

    Poll.until(fn ->
      assert signs?(group, public)
      calls(a) > 0
    end)
  end

  test "what the first member has certainly not executed, another does", %{
    group: group,
    a: a,
    b: b,
    public: public
  } do
    Pkcs11Pool.drain!(a.pool, 10_000)
    for _ <- 1..20, do: assert(signs?(group, public))
    assert {calls(a), calls(b)} == {0, 20}
  end

  test "a pool that crashes and restarts under callers: each call has one answer, and what may have run is not done again",
       context do
    %{group: group, a: a, b: b} = context
    for member <- [a, b], do: Chaos.latency(member.chaos, :C_Sign, 2)

    callers =
      for _ <- 1..32 do
        Task.async(fn ->
          for _ <- 1..40, do: Pkcs11Pool.sign(group, "signing", @mechanism, "data")
        end)
      end

    Poll.until(fn -> calls(a) > 50 end)
    server = Pools.server(a.pool)
    Process.exit(server, :kill)
    answers = Enum.flat_map(callers, &Task.await(&1, 60_000))
    assert length(answers) == 32 * 40
    signed = Enum.count(answers, &match?({:ok, _signature}, &1))
    unknown = Enum.count(answers, &match?({:error, %Error{executed: :unknown}}, &1))
    assert (calls(a) + calls(b)) in signed..(signed + unknown)
    # Two sessions may have been inside, and what waited went to the other member.
    assert unknown <= 2 and signed >= 32 * 40 - 2

    Poll.until(fn ->
      match?(pid when is_pid(pid) and pid != server, Registry.whereis(:server, a.pool))
    end)

    before = calls(a)

    Poll.until(fn ->
      match?({:ok, _}, Pkcs11Pool.sign(group, "signing", @mechanism, "data")) and
        calls(a) > before
    end)
  end

  test "a key that one member lacks is found on the other", %{group: group, a: a} do
    GroupTokens.import!(a.pool, elem(GroupTokens.new_key(), 0), "only here")

    for _ <- 1..10,
        do: assert({:ok, _signature} = Pkcs11Pool.sign(group, "only here", @mechanism, "data"))

    assert {:error, %Error{reason: :key_not_found}} =
             Pkcs11Pool.sign(group, "nowhere", @mechanism, "data")
  end

  test "what may have been executed is not done again", %{group: group, a: a, b: b} do
    for member <- [a, b], do: Chaos.fail(member.chaos, :C_Sign, :device_error)

    assert {:error, %Error{executed: :unknown}} =
             Pkcs11Pool.sign(group, "signing", @mechanism, "data")

    # The pool itself may try again on the same token.
    assert 0 in [calls(a), calls(b)]
  end

  @tag group: [strategy: :priority]
  test "with strategy: :priority the first gets all, and the second while the first is away", %{
    group: group,
    a: a,
    b: b,
    public: public
  } do
    for _ <- 1..20, do: assert(signs?(group, public))
    assert {calls(a), calls(b)} == {20, 0}
    Chaos.remove_token(a.chaos)
    for _ <- 1..20, do: assert(signs?(group, public))
    assert calls(b) == 20
  end

  # In place of `Pkcs11Pool`: waits 50 ms for a session, and has none.
  defmodule Refusing do
    def sign(pool, _key, _mechanism, _data, opts) do
      send(self(), {:asked, pool, opts[:queue_timeout]})
      Process.sleep(50)
      {:error, Error.new(:token_unavailable, pool: pool)}
    end
  end

  test "both attempts share one :queue_timeout", %{group: group} do
    sign =
      &Group.Call.any(Refusing, group, :sign, ["signing", @mechanism, "data", [queue_timeout: &1]])

    assert {:error, %Error{reason: :token_unavailable}} = sign.(60_000)
    assert_received {:asked, first, 60_000}
    assert_received {:asked, second, left}
    assert left <= 59_950 and second != first

    assert {:error, %Error{reason: :token_unavailable}} = sign.(10)
    assert_received {:asked, _first, 10}
    refute_received {:asked, _second, _left}
  end

  test "an object goes to the member whose token it is of", %{group: group, a: a, b: b} do
    for member <- [a, b] do
      {:ok, [object]} = Pkcs11Pool.find_objects(member.pool, class: :private_key)
      before = calls(member)

      for _ <- 1..10,
          do: assert({:ok, _signature} = Pkcs11Pool.sign(group, object, @mechanism, "data"))

      assert calls(member) == before + 10
    end
  end

  test "an object's error is that of its member, and no other is asked", %{
    group: group,
    a: a,
    b: b
  } do
    {:ok, [object]} = Pkcs11Pool.find_objects(a.pool, class: :private_key)
    Pkcs11Pool.drain!(a.pool, 10_000)

    assert {:error, %Error{reason: :draining}} =
             Pkcs11Pool.sign(group, object, @mechanism, "data")

    assert calls(b) == 0
  end

  test "the calls of a block stay on its member", %{group: group, a: a, b: b} do
    Pkcs11Pool.with_session(group, fn ->
      for _ <- 1..10,
          do: assert({:ok, _signature} = Pkcs11Pool.sign(group, "signing", @mechanism, "data"))

      {:ok, object} =
        Pkcs11Pool.generate_key(leased(a, b), :aes_key_gen,
          token: false,
          value_len: 16,
          encrypt: true
        )

      assert {:ok, _bytes} = Pkcs11Pool.encrypt(group, object, :aes_ecb, <<0::128>>)
    end)

    assert 10 in [calls(a), calls(b)] and 0 in [calls(a), calls(b)]
    assert Process.get({Group.Call, group}) == nil
  end

  defp leased(a, b),
    do: Enum.find([a.pool, b.pool], &(Pkcs11Pool.status(&1).leased == 1))

  test "streams run on one member", %{group: group, public: public} do
    data = for n <- 1..10, do: "part #{n}"

    assert {:ok, signature} =
             Pkcs11Pool.sign_stream(group, "signing", @mechanism, data, signature: :der)

    assert :public_key.verify(Enum.join(data), :sha256, signature, public)
    assert {:ok, digest} = Pkcs11Pool.digest_stream(group, :sha256, data)
    assert digest == :crypto.hash(:sha256, data)
  end

  test "lists, digests and random bytes", %{group: group} do
    assert {:ok, [ok: _, ok: _]} = Pkcs11Pool.sign_many(group, "signing", @mechanism, ["a", "b"])
    assert Pkcs11Pool.digest!(group, :sha256, "a") == :crypto.hash(:sha256, "a")
    assert byte_size(Pkcs11Pool.generate_random!(group, 8)) == 8
    assert {:ok, [_ | _]} = Pkcs11Pool.mechanisms(group)
  end

  test "what makes or changes something takes a member, and the error says so", %{
    group: group,
    a: a
  } do
    for call <- [
          fn -> Pkcs11Pool.generate_key(group, :aes_key_gen, []) end,
          fn -> Pkcs11Pool.destroy_object(group, "signing") end,
          fn -> Pkcs11Pool.login(group, {:env, "PIN"}) end,
          fn -> Pkcs11Pool.resize(group, 3) end,
          fn -> Pkcs11Pool.prepare(group, :sign, "signing", @mechanism) end,
          fn -> Pkcs11Pool.drain!(group, 0) end
        ] do
      assert %ArgumentError{message: message} = catch_error(call.())
      assert message =~ "is a matter of one token" and message =~ inspect(a.pool)
    end
  end

  test "a mistake in the shape of a call raises as with a pool", %{group: group} do
    assert_raise ArgumentError, ~r/unknown mechanism/, fn ->
      Pkcs11Pool.sign(group, "signing", :nonsense, "data")
    end

    assert_raise ArgumentError, ~r/:queue_timeout/, fn ->
      Pkcs11Pool.sign(group, "signing", @mechanism, "data", queue_timeout: -1)
    end

    assert_raise ArgumentError, fn ->
      Pkcs11Pool.sign(group, "signing", @mechanism, "data", :no_options)
    end
  end

  test "status, health and await_ready", %{group: group, a: a, b: b} do
    assert :ok = Pkcs11Pool.await_ready(group, 10_000)
    assert :ok = Group.await_ready(group, 10_000)
    assert %{health: :ready, health_reason: nil, members: members} = Pkcs11Pool.status(group)

    assert [{a.pool, true, :ready}, {b.pool, true, :ready}] ==
             for(m <- members, do: {m.pool, m.available, m.status.health})

    assert :ok = Health.check(group)
    assert :ok = Health.check(group, call: true)

    Pkcs11Pool.drain!(a.pool, 10_000)

    assert %{health: :degraded, health_reason: %Error{reason: :draining}} =
             Pkcs11Pool.status(group)

    assert {:degraded, %Error{reason: :draining}} = Health.check(group)
    assert {:error, %Error{}} = Group.await_ready(group, 50)
    assert :ok = Pkcs11Pool.await_ready(group, 1_000)

    Pkcs11Pool.drain!(b.pool, 10_000)
    assert %{health: :down} = Pkcs11Pool.status(group)
    assert {:error, %Error{reason: :draining}} = Health.check(group)

    assert {:error, %Error{reason: :draining, executed: false}} =
             Pkcs11Pool.sign(group, "signing", @mechanism, "data")
  end

  test "signed JSON, certificates and keys for :ssl take a group, too", %{
    group: group,
    public: public
  } do
    assert {:ok, jws} = JWS.sign(group, "signing", %{"a" => 1}, alg: "ES256")

    assert {:ok, %{payload: _}} =
             JWS.verify(jws, JWK.public!(group, "signing"), algorithms: ["ES256"])

    assert {:ok, der} = X509.self_signed(group, "signing", common_name: "group")
    assert :public_key.pkix_verify(der, public)

    if OTP.supported?() do
      key = OTP.private_key!(group, "signing")
      signature = :public_key.sign("data", :sha256, key)
      assert :public_key.verify("data", :sha256, signature, public)
      digest = :crypto.hash(:sha512, "data")
      signature = :public_key.sign({:digest, digest}, :sha512, key)
      assert :public_key.verify({:digest, digest}, :sha512, signature, public)
    end
  end

  test "check_keys/2 says which keys each member has, and whether they are the same", %{
    group: group,
    a: a,
    b: b
  } do
    for member <- [a, b],
        do: GroupTokens.import!(member.pool, elem(GroupTokens.new_key(), 0), "different")

    GroupTokens.import!(b.pool, elem(GroupTokens.new_key(), 0), "only on b")
    of_a = {a.pool, node()}
    of_b = {b.pool, node()}

    assert {:ok,
            [
              %{
                label: "different",
                class: :private_key,
                on: [^of_a, ^of_b],
                missing: [],
                same: false
              },
              %{label: "only on b", on: [^of_b], missing: [^of_a], same: true},
              %{label: "signing", type: :ec, on: [^of_a, ^of_b], missing: [], same: true}
            ]} = Group.check_keys(group)
  end

  test "a group that ends is no group any more, and its name is free again",
       %{group: group, a: a, public: public} do
    stop_supervised!({Group, group})

    assert {:error, %Error{reason: :pool_not_found}} =
             Pkcs11Pool.sign(group, "signing", @mechanism, "data")

    assert_raise Error, fn -> Pkcs11Pool.status(group) end
    start_supervised!({Group, name: group, members: [a.pool]})
    assert signs?(group, public)
  end

  test "the group's server dies, and calls go on", %{group: group, public: public} do
    [{server, _}] = Elixir.Registry.lookup(Registry, {:group, group})
    Process.exit(server, :kill)

    Poll.until(fn ->
      match?([{pid, _}] when pid != server, Elixir.Registry.lookup(Registry, {:group, group}))
    end)

    assert signs?(group, public)
  end

  test "bad options raise, and name the option" do
    for {options, message} <- [
          {[members: []], ~r/:name/},
          {[name: :g], ~r/:members/},
          {[name: "g", members: []], ~r/:name/},
          {[name: :g, members: [:g]], ~r/:members/},
          {[name: :g, members: [:a, :a]], ~r/:members/},
          {[name: :g, members: [], strategy: :fastest], ~r/:strategy/},
          {[name: :g, members: [], scope: "s"], ~r/:scope/},
          {[name: :g, members: [], member: 1], ~r/unknown options \[:member\]/},
          {:nonsense, ~r/keyword list/}
        ] do
      assert_raise ArgumentError, message, fn -> Group.child_spec(options) end
    end
  end

  test "a group of which no pool runs says that of a pool" do
    for strategy <- [:balance, :priority] do
      group = :"group-#{System.unique_integer([:positive])}"
      options = [name: group, members: [:"#{group}-1", :"#{group}-2"], strategy: strategy]
      start_supervised!({Group, options}, id: group)

      assert {:error, %Error{reason: :pool_not_found, executed: false}} =
               Pkcs11Pool.sign(group, "signing", @mechanism, "data")
    end
  end

  test "a group without members says so" do
    group = :"group-#{System.unique_integer([:positive])}"
    start_supervised!({Group, name: group, members: []}, id: :empty)

    assert {:error, %Error{reason: :no_member, executed: false}} =
             Pkcs11Pool.sign(group, "signing", @mechanism, "data")

    assert %{health: :down, health_reason: %Error{reason: :no_member}} = Pkcs11Pool.status(group)
  end
end
