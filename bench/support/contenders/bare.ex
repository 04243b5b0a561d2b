defmodule Bench.Contenders.Bare do
  @moduledoc """
  The bare runners: the fair limit of the pool's model, as they do the same hop, and keep none of the pool's promises. They only sign
  (`Bench.Work.mechanism/1`).
  """
  @behaviour Bench.Contender

  alias Bench.{Bare, Contender, Pools, Tokens, Work}
  alias Pkcs11Pool.Mechanism
  alias Pkcs11Pool.Table.Constants

  @impl Contender
  def start(%{operation: operation, token: token, sessions: sessions, callers: callers}, options) do
    opened = open!(token, operation, sessions, options[:executor])
    running = Contender.running(opened.run, callers, opened.close)

    {:ok,
     %{
       running
       | rate: fn warm_up, window -> during(opened, fn -> running.rate.(warm_up, window) end) end,
         latency: fn times -> during(opened, fn -> running.latency.(times) end) end,
         sample: fn -> during(opened, running.sample) end
     }}
  end

  # A runner that waits for work has a dirty-IO scheduler of the VM, of which the next contender's runners would then have the fewer.
  defp during(%{resume: resume, rest: rest}, fun) do
    resume.()
    result = fun.()
    rest.()
    result
  end

  @doc "Bare runners for an operation; `nil`: for nothing, which still needs a runner. What a caller does, and what ends them."
  @spec start!(Tokens.t(), Work.name() | nil, pos_integer, :dirty_io | :threads) ::
          %{run: (() -> binary), stop: (() -> :ok)}
  def start!(token, operation, count, executor) do
    %{run: run, resume: resume, rest: rest, close: close} =
      open!(token, operation, count, executor)

    resume.()

    stop = fn ->
      rest.()
      close.()
    end

    %{run: run, stop: stop}
  end

  defp open!(token, operation, count, executor) do
    # It has initialized the module and logged in, and does nothing else.
    pool = Pools.start!(token, pool_size: 1)
    {:ok, bare, sessions} = Bare.start(token.module, token.slot_id, task(operation), count)
    data = if(operation, do: Work.data(operation), else: "")

    close = fn ->
      :ok = Bare.close(bare, sessions)
      Pools.stop(pool)
    end

    %{
      run: fn -> run(bare, data) end,
      resume: fn -> for session <- sessions, do: start_runner(executor, bare, session) end,
      rest: fn -> :ok = Bare.rest(bare, count) end,
      close: close
    }
  end

  defp task(nil), do: nil

  defp task(operation) do
    mechanism = Work.mechanism(operation)
    {code, _params} = Mechanism.encode!(mechanism)
    class = Constants.classes()[Mechanism.class_for(:sign, mechanism)]
    {class, Work.key(operation), code}
  end

  defp start_runner(:dirty_io, bare, session), do: spawn_link(fn -> serve(bare, session) end)
  defp start_runner(:threads, bare, session), do: Bare.start_thread(bare, session)

  defp serve(bare, session), do: if(Bare.serve(bare, session), do: serve(bare, session))

  defp run(bare, data) do
    tag = make_ref()
    :ok = Bare.submit(bare, tag, data)

    receive do
      {^tag, {:ok, output}} -> output
      {^tag, {:error, text}} -> raise text
    end
  end
end
