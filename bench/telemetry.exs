# What telemetry costs an operation to which no handler is attached:
#
#     MIX_ENV=test mix run bench/telemetry.exs
#
# It runs the part of a call that is there for telemetry (the start and the stop of its span) without the library, and with it. Where the library is not among the
# dependencies, a stand-in does what telemetry 1.3 does in `execute/3` without handlers: it reads a persistent term, looks the event up in an ETS table with read concurrency, and
# goes through the empty list that it has found.

defmodule Bench.Telemetry do
  alias Pkcs11Pool.Call
  alias Pkcs11Pool.Call.Span
  alias Pkcs11Pool.Telemetry.Emitter
  alias Pkcs11Pool.Test.SoftHSM

  @rounds 400
  @times 2_000

  def run do
    Logger.configure(level: :error)
    SoftHSM.start!()

    try do
      token = SoftHSM.new_token!()
      {:ok, pool} = Pkcs11Pool.start_link(SoftHSM.pool_opts(token, name: Bench.HSM, pool_size: 1))
      :ok = Pkcs11Pool.await_ready(Bench.HSM, 30_000)
      measure("without the library telemetry")
      library = load()
      true = Emitter.enabled?()
      measure("with #{library}, no handler attached")
      Supervisor.stop(pool)
    after
      SoftHSM.stop()
    end
  end

  defp measure(title) do
    opts = Pkcs11Pool.Options.Call.validate!([])
    {:ok, target} = Call.target(Bench.HSM, opts)

    # The ticket of an operation that has ended: the stop of a span asks the native side for its times.
    {:ok, ticket} = Call.attempt(target, :ping)

    span = fn ->
      Bench.HSM
      |> Span.start_if_watched(:sign, :ecdsa, opts)
      |> Span.stop({:ok, ""}, ticket, :sign)
    end

    operation = fn -> {:ok, _} = Pkcs11Pool.generate_random(Bench.HSM, 8) end
    IO.puts("\n#{title}")

    print(
      "the start and the stop of a span",
      per_call(span, @times) - per_call(fn -> :ok end, @times)
    )

    full = fn ->
      Bench.HSM |> Span.start(:sign, :ecdsa, opts) |> Span.stop({:ok, ""}, ticket, :sign)
    end

    print(
      "the same, if somebody could hear of it",
      per_call(full, @times) - per_call(fn -> :ok end, @times)
    )

    print("generate_random/3 of 8 bytes, all in all", per_call(operation, 100))
  end

  # Nanoseconds: the shortest of many short rounds, which is the one that nothing else of the machine has interrupted.
  defp per_call(fun, times) do
    rounds =
      for _ <- 1..@rounds do
        started = System.monotonic_time(:nanosecond)
        repeat(fun, times)
        (System.monotonic_time(:nanosecond) - started) / times
      end

    Enum.min(rounds)
  end

  defp repeat(_fun, 0), do: :ok

  defp repeat(fun, times) do
    fun.()
    repeat(fun, times - 1)
  end

  defp print(what, nanoseconds),
    do: IO.puts("  #{String.pad_trailing(what, 45)} #{round(nanoseconds)} ns")

  defp load do
    if Code.ensure_loaded?(:telemetry) do
      {:ok, _} = Application.ensure_all_started(:telemetry)
      "telemetry #{Application.spec(:telemetry, :vsn)}"
    else
      table = :ets.new(:telemetry_handler_table, [:duplicate_bag, read_concurrency: true])
      :persistent_term.put(:telemetry, {:telemetry_ets, table})

      at = Macro.Env.location(__ENV__)

      Module.create(
        :telemetry_ets,
        quote do
          def list_for_event(table, event) do
            :ets.lookup(table, event)
          catch
            :error, :badarg -> []
          end
        end,
        at
      )

      Module.create(
        :telemetry_handler_table,
        quote do
          def list_for_event(event) do
            case :persistent_term.get(:telemetry, :undefined) do
              {module, state} -> module.list_for_event(state, event)
              :undefined -> []
            end
          end
        end,
        at
      )

      Module.create(
        :telemetry,
        quote do
          def execute(event, measurements, metadata)
              when is_map(measurements) and is_map(metadata) do
            :lists.foreach(
              fn {_event, handler} -> handler.(event, measurements, metadata) end,
              :telemetry_handler_table.list_for_event(event)
            )
          end
        end,
        at
      )

      "a stand-in for telemetry 1.3"
    end
  end
end

Bench.Telemetry.run()
