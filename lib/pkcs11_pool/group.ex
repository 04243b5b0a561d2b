defmodule Pkcs11Pool.Group do
  @moduledoc """
  One name for several tokens that hold the same keys: pools of this node, and pools of other nodes.

      children = [
        {Pkcs11Pool, name: MyApp.HSM1, module: module, slot: {:token_label, "payments-1"}, pin: {:env, "HSM_PIN"}},
        {Pkcs11Pool, name: MyApp.HSM2, module: module, slot: {:token_label, "payments-2"}, pin: {:env, "HSM_PIN"}},
        {Pkcs11Pool.Group, name: MyApp.Signing, members: [MyApp.HSM1, MyApp.HSM2]}
      ]

  Every call of `Pkcs11Pool` takes the group's name in place of a pool's:

      {:ok, signature} = Pkcs11Pool.sign(MyApp.Signing, "signing", {:ecdsa, hash: :sha256}, "payment")

  ## Which member

  Members on this node are used before members on other nodes. With `strategy: :balance`, the group chooses two members at random, and the one with fewer waiting operations gets the
  call. With `strategy: :priority`, the first available member of `:members` gets it (active and standby). A member is not used while it drains, while its token is away or
  refuses calls, or while its health is `:down` (`Pkcs11Pool.Health`; the group looks at it every second). If no member is left, the call goes to a member all the same, and its error says what
  is wrong.

  ## When a member fails

  The call goes to another member, once, if the error has `executed: false` and the time that the call may wait is not over. So nothing is done twice: if `executed` is
  `:unknown` or `true`, you get the error. Both attempts share one `:queue_timeout`. Items of a list (`sign_many/5` and the others) have their own results, and are not tried again.

  Some calls stay on one member: the calls of a `with_session/3` block with the group's name, streams, and calls with an object (`%Pkcs11Pool.Object{}`), which go to the member that has the
  object's token. Blocks and streams run on members of this node only.

  Name keys by something that is the same on every member: label, id, public key. `check_keys/2` says which keys each member has.

  Functions that make or change something (`generate_key/4`, `create_object/3`, `destroy_object/3` and so on), and functions for one pool (`login/3`, `resize/2`, `drain/2`, `reload/2`), raise `ArgumentError`
  for a group: call them with the name of the member.

  ## Several nodes

  With `scope: MyApp.PG`, groups of the same name on connected nodes find each other by OTP's `:pg`, in this scope. On a node without tokens, give `members: []`. A call on a member of another node is
  one `:erpc` call, which takes at most its `:queue_timeout` and its `:operation_timeout` together (longer for calls of several operations). If a node goes away, or does not answer in time, while it has the call, the error is
  `:node_unavailable` with `executed: :unknown`. A node that is not connected gets no calls. PINs are not sent: each node has its own source. But the data of the calls goes over the network: use TLS for the distribution.
  """

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Group.{Keys, Server, Status}

  @strategies [:balance, :priority]

  @typedoc """
    * `:name` - the group's name, an atom; required
    * `:members` - names of pools of this node, none of which has to run yet; required. At most 64
    * `:strategy` - `:balance` (the default) or `:priority`
    * `:scope` - a scope of `:pg`, an atom: the group has the members of all connected nodes whose group has the same name and scope. Without it, those of this node
  """
  @type option ::
          {:name, atom}
          | {:members, [term]}
          | {:strategy, :balance | :priority}
          | {:scope, atom}

  @doc "The specification for a supervisor. The members are started before the group."
  @spec child_spec([option]) :: Supervisor.child_spec()
  def child_spec(options) do
    options = validate!(options)
    %{id: {__MODULE__, options.name}, start: {__MODULE__, :start_link, [options]}}
  end

  @doc "Starts a group. Bad options raise `ArgumentError`."
  @spec start_link([option] | map) :: GenServer.on_start()
  def start_link(%{name: _, members: _, strategy: _, scope: _} = checked),
    do: Server.start_link(checked)

  def start_link(options), do: options |> validate!() |> Server.start_link()

  defp validate!(options) do
    Keyword.keyword?(options) ||
      raise ArgumentError,
            "expected the options of a group to be a keyword list, got: #{inspect(options)}"

    defaults = %{name: nil, members: nil, strategy: :balance, scope: nil}

    case Keyword.keys(options) -- Map.keys(defaults) do
      [] ->
        :ok

      unknown ->
        raise ArgumentError,
              "unknown options #{inspect(unknown)}, valid options are: #{inspect(Map.keys(defaults))}"
    end

    checked = Map.merge(defaults, Map.new(options))
    atom!(:name, checked.name)
    if checked.scope != nil, do: atom!(:scope, checked.scope)

    checked.strategy in @strategies ||
      invalid!(:strategy, "one of #{inspect(@strategies)}", checked.strategy)

    members = checked.members

    (is_list(members) and length(members) <= 64 and Enum.uniq(members) == members and
       checked.name not in members) ||
      invalid!(
        :members,
        "a list of at most 64 different pools, and not the group itself",
        members
      )

    checked
  end

  defp atom!(option, value),
    do: (is_atom(value) and value not in [nil, true, false]) || invalid!(option, "an atom", value)

  defp invalid!(option, expected, value),
    do:
      raise(
        ArgumentError,
        "invalid value for #{inspect(option)} option: expected #{expected}, got: #{inspect(value)}"
      )

  @doc """
  The group as it is now: also `Pkcs11Pool.status/1` with the group's name. Asks other nodes, for a second at most.

    * `:health` - `:ready` if all members are available, `:degraded` if some are, `:down` if none is; `:health_reason` is a member's
    * `:members` - for each `%{pool: name, node: node, available: boolean, local: boolean, status: map | nil}`; `:status` is that of `Pkcs11Pool.status/1`, for members of this node that run

  Raises `Pkcs11Pool.Error` for an unknown group.
  """
  @spec status(atom) :: %{required(atom) => term}
  defdelegate status(name), to: Status

  @doc """
  Waits until one member is ready (`:any`, as `Pkcs11Pool.await_ready/2` with the group's name does), or all that are known are (`:all`); `timeout` in ms.
  """
  @spec await_ready(atom, timeout, :any | :all) :: :ok | {:error, Error.t()}
  defdelegate await_ready(name, timeout, which \\ :all), to: Status

  @doc """
  Compares the keys of all members: `{:ok, keys}`, or the error of a member that could not be asked.

  For each key (private and secret ones, by id and label):

      %{id: <<1>>, label: "signing", class: :private_key, type: :ec, on: [{MyApp.HSM1, :"a@host"}], missing: [{MyApp.HSM2, :"a@host"}], same: true}

  `:same` is whether the public keys of all that have it are equal; of secret keys, the check values (`CKA_CHECK_VALUE`); nil where it cannot be told. Options: those of each call.
  """
  @spec check_keys(atom, [Pkcs11Pool.call_option()]) ::
          {:ok, [%{required(atom) => term}]} | {:error, Error.t()}
  def check_keys(name, opts \\ []),
    do: name |> Status.look!() |> Keys.compare(opts)
end
