# Pools under load while everything fails that can: see script/soak.

for file <- ~w(callers.exs storm.exs gauges.exs trial.exs), do: Code.require_file(file, __DIR__)

defmodule Pkcs11Pool.Soak do
  @moduledoc false

  alias Pkcs11Pool.Soak.Trial
  alias Pkcs11Pool.Test.SoftHSM

  # What a trial takes beside its storm, in ms, with time to spare.
  @overhead 60_000
  @executors [:dirty_io, :threads]

  # A soak that does not end says where it is.
  defp watch(main, timeout) do
    spawn(fn ->
      Process.sleep(timeout)
      {:current_stacktrace, stack} = Process.info(main, :current_stacktrace)
      IO.puts("FAILED: no end after #{timeout} ms\n" <> Exception.format_stacktrace(stack))
      System.halt(1)
    end)
  end

  def main(argv) do
    {opts, arguments} = OptionParser.parse!(argv, strict: [seed: :integer, executor: :string])
    [{minutes, ""}] = Enum.map(arguments, &Float.parse/1)
    seed = Keyword.get_lazy(opts, :seed, fn -> :rand.uniform(1_000_000) end)
    executors = Enum.filter(@executors, &(opts[:executor] in [nil, Atom.to_string(&1)]))
    duration = round(minutes * 60_000 / length(executors))

    {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)
    Logger.configure(level: :none)
    SoftHSM.start!()
    System.at_exit(fn _status -> SoftHSM.stop() end)
    IO.puts("seed #{seed}; #{minutes} minutes, executors #{Enum.join(executors, ", ")}")

    watch(self(), length(executors) * (duration + @overhead))

    failures =
      for executor <- executors,
          failure <- Trial.run(executor, duration, seed),
          do: {executor, failure}

    for {executor, failure} <- failures, do: IO.puts("FAILED (#{executor}): #{failure}")
    if failures == [], do: IO.puts("passed"), else: System.halt(1)
  end
end

Pkcs11Pool.Soak.main(System.argv())
