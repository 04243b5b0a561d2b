defmodule Pkcs11Pool.Test.Tokens.Guide do
  @moduledoc """
  `guides/tokens.md`, made from the results that are kept in `test/tokens/results.exs`.
  """

  alias Pkcs11Pool.Test.Tokens
  alias Pkcs11Pool.Test.Tokens.{Features, Trial}

  @guide "guides/tokens.md"
  @results "test/tokens/results.exs"
  @marks ["<!-- tokens: begin -->\n", "<!-- tokens: end -->"]

  @type results :: %{atom => Trial.report()}

  @doc "The results that were kept."
  @spec results() :: results
  def results do
    {results, _bindings} = Code.eval_file(@results)
    results
  end

  @doc "Keeps these results, and writes the guide."
  @spec write(results) :: :ok
  def write(results) do
    text =
      results
      |> inspect(limit: :infinity, printable_limit: :infinity, pretty: true)
      |> Code.format_string!()

    File.write!(@results, [
      "# What script/test-tokens found, and guides/tokens.md is made from: `script/test-tokens --write`.\n",
      text,
      "\n"
    ])

    [before, _shown, rest] = String.split(File.read!(@guide), @marks)
    [first, last] = @marks
    File.write!(@guide, [before, first, markdown(results), last, rest])
  end

  @doc "What the guide shows between its marks."
  @spec shown() :: String.t()
  def shown do
    [_before, shown, _rest] = String.split(File.read!(@guide), @marks)
    shown
  end

  @doc "The tables, as the guide shows them."
  @spec markdown(results) :: String.t()
  def markdown(results) do
    tokens =
      for {name, token} <- Tokens.all(),
          do: {token.title(), Map.get(results, name, %{not_tested: "never tried"})}

    IO.iodata_to_binary([
      "\n",
      feature_table(tokens),
      "\n",
      notes(tokens),
      "\n### Mechanisms\n\n",
      mechanism_table(tokens),
      "\n",
      not_tried(tokens)
    ])
  end

  ## Features

  defp feature_table(tokens) do
    [
      row(["" | for({title, report} <- tokens, do: heading(title, report))]),
      row(for _ <- ["" | tokens], do: "---"),
      for {feature, title} <- Features.all() do
        row([title | for({_title, report} <- tokens, do: cell(report, feature))])
      end
    ]
  end

  defp heading(title, %{version: version}) when is_binary(version), do: "#{title} #{version}"
  defp heading(title, _report), do: title

  defp cell(%{not_tested: _reason}, _feature), do: "not tested"

  defp cell(%{features: features}, feature) do
    case Keyword.get(features, feature) do
      nil -> "not tested"
      :pass -> "yes"
      {:pass, _note} -> "yes"
      {:fail, _text} -> "**no**"
      {:not_offered, _reason} -> "not offered"
    end
  end

  defp notes(tokens) do
    for {title, report} <- tokens, text <- note(report), do: "* #{title}: #{text}\n"
  end

  defp note(%{not_tested: reason}), do: ["not tested here: #{reason}"]

  defp note(%{features: features}) do
    titles = Features.all()

    for {feature, {kind, text}} <- features,
        do: "#{titles[feature]}: #{if kind == :fail, do: "**no**, "}#{text}"
  end

  ## Mechanisms

  defp mechanism_table(tokens) do
    columns =
      for {title, %{mechanisms: [_ | _] = mechanisms}} <- tokens, do: {title, Map.new(mechanisms)}

    tried =
      for {_title, mechanisms} <- columns,
          {name, result} <- mechanisms,
          result != :not_tried,
          uniq: true,
          do: name

    [
      row(["" | for({title, _mechanisms} <- columns, do: title)]),
      row(for _ <- ["" | columns], do: "---"),
      for name <- Enum.sort_by(tried, &inspect/1) do
        row([
          "`#{inspect(name)}`"
          | for({_title, mechanisms} <- columns, do: mechanism_cell(mechanisms[name]))
        ])
      end
    ]
  end

  defp mechanism_cell(nil), do: ""
  defp mechanism_cell(:not_tried), do: "not tried"
  defp mechanism_cell(:works), do: "yes"
  defp mechanism_cell({:refused, text}), do: text
  defp mechanism_cell({:wrong, text}), do: "**#{text}**"

  defp not_tried(tokens) do
    for {title, %{mechanisms: mechanisms}} <- tokens,
        names = for({name, :not_tried} <- mechanisms, do: name),
        names != [] do
      [
        "Offered by #{title}, and not tried: ",
        Enum.map_join(names, ", ", &"`#{inspect(&1)}`"),
        ".\n\n"
      ]
    end
  end

  defp row(cells),
    do: ["| ", cells |> Enum.map_join(" | ", &String.replace(&1, "|", "\\|")), " |\n"]
end
