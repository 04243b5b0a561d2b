defmodule Pkcs11Pool.BenchStatisticsTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Bench.{Measure, Recommend, Statistics}

  describe "the median" do
    test "is the one in the middle, or between the two" do
      assert Statistics.median([5]) == 5
      assert Statistics.median([9, 1, 5]) == 5
      assert Statistics.median([4, 1]) == 2.5
      assert Statistics.median([10, 1, 4, 2]) == 3.0
    end
  end

  describe "percentiles" do
    test "are numbers that so many do not exceed" do
      assert Statistics.percentiles(Enum.shuffle(1..100), [1, 50, 99, 100]) == [1, 50, 99, 100]
      assert Statistics.percentiles([30, 10, 20], [50, 99]) == [20, 30]
      assert Statistics.percentiles([7], [1, 50, 100]) == [7, 7, 7]
      # One slow call in 200 is not yet one in a hundred.
      assert Statistics.percentiles([500 | List.duplicate(1, 199)], [99, 100]) == [1, 500]
    end
  end

  describe "the recommended size" do
    test "of a curve that is linear to its end is the largest, and says that more may help" do
      assert {8, {:growing, gain}} = Recommend.size([{1, 100}, {2, 200}, {4, 400}, {8, 800}])
      assert_in_delta gain, 1.0, 1.0e-9
    end

    test "of a curve that saturates at 4 is 4" do
      points = [{1, 100}, {2, 200}, {4, 390}, {8, 400}, {16, 401}]
      assert {4, {:saturated, 8, gain}} = Recommend.size(points)
      assert_in_delta gain, 10 / 390, 1.0e-9
    end

    test "is not misled by one bad window" do
      # 4 was disturbed; the curve goes on rising.
      assert {8, {:saturated, 16, _}} =
               Recommend.size([{1, 100}, {2, 200}, {4, 195}, {8, 800}, {16, 810}])
    end

    test "of noise around a level is the smallest" do
      assert {1, {:saturated, 2, _}} = Recommend.size([{1, 100}, {2, 103}, {4, 98}, {8, 104}])
    end

    test "does not climb by steps that are too small, one after the other" do
      assert {1, {:saturated, 2, _}} = Recommend.size([{1, 100}, {2, 104}, {4, 108}, {8, 112}])
    end

    test "takes a step of exactly 5 %, and none below" do
      assert {2, {:growing, _}} = Recommend.size([{1, 1000}, {2, 1050}])
      assert {1, {:saturated, 2, _}} = Recommend.size([{1, 1000}, {2, 1049}])
    end

    test "of a curve that falls is the smallest" do
      assert {1, {:saturated, 2, gain}} = Recommend.size([{1, 100}, {2, 80}, {4, 60}])
      assert_in_delta gain, -0.2, 1.0e-9
    end

    test "of one point is that point" do
      assert Recommend.size([{4, 100}]) == {4, :only_one}
    end

    test "of a curve that begins at nothing does not divide by it" do
      assert {2, {:growing, +0.0}} = Recommend.size([{1, 0}, {2, 0.0}])
    end
  end

  describe "the recommended executor" do
    test "leaves two dirty-IO schedulers free, or is :threads and says which +SDio would do" do
      assert %{name: :dirty_io, sdio: nil} = Recommend.executor(8, 10)
      assert %{name: :threads, sdio: 11} = Recommend.executor(9, 10)
      assert %{name: :dirty_io} = Recommend.executor(9, 11)
    end
  end

  describe "the recommended operation_timeout" do
    defp timeout(p50, max) do
      row = %{sessions: 1, rate: 10, p50: p50, max: max}
      Recommend.recommend([row], 10).operation_timeout
    end

    test "is the default where calls take about the same time" do
      assert timeout(5, 20) == nil
      assert timeout(500, 2_000) == nil
    end

    test "is the default where the tail is long, but short in itself" do
      assert timeout(0.1, 50) == nil
    end

    test "is five times the slowest call where the tail is long, a round number and a second at least" do
      assert timeout(5, 150) == 1_000
      assert timeout(5, 500) == 5_000
      assert timeout(5, 1_500) == 10_000
    end

    test "is more than the default where that would cut calls off" do
      assert timeout(7_000, 9_000) == 50_000
    end
  end

  describe "rows" do
    test "are medians of a size's windows, with the span of the rates and the slowest call of all" do
      sample = fn sessions, rate, p50, p99, max, failed ->
        %{
          sessions: sessions,
          executor: :threads,
          operations: 10,
          rate: rate,
          p50: p50,
          p99: p99,
          max: max,
          failed: failed,
          error: if(failed > 0, do: :why)
        }
      end

      assert [one, two] =
               Measure.rows([
                 sample.(2, 50.0, 1.0, 2.0, 9.0, 0),
                 sample.(1, 10.0, 1.0, 5.0, 7.0, 0),
                 sample.(1, 30.0, 3.0, 6.0, 8.0, 2),
                 sample.(1, 20.0, 2.0, 4.0, 6.0, 0)
               ])

      assert %{sessions: 1, rate: 20.0, low: 10.0, high: 30.0, operations: 30} = one
      assert %{p50: 2.0, p99: 5.0, max: 8.0, failed: 2, error: :why} = one
      assert %{sessions: 2, rate: 50.0, low: 50.0, high: 50.0, failed: 0, error: nil} = two
    end
  end
end
