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
    %{run: run, stop: stop} = start!(token, operation, sessions, options[:executor])
    {:ok, Contender.running(run, callers, stop)}
  end

  @doc "Bare runners for an operation; `nil`: for nothing, which still needs a runner. What a caller does, and what ends them."
  @spec start!(Tokens.t(), Work.name() | nil, pos_integer, :dirty_io | :threads) ::
          %{run: (() -> binary), stop: (() -> :ok)}
  def start!(token, operation, count, executor) do
    # It has initialized the module and logged in, and does nothing else.
    pool = Pools.start!(token, pool_size: 1)
    {:ok, bare, sessions} = Bare.start(token.module, token.slot_id, task(operation), count)
    for session <- sessions, do: start_runner(executor, bare, session)
    data = if(operation, do: Work.data(operation), else: "")

    stop = fn ->
      :ok = Bare.stop(bare, count)
      Pools.stop(pool)
    end

    %{run: fn -> run(bare, data) end, stop: stop}
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
