defmodule Bench.Floors.Calls do
  @moduledoc "How many C functions a signature calls, once its key is known."

  alias Bench.{Pools, Row, Stats, Tokens, Work}
  alias Pkcs11Pool.Testing.Chaos

  @signatures 100

  @spec rows(Bench.Context.t()) :: [Row.t()]
  def rows(context) do
    token = Tokens.slow!(context.slow_token, %{sign: 0, size_query: 0})

    calls =
      Pools.with_pool(token, [pool_size: 1], fn pool ->
        sign = Work.operation(:rsa, pool, token)
        sign.()
        Chaos.reset_counts(token.chaos)
        for _ <- 1..@signatures, do: sign.()
        Chaos.calls(token.chaos)
      end)

    Tokens.fast(token)
    total = calls |> Map.values() |> Enum.sum()

    [
      %Row{
        work: "C calls per warm signature",
        floor: {:at_most, 2},
        of: "calls",
        measured: Stats.summary([total / @signatures]),
        note:
          "of #{@signatures}: #{Enum.map_join(calls, ", ", fn {name, n} -> "#{n} #{name}" end)}"
      }
    ]
  end
end
