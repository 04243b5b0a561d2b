defmodule Pkcs11Pool.Health do
  @moduledoc """
  Whether the calls on a pool succeed: for health checks, such as a `/healthz` for Kubernetes or a load balancer.

  `Pkcs11Pool.status/1` says the same in `:health`, `:health_reason` and `:health_since`. Its `:state` only says whether the token is there.

  | health | when | reason |
  |---|---|---|
  | `:down` | the pool stops, or has drained | `:draining` |
  | `:down` | the token is away, or was never found; its module is not initialized | `:token_unavailable`, `:slot_not_found`, the return code of the call that failed, ... |
  | `:down` | the PIN was refused; another user or PIN is logged in; the PIN source gives none; the last login failed for another reason; the pool was logged out, and waits for `Pkcs11Pool.login/3` | `:pin_incorrect`, `:login_conflict`, `:pin_source_failed`, `:reauthentication_required`, ... |
  | `:down` | every session is in a call that does not return from the module, or the login does not return | `:sessions_hung` |
  | `:down` | the pool has no session open, and the last one could not be opened | the return code of `C_OpenSession` |
  | `:degraded` | some calls hang, and the pool has sessions left; on native threads, those that hang are replaced | `:sessions_hung` |
  | `:degraded` | the first session is not open yet, or not logged in: calls wait for it. A pool with `lazy: true` opens none before it is used: it is ready | `:starting` |
  | `:degraded` | the token was lost a moment ago: for a second at most, calls wait for it | `:token_unavailable` |
  | `:degraded` | the pool is logged in, and a PIN was refused for the login of one use of a key (`CKA_ALWAYS_AUTHENTICATE`) | `:pin_incorrect`, ... |
  | `:ready` | as far as the pool knows, calls succeed | nil |

  ## In a Plug

  `check/2` needs no dependency. This answers 200 while the pool serves, and 503 with the reason while it does not:

      defmodule MyAppWeb.Healthz do
        import Plug.Conn

        def init(opts), do: opts

        def call(%Plug.Conn{path_info: ["healthz"]} = conn, _opts) do
          {status, text} =
            case Pkcs11Pool.Health.check(MyApp.HSM) do
              :ok -> {200, "ok"}
              {:degraded, error} -> {200, "degraded: \#{error.reason}"}
              {:error, error} -> {503, "down: \#{error.reason}"}
            end

          conn |> put_resp_content_type("text/plain") |> send_resp(status, text) |> halt()
        end

        def call(conn, _opts), do: conn
      end

  Use it as a *readiness* check, not as a liveness check: to restart the application while its HSM is away gains nothing, and the pool recovers from most of these
  states by itself. The reason is enough for a probe. `Exception.message/1` names the pool, and says what to change: use it for logs.

  ## How a pool becomes ready without calls

  While a load balancer sends no requests because the pool is not ready, nobody calls the pool. So the pool itself tries again:

    * It always looks for its token.
    * Every 30 s it asks a PIN source that gave no PIN, or a PIN that was refused (it tries another PIN only); it opens a session that could not be opened; and it
      opens its first session. A pool with `lazy: true`, or of type `:token`, does none of these: the next call does.
    * A login that failed for another reason is tried again only by the next call, since the token may have counted it as a wrong PIN.
  """

  alias Pkcs11Pool.{Call, Error, Lease, Options, Registry}

  @busy [:queue_timeout, :overloaded]

  @typedoc """
  Options of `check/2`:

    * `:call` - `true`: if the pool seems ready, and has a session for it, the token is asked for 8 random bytes. Default `false`
    * `:timeout` - ms that this call may take, waiting included. Default 1,000
  """
  @type option :: {:call, boolean} | {:timeout, pos_integer}

  @doc """
  Whether a pool is ready: `:ok`, `{:degraded, error}` (it serves, but something is wrong) or `{:error, error}`.

      case Pkcs11Pool.Health.check(MyApp.HSM) do
        :ok -> ...
        {:degraded, error} -> Logger.warning(Exception.message(error))
        {:error, error} -> Logger.error(Exception.message(error))
      end

  By default it only looks at what the pool knows; that takes microseconds. With `call: true` it also calls the token
  (`C_GenerateRandom`, PKCS#11 2.40, 5.15), if the pool seems ready. If that fails, the result is `{:error, error}`. If no session came free in time, it is
  `{:degraded, error}` with the reason `:queue_timeout` or `:overloaded`: the pool is busy. The token is not called if the pool is not ready, so that checks do not
  pile up behind a token that hangs; nor if the pool is not logged in: no check ever logs in or tries a PIN.

  If the pool does not run, the result is `{:error, %Pkcs11Pool.Error{reason: :pool_not_found}}`. An option that is unknown or bad
  raises `ArgumentError`.
  """
  @spec check(Pkcs11Pool.pool(), [option]) ::
          :ok | {:degraded, Error.t()} | {:error, Error.t()}
  def check(pool, opts \\ []) do
    opts = Options.Call.health!(opts)
    pool = Lease.pool_name(pool)

    case status(pool) do
      {:ok, %{health: :ready} = status} -> if opts.call, do: call(pool, status, opts), else: :ok
      {:ok, %{health: :degraded, health_reason: error}} -> {:degraded, error}
      {:ok, %{health: :down, health_reason: error}} -> {:error, error}
      {:error, error} -> {:error, error}
    end
  end

  defp status(pool) do
    {:ok, Pkcs11Pool.status(pool)}
  rescue
    error in Error -> {:error, error}
  end

  # A group's: on a member that is available.
  defp call(pool, %{members: _members}, %{timeout: timeout}) do
    case Pkcs11Pool.generate_random(pool, 8, queue_timeout: timeout, operation_timeout: timeout) do
      {:ok, _random} -> :ok
      {:error, %Error{reason: busy} = error} when busy in @busy -> {:degraded, error}
      {:error, error} -> {:error, error}
    end
  end

  # What would log in or open a lazy pool's first session is left to those who have something to do there.
  defp call(_pool, %{login: login}, _opts) when login not in [:none, :logged_in], do: :ok

  defp call(pool, %{idle: 0, running: 0, leased: 0}, opts) do
    case Registry.lookup(pool) do
      {:ok, _server, %{lazy: false}} -> call(pool, opts)
      _lazy_or_gone -> :ok
    end
  end

  defp call(pool, _status, opts), do: call(pool, opts)

  # Without a span: it is nobody's operation.
  defp call(pool, %{timeout: timeout}) do
    opts = Options.Call.validate!(queue_timeout: timeout, operation_timeout: timeout)
    deadline = System.monotonic_time(:millisecond) + timeout

    with {:ok, {name, entry, lease}} <- Call.target(pool, opts),
         {{:ok, _random}, _ticket} <-
           Call.attempt({name, Map.put(entry, :deadline, deadline), lease}, :probe) do
      :ok
    else
      {{:error, %Error{reason: busy} = error}, _ticket}
      when busy in @busy ->
        {:degraded, error}

      {{:error, error}, _ticket} ->
        {:error, error}

      {:error, error} ->
        {:error, error}
    end
  end
end
