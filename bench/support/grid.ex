defmodule Bench.Grid do
  @moduledoc "Which comparisons are made: operations, sessions and callers, on SoftHSM as it is and behind a module that is slow."

  alias Bench.{Arena, Work}

  # {sessions, callers}, in full and in small
  @sizes [{1, 1}, {1, 32}, {2, 32}, {4, 32}, {8, 32}, {8, 200}]
  @small_sizes [{1, 1}]
  @slow_sizes for sessions <- [1, 4, 8, 32, 64], do: {sessions, 200}
  @small_slow_sizes [{1, 4}, {4, 4}]
  @slow %{sign: 5, size_query: 0}
  @slow_query %{sign: 5, size_query: 5}

  @contenders ["raw", "pool :dirty_io", "pool :threads", "original", "poolboy", "SunPKCS11"]
  @slow_contenders ["raw", "pool", "bare :threads", "original", "poolboy", "SunPKCS11"]
  @bare ["bare :dirty_io", "bare :threads"]

  @type cell :: {Arena.spec(), contenders :: [String.t()]}

  @doc "The operations on SoftHSM as it is."
  @spec cells(small? :: boolean) :: [cell]
  def cells(small?) do
    for operation <- Work.names(),
        {sessions, callers} <- if(small?, do: @small_sizes, else: @sizes) do
      alone? = callers == 1

      more =
        if(Work.mechanism(operation), do: @bare, else: []) ++
          if(alone?, do: ["pool at once"], else: []) ++
          if(alone? and operation in Work.batched(), do: ["batch of 64"], else: []) ++
          if(operation == :hmac, do: ["pool prepared"], else: [])

      {spec(operation, sessions, callers), @contenders ++ more}
    end
  end

  @doc "An HSM that takes 5 ms to sign; and one that also takes 5 ms to say how long a signature is. HMAC, since SoftHSM is to take no time itself."
  @spec slow_cells(small? :: boolean) :: [cell]
  def slow_cells(small?) do
    for latency <- [@slow, @slow_query],
        {sessions, callers} <- if(small?, do: @small_slow_sizes, else: @slow_sizes) do
      {spec(:hmac, sessions, callers, latency), @slow_contenders}
    end
  end

  @spec spec(Work.name(), pos_integer, pos_integer, Bench.Tokens.latency() | nil) :: Arena.spec()
  def spec(operation, sessions, callers, latency \\ nil),
    do: %{operation: operation, sessions: sessions, callers: callers, latency: latency}

  @doc "The slow modules' latencies."
  @spec slow(:sign | :size_query) :: Bench.Tokens.latency()
  def slow(:sign), do: @slow
  def slow(:size_query), do: @slow_query
end
