defmodule Pkcs11Pool.Registry do
  @moduledoc false
  # From a pool's name to its native pool and its default timeouts.
  #
  # The truth is in a registry of Elixir's, which costs a look-up two reads of ETS and a copy. So the same is in `:persistent_term` for as long as the pool's server lives, from where nothing is copied:
  # each call on a pool looks here. A term that was erased or replaced makes the VM look through all its processes, about 1 µs of processor time for each of them, in the background: that
  # is when a pool stops, or changes its executor. If a term is missing, or its server is dead, Elixir's registry is asked.

  alias Pkcs11Pool.{Error, Native}

  # `:deadline`: of one call that has another than its timeouts.
  @type entry :: %{
          optional(:deadline) => integer | :infinity,
          native: Native.pool(),
          executor: Native.executor(),
          queue_timeout: timeout,
          operation_timeout: timeout,
          lease_timeout: timeout,
          max_waiting: non_neg_integer,
          type: :hsm | :cloud_hsm | :token,
          lazy: boolean,
          session_object: :refuse | :allow,
          pin_timeout: pos_integer,
          protected_authentication_path: boolean
        }

  @doc false
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(_options), do: Registry.child_spec(keys: :unique, name: __MODULE__)

  @doc "The name by which a pool's process of this role is registered."
  @spec via(role :: :supervisor | :runners, name :: term) :: {:via, Registry, term}
  def via(role, name), do: {:via, Registry, {__MODULE__, {role, name}}}

  @doc "The pool's process of this role."
  @spec whereis(role :: :supervisor | :runners | :server, name :: term) :: pid | nil
  def whereis(:server, name) do
    with {:ok, server, _entry} <- lookup(name), do: server, else: (:error -> nil)
  end

  def whereis(role, name), do: GenServer.whereis(via(role, name))

  @doc "The pool of the calling pool server takes calls from now on."
  @spec register(name :: term, entry) :: :ok | {:error, {:already_registered, pid}}
  def register(name, entry) do
    with {:ok, _owner} <- Registry.register(__MODULE__, {:pool, name}, entry), do: :ok
  end

  @doc "Calls find the pool of the calling pool server, which is registered, at once. `Pkcs11Pool.Slots` watches the server by now, and forgets it."
  @spec publish(name :: term, entry) :: :ok
  def publish(name, entry), do: :persistent_term.put(key(name), {self(), entry})

  @doc "The pool server changes what is known of its pool."
  @spec update(name :: term, (entry -> entry)) :: :ok
  def update(name, fun) do
    {new, old} = Registry.update_value(__MODULE__, {:pool, name}, fun)
    if new != old, do: publish(name, new), else: :ok
  end

  @doc "The server of the pool of this name has ended."
  @spec forget(name :: term, server :: pid) :: :ok
  def forget(name, server) do
    with {^server, _entry} <- :persistent_term.get(key(name), nil),
         do: :persistent_term.erase(key(name))

    :ok
  end

  @doc "Forgets what is left of an application that was stopped before."
  @spec reset() :: :ok
  def reset do
    for {{__MODULE__, _name} = key, _pool} <- :persistent_term.get(),
        do: :persistent_term.erase(key)

    :ok
  end

  defp key(name), do: {__MODULE__, name}

  @doc "The pool of this name, as long as its server lives."
  @spec lookup(name :: term) :: {:ok, pid, entry} | :error
  def lookup(name) do
    with {server, entry} <- :persistent_term.get(key(name), nil),
         true <- Process.alive?(server) do
      {:ok, server, entry}
    else
      _none -> lookup_registered(name)
    end
  end

  defp lookup_registered(name) do
    case Registry.lookup(__MODULE__, {:pool, name}) do
      # The registry forgets a dead process only when it hears of its end.
      [{server, entry}] -> if Process.alive?(server), do: {:ok, server, entry}, else: :error
      [] -> :error
    end
  rescue
    # There is no registry: the application does not run.
    ArgumentError -> :error
  end

  @doc "The same, or the error that there is no such pool."
  @spec fetch(name :: term) :: {:ok, pid, entry} | {:error, Error.t()}
  def fetch(name) do
    with :error <- lookup(name),
         :ok <- check_application(name),
         do: {:error, Error.new(:pool_not_found, pool: name)}
  end

  @doc "Whether the application runs, without which there is no pool."
  @spec check_application(name :: term) :: :ok | {:error, Error.t()}
  def check_application(name) do
    if Process.whereis(__MODULE__),
      do: :ok,
      else: {:error, Error.new(:application_not_started, pool: name)}
  end
end
