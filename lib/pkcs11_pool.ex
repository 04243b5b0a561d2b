defmodule Pkcs11Pool do
  @external_resource "README.md"
  @moduledoc "README.md" |> File.read!() |> String.split("<!-- MDOC !-->") |> Enum.fetch!(1)

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
    Template,
    Token
  }

  @typedoc "The name of a pool, its `:name` option; or the lease of a `with_session/3` block."
  @type pool :: term

  @typedoc """
  A key or another object: an object that an earlier call returned, a template (`[label: "signing"]`, `[id: <<1>>]`), a label, a
  PKCS#11 URI, or the public key or certificate that it belongs to. Where the operation implies a class (a private key signs), it need not be given.

  A template must identify an object: at least one of `:label`, `:id`, `:unique_id`, `:value`, `:modulus`, `:ec_point`, `:public_key_info`,
  `:check_value`, `:subject`, `:serial_number`, `:object_id`, `:url`, `:hash_of_subject_public_key`, `:hash_of_certificate`, or a vendor's
  attribute of bytes, with a value that is not empty. A URI must have `object` or `id`. What many objects share (the class, the key type, the token,
  booleans) would find whatever single object there is: such a key, `[]` and `""` raise `ArgumentError`.

  No match is `:key_not_found`; more than one is `:ambiguous_key`, with their ids and labels in `details.candidates`.
  One whose class or type is none of the mechanism's is `:key_type_inconsistent`, and does not reach the module: it might crash. A vendor's mechanism takes any key.

  With `[unique_id: id]` (PKCS#11 3.0, 4.4.1) each object that a search finds is asked for its own `CKA_UNIQUE_ID`: not all tokens search by it, and some take no
  notice of it.

  `{:public_key, key}` and `{:certificate, certificate}` name the key on the token that belongs to it: the private key where one signs, decrypts, unwraps or
  derives, the public key where one verifies or encrypts, and the private key where nothing says which. A *public key* is of RSA, or on a curve (ECDSA,
  Edwards, Montgomery), as OTP has it (`{:RSAPublicKey, n, e}`, `{{:ECPoint, point}, {:namedCurve, oid}}`, or what `public_key/3` returns), or its SubjectPublicKeyInfo in DER or
  PEM; a *certificate* is one X.509 certificate in DER, in PEM, or as OTP's `:public_key` decodes it.

  Such a key is looked for by modulus and exponent, by its point, or by `CKA_PUBLIC_KEY_INFO`, and what is found must say so itself. Many tokens say nothing of the
  kind of private keys on curves. Of those, the private keys are taken that have the `CKA_ID` of a public key or certificate on the token that is this
  one, and each must prove itself: it signs the text `pkcs11_pool key test` (`C_SignInit`, `C_Sign`), and the signature is verified on the token (`C_Verify`; where it
  has the public key not but in a certificate, with a session object that is made for it). A key that does not prove itself (it is another one; it may not sign; it
  wants a login for each use) is not used: the error is `:key_not_found`, and `details` says how many `:public_keys` and `:certificates` were found, and how many private keys were
  `:unproved`. All of this is done once; from then on the key's handle is remembered, as it is for a label.
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

    * `:queue_timeout` - ms that the operation may wait before it starts, or `:infinity`; by default the pool's. With 0 it runs if a
      session is free (or may be opened) at once, and else never
    * `:operation_timeout` - ms that it may run, opening a session, login and retry included, or `:infinity`; by default the pool's
    * `:telemetry_metadata` - a map that is merged into the metadata of the call's telemetry events
  """
  @type call_option ::
          {:queue_timeout, timeout} | {:operation_timeout, timeout} | {:telemetry_metadata, map}

  @typedoc """
  What every call with options takes that does something with a key. `:select` says which one is meant where several have the key's label or id on purpose, as after a
  rotation; without it, that is `:ambiguous_key`.

    * `select: :newest` - the key with the last `CKA_START_DATE` (`:start_date`) that is not after today (UTC). Keys without a date are older than those that have one. A private key whose date the token fails to read
      (SoftHSM 2.6 does, of private objects) has that of the public key with its id. Where none has a
      date, it is the highest version if all their ids name versions of one key as Google's kmsp11 has them (`.../cryptoKeys/NAME/cryptoKeyVersions/NUMBER`; it has no dates). Where neither
      tells (no dates, two keys of the last date, all dates in the future, a date that cannot be read), the error is `:ambiguous_key`, with the reason in `details.newest`. A single key needs no date. The
      choice is made among up to 1,000 keys, and remembered for the pool's `:key_cache_ttl` at most: for so long a key that others put on the token may stay unnoticed. In a list
      (`sign_many/5`), each slice makes it anew then.
    * `select: fun` - the function is given the candidates (`[%Pkcs11Pool.Object{}]`, also if it is but one) of the class that the operation implies, and returns one of them, or nil for
      none (`:key_not_found`). It runs in the calling process, after a search on the token (`find_objects/3`) that is made in each call: a key that is used often is better chosen once, and kept.

  It is of no meaning for a `%Pkcs11Pool.Object{}`, `{:public_key, key}` and `{:certificate, certificate}`, which name one key. `destroy_object/3`, `set_attributes/4` and `copy_object/4` do not take it: find
  the object, and give them that.
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
  Options of streams, see `sign_stream/5`: `:lease_timeout` - ms that the whole stream may have its session, or `:infinity`; by default the pool's.
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

  The options are those of `start_link/1`, and are checked here: unknown or bad ones raise `ArgumentError`. A pool belongs before whatever calls it.

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
  only for what a restart cannot mend: `:module_load_failed`, `:module_digest_mismatch`, `:module_conflict`, `:slot_in_use`, and
  `:function_not_supported` of a pool with a `:username` whose module has no `C_LoginUser`. What the token
  says (it is absent, it refuses the PIN) starts the pool all the same; calls get the precise reason, and the pool looks for its
  token until it is there. With `start: :strict` that fails the start, too.

  Calls `C_Initialize`, `C_GetSlotList`, `C_GetTokenInfo`, and then, unless `:lazy`, `C_OpenSession` and `C_Login` (or `C_LoginUser`), in the background.
  """
  @spec start_link(keyword | struct) ::
          {:ok, pid} | {:error, Error.t() | {:already_started, pid} | term}
  def start_link(%Options{} = options), do: API.Pool.start_link(options)
  def start_link(options), do: options |> Options.validate!() |> API.Pool.start_link()

  @doc """
  Waits until the pool has a session, logged in where it logs in; at most `timeout` ms in all. `:ok`, or why it has none.

  While the pool is down (no slot matches, the token is away), it waits for the token to be there; when the time is over, the error is the last
  reason. What no waiting mends comes at once: a refused PIN, a PIN source that gives none, `:pool_not_found`, `:draining`.
  """
  @spec await_ready(pool, timeout) :: :ok | {:error, Error.t()}
  def await_ready(pool, timeout), do: AwaitReady.await(pool, timeout, :wait)

  defbang await_ready!(pool, timeout) :: :ok

  @doc """
  One consistent snapshot:

    * `:state` - `:up`, `:down` (no token: `:down` is the error) or `:draining`
    * `:health` - whether calls succeed, as far as the pool knows: `:ready`, `:degraded` (they do, but something is wrong) or `:down` (they
      fail, or wait in vain), see `Pkcs11Pool.Health`
    * `:health_reason` - the `Pkcs11Pool.Error` that says what is wrong, nil if the pool is ready
    * `:health_since` - since when, in milliseconds since 1970 (`DateTime.from_unix!(since, :millisecond)`), nil if the pool is ready
    * `:executor` - `:dirty_io`, `:threads`, or `:mixed` after a resize beyond the dirty-IO schedulers
    * `:size` - the most sessions; `:ceiling` - the most that the token allows now
    * `:idle`, `:running`, `:leased`, `:opening`, `:closing` - sessions
    * `:waiting` - operations
    * `:hung` - calls that the module does not return from though their time is over, and sessions that such calls have left to be closed. On
      native threads they are quarantined: their sessions are in no other number, and others take their places, up to `:size`
    * `:serialized` - whether one call is in the module at a time
    * `:panics` - faults of this library's own native threads and calls in this VM, which they survived: anything but 0 is worth a report, with
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
  Grows or shrinks the pool to `n` sessions. No call fails of it: surplus sessions close as they come free.

  An `n` that is not from 1 to 1,024 raises `ArgumentError`; a `:token` pool has exactly one session (`:pool_size_fixed`).
  """
  @spec resize(pool, 1..1_024) :: :ok | {:error, Error.t()}
  defdelegate resize(pool, n), to: API.Pool

  defbang resize!(pool, n :: 1..1_024) :: :ok

  @doc """
  Takes the pool out of service: new calls and those that wait are answered with `:draining`, those that run are given `timeout` ms, and all
  sessions close. `{:ok, left}`, the number of sessions that are still in use. Only a restart brings the pool back.

  Within a `with_session/3` block its own session is not waited for, since the block would not end: it is one of those that are left.
  """
  @spec drain(pool, timeout) :: {:ok, left :: non_neg_integer} | {:error, Error.t()}
  defdelegate drain(pool, timeout), to: API.Pool

  defbang drain!(pool, timeout) :: left :: non_neg_integer

  @doc """
  Runs `fun` with a session that is the calling process's own for so long, and returns what it returns.

      Pkcs11Pool.with_session(MyApp.HSM, fn lease ->
        {:ok, random} = Pkcs11Pool.generate_random(lease, 32)
        Pkcs11Pool.sign(lease, "signing", :sha256_rsa_pkcs, random)
      end)

  Within the block, in the same process, calls by the pool's name use the leased session as well, and so does a nested `with_session/3`. From
  another process the lease gives `:not_owner`, after the block `:lease_ended`. A lease that is held for longer than the pool's
  `:lease_timeout` ends, and the holder is named in the log. The session is closed rather than used again when the holder died, the
  lease expired, or an operation still ran on it.

  A session for it cannot be had: `{:error, error}`, and `fun` is not called. `fun` takes the lease, or nothing.
  """
  @spec with_session(pool, (Lease.t() -> result) | (() -> result), [call_option]) ::
          result | {:error, Error.t()}
        when result: term
  def with_session(pool, fun, opts \\ []), do: API.WithSession.run(pool, fun, opts)

  @doc """
  Logs in with the PIN of this source, which is what the `:pin` option takes; `nil` for a pool with `protected_authentication_path: true`.

      :ok = Pkcs11Pool.login(MyApp.HSM, {MyApp.Secrets, :new_pin, []})

  This is how somebody who knows the right PIN ends the wait after a refused one: the PIN is tried even if it was refused before, once. The
  pool's own source stays what it is. With `force: true` it is tried even when one more wrong PIN would lock the token, or the token says that it
  is locked.

  `:ok` if the token is logged in with this very PIN already; with another PIN, or as another user, that is `:login_conflict`, and
  nobody is logged out. The answer may also be any that the token gives to `C_Login`. A pool of type `:cloud_hsm` never logs in (`:login_unsupported`).

  Within a `with_session/3` block it takes another session than the block's. If the pool has but that one, the answer is `:queue_timeout` at once.
  The time that the source takes is bounded by the pool's `:pin_timeout`; `:queue_timeout` and `:operation_timeout` begin when it has given the PIN.

  Calls `C_GetTokenInfo` and `C_Login` (PKCS#11 2.40, 5.6).
  """
  @spec login(pool, pin_source | nil, [login_option]) ::
          :ok | {:error, Error.t()}
  def login(pool, pin_source, opts \\ []), do: API.Login.login(pool, pin_source, opts)

  defbang login!(pool, pin_source :: pin_source | nil, opts :: [login_option]) :: :ok

  @doc """
  Logs out, after the pool's operations that run now and before those that wait. The next operation logs in again; that of a `:token` pool
  with `reauthentication: :fail` gets `:reauthentication_required` until `login/3`. A retained PIN (`pin_retention: :until_logout`) is wiped.

  A login belongs to the token: where other pools use the token, or a `with_session/3` block of this pool, it would end for them, too. That is
  `:login_shared`, and nothing happens, unless `force: true`. Within a block of its own it takes another session than the block's, as `login/3` does.

  A pool of type `:cloud_hsm` never logs in, so that there is nothing to do: `:ok`.

  Calls `C_Logout` (PKCS#11 2.40, 5.6).
  """
  @spec logout(pool, [login_option]) :: :ok | {:error, Error.t()}
  def logout(pool, opts \\ []), do: API.Login.logout(pool, opts)

  defbang logout!(pool, opts :: [login_option]) :: :ok

  @doc """
  Forgets the handles of all keys: each is found anew (`C_FindObjects`) when it is next used. For keys that something else on the token
  has replaced under the same label.
  """
  @spec forget_keys(pool) :: :ok | {:error, Error.t()}
  defdelegate forget_keys(pool), to: API.Pool

  defbang forget_keys!(pool) :: :ok

  @doc """
  Finalizes the PKCS#11 module and initializes it again, for all its pools: `:ok` when it is done and this pool has found its token again.

  For modules that read their keys when they are initialized, so that a key which somebody else has made shows only then (Google Cloud KMS's
  kmsp11, nShield). Every handle and session of before is void, and the first call afterwards logs in, once for all: a PIN source is asked once.

  No call is lost. The module's door is closed: calls that are inside have time to end, calls that wait or come meanwhile wait in their places, each
  as long as its own time-outs allow, and run afterwards. A `with_session/3` block is not waited for, but only its call that is inside:
  its session is gone then, and its next call is `:lease_ended`.

  Options are those of every call, with this meaning:

    * `:queue_timeout` - ms that the calls inside have to end, 3,000 by default. If one has not returned by then, the error is
      `:module_stuck`, and the module stays as it was
    * `:operation_timeout` - ms that the caller waits from then on, by default the pool's. The error is `:operation_timeout`; the reload goes on
    * `:telemetry_metadata`

  Other errors: `:module_adopted`, when another library of the VM has initialized the module and it is not ours to finalize; the return code
  of `C_Finalize` (the module stays as it was); `:module_initialize_failed`, with that of `C_Initialize` (the pools look for their tokens, and try it again, until it works);
  `:slot_not_found` and its like when the token is not there afterwards. Of several who want it at the same time, one makes it for all.

  Calls `C_Finalize` and `C_Initialize` (PKCS#11 2.40, 5.4).
  """
  @spec reload(pool, [call_option]) :: :ok | {:error, Error.t()}
  def reload(pool, opts \\ []), do: API.Pool.reload(pool, opts)

  defbang reload!(pool, opts :: [call_option]) :: :ok

  @doc """
  The token's mechanisms, with the sizes of their keys (bits or bytes, as the mechanism has it) and what they are for.

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
  What the pool's token says of itself: `{:ok, map}`, see `t:Pkcs11Pool.Token.info/0`. `Pkcs11Pool.Token.list/1` says the same of all tokens of a
  module, without a pool.

      {:ok, %{firmware_version: {7, _}, flags: flags}} = Pkcs11Pool.token_info(MyApp.HSM)
      refute :user_pin_count_low in flags

  Calls `C_GetTokenInfo` (PKCS#11 2.40, 5.5). If another token is in the pool's slot, that is `:token_unavailable`.
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

  An ECDSA signature is `r <> s`, each as long as the curve's order, or with `signature: :der` the DER sequence that X.509 and TLS use.
  Whether the mechanism hashes the data is in its name: `:sha256_rsa_pkcs` does, `:rsa_pkcs` and `:ecdsa` take what is hashed already. With
  `{:ecdsa, hash: :sha256}` and `{:rsa_pkcs, hash: :sha256}` they take a message, on any token: see `Pkcs11Pool.Mechanism`. `:ecdsa` with more data than the
  order of the key's curve is long raises `ArgumentError`.

  Two C calls once the key is known: `C_SignInit` and `C_Sign` (PKCS#11 2.40, 5.11).
  """
  @spec sign(pool, key, mechanism, iodata, [signature_option]) ::
          {:ok, binary} | {:error, Error.t()}
  def sign(pool, key, mechanism, data, opts \\ []),
    do: API.Signature.sign(pool, key, mechanism, data, opts)

  defbang sign!(pool, key, mechanism, data :: iodata, opts :: [signature_option]) :: binary

  @doc """
  Verifies a signature on the token with a public or secret key: `:ok`, or the error `:signature_invalid`, also for one of a wrong
  length. Where mechanism and key say how long a signature is (`*_hmac`, `*_mac`, `*_general`, RSA, ECDSA, EdDSA), one of another length does not
  reach the token: some look no further than its beginning, or read on behind its end. r and s of an ECDSA signature are each as long as the
  curve's order, zeros in front included. How long RSA and EC signatures are is asked of the token once per key; where it does not say, it decides.

  What the token said of a wrong signature is in `code`: NSS says `CKR_DEVICE_ERROR` to a MAC of other data. What may mean anything is taken for a wrong
  signature if the session answers otherwise, and is not tried again; the guide "When the token fails" says how far that can be told. `signature: :der` as in `sign/5`; on a curve that is neither well known nor spelled out by the key, it is `:curve_not_supported`.

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

  AES-GCM gives the ciphertext with its tag at the end, as PKCS#11 has it. With `iv: :token` the IV is the token's, 12 bytes long, and comes with
  the ciphertext. A token that makes none is the error `:iv_not_made`, and one that replaces a given IV `:iv_replaced`, with its own in
  `details.iv`: there is no ciphertext without the IV that it was made with.

  Two C calls once the key is known: `C_EncryptInit` and `C_Encrypt` (PKCS#11 2.40, 5.8). With `iv: :token` it is never tried again.
  """
  @spec encrypt(pool, key, mechanism, iodata, [key_option]) ::
          {:ok, binary | {iv :: binary, ciphertext :: binary}} | {:error, Error.t()}
  def encrypt(pool, key, mechanism, data, opts \\ []),
    do: API.Cipher.encrypt(pool, key, mechanism, data, opts)

  defbang encrypt!(pool, key, mechanism, data :: iodata, opts :: [key_option]) ::
            binary | {iv :: binary, ciphertext :: binary}

  @doc """
  Decrypts `data` (iodata) with a secret or private key: `{:ok, plaintext}`, a binary.

  A ciphertext or tag that was changed or cut off, or is another key's, is the error `:decryption_failed`. What the token said is in `code`: some
  say what may mean anything (`CKR_GENERAL_ERROR`, `CKR_DEVICE_ERROR`), which is taken for a failed decryption if the session answers otherwise. It is
  not tried again, and each refusal makes the same calls, so that none takes longer for a reason of the pool's. To whom you tell that a
  decryption failed, and how soon, is told something about the plaintext, unless the mechanism authenticates as AES-GCM does: not so AES-CBC and RSA
  PKCS #1 v1.5. Of the latter some tokens give random bytes rather than an error, for that reason.

  Two C calls once the key is known: `C_DecryptInit` and `C_Decrypt` (PKCS#11 2.40, 5.9).
  """
  @spec decrypt(pool, key, mechanism, iodata, [key_option]) ::
          {:ok, binary} | {:error, Error.t()}
  def decrypt(pool, key, mechanism, data, opts \\ []),
    do: API.Cipher.decrypt(pool, key, mechanism, data, opts)

  defbang decrypt!(pool, key, mechanism, data :: iodata, opts :: [key_option]) :: binary

  ## Many at once

  @typedoc """
  What `encrypt_many/5` and `decrypt_many/5` take: data, or data with parameters that are added to the mechanism's, such as `{[iv: iv], data}`.
  """
  @type item :: iodata | {params :: keyword, iodata}

  @typedoc "The results of a list, in its order."
  @type results(value) :: {:ok, item_results(value)} | {:error, Error.t()}

  @typedoc "The result of each item of a list, in its order."
  @type item_results(value) :: [{:ok, value} | {:error, Error.t()}]

  @doc """
  Signs each of a list of data with the same key: `{:ok, [{:ok, signature} | {:error, error}]}`, in the list's order.

      {:ok, results} = Pkcs11Pool.sign_many(MyApp.HSM, "tokens", :sha256_hmac, list)

  One call for many small items costs a fraction of many calls. This holds for all four of `sign_many/5`, `verify_many/5`, `encrypt_many/5` and
  `decrypt_many/5`:

    * The list is cut into slices of at most 64 items and 64 KiB (or one larger item) and some 5 ms. Slices queue as operations of their own, as
      many at once as the pool has sessions: they run in parallel, and other callers have their turn between them.
    * Each item has its own result. An item's failure does not keep the others from being done.
    * `:queue_timeout` is how long a slice may wait before it starts, `:operation_timeout` how long it may run. What times out is the error of each item
      of that slice, with `executed: :unknown` if it ran. When the pool takes none any more, the items that have not been tried get the same error.
    * When a session dies, the items of its slice that were not done are tried once on another, if that does no harm; else they get the error with
      `executed: false`.
    * Within `with_session/3` they run on its session.
    * The call itself is `{:error, error}` only if there is no such pool. An empty list is `{:ok, []}`.

  Calls what `sign/5` calls, for each item.
  """
  @spec sign_many(pool, key, mechanism, [iodata], [signature_option]) ::
          results(binary)
  def sign_many(pool, key, mechanism, list, opts \\ []),
    do: API.Signature.sign_many(pool, key, mechanism, list, opts)

  defbang sign_many!(pool, key, mechanism, list :: [iodata], opts :: [signature_option]) ::
            item_results(binary)

  @doc """
  Verifies each of a list of `{data, signature}` with the same key: `{:ok, [{:ok, true} | {:error, error}]}`, in the list's order; a signature that is
  not valid is the error `:signature_invalid`. See `sign_many/5`.

  Calls what `verify/6` calls, for each item.
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
  Encrypts each of a list of data with the same key: `{:ok, [{:ok, ciphertext} | {:error, error}]}`, in the list's order. See `sign_many/5`.

      Pkcs11Pool.encrypt_many(MyApp.HSM, "vault", {:aes_gcm, iv: :token}, list)
      Pkcs11Pool.encrypt_many(MyApp.HSM, "vault", :aes_gcm, for(data <- list, do: {[iv: unique_iv()], data}))

  One IV for several messages gives them away, and with AES-GCM the key's authentication, too. Hence a mechanism that takes an IV (or a counter) must
  have it from the token, or each item its own: `{[iv: iv], data}`. An IV of the mechanism, or the same one for two items, raises `ArgumentError`; so
  does the same counter block, whatever its `:counter_bits`. That a counter does not run into another item's block, and that no IV is used again in
  another call, is up to you, as are all IVs of a mechanism that this library knows nothing of but its bytes.

  Calls what `encrypt/5` calls, for each item.
  """
  @spec encrypt_many(pool, key, mechanism, [item], [key_option]) ::
          results(binary | {iv :: binary, ciphertext :: binary})
  def encrypt_many(pool, key, mechanism, list, opts \\ []),
    do: API.Cipher.encrypt_many(pool, key, mechanism, list, opts)

  defbang encrypt_many!(pool, key, mechanism, list :: [item], opts :: [key_option]) ::
            item_results(binary | {iv :: binary, ciphertext :: binary})

  @doc """
  Decrypts each of a list of data with the same key: `{:ok, [{:ok, plaintext} | {:error, error}]}`, in the list's order. See `sign_many/5`.

      Pkcs11Pool.decrypt_many(MyApp.HSM, "vault", :aes_gcm, for({iv, ciphertext} <- list, do: {[iv: iv], ciphertext}))

  Calls what `decrypt/5` calls, for each item.
  """
  @spec decrypt_many(pool, key, mechanism, [item], [key_option]) :: results(binary)
  def decrypt_many(pool, key, mechanism, list, opts \\ []),
    do: API.Cipher.decrypt_many(pool, key, mechanism, list, opts)

  defbang decrypt_many!(pool, key, mechanism, list :: [item], opts :: [key_option]) ::
            item_results(binary)

  ## Streams

  @doc """
  Signs data that comes in parts: `{:ok, signature}`, a binary. `enumerable` is any enumerable of iodata, and needs not fit into memory:

      {:ok, signature} = Pkcs11Pool.sign_stream(MyApp.HSM, "releases", {:rsa_pkcs, hash: :sha256}, File.stream!(path, [], 65_536))

  The signature is that of `sign/5` with all of the data. `{:ecdsa, hash: :sha256}`, `{:rsa_pkcs, hash: :sha256}` and PSS with a hash in its name do on any token, as
  there: where the token does not hash, the parts are hashed here. A mechanism that takes its data in one piece (`:ecdsa`, `:rsa_pkcs`, `:rsa_pkcs_pss`, `:rsa_pkcs_oaep`,
  ...) raises `ArgumentError`; of others some tokens say so by `:operation_not_initialized` or `:function_not_supported`.

  This holds for all of `sign_stream/5`, `verify_stream/6`, `digest_stream/4`, `encrypt_stream/5` and `decrypt_stream/5`:

    * A stream has a session for itself from its beginning to its end (`:leased` in `status/1`), in the process that runs it. Within a `with_session/3` block that is the
      block's session; from another process the lease gives `:not_owner`.
    * The parts are gathered, or cut, to 64 KiB each: one C call for each, and memory for two or three of them, however long the stream is and whatever its elements are.
    * `:queue_timeout` is how long it may wait for its session, `:operation_timeout` how long each C call may take, and `:lease_timeout` how long the whole may take,
      the time that the enumerable takes included: 60 s, unless the pool or the option of this call says otherwise. Then the error is `:lease_ended`.
    * The beginning (no data has been asked for yet) is tried again on another session where that helps, as with `sign/5`. Later a stream is never continued on another
      session: whatever ends it is its error, and it may be begun again, with an enumerable that can be.
    * If the enumerable raises, throws or exits, so does the call. No operation is left behind: the session is closed. That of a block is kept, and the operation
      ended by `C_SessionCancel`, or, where the module has none (before PKCS#11 3.0), by its final call. But a signature of what there is nobody has asked for: without
      `C_SessionCancel`, a `sign_stream/5` that is broken off takes the block's session with it, whose next call is `:lease_ended`.
    * Calls of the same process while the stream is in progress (from within the enumerable, or from whoever consumes a lazy stream) take another session: two streams,
      one into the other, take two. On a pool that has no other, and within the `with_session/3` block whose session the stream uses, they are `:stream_in_progress`, at once.
    * An enumerable that is empty gives what no data gives.

  Calls `C_SignInit`, `C_SignUpdate` for each part, and `C_SignFinal`; where the data is hashed here, `C_SignInit` and `C_Sign` (PKCS#11 2.40, 5.11).
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

  Calls `C_VerifyInit`, `C_VerifyUpdate` for each part, and `C_VerifyFinal`; where the data is hashed here, `C_VerifyInit` and `C_Verify` (PKCS#11 2.40, 5.12).
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

  Nothing is asked of the pool before it is enumerated, and whatever fails then raises `Pkcs11Pool.Error`; what came before is of no use. Each enumeration is an encryption
  of its own: with one IV, enumerate it once, or again only for the same data. A consumer that halts early (`Enum.take/2`) ends it, and leaves no operation behind. How long the
  binaries are is the token's affair; none is empty. Some tokens gather what they are given, and give all of it at the end.

  The IV is the caller's: `iv: :token` raises `ArgumentError`, as a stream of ciphertext has no place for it. A token that replaces it gives `:iv_replaced`. AES-GCM has its tag
  at the end, and the standard encrypts at most 64 GiB with one IV.

  Calls `C_EncryptInit`, `C_EncryptUpdate` for each part, and `C_EncryptFinal` (PKCS#11 2.40, 5.8).
  """
  @spec encrypt_stream(pool, key, mechanism, Enumerable.t(), [key_stream_option]) ::
          Enumerable.t()
  def encrypt_stream(pool, key, mechanism, enumerable, opts \\ []),
    do: API.Cipher.encrypt_stream(pool, key, mechanism, enumerable, opts)

  @doc """
  Decrypts data that comes in parts: a lazy enumerable of binaries, which together are the plaintext of `decrypt/5`. See `encrypt_stream/5` about lazy streams, and
  `sign_stream/5` about all.

  A ciphertext that was changed or cut off raises `:decryption_failed` at the end, *after* the binaries before have come out. What an attacker makes of a plaintext that is not
  verified yet has broken systems: hence a mechanism that authenticates (AES-GCM, AES-CCM, ChaCha20-Poly1305) gives away nothing before its tag is verified:

    * A token that gathers, and gives the plaintext with its final call (SoftHSM does), needs no more. It comes in one piece at the end then, and needs the memory for it.
    * Of a token that gives it out before, the error is `:plaintext_unverified` at the first part, and nothing comes out. `decrypt/5` decrypts in one piece on any token. With
      `unverified: :allow` the parts come out as the token gives them: write them where nobody reads them, and use them when the enumeration has ended without an exception;
      a file cut into blocks that are encrypted one by one needs none of this.

  Other mechanisms (AES-CBC, AES-CTR) verify nothing, at no time: see `decrypt/5`, and verify a MAC of the ciphertext first (`verify_stream/6`).

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
  The digest of a secret key's value, which does not leave the token: `{:ok, binary}`. With it two parties compare their keys (a key check value),
  or derive something of them.

      {:ok, <<check_value::binary-size(3), _rest::binary>>} = Pkcs11Pool.digest_key(MyApp.HSM, :sha256, "vault")

  Options, besides those of every call:

    * `:prefix`, `:suffix` - iodata that is digested before and after the key: `hash(prefix <> key <> suffix)`

  A digest tells whoever sees it whether a guess at the key is right: that is for keys that nobody can guess. Which keys may be digested is the token's
  to say; one that may not is `:key_indigestible`.

  Calls `C_DigestInit`, `C_DigestKey` and `C_DigestFinal`, and `C_DigestUpdate` for a prefix and a suffix (PKCS#11 2.40, 5.10).
  """
  @spec digest_key(pool, mechanism, key, [digest_key_option]) ::
          {:ok, binary} | {:error, Error.t()}
  def digest_key(pool, mechanism, key, opts \\ []),
    do: API.Digest.digest_key(pool, mechanism, key, opts)

  defbang digest_key!(pool, mechanism, key, opts :: [digest_key_option]) :: binary

  @doc """
  Mixes a seed (iodata) into the token's random generator: `:ok`. It adds to what the generator has, and does not replace it.

  Many tokens take none: `:random_seed_not_supported`, or `:random_no_rng` for one that makes no random bytes. After an error that is the token's
  fault it may be tried again: a seed that is mixed in twice does no harm. It reaches the generator of the token, as a rule for all who use it.

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

  The templates reach the module as they are. One without `token: true` would make a session object, which dies with the session that
  happened to make it: `:session_object_needs_session`, unless that is the session of a `with_session/3` block, or the call or the pool
  says `session_object: :allow`.

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
  The objects that have all that the template says; every object that is to be seen for an empty one: `{:ok, [object]}`.

  With `limit: n` at most so many are returned, and the others are left out (1 to 1,000,000). Without it, more than 10,000 are the error
  `:too_many_objects`.

  Where the token refuses to describe an object (CKR_OBJECT_HANDLE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID, CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED), it is searched again,
  up to 8 times. One that is not found any more has vanished, and is left out. One that is found each time comes with what can be read of it: `:class`
  and `:key_type` may be nil then, as ever, and `:id` and `:label` are nil in place of what was refused. SoftHSM leaves such objects on the token when a `C_GenerateKey`
  beside a search fails; `destroy_object/3` removes them. The call fails with the token's code if nothing of the object can be read, the code
  may be the device's (CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED), and the token describes no other object that was found; or if the token says
  CKR_OBJECT_HANDLE_INVALID of what it finds 8 times. Other codes fail the call at once, as for all calls.

  Calls `C_FindObjectsInit`, `C_FindObjects`, `C_FindObjectsFinal`, and `C_GetAttributeValue` for each (PKCS#11 2.40, 5.7).
  """
  @spec find_objects(pool, template, [call_option | {:limit, pos_integer}]) ::
          {:ok, [Object.t()]} | {:error, Error.t()}
  def find_objects(pool, template, opts \\ []), do: API.Objects.find(pool, template, opts)

  defbang find_objects!(pool, template, opts :: [call_option | {:limit, pos_integer}]) :: [
            Object.t()
          ]

  @doc """
  The X.509 certificates that have all that the template says; every one that is to be seen for an empty one: `{:ok, [object]}`, each with the certificate in its `:der`.

      {:ok, [certificate]} = Pkcs11Pool.find_certificates(MyApp.HSM, label: "tls")
      :public_key.pkix_decode_cert(certificate.der, :otp)

      # The key that it belongs to.
      Pkcs11Pool.sign(MyApp.HSM, {:certificate, certificate.der}, {:ecdsa, hash: :sha256}, "message")

  In the template, `:subject` and `:issuer` are DER, names as OTP has them (`{:rdnSequence, _}`, of a certificate that `:public_key` has decoded), or as
  `Pkcs11Pool.X509` has them (`[common_name: "example.com"]`, with the UTF-8 strings that it writes: other software may have written the name in another way).
  `:serial_number` is a non-negative integer, or DER. They are compared with what whoever wrote the object said of it: `CKA_SUBJECT` and so on.

  A certificate that is not on the token itself, but where its `:url` says, has a `:der` of nil. One that is destroyed before it is read is left out. `:limit`, and a token that
  refuses to describe an object: as for `find_objects/3`.

  Calls `C_FindObjectsInit`, `C_FindObjects`, `C_FindObjectsFinal`, and `C_GetAttributeValue` twice for each (PKCS#11 2.40, 5.7). The search, and the reading of each certificate, are operations
  of their own, with the time-outs of the call each.
  """
  @spec find_certificates(pool, template, [call_option | {:limit, pos_integer}]) ::
          {:ok, [Object.t()]} | {:error, Error.t()}
  def find_certificates(pool, template, opts \\ []),
    do: API.Certificates.find(pool, template, opts)

  defbang find_certificates!(pool, template, opts :: [call_option | {:limit, pos_integer}]) :: [
            Object.t()
          ]

  @doc """
  Reads attributes of an object: `{:ok, %{name => value}}`, in the shapes of `Pkcs11Pool.Template`.

  One that the token does not reveal is the error `:attribute_sensitive`, one that the object does not have `:attribute_type_invalid`, both with
  their names in `details.attributes`; with `partial: true` the value of either is `:unavailable`.

  Of an object with a `:unique_id` (see `Pkcs11Pool.Object`), the unique id is read by the same call: if it is another object's by now, the error is
  `:object_stale`. An object without one, if somebody has destroyed it, is looked for by class, id and label; the attributes are those of
  another object then, if it has the same.

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
  Wraps a key: `{:ok, wrapped}`, a binary. That is the key encrypted with another one, as it may be stored or given to another token, which unwraps it (`unwrap_key/6`).

      {:ok, wrapped} = Pkcs11Pool.wrap_key(MyApp.HSM, "kek", :aes_key_wrap_pad, [label: "signing", class: :private_key])
      {:ok, wrapped} = Pkcs11Pool.wrap_key(MyApp.HSM, {:certificate, their_certificate}, {:rsa_pkcs_oaep, hash: :sha256}, "dek")

  | mechanism | the wrapping key | what it wraps |
  |---|---|---|
  | `:aes_key_wrap` | AES | keys of 16 bytes or more, a multiple of 8 (RFC 3394): AES keys; private keys on few tokens |
  | `:aes_key_wrap_kwp`, on many tokens by its older name `:aes_key_wrap_pad` | AES | keys of any length (RFC 5649), private keys in PKCS #8, too |
  | `{:aes_cbc_pad, iv: iv}`, `{:aes_cbc, iv: iv}` | AES | keys of any length; with `:aes_cbc` whole blocks. A changed one may be unwrapped to another key: nothing is verified |
  | `{:aes_gcm, iv: iv}` | AES | keys of any length, verified; with `iv: :token` the result is `{:ok, {iv, wrapped}}` |
  | `{:rsa_pkcs_oaep, hash: :sha256}`, `:rsa_pkcs` | the public key of RSA | secret keys that are shorter than the modulus |
  | `{:rsa_aes_key_wrap, hash: :sha256}` | the public key of RSA | keys of any length, private keys, too: with an AES key that is made for it, and wrapped by OAEP |

  Of the key that is wrapped, nothing tells its class: where several objects have its label or id, such as the two halves of a pair, name the `:class`, too. `select: :newest` or a
  function (see `sign/5`) is asked for each of the two keys.

  The key needs `extractable: true` (else `:key_unextractable`), and one that has `wrap_with_trusted: true` is wrapped only by a key that is `trusted: true`
  (`:key_not_wrappable`). A wrapping key that is none of the mechanism's is `:key_type_inconsistent`, and the module is not asked. An error of one of the two keys says which in
  `details.argument`: `:wrapping_key` or `:key`.

  To see whether the other side has the same key, compare key check values (see `key_info/3`). SoftHSM 2.6.1 loses the length of a key that is no
  multiple of 8 bytes when it wraps it with padding: it comes back with zeros behind it.

  Calls `C_WrapKey` (PKCS#11 2.40, 5.13). Never tried again where it may have run.
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
  Unwraps a key: `{:ok, object}`, a key on the token that was not seen outside of it in the clear.

      Pkcs11Pool.unwrap_key(MyApp.HSM, "kek", :aes_key_wrap, wrapped,
        class: :secret_key, key_type: :aes, token: true, label: "dek", sensitive: true, encrypt: true, decrypt: true)

  The mechanism implies the class of the unwrapping key. About templates and session objects see `generate_key_pair/5`.

  Calls `C_UnwrapKey` (PKCS#11 2.40, 5.13). Never tried again where it may have run: after an error with `executed: :unknown`, look for the key.
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
  (uncompressed, bare or as a DER OCTET STRING: which of them the token takes is the token's affair):

      Pkcs11Pool.derive_key(MyApp.HSM, "agreement", {:ecdh1_derive, public_data: point},
        class: :secret_key, key_type: :generic_secret, value_len: 32, token: true, label: "shared", derive: true)

  and of one secret key many others are made:

      Pkcs11Pool.derive_key(MyApp.HSM, "shared", {:hkdf_derive, hash: :sha256, salt: salt, info: "to the server"},
        class: :secret_key, key_type: :aes, value_len: 32, token: true, label: "to the server", encrypt: true)

  | mechanism | the base key | the key that comes of it |
  |---|---|---|
  | `:ecdh1_derive`, `:ecdh1_cofactor_derive` | EC, X25519, X448 | the shared secret, or with a `:kdf` what a key derivation function makes of it (ANSI X9.63, or SP 800-56A: `:sha256_kdf_sp800`) |
  | `:dh_pkcs_derive` | Diffie-Hellman | the shared secret |
  | `:hkdf_derive` | a secret key | HKDF (RFC 5869) |
  | `:concatenate_base_and_key` | a secret key | its value and that of another secret key |
  | `:concatenate_base_and_data`, `:concatenate_data_and_base`, `:xor_base_and_data` | a secret key | its value and data, or both by exclusive or |
  | `:extract_key_from_key` | a secret key | a part of its value |
  | `:aes_ecb_encrypt_data`, `:aes_cbc_encrypt_data`, ... | AES, ... | data, encrypted with it |

  `Pkcs11Pool.Mechanism` has their parameters. A key that the parameters name (`:concatenate_base_and_key`, the salt of HKDF) is found as the base key is, among the secret keys; `select:` is asked
  for it, too, and an error of one of the two says which in `details.argument`: `:base_key` or `:mechanism`. A key of a password is made by `generate_key/4` with `:pkcs5_pbkd2`.

  The base key needs `derive: true`. One that is none of the mechanism's is `:key_type_inconsistent`, and the module is not asked. The mechanism implies the class of the base key. About templates and session objects see `generate_key_pair/5`.

  Calls `C_DeriveKey` (PKCS#11 2.40, 5.13). Never tried again where it may have run: after an error with `executed: :unknown`, look for the key.
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
  Shares a new secret with the holder of a private key: `{:ok, {ciphertext, object}}`. The object is the key that is made of the secret on the token; the holder of the private
  key makes the same of the ciphertext (`decapsulate/6`, or FIPS 203 elsewhere).

      {:ok, {ciphertext, key}} =
        Pkcs11Pool.encapsulate(MyApp.HSM, "their key", :ml_kem,
          class: :secret_key, key_type: :aes, value_len: 32, token: true, label: "shared", encrypt: true, decrypt: true)

  The public key is an object on the token. One that came from elsewhere as raw bytes becomes such by `create_object/3`:

      Pkcs11Pool.create_object(MyApp.HSM,
        class: :public_key, key_type: :ml_kem, parameter_set: :ml_kem_768, value: raw, encapsulate: true, token: true, label: "their key")

  About templates and session objects see `generate_key_pair/5`. Neither the key nor the ciphertext is of use without the other: if the caller has gone by the time
  the token has made them, or the length of the ciphertext cannot be (`:output_length_invalid`), the key is destroyed.

  Calls `C_EncapsulateKey` (PKCS#11 3.2, 5.18); a module of an older version is `:function_not_supported`. Never tried again where it may have run.
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
  Makes the key whose ciphertext somebody has encapsulated for a private key: `{:ok, object}`.

      {:ok, key} =
        Pkcs11Pool.decapsulate(MyApp.HSM, "our key", :ml_kem, ciphertext,
          class: :secret_key, key_type: :aes, value_len: 32, token: true, label: "shared", encrypt: true, decrypt: true)

  ML-KEM does not tell a changed ciphertext from a good one: of a changed one comes another key, and no error (FIPS 203, 6.3). A ciphertext of a length that none of the
  key's has is `:encrypted_data_len_range`, and the module is not asked.

  About templates and session objects see `generate_key_pair/5`.

  Calls `C_DecapsulateKey` (PKCS#11 3.2, 5.18); a module of an older version is `:function_not_supported`. Never tried again where it may have run: after an error with
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
  Makes an object of its attributes: `{:ok, object}`. A public key, a secret key, a certificate, data:

      Pkcs11Pool.create_object(MyApp.HSM,
        class: :certificate, certificate_type: :x_509, token: true, label: "tls", subject: subject, value: der)

      Pkcs11Pool.create_object(MyApp.HSM,
        class: :secret_key, key_type: :aes, token: true, label: "vault", value: <<0::256>>, encrypt: true, decrypt: true)

  About templates and session objects see `generate_key_pair/5`. The template's bytes are overwritten in native memory after the call; the caller's binary is the VM's.
  Many tokens take no key in the clear: theirs is the error.

  Calls `C_CreateObject` (PKCS#11 2.40, 5.7). Never tried again: after an error with `executed: :unknown`, look for the object.
  """
  @spec create_object(pool, template, [generate_option]) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def create_object(pool, template, opts \\ []), do: API.Objects.create(pool, template, opts)

  defbang create_object!(pool, template, opts :: [generate_option]) :: Object.t()

  @doc """
  Makes a private key on the token of one that was made elsewhere: `{:ok, object}`.

      pem = File.read!("key.pem")
      Pkcs11Pool.import_private_key(MyApp.HSM, pem, token: true, label: "tls", id: <<1>>, private: true, sensitive: true, sign: true)

  The *key* is an RSA key, or one on a curve (ECDSA, Edwards, Montgomery; also with parameters that are written out): an `RSAPrivateKey`, `ECPrivateKey` or
  `PrivateKeyInfo` as OTP's `:public_key` has it, DER of one of these, or PEM that has one private key and, maybe, certificates beside it. One that is
  encrypted is to be decrypted before (`:public_key.pem_entry_decode/2`). What is none raises `ArgumentError`, which shows nothing of it.

  The template is what `create_object/3` takes, without what the key says itself: `:class`, `:key_type`, and `:modulus` and so on, or `:ec_params` and `:value`. One that says
  otherwise raises `ArgumentError`. About templates and session objects see `generate_key_pair/5`.

  No public key is made. Where one is wanted on the token, for `verify/6` and `public_key/3`, `create_object/3` makes it:

      {:ECPrivateKey, _, _, {:namedCurve, _}, point, _} = key = :public_key.generate_key({:namedCurve, :secp256r1})

      Pkcs11Pool.create_object(MyApp.HSM,
        class: :public_key, key_type: :ec, token: true, label: "tls", id: <<1>>, verify: true,
        ec_params: :secp256r1, ec_point: <<4, byte_size(point)>> <> point)

  The template's bytes are overwritten in native memory after the call; the caller's key is the VM's. Many tokens take no key in the clear: theirs is the error.

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
  Copies an object: `{:ok, object}`. The template has the attributes that differ, and `token: true` if the copy is to stay, which many tokens do not take from the
  original. The object is found as `destroy_object/3` finds it.

  Calls `C_CopyObject` (PKCS#11 2.40, 5.7). Never tried again: after an error with `executed: :unknown`, look for the object.
  """
  @spec copy_object(pool, key, template, [generate_option]) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def copy_object(pool, object, template, opts \\ []),
    do: API.Objects.copy(pool, object, template, opts)

  defbang copy_object!(pool, object :: key, template, opts :: [generate_option]) :: Object.t()

  @doc """
  Gives attributes of an object new values: `:ok`. The object is found as `destroy_object/3` finds it.

  The `%Pkcs11Pool.Object{}` that the caller has keeps its old label and id: after a logout or a reload it is found by its `:unique_id` only.

  Calls `C_SetAttributeValue` (PKCS#11 2.40, 5.7). Never tried again where it may have run: after an error with `executed: :unknown`, read the
  attributes. Whatever it returns, the pool forgets all that it remembers of keys, since others may find this object by its label or id from now on.
  """
  @spec set_attributes(pool, key, template, [call_option]) :: :ok | {:error, Error.t()}
  def set_attributes(pool, object, template, opts \\ []),
    do: API.Objects.set_attributes(pool, object, template, opts)

  defbang set_attributes!(pool, object :: key, template, opts :: [call_option]) :: :ok

  @doc """
  How many bytes of the token's memory an object takes: `{:ok, bytes}`, or `{:ok, :unavailable}` where the token does not tell. SoftHSM never does. The
  number is the token's own: it is neither the length of a key nor that of a value.

  An object of an earlier call is found as `get_attributes/4` finds it. A token may refuse to tell the size of a key (`:information_sensitive`).

  Calls `C_GetObjectSize` (PKCS#11 2.40, 5.7), and `C_GetAttributeValue` for an object with a `:unique_id`.
  """
  @spec object_size(pool, key, [call_option]) ::
          {:ok, non_neg_integer | :unavailable} | {:error, Error.t()}
  def object_size(pool, object, opts \\ []), do: API.Objects.size(pool, object, opts)

  defbang object_size!(pool, object :: key, opts :: [call_option]) ::
            non_neg_integer | :unavailable

  @doc """
  Destroys an object: `:ok`. An object, or a key that identifies one, see `t:key/0`; where several objects share its label or id, name the `:class`, too.

  Nothing is destroyed but the object that is meant. Where the token has `CKA_UNIQUE_ID` (PKCS#11 3.0), an object of an earlier call has a `:unique_id`, and that is
  read before. An object of before a logout, a reload or the token's absence is looked for by it: it is destroyed if the token finds exactly one
  object by it, and `:object_stale` otherwise. Without a `:unique_id` it is always `:object_stale`, since another may have its id and label by now: find it again with
  `find_objects/3`.

  Calls `C_DestroyObject` (PKCS#11 2.40, 5.7); before, with a `:unique_id`, `C_GetAttributeValue`, and perhaps `C_FindObjects`. Never tried again.
  """
  @spec destroy_object(pool, key, [call_option]) :: :ok | {:error, Error.t()}
  def destroy_object(pool, object, opts \\ []), do: API.Objects.destroy(pool, object, opts)

  defbang destroy_object!(pool, object :: key, opts :: [call_option]) :: :ok

  @doc """
  The public key as OTP's `:public_key` takes it: `{:ok, {:RSAPublicKey, n, e}}` or `{:ok, {{:ECPoint, point}, {:namedCurve, oid}}}`. Post-quantum keys have their raw bytes at
  the end:

    * ML-DSA: `{:"ML-DSAPublicKey", :mldsa65, key}`, and SLH-DSA: `{:"SLH-DSAPublicKey", :slh_dsa_sha2_128s, key}`. That is a record of `:public_key` from OTP 28 on; older
      releases know neither
    * ML-KEM: `{:mlkem768, key}`, what `:crypto.encapsulate_key/2` takes from OTP 28 on

  A curve whose parameters the token has written out is `{:ecParameters, record}`, to OTP 27: OTP 28 knows no such keys any more.

  A label, an id or a template finds the public key object; where there is none, the private key's attributes are used, which do for RSA, and for all keys of a
  token that has their `:public_key_info`.

  Calls `C_GetAttributeValue` (PKCS#11 2.40, 5.7).
  """
  @spec public_key(pool, key, [key_option]) :: {:ok, public_key} | {:error, Error.t()}
  def public_key(pool, key, opts \\ []),
    do: API.Attributes.read_public_key(pool, key, Options.Call.validate!(opts, [:select]))

  defbang public_key!(pool, key, opts :: [key_option]) :: public_key

  @doc """
  What a key is: `{:ok, map}`, with nil for what the token does not say.

    * `:class`, `:type` - `:private_key` and `:rsa`, for instance; a vendor's are numbers
    * `:bits` - of an RSA key's modulus, of the order of an ECDSA key's curve, of the field of an Edwards or Montgomery curve (255 or 448), of the prime of a DSA or
      Diffie-Hellman key, of a secret key's value (of DES with its parity: 64, 128 or 192)
    * `:curve` - its name, such as `:secp256r1`, `:ed25519`, `:x25519`
    * `:parameter_set` - of a post-quantum key: `:ml_dsa_65`, `:slh_dsa_sha2_128s`, `:ml_kem_768`, ...
    * `:label`, `:id`
    * `:usage` - what the key may be used for, a list of `:encrypt`, `:decrypt`, `:sign`, `:sign_recover`, `:verify`, `:verify_recover`, `:wrap`,
      `:unwrap`, `:derive`, `:encapsulate` and `:decapsulate`
    * `:check_value` - the key check value that the token has of a secret key (`CKA_CHECK_VALUE`), mostly 3 bytes: the beginning of zeros that are encrypted with it. See below
    * `:token`, `:private`, `:sensitive`, `:extractable`, `:always_sensitive`, `:never_extractable`, `:local`, `:modifiable`,
      `:always_authenticate` - the attributes of these names

  By the check value two sides see whether they have the same key, if both tokens follow the standard. Not all do: SoftHSM 2.6.1 has none of a key that was unwrapped, and of one that was derived the
  beginning of its SHA-1 digest; kryoptic has none of any key, and does not look at one in a template. A key that may encrypt tells it by itself:

      {:ok, <<check_value::binary-size(3), _rest::binary>>} = Pkcs11Pool.encrypt(MyApp.HSM, "dek", :aes_ecb, <<0::128>>)

  A label, an id or a template that names no `:class` finds the private key; where there is none, the secret key, and then the public key.

  Calls `C_GetAttributeValue` (PKCS#11 2.40, 5.7), once or, where the token stops at an attribute that it does not have, a few times. No value of a
  key is read.
  """
  @spec key_info(pool, key, [key_option]) ::
          {:ok, %{required(atom) => term}} | {:error, Error.t()}
  def key_info(pool, key, opts \\ []),
    do: API.KeyInfo.read(pool, key, Options.Call.validate!(opts, [:select]))

  defbang key_info!(pool, key, opts :: [key_option]) :: %{required(atom) => term}
end
