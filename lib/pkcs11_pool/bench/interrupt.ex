defmodule Pkcs11Pool.Bench.Interrupt do
  @moduledoc false
  # Work that Ctrl-C ends, and after which there is still time to clean up. The VM would answer Ctrl-C with its BREAK menu, in which nothing of
  # ours runs any more; so the signal is counted by the native library instead, and looked at here. SIGTERM and SIGHUP count as well.

  alias Pkcs11Pool.Native

  @interval 50

  @typedoc "What became of the work."
  @type outcome ::
          {:done, term}
          | :interrupted
          | {:raised, :error | :exit | :throw, term, Exception.stacktrace()}

  @doc "Runs `fun`, during which signals are counted."
  @spec trap((() -> result)) :: result when result: term
  def trap(fun) do
    Native.trap_interrupts()

    try do
      fun.()
    after
      Native.release_interrupts()
    end
  end

  @doc "How many signals have come."
  @spec count() :: non_neg_integer
  defdelegate count, to: Native, as: :interrupts

  @doc """
  Runs `fun` in a process of its own, which a signal kills that comes, or has come, after there were `seen` of them. Gives what became of it, and in order what it has told by
  the function that it is given.
  """
  @spec run(((term -> term) -> term), seen :: non_neg_integer) :: {outcome, told :: [term]}
  def run(fun, seen) do
    parent = self()
    tag = make_ref()
    tell = &send(parent, {tag, &1})
    {worker, monitor} = spawn_monitor(fn -> exit({tag, outcome(fn -> fun.(tell) end)}) end)
    outcome = watch(worker, monitor, tag, seen)
    {outcome, told(tag)}
  end

  defp outcome(fun) do
    {:done, fun.()}
  catch
    kind, reason -> {:raised, kind, reason, __STACKTRACE__}
  end

  defp watch(worker, monitor, tag, seen) do
    receive do
      {:DOWN, ^monitor, :process, ^worker, {^tag, outcome}} -> outcome
      {:DOWN, ^monitor, :process, ^worker, reason} -> {:raised, :exit, reason, []}
    after
      @interval ->
        if count() > seen,
          do: kill(worker, monitor),
          else: watch(worker, monitor, tag, seen)
    end
  end

  defp kill(worker, monitor) do
    Process.exit(worker, :kill)

    receive do
      {:DOWN, ^monitor, :process, ^worker, _reason} -> :interrupted
    end
  end

  defp told(tag) do
    receive do
      {^tag, message} -> [message | told(tag)]
    after
      0 -> []
    end
  end
end
