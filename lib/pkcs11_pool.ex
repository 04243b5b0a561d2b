defmodule Pkcs11Pool do
  @external_resource "README.md"
  @moduledoc "README.md" |> File.read!() |> String.split("<!-- MDOC !-->") |> Enum.fetch!(1)

  use Pkcs11Pool.Group.Routing

  import Pkcs11Pool.API.Bang, only: [defbang: 1]

  alias Pkcs11Pool.Call.AwaitReady
  alias Pkcs11Pool.Token.Information

  alias Pkcs11Pool.{
    API,
    Call,
    Error,
    Lease,
    Mechanism,
    Object,
    Options,
    Prepared,
    Template,
    Token
  }

  @typedoc "The name of a pool, its `:name` option; or the lease of a `with_session/3` block."
  @type pool :: term

  @typedoc """
  A key or another object: an object that an earlier call returned, a template (`[label: "signing"]`, `[id: <<1>>]`), a label, a
  PKCS#11 URI, or the public key or certificate that it belongs to. If the operation implies a class (a private key signs), the class need not be given.

  A template must identify an object: at least one of `:label`, `:id`, `:unique_id`, `:value`, `:modulus`, `:ec_point`, `:public_key_info`,
  `:check_value`, `:subject`, `:serial_number`, `:object_id`, `:url`, `:hash_of_subject_public_key`, `:hash_of_certificate`, or a vendor's
  attribute of bytes, with a value that is not empty. A URI must have `object` or `id`. A template of attributes that many objects share (the class, the key type, the token,
  booleans) names no object: such a key, `[]` and `""` raise `ArgumentError`.

  If no object matches, the error is `:key_not_found`. If more than one does, it is `:ambiguous_key`, with their ids and labels in `details.candidates`.
  A key whose class or type does not fit the mechanism is `:key_type_inconsistent`, and does not reach the module, since the module might crash. A vendor's mechanism takes any key.

  With `[unique_id: id]` (PKCS#11 3.0, 4.4.1) the pool reads the `CKA_UNIQUE_ID` of each object that the search finds, because not all tokens search by it, and some
  ignore it.

  `{:public_key, key}` and `{:certificate, certificate}` name the key on the token that belongs to it: the private key for operations that sign, decrypt, unwrap or
  derive, the public key for those that verify or encrypt, and the private key otherwise. A *public key* is of RSA, on a curve (ECDSA,
  Edwards, Montgomery), or of a post-quantum algorithm, as OTP has it (`{:RSAPublicKey, n, e}`, `{{:ECPoint, point}, {:namedCurve, oid}}`, or what `public_key/3` returns), or its SubjectPublicKeyInfo in DER or
  PEM; a *certificate* is one X.509 certificate in DER, in PEM, or as OTP's `:public_key` decodes it.

  Such a key is searched by modulus and exponent, by its point, or by `CKA_PUBLIC_KEY_INFO`, and what the search finds must have these attributes itself. Many tokens have no such
  attribute of private keys on curves, and some none of post-quantum ones. There the pool takes the private keys whose `CKA_ID` is that of the same public key or certificate on the token, and each of them must
  prove that it belongs to it: it signs the text `pkcs11_pool key test` (`C_SignInit`, `C_Sign`), and the token verifies the signature (`C_Verify`; if the token has the public
  key only in a certificate, with a session object that is made for this). A key without this proof (it is another one; it may not sign; it needs a login for each use) is not
  used: the error is `:key_not_found`, and `details` says how many `:public_keys` and `:certificates` were found, and how many private keys were
  `:unproved`. All of this is done once; from then on the pool remembers the key's handle, as it does for a label.
  """
  @type key ::
          Object.t()
          | Template.t()
          | String.t()
          | {:public_key, public_key | tuple | binary}
          | {:certificate, tuple | binary}

  @typedoc """
  A public key as OTP's `:public_key` has it: of RSA, or on a curve (ECDSA, Edwards, Montgomery), or of a post-quantum algorithm, see `public_key/3`.
  """
  @type public_key ::
          {:RSAPublicKey, modulus :: pos_integer, public_exponent :: pos_integer}
          | {{:ECPoint, binary}, {:namedCurve, tuple} | {:ecParameters, tuple}}
          | {:"ML-DSAPublicKey" | :"SLH-DSAPublicKey", parameter_set :: atom, binary}
          | {:mlkem512 | :mlkem768 | :mlkem1024, binary}

  @typedoc """
  Where a PIN comes from: a function (`{module, function, arguments}`, or one without arguments), a variable of the environment, or a file. The function
  returns the PIN, `{:ok, pin}` or `{:error, why}`. See the guide [Security and PINs](guides/secrets.md).
  """
  @type pin_source ::
          {module, atom, [term]}
          | (() -> binary | {:ok, binary} | {:error, term})
          | {:env, String.t()}
          | {:file, Path.t()}
          | {:file, Path.t(), [mode: :any]}

  @typedoc "A mechanism, see `Pkcs11Pool.Mechanism`."
  @type mechanism :: Mechanism.t()

  @typedoc "A template, see `Pkcs11Pool.Template`."
  @type template :: Template.t()

  @typedoc """
  What every call with options takes:

    * `:queue_timeout` - ms that the operation may wait before it starts, or `:infinity`. Default: the pool's. With 0 the operation runs only if a
      session is free, or may be opened, at once
    * `:operation_timeout` - ms that it may run, opening a session, login and retry included, or `:infinity`. Default: the pool's
    * `:telemetry_metadata` - a map that is merged into the metadata of the call's telemetry events
  """
  @type call_option ::
          {:queue_timeout, timeout} | {:operation_timeout, timeout} | {:telemetry_metadata, map}

  @typedoc """
  What every call with options takes that uses a key. `:select` says which key is meant if several have the same label or id on purpose, as after a
  rotation. Without it, the error is `:ambiguous_key`.

    * `select: :newest` - the key with the latest `CKA_START_DATE` (`:start_date`) that is not after today (UTC). Keys without a date count as older than keys with one. If the token fails to read the date
      of a private key (SoftHSM 2.6 does, for private objects), the date of the public key with the same id is used. If no key has a
      date, and all ids name versions of one key as Google's kmsp11 has them (`.../cryptoKeys/NAME/cryptoKeyVersions/NUMBER`; it has no dates), the highest version is used. If that does not decide
      either (no dates, two keys with the latest date, all dates in the future, a date that cannot be read), the error is `:ambiguous_key`, with the reason in `details.newest`. A single key needs no date. The
      choice is made among up to 1,000 keys, and remembered for at most the pool's `:key_cache_ttl`: during that time a new key that others put on the token may stay unnoticed. In a list
      (`sign_many/5`), each slice makes the choice again after that time.
    * `select: fun` - the function gets the candidates (`[%Pkcs11Pool.Object{}]`, also if there is only one) of the class that the operation implies, and returns one of them, or nil for
      none (`:key_not_found`). It runs in the calling process, after a search on the token (`find_objects/3`) in each call: choose a key that is used often once, and keep it.

  `:select` changes nothing for a `%Pkcs11Pool.Object{}`, `{:public_key, key}` and `{:certificate, certificate}`, which name one key. `destroy_object/3`, `set_attributes/4` and `copy_object/4` do not take it: find
  the object first, and give them that.
  """
  @type key_option ::
          call_option | {:select, :newest | ([Object.t()] -> Object.t() | nil)}

  @typedoc "Options of calls that make or check signatures: `:signature` is the form of an ECDSA signature, see `sign/5`. `:raw` is the default."
  @type signature_option :: key_option | {:signature, :raw | :der}

  @typedoc "Options of calls that make keys: `:session_object` is about keys that are no token objects, see `generate_key_pair/5`."
  @type generate_option :: call_option | {:session_object, :refuse | :allow}

  @typedoc "The same of calls that make a key with another one."
  @type derive_option :: key_option | {:session_object, :refuse | :allow}

  @typedoc "Options of `login/3` and `logout/2`: `:force` is explained there, and `false` by default."
  @type login_option :: call_option | {:force, boolean}

  @typedoc """
  Options of streams, see `sign_stream/5`: `:lease_timeout` - ms that the whole stream may have its session, or `:infinity`. Default: the pool's.
  """
  @type stream_option :: call_option | {:lease_timeout, timeout}

  @typedoc "The same of streams with a key."
  @type key_stream_option :: key_option | {:lease_timeout, timeout}

  @typedoc "Options of `digest_key/4`, where `:prefix` and `:suffix` are explained."
  @type digest_key_option :: key_option | {:prefix, iodata} | {:suffix, iodata}

  @typedoc "A mechanism of the token, see `mechanisms/1`."
  @type mechanism_info :: %{
          mechanism: atom | {:vendor, non_neg_integer},
          min: non_neg_integer,
          max: non_neg_integer,
          flags: [atom]
        }

  ## The pool

  @doc """
  The specification of a pool for a supervisor: `{Pkcs11Pool, name: MyApp.HSM, module: ...}`.

  The options are those of `start_link/1`, and are checked here: unknown or bad ones raise `ArgumentError`. In the list of children, the pool stands before the processes that call it.

  Supervisors log the start call of a child, with its arguments. Those of this specification are the checked options, which show no value of
  `:module_env` and `:module_args`, and no argument of the `:pin` function. A specification that you write by hand, with `start_link/1` and a keyword list,
  shows them all.
  """
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    options = Options.validate!(options)

    %{
      id: {Pkcs11Pool, options.name},
      start: {__MODULE__, :start_link, [options]},
      type: :supervisor
    }
  end

  @doc """
  Starts a pool.

  Options that are unknown or bad raise `ArgumentError` before anything is loaded. The start fails with `{:error, %Pkcs11Pool.Error{}}`
  only for errors that a restart cannot correct: `:module_load_failed`, `:module_digest_mismatch`, `:module_conflict`, `:slot_in_use`, and
  `:function_not_supported` if the pool has a `:username` and its module has no `C_LoginUser`. If the token
  is absent or refuses the PIN, the pool starts all the same: calls get the precise reason, and the pool looks for its
  token until it is there. With `start: :strict` the start fails then, too.

  Calls `C_Initialize`, `C_GetSlotList`, `C_GetTokenInfo`, and then, unless `:lazy`, `C_OpenSession` and `C_Login` (or `C_LoginUser`), in the background.
  """
  @spec start_link(keyword | struct) ::
          {:ok, pid} | {:error, Error.t() | {:already_started, pid} | term}
  def start_link(%Options{} = options), do: API.Pool.start_link(options)
  def start_link(options), do: options |> Options.validate!() |> API.Pool.start_link()

  @doc """
  Waits until the pool can be used: until it has a session, and is logged in if it logs in. It waits for `timeout` ms at most. Returns `:ok`, or the reason why the pool cannot be used.

  While the pool is down (no slot matches, the token is away), this function waits for the token. When the time is over, it returns the last error. Errors that do not
  go away by waiting are returned at once: a refused PIN, a PIN source that gives no PIN, `:pool_not_found`, `:draining`.
  """
  @spec await_ready(pool, timeout) :: :ok | {:error, Error.t()}
  def await_ready(pool, timeout), do: AwaitReady.await(pool, timeout, :wait)

  defbang await_ready!(pool, timeout) :: :ok

  @doc """
  The state of the pool, as one consistent snapshot:

    * `:state` - `:up`, `:down` (no token: `:down` is the error) or `:draining`
    * `:health` - whether calls succeed, as far as the pool knows: `:ready`, `:degraded` (they do, but something is wrong) or `:down` (they
      fail, or wait in vain), see `Pkcs11Pool.Health`
    * `:health_reason` - the `Pkcs11Pool.Error` that says what is wrong, nil if the pool is ready
    * `:health_since` - since when, in milliseconds since 1970 (`DateTime.from_unix!(since, :millisecond)`), nil if the pool is ready
    * `:executor` - `:dirty_io`, `:threads`, or `:mixed` after a resize beyond the dirty-IO schedulers
    * `:size` - the most sessions; `:ceiling` - the most that the token allows now
    * `:idle`, `:running`, `:leased`, `:opening`, `:closing` - sessions
    * `:waiting` - operations
    * `:hung` - calls whose time is over and that have not returned from the module, and sessions of such calls that must still be closed. On
      native threads they are quarantined: no other number counts their sessions, and other sessions take their places, up to `:size`
    * `:serialized` - whether only one call at a time is in the module
    * `:panics` - how many faults this library's own native code has had, and survived, in this VM. If it is not 0, please report it, with
      what was written to the standard error
    * `:epoch` - changes whenever the token's handles may have become invalid
    * `:login` - `:none`, `:logged_out`, `:in_progress`, `:logged_in`, `:poisoned` (a PIN was refused), or `:conflict` (logged in with another
      PIN than this pool's)
    * `:results` - how many operations have ended in which way since the pool was started: `%{ok: 1_250, queue_timeout: 3}`. `:ok` is always there, an error's `reason` if it
      has come. Each slice of a list and each part of a stream is an operation here; what the pool does by itself, logins and reloads are none
    * `:latency` - how long the operations took that ran in the last one to two minutes, from the call to the answer: `%{count: 1_250, p50: 412.0, p99: 1_840.0}`. Half of them
      took no longer than `:p50`, and 99 of 100 no longer than `:p99`, in microseconds; nil if none ran. Both are wrong by 1.6 % at most (up to 18 minutes). What waited
      in vain or was refused has no part in them

  Raises `Pkcs11Pool.Error` for an unknown pool.
  """
  @spec status(pool) :: %{required(atom) => term}
  defdelegate status(pool), to: API.Pool

  @doc """
  Grows or shrinks the pool to `n` sessions. No call fails because of it: surplus sessions are closed when they come free.

  An `n` that is not from 1 to 1,024 raises `ArgumentError`; a `:token` pool has exactly one session (`:pool_size_fixed`).
  """
  @spec resize(pool, 1..1_024) :: :ok | {:error, Error.t()}
  defdelegate resize(pool, n), to: API.Pool

  defbang resize!(pool, n :: 1..1_024) :: :ok

  @doc """
  Takes the pool out of service. New calls, and calls that wait, get `:draining`. Calls that run have `timeout` ms to end. All sessions are closed. Returns `{:ok, left}`: the number of
  sessions that are still in use. Only a restart brings the pool back.

  If it is called within a `with_session/3` block, it does not wait for the block's own session, which counts as one of those that are left.
  """
  @spec drain(pool, timeout) :: {:ok, left :: non_neg_integer} | {:error, Error.t()}
  defdelegate drain(pool, timeout), to: API.Pool

  defbang drain!(pool, timeout) :: left :: non_neg_integer

  @doc """
  Reserves one session for the calling process while `fun` runs, and returns what `fun` returns.

      Pkcs11Pool.with_session(MyApp.HSM, fn lease ->
        {:ok, random} = Pkcs11Pool.generate_random(lease, 32)
        Pkcs11Pool.sign(lease, "signing", :sha256_rsa_pkcs, random)
      end)

  `fun` takes the lease as its argument, or no argument. Within the block, calls of the same process by the pool's name also use the reserved session, and so does a
  nested `with_session/3`. If another process uses the lease, it gets `:not_owner`; after the block, the error is `:lease_ended`. A lease that is held for longer than the
  pool's `:lease_timeout` ends, and the log names its holder. The session is closed, and not used again, if the holder died, the lease expired, or an operation was still
  running on it.

  If no session can be had, the result is `{:error, error}`, and `fun` is not called.
  """
  @spec with_session(pool, (Lease.t() -> result) | (() -> result), [call_option]) ::
          result | {:error, Error.t()}
        when result: term
  def with_session(pool, fun, opts \\ []), do: API.WithSession.run(pool, fun, opts)

  @doc """
  Logs in with the PIN of this source. A source is what the `:pin` option takes (`t:pin_source/0`), or `nil` for a pool with `protected_authentication_path: true`.

      :ok = Pkcs11Pool.login(MyApp.HSM, {MyApp.Secrets, :new_pin, []})

  Use it when the pool has stopped trying after a refused PIN, and you know the right one: the PIN is tried once, even if it was refused before. The
  pool's own source stays the same. With `force: true` the PIN is tried even if one more wrong PIN would lock the token, or the token says that it
  is locked.

  Returns `:ok` if the token is already logged in with this PIN. If it is logged in with another PIN, or as another user, the error is `:login_conflict`, and
  nobody is logged out. Other errors are the token's answers to `C_Login`. A pool of type `:cloud_hsm` never logs in (`:login_unsupported`).

  Within a `with_session/3` block, the login uses another session than the block's. If the pool has no other session, the error is `:queue_timeout` at once.
  The pool's `:pin_timeout` limits the time of the source. `:queue_timeout` and `:operation_timeout` begin when the source has given the PIN.

  Calls `C_GetTokenInfo` and `C_Login` (PKCS#11 2.40, 5.6).
  """
  @spec login(pool, pin_source | nil, [login_option]) ::
          :ok | {:error, Error.t()}
  def login(pool, pin_source, opts \\ []), do: API.Login.login(pool, pin_source, opts)

  defbang login!(pool, pin_source :: pin_source | nil, opts :: [login_option]) :: :ok

  @doc """
  Logs out, after the pool's operations that run now and before those that wait. The next operation logs in again. (In a `:token` pool with
  `reauthentication: :fail` it gets `:reauthentication_required`, until somebody calls `login/3`.) A retained PIN (`pin_retention: :until_logout`) is wiped.

  A login belongs to the token. If other pools use the token, or a `with_session/3` block of this pool, the login would end for them, too. Then the error is
  `:login_shared`, and nothing happens; `force: true` logs out all the same. Within a `with_session/3` block, the logout uses another session than the block's.

  A pool of type `:cloud_hsm` never logs in, so that there is nothing to do: it returns `:ok`.

  Calls `C_Logout` (PKCS#11 2.40, 5.6).
  """
  @spec logout(pool, [login_option]) :: :ok | {:error, Error.t()}
  def logout(pool, opts \\ []), do: API.Login.logout(pool, opts)

  defbang logout!(pool, opts :: [login_option]) :: :ok

  @doc """
  Forgets the handles of all keys. The pool searches each key again (`C_FindObjects`) when it is next used. Use it after somebody has replaced a key on the
  token by another one with the same label.
  """
  @spec forget_keys(pool) :: :ok | {:error, Error.t()}
  defdelegate forget_keys(pool), to: API.Pool

  defbang forget_keys!(pool) :: :ok

  @doc """
  Finalizes the PKCS#11 module and initializes it again, for all its pools: `:ok` when it is done and this pool has found its token again.

  It is for modules that read their keys only when they are initialized (Google Cloud KMS's kmsp11, nShield): a key that somebody makes elsewhere does not show before. Afterwards
  every old handle and session is void. The first call logs in, once for all: the PIN source is asked once.

  No call is lost. Calls that are inside the module have time to end. Calls that wait, or come meanwhile, wait in their places, each
  as long as its own time-outs allow, and run afterwards. The reload does not wait for the end of a `with_session/3` block, only for its call that is inside:
  the block's session is gone then, and its next call is `:lease_ended`.

  Options are those of every call, with this meaning:

    * `:queue_timeout` - ms that the calls inside have to end, 3,000 by default. If one has not returned by then, the error is
      `:module_stuck`, and the module stays as it was
    * `:operation_timeout` - ms that the caller waits from then on, by default the pool's. The error is `:operation_timeout`; the reload goes on
    * `:telemetry_metadata`

  Other errors: `:module_adopted`, if another library of the VM has initialized the module, so that the pool must not finalize it; the return code
  of `C_Finalize` (the module stays as it was); `:module_initialize_failed`, with the return code of `C_Initialize` (the pools look for their tokens, and try again until it works);
  `:slot_not_found` or a similar error if the token is not there afterwards. If several processes call it at the same time, one reload serves all of them.

  Calls `C_Finalize` and `C_Initialize` (PKCS#11 2.40, 5.4).
  """
  @spec reload(pool, [call_option]) :: :ok | {:error, Error.t()}
  def reload(pool, opts \\ []), do: API.Pool.reload(pool, opts)

  defbang reload!(pool, opts :: [call_option]) :: :ok

  @doc """
  The token's mechanisms: `{:ok, [map]}`, with the smallest and largest key of each (in bits or bytes: that depends on the mechanism) and its flags, which say what it is for.

  Calls `C_GetMechanismList` and `C_GetMechanismInfo`.
  """
  @spec mechanisms(pool) :: {:ok, [mechanism_info]} | {:error, Error.t()}
  def mechanisms(pool) do
    with {:ok, list} <- Call.run(pool, :mechanisms, nil, :mechanisms, Options.Call.validate!([])) do
      {:ok,
       for {code, min, max, flags} <- list do
         %{mechanism: Mechanism.decode(code), min: min, max: max, flags: Mechanism.flags(flags)}
       end}
    end
  end

  defbang mechanisms!(pool) :: [mechanism_info]

  @doc """
  Information about the pool's token: `{:ok, map}`, see `t:Pkcs11Pool.Token.info/0`. `Pkcs11Pool.Token.list/1` gives the same for all tokens of a
  module, without a pool.

      {:ok, %{firmware_version: {7, _}, flags: flags}} = Pkcs11Pool.token_info(MyApp.HSM)
      refute :user_pin_count_low in flags

  Calls `C_GetTokenInfo` (PKCS#11 2.40, 5.5). If another token is in the pool's slot, the error is `:token_unavailable`.
  """
  @spec token_info(pool, [call_option]) :: {:ok, Token.info()} | {:error, Error.t()}
  def token_info(pool, opts \\ []) do
    with {:ok, info} <-
           Call.run(pool, :token_info, nil, :token_info, Options.Call.validate!(opts)),
         do: {:ok, Information.token(info)}
  end

  defbang token_info!(pool, opts :: [call_option]) :: Token.info()

  ## Signatures

  @doc """
  Signs `data` (iodata) with a private or secret key: `{:ok, signature}`, a binary.

  An ECDSA signature is `r <> s`, each as long as the curve's order. With `signature: :der` it is the DER sequence that X.509 and TLS use.

  The mechanism's name says whether it hashes the data: `:sha256_rsa_pkcs` does. `:rsa_pkcs` and `:ecdsa` take data that is hashed already. To sign a message on any token, use
  `{:ecdsa, hash: :sha256}` or `{:rsa_pkcs, hash: :sha256}`: see `Pkcs11Pool.Mechanism`. `:ecdsa` with data that is longer than the order of the key's curve raises
  `ArgumentError`.

  Once the key is known, this makes two C calls: `C_SignInit` and `C_Sign` (PKCS#11 2.40, 5.11).
  """
  @spec sign(pool, key, mechanism, iodata, [signature_option]) ::
          {:ok, binary} | {:error, Error.t()}
  def sign(pool, key, mechanism, data, opts \\ []),
    do: API.Signature.sign(pool, key, mechanism, data, opts)

  defbang sign!(pool, key, mechanism, data :: iodata, opts :: [signature_option]) :: binary

  @doc """
  Verifies a signature on the token with a public or secret key: `:ok`, or the error `:signature_invalid`, also if the signature has a wrong length.

  If mechanism and key determine the length of a signature (`*_hmac`, `*_mac`, `*_general`, RSA, ECDSA, EdDSA), a signature of another length does not
  reach the token, because some tokens look only at its beginning, or read beyond its end. r and s of an ECDSA signature are each as long as the
  curve's order, with leading zeros. The pool asks the token once per key how long its RSA or EC signatures are; if the token does not say, the token decides.

  `code` in the error has the token's answer. Some answers may have several meanings: NSS answers `CKR_DEVICE_ERROR` to a MAC of other data. The pool takes them for a wrong
  signature if the session still answers, and does not try again: see
  [Signatures and ciphertexts that are refused](guides/failure_handling.md#signatures-and-ciphertexts-that-are-refused).

  `signature: :der` is as in `sign/5`. On a curve that is neither well known nor given by explicit parameters, the error is `:curve_not_supported`.

  Calls `C_VerifyInit` and `C_Verify` (PKCS#11 2.40, 5.12).
  """
  @spec verify(pool, key, mechanism, iodata, iodata, [signature_option]) ::
          :ok | {:error, Error.t()}
  def verify(pool, key, mechanism, data, signature, opts \\ []),
    do: API.Signature.verify(pool, key, mechanism, data, signature, opts)

  defbang verify!(
            pool,
            key,
            mechanism,
            data :: iodata,
            signature :: iodata,
            opts :: [signature_option]
          ) :: :ok

  ## Encryption

  @doc """
  Encrypts `data` (iodata) with a secret or public key: `{:ok, ciphertext}`, a binary.

      {:ok, ciphertext} = Pkcs11Pool.encrypt(MyApp.HSM, "vault", {:aes_gcm, iv: iv, aad: "user 42"}, data)
      {:ok, {iv, ciphertext}} = Pkcs11Pool.encrypt(MyApp.HSM, "vault", {:aes_gcm, iv: :token}, data)

  AES-GCM, AES-CCM and ChaCha20-Poly1305 return the ciphertext with its tag at the end, as PKCS#11 does. With `iv: :token` (of AES-CCM `nonce: :token`) the token makes the IV,
  of 12 bytes, and it is returned with the ciphertext. If the token makes no IV, the error is `:iv_not_made`. If the token replaces an IV that you gave, the error is `:iv_replaced`, with the token's IV in
  `details.iv`: you never get a ciphertext without the IV that it was made with.

  Once the key is known, this makes two C calls: `C_EncryptInit` and `C_Encrypt` (PKCS#11 2.40, 5.8). With `iv: :token` it is never tried again.

  The message functions of PKCS#11 3.0 (5.9: `C_MessageEncryptInit`, `C_EncryptMessage`, `C_MessageEncryptFinal`) are called in two cases. You need not know which:
  the result is the same.

    * With `iv: :token`, if the module encrypts by messages. It is asked for a random IV (`CKG_GENERATE_RANDOM`), never for a counter's: that is unique among the messages of one
      operation only, but all sessions of the pool use the same key. Any other module gets an IV of zeros in `C_EncryptInit`, and writes its own in their place.
    * If the token offers AES-GCM, AES-CCM or ChaCha20-Poly1305 by messages only: `C_GetMechanismInfo`, which is asked once, does not say `CKF_ENCRYPT`, and
      `C_MessageEncryptInit` takes the mechanism.
  """
  @spec encrypt(pool, key, mechanism, iodata, [key_option]) ::
          {:ok, binary | {iv :: binary, ciphertext :: binary}} | {:error, Error.t()}
  def encrypt(pool, key, mechanism, data, opts \\ []),
    do: API.Cipher.encrypt(pool, key, mechanism, data, opts)

  defbang encrypt!(pool, key, mechanism, data :: iodata, opts :: [key_option]) ::
            binary | {iv :: binary, ciphertext :: binary}

  @doc """
  Decrypts `data` (iodata) with a secret or private key: `{:ok, plaintext}`, a binary.

  If the ciphertext or tag was changed or cut off, or belongs to another key, the error is `:decryption_failed`. `code` has the token's answer. Some answers may have several
  meanings (`CKR_GENERAL_ERROR`, `CKR_DEVICE_ERROR`); the pool takes them for a failed decryption if the session still answers. It does
  not try again, and makes the same calls after each refusal, so that the pool adds no difference in time.

  Do not tell the sender of a ciphertext that its decryption failed, not even by the time of your answer, if the mechanism is AES-CBC or RSA PKCS #1 v1.5: with
  many such answers an attacker can find out the plaintext (a padding oracle). AES-GCM does not have this problem, because it authenticates the ciphertext. For RSA PKCS #1 v1.5
  some tokens return random bytes instead of an error, for this reason.

  Once the key is known, this makes two C calls: `C_DecryptInit` and `C_Decrypt` (PKCS#11 2.40, 5.9). If the token offers AES-GCM, AES-CCM or ChaCha20-Poly1305 by messages only
  (`C_GetMechanismInfo` does not say `CKF_DECRYPT`, and `C_MessageDecryptInit` takes the mechanism), these are `C_MessageDecryptInit`, `C_DecryptMessage` and `C_MessageDecryptFinal` (PKCS#11 3.0, 5.11).
  """
  @spec decrypt(pool, key, mechanism, iodata, [key_option]) ::
          {:ok, binary} | {:error, Error.t()}
  def decrypt(pool, key, mechanism, data, opts \\ []),
    do: API.Cipher.decrypt(pool, key, mechanism, data, opts)

  defbang decrypt!(pool, key, mechanism, data :: iodata, opts :: [key_option]) :: binary

  ## Many at once

  @typedoc """
  An item of `encrypt_many/5` and `decrypt_many/5`: data, or data with parameters that are added to those of the mechanism, such as `{[iv: iv], data}`.
  """
  @type item :: iodata | {params :: keyword, iodata}

  @typedoc "The results of a list, in its order."
  @type results(value) :: {:ok, item_results(value)} | {:error, Error.t()}

  @typedoc "The result of each item of a list, in its order."
  @type item_results(value) :: [{:ok, value} | {:error, Error.t()}]

  @doc """
  Signs each item of a list with the same key: `{:ok, [{:ok, signature} | {:error, error}]}`, in the list's order.

      {:ok, results} = Pkcs11Pool.sign_many(MyApp.HSM, "tokens", :sha256_hmac, list)

  One call for many small items costs much less than many calls. The following is true of `sign_many/5`, `verify_many/5`, `encrypt_many/5` and
  `decrypt_many/5`:

    * The list is cut into slices of at most 64 items, at most 64 KiB (or one larger item), and about 5 ms. Each slice waits in the queue as an operation of its own, and as
      many slices run at the same time as the pool has sessions. Other callers have their turn between them.
    * Each item has its own result. If one item fails, the others are done all the same.
    * `:queue_timeout` is how long a slice may wait before it starts, `:operation_timeout` how long it may run. If a slice times out, each of its items gets that error,
      with `executed: :unknown` if the slice ran. If the pool stops taking operations, the items that have not been tried get that error.
    * If a session dies, the items of its slice that were not done are tried once on another session, if that does no harm. Otherwise they get the error with
      `executed: false`.
    * Within `with_session/3` all items run on its session.
    * The call itself returns `{:error, error}` only if there is no such pool. An empty list gives `{:ok, []}`.

  Makes the C calls of `sign/5` for each item.
  """
  @spec sign_many(pool, key, mechanism, [iodata], [signature_option]) ::
          results(binary)
  def sign_many(pool, key, mechanism, list, opts \\ []),
    do: API.Signature.sign_many(pool, key, mechanism, list, opts)

  defbang sign_many!(pool, key, mechanism, list :: [iodata], opts :: [signature_option]) ::
            item_results(binary)

  @doc """
  Verifies each `{data, signature}` of a list with the same key: `{:ok, [{:ok, true} | {:error, error}]}`, in the list's order. For a signature that is
  not valid, the error is `:signature_invalid`. See `sign_many/5`.

  Makes the C calls of `verify/6` for each item.
  """
  @spec verify_many(pool, key, mechanism, [{iodata, iodata}], [signature_option]) :: results(true)
  def verify_many(pool, key, mechanism, list, opts \\ []),
    do: API.Signature.verify_many(pool, key, mechanism, list, opts)

  defbang verify_many!(
            pool,
            key,
            mechanism,
            list :: [{iodata, iodata}],
            opts :: [signature_option]
          ) :: item_results(true)

  @doc """
  Encrypts each item of a list with the same key: `{:ok, [{:ok, ciphertext} | {:error, error}]}`, in the list's order. See `sign_many/5`.

      Pkcs11Pool.encrypt_many(MyApp.HSM, "vault", {:aes_gcm, iv: :token}, list)
      Pkcs11Pool.encrypt_many(MyApp.HSM, "vault", :aes_gcm, for(data <- list, do: {[iv: unique_iv()], data}))

  Two messages that are encrypted with the same IV can be read by an attacker, and with AES-GCM also forged. So if a mechanism takes an IV (or a counter), either
  the token makes it, or each item has its own: `{[iv: iv], data}`. An IV in the mechanism itself, or the same IV for two items, raises `ArgumentError`; so
  does the same counter block, whatever its `:counter_bits`. You must make sure that a counter does not run into another item's block, and that no IV is used again in
  another call. For a mechanism whose parameters are bytes that this library does not know (`{name, binary}`), you must make sure of all of this.

  Makes the C calls of `encrypt/5` for each item. Where those are the message functions, `C_MessageEncryptInit` and `C_MessageEncryptFinal` are called once for all items that
  are encrypted in one go; an item that fails ends that for itself, and the others get a new one.
  """
  @spec encrypt_many(pool, key, mechanism, [item], [key_option]) ::
          results(binary | {iv :: binary, ciphertext :: binary})
  def encrypt_many(pool, key, mechanism, list, opts \\ []),
    do: API.Cipher.encrypt_many(pool, key, mechanism, list, opts)

  defbang encrypt_many!(pool, key, mechanism, list :: [item], opts :: [key_option]) ::
            item_results(binary | {iv :: binary, ciphertext :: binary})

  @doc """
  Decrypts each item of a list with the same key: `{:ok, [{:ok, plaintext} | {:error, error}]}`, in the list's order. See `sign_many/5`.

      Pkcs11Pool.decrypt_many(MyApp.HSM, "vault", :aes_gcm, for({iv, ciphertext} <- list, do: {[iv: iv], ciphertext}))

  Makes the C calls of `decrypt/5` for each item. Where those are the message functions, `C_MessageDecryptInit` and `C_MessageDecryptFinal` are called once for all items that
  are decrypted in one go, as in `encrypt_many/5`.
  """
  @spec decrypt_many(pool, key, mechanism, [item], [key_option]) :: results(binary)
  def decrypt_many(pool, key, mechanism, list, opts \\ []),
    do: API.Cipher.decrypt_many(pool, key, mechanism, list, opts)

  defbang decrypt_many!(pool, key, mechanism, list :: [item], opts :: [key_option]) ::
            item_results(binary)

  ## Prepared operations

  @doc """
  Prepares an operation with one key that is to be done often: `{:ok, prepared}`. The arguments are checked and encoded once, and the key is looked for.

      {:ok, prepared} = Pkcs11Pool.prepare(MyApp.HSM, :sign, "tokens", :sha256_hmac)
      {:ok, mac} = Pkcs11Pool.sign(prepared, "data")

  `operation` is `:sign`, `:verify`, `:encrypt`, `:decrypt` or `:digest`. What is prepared takes the place of pool, key and mechanism in `sign/3`, `verify/4`, `encrypt/3`, `decrypt/3`,
  `sign_many/3`, `verify_many/3`, `encrypt_many/3`, `decrypt_many/3` and `digest/2`. `:digest` takes nil as its key. Everything else is as without it, except that it takes less
  processor time: [how much](guides/performance.md#prepared-operations).

    * Any number of processes of the node may use it at the same time, as long as they like; nobody has to give it back. On another node a use raises `ArgumentError`. See `Pkcs11Pool.Prepared`.
    * It holds no session and no handle. Each use looks for the pool by its name, and finds the key as `sign/5` does: so it goes on after a restart of the pool or of the token, and
      a key that is there in place of another one, with the same label, is used from then on. With a `%Pkcs11Pool.Object{}`, use is as strict as in `sign/5`: `:object_stale` if
      it is gone, `:object_of_other_token` on another token.
    * Options given here are for each use. `:queue_timeout`, `:operation_timeout` and `:telemetry_metadata` may be given to a use, too, and then replace those. A function as `:select` chooses once, now.
    * The errors are those of the operation: `:key_not_found`, `:ambiguous_key`, `:key_type_inconsistent` (the key is none for this operation and mechanism), `:pool_not_found`,
      `:token_unavailable`, ... For `:digest` only the pool has to be there.
    * An IV (or a counter) must not be used twice with one key. So a mechanism with an IV of yours cannot be prepared for `:encrypt` or `:sign`, nor can parameters that are bytes (`{name, binary}`), since an IV may be
      in them: both raise `ArgumentError`. Prepare `iv: :token` if the token makes the IV, or give `encrypt/5` a new one each time. For `:decrypt`, an IV that is prepared is for all ciphertexts.
    * A name of a group (`Pkcs11Pool.Group`) raises `ArgumentError`, as does a lease: prepare for each pool. Within `with_session/3` what is prepared for the pool uses its session.

  Makes the C calls that look for a key and read its attributes, unless they are known: `C_FindObjectsInit`, `C_FindObjects`, `C_FindObjectsFinal`, `C_GetAttributeValue` (PKCS#11 2.40, 5.7).
  """
  @spec prepare(pool, Prepared.operation(), key | nil, mechanism, [signature_option]) ::
          {:ok, Prepared.t()} | {:error, Error.t()}
  def prepare(pool, operation, key, mechanism, opts \\ []),
    do: API.Preparation.prepare(pool, operation, key, mechanism, opts)

  defbang prepare!(
            pool,
            operation :: Prepared.operation(),
            key :: key | nil,
            mechanism,
            opts :: [signature_option]
          ) :: Prepared.t()

  @doc """
  `sign/5` with what `prepare/5` has prepared for `:sign`.
  """
  @spec sign(Prepared.t(), iodata, [call_option]) :: {:ok, binary} | {:error, Error.t()}
  def sign(prepared, data, opts \\ []), do: API.Signature.sign(prepared, data, opts)

  defbang sign!(prepared :: Prepared.t(), data :: iodata, opts :: [call_option]) :: binary

  @doc """
  `verify/6` with what `prepare/5` has prepared for `:verify`.
  """
  @spec verify(Prepared.t(), iodata, iodata, [call_option]) :: :ok | {:error, Error.t()}
  def verify(prepared, data, signature, opts \\ []),
    do: API.Signature.verify(prepared, data, signature, opts)

  defbang verify!(
            prepared :: Prepared.t(),
            data :: iodata,
            signature :: iodata,
            opts :: [call_option]
          ) :: :ok

  @doc """
  `encrypt/5` with what `prepare/5` has prepared for `:encrypt`.
  """
  @spec encrypt(Prepared.t(), iodata, [call_option]) ::
          {:ok, binary | {iv :: binary, ciphertext :: binary}} | {:error, Error.t()}
  def encrypt(prepared, data, opts \\ []), do: API.Cipher.encrypt(prepared, data, opts)

  defbang encrypt!(prepared :: Prepared.t(), data :: iodata, opts :: [call_option]) ::
            binary | {iv :: binary, ciphertext :: binary}

  @doc """
  `decrypt/5` with what `prepare/5` has prepared for `:decrypt`.
  """
  @spec decrypt(Prepared.t(), iodata, [call_option]) :: {:ok, binary} | {:error, Error.t()}
  def decrypt(prepared, data, opts \\ []), do: API.Cipher.decrypt(prepared, data, opts)

  defbang decrypt!(prepared :: Prepared.t(), data :: iodata, opts :: [call_option]) :: binary

  @doc """
  `sign_many/5` with what `prepare/5` has prepared for `:sign`.
  """
  @spec sign_many(Prepared.t(), [iodata], [call_option]) :: results(binary)
  def sign_many(prepared, list, opts \\ []), do: API.Signature.sign_many(prepared, list, opts)

  defbang sign_many!(prepared :: Prepared.t(), list :: [iodata], opts :: [call_option]) ::
            item_results(binary)

  @doc """
  `verify_many/5` with what `prepare/5` has prepared for `:verify`.
  """
  @spec verify_many(Prepared.t(), [{iodata, iodata}], [call_option]) :: results(true)
  def verify_many(prepared, list, opts \\ []),
    do: API.Signature.verify_many(prepared, list, opts)

  defbang verify_many!(
            prepared :: Prepared.t(),
            list :: [{iodata, iodata}],
            opts :: [call_option]
          ) :: item_results(true)

  @doc """
  `encrypt_many/5` with what `prepare/5` has prepared for `:encrypt`. An item has no parameters of its own.
  """
  @spec encrypt_many(Prepared.t(), [iodata], [call_option]) ::
          results(binary | {iv :: binary, ciphertext :: binary})
  def encrypt_many(prepared, list, opts \\ []),
    do: API.Cipher.encrypt_many(prepared, list, opts)

  defbang encrypt_many!(prepared :: Prepared.t(), list :: [iodata], opts :: [call_option]) ::
            item_results(binary | {iv :: binary, ciphertext :: binary})

  @doc """
  `decrypt_many/5` with what `prepare/5` has prepared for `:decrypt`. An item has no parameters of its own.
  """
  @spec decrypt_many(Prepared.t(), [iodata], [call_option]) :: results(binary)
  def decrypt_many(prepared, list, opts \\ []),
    do: API.Cipher.decrypt_many(prepared, list, opts)

  defbang decrypt_many!(prepared :: Prepared.t(), list :: [iodata], opts :: [call_option]) ::
            item_results(binary)

  @doc """
  `digest/4` with what `prepare/5` has prepared for `:digest`.
  """
  @spec digest(Prepared.t(), iodata) :: {:ok, binary} | {:error, Error.t()}
  def digest(prepared, data), do: API.Digest.digest(prepared, data)

  defbang digest!(prepared :: Prepared.t(), data :: iodata) :: binary

  ## Streams

  @doc """
  Signs data that comes in parts: `{:ok, signature}`, a binary. `enumerable` is any enumerable of iodata; it need not fit into memory:

      {:ok, signature} = Pkcs11Pool.sign_stream(MyApp.HSM, "releases", {:rsa_pkcs, hash: :sha256}, File.stream!(path, [], 65_536))

  The signature is the same as that of `sign/5` for all of the data. `{:ecdsa, hash: :sha256}`, `{:rsa_pkcs, hash: :sha256}` and PSS with a hash in its name work on any token, as
  there: if the token does not hash, this library does. A mechanism that takes its data in one piece (`:ecdsa`, `:rsa_pkcs`, `:rsa_pkcs_pss`, `:rsa_pkcs_oaep`,
  ...) raises `ArgumentError`. For other mechanisms, some tokens refuse parts with `:operation_not_initialized` or `:function_not_supported`.

  The following is true of `sign_stream/5`, `verify_stream/6`, `digest_stream/4`, `encrypt_stream/5` and `decrypt_stream/5`:

    * A stream has a session for itself from its beginning to its end (`:leased` in `status/1`), in the process that runs it. Within a `with_session/3` block it uses the
      block's session; if another process uses the lease, it gets `:not_owner`.
    * The data is cut into parts of 64 KiB, whatever the length of the elements. There is one C call for each part. The stream needs memory for two or three parts, however long it is.
    * `:queue_timeout` is how long the stream may wait for its session, `:operation_timeout` how long each C call may take, and `:lease_timeout` how long the whole stream may take,
      including the time of the enumerable: 60 s, unless the pool or the option of this call says otherwise. After that time the error is `:lease_ended`.
    * The beginning, before any data is read, is tried again on another session if that helps, as in `sign/5`. Later, a stream is never continued on another
      session: it ends with an error. You may begin it again, if the enumerable can be enumerated again.
    * If the enumerable raises, throws or exits, so does the call. No operation is left behind: the session is closed. The session of a `with_session/3` block is kept: the operation is
      ended by `C_SessionCancel`, or, if the module does not have it (before PKCS#11 3.0), by its final call. There is one exception: without `C_SessionCancel`, the final call of `sign_stream/5`
      would make a signature of half the data. So the block's session is closed, and the next call in the block is `:lease_ended`.
    * While the stream is in progress, other calls of the same process (in the enumerable, or in the code that consumes a lazy stream) use another session. So two streams, one into the
      other, need two sessions. If the pool has no other session, or within the `with_session/3` block whose session the stream uses, such a call is `:stream_in_progress` at once.
    * An empty enumerable gives the same result as empty data.

  Calls `C_SignInit`, `C_SignUpdate` for each part, and `C_SignFinal`. If this library hashes the data, it calls `C_SignInit` and `C_Sign` (PKCS#11 2.40, 5.11).
  """
  @spec sign_stream(pool, key, mechanism, Enumerable.t(), [signature_option | key_stream_option]) ::
          {:ok, binary} | {:error, Error.t()}
  def sign_stream(pool, key, mechanism, enumerable, opts \\ []),
    do: API.Signature.sign_stream(pool, key, mechanism, enumerable, opts)

  defbang sign_stream!(
            pool,
            key,
            mechanism,
            enumerable :: Enumerable.t(),
            opts :: [signature_option | key_stream_option]
          ) :: binary

  @doc """
  Verifies the signature of data that comes in parts: `:ok`, or the error `:signature_invalid`. See `verify/6`, and `sign_stream/5` about streams.

  Calls `C_VerifyInit`, `C_VerifyUpdate` for each part, and `C_VerifyFinal`. If this library hashes the data, it calls `C_VerifyInit` and `C_Verify` (PKCS#11 2.40, 5.12).
  """
  @spec verify_stream(pool, key, mechanism, Enumerable.t(), iodata, [
          signature_option | key_stream_option
        ]) :: :ok | {:error, Error.t()}
  def verify_stream(pool, key, mechanism, enumerable, signature, opts \\ []),
    do: API.Signature.verify_stream(pool, key, mechanism, enumerable, signature, opts)

  defbang verify_stream!(
            pool,
            key,
            mechanism,
            enumerable :: Enumerable.t(),
            signature :: iodata,
            opts :: [signature_option | key_stream_option]
          ) :: :ok

  @doc """
  The digest of data that comes in parts, computed by the token: `{:ok, binary}`. See `digest/4`, and `sign_stream/5` about streams.

  Calls `C_DigestInit`, `C_DigestUpdate` for each part, and `C_DigestFinal` (PKCS#11 2.40, 5.10).
  """
  @spec digest_stream(pool, mechanism, Enumerable.t(), [stream_option]) ::
          {:ok, binary} | {:error, Error.t()}
  def digest_stream(pool, mechanism, enumerable, opts \\ []),
    do: API.Digest.digest_stream(pool, mechanism, enumerable, opts)

  defbang digest_stream!(
            pool,
            mechanism,
            enumerable :: Enumerable.t(),
            opts :: [stream_option]
          ) :: binary

  @doc """
  Encrypts data that comes in parts: a lazy enumerable of binaries, which together are the ciphertext of `encrypt/5`. See `sign_stream/5` about streams.

      File.stream!(path, [], 65_536)
      |> then(&Pkcs11Pool.encrypt_stream(MyApp.HSM, "vault", {:aes_ctr, counter_block: block}, &1))
      |> Enum.into(File.stream!(path <> ".encrypted"))

  The pool is not called before the result is enumerated. If something fails then, it raises `Pkcs11Pool.Error`; do not use the binaries that came before. Each enumeration is a new
  encryption: with one IV, enumerate it only once, or again only for the same data. A consumer that stops early (`Enum.take/2`) ends the stream, and leaves no operation behind. The token decides
  how long the binaries are; none is empty. Some tokens keep all data, and return everything at the end.

  You give the IV: `iv: :token` raises `ArgumentError`, because a stream of ciphertext has no place for an IV. If the token replaces it, the error is `:iv_replaced`. AES-GCM has its tag
  at the end; the standard allows at most 64 GiB with one IV.

  Calls `C_EncryptInit`, `C_EncryptUpdate` for each part, and `C_EncryptFinal` (PKCS#11 2.40, 5.8). A token that offers a mechanism by messages only (see `encrypt/5`) refuses its stream, as
  a rule with `:mechanism_invalid`.
  """
  @spec encrypt_stream(pool, key, mechanism, Enumerable.t(), [key_stream_option]) ::
          Enumerable.t()
  def encrypt_stream(pool, key, mechanism, enumerable, opts \\ []),
    do: API.Cipher.encrypt_stream(pool, key, mechanism, enumerable, opts)

  @doc """
  Decrypts data that comes in parts: a lazy enumerable of binaries, which together are the plaintext of `decrypt/5`. See `encrypt_stream/5` about lazy streams, and
  `sign_stream/5` about all streams.

  A ciphertext that was changed or cut off raises `:decryption_failed` at the end, *after* the token may have returned plaintext. It is dangerous to use a plaintext before it is verified. So
  with a mechanism that authenticates (AES-GCM, AES-CCM, ChaCha20-Poly1305) you get nothing before the tag is verified:

    * Some tokens keep the plaintext until the final call (SoftHSM does). Then it comes in one piece at the end, and needs the memory for it.
    * Other tokens return plaintext earlier. Then the error is `:plaintext_unverified` at the first part, and you get nothing. You can use `decrypt/5`, which decrypts in one piece on any token. Or
      cut the data into blocks, and encrypt each by itself. Or, with `unverified: :allow`, you get the parts as the token returns them: write them where nobody reads them, and use them only when the
      enumeration has ended without an exception.

  Other mechanisms (AES-CBC, AES-CTR) never verify anything: see `decrypt/5`, and verify a MAC of the ciphertext first (`verify_stream/6`).

  Options, besides those of every stream:

    * `:unverified` - `:refuse` (the default) or `:allow`, see above

  Calls `C_DecryptInit`, `C_DecryptUpdate` for each part, and `C_DecryptFinal` (PKCS#11 2.40, 5.9).
  """
  @spec decrypt_stream(pool, key, mechanism, Enumerable.t(), [
          key_stream_option | {:unverified, :refuse | :allow}
        ]) :: Enumerable.t()
  def decrypt_stream(pool, key, mechanism, enumerable, opts \\ []),
    do: API.Cipher.decrypt_stream(pool, key, mechanism, enumerable, opts)

  ## Digests and random bytes

  @doc """
  The digest of `data` (iodata), computed by the token: `{:ok, binary}`.

  Calls `C_DigestInit` and `C_Digest` (PKCS#11 2.40, 5.10).
  """
  @spec digest(pool, mechanism, iodata, [call_option]) :: {:ok, binary} | {:error, Error.t()}
  def digest(pool, mechanism, data, opts \\ []),
    do: API.Digest.digest(pool, mechanism, data, opts)

  defbang digest!(pool, mechanism, data :: iodata, opts :: [call_option]) :: binary

  @doc """
  The digest of a secret key's value, which does not leave the token: `{:ok, binary}`. Two parties can compare their keys by it (a key check value),
  or derive something from it.

      {:ok, <<check_value::binary-size(3), _rest::binary>>} = Pkcs11Pool.digest_key(MyApp.HSM, :sha256, "vault")

  Options, besides those of every call:

    * `:prefix`, `:suffix` - iodata that is digested before and after the key: `hash(prefix <> key <> suffix)`

  Somebody who sees the digest can check whether a guess at the key is right. So use it only for keys that nobody can guess. The token decides which keys may be
  digested; for others the error is `:key_indigestible`.

  Calls `C_DigestInit`, `C_DigestKey` and `C_DigestFinal`, and `C_DigestUpdate` for a prefix and a suffix (PKCS#11 2.40, 5.10).
  """
  @spec digest_key(pool, mechanism, key, [digest_key_option]) ::
          {:ok, binary} | {:error, Error.t()}
  def digest_key(pool, mechanism, key, opts \\ []),
    do: API.Digest.digest_key(pool, mechanism, key, opts)

  defbang digest_key!(pool, mechanism, key, opts :: [digest_key_option]) :: binary

  @doc """
  Mixes a seed (iodata) into the token's random generator: `:ok`. It adds to what the generator has, and does not replace it.

  Many tokens take no seed: `:random_seed_not_supported`, or `:random_no_rng` if the token makes no random bytes. After a failure of the token the pool may try again: a seed that is
  mixed in twice does no harm. As a rule, the seed changes the generator for all applications that use the token.

  Calls `C_SeedRandom` (PKCS#11 2.40, 5.15).
  """
  @spec seed_random(pool, iodata, [call_option]) :: :ok | {:error, Error.t()}
  def seed_random(pool, seed, opts \\ []), do: API.Random.seed(pool, seed, opts)

  defbang seed_random!(pool, seed :: iodata, opts :: [call_option]) :: :ok

  @doc """
  `n` random bytes from the token, at most 16 MiB: `{:ok, binary}`.

  Calls `C_GenerateRandom` (PKCS#11 2.40, 5.15).
  """
  @spec generate_random(pool, non_neg_integer, [call_option]) ::
          {:ok, binary} | {:error, Error.t()}
  def generate_random(pool, n, opts \\ []), do: API.Random.generate(pool, n, opts)

  defbang generate_random!(pool, n :: non_neg_integer, opts :: [call_option]) :: binary

  ## Keys and objects

  @doc """
  Generates a secret key: `{:ok, object}`.

      Pkcs11Pool.generate_key(MyApp.HSM, :aes_key_gen,
        token: true, label: "vault", id: <<1>>, value_len: 32, private: true, sensitive: true, encrypt: true, decrypt: true)

      Pkcs11Pool.generate_key(MyApp.HSM, :generic_secret_key_gen,
        token: true, label: "tokens", value_len: 32, private: true, sensitive: true, sign: true, verify: true)

  A key of a password (PBKDF2, RFC 8018), where the token offers it:

      Pkcs11Pool.generate_key(MyApp.HSM, {:pkcs5_pbkd2, prf: :hmac_sha256, iterations: 600_000, salt: salt, password: password},
        class: :secret_key, key_type: :aes, value_len: 32, token: true, label: "of a password", encrypt: true, decrypt: true)

  About templates and session objects see `generate_key_pair/5`.

  Calls `C_GenerateKey` (PKCS#11 2.40, 5.13). Never tried again: after an error with `executed: :unknown`, look for the key.
  """
  @spec generate_key(pool, mechanism, template, [generate_option]) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def generate_key(pool, mechanism, template, opts \\ []),
    do: API.Objects.generate_key(pool, mechanism, template, opts)

  defbang generate_key!(pool, mechanism, template, opts :: [generate_option]) :: Object.t()

  @doc """
  Generates a key pair: `{:ok, {public, private}}`.

      Pkcs11Pool.generate_key_pair(MyApp.HSM, :rsa_pkcs_key_pair_gen,
        [token: true, label: "signing", id: <<1>>, modulus_bits: 2048, public_exponent: 65_537, verify: true],
        [token: true, label: "signing", id: <<1>>, private: true, sensitive: true, sign: true])

      Pkcs11Pool.generate_key_pair(MyApp.HSM, :ec_key_pair_gen,
        [token: true, label: "ec", ec_params: :secp256r1, verify: true],
        [token: true, label: "ec", private: true, sensitive: true, sign: true])

  The templates reach the module as they are. A template without `token: true` would make a session object, which ends with the session that made it, and the pool may close that session at
  any time. So the error is `:session_object_needs_session`, unless the call is in a `with_session/3` block, or the call or the pool has the option `session_object: :allow`.

  What has been made is returned, here and by all calls that make objects, also where the token does not say afterwards what it has made
  (`C_GetAttributeValue` fails, twice): `Pkcs11Pool.Object` says what is known of it then.

  Calls `C_GenerateKeyPair` (PKCS#11 2.40, 5.13), and `C_GetAttributeValue` for each key. Never tried again: after an error with `executed: :unknown`, look for the keys.
  """
  @spec generate_key_pair(pool, mechanism, template, template, [generate_option]) ::
          {:ok, {Object.t(), Object.t()}} | {:error, Error.t()}
  def generate_key_pair(pool, mechanism, public_template, private_template, opts \\ []),
    do: API.Objects.generate_key_pair(pool, mechanism, public_template, private_template, opts)

  defbang generate_key_pair!(
            pool,
            mechanism,
            public_template :: template,
            private_template :: template,
            opts :: [generate_option]
          ) :: {Object.t(), Object.t()}

  @doc """
  The objects that match the template: `{:ok, [object]}`. An empty template finds every visible object.

  With `limit: n` (1 to 1,000,000) at most `n` objects are returned, and the others are left out. Without it, more than 10,000 objects are the error
  `:too_many_objects`.

  If the token refuses to describe an object (CKR_OBJECT_HANDLE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID, CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED), the search is made again,
  up to 8 times. An object that is not found any more has vanished, and is left out. An object that is found each time is returned with what can be read of it: `:class`
  and `:key_type` may be nil, as for every object, and `:id` or `:label` is nil if the token refused it. SoftHSM leaves such objects on the token if a `C_GenerateKey`
  fails during a search; `destroy_object/3` removes them. The call fails with the token's code in two cases: nothing of the object can be read, the code may come from
  the device (CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED), and the token describes no other object of the search; or the token answers
  CKR_OBJECT_HANDLE_INVALID 8 times for what it finds. Other codes fail the call at once, as in all calls.

  Calls `C_FindObjectsInit`, `C_FindObjects`, `C_FindObjectsFinal`, and `C_GetAttributeValue` for each (PKCS#11 2.40, 5.7).
  """
  @spec find_objects(pool, template, [call_option | {:limit, pos_integer}]) ::
          {:ok, [Object.t()]} | {:error, Error.t()}
  def find_objects(pool, template, opts \\ []), do: API.Objects.find(pool, template, opts)

  defbang find_objects!(pool, template, opts :: [call_option | {:limit, pos_integer}]) :: [
            Object.t()
          ]

  @doc """
  The X.509 certificates that match the template: `{:ok, [object]}`, each with the certificate in its `:der`. An empty template finds every visible certificate.

      {:ok, [certificate]} = Pkcs11Pool.find_certificates(MyApp.HSM, label: "tls")
      :public_key.pkix_decode_cert(certificate.der, :otp)

      # A signature with its private key.
      Pkcs11Pool.sign(MyApp.HSM, {:certificate, certificate.der}, {:ecdsa, hash: :sha256}, "message")

  In the template, `:subject` and `:issuer` are DER, names as OTP has them (`{:rdnSequence, _}`, of a certificate that `:public_key` has decoded), or as
  `Pkcs11Pool.X509` has them (`[common_name: "example.com"]`, with the UTF-8 strings that it writes: other software may have written the name in another way).
  `:serial_number` is a non-negative integer, or DER. They are compared with the attributes of the object (`CKA_SUBJECT` and so on), not with the certificate itself.

  If only a `:url` of the certificate is on the token, its `:der` is nil. A certificate that is destroyed before it is read is left out. About `:limit`, and tokens that
  refuse to describe an object, see `find_objects/3`.

  Calls `C_FindObjectsInit`, `C_FindObjects`, `C_FindObjectsFinal`, and `C_GetAttributeValue` twice for each (PKCS#11 2.40, 5.7). The search, and the reading of each certificate, are separate operations; the
  call's time-outs hold for each of them.
  """
  @spec find_certificates(pool, template, [call_option | {:limit, pos_integer}]) ::
          {:ok, [Object.t()]} | {:error, Error.t()}
  def find_certificates(pool, template, opts \\ []),
    do: API.Certificates.find(pool, template, opts)

  defbang find_certificates!(pool, template, opts :: [call_option | {:limit, pos_integer}]) :: [
            Object.t()
          ]

  @doc """
  Reads attributes of an object: `{:ok, %{name => value}}`, with values as in `Pkcs11Pool.Template`.

  If the token does not reveal an attribute, the error is `:attribute_sensitive`. If the object does not have it, the error is `:attribute_type_invalid`. Both have the
  names in `details.attributes`. With `partial: true` the value of such an attribute is `:unavailable` instead.

  If the object has a `:unique_id` (see `Pkcs11Pool.Object`), the same call reads it: if the handle belongs to another object by now, the error is
  `:object_stale`. An object without a unique id that somebody has destroyed is searched by class, id and label: if another object has the same, the attributes are
  that object's.

  Calls `C_GetAttributeValue` (PKCS#11 2.40, 5.7).
  """
  @spec get_attributes(pool, key, [Template.name()], [key_option | {:partial, boolean}]) ::
          {:ok, %{optional(Template.name()) => term}} | {:error, Error.t()}
  def get_attributes(pool, object, names, opts \\ []),
    do:
      API.Attributes.read(
        pool,
        object,
        nil,
        names,
        Options.Call.validate!(opts, [:partial, :select])
      )

  defbang get_attributes!(
            pool,
            object :: key,
            names :: [Template.name()],
            opts :: [key_option | {:partial, boolean}]
          ) :: %{optional(Template.name()) => term}

  @doc """
  Wraps a key: `{:ok, wrapped}`, a binary. This is the key, encrypted with another key. It may be stored, or given to another token, which unwraps it (`unwrap_key/6`).

      {:ok, wrapped} = Pkcs11Pool.wrap_key(MyApp.HSM, "kek", :aes_key_wrap_pad, [label: "signing", class: :private_key])
      {:ok, wrapped} = Pkcs11Pool.wrap_key(MyApp.HSM, "partner", {:rsa_pkcs_oaep, hash: :sha256}, "dek")

  The wrapping key must be on the token. To wrap with somebody else's public key, put it on the token by `create_object/3`.

  | mechanism | the wrapping key | what it wraps |
  |---|---|---|
  | `:aes_key_wrap` | AES | keys of 16 bytes or more, a multiple of 8 (RFC 3394): AES keys; private keys on few tokens |
  | `:aes_key_wrap_kwp`, on many tokens by its older name `:aes_key_wrap_pad` | AES | keys of any length (RFC 5649), private keys in PKCS #8, too |
  | `{:aes_cbc_pad, iv: iv}`, `{:aes_cbc, iv: iv}` | AES | keys of any length; with `:aes_cbc` whole blocks only. Nothing is verified: if the wrapped key was changed, another key may come out |
  | `{:aes_gcm, iv: iv}` | AES | keys of any length, verified; with `iv: :token` the result is `{:ok, {iv, wrapped}}` |
  | `{:rsa_pkcs_oaep, hash: :sha256}`, `:rsa_pkcs` | the public key of RSA | secret keys that are shorter than the modulus |
  | `{:rsa_aes_key_wrap, hash: :sha256}` | the public key of RSA | keys of any length, also private keys: the token makes an AES key for it, and wraps that with OAEP |
  | `{:ecdh_aes_key_wrap, kdf: :sha256}` | the public key of EC | the same, with an AES key that the token and the owner of the private key share by ECDH |

  The mechanism does not imply the class of the key that is wrapped. If several objects have its label or id, such as the two halves of a pair, give the `:class`, too. `:select`
  (`t:key_option/0`) is used for each of the two keys.

  The key needs `extractable: true`; otherwise the error is `:key_unextractable`. A key with `wrap_with_trusted: true` can be wrapped only by a key with `trusted: true`;
  otherwise the error is `:key_not_wrappable`. A wrapping key that does not fit the mechanism is `:key_type_inconsistent`, and the module is not called. An error says in
  `details.argument` which of the two keys it is about: `:wrapping_key` or `:key`.

  To check that the other side has the same key, compare key check values (see `key_info/3`). If the length of a key is not a multiple of 8 bytes, SoftHSM 2.6.1 loses the length when it wraps the
  key with padding: the unwrapped key has zeros at its end.

  Calls `C_WrapKey` (PKCS#11 2.40, 5.13). Never tried again if it may have run.
  """
  @spec wrap_key(pool, key, mechanism, key, [key_option]) ::
          {:ok, binary | {iv :: binary, wrapped :: binary}} | {:error, Error.t()}
  def wrap_key(pool, wrapping_key, mechanism, key, opts \\ []),
    do: API.Objects.wrap_key(pool, wrapping_key, mechanism, key, opts)

  defbang wrap_key!(
            pool,
            wrapping_key :: key,
            mechanism,
            key,
            opts :: [key_option]
          ) :: binary | {iv :: binary, wrapped :: binary}

  @doc """
  Unwraps a key: `{:ok, object}`, a key on the token. The key is never visible outside of the token in the clear.

      Pkcs11Pool.unwrap_key(MyApp.HSM, "kek", :aes_key_wrap, wrapped,
        class: :secret_key, key_type: :aes, token: true, label: "dek", sensitive: true, encrypt: true, decrypt: true)

  `wrap_key/5` lists the mechanisms. The template needs the `:class` and `:key_type` of the key that was wrapped (for instance `class: :private_key, key_type: :ec`), but not its length.

  If the wrapped key was changed, or was wrapped in another way, the token decides which error it is (`:wrapped_key_invalid`, `:encrypted_data_invalid`, with SoftHSM `:general_error`, with
  kryoptic `:device_error`). Do not tell the sender of a wrapped key which error it was, above all with `:rsa_pkcs` and `:aes_cbc_pad`: with many such answers an attacker can find out the key.

  The unwrapping key needs `unwrap: true`. If it does not fit the mechanism, the error is `:key_type_inconsistent`, and the module is not called. The mechanism implies its class. About templates and session objects see `generate_key_pair/5`.

  Calls `C_UnwrapKey` (PKCS#11 2.40, 5.13). Never tried again if it may have run: after an error with `executed: :unknown`, look for the key.
  """
  @spec unwrap_key(pool, key, mechanism, iodata, template, [derive_option]) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def unwrap_key(pool, unwrapping_key, mechanism, wrapped, template, opts \\ []),
    do: API.Objects.unwrap_key(pool, unwrapping_key, mechanism, wrapped, template, opts)

  defbang unwrap_key!(
            pool,
            unwrapping_key :: key,
            mechanism,
            wrapped :: iodata,
            template,
            opts :: [derive_option]
          ) :: Object.t()

  @doc """
  Derives a key from another one: `{:ok, object}`. The two sides of a key agreement derive the same one, each from its own private key and the other's public point
  (uncompressed, bare or as a DER OCTET STRING: that depends on the token):

      Pkcs11Pool.derive_key(MyApp.HSM, "agreement", {:ecdh1_derive, public_data: point},
        class: :secret_key, key_type: :generic_secret, value_len: 32, token: true, label: "shared", derive: true)

  Many keys can be derived from one secret key:

      Pkcs11Pool.derive_key(MyApp.HSM, "shared", {:hkdf_derive, hash: :sha256, salt: salt, info: "to the server"},
        class: :secret_key, key_type: :aes, value_len: 32, token: true, label: "to the server", encrypt: true)

  | mechanism | the base key | the derived key |
  |---|---|---|
  | `:ecdh1_derive`, `:ecdh1_cofactor_derive` | EC, X25519, X448 | the shared secret, or with a `:kdf` the result of a key derivation function (ANSI X9.63, or SP 800-56A: `:sha256_kdf_sp800`) |
  | `:dh_pkcs_derive` | Diffie-Hellman | the shared secret |
  | `:hkdf_derive` | a secret key | HKDF (RFC 5869) |
  | `:sp800_108_counter_kdf`, `:sp800_108_feedback_kdf`, `:sp800_108_double_pipeline_kdf` | a secret key | the KDFs of NIST SP 800-108, with HMAC or CMAC |
  | `:concatenate_base_and_key` | a secret key | its value and that of another secret key |
  | `:concatenate_base_and_data`, `:concatenate_data_and_base`, `:xor_base_and_data` | a secret key | its value and data, or both by exclusive or |
  | `:extract_key_from_key` | a secret key | a part of its value |
  | `:aes_ecb_encrypt_data`, `:aes_cbc_encrypt_data`, ... | AES, ... | data, encrypted with it |

  `Pkcs11Pool.Mechanism` has their parameters. If the parameters name a second key (`:concatenate_base_and_key`, the salt of HKDF), it is found like the base key, among the secret keys, and `:select` is used
  for it, too. An error says in `details.argument` which of the two it is about: `:base_key` or `:mechanism`. To make a key from a password, use `generate_key/4` with `:pkcs5_pbkd2`.

  The base key needs `derive: true`. A base key that does not fit the mechanism is `:key_type_inconsistent`, and the module is not called. The mechanism implies the class of the base key. About templates and session objects see `generate_key_pair/5`.

  Calls `C_DeriveKey` (PKCS#11 2.40, 5.13). Never tried again if it may have run: after an error with `executed: :unknown`, look for the key.
  """
  @spec derive_key(pool, key, mechanism, template, [derive_option]) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def derive_key(pool, base_key, mechanism, template, opts \\ []),
    do: API.Objects.derive_key(pool, base_key, mechanism, template, opts)

  defbang derive_key!(
            pool,
            base_key :: key,
            mechanism,
            template,
            opts :: [derive_option]
          ) :: Object.t()

  @doc """
  Makes a new secret that only the holder of a private key can share: `{:ok, {ciphertext, object}}`. The object is the key that the token makes from the secret. The holder of the private
  key makes the same key from the ciphertext (`decapsulate/6`, or FIPS 203 in other software).

      {:ok, {ciphertext, key}} =
        Pkcs11Pool.encapsulate(MyApp.HSM, "their key", :ml_kem,
          class: :secret_key, key_type: :aes, value_len: 32, token: true, label: "shared", encrypt: true, decrypt: true)

  The public key must be an object on the token. If you have its raw bytes, make an object from them with `create_object/3`:

      Pkcs11Pool.create_object(MyApp.HSM,
        class: :public_key, key_type: :ml_kem, parameter_set: :ml_kem_768, value: raw, encapsulate: true, token: true, label: "their key")

  About templates and session objects see `generate_key_pair/5`. The key is useless without its ciphertext. So if the caller is gone when
  the token has made them, or if the length of the ciphertext cannot be right (`:output_length_invalid`), the key is destroyed. After an error with `executed: :unknown`, the key may be on the token:
  find it by its label, and destroy it.

  Calls `C_EncapsulateKey` (PKCS#11 3.2, 5.18); with an older module the error is `:function_not_supported`. Never tried again if it may have run.
  """
  @spec encapsulate(pool, key, mechanism, template, [derive_option]) ::
          {:ok, {ciphertext :: binary, Object.t()}} | {:error, Error.t()}
  def encapsulate(pool, public_key, mechanism, template, opts \\ []),
    do: API.Objects.encapsulate(pool, public_key, mechanism, template, opts)

  defbang encapsulate!(
            pool,
            public_key :: key,
            mechanism,
            template,
            opts :: [derive_option]
          ) :: {ciphertext :: binary, Object.t()}

  @doc """
  Makes the key from a ciphertext that somebody has encapsulated for a private key: `{:ok, object}`.

      {:ok, key} =
        Pkcs11Pool.decapsulate(MyApp.HSM, "our key", :ml_kem, ciphertext,
          class: :secret_key, key_type: :aes, value_len: 32, token: true, label: "shared", encrypt: true, decrypt: true)

  ML-KEM does not notice that a ciphertext was changed: the result is another key, not an error (FIPS 203, 6.3). A ciphertext whose length does not fit the key
  is `:encrypted_data_len_range`, and the module is not called.

  About templates and session objects see `generate_key_pair/5`.

  Calls `C_DecapsulateKey` (PKCS#11 3.2, 5.18); with an older module the error is `:function_not_supported`. Never tried again if it may have run: after an error with
  `executed: :unknown`, look for the key.
  """
  @spec decapsulate(pool, key, mechanism, iodata, template, [derive_option]) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def decapsulate(pool, private_key, mechanism, ciphertext, template, opts \\ []),
    do: API.Objects.decapsulate(pool, private_key, mechanism, ciphertext, template, opts)

  defbang decapsulate!(
            pool,
            private_key :: key,
            mechanism,
            ciphertext :: iodata,
            template,
            opts :: [derive_option]
          ) :: Object.t()

  @doc """
  Creates an object from its attributes: `{:ok, object}`. It may be a public key, a secret key, a certificate or data:

      Pkcs11Pool.create_object(MyApp.HSM,
        class: :certificate, certificate_type: :x_509, token: true, label: "tls", subject: subject, value: der)

      Pkcs11Pool.create_object(MyApp.HSM,
        class: :secret_key, key_type: :aes, token: true, label: "vault", value: <<0::256>>, encrypt: true, decrypt: true)

  About templates and session objects see `generate_key_pair/5`. After the call, the template's bytes are overwritten in native memory, but not in your own binary.
  Many tokens take no key in the clear; the error is the token's then.

  Calls `C_CreateObject` (PKCS#11 2.40, 5.7). Never tried again: after an error with `executed: :unknown`, look for the object.
  """
  @spec create_object(pool, template, [generate_option]) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def create_object(pool, template, opts \\ []), do: API.Objects.create(pool, template, opts)

  defbang create_object!(pool, template, opts :: [generate_option]) :: Object.t()

  @doc """
  Puts a private key that was made elsewhere on the token: `{:ok, object}`.

      pem = File.read!("key.pem")
      Pkcs11Pool.import_private_key(MyApp.HSM, pem, token: true, label: "tls", id: <<1>>, private: true, sensitive: true, sign: true)

  The *key* is an RSA key, or a key on a curve (ECDSA, Edwards, Montgomery; the curve may also be given by explicit parameters): an `RSAPrivateKey`, `ECPrivateKey` or
  `PrivateKeyInfo` as OTP's `:public_key` has it, DER of one of these, or PEM with one private key and perhaps certificates. Decrypt an encrypted key
  before (`:public_key.pem_entry_decode/2`). Anything else raises `ArgumentError`, whose message shows nothing of it.

  The template is that of `create_object/3`, without the attributes that the key determines: `:class`, `:key_type`, and `:modulus` and so on, or `:ec_params` and `:value`. If the template contradicts
  the key, it raises `ArgumentError`. About templates and session objects see `generate_key_pair/5`.

  No public key is made. If you need it on the token, for `verify/6` and `public_key/3`, make it by `create_object/3`:

      {:ECPrivateKey, _, _, {:namedCurve, _}, point, _} = key = :public_key.generate_key({:namedCurve, :secp256r1})

      Pkcs11Pool.create_object(MyApp.HSM,
        class: :public_key, key_type: :ec, token: true, label: "tls", id: <<1>>, verify: true,
        ec_params: :secp256r1, ec_point: <<4, byte_size(point)>> <> point)

  After the call, the key's bytes are overwritten in native memory, but not in your own binary. Many tokens take no key in the clear; the error is the token's then.

  Calls `C_CreateObject` (PKCS#11 2.40, 5.7). Never tried again: after an error with `executed: :unknown`, look for the key.
  """
  @spec import_private_key(pool, tuple | binary, template, [generate_option]) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def import_private_key(pool, key, template, opts \\ []),
    do: API.Objects.import_private_key(pool, key, template, opts)

  defbang import_private_key!(
            pool,
            key :: tuple | binary,
            template,
            opts :: [generate_option]
          ) :: Object.t()

  @doc """
  Copies an object: `{:ok, object}`. The template has the attributes that differ. It also has `token: true` if the copy is to stay on the token, since many tokens do not copy
  that attribute. The object is found as in `destroy_object/3`.

  Calls `C_CopyObject` (PKCS#11 2.40, 5.7). Never tried again: after an error with `executed: :unknown`, look for the object.
  """
  @spec copy_object(pool, key, template, [generate_option]) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def copy_object(pool, object, template, opts \\ []),
    do: API.Objects.copy(pool, object, template, opts)

  defbang copy_object!(pool, object :: key, template, opts :: [generate_option]) :: Object.t()

  @doc """
  Sets attributes of an object to new values: `:ok`. The object is found as in `destroy_object/3`.

  The `%Pkcs11Pool.Object{}` that the caller has keeps its old label and id: after a logout or a reload it is found by its `:unique_id` only.

  Calls `C_SetAttributeValue` (PKCS#11 2.40, 5.7). Never tried again if it may have run: after an error with `executed: :unknown`, read the
  attributes. In any case the pool forgets the handles of all keys, since the object may have another label or id from now on.
  """
  @spec set_attributes(pool, key, template, [call_option]) :: :ok | {:error, Error.t()}
  def set_attributes(pool, object, template, opts \\ []),
    do: API.Objects.set_attributes(pool, object, template, opts)

  defbang set_attributes!(pool, object :: key, template, opts :: [call_option]) :: :ok

  @doc """
  How many bytes of the token's memory an object takes: `{:ok, bytes}`, or `{:ok, :unavailable}` if the token does not tell. SoftHSM never does. The
  token decides what it counts: the number is neither the length of a key nor that of a value.

  An object of an earlier call is found as in `get_attributes/4`. A token may refuse to tell the size of a key (`:information_sensitive`).

  Calls `C_GetObjectSize` (PKCS#11 2.40, 5.7), and `C_GetAttributeValue` for an object with a `:unique_id`.
  """
  @spec object_size(pool, key, [call_option]) ::
          {:ok, non_neg_integer | :unavailable} | {:error, Error.t()}
  def object_size(pool, object, opts \\ []), do: API.Objects.size(pool, object, opts)

  defbang object_size!(pool, object :: key, opts :: [call_option]) ::
            non_neg_integer | :unavailable

  @doc """
  Destroys an object: `:ok`. Give an object of an earlier call, or a key that identifies one (`t:key/0`). If several objects have the same label or id, give the `:class`, too.

  No other object is ever destroyed. If the token has `CKA_UNIQUE_ID` (PKCS#11 3.0), an object of an earlier call has a `:unique_id`, and the pool reads it before it destroys
  anything. After a logout, a reload or an absence of the token, the pool searches the object by its unique id: it is destroyed if the token finds exactly one object;
  otherwise the error is `:object_stale`. An object without a `:unique_id` is always `:object_stale` then, since another object may have its id and label by now: find it again with
  `find_objects/3`.

  Calls `C_DestroyObject` (PKCS#11 2.40, 5.7). With a `:unique_id`, it calls `C_GetAttributeValue` before, and `C_FindObjects` if needed. Never tried again.
  """
  @spec destroy_object(pool, key, [call_option]) :: :ok | {:error, Error.t()}
  def destroy_object(pool, object, opts \\ []), do: API.Objects.destroy(pool, object, opts)

  defbang destroy_object!(pool, object :: key, opts :: [call_option]) :: :ok

  @doc """
  The public key as OTP's `:public_key` takes it: `{:ok, {:RSAPublicKey, n, e}}` or `{:ok, {{:ECPoint, point}, {:namedCurve, oid}}}`. Post-quantum keys have their raw bytes at
  the end:

    * ML-DSA: `{:"ML-DSAPublicKey", :mldsa65, key}`, and SLH-DSA: `{:"SLH-DSAPublicKey", :slh_dsa_sha2_128s, key}`. That is a record of `:public_key` from OTP 28 on; older
      releases know neither
    * ML-KEM: `{:mlkem768, key}`, which the function `encapsulate_key` of `:crypto` takes from OTP 28 on

  If the token gives a curve by explicit parameters, it is `{:ecParameters, record}`, up to OTP 27: OTP 28 no longer knows such keys.

  A label, an id or a template finds the public key object. If there is none, the attributes of the private key are used: they are sufficient for RSA, and for all keys if the token has
  their `:public_key_info`.

  Calls `C_GetAttributeValue` (PKCS#11 2.40, 5.7).
  """
  @spec public_key(pool, key, [key_option]) :: {:ok, public_key} | {:error, Error.t()}
  def public_key(pool, key, opts \\ []),
    do: API.Attributes.read_public_key(pool, key, Options.Call.validate!(opts, [:select]))

  defbang public_key!(pool, key, opts :: [key_option]) :: public_key

  @doc """
  Describes a key: `{:ok, map}`. A value is nil if the token does not tell it.

    * `:class`, `:type` - for instance `:private_key` and `:rsa`; a vendor's own are numbers
    * `:bits` - the length of an RSA key's modulus, of the order of an ECDSA key's curve, of the field of an Edwards or Montgomery curve (255 or 448), of the prime of a DSA or
      Diffie-Hellman key, or of a secret key's value (for DES with its parity: 64, 128 or 192)
    * `:curve` - its name, such as `:secp256r1`, `:ed25519`, `:x25519`
    * `:parameter_set` - of a post-quantum key: `:ml_dsa_65`, `:slh_dsa_sha2_128s`, `:ml_kem_768`, ...
    * `:label`, `:id`
    * `:usage` - what the key may be used for, a list of `:encrypt`, `:decrypt`, `:sign`, `:sign_recover`, `:verify`, `:verify_recover`, `:wrap`,
      `:unwrap`, `:derive`, `:encapsulate` and `:decapsulate`
    * `:check_value` - the key check value that the token has of a secret key (`CKA_CHECK_VALUE`), mostly 3 bytes: the beginning of zeros that are encrypted with it. See below
    * `:token`, `:private`, `:sensitive`, `:extractable`, `:always_sensitive`, `:never_extractable`, `:local`, `:modifiable`,
      `:always_authenticate` - the attributes of these names

  By the check value two sides can see whether they have the same key, if both tokens follow the standard. Not all do: SoftHSM 2.6.1 has no check value for a key that was unwrapped, and for a derived key
  it has the beginning of its SHA-1 digest. kryoptic has no check values, and ignores one in a template. For a key that may encrypt, you can compute it:

      {:ok, <<check_value::binary-size(3), _rest::binary>>} = Pkcs11Pool.encrypt(MyApp.HSM, "dek", :aes_ecb, <<0::128>>)

  A label, an id or a template without `:class` finds the private key; if there is none, the secret key; if there is none either, the public key.

  Calls `C_GetAttributeValue` (PKCS#11 2.40, 5.7), once, or a few times if the token stops at an attribute that the key does not have. The value of a
  key is never read.
  """
  @spec key_info(pool, key, [key_option]) ::
          {:ok, %{required(atom) => term}} | {:error, Error.t()}
  def key_info(pool, key, opts \\ []),
    do: API.KeyInfo.read(pool, key, Options.Call.validate!(opts, [:select]))

  defbang key_info!(pool, key, opts :: [key_option]) :: %{required(atom) => term}
end
