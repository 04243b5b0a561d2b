defmodule Bench.Floors.Keys do
  @moduledoc """
  Whether the number of keys on the token matters to a signature. To SoftHSM itself it does a little, which the shortest ones show: of
  those, what raw loses on the same tokens is left out.
  """

  alias Bench.{Context, Contenders, Grid, Pools, Row, Stats, Tokens, Window, Work}

  @callers 8
  @sessions 2
  # The keys of a new token: two pairs and two secret ones.
  @made 6

  @spec rows(Context.t()) :: [Row.t()]
  def rows(context) do
    {few, many} = Context.scaled(context, {10, 2_000}, {10, 2_000}, {10, 20})

    with_keys(few, fn with_few ->
      with_keys(many, fn with_many ->
        for {operation, of_raw?} <- [rsa: false, hmac: true] do
          row(operation, of_raw?, {few, with_few}, {many, with_many}, context)
        end
      end)
    end)
  end

  defp row(operation, of_raw?, {few, with_few}, {many, with_many}, context) do
    [pool_few, pool_many] =
      for place <- [with_few, with_many], do: pool(place, operation, context)

    [raw_few, raw_many] = for place <- [with_few, with_many], do: raw(place, operation, context)

    rounds =
      for {pool, raw} <-
            Row.alternating(
              context.rounds,
              &ratio(&1, pool_few, pool_many),
              &ratio(&1, raw_few, raw_many)
            ) do
        {if(of_raw?, do: pool / raw, else: pool), raw}
      end

    for raw <- [raw_few, raw_many], do: raw.stop.()

    %Row{
      work: "Token with #{many} keys: time for #{Work.title(operation)}",
      floor: {:at_most, 1.05},
      of: "× that with #{few} keys" <> if(of_raw?, do: ", as raw has it", else: ""),
      measured: Stats.summary(for {ratio, _raw} <- rounds, do: ratio),
      note:
        "raw itself: #{rounds |> Enum.map(&elem(&1, 1)) |> Stats.median() |> Float.round(2)} times"
    }
  end

  # How much longer one takes with many keys.
  defp ratio(round, few, many) do
    if rem(round, 2) == 0 do
      rate = few.rate.()
      rate / many.rate.()
    else
      rate = many.rate.()
      few.rate.() / rate
    end
  end

  defp pool({token, pool}, operation, %{warm_up: warm_up, window: window}) do
    run = Work.operation(operation, pool, token)
    %{rate: fn -> Window.rate(run, @callers, warm_up, window) end}
  end

  defp raw({token, _pool}, operation, %{warm_up: warm_up, window: window} = context) do
    arena =
      Map.merge(Grid.spec(operation, @sessions, @sessions), %{token: token, raw: context.raw})

    {:ok, raw} = Contenders.Program.start(arena, program: :raw)
    %{rate: fn -> raw.rate.(warm_up, window) end, stop: raw.stop}
  end

  # A token with so many keys, and a pool on it.
  defp with_keys(count, fun) do
    token = Tokens.new!()

    Pools.with_pool(token, [pool_size: @sessions], fn pool ->
      for number <- 1..div(count - @made, 2)//1, do: pair!(pool, "key-#{number}")
      fun.({token, pool})
    end)
  end

  defp pair!(pool, label) do
    Pkcs11Pool.generate_key_pair!(
      pool,
      :ec_key_pair_gen,
      [token: true, label: label, ec_params: :secp256r1, verify: true],
      token: true,
      label: label,
      private: true,
      sensitive: true,
      sign: true
    )
  end
end
