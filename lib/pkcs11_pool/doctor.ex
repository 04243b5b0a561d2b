defmodule Pkcs11Pool.Doctor do
  @moduledoc false
  # `mix pkcs11_pool.doctor`: has a module examined in a VM of its own, and says what is wrong and what to do. What is looked at and what comes of it is documented
  # in the task.

  alias Pkcs11Pool.CommandLine.Secret
  alias Pkcs11Pool.Doctor.{Examination, Findings, ModuleFile, Options, Report}
  alias Pkcs11Pool.SeparateVM

  @doc """
  Runs with the task's arguments, prints, and returns the exit code.
  """
  @spec main([String.t()]) :: exit_code :: 0..5
  def main(arguments) do
    with {:ok, options} <- Options.parse(arguments),
         {:ok, options} <- with_typed_pin(options) do
      report = examine(options)
      format = if options.json, do: Report.json(report), else: Report.text(report)
      IO.write(format)
      report.exit_code
    else
      {:error, message} ->
        IO.puts(:stderr, "** #{message}")
        2
    end
  end

  @doc "The report of an examination; of no more than the slots and tokens with `:list`."
  @spec examine(Options.t(), :list | :tokens) :: map
  def examine(options, depth \\ :tokens) do
    facts =
      case ModuleFile.check(options.module) do
        :ok -> module_facts(options, depth)
        {:error, problem} -> %{facts() | file: problem}
      end

    # Anything else may be without an end.
    sha256 = if File.regular?(options.module), do: ModuleFile.sha256(options.module)
    facts |> Map.merge(%{path: options.module, sha256: sha256}) |> Findings.report(options)
  end

  defp module_facts(options, depth) do
    argument =
      options
      |> Map.take([
        :module,
        :module_env,
        :module_args,
        :module_sha256,
        :slot,
        :login,
        :pin,
        :key
      ])
      |> Map.put(:depth, depth)

    job = {Examination, argument}

    {told, vm} =
      job |> SeparateVM.run(options.timeout, options.module_env || %{}) |> Map.pop(:told)

    told |> Enum.reduce(facts(), &learn/2) |> Map.put(:vm, vm)
  end

  # What is known before anything was asked.
  defp facts do
    %{
      file: nil,
      vm: nil,
      module: nil,
      slots: nil,
      selected: nil,
      mechanisms: %{},
      objects: %{},
      login: nil,
      signatures: %{},
      failed: nil
    }
  end

  defp learn({:module, module}, facts), do: %{facts | module: module}
  defp learn({:slots, slots}, facts), do: %{facts | slots: slots}
  defp learn({:selected, ids}, facts), do: %{facts | selected: ids}
  defp learn({:failed, step, error}, facts), do: %{facts | failed: {step, error}}

  defp learn({:mechanisms, id, mechanisms}, facts),
    do: put_in(facts, [:mechanisms, id], mechanisms)

  defp learn({:objects, id, objects}, facts), do: put_in(facts, [:objects, id], objects)

  defp learn({:signature, id, signature}, facts),
    do: put_in(facts, [:signatures, id], signature)

  defp learn({:login, id, result}, facts), do: %{facts | login: {id, result}}

  defp learn({:login_not_tried, id, reason}, facts),
    do: %{facts | login: {id, {:not_tried, reason}}}

  defp with_typed_pin(%{pin: :prompt} = options) do
    case Secret.ask("PIN of the token: ") do
      {:ok, pin} ->
        {:ok, %{options | pin: {:value, pin}}}

      :none ->
        {:error,
         "--login: there is no terminal to ask for the PIN, or none was typed. Give --pin-env VARIABLE or --pin-file PATH"}
    end
  end

  defp with_typed_pin(options), do: {:ok, options}
end
