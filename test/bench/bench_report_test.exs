defmodule Pkcs11Pool.BenchReportTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Bench.{Options, Report, Workload}
  alias Pkcs11Pool.Error

  defp row(sessions, rate, more \\ []) do
    row = %{
      sessions: sessions,
      executor: :dirty_io,
      operations: 1_000,
      rate: rate / 1,
      low: rate * 0.9,
      high: rate * 1.1,
      p50: 1.5,
      p99: 20.25,
      max: 30.0,
      failed: 0,
      error: nil
    }

    Map.merge(row, Map.new(more))
  end

  defp report(rows, more \\ []) do
    arguments = ["--module", __ENV__.file, "--slot-id", "1", "--no-pin"]
    {:ok, options} = Options.parse(arguments ++ Keyword.get(more, :arguments, []))

    %{
      options: options,
      workload: %Workload{name: "32 random bytes", call: fn _pool -> {:ok, ""} end},
      rows: rows,
      limit: more[:limit],
      complete: Keyword.get(more, :complete, true),
      dirty_io_schedulers: 10
    }
  end

  # In one line, wherever it breaks.
  defp text(rows, more \\ []) do
    plot = [width: 60, unicode: false, colour: false]

    rows
    |> report(more)
    |> Report.text(plot)
    |> IO.iodata_to_binary()
    |> String.replace(~r/\s+/, " ")
  end

  test "shows medians, the step's gain and the scatter, with three digits that count" do
    text = text([row(1, 100), row(2, 12_345)])
    assert text =~ "1 dirty_io 100 10 % 1.50 20.3 30.0"
    assert text =~ "2 dirty_io 12,345 +12245 % 10 %"
  end

  test "says why the pool is to be so large" do
    assert text([row(1, 100), row(2, 200)]) =~
             "The last step, to 2 sessions, still added +100 %. There may be more to gain: measure more, with --sessions 2,4,8."

    assert text([row(1, 100), row(2, 200)], limit: {:limit, 2, nil}) =~
             "the token gives no more than 2 sessions"

    assert text([row(1, 100), row(2, 102)]) =~ "2 sessions add +2.0 % to what 1 do"
    assert text([row(1, 100), row(2, 80)]) =~ "2 sessions do less than 1 (-20 %)"
    assert text([row(4, 100)]) =~ "Only one size was measured"
    assert text([row(1, 100)], limit: {:limit, 1, nil}) =~ "The token gives 1 session."
  end

  test "says why the executor, and which +SDio another would need" do
    assert text([row(8, 100)]) =~ "executor: :dirty_io"
    assert text([row(8, 100)]) =~ "2 of the VM's 10 dirty-IO schedulers are left"
    assert text([row(9, 100)]) =~ "executor: :threads"
    assert text([row(9, 100)]) =~ "+SDio 11"

    assert text([row(8, 100)], arguments: ~w(--executor threads)) =~
             "Measured was --executor threads"
  end

  test "advises an operation_timeout only where the tail is long" do
    refute text([row(1, 100)]) =~ "operation_timeout"
    assert text([row(1, 100, max: 500.0)]) =~ "operation_timeout: 5_000"
  end

  test "tells what was refused, what failed, what is too little to judge by, and that it is not complete" do
    refusal = Error.new(:session_count)

    assert text([row(2, 100)], limit: {:limit, 2, refusal}) =~
             "The token gave 2 sessions and no more (session_count)"

    failed = row(1, 100, failed: 3, error: Error.new(:device_error, pool: :unknown_to_the_user))
    assert text([failed]) =~ "With 1 session, calls that failed: 3. The first: "
    refute text([failed]) =~ "unknown_to_the_user"

    assert text([row(1, 100, operations: 99)]) =~ "Give more --seconds"
    refute text([row(1, 100)]) =~ "Give more --seconds"
    assert text([row(1, 100)], complete: false) =~ "This is what was measured so far"
  end

  test "is ASCII where the plot is" do
    report =
      report([row(1, 100, max: 500.0), row(2, 200)], limit: {:limit, 2, nil}, complete: false)

    text = report |> Report.text(unicode: false, colour: false) |> IO.iodata_to_binary()
    assert for(<<byte <- text>>, byte > 126, do: byte) == []
  end

  test "as JSON has the rows and the recommendation, and neither PIN nor token" do
    json = [row(1, 100), row(9, 900)] |> report() |> Report.json() |> IO.iodata_to_binary()

    assert json =~
             ~r/"sessions": 9,\s+"executor": "dirty_io",\s+"operations": 1000,\s+"operations_per_second": 900.0/

    assert json =~ ~r/"pool_size": 9,\s+"executor": "threads",\s+"sdio": 11/
    assert json =~ ~s("session_limit": null)
  end
end
