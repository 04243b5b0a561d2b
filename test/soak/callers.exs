defmodule Pkcs11Pool.Soak.Callers do
  @moduledoc false
  # Processes that call a pool, and what came of it. What must not happen whatever fails is a *lie*: a wrong answer, a crash, a reason that is not true.

  alias Pkcs11Pool.{Error, ReturnCode}

  @kinds [steady: 38, hasty: 12, leasing: 6, victim: 6, comer: 2]
  @timeouts [queue_timeout: 2_000, operation_timeout: 1_000]

  # Nothing of this is true at any time: no key, object or PIN is ever changed.
  @never [
    :key_not_found,
    :ambiguous_key,
    :object_stale,
    :object_of_other_token,
    :signature_invalid,
    :pin_incorrect,
    :pin_locked,
    :slot_in_use,
    :overloaded
  ]

  @signature_invalid ReturnCode.code(:signature_invalid)
  @signature_len_range ReturnCode.code(:signature_len_range)

  @enforce_keys [:pool, :pin, :public_key, :card, :signature, :table, :flags]
  defstruct @enforce_keys

  @data :crypto.hash(:sha256, "data")

  def timeouts, do: @timeouts

  @doc "What callers share: a pool with the keys `key` and `card`, and its PIN."
  def new(pool, pin) do
    [public_key, card] =
      for label <- ["key", "card"],
          do: Pkcs11Pool.public_key!(pool, label: label, class: :public_key)

    {:ok, signature} = Pkcs11Pool.sign(pool, "key", :ecdsa, @data, signature: :der)

    %__MODULE__{
      pool: pool,
      pin: pin,
      public_key: public_key,
      card: card,
      signature: signature,
      table: :ets.new(:callers, [:public, write_concurrency: true]),
      flags: :atomics.new(3, [])
    }
  end

  @doc "Starts them all; each is replaced if it is killed, until `stop/2`."
  def start(callers) do
    for {kind, count} <- @kinds,
        index <- 1..count,
        do: spawn_link(fn -> watch(callers, kind, index) end)
  end

  @doc "So many more call another pool of the same token, until it is gone: their pids and monitors."
  def visit(callers, pool, count) do
    for _ <- 1..count, do: spawn_monitor(fn -> visit(%{callers | pool: pool}) end)
  end

  defp visit(callers) do
    unless match?({:error, %Error{reason: :pool_not_found}}, call(callers, :visiting, [])),
      do: visit(callers)
  end

  @doc "Something has happened that must not."
  def lie(callers, text),
    do: :ets.update_counter(callers.table, {:lie, text}, 1, {{:lie, text}, 0})

  @doc "Nobody logs in or out any more, as soon as what is under way has ended."
  def calm(callers), do: :atomics.put(callers.flags, 3, 1)

  @doc "From now on a steady caller's failure is a lie."
  def expect_success(callers), do: :atomics.put(callers.flags, 1, 1)

  @doc "Ends them; the length of each mailbox in the end, or `:stuck`."
  def stop(callers, watchers) do
    :atomics.put(callers.flags, 2, 1)

    for watcher <- watchers, do: send(watcher, {:report, self()})

    for watcher <- watchers do
      receive do
        {^watcher, length} -> length
      after
        30_000 -> :stuck
      end
    end
  end

  @doc "How often each thing happened: `{{operation, reason}, count}`."
  def counts(callers),
    do: for({{:count, key}, count} <- :ets.tab2list(callers.table), do: {key, count})

  @doc "What must not have happened."
  def lies(callers),
    do: for({{:lie, text}, count} <- :ets.tab2list(callers.table), do: "#{text} (#{count} times)")

  @doc "By how many ms a call outlasted its deadline at most."
  def outlasted(callers) do
    case :ets.lookup(callers.table, :outlasted) do
      [{_key, ms}] -> ms
      [] -> 0
    end
  end

  @doc "Kills one of the callers that are there for it."
  def kill_one(callers) do
    for({{:victim, _index}, pid} <- :ets.tab2list(callers.table), do: pid)
    |> Enum.take_random(1)
    |> Enum.each(&Process.exit(&1, :kill))
  end

  # A caller's own mailbox is what is looked at in the end: hence the one who waits for it is another process.
  defp watch(callers, kind, index) do
    {pid, monitor} = spawn_monitor(fn -> loop(callers, kind) end)
    if kind == :victim, do: :ets.insert(callers.table, {{:victim, index}, pid})

    receive do
      {:DOWN, ^monitor, :process, ^pid, :killed} when kind == :victim ->
        watch(callers, kind, index)

      {:DOWN, ^monitor, :process, ^pid, reason} ->
        lie(callers, "a #{kind} caller ended: #{inspect(reason)}")
        watch(callers, kind, index)

      {:report, from} ->
        send(from, {self(), mailbox(pid, 200)})
    end
  end

  defp mailbox(_pid, 0), do: :stuck

  defp mailbox(pid, tries) do
    {:dictionary, dictionary} = Process.info(pid, :dictionary)

    if dictionary[:done] do
      {:message_queue_len, length} = Process.info(pid, :message_queue_len)
      Process.exit(pid, :kill)
      length
    else
      Process.sleep(100)
      mailbox(pid, tries - 1)
    end
  end

  defp loop(callers, kind) do
    if :atomics.get(callers.flags, 2) == 1 do
      Process.put(:done, true)
      Process.sleep(:infinity)
    else
      act(callers, kind)
      loop(callers, kind)
    end
  end

  defp act(callers, :leasing) do
    result =
      Pkcs11Pool.with_session(callers.pool, fn lease ->
        for _ <- 1..:rand.uniform(4), do: call(%{callers | pool: lease}, :leased, [])
        :done
      end)

    with {:error, error} <- result do
      record(callers, :leasing, :lease, {:error, error})
      Process.sleep(:rand.uniform(10))
    end
  end

  defp act(callers, :hasty),
    do:
      call(callers, :hasty,
        queue_timeout: :rand.uniform(20) - 1,
        operation_timeout: :rand.uniform(30)
      )

  # Somebody who logs everybody in and out, for as long as the storm lasts.
  defp act(%{pool: pool, pin: pin} = callers, :comer) do
    Process.sleep(:rand.uniform(100))

    if :atomics.get(callers.flags, 3) == 0 do
      case Enum.random([:login, :logout, :force]) do
        :login -> record(callers, :comer, :login, Pkcs11Pool.login(pool, fn -> pin end))
        :logout -> record(callers, :comer, :logout, Pkcs11Pool.logout(pool))
        :force -> record(callers, :comer, :logout, Pkcs11Pool.logout(pool, force: true))
      end
    end
  end

  defp act(callers, kind), do: call(callers, kind, [])

  defp call(callers, kind, opts) do
    operation = Enum.random([:sign, :sign, :card, :verify, :digest, :random, :find, :many])
    started = System.monotonic_time(:millisecond)
    result = run(callers, operation, opts)
    elapsed = System.monotonic_time(:millisecond) - started
    allowed = Keyword.merge(@timeouts, opts)
    note_late(callers, elapsed - allowed[:queue_timeout] - allowed[:operation_timeout])
    record(callers, kind, operation, result)
    # Somebody whose pool is down does not ask without a pause.
    if match?({:error, %Error{}}, result), do: Process.sleep(:rand.uniform(10))
    result
  end

  defp run(callers, :sign, opts), do: sign(callers, "key", callers.public_key, opts)
  # One that wants a login for each use.
  defp run(callers, :card, opts), do: sign(callers, "card", callers.card, opts)

  defp run(%{pool: pool, signature: signature}, :verify, opts),
    do: Pkcs11Pool.verify(pool, "key", :ecdsa, @data, signature, [signature: :der] ++ opts)

  defp run(%{pool: pool}, :digest, opts) do
    with {:ok, digest} <- Pkcs11Pool.digest(pool, :sha256, "data", opts) do
      if digest == @data, do: :ok, else: {:lie, "a digest is wrong"}
    end
  end

  defp run(%{pool: pool}, :random, opts) do
    with {:ok, bytes} <- Pkcs11Pool.generate_random(pool, 100, opts) do
      if byte_size(bytes) == 100, do: :ok, else: {:lie, "random bytes are missing"}
    end
  end

  defp run(%{pool: pool}, :find, opts) do
    with {:ok, objects} <- Pkcs11Pool.find_objects(pool, [label: "key"], opts) do
      if length(objects) == 2,
        do: :ok,
        else: {:lie, "#{length(objects)} objects were found, not 2"}
    end
  end

  # A list's first failure counts for it.
  defp run(%{pool: pool} = callers, :many, opts) do
    list = List.duplicate(@data, :rand.uniform(80))

    with {:ok, results} <-
           Pkcs11Pool.sign_many(pool, "key", :ecdsa, list, [signature: :der] ++ opts) do
      {signatures, failed} = Enum.split_with(results, &match?({:ok, _signature}, &1))
      right? = &:public_key.verify({:digest, @data}, :sha256, &1, callers.public_key)

      cond do
        length(results) != length(list) ->
          {:lie, "results are missing"}

        not Enum.all?(Enum.take(signatures, 3), fn {:ok, signature} -> right?.(signature) end) ->
          {:lie, "a list's signature is wrong"}

        true ->
          List.first(failed, :ok)
      end
    end
  end

  defp sign(%{pool: pool}, key, public_key, opts) do
    with {:ok, signature} <-
           Pkcs11Pool.sign(pool, key, :ecdsa, @data, [signature: :der] ++ opts) do
      if :public_key.verify({:digest, @data}, :sha256, signature, public_key),
        do: :ok,
        else: {:lie, "a signature is wrong"}
    end
  end

  defp record(callers, kind, operation, result) do
    case result do
      :ok ->
        count(callers, {operation, :ok})

      {:lie, text} ->
        lie(callers, text)

      {:error, %Error{reason: reason} = error} ->
        count(callers, {operation, reason})

        if reason in @never and not troubled?(error),
          do: lie(callers, "#{operation}: #{Exception.message(error)}")

        if kind in [:steady, :leased, :leasing] and :atomics.get(callers.flags, 1) == 1,
          do: lie(callers, "after the storm: #{operation}: #{Exception.message(error)}")
    end
  end

  # What the storm makes C_Verify answer is a refusal as any, if the session answers: its own code tells it from what the module finds invalid.
  defp troubled?(%Error{reason: :signature_invalid, code: code}),
    do: code not in [nil, @signature_invalid, @signature_len_range]

  defp troubled?(_error), do: false

  defp count(callers, key),
    do: :ets.update_counter(callers.table, {:count, key}, 1, {{:count, key}, 0})

  defp note_late(callers, ms) do
    if ms > outlasted(callers), do: :ets.insert(callers.table, {:outlasted, ms})
  end
end
