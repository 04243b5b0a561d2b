defmodule Pkcs11Pool.Testing.Chaos do
  @moduledoc ~S"""
  A PKCS#11 module for tests, which wraps a real module and misbehaves on command.

  With it, `mix test` shows how your application behaves when its HSM is slow, full, hung or
  unplugged, or is in another slot. Any module can be wrapped; SoftHSM is the usual one.

      defmodule MyApp.PaymentsTest do
        use ExUnit.Case, async: true

        alias Pkcs11Pool.Testing.Chaos

        # A token for each test, behind a chaos module, and a pool on it.
        setup do: Pkcs11Pool.Testing.start_pool!(keys: [signing: :p256], chaos: true)

        test "a slow HSM delays a signature, and does not lose it", %{pool: pool, chaos: chaos} do
          Chaos.latency(chaos, :C_Sign, 100..200)
          digest = :crypto.hash(:sha256, "payment")
          assert {:ok, signature} = Pkcs11Pool.sign(pool, "signing", :ecdsa, digest)
          assert :ok = Pkcs11Pool.verify(pool, "signing", :ecdsa, digest, signature)
          assert Chaos.calls(chaos, :C_Sign) == 1
        end

        test "a signature fails while the HSM is away, and works later", %{pool: pool, chaos: chaos} do
          digest = :crypto.hash(:sha256, "payment")
          Chaos.remove_token(chaos)
          assert {:error, %Pkcs11Pool.Error{}} = Pkcs11Pool.sign(pool, "signing", :ecdsa, digest)
          Chaos.return_token(chaos, slot_id: 77)
          # The pool looks for it now and then.
          assert :ok = Pkcs11Pool.await_ready(pool, 30_000)
          assert {:ok, _signature} = Pkcs11Pool.sign(pool, "signing", :ecdsa, digest)
          assert Chaos.violations(chaos) == []
        end
      end

  Each `start!/2` makes a new module around a copy of the real one. It has its own
  `C_Initialize`, sessions, login, counts and rules, so that tests can run at the same time.

  You can give commands as soon as `start!/2` has returned. Commands that come before the pool has loaded the module take effect
  when it is loaded, so that you can start a pool on a token that is away. Commands also work while calls hang, and
  whether or not the module is initialized.

  If the real module has PKCS#11 3.0 or 3.2, so has this one, and all commands work on those functions, too (`:C_EncapsulateKey`, `:C_SessionCancel`).

  *Functions* are atoms (`:C_Sign`), strings, or `:all`. *Codes* are names of
  `Pkcs11Pool.ReturnCode` (`:device_error`) or numbers. *Times* are milliseconds; they may be
  fractions, and are 71 minutes at most.

  Unlike SoftHSM, and like real tokens, the module counts wrong PINs: the third one in a row locks the PIN,
  see `pin_limit/2`. It also notices wrong use on which real modules crash. It answers that with an error,
  and does not pass it on to the real module, see `violations/1`.

  A chaos module is for tests: everybody who may use its folder can give it commands. Its library is built when your
  project is compiled in `:dev` or `:test`, and is no part of a release. To have it elsewhere, in a
  release too, set `PKCS11_POOL_CHAOS=1` when this application is compiled; `PKCS11_POOL_CHAOS=0`: never.
  """

  import Pkcs11Pool.Testing.Chaos.Arguments

  alias Pkcs11Pool.Testing.Chaos.{Control, Files}

  @enforce_keys [:module, :module_env, :dir, :socket, :init]
  defstruct @enforce_keys

  @typedoc "A chaos module. `:module` and `:module_env` are the pool's options of these names."
  @type t :: %__MODULE__{
          module: Path.t(),
          module_env: %{String.t() => String.t()},
          dir: Path.t(),
          socket: Path.t(),
          init: Path.t()
        }

  @typedoc "A C function, or all of them."
  @type function_name :: atom | String.t() | :all

  @typedoc "A return code."
  @type code :: atom | non_neg_integer

  @typedoc "Milliseconds: fixed, or at random between two bounds."
  @type time :: number | Range.t()

  @typedoc """
  Which calls of a function, counted from now:

    * `:nth` - the first call, by default 1
    * `:count` - how many calls; by default one if `:nth` is given, otherwise all
    * `:probability` - each of these calls with this probability, from 0.0 to 1.0
  """
  @type which :: {:nth, pos_integer} | {:count, pos_integer} | {:probability, float}

  ## The module

  @doc """
  Makes a chaos module around a real one.

  Options:

    * `:module_env` - variables that the real module needs, such as `SOFTHSM2_CONF`
    * `:copy` - `true` (the default): wrap a copy of the real module, so that it has its own `C_Initialize`, sessions and
      login. `false`: wrap the file itself, for a vendor's module that does not work from another folder. Then
      nothing else in the VM may use that file, neither a pool nor a second chaos module: they
      would share it, and the first `C_Finalize` would crash the VM during the other one's calls
    * `:tmp_dir` - where its folder is made, by default `System.tmp_dir!/0`
  """
  @spec start!(Path.t(), [
          {:module_env, map} | {:copy, boolean} | {:tmp_dir, Path.t()}
        ]) :: t
  def start!(real_module, opts \\ []) do
    opts = Keyword.validate!(opts, module_env: %{}, copy: true, tmp_dir: System.tmp_dir!())
    unless File.regular?(real_module), do: raise(ArgumentError, "there is no #{real_module}")
    struct!(__MODULE__, Files.make!(Path.expand(real_module), opts))
  end

  @doc """
  Undoes all commands (`reset/1`) and removes the module's folder. Call it after the pool has stopped. The
  library stays loaded in the VM, which does no harm, and takes no more commands.
  """
  @spec stop(t) :: :ok
  def stop(%__MODULE__{} = chaos) do
    Control.ask(chaos, ["reset"])
    File.rm_rf!(chaos.dir)
    :ok
  end

  @doc """
  Undoes all commands: there are no rules and no limits, the token is back in its own slot, all PIN tries are
  available, and the counts are zero. Hanging calls go on. Sessions, handles and the login that were lost stay lost.
  """
  @spec reset(t) :: :ok
  def reset(%__MODULE__{} = chaos), do: Control.command!(chaos, ["reset"])

  ## Functions

  @doc """
  Makes each call of a function take this much longer; 0 undoes it.

  Calls that only ask for a size are not delayed, see `size_query_latency/2`.
  """
  @spec latency(t, function_name, time) :: :ok
  def latency(%__MODULE__{} = chaos, function, time) do
    Control.command!(chaos, ["latency", Control.function!(function) | micros!(time)])
  end

  @doc """
  Makes each call that only asks how long an answer will be (`C_Sign` and similar functions without a
  buffer) take this long, as with an HSM on the network.
  """
  @spec size_query_latency(t, time) :: :ok
  def size_query_latency(%__MODULE__{} = chaos, time) do
    Control.command!(chaos, ["size_query" | micros!(time)])
  end

  @doc """
  Makes calls of a function answer with a return code *instead of* calling the real module. With
  `run: true` the real module is called first, so that the operation ran, and the caller does not know it.

      Chaos.fail(chaos, :C_Sign, :device_error)                    # all calls
      Chaos.fail(chaos, :C_Sign, :device_error, count: 1)          # the next one
      Chaos.fail(chaos, :C_Sign, :device_error, nth: 3)            # the third one from now
      Chaos.fail(chaos, :all, :general_error, probability: 0.01)
      Chaos.fail(chaos, :C_Login, 0x80000123, count: 1, run: true)
  """
  @spec fail(t, function_name, code, [which | {:run, boolean}]) :: :ok
  def fail(%__MODULE__{} = chaos, function, code, opts \\ []) do
    opts = Keyword.validate!(opts, [:nth, :count, :probability, :run])
    Control.command!(chaos, ["fail", Control.function!(function), code!(code) | options(opts)])
  end

  @doc "Makes calls of a function hang until `release/2`, before they reach the real module."
  @spec hang(t, function_name, [which]) :: :ok
  def hang(%__MODULE__{} = chaos, function, opts \\ []) do
    opts = Keyword.validate!(opts, [:nth, :count, :probability])
    Control.command!(chaos, ["hang", Control.function!(function) | options(opts)])
  end

  @doc """
  Lets hanging calls go on into the real module, and undoes `hang/3`.

  Options: `:function`, by default `:all`; `:code`, a return code that the calls answer instead.
  """
  @spec release(t, [{:function, function_name} | {:code, code}]) :: :ok
  def release(%__MODULE__{} = chaos, opts \\ []) do
    opts = Keyword.validate!(opts, [:code, function: :all])
    code = if opts[:code], do: options(code: code!(opts[:code])), else: []
    Control.command!(chaos, ["release", Control.function!(opts[:function]) | code])
  end

  @doc """
  Makes a function answer this count, whatever it has written, like a module with a bug.

  The function is `:C_GetSlotList`, `:C_GetMechanismList`, `:C_FindObjects`, `:C_GetAttributeValue`
  (the length of each attribute), or `:C_GetObjectSize` (the size, which SoftHSM does not tell). `clear/2` undoes it.
  """
  @spec answer_count(t, atom | String.t(), pos_integer) :: :ok
  def answer_count(%__MODULE__{} = chaos, function, count) do
    function = Control.function!(function)

    unless function in ~w(C_GetSlotList C_GetMechanismList C_FindObjects C_GetAttributeValue
                         C_GetObjectSize),
      do: raise(ArgumentError, "#{function} answers no count that could be another")

    Control.command!(chaos, ["count", function, option!(:count, count)])
  end

  @doc """
  Makes `C_FindObjects` find one object again and again, without end, like a module with a bug. `false` undoes it.
  """
  @spec endless_search(t, boolean) :: :ok
  def endless_search(%__MODULE__{} = chaos, endless?) when is_boolean(endless?),
    do: Control.command!(chaos, ["endless_search", on_or_off(endless?)])

  @doc """
  Makes the module refuse to describe an object that it finds: `C_GetAttributeValue` answers `code` for it, as
  SoftHSM does for a key that a failed `C_GenerateKey` left behind. `:ok` as the code undoes it.

  Options: `:attributes`, by default all; `:count`, how many calls are refused, by default all.
  """
  @spec refuse_attributes(t, Pkcs11Pool.Object.t(), code, [
          {:attributes, [Pkcs11Pool.Template.name()]} | {:count, pos_integer}
        ]) :: :ok
  def refuse_attributes(%__MODULE__{} = chaos, %Pkcs11Pool.Object{} = object, code, opts \\ []) do
    opts = Keyword.validate!(opts, [:count, attributes: []])
    kinds = Enum.map_join(opts[:attributes], ",", &to_string(Pkcs11Pool.Template.name!(&1)))
    kinds = if kinds != "", do: ["kinds=" <> kinds], else: []
    words = ["refuse_attributes", to_string(object.handle), code!(code)]
    Control.command!(chaos, words ++ kinds ++ options(count: opts[:count]))
  end

  @doc """
  Whether public and private keys have a `CKA_UNIQUE_ID`, which SoftHSM 2.6 lacks; by default `:off`.

    * `:on` - each has its own, keeps it, and is found by it
    * `:refused` - the same, but a search for it is answered with `CKR_ATTRIBUTE_TYPE_INVALID`
    * `:ignored` - the same, but a search ignores it, and so finds other keys, too
    * `:same` - all have the same one, and are found by it
    * `:empty` - all have an empty one

  The id is kept in the key's `CKA_SUBJECT` if that is empty. So it is made when it is first read, with a read-write session.
  """
  @spec unique_ids(t, :on | :off | :refused | :ignored | :same | :empty) :: :ok
  def unique_ids(%__MODULE__{} = chaos, mode)
      when mode in [:on, :off, :refused, :ignored, :same, :empty],
      do: Control.command!(chaos, ["unique_ids", mode])

  @doc """
  Aborts the VM in a call of a function: for tests that start another VM.
  """
  @spec crash(t, function_name, [which]) :: :ok
  def crash(%__MODULE__{} = chaos, function, opts \\ []) do
    opts = Keyword.validate!(opts, [:nth, :count, :probability])
    Control.command!(chaos, ["crash", Control.function!(function) | options(opts)])
  end

  @doc """
  Undoes `latency/3`, `fail/4`, `hang/3`, `answer_count/3` and `crash/3` of a function, and lets its hanging calls
  go on.
  """
  @spec clear(t, function_name) :: :ok
  def clear(%__MODULE__{} = chaos, function) do
    Control.command!(chaos, ["clear", Control.function!(function)])
  end

  @doc "Sets the seed of the random numbers, so that a run can be repeated."
  @spec seed(t, non_neg_integer) :: :ok
  def seed(%__MODULE__{} = chaos, seed),
    do: Control.command!(chaos, ["seed", option!(:seed, seed)])

  ## Sessions, objects, login

  @doc """
  The most sessions that may be open; for more, `C_OpenSession` answers `CKR_SESSION_COUNT`. `:infinity`: as many as the
  real module allows.
  """
  @spec session_limit(t, non_neg_integer | :infinity) :: :ok
  def session_limit(%__MODULE__{} = chaos, limit) do
    Control.command!(chaos, ["session_limit", session_limit!(limit)])
  end

  @doc """
  A session dies if the device is not called on it for longer than this, as on a token that drops
  idle sessions; `:infinity` undoes it. `C_GetSessionInfo` does not reach the device, and so
  still says that the session is alive. The next call that reaches the device answers
  `CKR_SESSION_HANDLE_INVALID`.
  """
  @spec session_idle_limit(t, number | :infinity) :: :ok
  def session_idle_limit(%__MODULE__{} = chaos, limit) do
    Control.command!(chaos, [
      "session_idle_limit",
      if(limit == :infinity, do: "off", else: hd(micros!(limit)))
    ])
  end

  @doc """
  Closes all sessions without telling the application: calls with their handles answer
  `CKR_SESSION_HANDLE_INVALID`. A session that is in use dies, too, and its call answers the same. As
  always, the login ends with the last session.
  """
  @spec kill_sessions(t) :: :ok
  def kill_sessions(%__MODULE__{} = chaos), do: Control.command!(chaos, ["kill_sessions"])

  @doc """
  Whether the number of a session that has ended is given to the next session that is opened, as in many modules:
  after `kill_sessions/1`, a number that the application still uses may belong to
  another session. Each call looks up its session after the latency of its function, not before.

  Options: `:objects`, `false` by default. With `true`, `kill_sessions/1` makes the handles of objects invalid, too, and their
  numbers are given out again in the order in which objects are found then. After `kill_sessions/1` or `invalidate_objects/1`, a new object gets the number of
  one that was destroyed.
  """
  @spec reuse_handles(t, boolean, [{:objects, boolean}]) :: :ok
  def reuse_handles(%__MODULE__{} = chaos, reuse? \\ true, opts \\ []) when is_boolean(reuse?) do
    opts = Keyword.validate!(opts, objects: false)
    Control.command!(chaos, ["reuse_handles", on_or_off(reuse?) | options(opts)])
  end

  @doc """
  Whether a second Init call on a session (`C_SignInit` and its like) ends the operation that is active there,
  as in modules that do not answer `CKR_OPERATION_ACTIVE`.
  """
  @spec replace_operations(t, boolean) :: :ok
  def replace_operations(%__MODULE__{} = chaos, replace? \\ true) when is_boolean(replace?) do
    Control.command!(chaos, ["replace_operations", on_or_off(replace?)])
  end

  @doc """
  Makes all handles of objects and keys invalid (`CKR_KEY_HANDLE_INVALID`,
  `CKR_OBJECT_HANDLE_INVALID`). When an object is found again, it has another handle.
  """
  @spec invalidate_objects(t) :: :ok
  def invalidate_objects(%__MODULE__{} = chaos),
    do: Control.command!(chaos, ["invalidate_objects"])

  @doc """
  The device fails, and the library does not notice, as with a group of network HSMs whose members
  are all lost. `C_GetSessionInfo`, `C_GetTokenInfo`, `C_GetSlotInfo`, `C_GetSlotList` and
  `C_GetInfo` still answer from the library's own state. Every other call answers `code`,
  `C_Login` and `C_OpenSession` included, until the application has called `C_Finalize` and
  `C_Initialize`. No PIN is tried meanwhile. `:ok` as the code ends it.

  Options: `:spare`, a list of functions that work all the same; `:until`: with `:initialized`, the default, `C_Initialize`
  ends the trouble; with `:told`, only this function with `:ok` does.
  """
  @spec device_trouble(t, code, [
          {:spare, [function_name]} | {:until, :initialized | :told}
        ]) :: :ok
  def device_trouble(chaos, code, opts \\ [])

  def device_trouble(%__MODULE__{} = chaos, :ok, []),
    do: Control.command!(chaos, ["device_trouble", "off"])

  def device_trouble(%__MODULE__{} = chaos, code, opts) do
    opts = Keyword.validate!(opts, spare: [], until: :initialized)

    unless opts[:until] in [:initialized, :told] do
      raise ArgumentError,
            "expected :until to be :initialized or :told, got: #{inspect(opts[:until])}"
    end

    spare = Enum.map_join(opts[:spare], ",", &Control.function!/1)
    spare = if spare != "", do: ["spare=" <> spare], else: []
    until = if opts[:until] == :told, do: ["until=told"], else: []
    Control.command!(chaos, ["device_trouble", code!(code)] ++ spare ++ until)
  end

  @doc """
  Hides all objects, as in a module that reads its keys when it is initialized, or whose token lost them for a while:
  nothing is found, and all handles are invalid, until the application has called `C_Finalize` and
  `C_Initialize`.
  """
  @spec hide_objects(t) :: :ok
  def hide_objects(%__MODULE__{} = chaos), do: Control.command!(chaos, ["hide_objects"])

  @doc """
  Makes a real `C_Logout` without telling the application. Raises if no session is open, since then nobody
  is logged in.
  """
  @spec logout(t) :: :ok
  def logout(%__MODULE__{} = chaos) do
    _nothing = Control.ask!(chaos, ["logout"])
    :ok
  end

  ## The token

  @doc """
  Takes the token away: it is no longer listed, and its sessions, also those in use, answer `:code` (by default
  `:device_removed`). Handles and the login are lost. The slot answers
  `CKR_TOKEN_NOT_PRESENT`.

  Options: `:slot_id`, the slot of the token, by default all tokens; `:code`.
  """
  @spec remove_token(t, [{:slot_id, non_neg_integer} | {:code, code}]) :: :ok
  def remove_token(%__MODULE__{} = chaos, opts \\ []) do
    opts = Keyword.validate!(opts, [:slot_id, code: :device_removed])

    Control.command!(chaos, [
      "remove_token" | options(slot_id: opts[:slot_id], code: code!(opts[:code]))
    ])
  end

  @doc """
  Brings the token back, logged out and without sessions.

  Options: `:slot_id`, its new slot, by default the one that it had. If `remove_token/2` took all
  tokens away, the new slot is for the token on which a session was last opened, or for the token that was in slot
  `:from`.
  """
  @spec return_token(t, [{:slot_id, non_neg_integer} | {:from, non_neg_integer}]) :: :ok
  def return_token(%__MODULE__{} = chaos, opts \\ []) do
    opts = Keyword.validate!(opts, [:slot_id, :from])

    Control.command!(chaos, ["return_token" | options(slot_id: opts[:slot_id], from: opts[:from])])
  end

  @doc """
  Exchanges the tokens of two slots without telling the application, as when cards are put
  back into the wrong readers. Sessions stay with their tokens.
  """
  @spec swap_slots(t, non_neg_integer, non_neg_integer) :: :ok
  def swap_slots(%__MODULE__{} = chaos, one, other) do
    ids = for slot_id <- [one, other], do: option!(:slot_id, slot_id)
    Control.command!(chaos, ["swap_slots" | ids])
  end

  @doc """
  Whether slots are readers from which tokens can be taken out (`CKF_REMOVABLE_DEVICE`), and the module reports
  what `remove_token/2` and `return_token/2` do (`C_WaitForSlotEvent`). SoftHSM's slots are not.
  """
  @spec slot_events(t, boolean) :: :ok
  def slot_events(%__MODULE__{} = chaos, slot_events? \\ true) when is_boolean(slot_events?) do
    Control.command!(chaos, ["slot_events", on_or_off(slot_events?)])
  end

  @doc """
  Whether slots and tokens have malformed descriptions, as in some modules: texts that end with a zero
  byte and junk or are not UTF-8, an invalid time, counts and sizes that are not available.
  """
  @spec malformed_info(t, boolean) :: :ok
  def malformed_info(%__MODULE__{} = chaos, malformed? \\ true) when is_boolean(malformed?) do
    Control.command!(chaos, ["malformed_info", on_or_off(malformed?)])
  end

  @doc """
  Flags that `C_GetTokenInfo` shows or hides: `set: [:write_protected]`, `clear:
  [:login_required]`; names as in PKCS#11 in lower case without `CKF_`, or numbers. Replaces the flags
  of an earlier call. A token that is `:write_protected` opens only read-only sessions.
  """
  @spec token_flags(t, [{:set, [atom | non_neg_integer]} | {:clear, [atom | non_neg_integer]}]) ::
          :ok
  def token_flags(%__MODULE__{} = chaos, opts) do
    opts = Keyword.validate!(opts, set: [], clear: [])
    Control.command!(chaos, ["token_flags", flags!(opts[:set]), flags!(opts[:clear])])
  end

  @doc """
  How many wrong PINs in a row lock the token, 3 by default; `:infinity`: it is never locked.

  A PIN is wrong if the real module answers `CKR_PIN_INCORRECT`. A right PIN sets the
  count back. The token's flags show the count (`CKF_USER_PIN_COUNT_LOW`, `_FINAL_TRY`,
  `_LOCKED`). A locked token answers `CKR_PIN_LOCKED`, and the real module is not called.
  """
  @spec pin_limit(t, pos_integer | :infinity) :: :ok
  def pin_limit(%__MODULE__{} = chaos, limit) do
    Control.command!(chaos, ["pin_limit", pin_limit!(limit)])
  end

  @doc """
  How many more wrong PINs of the user, or of the security officer (`:so`), the token accepts before it locks. The
  module must have been loaded.
  """
  @spec pin_tries(t, :user | :so) :: non_neg_integer | :infinity
  def pin_tries(%__MODULE__{} = chaos, owner \\ :user) when owner in [:user, :so] do
    case Control.ask!(chaos, ["pin_tries", owner]) do
      "off" -> :infinity
      number -> String.to_integer(number)
    end
  end

  ## The module as a whole

  @doc """
  The module loses its initialization, as after a failover of a network HSM: every call answers `CKR_CRYPTOKI_NOT_INITIALIZED` until
  the application calls `C_Initialize` again. Sessions, handles and the login are lost.
  """
  @spec uninitialize(t) :: :ok
  def uninitialize(%__MODULE__{} = chaos), do: Control.command!(chaos, ["uninitialize"])

  @doc """
  Whether the module cannot lock: `C_Initialize` answers `CKR_CANT_LOCK` to an application with
  threads. If an application initializes it without threads, two calls at the same time are a violation, see `violations/1`.
  """
  @spec cant_lock(t, boolean) :: :ok
  def cant_lock(%__MODULE__{} = chaos, cant_lock? \\ true) when is_boolean(cant_lock?) do
    Control.command!(chaos, ["cant_lock", on_or_off(cant_lock?)])
  end

  @doc """
  Whether the token makes the IVs of AES-GCM by itself, as HSMs in FIPS mode do: `C_EncryptInit`
  overwrites the IV that it is given.
  """
  @spec make_iv(t, boolean) :: :ok
  def make_iv(%__MODULE__{} = chaos, make_iv? \\ true) when is_boolean(make_iv?) do
    Control.command!(chaos, ["make_iv", on_or_off(make_iv?)])
  end

  @doc """
  Whether the token offers AES-GCM, AES-CCM and ChaCha20-Poly1305 by messages only (PKCS#11 3.0): `C_EncryptInit` and `C_DecryptInit` refuse them, and `C_GetMechanismInfo` says so. The
  real module must have the message functions.
  """
  @spec messages_only(t, boolean) :: :ok
  def messages_only(%__MODULE__{} = chaos, messages_only? \\ true)
      when is_boolean(messages_only?) do
    Control.command!(chaos, ["messages_only", on_or_off(messages_only?)])
  end

  @doc """
  Whether the token returns plaintext before it has verified the tag at the end (AES-GCM), as some tokens do. If the real module keeps the data until the
  end, `C_DecryptUpdate` returns as many bytes as it was given. These bytes are not the plaintext.
  """
  @spec early_plaintext(t, boolean) :: :ok
  def early_plaintext(%__MODULE__{} = chaos, early? \\ true) when is_boolean(early?) do
    Control.command!(chaos, ["early_plaintext", on_or_off(early?)])
  end

  @doc """
  What a function says about the length of its output when it succeeds. `true`: the right length. `:kept`: the length of the buffer that
  it was given, as opencryptoki 3.23 does for OFB and CFB. `:exceeded`: one byte more than that.
  """
  @spec told_size(t, function_name, :kept | :exceeded | true) :: :ok
  def told_size(%__MODULE__{} = chaos, function, told) when told in [:kept, :exceeded, true] do
    Control.command!(chaos, ["told_size", Control.function!(function), Atom.to_string(told)])
  end

  @doc """
  `C_Verify` reads this many bytes as the signature, whatever length it is given, and so reads beyond a shorter one, as opencryptoki
  3.23 does with MACs. `nil` undoes it.
  """
  @spec signature_size(t, pos_integer | nil) :: :ok
  def signature_size(%__MODULE__{} = chaos, size) when is_nil(size) or size > 0 do
    size = if size, do: option!(:signature_size, size), else: "off"
    Control.command!(chaos, ["signature_size", size])
  end

  @doc """
  How many random bytes `C_GenerateRandom` makes in one call; for fewer or more it answers `CKR_ARGUMENTS_BAD`. `8..1024` are the limits
  of Google's kmsp11, `1..65_536` those of NSS. `:infinity`: the limits of the real module.
  """
  @spec random_limits(t, Range.t() | :infinity) :: :ok
  def random_limits(%__MODULE__{} = chaos, :infinity),
    do: Control.command!(chaos, ["random_limits", "off"])

  def random_limits(%__MODULE__{} = chaos, %Range{first: min, last: max}) when min <= max do
    limits = for bytes <- [min, max], do: option!(:random_limits, bytes)
    Control.command!(chaos, ["random_limits" | limits])
  end

  ## What was seen

  @doc "How often each function was called, `%{\"C_Sign\" => 3}`, refused calls included."
  @spec calls(t) :: %{String.t() => pos_integer}
  def calls(%__MODULE__{} = chaos), do: Control.counts(chaos, "calls")

  @doc "How often one function was called."
  @spec calls(t, atom | String.t()) :: non_neg_integer
  def calls(%__MODULE__{} = chaos, function) do
    Map.get(calls(chaos), Control.function!(function), 0)
  end

  @doc "How often each function was called only to ask for a size; `calls/1` counts them, too."
  @spec size_queries(t) :: %{String.t() => pos_integer}
  def size_queries(%__MODULE__{} = chaos), do: Control.counts(chaos, "size_queries")

  @doc "How many threads are in each function now."
  @spec inside(t) :: %{String.t() => pos_integer}
  def inside(%__MODULE__{} = chaos), do: Control.counts(chaos, "inside")

  @doc "How many calls of each function hang now, see `hang/3`."
  @spec hanging(t) :: %{String.t() => pos_integer}
  def hanging(%__MODULE__{} = chaos), do: Control.counts(chaos, "hanging")

  @doc """
  What the application did that PKCS#11 does not allow, and that may crash real modules, in words:
  `C_Finalize` while a thread is inside; two threads that use one session at the same time (the second one waits
  for the first, as in a module that has a lock for each session); two threads at the same time in a module that
  cannot lock. End a test with `assert Chaos.violations(chaos) ==
  []`.
  """
  @spec violations(t) :: [String.t()]
  def violations(%__MODULE__{} = chaos) do
    case Control.ask(chaos, ["violations"]) do
      :not_loaded ->
        []

      {:ok, answer} ->
        [number | texts] = String.split(answer, "\t")

        case String.to_integer(number) - length(texts) do
          0 -> texts
          more -> texts ++ ["and #{more} more"]
        end
    end
  end

  @doc """
  Whether the module is `:initialized`, how many `:sessions` are open, whether a token is away
  (`:token_away`), and how many calls came with the handle of a dead session (`:dead_sessions`) or
  of an invalidated object (`:stale_objects`).
  """
  @spec status(t) :: %{
          initialized: boolean,
          sessions: non_neg_integer,
          token_away: boolean,
          dead_sessions: non_neg_integer,
          stale_objects: non_neg_integer
        }
  def status(%__MODULE__{} = chaos) do
    answer = chaos |> Control.ask!(["status"]) |> Control.pairs()

    %{
      initialized: answer["initialized"] == "true",
      sessions: String.to_integer(answer["sessions"]),
      token_away: answer["token_away"] == "true",
      dead_sessions: String.to_integer(answer["dead_sessions"]),
      stale_objects: String.to_integer(answer["stale_objects"])
    }
  end

  @doc "Sets all counts to zero, and forgets the violations."
  @spec reset_counts(t) :: :ok
  def reset_counts(%__MODULE__{} = chaos), do: Control.command!(chaos, ["reset_counts"])
end
