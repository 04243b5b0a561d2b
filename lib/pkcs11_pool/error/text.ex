defmodule Pkcs11Pool.Error.Text do
  @moduledoc false
  # The message of an error: "pool NAME: what happened (the code; how long; the pool). What to change."

  alias Pkcs11Pool.Error.Explanation
  alias Pkcs11Pool.ReturnCode

  @doc """
  The message of an error.
  """
  @spec of(map) :: String.t()
  def of(error) do
    {what, remedy} = parts(error)
    pool = if error.pool != nil, do: "pool #{inspect(error.pool)}: ", else: ""
    pool <> what <> if(remedy, do: ". " <> remedy, else: "")
  end

  @doc """
  What happened, without the pool, and what to change (nil where that is not known): for a task, which names neither pools nor their options.
  """
  @spec parts(map) :: {what :: String.t(), remedy :: String.t() | nil}
  def parts(error) do
    error = %{error | details: if(is_map(error.details), do: error.details, else: %{})}
    {what, remedy} = Explanation.of(error.reason, error.details, error)

    facts =
      [returned(error), after_ms(error.details), stats(error.details)]
      |> Enum.reject(&is_nil/1)
      |> Enum.join("; ")

    facts = if facts != "", do: " (" <> facts <> ")", else: ""
    parts = [argument(error.details), what, facts, whether_executed(error)]
    {IO.iodata_to_binary(parts), remedy}
  end

  defp returned(%{code: nil}), do: nil
  defp returned(%{code: code, function: nil}), do: ReturnCode.describe(code)

  defp returned(%{code: code, function: name}),
    do: "#{name} returned #{ReturnCode.describe(code)}"

  # Which key is meant, of a call that names several.
  defp argument(%{argument: argument}) when is_atom(argument), do: "argument #{argument}: "
  defp argument(_details), do: ""

  defp after_ms(%{elapsed_ms: ms}) when is_number(ms), do: "after #{ms} ms"
  defp after_ms(_details), do: nil

  defp stats(%{stats: %{} = stats}) do
    names = Enum.filter([:size, :idle, :running, :waiting, :hung], &is_map_key(stats, &1))
    if names != [], do: Enum.map_join(names, " ", &"#{&1}=#{Map.fetch!(stats, &1)}")
  end

  defp stats(_details), do: nil

  defp whether_executed(%{executed: :unknown, details: %{path: _module}}), do: ""

  defp whether_executed(%{executed: :unknown, reason: reason})
       when reason in [
              :operation_timeout,
              :general_error,
              :function_failed,
              :device_error,
              :token_unavailable
            ],
       do: "; it is unknown whether the operation ran"

  defp whether_executed(_error), do: ""
end
