defmodule Pkcs11Pool.Native do
  @moduledoc false
  # Stubs and specs of native/nif, nothing else. None of them raises once the library is loaded, as the stack trace would have the arguments: an
  # argument that is not taken, or a panic, is the answer `{:error, {:interrupted, ...}}`, whatever else a function returns.
  @on_load :load

  @type pool :: reference
  @type runner :: reference
  @type ticket :: reference
  @type lease :: reference
  @type prepared :: reference
  @type index :: reference
  @type executor :: :dirty_io | :threads | :mixed
  @type timing :: {queue_time :: non_neg_integer, session :: non_neg_integer} | nil
  @type error ::
          {reason :: atom, code :: non_neg_integer | nil, function :: String.t() | nil,
           executed :: boolean | :unknown, details :: map}

  @doc false
  def load do
    path = :filename.join(:code.priv_dir(:pkcs11_pool), ~c"native/pkcs11_pool_nif")
    :erlang.load_nif(path, 0)
  end

  @doc "Makes a pool for the calling pool server, attached to its token or with the reason why not. Dirty IO."
  @spec pool_start(map) ::
          {:ok, pool, executor, down :: error | nil} | {:error, error}
  def pool_start(_options), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The calling process becomes a runner; `true`: it must serve at once."
  @spec runner_join(pool) :: {runner, boolean}
  def runner_join(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Runs operations until nothing waits or the budget is used up. Dirty IO."
  @spec serve(runner) :: :parked | :again | :gone
  def serve(_runner), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Starts a runner on a native thread; `false`: the system refuses one."
  @spec start_thread(pool) :: boolean
  def start_thread(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Takes an operation; its answer comes as `{tag, result}`."
  @spec submit(
          pool,
          tag :: reference | {reference, non_neg_integer},
          request :: term,
          queue_timeout :: non_neg_integer | nil
        ) ::
          ticket | {:error, error}
  def submit(_pool, _tag, _request, _queue_timeout), do: :erlang.nif_error(:nif_not_loaded)

  @doc "A key and a mechanism, as they are in a request, for many requests `{:apply, verb, prepared, input}`."
  @spec prepare(key :: term, mechanism :: term) :: prepared | {:error, error}
  def prepare(_key, _mechanism), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Whether `run_here/4` would find a session at once: a hint."
  @spec has_idle(pool) :: boolean
  def has_idle(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Runs an operation at once where a session lies idle and nothing waits, else submits it. Dirty IO."
  @spec run_here(pool, tag :: reference, request :: term, queue_timeout :: non_neg_integer | nil) ::
          {:done, result :: term, timing} | ticket | {:error, error}
  def run_here(_pool, _tag, _request, _queue_timeout), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Takes a call for a session of the caller's own, on which a request runs first; its answer comes as `{tag, result}` when the lease has one."
  @spec submit_lease(
          pool,
          tag :: reference,
          request :: term,
          queue_timeout :: non_neg_integer | nil
        ) :: {ticket, lease} | {:error, error}
  def submit_lease(_pool, _tag, _request, _queue_timeout), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Takes an operation on a lease's session; its answer comes as `{tag, result}`."
  @spec submit_within(pool, lease, tag :: reference, request :: term) :: ticket | {:error, error}
  def submit_within(_pool, _lease, _tag, _request), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The lease ends after `ms`; the pool server is told who held it, and from where it was taken."
  @spec expire_lease(lease, server :: pid, caller :: String.t(), ms :: non_neg_integer) :: :ok
  def expire_lease(_lease, _server, _caller, _ms), do: :erlang.nif_error(:nif_not_loaded)

  @spec timers() :: non_neg_integer
  def timers, do: :erlang.nif_error(:nif_not_loaded)

  @doc "The lease ends; `false`: it had ended."
  @spec end_lease(lease) :: boolean
  def end_lease(_lease), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Whether the lease still has its session."
  @spec is_lease_active(lease) :: boolean
  def is_lease_active(_lease), do: :erlang.nif_error(:nif_not_loaded)

  @doc "A slot's round robin."
  @spec new_index() :: index
  def new_index, do: :erlang.nif_error(:nif_not_loaded)

  @doc "The next of `0..size-1`."
  @spec next_index(index, size :: pos_integer) :: non_neg_integer
  def next_index(_index, _size), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Where an operation is; `ms` is how long it has been running."
  @spec progress(ticket) :: :queued | {:running, ms :: non_neg_integer} | :over
  def progress(_ticket), do: :erlang.nif_error(:nif_not_loaded)

  @doc "How long an operation waited, in nanoseconds, and the number of its session (0: it needs none), once it has started."
  @spec timing(ticket) :: timing
  def timing(_ticket), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Gives an operation up, while it waits or (`running`) in any case. `:answered`: its answer comes."
  @spec abandon(ticket, running :: boolean) ::
          :before_start
          | {:while_running, ms :: non_neg_integer}
          | {:still_running, ms :: non_neg_integer}
          | :answered
  def abandon(_ticket, _running), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The PIN for an attempt at a login, or a sentence about why there is none, with the source's own word for it."
  @spec provide_pin(
          pool,
          attempt :: non_neg_integer,
          {:ok, binary} | {:error, String.t(), String.t() | nil}
        ) ::
          :ok | {:error, error}
  def provide_pin(_pool, _attempt, _pin), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Logs in with this PIN; its answer comes as `{tag, result}`."
  @spec login(
          pool,
          tag :: reference,
          pin :: binary | nil,
          force :: boolean,
          queue_timeout :: non_neg_integer | nil
        ) :: ticket | {:error, error}
  def login(_pool, _tag, _pin, _force, _queue_timeout), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Logs out; its answer comes as `{tag, result}`."
  @spec logout(pool, tag :: reference, force :: boolean, queue_timeout :: non_neg_integer | nil) ::
          ticket | {:error, error}
  def logout(_pool, _tag, _force, _queue_timeout), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Finalizes and initializes the pool's module again, on a thread of its own; its answer comes as `{tag, result}`."
  @spec reload(pool, tag :: reference, queue_timeout :: non_neg_integer | nil) :: ticket
  def reload(_pool, _tag, _queue_timeout), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The content of a file with a PIN, and who may read it; with `any` it may be anybody. Dirty IO."
  @spec read_pin_file(path :: binary, any :: boolean) ::
          {:ok, binary, :owner | :read_only_mount | :mount_of_root | :any}
          | {:error,
             :not_regular | :too_large | :readable | :writable | :file.posix() | :unknown | error}
  def read_pin_file(_path, _any), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Makes a token, or sets a PIN. Dirty IO."
  @spec provision(map, tuple) :: :ok | {:error, error}
  def provision(_slot, _what), do: :erlang.nif_error(:nif_not_loaded)

  @doc "What a module says of itself, its slots and tokens. Dirty IO, for no longer than the map's `:timeout`."
  @spec read_module(map) :: {:ok, map} | {:error, error} | :timeout
  def read_module(_module), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Loads a module, without `C_Initialize`. Dirty IO."
  @spec load_module(map) :: :ok | {:error, error}
  def load_module(_module), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Loads and initializes a module; it stays so until `release_module/1`, or until the reference is gone. Dirty IO."
  @spec hold_module(map) :: {:ok, reference} | {:error, error}
  def hold_module(_module), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Gives up a module; it is finalized if nobody else uses it. Dirty IO."
  @spec release_module(reference) :: :ok
  def release_module(_held), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Time passes: surplus sessions close, a pool that was not used for long logs out, calls are found to hang. The ceiling."
  @spec tick(pool) :: ceiling :: pos_integer
  def tick(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "How many of the VM's dirty-IO schedulers the pool may occupy, and all others."
  @spec occupied_schedulers(pool) :: {own :: non_neg_integer, others :: non_neg_integer}
  def occupied_schedulers(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "How many runners are missing: processes, and native threads."
  @spec vacancies(pool) :: {processes :: non_neg_integer, threads :: non_neg_integer}
  def vacancies(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Grows or shrinks."
  @spec resize(pool, size :: pos_integer, dirty_io_schedulers :: pos_integer) :: executor
  def resize(_pool, _size, _dirty_io_schedulers), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The pool takes nothing any more: what waits is answered, what is idle closed, what runs goes on."
  @spec drain(pool) :: :ok
  def drain(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Sessions that a draining pool has yet to close."
  @spec left(pool) :: non_neg_integer
  def left(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Those of them for which it is worth waiting: they are in no call that hangs."
  @spec pending(pool) :: non_neg_integer
  def pending(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Answers what still runs in a drained pool."
  @spec give_up(pool) :: :ok
  def give_up(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Forgets every key's handle."
  @spec forget_keys(pool) :: :ok
  def forget_keys(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "How many operations wait, or nil while the pool drains or has trouble with its token."
  @spec load(pool) :: non_neg_integer | nil
  def load(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The identity of the pool's token, as `Pkcs11Pool.Object` has it, or nil while it has none."
  @spec token_identity(pool) :: binary | nil
  def token_identity(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Those counters of the snapshot that errors have, at little cost: `:size`, `:idle`, `:running`, `:waiting`, `:hung`."
  @spec counts(pool) :: %{atom => non_neg_integer}
  def counts(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "One snapshot of the counters."
  @spec status(pool) :: map
  def status(_pool), do: :erlang.nif_error(:nif_not_loaded)

  @doc "SIGINT, SIGTERM and SIGHUP are counted from now on: no BREAK menu, no end."
  @spec trap_interrupts() :: :ok
  def trap_interrupts, do: :erlang.nif_error(:nif_not_loaded)

  @doc "They are the VM's again."
  @spec release_interrupts() :: :ok
  def release_interrupts, do: :erlang.nif_error(:nif_not_loaded)

  @doc "How often they came while they were counted."
  @spec interrupts() :: non_neg_integer
  def interrupts, do: :erlang.nif_error(:nif_not_loaded)
end
