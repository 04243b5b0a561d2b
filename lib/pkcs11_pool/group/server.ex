defmodule Pkcs11Pool.Group.Server do
  @moduledoc false
  # The process of a group on one node, off the path of operations: it looks at the members every second, and writes down what calls read. Groups of one name
  # on several nodes find each other by OTP's `:pg`.
  use GenServer

  alias Pkcs11Pool.Group.{Member, Table}

  # ms between two looks at all members, and for the answers of other nodes.
  @interval 1_000

  defstruct [:name, :members, :scope, :strategy, remote: %{}]

  @spec start_link(map) :: GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options, name: via(options.name))

  defp via(name), do: {:via, Registry, {Pkcs11Pool.Registry, {:group, name}}}

  @doc "Looks at all members now."
  @spec refresh(name :: atom) :: :ok
  def refresh(name), do: GenServer.call(via(name), :refresh, :infinity)

  @doc "A member of another node that did not answer in time is left out until it answers again."
  @spec suspect(name :: atom, Member.t()) :: :ok
  def suspect(name, member), do: GenServer.cast(via(name), {:suspect, member.node})

  @doc "For servers of other nodes: the members here, as long as the group runs."
  @spec describe(name :: atom) :: [Member.t()]
  def describe(name) do
    case Table.fetch(name) do
      # A native pool means nothing elsewhere.
      {:ok, %{members: members}} ->
        for %{node: node, pool: pool} <- members,
            node == node(),
            do: %{Member.look(pool) | native: nil}

      :error ->
        []
    end
  end

  @impl GenServer
  def init(options) do
    Process.flag(:trap_exit, true)

    if options.scope do
      :ok = start_scope(options.scope)
      :ok = :pg.join(options.scope, key(options.name), self())
      :net_kernel.monitor_nodes(true)
    end

    state = struct!(__MODULE__, options)
    {:ok, state |> look_at_all() |> write() |> schedule()}
  end

  defp key(name), do: {:pkcs11_pool_group, name}

  # One scope serves all groups that name it, and outlives them.
  defp start_scope(scope) do
    child = %{id: {:pg, scope}, start: {:pg, :start_link, [scope]}}

    case Supervisor.start_child(Pkcs11Pool.Application.Supervisor, child) do
      {:ok, _pid} -> :ok
      {:error, {:already_started, _pid}} -> :ok
      {:error, :already_present} -> :ok
      {:error, reason} -> {:error, reason}
    end
  end

  @impl GenServer
  def handle_call(:refresh, _from, state), do: {:reply, :ok, state |> look_at_all() |> write()}

  @impl GenServer
  def handle_cast({:suspect, node}, state) do
    remote =
      Map.update(
        state.remote,
        node,
        [],
        &Enum.map(&1, fn member -> %{member | available?: false} end)
      )

    {:noreply, write(%{state | remote: remote})}
  end

  @impl GenServer
  def handle_info(:look, state), do: {:noreply, state |> look_at_all() |> write() |> schedule()}

  def handle_info({:nodedown, node}, state),
    do: {:noreply, write(%{state | remote: Map.delete(state.remote, node)})}

  def handle_info(_other, state), do: {:noreply, state}

  @impl GenServer
  def terminate(_reason, state), do: Table.delete(state.name)

  defp schedule(state) do
    Process.send_after(self(), :look, @interval)
    state
  end

  defp look_at_all(%{scope: nil} = state), do: state

  defp look_at_all(state) do
    nodes =
      for pid <- :pg.get_members(state.scope, key(state.name)),
          node(pid) != node(),
          uniq: true,
          do: node(pid)

    answers = :erpc.multicall(nodes, __MODULE__, :describe, [state.name], @interval)

    remote =
      for {node, answer} <- Enum.zip(nodes, answers), into: %{} do
        before = Map.get(state.remote, node, [])

        case answer do
          {:ok, members} -> {node, Enum.map(members, &with_calls(&1, before))}
          _no_answer -> {node, Enum.map(before, &%{&1 | available?: false})}
        end
      end

    %{state | remote: remote}
  end

  defp with_calls(member, before) do
    same = Enum.find(before, &(&1.pool == member.pool))
    %{member | calls: if(same, do: same.calls, else: :counters.new(1, []))}
  end

  defp write(state) do
    local = Enum.map(state.members, &Member.look/1)
    remote = state.remote |> Enum.sort() |> Enum.flat_map(&elem(&1, 1))

    available = %{
      local: local |> Enum.filter(& &1.available?) |> List.to_tuple(),
      remote: remote |> Enum.filter(& &1.available?) |> List.to_tuple()
    }

    Table.put(state.name, %{
      strategy: state.strategy,
      members: local ++ remote,
      available: available
    })

    state
  end
end
