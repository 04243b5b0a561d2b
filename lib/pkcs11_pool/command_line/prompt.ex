defmodule Pkcs11Pool.CommandLine.Prompt do
  @moduledoc false
  # Questions to somebody at a terminal.

  @tries 3

  @doc "The value of the choice that is typed; `:none` where nobody answers, or not as asked."
  @spec choose(String.t(), [{typed :: String.t(), text :: String.t(), value}]) ::
          {:ok, value} | :none
        when value: term
  def choose(question, choices) do
    IO.puts(question)

    for {typed, text, _value} <- choices,
        do: IO.puts("  #{String.pad_leading(typed, 3)}  #{text}")

    pick(choices, @tries)
  end

  defp pick(_choices, 0), do: :none

  defp pick(choices, tries) do
    with {:ok, typed} <- gets("> ") do
      case List.keyfind(choices, typed, 0) do
        {_typed, _text, value} -> {:ok, value}
        nil -> pick(choices, tries - 1)
      end
    end
  end

  @doc "Whether the answer is yes; no answer is none."
  @spec yes?(String.t()) :: boolean
  def yes?(question) do
    case gets(question <> " [y/N] ") do
      {:ok, typed} -> String.downcase(typed) in ["y", "yes"]
      :none -> false
    end
  end

  defp gets(prompt) do
    case IO.gets(prompt) do
      typed when is_binary(typed) -> {:ok, String.trim(typed)}
      _end_of_input -> :none
    end
  end
end
