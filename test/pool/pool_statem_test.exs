defmodule Pkcs11Pool.PoolStatemTest.Model do
  # The pool as PropEr's state machine sees it. What the model knows of: the pool's size, the leases that are open, and crowds of callers with
  # what each of them does. What it does not know of is time; hence what a caller may be answered depends on one thing only, whether the
  # open leases take up the whole pool.

  alias Pkcs11Pool.PoolStatemTest.Rig

  @largest 4
  @most_crowds 8

  defstruct size: nil, leases: [], ended: [], crowds: []

  alias :proper_types, as: Gen
  @compile {:no_warn_undefined, Gen}

  def initial_state, do: initial_state(1)
  def initial_state(size), do: %__MODULE__{size: size}

  ## What may happen next

  def command(state) do
    always = [
      {6, call(:submit, [Gen.integer(1, 6), script()])},
      {3, call(:run, [step(if(full?(state), do: :full, else: :free))])},
      {4, call(:take, [if(full?(state), do: :impatient, else: :patient)])},
      {3, call(:resize, [Gen.integer(1, @largest)])},
      {3, call(:kill_runner, [Gen.integer(0, @largest - 1)])},
      {1, call(:status, [])}
    ]

    Gen.frequency(
      always ++
        with_some(state.leases, fn lease ->
          [
            {4, call(:use, [lease, step(:lease)])},
            {3, call(:release, [lease, ending()])},
            {2, call(:kill_holder, [lease])},
            {1, call(:use_from_outside, [lease])}
          ]
        end) ++
        with_some(state.ended, fn lease -> [{1, call(:use_ended, [lease])}] end) ++
        with_some(crowds(state, :whole), fn crowd -> [{3, call(:kill_half, [crowd])}] end) ++
        with_some(crowds(state, :any), fn crowd -> [{2, call(:await, [crowd])}] end)
    )
  end

  defp call(function, arguments), do: {:call, Rig, function, arguments}

  defp with_some([], _commands), do: []
  defp with_some(list, commands), do: commands.(Gen.oneof(list))

  # What a caller does, one after the other.
  defp script, do: several(1..3, Gen.frequency([{5, random(patience())}, {2, block()}]))

  # One thing that is done while nothing else is, hence not for ever where no session comes free.
  defp step(:full), do: random({:queue_timeout, Gen.integer(0, 3)})
  defp step(_place), do: random(patience())

  defp block do
    patience = Gen.oneof([:patient, {:queue_timeout, 2}])
    {:block, patience, ending(), several(0..2, random(patience()))}
  end

  defp random(patience), do: {:random, Gen.oneof([16, 5_000, 400_000]), patience}

  defp patience do
    Gen.frequency([
      {4, :patient},
      {2, {:queue_timeout, Gen.integer(0, 3)}},
      {2, {:operation_timeout, Gen.integer(0, 3)}}
    ])
  end

  defp ending, do: Gen.oneof([:return, :error, :throw, :exit])

  defp several(first..last//1, type),
    do: Gen.bind(Gen.integer(first, last), &Gen.vector(&1, type), false)

  ## Whether it may

  def precondition(state, {:call, Rig, function, arguments}), do: may?(state, function, arguments)

  defp may?(state, :submit, _), do: length(state.crowds) < @most_crowds
  defp may?(state, :take, [:patient]), do: not full?(state)
  defp may?(state, :take, [:impatient]), do: full?(state)
  # Any other would wait for a session that does not come.
  defp may?(state, :run, [{:random, _, patience}]),
    do: match?({:queue_timeout, _}, patience) or not full?(state)

  defp may?(state, :use_ended, [lease]), do: lease in state.ended
  defp may?(state, :kill_half, [crowd]), do: crowd in crowds(state, :whole)
  defp may?(state, :await, [crowd]), do: not full?(state) and crowd in crowds(state, :any)

  defp may?(state, function, [lease | _])
       when function in [:use, :release, :kill_holder, :use_from_outside],
       do: lease in state.leases

  defp may?(_state, function, _) when function in [:resize, :kill_runner, :status], do: true

  ## What is then

  def next_state(state, result, {:call, Rig, function, arguments}),
    do: next(state, function, arguments, result)

  # As it is generated, a result is a variable; as it is checked, one that is refused changes nothing.
  defp next(state, :take, [:patient], {:error, _, _}), do: state
  defp next(state, :take, [:patient], lease), do: %{state | leases: [lease | state.leases]}

  defp next(state, :release, [lease, _how], _),
    do: %{state | leases: List.delete(state.leases, lease), ended: [lease | state.ended]}

  defp next(state, :kill_holder, [lease], _),
    do: %{state | leases: List.delete(state.leases, lease)}

  defp next(state, :submit, [_count, script], crowd),
    do: %{state | crowds: [{crowd, script, :whole} | state.crowds]}

  defp next(state, :kill_half, [crowd], _) do
    {^crowd, script, _} = entry = List.keyfind(state.crowds, crowd, 0)
    %{state | crowds: [{crowd, script, :half} | List.delete(state.crowds, entry)]}
  end

  defp next(state, :resize, [size], _), do: %{state | size: size}
  defp next(state, _function, _arguments, _result), do: state

  ## What it answers

  def postcondition(state, {:call, Rig, function, arguments}, result),
    do: good?(state, function, arguments, result)

  defp good?(state, :take, [_patience], result),
    do: if(full?(state), do: result == {:error, :queue_timeout, false}, else: is_pid(result))

  defp good?(state, :run, [step], result),
    do: answer?(step, result, if(full?(state), do: :full, else: :free))

  defp good?(_state, :use, [_lease, step], result), do: answer?(step, result, :lease)

  defp good?(_state, :use_from_outside, _, result), do: result == {:error, :not_owner, false}
  defp good?(_state, :use_ended, _, result), do: result == {:error, :lease_ended, false}

  defp good?(state, :await, [crowd], reports),
    do: reports?(List.keyfind(state.crowds, crowd, 0), reports)

  # A crowd's own leases come on top of the model's.
  defp good?(%{size: size, leases: leases}, :status, [], status),
    do: match?(%{state: :up, size: ^size}, status) and status.leased >= length(leases)

  defp good?(_state, :submit, [count, _], crowd), do: length(crowd) == count
  defp good?(_state, _function, _arguments, result), do: result == :ok

  @doc "Whether a crowd's callers may have come to say this."
  def reports?({_crowd, script, killed}, reports) do
    reports
    |> Enum.with_index()
    |> Enum.all?(fn
      {{:done, answers}, _index} -> answers?(script, answers, :any)
      {:killed, index} -> killed == :half and rem(index, 2) == 0
      _other -> false
    end)
  end

  defp answers?(steps, answers, place) do
    length(steps) == length(answers) and
      Enum.all?(Enum.zip(steps, answers), fn {step, answer} -> answer?(step, answer, place) end)
  end

  # `:full`: open leases take up the pool. `:lease`: on a session of one's own. `:free`, `:any`: neither.
  defp answer?({:random, _, _}, answer, :full), do: answer == {:error, :queue_timeout, false}
  defp answer?({:random, bytes, :patient}, answer, _place), do: answer == {:ok, bytes}

  defp answer?({:random, bytes, {:queue_timeout, _}}, answer, :lease),
    do: answer == {:ok, bytes}

  defp answer?({:random, bytes, {:queue_timeout, _}}, answer, _place),
    do: answer in [{:ok, bytes}, {:error, :queue_timeout, false}]

  defp answer?({:random, bytes, {:operation_timeout, _}}, answer, _place),
    do: answer in [{:ok, bytes}, {:error, :operation_timeout, :unknown}]

  defp answer?({:block, _patience, _ending, steps}, {:block, answers}, _place),
    do: answers?(steps, answers, :lease)

  defp answer?({:block, {:queue_timeout, _}, _ending, _steps}, answer, _place),
    do: answer == {:error, :queue_timeout, false}

  defp answer?(_step, _answer, _place), do: false

  def full?(state), do: length(state.leases) >= state.size

  defp crowds(state, :whole), do: for({crowd, _, :whole} <- state.crowds, do: crowd)
  defp crowds(state, :any), do: for({crowd, _, _} <- state.crowds, do: crowd)
end

defmodule Pkcs11Pool.PoolStatemTest.Rig do
  # What the commands do to a real pool. None of them raises: what goes wrong is an answer that the model does not know.
  #
  # Callers and holders are processes that outlive what they did, so that it can be seen what is left in their mailboxes.

  alias Pkcs11Pool.Error

  @pool :statem
  @actors __MODULE__.Actors
  # Of one that waits alone: longer than any machine is busy. A crowd may have to wait for the end.
  @patience 10_000
  @crowd_patience 60_000

  def start!(options) do
    {:ok, pool} = options |> Keyword.put(:name, @pool) |> Pkcs11Pool.start_link()
    :ok = Pkcs11Pool.await_ready(@pool, @patience)
    {:ok, actors} = Task.Supervisor.start_link(name: @actors)
    [actors, pool]
  end

  def stop!(supervisors), do: Enum.each(supervisors, &Supervisor.stop/1)

  ## Callers

  @doc "So many callers that each do what the script says."
  def submit(count, script) do
    for _ <- 1..count do
      actor(fn -> remember({:done, Enum.map(script, &perform(@pool, &1, @crowd_patience))}) end)
    end
  end

  @doc "Kills every other one of them."
  def kill_half(crowd), do: crowd |> Enum.take_every(2) |> Enum.each(&kill/1)

  @doc "What each of them says once it is done."
  def await(crowd), do: Enum.map(crowd, &ask(&1, :report))

  @doc "What is left in the mailbox of one that is done."
  def mailbox(actor), do: ask(actor, :mailbox)

  @doc "One call, by whoever runs the commands."
  def run(step), do: perform(@pool, step, @patience)

  ## Leases

  @doc "A process that has a session for itself; or why it has none."
  def take(patience) do
    {parent, ref} = {self(), make_ref()}
    timeout = if patience == :patient, do: @patience, else: 10

    holder =
      actor(fn ->
        case block(@pool, timeout, &hold(&1, fn -> send(parent, {ref, :held}) end)) do
          {:released, lease, reply} ->
            reply.()
            remember(lease)

          refused ->
            send(parent, {ref, refused})
        end
      end)

    receive do
      {^ref, :held} -> holder
      {^ref, refused} -> refused
    after
      2 * @patience -> {:stuck, Process.info(holder, :current_stacktrace)}
    end
  end

  def use(holder, step), do: ask(holder, {:use, step})
  def release(holder, ending), do: ask(holder, {:release, ending})
  def kill_holder(holder), do: kill(holder)

  @doc "Another process than the holder uses its lease."
  def use_from_outside(holder), do: holder |> ask(:lease) |> perform({:random, 16, :patient}, 0)

  @doc "The holder uses it after its block."
  def use_ended(holder), do: ask(holder, :use_ended)

  ## The pool

  def resize(size), do: Pkcs11Pool.resize(@pool, size)
  def status, do: Pkcs11Pool.status(@pool)
  def drain, do: Pkcs11Pool.drain(@pool, @patience)

  @doc "Kills a runner, if they are processes."
  def kill_runner(index) do
    :runners
    |> Pkcs11Pool.Registry.via(@pool)
    |> DynamicSupervisor.which_children()
    |> Enum.drop(index)
    |> Enum.take(1)
    |> Enum.each(fn {_, runner, _, _} -> is_pid(runner) && kill(runner) end)
  end

  ## What actors do

  defp actor(fun) do
    {:ok, actor} = Task.Supervisor.start_child(@actors, fun)
    actor
  end

  defp perform(pool, {:random, bytes, patience}, longest) do
    opts =
      case patience do
        :patient -> [queue_timeout: longest]
        {:queue_timeout, ms} -> [queue_timeout: ms]
        {:operation_timeout, ms} -> [queue_timeout: longest, operation_timeout: ms]
      end

    case Pkcs11Pool.generate_random(pool, bytes, opts) do
      {:ok, random} -> {:ok, byte_size(random)}
      {:error, %Error{} = error} -> {:error, error.reason, error.executed}
    end
  end

  defp perform(pool, {:block, patience, ending, steps}, longest) do
    timeout = with {:queue_timeout, ms} <- patience, do: ms, else: (:patient -> longest)

    # By the lease and by the pool's name in turn, which are to be the same.
    in_block = fn lease ->
      refs = Stream.cycle([lease, pool])
      {ending, {:block, Enum.zip_with(steps, refs, &perform(&2, &1, longest))}}
    end

    block(pool, timeout, in_block)
  end

  # What `fun` gives comes out, however it is to end the block.
  defp block(pool, timeout, fun) do
    in_block = fn lease ->
      case fun.(lease) do
        {:return, value} -> {:out, value}
        {kind, value} -> :erlang.raise(kind, {:out, value}, [])
      end
    end

    case Pkcs11Pool.with_session(pool, in_block, queue_timeout: timeout) do
      {:out, value} -> value
      {:error, %Error{} = error} -> {:error, error.reason, error.executed}
    end
  catch
    _kind, {:out, value} -> value
  end

  # In a block, until it is told to leave.
  defp hold(lease, ready) do
    ready.()

    receive do
      {:ask, reply, {:release, ending}} ->
        {ending, {:released, lease, fn -> reply.(:ok) end}}

      {:ask, reply, :lease} ->
        reply.(lease)
        hold(lease, fn -> :ok end)

      {:ask, reply, {:use, step}} ->
        reply.(perform(lease, step, @patience))
        hold(lease, fn -> :ok end)
    end
  end

  # After all: what it knows, and what it has been left.
  defp remember(known) do
    receive do
      {:ask, reply, :report} ->
        reply.(known)

      {:ask, reply, :use_ended} ->
        reply.(perform(known, {:random, 16, :patient}, 0))

      {:ask, reply, :mailbox} ->
        {:messages, messages} = Process.info(self(), :messages)
        reply.(for message <- messages, not match?({:ask, _, _}, message), do: message)
    end

    remember(known)
  end

  defp ask(actor, question) do
    ref = Process.monitor(actor)
    asker = self()
    send(actor, {:ask, &send(asker, {ref, &1}), question})

    receive do
      {^ref, answer} ->
        Process.demonitor(ref, [:flush])
        answer

      {:DOWN, ^ref, _, _, reason} when reason in [:killed, :noproc] ->
        :killed

      {:DOWN, ^ref, _, _, reason} ->
        {:died, reason}
    after
      2 * @patience -> {:stuck, Process.info(actor, :current_stacktrace)}
    end
  end

  defp kill(pid) do
    Process.exit(pid, :kill)
    :ok
  end
end

defmodule Pkcs11Pool.PoolStatemTest do
  # Random commands on a real pool, one after the other and in parallel, against a model of it; then whatever went on comes to rest,
  # and the pool must be as good as new.
  use ExUnit.Case, async: false

  alias ExUnit.CaptureIO
  alias Pkcs11Pool.PoolStatemTest.{Model, Rig}
  alias Pkcs11Pool.Test.{OTPLibrary, SoftHSM}
  alias :proper_types, as: Gen

  @compile {:no_warn_undefined, [:proper, :proper_statem, :proper_symb, Gen]}

  unless OTPLibrary.load(:proper) do
    @moduletag skip: "PropEr is not installed (on Debian: apt-get install erlang-proper)"
  end

  @long System.get_env("PKCS11_POOL_LONG") == "1"
  @moduletag timeout: if(@long, do: :infinity, else: 600_000)
  @rest 8_000

  test "one command after the other" do
    check(&:proper_statem.commands(Model, &1), &one_after_the_other/1)
  end

  test "commands in parallel" do
    check(&:proper_statem.parallel_commands(Model, &1), &in_parallel/1)
  end

  defp one_after_the_other(commands) do
    {history, state, result} = :proper_statem.run_commands(Model, commands)
    expect(result == :ok, inspect(result), {results(history), state})
    at_rest([state])
  end

  defp in_parallel(commands) do
    {before, branches, result} = :proper_statem.run_parallel_commands(Model, commands)
    expect(result == :ok, inspect(result), {results(before), branches})
    at_rest(final_states(commands, results(before), branches))
  end

  ## A property of a pool

  defp check(commands, run) do
    token = SoftHSM.new_token!()
    {:ok, log} = Agent.start_link(fn -> %{output: [], failure: "no failure"} end)

    property =
      :proper.forall(pool_options(), fn options ->
        :proper.forall(commands.(Model.initial_state(options[:pool_size])), fn commands ->
          failure = failure(fn -> on_pool(token, options, fn -> run.(commands) end) end)
          seen = [options, commands] |> inspect(limit: :infinity, pretty: true)
          if failure, do: Agent.update(log, &%{&1 | failure: [failure, "\n", seen]})
          failure == nil
        end)
      end)

    options = [
      :nocolors,
      numtests: if(@long, do: 2_000, else: 40),
      # Each failing attempt waits for a pool that does not come to rest.
      max_shrinks: if(@long, do: 100, else: 5),
      on_output: fn format, arguments ->
        output = :io_lib.format(format, arguments)
        Agent.update(log, &%{&1 | output: [&1.output, output]})
      end
    ]

    unless quickcheck(property, options) == true do
      %{output: output, failure: failure} = Agent.get(log, & &1)
      flunk("#{output}\n\nThe last failure, that of the fewest commands:\n#{failure}")
    end
  end

  # That of Debian 12 breaks off where it cannot make an empty list smaller; and it catches no exception on OTP 25, hence `failure/1`.
  # Where commands do not go in parallel, it says so on standard output.
  defp quickcheck(property, options) do
    {result, _output} = CaptureIO.with_io(fn -> :proper.quickcheck(property, options) end)
    result
  rescue
    ArithmeticError -> false
  end

  defp failure(fun) do
    fun.()
    nil
  catch
    kind, reason -> Exception.format(kind, reason, Enum.take(__STACKTRACE__, 6))
  end

  defp pool_options do
    Gen.bind(Gen.integer(1, 4), &pool_options/1, false)
  end

  defp pool_options(size) do
    [
      pool_size: size,
      stripes: Gen.integer(1, size),
      executor: Gen.frequency([{3, :dirty_io}, {1, :threads}])
    ]
  end

  defp on_pool(token, options, fun) do
    started = token |> SoftHSM.pool_opts(options) |> Rig.start!()

    try do
      fun.()
    after
      Rig.stop!(started)
    end
  end

  ## What came of the commands

  defp results(history), do: for({_state, result} <- history, do: result)

  # Which resize was the last of two branches, nobody knows; else the order changes nothing.
  defp final_states({[{:init, state} | commands], _branches}, results, [one, other]) do
    history = Enum.zip(commands, results)
    for order <- [[history, one, other], [history, other, one]], do: replay(state, order)
  end

  defp replay(state, histories) do
    {state, _variables} =
      for history <- histories, step <- history, reduce: {state, []} do
        {state, variables} ->
          {{:set, {:var, number}, call}, result} = step
          {:call, module, function, arguments} = call
          call = {:call, module, function, :proper_symb.eval(variables, arguments)}
          {Model.next_state(state, result, call), [{number, result} | variables]}
      end

    state
  end

  ## When all has come to rest

  defp at_rest([%{leases: leases, ended: ended, crowds: crowds} | _] = states) do
    open = length(leases)
    sizes = for state <- states, do: state.size

    # Whoever waits now waits for a lease.
    status = rest(sizes, open, &(&1.leased == open and (&1.waiting == 0 or open >= &1.size)))
    if status.waiting > 0, do: expect(status.idle == 0, "it waits beside an idle session", status)

    for lease <- leases,
        do: expect(Rig.release(lease, :return) == :ok, "a holder is gone", lease)

    %{size: size} = rest(sizes, 0, &(&1.leased == 0 and &1.waiting == 0))

    for {crowd, _, _} = entry <- crowds do
      reports = Rig.await(crowd)
      expect(Model.reports?(entry, reports), "what callers were answered", {entry, reports})
    end

    for actor <- List.flatten([leases, ended, for({crowd, _, _} <- crowds, do: crowd)]) do
      mailbox = Rig.mailbox(actor)
      expect(mailbox in [[], :killed], "what is left in a mailbox", {actor, mailbox})
    end

    whole(size)
    expect(Rig.drain() == {:ok, 0}, "sessions are left over", Rig.status())
  end

  # All of its sessions can be had, and no more than these.
  defp whole(size) do
    holders = for _ <- 1..size, do: Rig.take(:patient)
    expect(Enum.all?(holders, &is_pid/1), "a session was lost", {holders, Rig.status()})
    expect(match?(%{leased: ^size, idle: 0}, Rig.status()), "all are leased", Rig.status())
    expect(Rig.take(:impatient) == {:error, :queue_timeout, false}, "one too many", Rig.status())

    for holder <- holders do
      expect(Rig.use(holder, {:random, 16, :patient}) == {:ok, 16}, "a lease's use", holder)
      expect(Rig.release(holder, :return) == :ok, "a lease's end", holder)
    end

    rest([size], 0, &(&1.leased == 0 and &1.waiting == 0))
  end

  # Nothing is on its way any more, and the counters are as the model has them.
  defp rest(sizes, open, rested?) do
    status =
      await_rest(System.monotonic_time(:millisecond) + @rest, fn status ->
        match?(%{running: 0, opening: 0, closing: 0, hung: 0}, status) and rested?.(status)
      end)

    expect(status.size in sizes, "the size is none of #{inspect(sizes)}", status)
    expect(status.idle + open <= max(status.size, open), "more sessions than may be", status)
    # A pool that has logged in keeps a session.
    expect(status.idle + open >= 1, "the last session is gone", status)
    status
  end

  defp await_rest(deadline, rested?) do
    status = Rig.status()

    cond do
      rested?.(status) ->
        status

      System.monotonic_time(:millisecond) < deadline ->
        Process.sleep(1)
        await_rest(deadline, rested?)

      true ->
        raise "the pool does not come to rest: #{inspect(status)}"
    end
  end

  defp expect(true, _what, _seen), do: :ok
  defp expect(false, what, seen), do: raise("#{what}: #{inspect(seen, limit: :infinity)}")
end
