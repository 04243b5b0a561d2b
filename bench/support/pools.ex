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

  @doc "An operation that does nothing, and needs a session all the same."
  @spec ping(term) :: :ok
  def ping(name), do: Call.run(name, :ping, nil, :ping, Options.Call.validate!([]))
end
