defmodule Pkcs11Pool.Telemetry do
  @moduledoc """
  The telemetry events of a pool.

  Telemetry is optional: events are emitted when the application has the `:telemetry` library, and
  cost next to nothing when it does not. Times are in native units
  (`System.convert_time_unit/3`), `system_time` as `System.system_time/0` gives it.

  ## Spans

  A span is a `:start` event, then a `:stop` or an `:exception` event. If a call returns `{:error, _}`, the event is `:stop` with
  `result: :error` and the error's `reason`. `:exception` is only for calls that raised, threw or exited.
  The events of an operation and of a lease are emitted in the caller's process. Those of logins and
  opened sessions are emitted in the pool's server; there, the `:start` comes together with the `:stop`, and its
  `system_time` says when the login or the opening began.

  | event | measurements | metadata |
  |---|---|---|
  | `[:pkcs11_pool, :operation, :start]` | `system_time` | `pool`, `operation` (`:sign`, ...), `mechanism` if the operation has one, the caller's own metadata |
  | `[:pkcs11_pool, :operation, :stop]` | `duration`, `queue_time` | the same, `session` (its number, if there was one), `result` (`:ok`, `:error`), `reason` |
  | `[:pkcs11_pool, :operation, :exception]` | `duration` | those of `:start`, `kind`, `reason`, `stacktrace` |
  | `[:pkcs11_pool, :lease, :start]` | `system_time` | `pool`, the caller's own |
  | `[:pkcs11_pool, :lease, :stop]` | `duration`, `queue_time` | the same, `session`, `result`, `reason` |
  | `[:pkcs11_pool, :lease, :exception]` | `duration` | those of `:start`, `kind`, `reason`, `stacktrace` |
  | `[:pkcs11_pool, :login, :start]` | `system_time` | `pool`, `user` |
  | `[:pkcs11_pool, :login, :stop]` | `duration` | the same, `result`, `reason` |
  | `[:pkcs11_pool, :open_session, :start]` | `system_time` | `pool`, `session` if it was opened |
  | `[:pkcs11_pool, :open_session, :stop]` | `duration` | the same, `result`, `reason` |

    * `queue_time` is the time from the call to the operation's start on a session. If an operation never started
      (`:queue_timeout`, `:overloaded`, `:token_unavailable`, `:pool_not_found`, ...), it is the whole `duration`, so that a distribution
      of queue times contains the worst ones. The `queue_time` of `login/3` begins when the PIN source has given its PIN. That of `reload/2`
      ends when no thread is inside the module any more
    * `await_ready/2`, health checks, and the first session that a pool opens by itself are not operations, and have no such events
    * A list (`sign_many/5`, `verify_many/5`, `encrypt_many/5`, `decrypt_many/5`) is one operation. The measurements of its `:stop` have `count`, the number of items, and `failed`, the number of
      items that are errors. `queue_time` is that of its first slice, and there is no `session`
    * A stream (`sign_stream/5`, ...) is one operation, too. `:stop` and `:exception` have `bytes`, the number of bytes that went into it, and
      `queue_time` is the wait for its session. If a lazy stream (`encrypt_stream/5`, `decrypt_stream/5`) is left
      before its end, by its consumer or by an exception, it ends with `:stop` and `result: :halted`
    * The caller's own metadata is the `:telemetry_metadata` option of a call. The library's own keys win over it
    * The `mechanism` is without its parameters, and no event contains a PIN, key material or data. The `reason` of an
      `:exception` is the exception's module or an atom, and stack traces contain arities, not arguments

  ## Events

  | event | measurements | metadata |
  |---|---|---|
  | `[:pkcs11_pool, :session, :opened]` | `system_time` | `pool`, `session`, `reason` |
  | `[:pkcs11_pool, :session, :closed]` | `system_time` | `pool`, `session`, `reason` (`:ttl`, `:surplus`, `:drain`, `:hung` if its hung call has returned at last, the class of a return code, ...) |
  | `[:pkcs11_pool, :session, :hung]` | `duration` until now | `pool`, `session` (0: it is being opened), `operation` (`:keepalive` for one of the pool's own), `executor` (`:threads`, `:dirty_io`), `hung` (as in `status/1`), `reason`: what it costs until it returns (`:replaced`: nothing, there is a new session; `:session`: a session of the pool; `:scheduler`: a dirty-IO scheduler of the VM; `:login`: nobody can log in or out) |
  | `[:pkcs11_pool, :operation, :retry]` | `system_time` | `pool`, `class` and `reason` (of the return code), `function` (that returned it, as in an error: `:C_Sign`) |
  | `[:pkcs11_pool, :pool, :down]` | `system_time` | `pool`, `reason` |
  | `[:pkcs11_pool, :pool, :up]` | `system_time` | `pool` |
  | `[:pkcs11_pool, :group, :failover]` | `count` (1) | `group`, `from`, `to` (each a member, `{pool, node}`), `reason` (of the first attempt) |
  | `[:pkcs11_pool, :breaker, :open]` | `system_time` | `pool`, `reason` |
  | `[:pkcs11_pool, :breaker, :closed]` | `system_time` | `pool` |
  | `[:pkcs11_pool, :module, :reinitialized]` | `system_time` | `pool` (the one that did it; it concerns all pools of the module), `reason`: `:lost` (the module had lost its initialization), `:trouble` (all calls failed for `:trouble_timeout`), `:keys_vanished` (none of the keys that were known was found), `:reload` (`Pkcs11Pool.reload/2`) |
  | `[:pkcs11_pool, :private_key, :failed]` | `system_time` | `pool`, `algorithm`, `reason`: a signature for `:ssl` or `:public_key` failed (`Pkcs11Pool.OTP`) |
  | `[:pkcs11_pool, :key, :ambiguous]` | `count` (of candidates) | `pool`, `operation` |

  Without any handler, a pool writes into the log when it becomes ready (`info`), when it is down, and why (`error`), when it is ready again (`info`), and when a
  call hangs, a lease expires or a module is initialized again (`warning`). Each line begins with the pool's name. Calls that fail are not logged: count them.
  The gauges of `Pkcs11Pool.Metrics.poll/1` are the event `[:pkcs11_pool, :status]`: `size`, `ceiling`, `idle`, `running`, `leased`, `waiting`, `hung`, `login`, `breaker` and
  `ready`, with `pool`, `login`, `state` and `health` as its metadata.
  """

  alias Pkcs11Pool.Telemetry.DefaultLogger

  @typedoc """
  Options of `attach_default_logger/1`:

    * `:level` - the level of the lines about failed and slow operations. Default `:warning`
    * `:interval` - ms. During this time the same failure (pool, operation, mechanism and reason) is logged once; the next line says how many there were. Default 30,000;
      0 logs each failure
    * `:slower_than` - ms. Operations that took longer are logged even if they succeeded. Default `:infinity`
    * `:success_level` - the level at which each success is logged, such as `:debug`. Default nil: successes are not logged
  """
  @type logger_option ::
          {:level, Logger.level()}
          | {:interval, non_neg_integer}
          | {:slower_than, timeout}
          | {:success_level, Logger.level() | nil}

  @doc """
  Logs operations, leases, logins and openings of sessions that fail, and operations that the pool tries again. Call it once, before the pools are started.

      :ok = Pkcs11Pool.Telemetry.attach_default_logger(slower_than: 1_000)

      [warning] pool MyApp.HSM: sign (sha256_rsa_pkcs) failed: queue_timeout, after 5001 ms, of which it waited 5001 ms (and 213 more since the last such line)

  It is for development, and for a first look at a system. In production, count and alert (`Pkcs11Pool.Metrics`). No line contains the caller's metadata, or data. The lines that a pool
  writes about itself come without this logger, too.

  Instead of options you may give a level: `:info` is the same as `level: :info`. Returns `{:error, :already_exists}` if it is attached already. A bad option, and an application without the library `telemetry`, raise `ArgumentError`.
  """
  @spec attach_default_logger(Logger.level() | [logger_option]) :: :ok | {:error, :already_exists}
  def attach_default_logger(level_or_opts \\ []), do: DefaultLogger.attach(level_or_opts)

  @doc """
  Detaches the default logger. Returns `{:error, :not_found}` if it is not attached.
  """
  @spec detach_default_logger() :: :ok | {:error, :not_found}
  def detach_default_logger, do: DefaultLogger.detach()
end
