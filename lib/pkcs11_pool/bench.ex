defmodule Pkcs11Pool.Bench do
  @moduledoc false
  # A run of `mix pkcs11_pool.bench`: finds what is to be measured, measures, leaves nothing behind, and says what it saw, also when it was
  # interrupted.

  alias Pkcs11Pool.Bench.{Interrupt, Measure, Options, Report, Target, Workload}
  alias Pkcs11Pool.Error

  @doc """
  Runs with the checked options. `terminal`: somebody is there, to see a bar of progress and to answer questions.
  """
  @spec run(Options.t(), terminal :: boolean) :: :ok | :interrupted | {:error, String.t()}
  def run(options, terminal) do
    target = Target.new(options)

    Interrupt.trap(fn ->
      {outcome, told} = Interrupt.run(&bench(target, options, terminal, &1), Interrupt.count())

      # Read before anybody is told that once more ends at once: that may come before the cleaning up has begun.
      seen = Interrupt.count()
      if outcome == :interrupted, do: say("\nInterrupted: cleaning up; once more ends at once.\n")
      cleaned = clean_up(target, options, told, seen)
      Target.stop(target)
      report(options, told, terminal, match?({:done, :ok}, outcome))
      ended(outcome, cleaned, options)
    end)
  end

  defp bench(target, options, terminal, tell) do
    schedulers = :erlang.system_info(:dirty_io_schedulers)
    prepare = &Workload.prepare(&1, options, terminal, tell)

    with :ok <- Target.open(target),
         {:ok, workload} <- Target.with_pool(target, [pool_size: 1], prepare),
         {:ok, sizes, limit} <- Measure.sizes(target, options) do
      tell.(workload)
      if limit, do: tell.(limit)
      IO.write(Report.heading(options, workload, sizes, schedulers))
      Measure.run(target, workload, sizes, options, terminal, tell)
    end
  end

  ## Afterwards

  # The sessions first: a token that gives only so many needs one for the deletion.
  defp clean_up(target, options, told, seen) do
    work = fn _tell ->
      Target.close(target)

      deleted = with({:made, id} <- List.keyfind(told, :made, 0), do: delete(target, options, id))

      Target.close(target)
      deleted
    end

    {outcome, _told} = Interrupt.run(work, seen)

    case {outcome, List.keyfind(told, :made, 0)} do
      {{:done, cleaned}, _made} -> cleaned
      {_not_done, {:made, id}} -> {:error, left_behind(id)}
      {_not_done, nil} -> nil
    end
  end

  defp delete(target, options, id) do
    with :ok <- Target.open(target),
         {:ok, _count} <- Target.with_pool(target, [pool_size: 1], &Workload.delete(&1, id)) do
      say("Deleted the key pair #{Workload.name(id)}.\n\n")
    else
      {:error, error} -> {:error, "#{left_behind(id)}: #{Target.explain(error, options)}"}
    end
  end

  defp left_behind(id),
    do:
      "the key pair #{Workload.name(id)} may still be on the token: delete it with your vendor's tool"

  defp report(options, told, terminal, complete) do
    samples = for %{rate: _rate} = sample <- told, do: sample

    with [_sample | _more] <- samples do
      report = %{
        options: options,
        workload: Enum.find(told, &is_struct(&1, Workload)),
        rows: Measure.rows(samples),
        limit: told |> Enum.reverse() |> List.keyfind(:limit, 0),
        complete: complete,
        dirty_io_schedulers: :erlang.system_info(:dirty_io_schedulers)
      }

      say([Report.text(report, colour: terminal), "\n"])
      write(options.svg, &Report.svg/1, report)
      write(options.json, &Report.json/1, report)
    end
  end

  defp write(nil, _format, _report), do: :ok

  defp write(path, format, report) do
    case File.write(path, format.(report)) do
      :ok ->
        say("Wrote #{path}.\n")

      {:error, reason} ->
        say("#{path} could not be written: #{:file.format_error(reason)}.\n")
    end
  end

  # The terminal may be gone, which must not keep anything from being cleaned up or written.
  defp say(text) do
    IO.write(text)
  rescue
    ErlangError -> :ok
  end

  defp ended({:raised, kind, reason, stacktrace}, _cleaned, _options),
    do: :erlang.raise(kind, reason, stacktrace)

  defp ended(_outcome, {:error, left_behind}, _options), do: {:error, left_behind}
  defp ended(:interrupted, _cleaned, _options), do: :interrupted
  defp ended({:done, :ok}, _cleaned, _options), do: :ok

  defp ended({:done, {:error, %Error{} = error}}, _cleaned, options),
    do: {:error, Target.explain(error, options)}

  defp ended({:done, {:error, message}}, _cleaned, _options), do: {:error, message}
end
