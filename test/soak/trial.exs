defmodule Pkcs11Pool.Soak.Trial do
  @moduledoc false
  # One pool's soak: warm up, storm, calm, and the comparison of then and now.

  alias Pkcs11Pool.Soak.{Callers, Gauges, Storm}
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @size 6
  @warm_up 3_000
  # From the end of the storm until every call succeeds, and for how long that is looked at.
  @recovery 5_000
  @calm 3_000
  # A call may outlast its deadline by so much; a tenth of it is expected.
  @outlast 1_000
  # The line through the resident memory of the storm's last half may rise by so much, as a share of the mean and in bytes: allocators keep what they had.
  @rise_share 0.08
  @rise_bytes 8 * 1024 * 1024

  @doc "Runs it, prints what was seen, and returns what is wrong."
  def run(executor, duration, seed) do
    %{chaos: chaos} = token = ChaosToken.new!()

    opts =
      SoftHSM.pool_opts(
        token,
        [pool_size: @size, executor: executor, idle_ttl: 2_000, lease_timeout: 2_000] ++
          [trouble_timeout: 300, trouble_interval: 1_000] ++
          Callers.timeouts()
      )

    pool = opts[:name]

    {:ok, supervisor} =
      Supervisor.start_link([{Pkcs11Pool, opts}], strategy: :one_for_one, max_restarts: 1_000)

    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    Pools.key_pair!(pool, "key")
    Pools.key_pair!(pool, "card", always_authenticate: true)
    callers = Callers.new(pool, token.pin)
    watchers = Callers.start(callers)
    Process.sleep(@warm_up)
    before = Gauges.read()
    sampler = Gauges.start()
    faults = Storm.rage(chaos, opts, callers, token.slot_id, duration, seed)
    Callers.calm(callers)
    samples = Gauges.stop(sampler)
    Process.sleep(@recovery)
    Callers.expect_success(callers)
    Process.sleep(@calm)
    later = settled(before)
    mailboxes = Callers.stop(callers, watchers)
    rest = rest(pool, chaos)
    {rise, mean} = Gauges.rise(samples)
    counts = Callers.counts(callers)

    report(executor, faults, counts, before, later, {rise, mean}, Callers.outlasted(callers))

    failures =
      Callers.lies(callers) ++
        wrong(Enum.any?(mailboxes, &(&1 == :stuck)), "a caller is stuck") ++
        wrong(
          Enum.any?(mailboxes, &(is_integer(&1) and &1 > 0)),
          "messages are left in callers' mailboxes: #{inspect(mailboxes)}"
        ) ++
        wrong(
          later.threads > before.threads,
          "#{later.threads} threads, #{before.threads} before"
        ) ++
        wrong(
          later.files > before.files,
          "#{later.files} file descriptors, #{before.files} before"
        ) ++
        wrong(
          leaks?(rise, mean, later.rss - before.rss),
          "the resident memory rises by #{mib(rise)} of #{mib(mean)}, and is #{mib(later.rss - before.rss)} more when all is calm again"
        ) ++
        wrong(
          executor == :threads and Callers.outlasted(callers) > @outlast,
          "a call outlasted its deadline by #{Callers.outlasted(callers)} ms"
        ) ++
        rest

    Supervisor.stop(supervisor)
    Chaos.stop(chaos)
    failures
  end

  # What is never given back rises in the storm, and is still there when all is calm. The storm's own highs and lows are not.
  defp leaks?(rise, mean, kept),
    do: rise > @rise_bytes and rise > @rise_share * mean and kept > @rise_bytes

  defp wrong(true, text), do: [text]
  defp wrong(false, _text), do: []

  # Threads that are about to end are given time for it.
  defp settled(before) do
    Enum.reduce_while(1..50, nil, fn _try, _seen ->
      now = Gauges.read()

      if now.threads <= before.threads and now.files <= before.files do
        {:halt, now}
      else
        Process.sleep(100)
        {:cont, now}
      end
    end)
  end

  # What is not as it should be in a pool at rest.
  defp rest(pool, chaos) do
    expected = %{
      state: :up,
      size: @size,
      ceiling: @size,
      running: 0,
      waiting: 0,
      opening: 0,
      closing: 0,
      leased: 0,
      hung: 0,
      login: :logged_in
    }

    differing = fn ->
      status = Pkcs11Pool.status(pool)
      %{sessions: sessions} = Chaos.status(chaos)

      for({key, value} <- expected, status[key] != value, do: "#{key} is #{inspect(status[key])}") ++
        if sessions == status.idle,
          do: [],
          else: ["the token has #{sessions} sessions open, the pool #{status.idle}"]
    end

    still =
      Enum.reduce_while(1..100, [], fn _try, _seen ->
        case differing.() do
          [] ->
            {:halt, []}

          some ->
            Process.sleep(50)
            {:cont, some}
        end
      end)

    still ++
      Enum.map(Chaos.violations(chaos), &"violation: #{&1}") ++
      wrong(Chaos.pin_tries(chaos) != 3, "#{Chaos.pin_tries(chaos)} PIN tries are left of 3")
  end

  defp report(executor, faults, counts, before, later, {rise, mean}, outlasted) do
    total = Enum.sum(for {_what, count} <- counts, do: count)

    by_reason =
      Enum.reduce(counts, %{}, fn {{_operation, reason}, count}, sums ->
        Map.update(sums, reason, count, &(&1 + count))
      end)

    IO.puts("""

    #{executor}: #{total} calls
      answers:  #{sorted(by_reason)}
      faults:   #{sorted(faults)}
      threads:  #{before.threads} before, #{later.threads} after; file descriptors: #{before.files}, #{later.files}
      memory:   #{mib(before.rss)} before, #{mib(later.rss)} after; the line through the last half rises by #{mib(rise)} of #{mib(mean)}
      deadline: outlasted by #{outlasted} ms at most
    """)
  end

  defp sorted(counts),
    do:
      counts
      |> Enum.sort_by(&(-elem(&1, 1)))
      |> Enum.map_join(", ", fn {key, count} -> "#{key} #{count}" end)

  defp mib(bytes), do: "#{Float.round(bytes / 1024 / 1024, 1)} MiB"
end
