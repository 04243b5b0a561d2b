defmodule Pkcs11Pool.Test.FaultBench do
  @moduledoc "Makes a return code come in a place of a call, and says what the pool did about it: for `Pkcs11Pool.Test.Faults`."

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Faults, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  # The time-out in ms of a call that is to run out of it.
  @soon 150

  @typedoc "A token behind a chaos module with a key and a victim, and the options of pools on it."
  @type t :: %{chaos: Chaos.t(), token: map, opts: keyword, pool: term}

  @doc "A new token with the key `key` and the object `victim`."
  @spec new!(executor :: atom) :: t
  def new!(executor) do
    %{chaos: chaos} = token = ChaosToken.new!()

    opts =
      SoftHSM.pool_opts(token,
        pool_size: 1,
        executor: executor,
        lazy: true,
        queue_timeout: 10_000,
        operation_timeout: 10_000
      )

    bench = %{chaos: chaos, token: token, opts: opts, pool: opts[:name]}

    within_pool(bench, fn ->
      Pools.key_pair!(bench.pool, "key")
      Pools.key_pair!(bench.pool, "victim")
    end)

    bench
  end

  @doc "Runs `fun` with a pool that ends with it."
  @spec within_pool(t, (() -> result)) :: result when result: term
  def within_pool(bench, fun) do
    {:ok, supervisor} = Pkcs11Pool.start_link(bench.opts)

    try do
      fun.()
    after
      Supervisor.stop(supervisor)
    end
  end

  @doc """
  What happens when a code comes in a place once, or always: like a promise, and what is wrong with the pool afterwards. So many retries are
  waited for.
  """
  @spec observe(
          t,
          Faults.place(),
          code :: atom | non_neg_integer,
          :once | :always,
          retries :: non_neg_integer
        ) :: map
  def observe(bench, place, code, mode, retries) when place in [:open, :login] do
    within_pool(bench, fn -> strike(bench, place, code, mode, retries) end)
  end

  def observe(bench, place, code, mode, retries), do: strike(bench, place, code, mode, retries)

  @doc "Whether what was seen is what is expected, where anything in particular is."
  @spec kept?(map, map) :: boolean
  def kept?(expected, seen),
    do: Enum.all?(expected, fn {key, value} -> value == :any or seen[key] == value end)

  defp strike(%{chaos: chaos, pool: pool} = bench, place, code, mode, retries) do
    function = Faults.function(place)
    if place in [:look_up, :change_look_up], do: :ok = Pkcs11Pool.forget_keys(pool)
    Chaos.reset_counts(chaos)
    Chaos.fail(chaos, function, code, options(place, code, mode))
    {server, result} = watched(pool, fn -> call(pool, place) end)
    calls = Chaos.calls(chaos, function)
    Chaos.clear(chaos, function)
    Pools.drained!(pool)
    retries = retries(server, place, code, retries)
    closed = Chaos.calls(chaos, :C_CloseSession)
    if result == :ok and place in [:change, :change_look_up], do: Pools.key_pair!(pool, "victim")

    %{
      result: outcome(result, code),
      calls: calls,
      retries: retries,
      closed: closed,
      next: next(pool),
      rest: rest(bench)
    }
  end

  defp watched(pool, fun) do
    server = Pools.server(pool)
    1 = :erlang.trace(server, true, [:receive])
    {server, fun.()}
  end

  # The pool server is told of each retry, by and by, also of those that what was done before may have caused: as many as are expected are waited for.
  defp retries(server, place, code, expected, count \\ 0) do
    function = Atom.to_string(Faults.function(place))

    receive do
      {:trace, ^server, :receive, {:pkcs11_pool, {:retried, _class, reason, ^function}}}
      when reason == code or not is_atom(code) ->
        retries(server, place, code, expected, count + 1)

      {:trace, ^server, :receive, _other} ->
        retries(server, place, code, expected, count)
    after
      if(count < expected, do: 10_000, else: 0) ->
        :erlang.trace(server, false, [:receive])
        count
    end
  end

  # Who says at a login that somebody is logged in has it so.
  defp options(place, code, mode) do
    already? = place == :login and code == :user_already_logged_in
    if(mode == :once, do: [count: 1], else: []) ++ [run: already?]
  end

  @doc "What happens when something befalls a call in a place: its result, and what is wrong with the pool when that has passed."
  @spec befall(t, Faults.place(), Faults.happening()) :: map
  def befall(bench, place, happening) do
    # Long enough for a loaded machine: only a device that is lost fails for so long.
    soon = if happening == :device_lost, do: [trouble_timeout: 500], else: []
    bench = %{bench | opts: bench.opts ++ soon}
    if happening == :numbers_reused, do: Chaos.reuse_handles(bench.chaos)

    try do
      within_pool(bench, fn ->
        unless place in [:open, :login], do: {:ok, _signature} = call(bench.pool, :init)

        if place in [:look_up, :change_look_up],
          do: :ok = Pkcs11Pool.forget_keys(bench.pool)

        result = happen(happening, bench, place)
        next = Poll.until(fn -> next(bench.pool) == :ok && :ok end, 15_000)
        # What was given up may still be made.
        Pools.drained!(bench.pool)

        if Pkcs11Pool.find_objects!(bench.pool, label: "victim", class: :public_key) == [],
          do: Pools.key_pair!(bench.pool, "victim")

        %{result: outcome(result, nil), next: next, rest: rest(bench)}
      end)
    after
      Chaos.reset(bench.chaos)
    end
  end

  # What lasts longer than the call does is over when the call has been answered.
  defp happen(:slow, %{chaos: chaos, pool: pool}, place) do
    function = Faults.function(place)
    Chaos.latency(chaos, function, 10 * @soon)
    result = call(pool, place, operation_timeout: @soon)
    Chaos.clear(chaos, function)
    result
  end

  defp happen(:full, %{chaos: chaos, pool: pool}, place) do
    Chaos.session_limit(chaos, 0)
    result = call(pool, place)
    Chaos.session_limit(chaos, :infinity)
    result
  end

  # The rest befalls a call while the module is in its function.
  defp happen(happening, %{chaos: chaos, token: token, pool: pool} = bench, place) do
    Chaos.hang(chaos, Faults.function(place), nth: 1)
    opts = if happening == :hung, do: [operation_timeout: @soon], else: []
    task = Task.async(fn -> call(pool, place, opts) end)
    Poll.until(fn -> Chaos.hanging(chaos) != %{} end)

    case happening do
      :hung -> Poll.until(fn -> not Process.alive?(task.pid) end)
      :sessions_died -> Chaos.kill_sessions(chaos)
      :numbers_reused -> reuse_numbers(bench)
      :objects_invalidated -> Chaos.invalidate_objects(chaos)
      :logged_out -> Chaos.logout(chaos)
      :token_removed -> Chaos.remove_token(chaos)
      :uninitialized -> Chaos.uninitialize(chaos)
      :reloaded -> :ok
      :keys_vanished -> Chaos.hide_objects(chaos)
      :device_lost -> Chaos.device_trouble(chaos, :general_error)
    end

    reload = if happening == :reloaded, do: reload_waits!(pool)
    Chaos.release(chaos)
    result = Task.await(task, 15_000)
    if reload, do: :ok = Task.await(reload, 15_000)
    if happening == :token_removed, do: Chaos.return_token(chaos, slot_id: token.slot_id + 77)
    result
  end

  # A pool that comes and goes is given them.
  defp reuse_numbers(%{chaos: chaos, opts: opts} = bench) do
    Chaos.kill_sessions(chaos)
    other = {bench.pool, :other}

    within_pool(%{bench | opts: Keyword.put(opts, :name, other)}, fn ->
      {:ok, _digest} = Pkcs11Pool.digest(other, :sha256, "other")
    end)
  end

  # It waits for the call that is inside: others are held up.
  defp reload_waits!(pool) do
    task = Task.async(fn -> Pkcs11Pool.reload(pool, queue_timeout: 10_000) end)
    Poll.until(fn -> Process.info(task.pid, :status) == {:status, :waiting} end)
    task
  end

  @doc "The call that meets the fault in this place."
  @spec call(term, Faults.place(), keyword) :: {:ok, binary} | :ok | {:error, Error.t()}
  def call(pool, place, opts \\ [])

  def call(pool, place, opts) when place in [:change, :change_look_up],
    do: Pkcs11Pool.destroy_object(pool, [label: "victim", class: :public_key], opts)

  def call(pool, _place, opts), do: Pkcs11Pool.sign(pool, "key", :ecdsa, <<0::256>>, opts)

  # The next call succeeds; if only after somebody has logged in, that. A pool that has just lost its token is given time to find it.
  defp next(pool) do
    case Poll.until(fn -> answer(call(pool, :look_up)) end) do
      {:ok, _signature} ->
        :ok

      {:error, %Error{details: %{poisoned: true}}} ->
        with :ok <- Pkcs11Pool.login(pool, fn -> "1234" end),
             {:ok, _signature} <- call(pool, :look_up),
             do: :ok_after_login

      {:error, error} ->
        Exception.message(error)
    end
  end

  defp answer({:error, %Error{reason: :token_unavailable}}), do: nil
  defp answer(result), do: result

  # What is not as it was: nothing.
  defp rest(%{chaos: chaos, pool: pool, opts: opts}) do
    Pools.drained!(pool)
    size = opts[:pool_size]
    status = Pkcs11Pool.status(pool)

    expected = %{
      state: :up,
      size: size,
      ceiling: size,
      running: 0,
      waiting: 0,
      hung: 0,
      opening: 0,
      leased: 0
    }

    wrong = Enum.reject(expected, fn {key, value} -> status[key] == value end)
    sessions = Poll.until(fn -> Chaos.status(chaos).sessions end)

    wrong =
      if sessions == status.idle, do: wrong, else: [{:sessions, sessions, status.idle} | wrong]

    wrong ++ Chaos.violations(chaos)
  end

  defp outcome(:ok, _code), do: :ok
  defp outcome({:ok, _value}, _code), do: :ok

  defp outcome({:error, %Error{reason: reason, executed: executed}}, code) do
    {if(reason == own_name(code), do: :itself, else: reason), executed}
  end

  defp own_name(code) when is_atom(code), do: code
  defp own_name(code) when code >= 0x80000000, do: :vendor_defined
  defp own_name(_code), do: :unknown_return_value
end
