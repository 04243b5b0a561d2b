defmodule Pkcs11Pool.Test.Cluster do
  @moduledoc "Other nodes for tests, on this machine."

  import ExUnit.Callbacks, only: [on_exit: 1]

  @doc "Makes this VM a node until `stop/0`. Names are kept by the machine's epmd, which is started where none runs."
  @spec start!() :: (() -> :ok)
  def start! do
    ours? = match?({_output, 1}, epmd(["-names"]))
    if ours?, do: {_output, 0} = epmd(["-daemon", "-address", "127.0.0.1"])
    name = :"pkcs11_pool_test_#{System.pid()}@127.0.0.1"
    wait_for_epmd(100)
    {:ok, _pid} = :net_kernel.start([name, :longnames])
    fn -> stop(ours?) end
  end

  defp wait_for_epmd(tries) when tries > 0 do
    unless match?({_output, 0}, epmd(["-names"])) do
      Process.sleep(50)
      wait_for_epmd(tries - 1)
    end
  end

  # It refuses to end while another node has its name there.
  defp stop(ours?) do
    :net_kernel.stop()
    if ours?, do: epmd(["-kill"])
    :ok
  end

  defp epmd(arguments), do: System.cmd("epmd", arguments, stderr_to_stdout: true)

  @doc "A node with this code, which ends with the test. The control connection is not the distribution's: so it may be disconnected."
  @spec start_node!() :: %{peer: pid, node: node, os_pid: String.t()}
  def start_node! do
    name = :"member_#{System.unique_integer([:positive])}"
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
    # Who is disconnected from one node stays connected to the others, as tests want it.
    alone = [
      ~c"-connect_all",
      ~c"false",
      ~c"-kernel",
      ~c"prevent_overlapping_partitions",
      ~c"false"
    ]

    args = [~c"-setcookie", Atom.to_charlist(Node.get_cookie())] ++ alone ++ paths

    {:ok, peer, node} =
      :peer.start(%{
        name: name,
        host: ~c"127.0.0.1",
        longnames: true,
        connection: :standard_io,
        args: args
      })

    os_pid = :peer.call(peer, System, :pid, [])

    on_exit(fn ->
      signal!(%{os_pid: os_pid}, "CONT")
      signal!(%{os_pid: os_pid}, "KILL")
    end)

    {:ok, _started} = :peer.call(peer, Application, :ensure_all_started, [:pkcs11_pool], 30_000)
    true = Node.connect(node)
    %{peer: peer, node: node, os_pid: os_pid}
  end

  @doc "Starts children there, by their options, under a supervisor that nothing is linked to."
  @spec start_children(node, [{module, keyword}]) :: {:ok, pid}
  def start_children(node, children),
    do: :erpc.call(node, __MODULE__, :start_children, [children])

  @doc false
  def start_children(children) do
    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    Process.unlink(supervisor)
    {:ok, supervisor}
  end

  @doc "Sends a signal to the node's process; one that has ended already gets none."
  @spec signal!(%{os_pid: String.t()}, String.t()) :: :ok
  def signal!(%{os_pid: os_pid}, signal) do
    System.cmd("kill", ["-" <> signal, os_pid], stderr_to_stdout: true)
    :ok
  end
end
