# What a group costs over its pool, and what a second token gives: mix run bench/group.exs (in MIX_ENV=test, which has the chaos module)
#
# Rounds are interleaved, and medians are shown.
defmodule Bench.Group do
  alias Pkcs11Pool.{Group, Testing}
  alias Pkcs11Pool.Testing.Chaos

  # In place of a pool's function: what is left is the group's own.
  defmodule Nothing do
    def sign(_pool, _key, _mechanism, _data, _opts), do: {:ok, ""}
  end

  @mechanism {:ecdsa, hash: :sha256}

  def run do
    members = for name <- [:a, :b], do: member(name)

    {:ok, _} =
      Supervisor.start_link(
        for(size <- 1..2, do: {Group, name: :"of_#{size}", members: Enum.take([:a, :b], size)}),
        strategy: :one_for_one
      )

    overhead()
    throughput(members)
  end

  defp member(name) do
    token = Testing.new_token!(chaos: true)
    {:ok, _} = Pkcs11Pool.start_link(Testing.pool_options(token, name: name, pool_size: 8))
    Testing.generate_keys!(name, signing: :p256)
    token.chaos
  end

  defp overhead do
    arguments = ["signing", @mechanism, "data", []]
    direct = fn -> apply(Nothing, :sign, [:a | arguments]) end
    looked_up = fn -> Group.Table.group?(:a) end

    groups =
      for size <- 1..2, do: fn -> Group.Call.any(Nothing, :"of_#{size}", :sign, arguments) end

    [direct, looked_up, of_1, of_2] =
      for(_ <- 1..15, do: Enum.map([direct, looked_up | groups], &ns/1))
      |> Enum.zip_with(&median/1)

    IO.puts("a pool's call asks whether its name is a group's: #{round(looked_up)} ns")

    IO.puts(
      "a call through a group of 1: #{round(of_1 - direct)} ns more than a pool's; of 2: #{round(of_2 - direct)} ns more"
    )
  end

  defp ns(fun) do
    n = 100_000
    {us, _} = :timer.tc(fn -> repeat(fun, n) end)
    us * 1_000 / n
  end

  defp repeat(_fun, 0), do: :ok

  defp repeat(fun, n) do
    fun.()
    repeat(fun, n - 1)
  end

  defp throughput(members) do
    for chaos <- members, do: Chaos.latency(chaos, :C_Sign, 5)
    {one, two} = for(_ <- 1..5, do: {per_second(:a), per_second(:of_2)}) |> Enum.unzip()

    IO.puts(
      "tokens of 5 ms, 8 sessions each, 64 callers: one #{round(median(one))} signatures/s, a group of two #{round(median(two))}, ratio #{Float.round(median(two) / median(one), 2)}"
    )
  end

  defp per_second(pool) do
    until = System.monotonic_time(:millisecond) + 2_000

    counts =
      1..64
      |> Enum.map(fn _ -> Task.async(fn -> count(pool, until, 0) end) end)
      |> Task.await_many(60_000)

    Enum.sum(counts) / 2
  end

  defp count(pool, until, n) do
    if System.monotonic_time(:millisecond) < until do
      {:ok, _} = Pkcs11Pool.sign(pool, "signing", @mechanism, "data")
      count(pool, until, n + 1)
    else
      n
    end
  end

  defp median(list), do: list |> Enum.sort() |> Enum.at(div(length(list), 2))
end

Logger.configure(level: :warning)
Bench.Group.run()
