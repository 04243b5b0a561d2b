defmodule Pkcs11Pool.PinProcess do
  @moduledoc false
  # A process that asks PIN sources, and does one thing with the PINs: no other process of the VM ever holds them. It is `:sensitive`: neither
  # a trace nor `Process.info/2` shows what it has. It ends with its task, or is killed when a source has not answered in time.

  alias Pkcs11Pool.PinSource

  @doc """
  Asks the sources one after the other, each for at most `timeout` ms, and calls `fun` with `{:ok, pins}` or with the reason of the first that
  gave none. The process ends with what `fun` returns, as `{:shutdown, result}`; one that was killed, with `:killed`.
  """
  @spec start(
          [PinSource.normalized()],
          pos_integer,
          ({:ok, [binary]} | {:error, PinSource.reason()} -> term)
        ) :: {pid, reference}
  def start(sources, timeout, fun) do
    Process.spawn(
      fn ->
        Process.flag(:sensitive, true)
        exit({:shutdown, fun.(fetch(sources, timeout, []))})
      end,
      [:monitor]
    )
  end

  @doc """
  The same, and waits for it: what `fun` returned, or `{:error, {:pin_source, sentence}}`.
  """
  @spec run([PinSource.normalized()], pos_integer, ([binary] -> result)) ::
          result | {:error, {:pin_source, String.t()}}
        when result: term
  def run(sources, timeout, fun) do
    started = now()

    {pid, monitor} =
      start(sources, timeout, fn
        {:ok, pins} -> fun.(pins)
        {:error, reason} -> {:error, {:pin_source, PinSource.explain(reason)}}
      end)

    receive do
      {:DOWN, ^monitor, :process, ^pid, {:shutdown, result}} ->
        result

      {:DOWN, ^monitor, :process, ^pid, _killed} ->
        {:error, {:pin_source, end_of(started, timeout)}}
    end
  end

  @doc """
  Why a process that was started at this time ended without having done anything.
  """
  @spec end_of(started :: integer, timeout :: pos_integer) :: String.t()
  def end_of(started, timeout) do
    PinSource.explain(if now() - started >= timeout, do: :timeout, else: :killed)
  end

  @doc """
  The time, for `end_of/2`.
  """
  @spec now() :: integer
  def now, do: System.monotonic_time(:millisecond)

  defp fetch([], _timeout, pins), do: {:ok, Enum.reverse(pins)}

  defp fetch([source | sources], timeout, pins) do
    # Whoever waits for this process may die, and nobody else would end a source that hangs.
    {:ok, timer} = :timer.kill_after(timeout)
    answer = PinSource.fetch(source)
    {:ok, :cancel} = :timer.cancel(timer)
    with {:ok, pin} <- answer, do: fetch(sources, timeout, [pin | pins])
  end
end
