defmodule Pkcs11Pool.Metrics do
  @moduledoc """
  Metrics of a pool for `Telemetry.Metrics`, and so for Prometheus, StatsD and Phoenix LiveDashboard.

  `telemetry_metrics` and `telemetry_poller` are no dependencies of this library: your application has them (a Phoenix application has them already). In its
  `Telemetry` module:

      def init(_arg) do
        children = [
          {:telemetry_poller, measurements: periodic_measurements(), period: 10_000},
          {TelemetryMetricsPrometheus, metrics: metrics()}
        ]

        Supervisor.init(children, strategy: :one_for_one)
      end

      def metrics, do: Pkcs11Pool.Metrics.definitions()

      defp periodic_measurements, do: [{Pkcs11Pool.Metrics, :poll, [MyApp.HSM]}]

  ## What is measured

  Counters, by events (`Pkcs11Pool.Telemetry`):

  | name | tags |
  |---|---|
  | `pkcs11_pool.operation.count` | `pool`, `operation`, `result` (`ok`, `error`, `halted`), `reason` (`none` without an error) |
  | `pkcs11_pool.operation.exception.count` | `pool`, `operation` |
  | `pkcs11_pool.operation.retry.count` | `pool`, `reason` |
  | `pkcs11_pool.lease.count` | `pool`, `result`, `reason` |
  | `pkcs11_pool.login.count` | `pool`, `result`, `reason` |
  | `pkcs11_pool.session.opened.count` | `pool` |
  | `pkcs11_pool.session.closed.count` | `pool`, `reason` |
  | `pkcs11_pool.session.hung.count` | `pool`, `reason` |
  | `pkcs11_pool.pool.down.count` | `pool`, `reason` |
  | `pkcs11_pool.module.reinitialized.count` | `pool`, `reason` |
  | `pkcs11_pool.private_key.failed.count` | `pool`, `algorithm`, `reason` |
  | `pkcs11_pool.group.failover.count` | `group`, `reason` |

  Durations in milliseconds, as distributions or summaries:

  | name | tags |
  |---|---|
  | `pkcs11_pool.operation.duration`, `pkcs11_pool.operation.queue_time` | `pool`, `operation` |
  | `pkcs11_pool.lease.queue_time`, `pkcs11_pool.login.duration`, `pkcs11_pool.open_session.duration` | `pool` |

  Gauges, by `poll/1`, each with the tag `pool`:

  | name | what it is |
  |---|---|
  | `pkcs11_pool.status.size`, `ceiling`, `idle`, `running`, `leased`, `waiting`, `hung` | as in `Pkcs11Pool.status/1` |
  | `pkcs11_pool.status.login` | 1: logged in, or no login is needed; 0: not, or not yet (a pool with `lazy: true` logs in with its first call) |
  | `pkcs11_pool.status.breaker` | 1: open, the token is away and calls are refused; 0: closed |
  | `pkcs11_pool.status.ready` | 1: calls succeed, as far as the pool knows (`:health` is `:ready`); 0: not, or not all |
  """

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Options.Shape
  alias Pkcs11Pool.Telemetry.Emitter

  @gauges [
    size: "The most sessions",
    ceiling: "The most sessions that the token allows now",
    idle: "Sessions that nobody uses",
    running: "Sessions on which an operation runs",
    leased: "Sessions that callers have for themselves",
    waiting: "Operations that wait for a session",
    hung: "Calls that the module does not return from",
    login: "1: logged in, or no login is needed",
    breaker: "1: the token is away, and calls are refused",
    ready: "1: calls succeed, as far as the pool knows"
  ]

  # From a software token to a network HSM that is overloaded, in ms.
  @buckets [
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    30_000
  ]

  @defaults [timing: :distribution, buckets: @buckets, tags: []]

  @typedoc """
  Options of `definitions/1`:

    * `:timing` - `:distribution` (default; Prometheus wants it) or `:summary` (for LiveDashboard)
    * `:buckets` - the upper bounds of a distribution's buckets, in milliseconds; by default 17 from 0.1 to 30,000
    * `:tags` - keys of your own `:telemetry_metadata` that are tags of the operations' metrics, too. Choose only what has few values: each
      combination is a time series of its own. One that a call does not give is `none`
  """
  @type option ::
          {:timing, :distribution | :summary} | {:buckets, [number, ...]} | {:tags, [atom]}

  @doc """
  The definitions, for a reporter of `Telemetry.Metrics`.

  A bad option, and an application without `telemetry_metrics`, raise `ArgumentError`.
  """
  @spec definitions([option]) :: [struct, ...]
  def definitions(opts \\ []) do
    opts = validate!(opts)
    check_library!()
    counters(opts.tags) ++ durations(opts) ++ gauges()
  end

  @doc """
  Emits the gauges of a pool as the event `[:pkcs11_pool, :status]`, for `:telemetry_poller`. The metadata are `pool`, and as atoms `login`, `state` and `health`.

  It takes microseconds and calls neither the module nor a process. A pool that is not running emits nothing and is `{:error, %Pkcs11Pool.Error{}}`: it does not
  raise, since the poller would not ask again. With the name of a group (`Pkcs11Pool.Group`) it emits those of the members that run on this node; a group also asks the other
  nodes, so that it is better to poll each pool by its own name.
  """
  @spec poll(Pkcs11Pool.pool()) :: :ok | {:error, Error.t()}
  def poll(pool) do
    case Pkcs11Pool.status(pool) do
      %{members: members} ->
        for %{local: true, pool: pool, status: %{} = status} <- members, do: emit(pool, status)
        :ok

      status ->
        emit(Pkcs11Pool.Lease.pool_name(pool), status)
    end
  rescue
    error in Error -> {:error, error}
  end

  defp emit(pool, status) do
    gauges =
      status
      |> Map.take([:size, :ceiling, :idle, :running, :leased, :waiting, :hung])
      |> Map.merge(%{
        login: number(status.login in [:logged_in, :none]),
        breaker: number(status.state == :down),
        ready: number(status.health == :ready)
      })

    metadata = Map.take(status, [:login, :state, :health])
    Emitter.execute([:status], gauges, Map.put(metadata, :pool, pool))
  end

  defp number(true), do: 1
  defp number(false), do: 0

  ## Definitions

  defp counters(own) do
    [
      counter("operation.count", [:operation, :stop], [:operation, :result, :reason | own],
        description: "Operations that have ended"
      ),
      counter("operation.exception.count", [:operation, :exception], [:operation | own],
        description: "Operations that ended by an exception"
      ),
      counter("operation.retry.count", [:operation, :retry], [:reason],
        description: "Operations that were tried again by the pool"
      ),
      counter("lease.count", [:lease, :stop], [:result, :reason],
        description: "Blocks with a session of their own"
      ),
      counter("login.count", [:login, :stop], [:result, :reason], description: "Logins"),
      counter("session.opened.count", [:session, :opened], [],
        description: "Sessions that were opened"
      ),
      counter("session.closed.count", [:session, :closed], [:reason],
        description: "Sessions that were closed"
      ),
      counter("session.hung.count", [:session, :hung], [:reason],
        description: "Calls that did not return in their time"
      ),
      counter("pool.down.count", [:pool, :down], [:reason],
        description: "How often the pool lost its token"
      ),
      counter("module.reinitialized.count", [:module, :reinitialized], [:reason],
        description: "How often the module was initialized again"
      ),
      counter("private_key.failed.count", [:private_key, :failed], [:algorithm, :reason],
        description: "Signatures for :ssl and :public_key that failed"
      ),
      counter("group.failover.count", [:group, :failover], [:reason],
        description: "Calls for which another member of a group was asked"
      )
    ]
  end

  defp durations(%{tags: own} = opts) do
    for {name, event, measurement, tags} <- [
          {"operation.duration", [:operation, :stop], :duration, [:operation | own]},
          {"operation.queue_time", [:operation, :stop], :queue_time, [:operation | own]},
          {"lease.queue_time", [:lease, :stop], :queue_time, []},
          {"login.duration", [:login, :stop], :duration, []},
          {"open_session.duration", [:open_session, :stop], :duration, []}
        ] do
      metric(opts.timing, name, event, measurement, tags,
        unit: {:native, :millisecond},
        description: description(measurement),
        reporter_options: reporter_options(opts)
      )
    end
  end

  defp description(:duration), do: "How long it took"
  defp description(:queue_time), do: "How long it waited for a session"

  defp reporter_options(%{timing: :distribution, buckets: buckets}), do: [buckets: buckets]
  defp reporter_options(%{timing: :summary}), do: []

  defp gauges do
    for {gauge, description} <- @gauges,
        do: metric(:last_value, "status.#{gauge}", [:status], gauge, [], description: description)
  end

  # That an event came is counted, whatever it measures. Some reporters count only what has the measurement.
  defp counter(name, event, tags, opts),
    do: metric(:counter, name, event, measurement(event), tags, opts)

  defp measurement([_span, step]) when step in [:stop, :exception, :hung], do: :duration
  defp measurement([:group, :failover]), do: :count
  defp measurement(_event), do: :system_time

  defp metric(kind, name, event, measurement, tags, opts) do
    tags = [if(hd(event) == :group, do: :group, else: :pool) | tags]

    # By a variable: the library is compiled before, after or without this one.
    apply(library(), kind, [
      "pkcs11_pool." <> name,
      [
        event_name: [:pkcs11_pool | event],
        measurement: measurement,
        tags: tags,
        tag_values: &tag_values(&1, tags)
      ] ++ opts
    ])
  end

  # Each tag has a value, and one that a reporter can write: a pool's name may be any term.
  defp tag_values(metadata, tags), do: Map.new(tags, &{&1, tag_value(metadata[&1])})

  defp tag_value(nil), do: :none
  defp tag_value(value) when is_atom(value) or is_number(value), do: value

  defp tag_value(value) when is_binary(value),
    do: if(String.valid?(value), do: value, else: inspect(value))

  defp tag_value(value), do: inspect(value)

  defp library, do: Telemetry.Metrics

  defp check_library! do
    unless Code.ensure_loaded?(library()) do
      raise ArgumentError,
            "Pkcs11Pool.Metrics.definitions/1 needs Telemetry.Metrics: add {:telemetry_metrics, \"~> 1.0\"} to the dependencies of your application"
    end
  end

  ## Options

  defp validate!(opts) do
    Shape.keyword!(opts)
    Shape.known!(opts, Keyword.keys(@defaults))
    opts = @defaults |> Keyword.merge(opts) |> Map.new()

    opts.timing in [:distribution, :summary] ||
      invalid!(:timing, ":distribution or :summary", opts)

    buckets? =
      is_list(opts.buckets) and opts.buckets != [] and Enum.all?(opts.buckets, &is_number/1)

    (buckets? and Enum.all?(opts.buckets, &(&1 > 0)) and
       opts.buckets == Enum.sort(Enum.uniq(opts.buckets))) ||
      invalid!(:buckets, "a list of positive numbers in ascending order", opts)

    (is_list(opts.tags) and Enum.all?(opts.tags, &is_atom/1)) ||
      invalid!(:tags, "a list of atoms", opts)

    opts
  end

  defp invalid!(name, expected, opts) do
    raise ArgumentError,
          "invalid value for #{inspect(name)} option: expected #{expected}, got: #{inspect(Map.fetch!(opts, name))}"
  end
end
