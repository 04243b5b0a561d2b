defmodule Pkcs11Pool.MetricsTest do
  # Stand-ins for the libraries are loaded for these tests only.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.{Error, Metrics}

  alias Pkcs11Pool.Test.{
    ChaosToken,
    GroupTokens,
    Poll,
    Pools,
    SoftHSM,
    TelemetryMetricsStandIn,
    TelemetryStandIn
  }

  alias Pkcs11Pool.Testing.Chaos

  @moduletag :capture_log

  @gauges [
    :size,
    :ceiling,
    :idle,
    :running,
    :leased,
    :waiting,
    :hung,
    :login,
    :breaker,
    :ready
  ]

  setup context do
    TelemetryStandIn.load!()
    unless context[:without_library], do: TelemetryMetricsStandIn.load!()
    :ok
  end

  defp start(opts \\ []) do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, [name: {:my, "pool"}] ++ opts)})
    :ok = Pkcs11Pool.await_ready({:my, "pool"}, 30_000)
    %{pool: {:my, "pool"}, chaos: token.chaos}
  end

  # What a reporter would record of the events that came: {metric's name, value, tags}.
  defp record(definitions) do
    receive do
      {event, measurements, metadata} ->
        recorded =
          for %{event_name: ^event} = metric <- definitions do
            # A reporter leaves out what has not all tags, or no such measurement.
            tags = metadata |> metric.tag_values.() |> Map.take(metric.tags)
            assert Enum.sort(Map.keys(tags)) == Enum.sort(metric.tags)

            assert is_number(measurements[metric.measurement]),
                   inspect({metric.name, measurements})

            for {_tag, value} <- tags, do: assert(is_binary(to_string(value)))
            {Enum.join(metric.name, "."), measurements[metric.measurement], tags}
          end

        recorded ++ record(definitions)
    after
      0 -> []
    end
  end

  @tag :without_library
  test "without telemetry_metrics, the definitions say what is missing" do
    unless Code.ensure_loaded?(Telemetry.Metrics) do
      assert_raise ArgumentError, ~r/add \{:telemetry_metrics, "~> 1.0"\}/, fn ->
        Metrics.definitions()
      end
    end
  end

  test "the definitions have names and units, and are of events that the documentation knows" do
    definitions = Metrics.definitions()
    names = for metric <- definitions, do: Enum.join(metric.name, ".")
    assert names == Enum.uniq(names)

    {:docs_v1, _, _, _, %{"en" => events}, _, _} = Code.fetch_docs(Pkcs11Pool.Telemetry)
    {:docs_v1, _, _, _, %{"en" => metrics}, _, _} = Code.fetch_docs(Metrics)

    for metric <- definitions do
      assert metric.description =~ ~r/\A[A-Z1]/
      [:pkcs11_pool | event] = metric.event_name
      assert events =~ "[:pkcs11_pool, " <> Enum.map_join(event, ", ", &inspect/1)
      [first | _] = metric.name |> Enum.drop(1) |> Enum.take(-1)
      assert metrics =~ Enum.join(metric.name, ".") or metrics =~ "`#{first}`"
    end

    durations = Enum.filter(definitions, &(&1.unit == {:native, :millisecond}))
    assert length(durations) == 5

    for metric <- durations do
      assert metric.__struct__ == Telemetry.Metrics.Distribution
      buckets = metric.reporter_options[:buckets]
      assert buckets == Enum.sort(buckets) and hd(buckets) > 0
    end

    gauges = for %{event_name: [_, :status]} = metric <- definitions, do: metric
    assert Enum.map(gauges, & &1.measurement) == @gauges
    assert Enum.all?(gauges, &(&1.__struct__ == Telemetry.Metrics.LastValue))
  end

  test "durations may be summaries, buckets others, and own tags have a value in any case" do
    summaries = Metrics.definitions(timing: :summary)
    refute Enum.any?(summaries, &(&1.__struct__ == Telemetry.Metrics.Distribution))
    assert Enum.count(summaries, &(&1.__struct__ == Telemetry.Metrics.Summary)) == 5

    own = Metrics.definitions(buckets: [1, 10], tags: [:tenant])
    duration = Enum.find(own, &(&1.name == [:pkcs11_pool, :operation, :duration]))
    assert duration.reporter_options == [buckets: [1, 10]]
    assert duration.tags == [:pool, :operation, :tenant]
    metadata = %{pool: :hsm, operation: :sign}

    assert duration.tag_values.(metadata) == %{pool: :hsm, operation: :sign, tenant: :none}

    assert %{tenant: "a", pool: "{:my, 1}"} =
             duration.tag_values.(%{metadata | pool: {:my, 1}} |> Map.put(:tenant, "a"))

    assert %{tenant: "<<255>>"} = duration.tag_values.(Map.put(metadata, :tenant, <<255>>))
  end

  test "a bad option raises" do
    for {opts, message} <- [
          {[timing: :gauge], ~r/invalid value for :timing option/},
          {[buckets: []], ~r/invalid value for :buckets option/},
          {[buckets: [2, 1]], ~r/invalid value for :buckets option/},
          {[buckets: [0]], ~r/invalid value for :buckets option/},
          {[buckets: [:a]], ~r/invalid value for :buckets option/},
          {[tags: ["a"]], ~r/invalid value for :tags option/},
          {[bucket: [1]], ~r/unknown options \[:bucket\].*did you mean :buckets\?/s},
          {:none, ~r/keyword list/}
        ] do
      assert_raise ArgumentError, message, fn -> Metrics.definitions(opts) end
    end
  end

  test "what happens to a pool is recorded by a reporter" do
    %{pool: pool, chaos: chaos} = start()
    assert {:ok, _} = Pkcs11Pool.generate_random(pool, 8)
    assert {:error, _} = Pkcs11Pool.sign(pool, "none", :ecdsa, "")
    assert :done = Pkcs11Pool.with_session(pool, fn -> :done end)
    Chaos.fail(chaos, :C_GenerateRandom, :device_error, count: 1)
    assert {:ok, _} = Pkcs11Pool.generate_random(pool, 8)
    assert Metrics.poll(pool) == :ok
    Pools.drained!(pool)
    # The server has reported.
    _state = :sys.get_state(Pools.server(pool))
    recorded = record(Metrics.definitions())
    tag = ~s({:my, "pool"})

    ok = %{pool: tag, operation: :generate_random, result: :ok, reason: :none}
    failed = %{pool: tag, operation: :sign, result: :error, reason: :key_not_found}
    counts = for {"pkcs11_pool.operation.count", _, tags} <- recorded, do: tags
    assert counts == [ok, failed, ok]

    for name <- ["duration", "queue_time"] do
      name = "pkcs11_pool.operation." <> name
      assert [_, _, _] = for({^name, value, _} when value > 0 <- recorded, do: value)
    end

    for name <- [
          "operation.retry.count",
          "lease.count",
          "lease.queue_time",
          "login.count",
          "login.duration",
          "session.opened.count",
          "open_session.duration",
          "status.idle"
        ] do
      assert Enum.any?(recorded, &match?({"pkcs11_pool." <> ^name, _, %{pool: ^tag}}, &1)), name
    end
  end

  test "the gauges of a pool, whose token goes away" do
    %{pool: pool, chaos: chaos} = start(pool_size: 3)
    Pools.drained!(pool)
    assert Metrics.poll(pool) == :ok
    assert_received {[:pkcs11_pool, :status], gauges, metadata}
    assert Enum.sort(Map.keys(gauges)) == Enum.sort(@gauges)

    assert %{size: 3, ceiling: 3, running: 0, waiting: 0, hung: 0, login: 1, breaker: 0, ready: 1} =
             gauges

    assert metadata == %{pool: pool, login: :logged_in, state: :up, health: :ready}

    Pkcs11Pool.with_session(pool, fn lease ->
      # By a lease as by the name.
      assert Metrics.poll(lease) == :ok
      assert_received {[:pkcs11_pool, :status], %{leased: 1}, %{pool: ^pool}}
    end)

    Chaos.remove_token(chaos)
    assert {:error, _} = Pkcs11Pool.generate_random(pool, 8)
    Poll.until(fn -> Pkcs11Pool.status(pool).state == :down end)
    assert Metrics.poll(pool) == :ok

    assert_received {[:pkcs11_pool, :status], %{breaker: 1, ready: 0},
                     %{state: :down, health: :down}}

    Chaos.return_token(chaos)
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
  end

  test "a group: the gauges of its members on this node, and its failovers" do
    {key, _public} = GroupTokens.new_key()
    [a, b] = for _ <- 1..2, do: GroupTokens.start!(key, pool_size: 2)
    start_supervised!({Pkcs11Pool.Group, name: :both, members: [a.pool, b.pool, :not_running]})
    assert Metrics.poll(:both) == :ok

    for %{pool: pool} <- [a, b],
        do: assert_received({[:pkcs11_pool, :status], %{size: 2}, %{pool: ^pool}})

    refute_received {[:pkcs11_pool, :status], _, _}

    Pkcs11Pool.Telemetry.Emitter.execute([:group, :failover], %{count: 1}, %{
      group: :both,
      from: {a.pool, node()},
      to: {b.pool, node()},
      reason: :token_unavailable
    })

    failover = %{group: :both, reason: :token_unavailable}
    assert {"pkcs11_pool.group.failover.count", 1, failover} in record(Metrics.definitions())
  end

  test "a pool that does not run has no gauges, and does not stop the poller" do
    assert {:error, %Error{reason: :pool_not_found}} = Metrics.poll(:nobody)
    refute_received {[:pkcs11_pool, :status], _, _}
  end
end
