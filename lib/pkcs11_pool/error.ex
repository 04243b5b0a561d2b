defmodule Pkcs11Pool.Error do
  @moduledoc """
  The error of a call: why the token or the pool refused it, or that its time was over.

    * `:reason` - the atom to match on: one of the table below, or otherwise the return code's name in
      lower case without `CKR_` (`:device_error`). A number that the standard does not name is `:vendor_defined` (from
      0x80000000 on) or `:unknown_return_value`
    * `:code` - the number of the return code, or nil if the token was not asked
    * `:function` - the C function that returned it (`:C_Sign`), or nil
    * `:pool` - the name of the pool
    * `:executed` - `false`: the operation did not run; `true`: it ran; `:unknown`: it
      may have run. Look at it before you try again (see `retryable?/1`)
    * `:message` - what happened, and what to change, in words
    * `:details` - a map that depends on the reason; it never contains a PIN, key material or data

  | reason | means | details |
  |---|---|---|
  | `:queue_timeout` | no session came free within `:queue_timeout` | `:timeout_ms`, `:stats` |
  | `:operation_timeout` | the operation was not done within `:operation_timeout` | `:timeout_ms`, `:stats` |
  | `:overloaded` | `:max_waiting` operations wait already | `:max_waiting`, `:stats` |
  | `:pool_not_found` | no pool has this name | |
  | `:no_member` | the group has no member, on this node or another | |
  | `:node_unavailable` | the node of a group's member is not connected, or did not answer in time; with `executed: :unknown` it had the call by then | `:node`, `:cause` |
  | `:application_not_started` | the application `:pkcs11_pool` does not run | |
  | `:draining` | the pool stops | |
  | `:session_lost` | the module lost the session or the key's handle while the operation ran, and gave its number to another one. The answer is not used | |
  | `:key_not_found` | no object matches the key; or no key is proved to belong to a public key or certificate | for a public key or certificate: `:public_keys`, `:certificates` (how many of them are on the token), `:unproved` (how many private keys might belong to it) |
  | `:ambiguous_key` | more than one object matches | `:candidates`, a list of `{id, label}`; with `select: :newest`, `:newest`: why none is (`:no_start_date`, `:same_start_date`, `:start_date_in_future`, `:start_date_unreadable`) |
  | `:too_many_objects` | more objects match than `find_objects/3` returns without a `:limit` | `:limit` |
  | `:object_stale` | the object is no longer on the token; or it is to be destroyed or changed, its handle is from before a logout, a reload or an absence of the token, and no unique id proves which object it is | |
  | `:object_of_other_token` | the object belongs to another token | |
  | `:session_object_needs_session` | the template would make a session object, which ends with its session | |
  | `:attribute_sensitive` | the token does not reveal these attributes | `:attributes`, their names |
  | `:attribute_type_invalid` | the object does not have these attributes | `:attributes` |
  | `:pin_required` | the token needs a login, and the pool has no `:pin` | |
  | `:pin_source_failed` | the `:pin` source gave no PIN | `:cause`; `:source_reason`: the atom, where it returned `{:error, atom}` |
  | `:pin_incorrect`, `:pin_locked`, `:pin_expired`, ... | the token refused the PIN | `:poisoned`: no further login is tried |
  | `:pin_final_try` | one more wrong PIN would lock the token: no login was tried | |
  | `:login_conflict` | another user, name or PIN is logged in on the token | |
  | `:login_shared` | `logout/2` would also log out other pools or `with_session/3` blocks | `:pools`, `:leases`: how many; `:leases` alone from within a block of the pool |
  | `:login_unsupported` | a `:cloud_hsm` pool never logs in | |
  | `:reauthentication_required` | a `:token` pool was logged out, and waits for `login/3` | |
  | `:signature_invalid` | the signature does not belong to the data, or has a wrong length (then the token was not asked) | `:given_bytes`, `:expected_bytes` if the length is wrong |
  | `:encrypted_data_len_range` | the ciphertext has a length that none of the key has; with `code: nil` the token was not asked | `:given_bytes`, `:expected_bytes`, with `code: nil` |
  | `:curve_not_supported` | the key is on a curve that this library does not know: its signatures can be verified in the raw form only, not in DER; and JOSE has no name for it | |
  | `:decryption_failed` | the token could not decrypt | |
  | `:key_type_inconsistent` | the key does not fit the mechanism or the operation. If the token tells what the key is, the module was not called (`code: nil`) | `:class`, `:key_type`, `:mechanism` |
  | `:mechanism_invalid` | the token does not have the mechanism, or not for this operation | `:mechanism` |
  | `:output_length_invalid` | the module reported success, but the length of its answer cannot be right. The answer is not returned | |
  | `:iv_replaced` | the module used another IV than the one that you gave | `:iv` |
  | `:iv_not_made` | the token made no IV, although `iv: :token` asked for one | |
  | `:parameters_ignored` | the module signed, verified or decrypted as if the mechanism had no such parameters (a context, a label). The answer is not returned | |
  | `:token_unavailable` | the token is away or does not answer. The pool looks for it | `:retry_after_ms`, `:away_ms`, `:cause` (what the last look found) |
  | `:module_load_failed` | the module could not be loaded | `:path`, `:cause` |
  | `:module_initialize_failed` | `C_Initialize` failed: most often the module's own configuration is wrong, or a service that it needs does not run. The pool tries again | `:path` |
  | `:module_digest_mismatch` | the file is not the one of `:module_sha256` | `:path` |
  | `:module_conflict` | the module is loaded already with another option | `:path`, `:option` |
  | `:function_not_supported` | the module lacks the C function; of `C_LoginUser`: the pool has a `:username`, and is not started | `:path`, `:option`, of a pool that is not started |
  | `:module_busy` | a call in the module does not return (`C_Initialize`, `C_Finalize`, or any call if the module is serialized), so that no other call can be made | `:path` |
  | `:module_stuck` | calls did not return from the module in time. So it was not finalized, and nothing has changed | `:path`, `:inside` (how many) |
  | `:module_adopted` | another library of this VM has initialized the module, so that `reload/2` must not finalize it | `:path` |
  | `:slot_not_found`, `:ambiguous_slot` | no slot, or several, match `:slot` | `:selector`, `:available` |
  | `:slot_in_use` | another pool uses the token, and one of the two is a `:token` pool; or a pool uses the token while `Pkcs11Pool.Token` needs it, or the other way round | |
  | `:pool_size_fixed` | a `:token` pool has exactly one session | |
  | `:sessions_hung` | only as the reason why a pool is not ready (`Pkcs11Pool.Health`): calls do not return from the module | `:hung` calls, `:size` |
  | `:starting` | only as the reason why a pool is not ready: it has not opened its first session yet | |
  | `:jws_invalid` | this is not a JWS, or its header is not accepted (`Pkcs11Pool.JWS`) | `:cause` |
  | `:otp_too_old` | a private key that is a function (`Pkcs11Pool.OTP`) needs OTP 27 | `:release`, the running one |
  | `:not_owner`, `:lease_ended` | another process used the lease; or the lease was used after its block, a stream took longer than `:lease_timeout`, or its session is gone | for a stream: `:stream`, and `:timeout_ms` if its time was over |
  | `:stream_in_progress` | the call needs the session of a stream that is in progress; or the calling process uses all sessions of the pool for its streams | `:sessions`: how many |
  | `:plaintext_unverified` | the token returns plaintext before it has verified the whole ciphertext, and `decrypt_stream/5` does not have `unverified: :allow` | |

  `inspect/1` shows the reason, whether it was executed, and the message; `Map.from_struct/1` all fields.

  With every reason `details` may have `:elapsed_ms` (since the call) and `:stats` (`:size`, `:idle`,
  `:running`, `:waiting`, `:hung`). Of a call that names two keys (`Pkcs11Pool.wrap_key/5`), what is wrong with one of them comes with
  `:argument`: which one.
  """

  alias Pkcs11Pool.Error.Text
  alias Pkcs11Pool.{ReturnCode, Template}

  @type reason :: atom
  @type executed :: boolean | :unknown

  @type t :: %__MODULE__{
          reason: reason,
          code: non_neg_integer | nil,
          function: atom | nil,
          pool: term,
          executed: executed,
          message: String.t() | nil,
          details: map
        }

  @typedoc "An error as the native side gives it."
  @type native ::
          {reason | nil, code :: non_neg_integer | nil, function :: String.t() | nil, executed,
           details :: map}

  defexception [:reason, :code, :function, :pool, :message, executed: :unknown, details: %{}]

  # Decided before the module was asked.
  @never_executed [
    :queue_timeout,
    :overloaded,
    :pool_not_found,
    :no_member,
    :application_not_started,
    :draining,
    :key_not_found,
    :ambiguous_key,
    :object_stale,
    :too_many_objects,
    :object_of_other_token,
    :session_object_needs_session,
    :curve_not_supported,
    :pin_required,
    :pin_final_try,
    :pin_source_failed,
    :login_conflict,
    :login_shared,
    :login_unsupported,
    :reauthentication_required,
    :token_unavailable,
    :module_load_failed,
    :module_initialize_failed,
    :module_digest_mismatch,
    :module_conflict,
    :module_busy,
    :module_stuck,
    :module_adopted,
    :slot_not_found,
    :ambiguous_slot,
    :slot_in_use,
    :not_owner,
    :lease_ended,
    :stream_in_progress,
    :sessions_hung,
    :starting,
    :otp_too_old
  ]

  # What may be otherwise a moment later, without anybody's doing.
  @transient [
    :queue_timeout,
    :operation_timeout,
    :overloaded,
    :draining,
    :no_member,
    :node_unavailable,
    :token_unavailable,
    :module_initialize_failed,
    :module_busy,
    :module_stuck,
    :pin_source_failed,
    :sessions_hung,
    :starting,
    :session_lost,
    :session_handle_invalid,
    :session_closed,
    :session_count,
    :token_resource_exceeded,
    :operation_active,
    :operation_not_initialized,
    :user_not_logged_in,
    :key_handle_invalid,
    :wrapping_key_handle_invalid,
    :unwrapping_key_handle_invalid,
    :object_handle_invalid,
    :device_error,
    :device_memory,
    :device_removed,
    :host_memory,
    :token_not_present,
    :token_not_recognized,
    :slot_id_invalid,
    :cryptoki_not_initialized,
    :general_error,
    :function_failed,
    :function_canceled
  ]

  @functions ~w(
    C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetInterface C_GetInterfaceList
    C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo
    C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions
    C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_LoginUser C_Logout
    C_SessionCancel C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
    C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal
    C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal
    C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal
    C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal
    C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover
    C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover
    C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate
    C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey
    C_EncapsulateKey C_DecapsulateKey C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated
    C_SeedRandom C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
    C_MessageEncryptInit C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext
    C_MessageEncryptFinal C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin
    C_DecryptMessageNext C_MessageDecryptFinal C_MessageSignInit C_SignMessage
    C_SignMessageBegin C_SignMessageNext C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage
    C_VerifyMessageBegin C_VerifyMessageNext C_MessageVerifyFinal C_VerifySignatureInit
    C_VerifySignature C_VerifySignatureUpdate C_VerifySignatureFinal C_GetSessionValidationFlags
    C_AsyncComplete C_AsyncGetID C_AsyncJoin
  )

  @doc """
  An error with its message. `fields` are those of the struct. The default of `:executed` is `false` for
  reasons that are decided before the module is called, and `:unknown` for others.
  """
  @spec new(reason, keyword) :: t
  def new(reason, fields \\ []) when is_atom(reason) do
    executed = if reason in @never_executed, do: false, else: :unknown
    error = struct!(%__MODULE__{reason: reason, executed: executed}, fields)

    # A call takes a lease in the place of the pool's name. Known by its fields: a lease's own module makes errors.
    error = with %{pool: %{holder: _, native: _, pool: name}} <- error, do: %{error | pool: name}
    %{error | message: error.message || Text.of(error)}
  end

  @doc """
  For `raise Pkcs11Pool.Error, reason: reason, ...`.
  """
  @impl true
  def exception(fields) when is_list(fields) do
    {reason, fields} = Keyword.pop!(fields, :reason)
    new(reason, fields)
  end

  def exception(reason) when is_atom(reason), do: new(reason)

  @doc false
  @spec from_native(native, pool :: term) :: t
  def from_native({reason, code, function, executed, details}, pool) do
    new(reason || (code && ReturnCode.name(code)) || :vendor_error,
      code: code,
      function: function(function),
      pool: pool,
      executed: executed,
      details:
        details
        |> source_reason()
        |> name(:class, &Template.class/1)
        |> name(:key_type, &Template.key_type/1)
    )
  end

  # What a key is that does not fit.
  defp name(details, key, to_name) do
    case details do
      %{^key => number} when is_integer(number) -> %{details | key => to_name.(number)}
      _none -> details
    end
  end

  # It was an atom before it went through native code.
  defp source_reason(%{source_reason: text} = details) when is_binary(text),
    do: %{details | source_reason: String.to_existing_atom(text)}

  defp source_reason(details), do: details

  @doc """
  Whether the same call may succeed if it is made again a moment later, and does no harm if it is:
  what failed is transient, and the operation never reached the module.

  `false` for `executed: :unknown`: you decide what to do about an operation that may have run. It does no harm to verify
  twice. After a time-out of a payment's signature, look first whether it was made.
  """
  @spec retryable?(t) :: boolean
  def retryable?(%__MODULE__{executed: executed, reason: reason, details: details} = error) do
    never_asked? = error.code == nil and reason in @never_executed
    never_ran? = executed == false or (executed == :unknown and never_asked?)
    never_ran? and reason in @transient and not match?(%{poisoned: true}, details)
  end

  # What comes from whoever sent the data.
  @bad_request [
    :signature_invalid,
    :decryption_failed,
    :jws_invalid,
    :data_invalid,
    :data_len_range,
    :encrypted_data_invalid,
    :encrypted_data_len_range,
    :aead_decrypt_failed,
    :wrapped_key_invalid,
    :wrapped_key_len_range
  ]

  # Nobody is served until somebody has put something right.
  @out_of_service [
    :pool_not_found,
    :application_not_started,
    :pin_required,
    :pin_incorrect,
    :pin_invalid,
    :pin_len_range,
    :pin_expired,
    :pin_locked,
    :pin_final_try,
    :pin_source_failed,
    :user_pin_not_initialized,
    :login_conflict,
    :reauthentication_required,
    :slot_not_found,
    :ambiguous_slot
  ]

  @doc """
  The status and the headers of an HTTP response for a request that failed with this error.

  | status | when |
  |---|---|
  | 400 | the signature, ciphertext or data that came with the request is wrong: `:signature_invalid`, `:decryption_failed`, `:jws_invalid`, `:data_len_range`, ... |
  | 503 with `retry-after` | it may succeed a moment later, and never ran (`retryable?/1`): `:token_unavailable`, `:overloaded`, `:queue_timeout`, `:draining`, ... The seconds are those until the pool looks for its token again, rounded up, else 1 |
  | 503 | nobody is served until somebody puts something right: `:pin_incorrect`, `:pin_locked`, `:slot_not_found`, `:pool_not_found`, ... |
  | 504 | `:operation_timeout`: it may have run, so that the client is not told to try again |
  | 502 | the token failed, and it is unknown whether the operation ran: `:device_error`, `:general_error`, `:session_lost`, ... |
  | 500 | all others, such as `:key_not_found` or `:mechanism_invalid`: what is wrong is in the application or in what is on the token. Where keys are named by the client, match on `reason` first |

  In a Plug or a controller:

      {status, headers} = Pkcs11Pool.Error.http_status(error)
      conn |> merge_resp_headers(headers) |> send_resp(status, "")

  The message is not for clients: it names the pool, and what to change there.
  """
  @spec http_status(t) :: {status :: 400 | 500 | 502..504, headers :: [{String.t(), String.t()}]}
  def http_status(%__MODULE__{reason: reason} = error) do
    cond do
      reason in @bad_request -> {400, []}
      reason == :operation_timeout and error.executed != false -> {504, []}
      retryable?(error) -> {503, [{"retry-after", retry_after(error.details)}]}
      reason in @out_of_service -> {503, []}
      reason in @transient or error.executed == :unknown -> {502, []}
      true -> {500, []}
    end
  end

  # Whole seconds, as HTTP has it.
  defp retry_after(%{retry_after_ms: ms}) when is_integer(ms) and ms > 0,
    do: Integer.to_string(div(ms + 999, 1_000))

  defp retry_after(_details), do: "1"

  @doc """
  What happened, in which pool, after how long, and what to change.
  """
  @impl true
  @spec message(t) :: String.t()
  def message(%__MODULE__{message: message}) when is_binary(message), do: message
  def message(%__MODULE__{} = error), do: Text.of(error)

  @doc false
  # A C function's name as an atom; nil for one that is none. Names from outside make no atoms.
  @spec function(String.t() | atom) :: atom
  for function <- @functions do
    def function(unquote(function)), do: unquote(String.to_atom(function))
  end

  def function(function) when is_atom(function), do: function
  def function(_unknown), do: nil
end

defimpl Inspect, for: Pkcs11Pool.Error do
  # The sentence, rather than a struct that has its parts once more: a supervisor whose pool does not start shows an error in this way.
  def inspect(%{reason: reason, executed: executed} = error, _opts) do
    "#Pkcs11Pool.Error<#{Kernel.inspect(reason)}, executed: #{Kernel.inspect(executed)}, " <>
      "#{Pkcs11Pool.Error.message(error)}>"
  end
end
