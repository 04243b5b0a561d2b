defmodule Bench.Pools do
  @moduledoc "Pools that are ready, and can be stopped."

  alias Pkcs11Pool.{Call, Options}
  alias Pkcs11Pool.Test.SoftHSM

  @type pool :: %{name: term, supervisor: pid}

  @doc "A pool on this token, with a session and, where it logs in, a login."
  @spec start!(Bench.Tokens.t(), keyword) :: pool
  def start!(token, options) do
    name = {__MODULE__, make_ref()}
    {:ok, supervisor} = Pkcs11Pool.start_link(SoftHSM.pool_opts(token, [name: name] ++ options))
    :ok = Pkcs11Pool.await_ready(name, 30_000)
    %{name: name, supervisor: supervisor}
  end

  @doc "A pool for as long as `fun` runs, which gets its name."
  @spec with_pool(Bench.Tokens.t(), keyword, (term -> result)) :: result when result: term
  def with_pool(token, options, fun) do
    pool = start!(token, options)

    try do
      fun.(pool.name)
    after
      stop(pool)
    end
  end

  @spec stop(pool) :: :ok
  def stop(%{supervisor: supervisor}), do: Supervisor.stop(supervisor)

  @doc "Waits until so many operations wait in the pool of this name."
  @spec await_waiting(term, non_neg_integer) :: :ok
  def await_waiting(name, count) do
    if Pkcs11Pool.status(name).waiting < count do
      Process.sleep(1)
      await_waiting(name, count)
    else
      :ok
    end
  end

  @doc "An operation that does nothing, and needs a session all the same."
  @spec ping(term) :: :ok
  def ping(name), do: Call.run(name, :ping, nil, :ping, Options.Call.validate!([]))
end
