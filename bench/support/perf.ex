defmodule Bench.Perf do
  @moduledoc "Which code this VM's threads are in while it works, by Linux's perf: processor time per operation."

  @frequency 4_999
  @milliseconds 3_000
  # Symbols to be listed of each place.
  @symbols 4

  @doc "A Markdown table. `watch` measures operations a second for so many milliseconds."
  @spec table((pos_integer -> float)) :: iodata
  def table(watch) do
    file = Path.join(System.tmp_dir!(), "perf-#{System.pid()}.data")

    try do
      recording = Task.async(fn -> perf(record(file)) end)
      rate = watch.(@milliseconds)
      Task.await(recording, :infinity)
      file |> samples() |> draw(rate)
    after
      File.rm(file)
      File.rm(file <> ".old")
    end
  end

  defp record(file) do
    ~w(record --quiet --event cpu-clock --freq #{@frequency} --pid #{System.pid()} --output #{file}) ++
      ~w(-- sleep #{@milliseconds / 1_000})
  end

  # [{place, symbol, samples}]
  defp samples(file) do
    output =
      perf(
        ~w(report --stdio --quiet --no-children --show-nr-samples --sort dso,symbol) ++
          ~w(--field-separator ; --input #{file})
      )

    for line <- String.split(output, "\n"),
        [_share, count, object, symbol | _] <- [String.split(line, ";")],
        {count, ""} <- [count |> String.trim() |> Integer.parse()] do
      {object |> String.trim() |> place(), name(symbol), count}
    end
  end

  defp draw(samples, rate) do
    micros = fn count -> count / @frequency * 1.0e9 / @milliseconds / rate end
    total = Enum.sum(for {_place, _symbol, count} <- samples, do: count)

    places =
      samples
      |> Enum.group_by(&elem(&1, 0))
      |> Enum.map(fn {place, list} -> {place, Enum.sum(for({_, _, n} <- list, do: n)), list} end)
      |> Enum.sort_by(&elem(&1, 1), :desc)

    [
      "#{round(rate)} operations a second; #{decimals(micros.(total))} µs of processor time each.\n\n",
      "| where | µs | most of it |\n| --- | ---: | --- |\n",
      for {place, count, list} <- places, count * 100 >= total do
        "| #{place} | #{decimals(micros.(count))} | #{top(list, micros)} |\n"
      end
    ]
  end

  defp top(list, micros) do
    list
    |> Enum.sort_by(&elem(&1, 2), :desc)
    |> Enum.take(@symbols)
    |> Enum.map_join(", ", fn {_place, symbol, count} ->
      "`#{symbol}` #{decimals(micros.(count))}"
    end)
  end

  defp place(object) do
    cond do
      object =~ "softhsm" or object =~ "libcrypto" or object =~ "libstdc++" -> "the module"
      object =~ "pkcs11_pool_nif" -> "our NIF"
      object =~ "beam.smp" -> "the VM"
      object =~ "kernel" -> "the kernel"
      object =~ "perf-" or object =~ "JIT" or object =~ "unknown" -> "Elixir and Erlang code"
      object =~ "libc.so" or object =~ "ld-linux" -> "libc"
      object =~ "vdso" -> "the clock"
      true -> object
    end
  end

  defp name(symbol),
    do: symbol |> String.trim() |> String.replace(~r/^\[.\] /, "") |> String.slice(0, 60)

  defp perf(arguments) do
    case System.cmd("perf", arguments, stderr_to_stdout: true) do
      {output, 0} -> output
      {output, status} -> raise "perf ended with status #{status}: #{output}"
    end
  end

  defp decimals(number), do: :erlang.float_to_binary(number * 1.0, decimals: 2)
end
