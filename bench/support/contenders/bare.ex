defmodule Bench.Contenders.Bare do
  @moduledoc """
  The bare runners: the fair limit of the pool's model, as they do the same hop, and keep none of the pool's promises. They only sign
  (`Bench.Work.mechanism/1`).
  """
  @behaviour Bench.Contender

  alias Bench.{Bare, Contender, Pools, Work}
  alias Pkcs11Pool.Mechanism
  alias Pkcs11Pool.Table.Constants

  @impl Contender
  def start(%{operation: operation, token: token, sessions: count} = arena, executor: executor) do
    # It has initialized the module and logged in, and does nothing else.
    pool = Pools.start!(token, pool_size: 1)
    mechanism = Work.mechanism(operation)
    {code, _params} = Mechanism.encode!(mechanism)
    class = Constants.classes()[Mechanism.class_for(:sign, mechanism)]
    key = {class, Work.key(operation)}
    {:ok, bare, sessions} = Bare.start(token.module, token.slot_id, key, code, count)
    for session <- sessions, do: start_runner(executor, bare, session)
    data = Work.data(operation)

    stop = fn ->
      :ok = Bare.stop(bare, count)
      Pools.stop(pool)
    end

    {:ok, Contender.running(fn -> sign(bare, data) end, arena.callers, stop)}
  end

  defp start_runner(:dirty_io, bare, session), do: spawn_link(fn -> serve(bare, session) end)
  defp start_runner(:threads, bare, session), do: Bare.start_thread(bare, session)

  defp serve(bare, session), do: if(Bare.serve(bare, session), do: serve(bare, session))

  defp sign(bare, data) do
    tag = make_ref()
    :ok = Bare.submit(bare, tag, data)

    receive do
      {^tag, {:ok, signature}} -> signature
      {^tag, {:error, text}} -> raise text
    end
  end
end
