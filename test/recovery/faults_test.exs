# Every return code, wherever in a call it comes, with both executors: the pool keeps what `Pkcs11Pool.Test.Faults` promises.
#
# One module for each executor and place, so that they run side by side, and one test for each class.
alias Pkcs11Pool.Test.{FaultBench, Faults}

for executor <- [:dirty_io, :threads], place <- Faults.places() do
  name = Enum.map([executor, place], &Macro.camelize(Atom.to_string(&1)))

  defmodule Module.concat([Pkcs11Pool.FaultsTest | name]) do
    use ExUnit.Case, async: true

    alias Pkcs11Pool.Testing.Chaos

    @moduletag :faults
    @place place
    @opens place in [:open, :login]
    @executor executor

    setup_all do
      bench = FaultBench.new!(@executor)
      on_exit(fn -> Chaos.stop(bench.chaos) end)
      bench
    end

    describe "return codes" do
      # What runs on a session that is open finds one; the others have it opened by the call itself.
      setup bench do
        unless @opens do
          start_supervised!({Pkcs11Pool, bench.opts})
          {:ok, _signature} = FaultBench.call(bench.pool, :look_up)
        end

        :ok
      end

      for class <- Faults.classes() do
        @class class
        @tag class: class
        test "#{class}: #{Faults.function(place)} (#{place}), #{executor}", bench do
          broken =
            for code <- Faults.codes(@class),
                mode <- [:once, :always],
                expected = Faults.expected(@class, @place, code, mode),
                seen = FaultBench.observe(bench, @place, code, mode, expected.retries),
                not FaultBench.kept?(expected, seen),
                do: {code, mode, expected: expected, seen: seen}

          assert broken == [],
                 Enum.map_join(broken, "\n", &inspect(&1, width: :infinity, limit: :infinity))
        end
      end
    end

    describe "happenings" do
      for happening <- Faults.happenings(place) do
        @happening happening
        @tag happening: happening
        test "#{happening}: #{Faults.function(place)} (#{place}), #{executor}", bench do
          expected = %{result: Faults.outcome(@happening, @place), next: :ok, rest: []}
          assert FaultBench.befall(bench, @place, @happening) == expected
        end
      end
    end
  end
end
