defmodule Pkcs11Pool.PoolServer do
  @moduledoc false
  # The process of a pool, off the path of operations: it owns the native pool, starts runners, has the PIN source asked, and makes the native side do
  # what is due with time. What the native side reports becomes telemetry and log lines. When this process dies, however it does, the native pool drains.
  use GenServer

  alias Pkcs11Pool.PoolServer.{DrainTime, HealthLog, NativeOptions, Notices, Ping}
  alias Pkcs11Pool.{Error, Log, Native, Options, Pin, Registry, Runner, Slots}
  alias Pkcs11Pool.Telemetry.Emitter

  # The shortest and the longest time between two ticks, in ms.
  @tick_interval 50..1_000

  # `ceiling`: as it was at the last tick; `warned_of`: the lowest ceiling that was logged. `pin_requests`: from the monitor of a process that asks the
  # PIN source to the login attempt that it asks for, and since when. `drained`: the pool has closed its last session.
  defstruct [
    :options,
    :pool,
    :executor,
    :ceiling,
    :warned_of,
    health_log: %HealthLog{},
    pin_requests: %{},
    drained: false
  ]

  # Behind these, a pool may be ready, or not any more.
  @notices_of_health [:session_opened, :session_refused, :login_ended, :logged_out, :session_hung]

  # How often a pool that is not well tries to get well, in ms. A PIN source that failed must not be asked more often.
  @mend_interval 30_000

  # How long a pool that has used up its :shutdown_timeout waits for the last notices of the native side, in ms.
  @time_for_last_notices 100

  # How often a pool that drains checks its sessions, in ms.
  @drain_check_interval 50

  @spec child_spec(Options.t()) :: Supervisor.child_spec()
  def child_spec(options) do
    %{
      id: __MODULE__,
      start: {__MODULE__, :start_link, [options]},
      # terminate/2 takes :shutdown_timeout, and a moment for what follows.
      shutdown:
        if(options.shutdown_timeout == :infinity,
          do: :infinity,
          else: options.shutdown_timeout + 1_000
        )
    }
  end

  @spec start_link(Options.t()) :: GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options)

  @impl GenServer
  def init(options) do
    Process.flag(:trap_exit, true)

    case Native.Library.call(fn -> Native.pool_start(NativeOptions.encode(options)) end) do
      {:ok, pool, executor, down} -> register(options, pool, executor, down)
      {:error, native} -> {:stop, Error.from_native(native, options.name)}
    end
  end

  defp register(options, pool, executor, down) do
    defaults =
      Map.take(options, [
        :queue_timeout,
        :operation_timeout,
        :lease_timeout,
        :max_waiting,
        :type,
        :lazy,
        :session_object,
        :pin_timeout,
        :protected_authentication_path
      ])

    entry = Map.merge(defaults, %{native: pool, executor: executor})
    state = %__MODULE__{options: options, pool: pool, executor: executor}

    Log.write(
      :debug,
      options.name,
      "#{options.pool_size} sessions at most, executor #{executor}"
    )

    case Registry.register(options.name, entry) do
      :ok ->
        Slots.register_pool(options.name, options.pool_size)
        Registry.publish(options.name, entry)
        warn_of_starvation(options, pool)
        state = if down, do: went_down(state, down), else: came_up(state)
        {:ok, state, {:continue, {:start, down == nil}}}

      {:error, {:already_registered, server}} ->
        Native.drain(pool)
        {:stop, {:already_started, server}}
    end
  end

  defp warn_of_starvation(%{executor: :dirty_io, name: name}, pool) do
    schedulers = :erlang.system_info(:dirty_io_schedulers)
    {own, others} = Native.occupied_schedulers(pool)

    if own + others >= schedulers do
      Log.write(
        :warning,
        name,
        "with executor: :dirty_io the sessions (#{own} of this pool, #{others} of others) can occupy " <>
          "all #{schedulers} dirty-IO schedulers, and hold up file I/O; leave :executor out, or start the VM with a larger +SDio"
      )
    end
  end

  defp warn_of_starvation(_options, _pool), do: :ok

  @impl GenServer
  def handle_continue({:start, up?}, state) do
    start_runners(state)
    schedule_tick(state)
    if up?, do: Ping.open_first_session(state.options, state.pool)
    schedule_mending()
    {:noreply, observe_health(state)}
  end

  @impl GenServer
  def handle_call({:resize, size}, _from, %{options: %{name: name}} = state) do
    executor = Native.resize(state.pool, size, :erlang.system_info(:dirty_io_schedulers))
    Registry.update(name, &%{&1 | executor: executor})
    Slots.register_pool(name, size)
    start_runners(state)
    warn_of_starvation(state.options, state.pool)
    state = put_in(state.options.pool_size, size)
    {:reply, :ok, %{state | executor: executor, ceiling: size, warned_of: nil}}
  end

  @impl GenServer
  def handle_info({:pkcs11_pool, notice}, state), do: {:noreply, handle_notice(notice, state)}

  def handle_info(:tick, state) do
    ceiling = Native.tick(state.pool)
    schedule_tick(state)
    {:noreply, state |> update_ceiling(ceiling) |> observe_health()}
  end

  def handle_info(:mend, state) do
    Ping.try_to_mend(state.options, state.pool)
    schedule_mending()
    {:noreply, state}
  end

  # A process that asked the PIN source has ended. It has provided the PIN by itself; if it ended otherwise, the callers that wait must hear of it.
  def handle_info({:DOWN, monitor, :process, _pid, reason}, %{pin_requests: pin_requests} = state)
      when is_map_key(pin_requests, monitor) do
    {{attempt, started}, pin_requests} = Map.pop!(pin_requests, monitor)

    case Pin.Process.outcome(reason, started, state.options.pin_timeout) do
      {:done, :ok} ->
        :ok

      {:no_pin, details} ->
        Native.provide_pin(state.pool, attempt, no_pin(details))

      _not_handed_over ->
        details = Pin.Source.details(:not_handed_over)
        Native.provide_pin(state.pool, attempt, no_pin(details))
    end

    {:noreply, %{state | pin_requests: pin_requests}}
  end

  # The registry that this process is linked to has gone: without it nobody can call.
  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl GenServer
  def terminate(_reason, state) do
    Native.drain(state.pool)
    state = await_drained(state, deadline(DrainTime.of(state.options.shutdown_timeout)))
    Native.give_up(state.pool)
    await_drained(state, deadline(@time_for_last_notices))
  end

  ## Notices of the native side

  defp handle_notice(:runners_wanted, state) do
    start_runners(state)
    state
  end

  defp handle_notice({:pin_wanted, attempt}, state), do: ask_pin(state, attempt)

  defp handle_notice({:down, native}, %{options: %{name: name}} = state) do
    state = went_down(state, native)
    Emitter.execute([:breaker, :open], %{}, %{pool: name, reason: reason(native)})
    state
  end

  defp handle_notice({:up, was_up_before?}, %{options: %{name: name} = options} = state) do
    Log.write(:debug, name, "the token is there")
    if was_up_before?, do: Emitter.execute([:breaker, :closed], %{}, %{pool: name})
    state = came_up(state)
    Ping.open_first_session(options, state.pool)
    observe_health(state)
  end

  defp handle_notice(:drained, state), do: %{state | drained: true}

  defp handle_notice(notice, state) do
    Notices.report(notice, state.options, state.pool)
    if elem(notice, 0) in @notices_of_health, do: observe_health(state), else: state
  end

  # It also is looked at with each tick: a notice may come a moment before the state that it is of.
  defp observe_health(%{options: %{name: name}, health_log: log} = state) do
    status = Native.status(state.pool)
    %{state | health_log: HealthLog.observe(log, status, name, state.executor)}
  end

  ## The ceiling

  defp update_ceiling(%{options: %{name: name}} = state, ceiling) do
    cond do
      ceiling < (state.warned_of || size(state)) ->
        Log.write(
          :warning,
          name,
          "the token gives only #{ceiling} sessions; the pool's size is #{size(state)}. " <>
            "Set :pool_size to what the token allows"
        )

        %{state | ceiling: ceiling, warned_of: ceiling}

      ceiling == size(state) ->
        log_rise(state, ceiling)
        %{state | ceiling: ceiling, warned_of: nil}

      true ->
        log_rise(state, ceiling)
        %{state | ceiling: ceiling}
    end
  end

  defp log_rise(%{ceiling: before, options: %{name: name}}, ceiling)
       when before != nil and ceiling > before,
       do: Log.write(:debug, name, "the token gives #{ceiling} sessions")

  defp log_rise(_state, _ceiling), do: :ok

  defp size(state), do: state.options.pool_size

  ## Runners

  defp start_runners(%{options: options, pool: pool}) do
    {processes, threads} = Native.vacancies(pool)
    runners = Registry.via(:runners, options.name)

    for _vacancy <- 1..processes//1 do
      # A runner that was killed before it had joined leaves no trace: its place is still vacant.
      with {:error, _killed} <- DynamicSupervisor.start_child(runners, {Runner, pool}),
           do: send(self(), {:pkcs11_pool, :runners_wanted})
    end

    refused = Enum.count(1..threads//1, fn _vacancy -> not Native.start_thread(pool) end)

    if refused > 0 do
      Log.write(:error, options.name, "the system refuses #{refused} of #{threads} threads")
    end

    :ok
  end

  ## The PIN source, asked by a process of its own

  defp ask_pin(%{options: options, pool: pool} = state, attempt) do
    provide = fn
      {:ok, [pin]} -> Native.provide_pin(pool, attempt, {:ok, pin})
      {:error, reason} -> Native.provide_pin(pool, attempt, no_pin(Pin.Source.details(reason)))
    end

    source = Options.reveal(options.pin)
    {_pid, monitor} = Pin.Process.start([source], options.pin_timeout, provide, options.name)

    put_in(state.pin_requests[monitor], {attempt, Pin.Process.now()})
  end

  defp no_pin(details) do
    source_reason = details[:source_reason]
    {:error, details.cause, source_reason && Atom.to_string(source_reason)}
  end

  ## The token, there or away

  defp came_up(%{options: %{name: name}} = state) do
    Emitter.execute([:pool, :up], %{}, %{pool: name})
    state
  end

  defp went_down(%{options: %{name: name}} = state, native) do
    error = Error.from_native(native, name)
    Emitter.execute([:pool, :down], %{}, %{pool: name, reason: error.reason})
    %{state | health_log: HealthLog.lost_token(state.health_log, error)}
  end

  defp reason(native), do: Error.from_native(native, nil).reason

  ## Time

  defp schedule_mending, do: Process.send_after(self(), :mend, @mend_interval)

  defp schedule_tick(%{options: options}) do
    # An atom is greater than any number.
    shortest =
      [options.idle_ttl, options.max_lifetime, options.operation_timeout, options.keepalive]
      |> Enum.min()
      |> min(NativeOptions.inactivity_timeout(options) || :infinity)

    interval = if shortest == :infinity, do: @tick_interval.last, else: div(shortest, 4)

    Process.send_after(
      self(),
      :tick,
      interval |> max(@tick_interval.first) |> min(@tick_interval.last)
    )
  end

  ## The end

  # No notice comes after the one that the pool has drained.
  defp await_drained(%{drained: true} = state, _deadline), do: state

  defp await_drained(%{pool: pool} = state, deadline) do
    # A session in a call that hangs is not worth the wait. With no session left at all, the last notice is on its way.
    worth_it? = Native.pending(pool) > 0 or Native.left(pool) == 0
    wait = if worth_it?, do: deadline |> left() |> min(@drain_check_interval), else: 0

    receive do
      {:pkcs11_pool, notice} -> notice |> handle_last_notice(state) |> await_drained(deadline)
    after
      wait -> if wait > 0, do: await_drained(state, deadline), else: state
    end
  end

  # It is too late to act upon these; the others are reported all the same.
  defp handle_last_notice(:runners_wanted, state), do: state
  defp handle_last_notice({what, _}, state) when what in [:pin_wanted, :down, :up], do: state
  defp handle_last_notice(notice, state), do: handle_notice(notice, state)

  defp deadline(:infinity), do: :infinity
  defp deadline(ms), do: now() + ms

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - now(), 0)

  defp now, do: System.monotonic_time(:millisecond)
end
