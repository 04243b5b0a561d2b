defmodule Pkcs11Pool.Bench.Target do
  @moduledoc false
  # The user's token, and pools on it: one for each window, such as the user would start, under a supervisor of the run's own.

  alias Pkcs11Pool.Bench.Options
  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Error.Text

  @ready_timeout 120_000
  @stop_timeout 5_000

  @enforce_keys [:supervisor, :options]
  defstruct [:supervisor, :options]

  @type t :: %__MODULE__{supervisor: pid, options: Options.t()}

  @doc "Nothing is loaded yet."
  @spec new(Options.t()) :: t
  def new(options) do
    {:ok, supervisor} = DynamicSupervisor.start_link(max_restarts: 0)
    %__MODULE__{supervisor: supervisor, options: options}
  end

  @doc """
  Loads the module. From now on a pool without a session keeps it initialized: else each window's pool would initialize it anew.
  """
  @spec open(t) :: :ok | {:error, Error.t()}
  def open(target) do
    # A thread, so that it takes no dirty-IO scheduler from the pools that are measured.
    with {:ok, _name} <- start(target, pool_size: 1, executor: :threads), do: :ok
  end

  @doc "What `fun` returns of a new pool that is logged in; the pool is stopped afterwards, and its sessions are closed."
  @spec with_pool(t, keyword, (pool :: term -> result)) :: result | {:error, Error.t()}
        when result: term
  def with_pool(target, overrides, fun) do
    with {:ok, name} <- start(target, overrides) do
      try do
        with :ok <- Pkcs11Pool.await_ready(name, @ready_timeout), do: fun.(name)
      after
        stop_pool(target, name)
      end
    end
  end

  @doc "Stops the pools and closes all sessions. The module stays loaded; `open/1` may follow."
  @spec close(t) :: :ok
  def close(target) do
    for {_id, pool, _type, _modules} <- DynamicSupervisor.which_children(target.supervisor),
        is_pid(pool),
        do: DynamicSupervisor.terminate_child(target.supervisor, pool)

    :ok
  end

  @doc "The end of it; what hangs in the module is not waited for."
  @spec stop(t) :: :ok
  def stop(target) do
    Supervisor.stop(target.supervisor, :normal, @stop_timeout)
  catch
    :exit, _hangs -> :ok
  end

  defp start(target, overrides) do
    name = {__MODULE__, make_ref()}
    spec = Pkcs11Pool.child_spec(pool(target.options, [{:name, name} | overrides]))

    case DynamicSupervisor.start_child(target.supervisor, Map.put(spec, :restart, :temporary)) do
      {:ok, _supervisor} -> {:ok, name}
      {:error, %Error{} = error} -> {:error, error}
    end
  end

  defp pool(options, overrides) do
    given = [
      module: options.module,
      module_env: options.module_env,
      module_args: options.module_args,
      module_sha256: options.module_sha256,
      slot: options.slot,
      pin: options.pin,
      # What waits is what is measured.
      queue_timeout: :infinity,
      max_waiting: 100_000,
      # No session is opened but for whom asks for it here.
      lazy: true
    ]

    given |> Enum.reject(fn {_name, value} -> value == nil end) |> Keyword.merge(overrides)
  end

  defp stop_pool(target, name) do
    case Pkcs11Pool.Registry.whereis(:supervisor, name) do
      nil -> :ok
      pool -> DynamicSupervisor.terminate_child(target.supervisor, pool)
    end
  end

  @doc "What went wrong, by the names of the task's arguments, and what to do."
  @spec explain(Error.t(), Options.t()) :: String.t()
  def explain(%Error{reason: :pin_incorrect}, options) do
    "#{options.pin_option}: the token refused the PIN. That used up one of its tries, and it was not tried again. Make sure of the PIN " <>
      "before the next run: most tokens lock it after a few wrong ones"
  end

  def explain(%Error{reason: reason} = error, options)
      when reason in [:pin_invalid, :pin_len_range, :pin_expired, :pin_locked] do
    "#{options.pin_option}: #{what(error)}. The token was asked once, and not again"
  end

  def explain(%Error{reason: :pin_final_try}, options) do
    "#{options.pin_option}: the token says that one more wrong PIN would lock it, so none was tried. Log in once with your vendor's own tool " <>
      "and the right PIN, then run this again"
  end

  def explain(%Error{reason: :pin_source_failed} = error, options),
    do: "#{options.pin_option}: #{what(error)}"

  def explain(%Error{reason: reason}, options)
      when reason in [:pin_required, :user_not_logged_in],
      do: "#{options.pin_option}: the token wants a login for this: give --pin-env or --pin-file"

  def explain(%Error{reason: reason} = error, options)
      when reason in [:slot_not_found, :ambiguous_slot],
      do: "#{options.slot_option}: #{what(error)}"

  def explain(%Error{reason: :module_digest_mismatch} = error, _options),
    do: "--module-sha256: #{what(error)}"

  def explain(%Error{reason: :module_load_failed} = error, _options),
    do: "--module: #{what(error)}"

  def explain(error, _options), do: what(error)

  # The sentence on what happened, without the pool, which the user does not know, and the remedies of a pool's options.
  defp what(error), do: elem(Text.parts(%{error | pool: nil}), 0)
end
