defmodule Pkcs11Pool.Test.Poll do
  @moduledoc "Waits for a condition, where a sleep would only hope for it."

  @interval 10

  @doc """
  Calls `fun` until it returns a truthy value, and returns that. Fails the test after `timeout` ms.
  """
  @spec until((() -> result), timeout :: non_neg_integer()) :: result when result: term()
  def until(fun, timeout \\ 30_000) do
    poll(fun, timeout, System.monotonic_time(:millisecond) + timeout)
  end

  defp poll(fun, timeout, deadline) do
    cond do
      result = fun.() ->
        result

      System.monotonic_time(:millisecond) < deadline ->
        Process.sleep(@interval)
        poll(fun, timeout, deadline)

      true ->
        ExUnit.Assertions.flunk("the condition did not come true within #{timeout} ms")
    end
  end
end
