defmodule Pkcs11Pool.BenchSupportTest do
  # What the benchmarks' figures are made of.
  use ExUnit.Case, async: true

  for file <- ~w(stats simulation open_loop scale/table scale/cores),
      do: Code.require_file("../../bench/support/#{file}.ex", __DIR__)

  alias Bench.{OpenLoop, Simulation, Stats}
  alias Bench.Scale.{Cores, Table}

  describe "Stats" do
    test "a summary is the median between the least and the greatest" do
      assert Stats.summary([5, 1, 9, 2]) == %{median: 3.5, low: 1.0, high: 9.0}
    end

    test "a line has its own slope, and no error; points around one have both" do
      assert %{median: 2.0, low: 2.0, high: 2.0} = Stats.slope([{0, 1}, {1, 3}, {2, 5}, {3, 7}])

      assert %{median: slope, low: low, high: high} =
               Stats.slope([{0, 1}, {1, -1}, {2, -1}, {3, 1}])

      assert slope == 0.0 and low < 0 and high == -low
    end
  end

  describe "OpenLoop" do
    test "calls come at their times, whether those before are done or not, and count from when they were asked for" do
      times = OpenLoop.times(200, 100, 1)
      answer = OpenLoop.run(fn -> Process.sleep(OpenLoop.grace() + 150) end, times)
      assert answer.asked == length(times)
      assert answer.p50 >= OpenLoop.grace() + 150 and answer.p99 >= answer.p50
      # The last ones certainly.
      assert answer.late in 1..answer.asked
    end

    test "times come in their order, as many as are asked for in the mean, and the same for the same seed" do
      times = OpenLoop.times(1_000, 10_000, 1)
      assert times == Enum.sort(times) and List.last(times) < 10_000_000
      assert_in_delta length(times), 10_000, 500
      assert times == OpenLoop.times(1_000, 10_000, 1)
      assert times != OpenLoop.times(1_000, 10_000, 2)
    end

    test "where nothing is asked for, nothing was late" do
      assert OpenLoop.run(fn -> :ok end, []) == %{p50: 0.0, p99: 0.0, asked: 0, late: 0}
    end
  end

  describe "Scale" do
    test "a cost is told as a ratio to that at the table's base" do
      samples = fn costs -> for(cost <- costs, do: %{cost: cost, sleeps: 0.5, rate: 2_000}) end
      rows = [{1, [{"a", samples.([8.0, 9.0, 1.0])}]}, {100, [{"a", samples.([4.0, 4.0, 7.0])}]}]
      table = %Table{title: "Title", unit: "callers", base: 100, rows: rows}
      assert Table.growth(table, "a", 1) == 2.0
      text = table |> Table.markdown() |> IO.iodata_to_binary()
      assert text =~ "| 1 | 8.0 (2.00), 0.50, 2.0 |"
      assert text =~ "| 100 | 4.0 (1.00), 0.50, 2.0 |"
    end

    test "one core pays the lock's time, and many wait for each other" do
      assert_in_delta Cores.cost(1, 10, 1), 12, 0.2
      # The lock is never free: 64 cores share it.
      assert Cores.cost(64, 10, 1) > 64 * 2
      # It is nearly always free.
      assert_in_delta Cores.cost(2, 1_000, 0.1), 1_000, 20
    end
  end

  describe "Simulation" do
    # Of two callers the first takes 10 the first time; all else takes 1.
    defp service(1, 1), do: 10
    defp service(_caller, _number), do: 1

    defp ends(operations, caller),
      do: Enum.sort(for %{caller: ^caller, ended: ended} <- operations, do: ended)

    test "each caller has its server: nobody waits" do
      operations = Simulation.run(:fifo, 2, 2, &service/2, 12)
      assert ends(operations, 1) == [10, 11, 12]
      assert ends(operations, 2) == Enum.to_list(1..12)
    end

    test "in one queue, whoever has asked first is served first" do
      operations = Simulation.run(:fifo, 1, 3, fn _caller, _number -> 1 end, 6)
      assert for(caller <- 1..3, do: ends(operations, caller)) == [[1, 4], [2, 5], [3, 6]]
      assert Enum.all?(operations, &(&1.ended - &1.asked <= 3))
    end

    test "the blind round robin waits for a server that is busy while another is free" do
      # The second caller's second operation is the first server's, which is busy until 10.
      operations = Simulation.run(:round_robin, 2, 2, &service/2, 11)
      assert ends(operations, 2) == [1, 11]
      assert %{ended: 11, asked: 1} = Enum.find(operations, &(&1.caller == 2 and &1.number == 2))
    end

    test "what ends after the window does not count" do
      assert Simulation.run(:fifo, 1, 1, fn _caller, _number -> 4 end, 10) |> ends(1) == [4, 8]
    end
  end
end
