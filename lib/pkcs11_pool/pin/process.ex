defmodule Pkcs11Pool.Pin.Process do
  @moduledoc false
  # A process that asks PIN sources, and does one thing with the PINs: no other process of the VM ever holds them. It is `:sensitive`: neither
  # a trace nor `Process.info/2` shows what it has. It ends with its task, or is killed when a source has not answered in time.

  alias Pkcs11Pool.{Error, Pin}

  @failed "what was to be done with the PIN raised, threw or exited (what it said is withheld, as it may hold the PIN)"

  @doc """
  Asks the sources for the pool of this name (nil for none) one after the other, each for at most `timeout` ms, and calls `fun` with `{:ok, pins}` or with the reason of the first that
  gave none. The process ends with a reason that `outcome/3` reads.
  """
  @spec start(
          [Pin.Source.normalized()],
          pos_integer,
          ({:ok, [binary]} | {:error, Pin.Source.reason()} -> term),
          pool :: term
        ) :: {pid, reference}
  def start(sources, timeout, fun, pool \\ nil) do
    Process.spawn(
      fn ->
        Process.flag(:sensitive, true)
        exit({:shutdown, {__MODULE__, task(pool, sources, timeout, fun)}})
      end,
      [:monitor]
    )
  end

  # What is raised here may hold the PIN: a NIF that is refused its arguments names them. It goes neither into the log nor to whoever waits.
  defp task(pool, sources, timeout, fun) do
    {:done, fun.(fetch(pool, sources, timeout, []))}
  catch
    _kind, _withheld -> :failed
  end

  @doc """
  The same, and waits for it: what `fun` returned, or the error of the pool of this name.
  """
  @spec run(pool :: term, [Pin.Source.normalized()], pos_integer, ([binary] -> result)) ::
          result | {:error, Error.t()}
        when result: term
  def run(pool, sources, timeout, fun) do
    started = now()

    {pid, monitor} =
      start(
        sources,
        timeout,
        fn
          {:ok, pins} -> {:done, fun.(pins)}
          {:error, reason} -> {:no_pin, Pin.Source.details(reason)}
        end,
        pool
      )

    receive do
      {:DOWN, ^monitor, :process, ^pid, reason} ->
        case outcome(reason, started, timeout) do
          {:done, {:done, result}} -> result
          {:done, {:no_pin, details}} -> no_pin(pool, details)
          {:no_pin, details} -> no_pin(pool, details)
          :failed -> {:error, Error.new(:interrupted, pool: pool, details: %{cause: @failed})}
        end
    end
  end

  defp no_pin(pool, details),
    do: {:error, Error.new(:pin_source_failed, pool: pool, details: details)}

  @doc """
  How a process that was started at this time has ended: with what `fun` returned, by what `fun` raised, or before it was called, with what
  an error says about that.
  """
  @spec outcome(reason :: term, started :: integer, timeout :: pos_integer) ::
          {:done, term} | :failed | {:no_pin, Pin.Source.details()}
  def outcome({:shutdown, {__MODULE__, outcome}}, _started, _timeout), do: outcome

  def outcome(_killed, started, timeout) do
    {:no_pin, Pin.Source.details(if now() - started >= timeout, do: :timeout, else: :killed)}
  end

  @doc """
  The time, for `outcome/3`.
  """
  @spec now() :: integer
  def now, do: System.monotonic_time(:millisecond)

  defp fetch(_pool, [], _timeout, pins), do: {:ok, Enum.reverse(pins)}

  defp fetch(pool, [source | sources], timeout, pins) do
    # Whoever waits for this process may die, and nobody else would end a source that hangs.
    {:ok, timer} = :timer.kill_after(timeout)
    answer = Pin.Source.fetch(source, pool)
    {:ok, :cancel} = :timer.cancel(timer)
    with {:ok, pin} <- answer, do: fetch(pool, sources, timeout, [pin | pins])
  end
end
