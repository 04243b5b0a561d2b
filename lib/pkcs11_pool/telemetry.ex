defmodule Pkcs11Pool.Telemetry do
  @moduledoc """
  The telemetry events of a pool.

  Telemetry is optional: events are emitted when the application has the `:telemetry` library, and
  cost next to nothing when it does not. Times are in native units
  (`System.convert_time_unit/3`), `system_time` as `System.system_time/0` gives it.

  ## Spans

  A span is a `:start` event, then a `:stop` or an `:exception` event. `{:error, _}` is a `:stop` with
  `result: :error` and the error's `reason`; `:exception` is only for what raised, threw or exited.
  The events of an operation and of a lease are emitted in the caller's process, those of logins and
  opened sessions in the pool's server: there a `:start` comes together with its `:stop`, and its
  `system_time` says when it was.

  | event | measurements | metadata |
  |---|---|---|
  | `[:pkcs11_pool, :operation, :start]` | `system_time` | `pool`, `operation` (`:sign`, ...), `mechanism`, the caller's own |
  | `[:pkcs11_pool, :operation, :stop]` | `duration`, `queue_time` | the same, `session` (its number), `result` (`:ok`, `:error`), `reason` |
  | `[:pkcs11_pool, :operation, :exception]` | `duration` | those of `:start`, `kind`, `reason`, `stacktrace` |
  | `[:pkcs11_pool, :lease, :start]` | `system_time` | `pool`, the caller's own |
  | `[:pkcs11_pool, :lease, :stop]` | `duration`, `queue_time` | the same, `session`, `result`, `reason` |
  | `[:pkcs11_pool, :lease, :exception]` | `duration` | those of `:start`, `kind`, `reason`, `stacktrace` |
  | `[:pkcs11_pool, :login, :start]` | `system_time` | `pool`, `user` |
  | `[:pkcs11_pool, :login, :stop]` | `duration` | the same, `result`, `reason` |
  | `[:pkcs11_pool, :open_session, :start]` | `system_time` | `pool`, `session` where it was opened |
  | `[:pkcs11_pool, :open_session, :stop]` | `duration` | the same, `result`, `reason` |

  `queue_time` is the time from the call to the operation's start on a session. A list (`sign_many/5`
  and its like) is one operation: `:stop` has `count`, how many items it has, and `failed`, how many of
  them are errors, among its measurements, `queue_time` of its first slice, and no `session`. A stream
  (`sign_stream/5` and its like) is one operation, too: `:stop` and `:exception` have `bytes`, how many went into it, and
  `queue_time` is that of its session. A lazy one (`encrypt_stream/5`, `decrypt_stream/5`) that was left
  before its end, whether by its consumer or by an exception, ends with `:stop` and `result: :halted`. The caller's own
  metadata is the `:telemetry_metadata` option of a call; the library's keys win over it. The `mechanism` is
  without its parameters, and nothing in any event is a PIN, key material or data: `reason` of an
  `:exception` is the exception's module or a bare atom, and stack traces hold arities, not
  arguments.

  ## Events

  | event | measurements | metadata |
  |---|---|---|
  | `[:pkcs11_pool, :session, :opened]` | `system_time` | `pool`, `session`, `reason` |
  | `[:pkcs11_pool, :session, :closed]` | `system_time` | `pool`, `session`, `reason` (`:ttl`, `:surplus`, `:drain`, `:hung` when its call has returned after all, the class of a return code, ...) |
  | `[:pkcs11_pool, :session, :hung]` | `duration` until now | `pool`, `session` (0: it is being opened), `operation` (`:keepalive` for one of the pool's own), `executor` (`:threads`, `:dirty_io`), `hung` (as in `status/1`), `reason`: what it costs (`:replaced`: nothing more; a `:session` of the pool; a `:scheduler` of the VM's; the `:login`) |
  | `[:pkcs11_pool, :operation, :retry]` | `system_time` | `pool`, `class` and `reason` (of the return code), `function` (that returned it, as in an error: `:C_Sign`) |
  | `[:pkcs11_pool, :pool, :down]` | `system_time` | `pool`, `reason` |
  | `[:pkcs11_pool, :pool, :up]` | `system_time` | `pool` |
  | `[:pkcs11_pool, :breaker, :open]` | `system_time` | `pool`, `reason` |
  | `[:pkcs11_pool, :breaker, :closed]` | `system_time` | `pool` |
  | `[:pkcs11_pool, :module, :reinitialized]` | `system_time` | `pool` (the one that had it done; all pools of the module are concerned), `reason`: `:lost` (the module had lost its initialization), `:trouble` (all calls failed for `:trouble_timeout`), `:keys_vanished` (none of the keys that were known was found), `:reload` (`Pkcs11Pool.reload/2`) |
  | `[:pkcs11_pool, :private_key, :failed]` | `system_time` | `pool`, `algorithm`, `reason`: a signature for `:ssl` or `:public_key` failed (`Pkcs11Pool.OTP`) |
  | `[:pkcs11_pool, :key, :ambiguous]` | `count` (of candidates) | `pool`, `operation` |

  Down, up, hung and breaker changes, and a PIN that is not tried again, are logged as well, without
  any handler.
  """

  @compile {:no_warn_undefined, {:telemetry, :execute, 3}}
  @typedoc "A span: its name, when it started, and the metadata of its start."
  @type span :: {name :: atom, started :: integer, metadata :: map} | nil

  @doc """
  Whether events go anywhere. A handler can only have been attached once the library is loaded.
  """
  @spec enabled?() :: boolean
  def enabled?, do: :erlang.function_exported(library(), :execute, 3)

  @doc """
  Emits the event `[:pkcs11_pool | event]`; does nothing without the library. An event that carries
  no measurement gets `system_time`.
  """
  @spec execute([atom, ...], map, map) :: :ok
  def execute(event, measurements, metadata) do
    if enabled?(), do: emit(event, measurements, metadata), else: :ok
  end

  @doc """
  Starts a span, in the process that is to stop it. Nil without the library.
  """
  @spec start(atom, map) :: span
  def start(name, metadata) do
    if enabled?() do
      emit([name, :start], %{system_time: System.system_time()}, metadata)
      {name, System.monotonic_time(), metadata}
    end
  end

  @doc """
  Stops a span with the result of what it spans: of `{:error, %Pkcs11Pool.Error{}}` the reason goes
  into the metadata. `measurements` and `metadata` are added.
  """
  @spec stop(span, result :: term, map, map) :: :ok
  def stop(span, result, measurements \\ %{}, metadata \\ %{})
  def stop(nil, _result, _measurements, _metadata), do: :ok

  def stop({name, started, start_metadata}, result, measurements, metadata) do
    measurements = Map.put(measurements, :duration, System.monotonic_time() - started)
    metadata = start_metadata |> Map.merge(metadata) |> Map.merge(outcome(result))
    emit([name, :stop], measurements, metadata)
  end

  @doc """
  A span of the native side, which is told of when it has ended: its `:start` is emitted now, with the
  time at which it was.
  """
  @spec ended(atom, nanoseconds :: non_neg_integer, :ok | {:error, atom}, map) :: :ok
  def ended(name, nanoseconds, result, metadata) do
    if enabled?() do
      duration = System.convert_time_unit(nanoseconds, :nanosecond, :native)
      emit([name, :start], %{system_time: System.system_time() - duration}, metadata)
      emit([name, :stop], %{duration: duration}, Map.merge(metadata, outcome(result)))
    else
      :ok
    end
  end

  @doc """
  Ends a span by what was raised, thrown or exited. The exception's text and the arguments in the
  stack trace are left out, since both may show data.
  """
  @spec exception(span, :error | :throw | :exit, term, Exception.stacktrace(), map) :: :ok
  def exception(span, kind, reason, stacktrace, measurements \\ %{})
  def exception(nil, _kind, _reason, _stacktrace, _measurements), do: :ok

  def exception({name, started, start_metadata}, kind, reason, stacktrace, measurements) do
    metadata =
      Map.merge(start_metadata, %{
        kind: kind,
        reason: bare(reason),
        stacktrace: Enum.map(stacktrace, &without_arguments/1)
      })

    measurements = Map.put(measurements, :duration, System.monotonic_time() - started)
    emit([name, :exception], measurements, metadata)
  end

  @doc """
  Runs a function within a span.
  """
  @spec span(atom, map, (() -> result)) :: result when result: term
  def span(name, metadata, fun) do
    span = start(name, metadata)

    try do
      fun.()
    catch
      kind, reason ->
        exception(span, kind, reason, __STACKTRACE__)
        :erlang.raise(kind, reason, __STACKTRACE__)
    else
      result ->
        stop(span, result)
        result
    end
  end

  defp emit(event, measurements, metadata) do
    measurements =
      if map_size(measurements) == 0,
        do: %{system_time: System.system_time()},
        else: measurements

    apply(library(), :execute, [[:pkcs11_pool | event], measurements, metadata])
  end

  # Behind a function: the compiler and dialyzer look for a module that is written out.
  defp library, do: :telemetry

  defp outcome(:halted), do: %{result: :halted}
  defp outcome({:error, %{reason: reason}}), do: %{result: :error, reason: reason}
  defp outcome({:error, reason}) when is_atom(reason), do: %{result: :error, reason: reason}
  defp outcome({:error, _reason}), do: %{result: :error, reason: :unknown}
  defp outcome(_ok), do: %{result: :ok}

  defp bare(%module{}), do: module
  defp bare(reason) when is_atom(reason), do: reason
  defp bare({reason, _details}) when is_atom(reason), do: reason
  defp bare(_reason), do: :unknown

  defp without_arguments({module, function, arguments, location}) when is_list(arguments),
    do: {module, function, length(arguments), Keyword.delete(location, :error_info)}

  defp without_arguments({function, arguments, location}) when is_list(arguments),
    do: {function, length(arguments), Keyword.delete(location, :error_info)}

  defp without_arguments({module, function, arity, location}),
    do: {module, function, arity, Keyword.delete(location, :error_info)}

  defp without_arguments(entry), do: entry
end
