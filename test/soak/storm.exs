defmodule Pkcs11Pool.Soak.Storm do
  @moduledoc false
  # Something goes wrong every 100 ms, by chance from a seed; what lasts is undone a while later.

  alias Pkcs11Pool.Soak.Callers
  alias Pkcs11Pool.Test.Pools
  alias Pkcs11Pool.Testing.Chaos

  @interval 100
  # A supervisor gives a pool up whose server dies more often than it allows.
  @between_server_deaths 10_000

  @functions ~w(
    C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_OpenSession C_CloseSession C_GetSessionInfo C_Login C_Logout
    C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_GetAttributeValue C_SignInit C_Sign C_VerifyInit C_Verify C_DigestInit C_Digest
    C_GenerateRandom
  )a

  # Those that speak of a PIN are left out: a credential that is refused stays so until somebody logs in.
  @codes [
    :device_error,
    :device_memory,
    :host_memory,
    :general_error,
    :function_failed,
    :session_handle_invalid,
    :session_closed,
    :operation_active,
    :operation_not_initialized,
    :device_removed,
    :token_not_present,
    :cryptoki_not_initialized,
    :user_not_logged_in,
    :key_handle_invalid,
    :buffer_too_small,
    :function_canceled,
    0x80000123
  ]

  # Each as often as its number.
  @faults [
    latency: 6,
    code: 10,
    hang: 4,
    kill_sessions: 3,
    invalidate_objects: 3,
    logout: 3,
    remove_token: 2,
    uninitialize: 2,
    device_trouble: 2,
    reload: 1,
    session_limit: 2,
    kill_runner: 4,
    kill_caller: 4,
    kill_server: 1,
    resize: 2,
    forget_keys: 1,
    other_pool: 1
  ]
  @lots for {fault, count} <- @faults, _ <- 1..count, do: fault

  # A pool that is there for a while, and who calls it.
  @visitors 4

  defstruct [
    :chaos,
    :pool,
    :opts,
    :size,
    :callers,
    :ends,
    :slot,
    undo: [],
    counts: %{},
    away: false,
    server_at: 0
  ]

  @doc "Lets it rage for so many ms, and undoes everything; how often each fault came."
  def rage(chaos, opts, callers, slot, duration, seed) do
    :rand.seed(:exsss, seed)
    Chaos.seed(chaos, seed)

    # The numbers of sessions and objects that are lost are given out again, and a second Init replaces the first.
    Chaos.reuse_handles(chaos, true, objects: true)
    Chaos.replace_operations(chaos)
    now = now()

    storm =
      %__MODULE__{
        chaos: chaos,
        pool: opts[:name],
        opts: opts,
        size: opts[:pool_size],
        callers: callers,
        slot: slot,
        ends: now + duration,
        server_at: now + @between_server_deaths
      }
      |> step()

    storm = Enum.reduce(storm.undo, storm, fn {_at, undo}, storm -> undo.(storm) end)
    # No reset: what is lost is for the pool to find again.
    Chaos.clear(chaos, :all)
    storm.counts
  end

  defp step(%{ends: ends} = storm) do
    if now() >= ends do
      storm
    else
      started = now()
      {due, later} = Enum.split_with(storm.undo, fn {at, _undo} -> at <= started end)
      storm = Enum.reduce(due, %{storm | undo: later}, fn {_at, undo}, storm -> undo.(storm) end)
      fault = Enum.random(@lots)
      storm = strike(fault, %{storm | counts: Map.update(storm.counts, fault, 1, &(&1 + 1))})
      Process.sleep(max(@interval - (now() - started), 0))
      step(storm)
    end
  end

  defp strike(:latency, %{chaos: chaos} = storm) do
    function = Enum.random(@functions)
    Chaos.latency(chaos, function, 1..Enum.random([5, 50, 500]))
    clear(storm, function, 100..400)
  end

  defp strike(:code, %{chaos: chaos} = storm) do
    function = Enum.random(@functions)

    Chaos.fail(chaos, function, Enum.random(@codes),
      probability: Enum.random([0.02, 0.3, 1.0]),
      run: run(function)
    )

    clear(storm, function, 50..300)
  end

  defp strike(:hang, %{chaos: chaos} = storm) do
    function = Enum.random(@functions)
    Chaos.hang(chaos, function, nth: 1)
    clear(storm, function, 100..2_000)
  end

  defp strike(:kill_sessions, storm), do: tap(storm, &Chaos.kill_sessions(&1.chaos))
  defp strike(:invalidate_objects, storm), do: tap(storm, &Chaos.invalidate_objects(&1.chaos))

  defp strike(:logout, storm) do
    Chaos.logout(storm.chaos)
    storm
  rescue
    # Nobody is logged in.
    RuntimeError -> storm
  end

  defp strike(:remove_token, %{away: true} = storm), do: storm

  defp strike(:remove_token, %{chaos: chaos, slot: slot} = storm) do
    Chaos.remove_token(chaos,
      code: Enum.random([:device_removed, :token_not_present, :session_handle_invalid])
    )

    undo(%{storm | away: true}, 50..1_000, fn storm ->
      Chaos.return_token(chaos, slot_id: slot + 1)
      %{storm | away: false, slot: slot + 1}
    end)
  end

  defp strike(:uninitialize, storm), do: tap(storm, &Chaos.uninitialize(&1.chaos))

  # Longer than the pools' :trouble_timeout; some of it only the module's initialization ends. Sessions close all the same: one that does not
  # would be counted as lost.
  defp strike(:device_trouble, %{chaos: chaos} = storm) do
    Chaos.device_trouble(chaos, Enum.random([:general_error, :device_error, :function_failed]),
      spare: [:C_CloseSession | Enum.random([[], [:C_OpenSession], [:C_OpenSession, :C_Login]])],
      until: Enum.random([:initialized, :told])
    )

    undo(storm, 200..2_000, fn storm ->
      tap(storm, fn _ -> Chaos.device_trouble(chaos, :ok) end)
    end)
  end

  # By a process of its own: it waits for calls that hang.
  defp strike(:reload, %{pool: pool} = storm) do
    spawn(fn -> Pkcs11Pool.reload(pool, queue_timeout: 200) end)
    storm
  end

  defp strike(:session_limit, %{chaos: chaos} = storm) do
    Chaos.session_limit(chaos, Enum.random([0, 1, 2]))

    undo(storm, 100..700, fn storm ->
      tap(storm, fn _ -> Chaos.session_limit(chaos, :infinity) end)
    end)
  end

  defp strike(:kill_runner, storm) do
    tap(storm, fn %{pool: pool} ->
      Enum.each(
        Enum.take_random(alive(fn -> Pools.runners(pool) end, []), 1),
        &Process.exit(&1, :kill)
      )
    end)
  end

  defp strike(:kill_caller, storm), do: tap(storm, &Callers.kill_one(&1.callers))

  defp strike(:kill_server, %{pool: pool, server_at: at} = storm) do
    if now() >= at do
      with server when is_pid(server) <- alive(fn -> Pools.server(pool) end, nil),
           do: Process.exit(server, :kill)

      %{storm | server_at: now() + @between_server_deaths}
    else
      storm
    end
  end

  defp strike(:resize, %{pool: pool, size: size} = storm) do
    Pkcs11Pool.resize(pool, :rand.uniform(size + 2))
    undo(storm, 200..1_000, fn storm -> tap(storm, fn _ -> Pkcs11Pool.resize(pool, size) end) end)
  end

  defp strike(:forget_keys, storm), do: tap(storm, &Pkcs11Pool.forget_keys(&1.pool))

  # Another pool of the same token, and so of the same login, comes and goes.
  defp strike(:other_pool, %{callers: callers, opts: opts} = storm) do
    overrides = [
      name: {:other, make_ref()},
      pool_size: :rand.uniform(3),
      executor: Enum.random([:dirty_io, :threads]),
      shutdown_timeout: Enum.random([0, 100, 1_000])
    ]

    lifetime = Enum.random(100..3_000)
    spawn(fn -> host(callers, Keyword.merge(opts, overrides), lifetime) end)
    storm
  end

  defp host(callers, opts, lifetime) do
    case Pkcs11Pool.start_link(opts) do
      {:ok, pool} ->
        visitors = Callers.visit(callers, opts[:name], @visitors)
        Process.sleep(lifetime)
        Supervisor.stop(pool)
        for visitor <- visitors, do: see_off(callers, visitor)

      {:error, error} ->
        Callers.lie(callers, "another pool did not start: #{Exception.message(error)}")
    end
  end

  defp see_off(callers, {pid, monitor}) do
    receive do
      {:DOWN, ^monitor, :process, ^pid, :normal} ->
        :ok

      {:DOWN, ^monitor, :process, ^pid, reason} ->
        Callers.lie(callers, "a visitor ended: #{inspect(reason)}")
    after
      30_000 -> Callers.lie(callers, "a visitor is stuck")
    end
  end

  # Whether the real module is called all the same. A session that was opened though an error was returned, or not closed, is one that nobody
  # but the module knows of: it would be counted as lost.
  defp run(:C_OpenSession), do: false
  defp run(:C_CloseSession), do: true
  defp run(_function), do: Enum.random([true, false])

  # The pool may be between two lives.
  defp alive(fun, otherwise) do
    fun.()
  rescue
    MatchError -> otherwise
  catch
    :exit, _gone -> otherwise
  end

  defp clear(storm, function, within),
    do: undo(storm, within, fn storm -> tap(storm, &Chaos.clear(&1.chaos, function)) end)

  defp undo(storm, within, undo),
    do: %{storm | undo: [{now() + Enum.random(within), undo} | storm.undo]}

  defp now, do: System.monotonic_time(:millisecond)
end
