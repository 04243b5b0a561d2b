defmodule Pkcs11Pool.Test.Tokens.Trial do
  @moduledoc """
  Tries one token: `run/3` in a VM of its own, which `launch/2` starts. What came of each feature is written to a file at once, so that it is known when the VM
  crashes.
  """

  alias Pkcs11Pool.Test.Tokens
  alias Pkcs11Pool.Test.Tokens.{Features, Mechanisms}

  @typedoc "What is known of a token. The mechanisms are those of a token that is tried alone."
  @type report ::
          %{not_tested: String.t()}
          | %{
              version: String.t() | nil,
              features: [{atom, Features.result()}],
              mechanisms: [{atom | {:vendor, non_neg_integer}, Mechanisms.result()}]
            }

  # In seconds. What takes longer hangs.
  @longest 420

  @doc "Tries a token in a VM of its own."
  @spec launch(atom, module) :: report
  def launch(name, token) do
    dir = Path.join(System.tmp_dir!(), "pkcs11_pool-#{name}-#{System.pid()}")
    File.mkdir_p!(dir)
    File.chmod!(dir, 0o700)

    try do
      case token.launcher() do
        {:ok, launcher} -> launch(name, token, launcher, dir)
        {:not_tested, reason} -> %{not_tested: reason}
      end
    after
      File.rm_rf!(dir)
    end
  end

  defp launch(name, token, launcher, dir) do
    out = Path.join(dir, "results")
    script = ~w(mix run --no-compile --no-start test/tokens/try_token.exs)
    command = ["--kill-after=10", "#{@longest}"] ++ launcher ++ script ++ ["#{name}", dir, out]
    opts = [stderr_to_stdout: true, env: [{"MIX_ENV", "test"}, {"TMPDIR", dir}]]
    {output, status} = System.cmd("timeout", command, opts)
    if output != "", do: IO.puts(output)
    report(out, token.version(), status)
  end

  defp report(out, version, status) do
    case File.read(out) do
      {:error, _missing} ->
        features =
          for {feature, _title} <- Features.all(),
              do:
                {feature, {:fail, "the token was not set up: the VM ended with status #{status}"}}

        %{version: version, features: features, mechanisms: []}

      {:ok, binary} ->
        case :erlang.binary_to_term(binary) do
          %{not_tested: _reason} = report ->
            report

          results ->
            %{
              version: version,
              features: complete(results.features, status),
              mechanisms: results.mechanisms
            }
        end
    end
  end

  # The first feature without a result is the one during which the VM ended.
  defp complete(results, status) do
    ended =
      if status == 124,
        do: "no end after #{@longest} s",
        else: "the VM ended with status #{status}"

    missing =
      for {feature, _title} <- Features.all(), not Keyword.has_key?(results, feature), do: feature

    results ++
      for {feature, index} <- Enum.with_index(missing),
          do: {feature, {:fail, if(index == 0, do: ended, else: "not reached")}}
  end

  @doc "Tries the token in this VM, and writes the results."
  @spec run(atom, Path.t(), Path.t()) :: :ok
  def run(name, dir, out) do
    case Tokens.all()[name].set_up(dir) do
      {:not_tested, reason} -> write(out, %{not_tested: reason})
      {:ok, targets} -> run_features(Enum.with_index(targets), out)
    end
  end

  defp run_features(targets, out) do
    write(out, %{features: [], mechanisms: []})

    Enum.reduce(Features.all(), [], fn {feature, _title}, results ->
      results = results ++ [{feature, try_on_all(feature, targets)}]
      write(out, %{features: results, mechanisms: mechanisms(targets)})
      results
    end)

    :ok
  end

  # A token that could not be started has no feature but that.
  defp try_on_all(feature, targets) do
    targets
    |> Task.async_stream(
      fn {target, index} ->
        {target.title, Features.try_feature(feature, target, {:tokens, index})}
      end,
      timeout: :infinity,
      max_concurrency: 8
    )
    |> Enum.map(fn {:ok, result} -> result end)
    |> together()
  end

  defp together([{_title, result}]), do: result

  defp together(results) do
    notes = for {title, {_kind, text}} <- results, do: "#{title}: #{text}"

    kinds =
      for {_title, result} <- results, do: if(result == :pass, do: :pass, else: elem(result, 0))

    cond do
      :fail in kinds -> {:fail, Enum.join(notes, "; ")}
      Enum.all?(kinds, &(&1 == :not_offered)) -> {:not_offered, Enum.join(notes, "; ")}
      notes == [] -> :pass
      true -> {:pass, Enum.join(notes, "; ")}
    end
  end

  defp mechanisms([{_target, index}]), do: Features.mechanisms({:tokens, index})
  defp mechanisms(_several), do: []

  defp write(out, term) do
    binary = :erlang.term_to_binary(term)
    # A module that closes files which are not its own may close this one.
    true = Enum.any?(1..5, fn _try -> File.write(out <> ".new", binary) == :ok end)
    File.rename!(out <> ".new", out)
  end
end
