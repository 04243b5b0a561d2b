defmodule Bench.Contenders.Program do
  @moduledoc """
  Programs with N threads that measure themselves: bench/raw, what the module can do with nothing in between, by which the others are
  measured; and Java's own provider, which keeps its sessions itself.
  """
  @behaviour Bench.Contender

  alias Bench.{External, Tokens, Work}

  @java Path.expand("../../java/Sun.java", __DIR__)

  @impl Bench.Contender
  def start(arena, program: :raw), do: run(arena, arena.raw, [], & &1.label, "token")

  def start(arena, program: :java) do
    case System.find_executable("java") do
      nil -> {:skip, "there is no JDK (on Debian: apt-get install default-jdk-headless)"}
      java -> run(arena, java, [@java], & &1.slot_id, "slot")
    end
  end

  defp run(%{operation: operation} = arena, program, first, place, place_option) do
    # The module of this process is not its: nor is the latency.
    token = Tokens.slow!(arena.token, arena.latency)

    options = [
      {"module", token.module},
      {place_option, place.(token)},
      {"pin", token.pin},
      {"key", Work.key(operation)},
      {"op", operation},
      {"data", hex(Work.data(operation))},
      {"signature", hex(Work.signature(operation, token))},
      {"threads", arena.sessions}
    ]

    words = for {name, value} <- options, word <- ["--#{name}", to_string(value)], do: word

    case External.start(program, first ++ words, token.module_env) do
      {:ok, port} ->
        {:ok, running(port, token)}

      {:error, status} ->
        Tokens.fast(token)
        {:skip, "#{Path.basename(program)} ended with status #{status}, having said why"}
    end
  end

  defp running(port, token) do
    %{
      rate: &External.rate(port, &1, &2),
      latency: &External.latency(port, &1),
      sample: fn -> External.sample(port) end,
      stop: fn ->
        External.stop(port)
        Tokens.fast(token)
      end,
      os_pid: port |> Port.info(:os_pid) |> elem(1)
    }
  end

  defp hex(bytes), do: Base.encode16(bytes, case: :lower)
end
