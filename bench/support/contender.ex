defmodule Bench.Contender do
  @moduledoc """
  Who competes: something that does the benchmark's operations on a token.
  """

  @typedoc "Where they compete. `latency` is already that of the token here, and not yet that of a process outside."
  @type arena :: %{
          operation: Bench.Work.name(),
          token: Bench.Tokens.t(),
          latency: Bench.Tokens.latency() | nil,
          sessions: pos_integer,
          callers: pos_integer,
          raw: Path.t()
        }

  @typedoc "One that is ready: how many operations a second it does, how long they take if they come at these times, what it gives, how it ends, and the process of the operating system that it is."
  @type running :: %{
          rate: (warm_up :: non_neg_integer, window :: pos_integer -> float),
          latency: ([non_neg_integer] -> Bench.OpenLoop.answer()),
          sample: (() -> binary),
          stop: (() -> term),
          os_pid: String.t() | non_neg_integer
        }

  @doc "Gets it ready, or says why it is left out."
  @callback start(arena, options :: keyword) :: {:ok, running} | {:skip, String.t()}

  @type t :: {name :: String.t(), module, keyword}

  alias Bench.Contenders.{Bare, Batch, Original, Pool, Poolboy, Program}

  @all [
    {"raw", Program, program: :raw},
    {"pool :dirty_io", Pool, executor: :dirty_io},
    {"pool :threads", Pool, executor: :threads},
    {"pool at once", Pool, executor: :dirty_io, call: [operation_timeout: :infinity]},
    {"pool", Pool, []},
    {"pool prepared", Pool, executor: :dirty_io, prepared: true},
    {"bare :dirty_io", Bare, executor: :dirty_io},
    {"bare :threads", Bare, executor: :threads},
    {"batch of 64", Batch, []},
    {"original", Original, []},
    {"poolboy", Poolboy, []},
    {"SunPKCS11", Program, program: :java}
  ]

  @doc "Contenders by name."
  @spec named([String.t()]) :: [t]
  def named(names), do: Enum.map(names, &List.keyfind!(@all, &1, 0))

  @doc "One whose callers are processes of this VM: `operation` does `per_call` of them and gives an output."
  @spec running((() -> binary), pos_integer, pos_integer, (() -> term)) :: running
  def running(operation, callers, per_call \\ 1, stop) do
    %{
      rate: &(Bench.Window.rate(operation, callers, &1, &2) * per_call),
      latency: &Bench.OpenLoop.run(operation, &1),
      sample: operation,
      stop: stop,
      os_pid: "self"
    }
  end
end
