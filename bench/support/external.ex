defmodule Bench.External do
  @moduledoc "A program that measures itself, as bench/raw does: it reads a line, and prints a JSON object."

  alias Pkcs11Pool.Build.CargoMessages

  @patience 60_000

  @doc "Starts it, and waits until it is ready; the status with which it ended instead."
  @spec start(Path.t(), [String.t()], env :: map) :: {:ok, port} | {:error, pos_integer}
  def start(program, arguments, env) do
    port =
      Port.open({:spawn_executable, program}, [
        :binary,
        :exit_status,
        :hide,
        args: arguments,
        env: for({name, value} <- env, do: {to_charlist(name), to_charlist(value)}),
        line: 65_536
      ])

    receive do
      {^port, {:data, {:eol, ~s({"ready":true})}}} -> {:ok, port}
      {^port, {:exit_status, status}} -> {:error, status}
    after
      @patience -> raise "#{program} does not start"
    end
  end

  @doc "Operations a second in one window."
  @spec rate(port, warm_up :: non_neg_integer, window :: pos_integer) :: float
  def rate(port, warm_up, window) do
    %{"completed" => completed, "seconds" => seconds} = ask(port, "window #{warm_up} #{window}")
    completed / seconds
  end

  @doc "How long operations take, if they come at these times, whether those before are done or not. bench/raw cannot tell."
  @spec latency(port, [non_neg_integer]) :: Bench.OpenLoop.answer()
  def latency(port, times) do
    answer = ask(port, Enum.join(["load", Bench.OpenLoop.grace() | times], " "))
    for key <- [:p50, :p99, :asked, :late], into: %{}, do: {key, answer[Atom.to_string(key)]}
  end

  @doc "The output of one operation."
  @spec sample(port) :: binary
  def sample(port) do
    %{"output" => hex} = ask(port, "sample")
    Base.decode16!(hex, case: :lower)
  end

  @doc "It has ended then, and is inside no module any more."
  @spec stop(port) :: :ok
  def stop(port) do
    tell(port, "quit")

    receive do
      {^port, {:exit_status, 0}} -> :ok
      {^port, {:exit_status, status}} -> raise "the program ended with status #{status}"
    after
      @patience -> raise "the program does not end"
    end
  end

  defp ask(port, line) do
    tell(port, line)
    answer(port, line)
  end

  # One that has ended takes no line; that it has is in the mailbox.
  defp tell(port, line) do
    Port.command(port, line <> "\n")
  rescue
    ArgumentError -> false
  end

  defp answer(port, question) do
    receive do
      {^port, {:data, {:eol, line}}} ->
        {:ok, answer} = CargoMessages.decode(line)
        answer

      {^port, {:exit_status, status}} ->
        raise "the program ended with status #{status} when asked: #{question}"
    after
      @patience -> raise "no answer to: #{question}"
    end
  end
end
