defmodule Pkcs11Pool.Bench.Recommend do
  @moduledoc false
  # From what was measured to the options of a pool, with the reasons as data.

  # What another step must add, at least.
  @worth 0.05
  # Dirty-IO schedulers that `executor: :auto` leaves to the rest of the VM.
  @spare 2
  # Of a default pool, in ms.
  @operation_timeout 30_000
  # A tail is long when the slowest call took so many times as long as the median one, and more than an instant, in ms.
  @long_tail 10
  @instant 100
  # How much longer than the slowest call seen an operation may take.
  @margin 5

  @typedoc """
  Why the size: the next step adds too little (`:saturated`: the next size, and what it adds as a fraction); the largest size measured
  was still worth its step (`:growing`: what the last step added); nothing to compare with (`:only_one`).
  """
  @type why ::
          {:saturated, next :: pos_integer, gain :: float} | {:growing, gain :: float} | :only_one

  @type executor :: %{
          name: :dirty_io | :threads,
          dirty_io_schedulers: pos_integer,
          sdio: pos_integer | nil
        }

  @type row :: %{
          required(:sessions) => pos_integer,
          required(:rate) => number,
          required(:p50) => number,
          required(:max) => number,
          optional(atom) => term
        }

  @type t :: %{
          pool_size: pos_integer,
          why: why,
          executor: executor,
          operation_timeout: pos_integer | nil
        }

  @doc "The recommendation for rows in order of their sessions; times are milliseconds."
  @spec recommend([row, ...], dirty_io_schedulers :: pos_integer) :: t
  def recommend(rows, schedulers) do
    {size, why} = size(for row <- rows, do: {row.sessions, row.rate})

    %{
      pool_size: size,
      why: why,
      executor: executor(size, schedulers),
      operation_timeout: operation_timeout(Enum.find(rows, &(&1.sessions == size)))
    }
  end

  @doc """
  The smallest size after which another step adds less than 5 %. Neither do the steps after it on the average: one window that was disturbed
  must not cut a curve that goes on rising.
  """
  @spec size([{sessions :: pos_integer, rate :: number}, ...]) :: {pos_integer, why}
  def size([{sessions, _rate}]), do: {sessions, :only_one}

  def size(points) do
    case worth(points) do
      [{sessions, _rate}] ->
        [{_before, rate}, {_last, last}] = Enum.take(points, -2)
        {sessions, {:growing, gain(rate, last)}}

      [{sessions, rate}, {next, after_it} | _rest] ->
        {sessions, {:saturated, next, gain(rate, after_it)}}
    end
  end

  # The points from the first one on that no later step beats.
  defp worth([_last] = points), do: points

  defp worth([{_sessions, rate} | rest] = points) do
    beaten? =
      rest
      |> Enum.with_index(1)
      |> Enum.any?(fn {{_sessions, later}, steps} ->
        later >= rate * :math.pow(1 + @worth, steps)
      end)

    if beaten?, do: worth(rest), else: points
  end

  defp gain(before, after_it) when before > 0, do: after_it / before - 1
  defp gain(_none, _after_it), do: 0.0

  @doc """
  The executor that `:auto` chooses for the only pool of a VM, and the `+SDio` with which it would be `:dirty_io` where it is not.
  """
  @spec executor(pos_integer, pos_integer) :: executor
  def executor(size, schedulers) do
    if size + @spare <= schedulers,
      do: %{name: :dirty_io, dirty_io_schedulers: schedulers, sdio: nil},
      else: %{name: :threads, dirty_io_schedulers: schedulers, sdio: size + @spare}
  end

  # Where the tail is long, or so slow that the default would cut it off: some times the slowest call.
  defp operation_timeout(%{p50: p50, max: max}) do
    wanted = round_up(max * @margin)

    if (max >= p50 * @long_tail and max > @instant) or wanted > @operation_timeout,
      do: wanted
  end

  # To 1, 2 or 5 times a power of ten, at least a second.
  defp round_up(ms) do
    Stream.iterate(1_000, &(&1 * 10))
    |> Stream.flat_map(&[&1, &1 * 2, &1 * 5])
    |> Enum.find(&(&1 >= ms))
  end
end
