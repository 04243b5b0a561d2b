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

  # [{thread, place, symbol, samples}]
  defp samples(file) do
    output =
      perf(
        ~w(report --stdio --quiet --no-children --show-nr-samples --sort comm,dso,symbol) ++
          ~w(--field-separator ; --input #{file})
      )

    for line <- String.split(output, "\n"),
        [_share, count, thread, object, symbol | _] <- [String.split(line, ";")],
        {count, ""} <- [count |> String.trim() |> Integer.parse()] do
      {thread(thread), object |> String.trim() |> place(), name(symbol), count}
    end
  end

  defp draw(samples, rate) do
    micros = fn count -> count / @frequency * 1.0e9 / @milliseconds / rate end
    total = count(samples)

    shares = fn key ->
      samples
      |> Enum.group_by(key)
      |> Enum.map(fn {of, list} -> {of, count(list), list} end)
      |> Enum.filter(fn {_of, count, _list} -> count * 100 >= total end)
      |> Enum.sort_by(&elem(&1, 1), :desc)
    end

    threads =
      Enum.map_join(shares.(&elem(&1, 0)), ", ", fn {thread, count, _list} ->
        "#{thread} #{decimals(micros.(count))}"
      end)

    [
      "#{round(rate)} operations a second; #{decimals(micros.(total))} µs of processor time each: #{threads}.\n\n",
      "| where | µs | most of it |\n| --- | ---: | --- |\n",
      for {place, count, list} <- shares.(&elem(&1, 1)) do
        "| #{place} | #{decimals(micros.(count))} | #{top(list, micros)} |\n"
      end
    ]
  end

  defp count(samples), do: Enum.sum(for {_thread, _place, _symbol, count} <- samples, do: count)

  # The same symbol of several threads is one.
  defp top(list, micros) do
    list
    |> Enum.group_by(&elem(&1, 2))
    |> Enum.map(fn {symbol, list} -> {symbol, count(list)} end)
    |> Enum.sort_by(&elem(&1, 1), :desc)
    |> Enum.take(@symbols)
    |> Enum.map_join(", ", fn {symbol, count} -> "`#{symbol}` #{decimals(micros.(count))}" end)
  end

  # Names are cut off after 15 characters.
  defp thread(name) do
    cond do
      name =~ "dirty_io" -> "dirty-IO schedulers"
      name =~ "dirty_cpu" -> "dirty-CPU schedulers"
      name =~ "scheduler" -> "schedulers"
      name =~ "aux" -> "auxiliary thread"
      name =~ "pkcs11" -> "native threads"
      true -> "other threads"
    end
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
