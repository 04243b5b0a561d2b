defmodule Bench.Contenders.Poolboy do
  @moduledoc "Debian's erlang-poolboy over workers with one session each, which know their key."
  @behaviour Bench.Contender

  alias Bench.Contender
  alias Bench.Contenders.Worker
  alias Pkcs11Pool.Test.OTPLibrary

  @compile {:no_warn_undefined, :poolboy}

  @impl Contender
  def start(arena, _options) do
    if OTPLibrary.load(:poolboy) do
      options = [worker_module: Worker, size: arena.sessions, max_overflow: 0]
      {:ok, pool} = :poolboy.start_link(options, {arena, []})
      operation = fn -> :poolboy.transaction(pool, &Worker.run/1, :infinity) end
      {:ok, Contender.running(operation, arena.callers, fn -> :poolboy.stop(pool) end)}
    else
      {:skip, "poolboy is not installed (on Debian: apt-get install erlang-poolboy)"}
    end
  end
end
