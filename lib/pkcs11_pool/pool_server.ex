defmodule Pkcs11Pool.PoolServer do
  @moduledoc false
  # One per pool, off the hot path: it owns the native pool, starts runners, has the PIN source asked, ticks, and tells the outside. When it
  # dies, by whatever road, the native pool drains.
  use GenServer

  require Logger

  alias Pkcs11Pool.PoolServer.Notices
  alias Pkcs11Pool.{Call, Error, Native, Options, Pin, Registry, Runner, Slots, Telemetry}

  # How often surplus sessions and hung calls are looked for, at most and at least, in ms.
  @tick 50..1_000

  # `asking`: from the monitor of a process that asks the PIN source to what it asks for, and since when.
  # `ceiling`: as it was at the last tick; `warned`: the lowest that was logged. `drained`: it has closed its last session.
  defstruct [:options, :pool, :ceiling, :warned, asking: %{}, drained: false]

  # How often a pool that is not well sees if it is better, in ms: a PIN source that failed is not to be asked more often.
  @look_again 30_000

  # How long a pool that has used up its :shutdown_timeout hears out what its sessions come to, and how often it looks at them, in ms.
  @last_words 100
  @look 50

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

    case Native.Library.call(fn -> Native.pool_start(native(options)) end) do
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
    state = %__MODULE__{options: options, pool: pool}

    Logger.debug(
      "pool #{inspect(options.name)}: #{options.pool_size} sessions at most, executor #{executor}"
    )

    case Registry.register(options.name, entry) do
      :ok ->
        Slots.register_pool(options.name, options.pool_size)
        warn_of_starvation(options, pool)
        if down, do: went_down(options.name, down), else: came_up(options.name)
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
      Logger.warning(
        "pool #{inspect(name)}: with executor: :dirty_io the sessions (#{own} of this pool, #{others} of others) can occupy " <>
          "all #{schedulers} dirty-IO schedulers, and hold up file I/O; leave :executor out, or start the VM with a larger +SDio"
      )
    end
  end

  defp warn_of_starvation(_options, _pool), do: :ok

  @impl GenServer
  def handle_continue({:start, up?}, state) do
    start_runners(state)
    tick(state)
    if up?, do: warm_up(state.options)
    look_again()
    {:noreply, state}
  end

  @impl GenServer
  def handle_call({:resize, size}, _from, %{options: %{name: name}} = state) do
    executor = Native.resize(state.pool, size, :erlang.system_info(:dirty_io_schedulers))
    Registry.update(name, &%{&1 | executor: executor})
    Slots.register_pool(name, size)
    start_runners(state)
    warn_of_starvation(state.options, state.pool)
    {:reply, :ok, %{put_in(state.options.pool_size, size) | ceiling: size, warned: nil}}
  end

  @impl GenServer
  def handle_info({:pkcs11_pool, notice}, state), do: {:noreply, told(notice, state)}

  def handle_info(:tick, state) do
    ceiling = Native.tick(state.pool)
    tick(state)
    {:noreply, ceiling(state, ceiling)}
  end

  def handle_info(:look_again, state) do
    if starts_by_itself?(state.options) and worth_another_look?(Native.status(state.pool)),
      do: ping(state.options.name, fn _error -> :ok end)

    look_again()
    {:noreply, state}
  end

  # It provides the PIN by itself; one that ends otherwise must not leave anybody waiting.
  def handle_info({:DOWN, monitor, :process, _pid, reason}, %{asking: asking} = state)
      when is_map_key(asking, monitor) do
    {{attempt, started}, asking} = Map.pop!(asking, monitor)

    case Pin.Process.outcome(reason, started, state.options.pin_timeout) do
      {:done, :ok} ->
        :ok

      {:no_pin, details} ->
        Native.provide_pin(state.pool, attempt, no_pin(details))

      _not_handed_over ->
        details = Pin.Source.details(:not_handed_over)
        Native.provide_pin(state.pool, attempt, no_pin(details))
    end

    {:noreply, %{state | asking: asking}}
  end

  # The registry that this process is linked to has gone: without it nobody can call.
  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl GenServer
  def terminate(_reason, state) do
    Native.drain(state.pool)
    state = await_drained(state, deadline(time_to_drain(state.options.shutdown_timeout)))
    Native.give_up(state.pool)
    await_drained(state, deadline(@last_words))
  end

  ## What the native side tells

  defp told(:runners_wanted, state) do
    start_runners(state)
    state
  end

  defp told({:pin_wanted, attempt}, state), do: ask_pin(state, attempt)

  defp told({:down, native}, %{options: %{name: name}} = state) do
    error = went_down(name, native)
    Telemetry.execute([:breaker, :open], %{}, %{pool: name, reason: error.reason})
    state
  end

  defp told({:up, was_there?}, %{options: %{name: name} = options} = state) do
    Logger.info("pool #{inspect(name)}: the token is there")
    if was_there?, do: Telemetry.execute([:breaker, :closed], %{}, %{pool: name})
    came_up(name)
    warm_up(options)
    state
  end

  defp told(:drained, state), do: %{state | drained: true}

  defp told(notice, state) do
    Notices.tell(notice, state.options, state.pool)
    state
  end

  ## The ceiling

  defp ceiling(%{options: %{name: name}} = state, ceiling) do
    cond do
      ceiling < (state.warned || size(state)) ->
        Logger.warning(
          "pool #{inspect(name)}: the token gives only #{ceiling} sessions; the pool's size is #{size(state)}. " <>
            "Set :pool_size to what the token allows"
        )

        %{state | ceiling: ceiling, warned: ceiling}

      ceiling == size(state) ->
        rises(state, ceiling)
        %{state | ceiling: ceiling, warned: nil}

      true ->
        rises(state, ceiling)
        %{state | ceiling: ceiling}
    end
  end

  defp rises(%{ceiling: before, options: %{name: name}}, ceiling)
       when before != nil and ceiling > before,
       do: Logger.debug("pool #{inspect(name)}: the token gives #{ceiling} sessions")

  defp rises(_state, _ceiling), do: :ok

  defp size(state), do: state.options.pool_size

  ## Runners

  defp start_runners(%{options: options, pool: pool}) do
    {processes, threads} = Native.vacancies(pool)
    runners = Registry.via(:runners, options.name)

    for _vacancy <- 1..processes//1 do
      # One that was killed before it had joined leaves no trace: its place is looked for anew.
      with {:error, _killed} <- DynamicSupervisor.start_child(runners, {Runner, pool}),
           do: send(self(), {:pkcs11_pool, :runners_wanted})
    end

    refused = Enum.count(1..threads//1, fn _vacancy -> not Native.start_thread(pool) end)

    if refused > 0 do
      Logger.error(
        "pool #{inspect(options.name)}: the system refuses #{refused} of #{threads} threads"
      )
    end

    :ok
  end

  ## The PIN source, asked by a process of its own

  defp ask_pin(%{options: options, pool: pool} = state, attempt) do
    {_pid, monitor} =
      Pin.Process.start([Options.reveal(options.pin)], options.pin_timeout, fn
        {:ok, [pin]} -> Native.provide_pin(pool, attempt, {:ok, pin})
        {:error, reason} -> Native.provide_pin(pool, attempt, no_pin(Pin.Source.details(reason)))
      end)

    put_in(state.asking[monitor], {attempt, Pin.Process.now()})
  end

  defp no_pin(details) do
    source_reason = details[:source_reason]
    {:error, details.cause, source_reason && Atom.to_string(source_reason)}
  end

  ## The token, there or away

  defp came_up(name), do: Telemetry.execute([:pool, :up], %{}, %{pool: name})

  defp went_down(name, native) do
    error = Error.from_native(native, name)

    Logger.error(
      "the pool is down, and looks for its token until it is there. " <> Exception.message(error)
    )

    Telemetry.execute([:pool, :down], %{}, %{pool: name, reason: error.reason})
    error
  end

  # The first session, and with it the login.
  defp warm_up(%{lazy: true}), do: :ok

  defp warm_up(%{name: name}) do
    ping(name, fn error ->
      unless error.reason in [:draining, :pool_not_found] do
        Logger.warning("the first session could not be opened. " <> Exception.message(error))
      end
    end)
  end

  defp ping(name, failed) do
    spawn(fn ->
      with {:error, error} <- Call.run(name, :ping, nil, :ping, Options.call!([])),
           do: failed.(error)
    end)

    :ok
  end

  ## A pool that is not well, and that nobody calls for that reason

  # A PIN pad or a person may be behind the source of a :token pool: they are not asked without need.
  defp starts_by_itself?(%{lazy: lazy, type: type}), do: not lazy and type != :token

  # Whether an operation may put right what is wrong, without trying a PIN that may count as wrong: one that was refused is not tried again, but
  # after another failure of C_Login nobody knows. What the token itself wants is looked after by the native side.
  defp worth_another_look?(%{health_reason: {reason, _code, function, _executed, details}}) do
    reason in [:pin_source_failed, :starting] or function == "C_OpenSession" or
      match?(%{poisoned: true}, details)
  end

  defp worth_another_look?(_ready), do: false

  defp look_again, do: Process.send_after(self(), :look_again, @look_again)

  ## Time

  defp tick(%{options: options}) do
    # An atom is greater than any number.
    shortest =
      [options.idle_ttl, options.max_lifetime, options.operation_timeout, options.keepalive]
      |> Enum.min()
      |> min(inactivity(options) || :infinity)

    interval = if shortest == :infinity, do: @tick.last, else: div(shortest, 4)
    Process.send_after(self(), :tick, interval |> max(@tick.first) |> min(@tick.last))
  end

  # When the VM stops, its pools are stopped one after the other: what runs in all of them is given this time together, from when the first is.
  # The end of the native side may take two seconds more, and is part of what was asked for, where that is long enough.
  defp time_to_drain(:infinity), do: :infinity

  defp time_to_drain(timeout) do
    case :init.get_status() do
      {:stopping, _provided} ->
        left = vm_stopping_since() + max(timeout - 2_000, min(timeout, 3_000)) - now()
        # Those whose turn comes later have a moment each, which add up to half a second at most.
        left |> max(div(left + 500, 8)) |> min(timeout)

      _running ->
        timeout
    end
  end

  defp vm_stopping_since do
    since = :persistent_term.get(__MODULE__, nil) || now()
    :persistent_term.put(__MODULE__, since)
    since
  end

  # Nothing is told behind the word that it has drained.
  defp await_drained(%{drained: true} = state, _deadline), do: state

  defp await_drained(%{pool: pool} = state, deadline) do
    # Sessions that are in no call that hangs; with none left at all, the word is on its way.
    worth_it? = Native.pending(pool) > 0 or Native.left(pool) == 0
    wait = if worth_it?, do: deadline |> left() |> min(@look), else: 0

    receive do
      {:pkcs11_pool, notice} -> notice |> told_at_last(state) |> await_drained(deadline)
    after
      wait -> if wait > 0, do: await_drained(state, deadline), else: state
    end
  end

  # What would be the pool's to do about it comes too late; the outside hears of it all the same.
  defp told_at_last(:runners_wanted, state), do: state
  defp told_at_last({what, _}, state) when what in [:pin_wanted, :down, :up], do: state
  defp told_at_last(notice, state), do: told(notice, state)

  defp deadline(:infinity), do: :infinity
  defp deadline(ms), do: now() + ms

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - now(), 0)

  defp now, do: System.monotonic_time(:millisecond)

  ## The options as the native side takes them

  defp native(%Options{} = options) do
    %{
      label: inspect(options.name),
      module: options.module,
      module_sha256: options.module_sha256,
      module_env: Options.reveal(options.module_env) || %{},
      module_args: Options.reveal(options.module_args),
      slot: Options.native_slot(options.slot),
      exclusive: options.type == :token,
      login: login(options),
      user: Options.user_type(options.user),
      retain_pin: options.pin_retention == :until_logout,
      inactivity_timeout: inactivity(options),
      explicit_login: options.type == :token and options.reauthentication == :fail,
      lazy: options.lazy,
      read_only: options.read_only,
      serialize: options.serialize,
      operation_timeout: finite(options.operation_timeout),
      random_chunk: options.random_chunk,
      keepalive: if(options.keepalive == :off, do: nil, else: options.keepalive),
      key_cache_ttl: finite(options.key_cache_ttl),
      trouble_timeout: finite(options.trouble_timeout),
      trouble_interval: options.trouble_interval,
      retry_policy: for({code, class} <- options.retry_policy, do: {code, Atom.to_string(class)}),
      pool_size: options.pool_size,
      stripes: options.stripes,
      idle_ttl: finite(options.idle_ttl),
      max_lifetime: finite(options.max_lifetime),
      max_waiting: options.max_waiting,
      shutdown_timeout: finite(options.shutdown_timeout),
      executor: options.executor,
      dirty_io_schedulers: :erlang.system_info(:dirty_io_schedulers)
    }
  end

  defp login(%{protected_authentication_path: true}), do: :protected
  defp login(%{pin: nil}), do: :none
  defp login(_options), do: :pin

  # A token of one's own is left as one finds it; what others share is not.
  defp inactivity(%{type: :token, inactivity_timeout: timeout}), do: finite(timeout)
  defp inactivity(_options), do: nil

  defp finite(:infinity), do: nil
  defp finite(ms), do: ms
end
