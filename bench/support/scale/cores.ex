defmodule Bench.Scale.Cores do
  @moduledoc """
  What the pool's locks make of many cores, by a simulation: each core does one operation after the other, as long as there are enough callers. An operation is work of its own, and two
  visits to the pool's lock, in submit and in release, which one core at a time makes. Who waits for the lock spins, so that its time counts. A
  lock that another core had last comes with the time that its cache lines take. Work takes between half and one and a half times its mean.
  """

  # Microseconds that the lines of a lock take from one core to another: three of them, each some 50 ns.
  @transfer 0.15
  @operations 20_000

  @doc "Microseconds of processor time for an operation on so many cores: `work` in all outside of the lock, `hold` in each of the two visits."
  @spec cost(pos_integer, work :: number, hold :: number) :: float
  def cost(cores, work, hold) do
    seed = :rand.seed_s(:exsss, 1)
    waiting = :gb_sets.from_list(for core <- 1..cores, do: {0.0, core})
    step(waiting, %{free: 0.0, last: 0, work: work / 2, hold: hold}, 0, seed) * cores
  end

  # Whoever comes to the lock first is served first. Microseconds for an operation, of all cores together.
  defp step(waiting, _lock, visits, _seed) when visits == 2 * @operations,
    do: elem(:gb_sets.smallest(waiting), 0) / @operations

  defp step(waiting, lock, visits, seed) do
    {{time, core}, waiting} = :gb_sets.take_smallest(waiting)
    transfer = if(lock.last == core, do: 0.0, else: @transfer)
    free = max(time, lock.free) + transfer + lock.hold
    {random, seed} = :rand.uniform_s(seed)
    waiting = :gb_sets.add({free + lock.work * (0.5 + random), core}, waiting)
    step(waiting, %{lock | free: free, last: core}, visits + 1, seed)
  end
end
