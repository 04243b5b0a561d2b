defmodule Pkcs11Pool.Error.Explanation do
  @moduledoc false
  # What each reason of an error means, and what to change.

  import Pkcs11Pool.Error.Details

  alias Pkcs11Pool.Pin

  @doc """
  What happened, and the remedy in a sentence; nil where there is none to give.
  """
  @spec of(reason :: atom, details :: map, error :: map) ::
          {what :: String.t(), remedy :: String.t() | nil}
  def of(reason, details, error)

  # Time and load

  def of(:queue_timeout, details, _error) do
    {"no session came free#{within(details)}, the operation never started",
     "Raise :pool_size or :queue_timeout, or make fewer calls at the same time"}
  end

  # Of a call of Pkcs11Pool.Token, which has no pool.
  def of(:operation_timeout, %{path: path} = details, _error) do
    {"#{path}: the module did not answer#{within(details)}, and its caller was freed",
     "Raise :operation_timeout if the module is only slow. It is not finalized before it answers"}
  end

  def of(:operation_timeout, details, error) do
    {"#{error.function || "the operation"} was not done#{within(details)}, and its caller was freed",
     "Raise :operation_timeout if the token is only slow; hung calls are counted in status/1"}
  end

  def of(:overloaded, details, _error) do
    waiting = if is_integer(details[:max_waiting]), do: "#{details[:max_waiting]} ", else: ""

    {"the call was refused at once, since #{waiting}operations wait already (:max_waiting)",
     "Raise :pool_size or :max_waiting, or make fewer calls at the same time"}
  end

  def of(:pool_not_found, _details, _error) do
    {"no such pool is running",
     "Start {Pkcs11Pool, name: ...} in a supervision tree before its callers, and compare the names"}
  end

  def of(:no_member, _details, _error) do
    {"the group has no member",
     "Give it pools of this node as :members, or connect nodes that have some"}
  end

  def of(:node_unavailable, %{node: node, cause: :timeout}, _error) do
    {"node #{node} has the call, and did not answer within its timeouts",
     "See whether the node hangs or is overloaded"}
  end

  def of(:node_unavailable, %{node: node}, %{executed: :unknown}) do
    {"node #{node} went away while it had the call",
     "See whether the node runs, and the network between"}
  end

  def of(:node_unavailable, details, _error) do
    {"node #{details[:node]} is not connected, and was not asked",
     "See whether the node runs, and the network between"}
  end

  def of(:application_not_started, _details, _error) do
    {"the application :pkcs11_pool is not running, and no pool runs without it",
     "Start it first: Application.ensure_all_started(:pkcs11_pool) in a script (mix run and releases start it by themselves, as a dependency)"}
  end

  def of(:draining, _details, _error) do
    {"the pool is stopping and takes no new operations", "Only a restart of the pool resumes it"}
  end

  # Health

  def of(:starting, _details, _error) do
    {"the pool has not opened its first session yet",
     "await_ready/2 waits for it; with lazy: true a pool opens none before the first call"}
  end

  def of(:sessions_hung, details, _error) do
    {"the module does not return from #{hung(details)}",
     "Find out what it waits for; on native threads (executor: :threads) sessions that hang are replaced"}
  end

  # Sessions

  def of(:session_lost, _details, _error) do
    {"the module lost this session while the operation ran and gave its number to another session, " <>
       "so that the answer may come from another key and is not used",
     "Check on the token whether the operation ran. If this happens often, find out what ends the sessions"}
  end

  # JOSE and OTP

  def of(:jws_invalid, details, _error) do
    case details[:cause] do
      :algorithm ->
        {"the header of the JWS names an algorithm that is not among :algorithms",
         "If its issuer should use this algorithm, add it to :algorithms"}

      :critical ->
        {"the header of the JWS has critical members (crit) that neither this library nor the option :crit knows",
         "If your code checks them, name them in :crit"}

      :payload ->
        {"the JWS has its payload in it and there is a :payload option, or there is neither",
         "Give :payload if and only if nothing is between the dots"}

      :no_key ->
        {"none of the given keys is for this JWS",
         "Compare kid, alg and use of the header and of the keys"}

      _malformed ->
        {"this is no JWS in the compact form",
         "Look at what was received: three parts of base64url with dots between them"}
    end
  end

  def of(:otp_too_old, details, _error) do
    {"a private key of :ssl and :public_key can be on a token from OTP 27 on, and this is OTP #{details[:release]}",
     "Run the application on OTP 27 or newer; Pkcs11Pool.X509 and Pkcs11Pool.sign/5 work on this one"}
  end

  # Keys and objects

  def of(:key_not_found, %{unproved: _, public_keys: _, certificates: _} = details, _error) do
    {"no key on the token is proved to be the one that the public key belongs to (#{of_public_key(details)})",
     "Check that the key is on this token. If it cannot be proved (it may not sign, or needs a login for each use), name it by its label or id"}
  end

  def of(:key_not_found, _details, _error) do
    {"no object on the token matches the key",
     "Compare label, id and class with what find_objects/3 lists; private objects show after a login only"}
  end

  def of(:ambiguous_key, %{newest: why} = details, _error) when is_atom(why) do
    {"more than one object on the token matches the key#{candidates(details)}, and none is the newest: #{undecided(why)}",
     "Give the keys a CKA_START_DATE each (:start_date), or choose by a function (select: fun)"}
  end

  def of(:ambiguous_key, details, _error) do
    {"more than one object on the token matches the key#{candidates(details)}",
     "Name it by id as well as label, or by an object from find_objects/3"}
  end

  def of(:too_many_objects, details, _error) do
    {"more than #{Map.get(details, :limit, 10_000)} objects match the template",
     "Give find_objects/3 a narrower template, or the option :limit to get only so many"}
  end

  def of(:object_stale, _details, _error) do
    {"the object's handle is from before a logout, a reload or an absence of the token, and the object was not found again (an object that is to be destroyed or changed is searched by CKA_UNIQUE_ID only)",
     "Find it again with find_objects/3; give objects an id or a label"}
  end

  def of(:object_of_other_token, _details, _error),
    do:
      {"the object belongs to another token than the pool's", "Use it with the pool it came from"}

  def of(:session_object_needs_session, _details, _error) do
    {"the template makes a session object, which would be lost when the pool closes its session",
     "Add token: true, make it inside with_session/3, or give session_object: :allow (to the call, or to the pool)"}
  end

  def of(:attribute_sensitive, details, _error) do
    {"the token does not reveal #{attributes(details)}",
     "Ask for other attributes, or give partial: true to get :unavailable for these"}
  end

  def of(:attribute_type_invalid, details, _error) do
    {"the object does not have #{attributes(details)}",
     "Ask for other attributes, or give partial: true to get :unavailable for these"}
  end

  # Login

  def of(:pin_required, _details, _error) do
    {"the token needs a login and the pool has no PIN",
     "Give the pool a :pin source, or call login/3"}
  end

  def of(:pin_source_failed, details, %{pool: nil}) do
    {"a PIN source gave no PIN: #{Pin.Source.explain(details[:cause])}",
     "No PIN was tried. Correct the source, and call again"}
  end

  def of(:pin_source_failed, details, _error) do
    {"the :pin source gave no PIN: #{Pin.Source.explain(details[:cause])}",
     "No login was tried. Correct the source: the next call asks it again"}
  end

  def of(:pin_incorrect, details, error),
    do: {"the token refused the PIN", pin_remedy(details, error)}

  def of(:pin_invalid, details, error),
    do: {"the PIN has characters that the token does not accept", pin_remedy(details, error)}

  def of(:pin_len_range, details, error),
    do: {"the PIN is too short or too long for the token", pin_remedy(details, error)}

  def of(:pin_expired, details, error) do
    {"the PIN has expired",
     "Set a new PIN with the token's own tools. " <> pin_remedy(details, error)}
  end

  def of(:pin_locked, details, error) do
    {"the PIN is locked after too many wrong tries",
     "A security officer must unlock it. " <> pin_remedy(details, error)}
  end

  def of(:pin_final_try, _details, %{pool: nil}) do
    {"one more wrong PIN would lock the token, so that the PIN was not tried",
     "Make sure that the PIN is right, then give force: true"}
  end

  def of(:pin_final_try, _details, _error) do
    {"one more wrong PIN would lock the token, so that no login was tried",
     "Make sure that the PIN is right, then call login/3 with force: true"}
  end

  def of(:user_pin_not_initialized, _details, %{pool: nil}),
    do: {"the token has no user PIN yet", "Pkcs11Pool.Token.init_pin/3 sets it"}

  def of(:user_pin_not_initialized, details, error) do
    {"the token has no user PIN yet",
     "A security officer must set it. " <> pin_remedy(details, error)}
  end

  def of(:login_conflict, _details, _error) do
    {"another user or another PIN is logged in on this token",
     "Pools of one token share its login: give them the same :user, :username and :pin, or stop the other one. " <>
       "The :pin source is asked again after 30 s"}
  end

  def of(:login_shared, details, _error) do
    {"others share the login, and would be logged out with it#{sharers(details)}",
     "Stop them first, or give force: true"}
  end

  def of(:login_unsupported, _details, _error),
    do: {"a pool of type :cloud_hsm never logs in", "Use type: :hsm for a token that takes a PIN"}

  def of(:reauthentication_required, _details, _error) do
    {"the pool was logged out (after :inactivity_timeout, or by logout/2), and reauthentication: :fail keeps it so",
     "Call login/3"}
  end

  def of(:user_not_logged_in, _details, _error) do
    {"the token needs a login for this", "Give the pool a :pin source, or call login/3"}
  end

  # Results

  def of(:signature_invalid, %{given_bytes: given, expected_bytes: expected}, _error) do
    {"the signature is not valid: it has #{given} bytes, and those of this key and mechanism have #{expected}",
     "Give the signature as it was made: an ECDSA one in DER needs signature: :der"}
  end

  def of(:signature_invalid, %{cause: :other_public_key}, _error) do
    {"the signature that the token made does not belong to the public key",
     "The private key does not belong to the public key or to the CA's certificate: compare their ids and labels"}
  end

  def of(:signature_invalid, _details, _error),
    do: {"the signature is not valid for this data, key and mechanism", nil}

  def of(:encrypted_data_len_range, %{given_bytes: given, expected_bytes: expected}, _error) do
    {"the ciphertext has #{given} bytes, and a ciphertext for this key has #{expected}; the module was not called",
     "Give the ciphertext as encapsulate made it, and compare the parameter sets of both sides"}
  end

  def of(:curve_not_supported, _details, _error) do
    {"this library does not know how long r and s are on the key's curve, so that it cannot verify a signature in DER",
     "Give the raw form, with signature: :raw"}
  end

  def of(:decryption_failed, _details, _error) do
    {"the token could not decrypt: the data was changed, or it was encrypted with another key or " <>
       "other parameters", nil}
  end

  def of(:mechanism_invalid, details, _error) do
    mechanism = if details[:mechanism], do: " #{inspect(details[:mechanism])}", else: ""

    {"the token does not have the mechanism#{mechanism}, or not for this operation",
     "mechanisms/1 lists what it has"}
  end

  # By codes that may mean anything: SoftHSM says GENERAL_ERROR to a wrapped key that was changed, kryoptic DEVICE_ERROR.
  def of(reason, details, %{function: :C_UnwrapKey})
      when reason in [
             :general_error,
             :function_failed,
             :device_error,
             :data_invalid,
             :data_len_range,
             :encrypted_data_invalid,
             :encrypted_data_len_range,
             :wrapped_key_invalid,
             :wrapped_key_len_range,
             :key_size_range
           ] do
    {"the token refused to unwrap the key#{cause(details)}",
     "Most often the wrapped key was changed or cut off, or it was wrapped with another key, mechanism or parameters"}
  end

  def of(:key_not_wrappable, _details, _error) do
    {"the token does not wrap this key with that one",
     "A key with wrap_with_trusted: true is wrapped by a key that is trusted: true only; some mechanisms wrap secret keys only, and a public key needs no wrapping"}
  end

  def of(:plaintext_unverified, _details, _error) do
    {"the token returns plaintext before it has verified the whole ciphertext, so that nothing of it is returned",
     "Decrypt it in one piece with decrypt/5. Or give unverified: :allow, and do not use the plaintext before the stream has ended without an error"}
  end

  def of(reason, _details, %{function: function})
      when reason in [:operation_not_initialized, :function_not_supported] and
             function in [:C_SignUpdate, :C_VerifyUpdate, :C_DigestUpdate] do
    {"the module has no operation in progress that takes a part of the data: it has lost it, or the mechanism takes its data in one piece",
     "If this happens each time, give the data in one piece"}
  end

  def of(:parameters_ignored, details, _error) do
    mechanism = if details[:mechanism], do: " #{inspect(details[:mechanism])}", else: ""

    {"the module ignores the parameters of the mechanism#{mechanism}#{taken(details)}, so that its answer is not returned",
     "Use a token that knows them, or the mechanism without them"}
  end

  def of(:mechanism_param_invalid, details, _error) do
    mechanism = if details[:mechanism], do: " #{inspect(details[:mechanism])}", else: ""

    {"the token does not accept these parameters of the mechanism#{mechanism}#{taken(details)}",
     usual_parameters(details)}
  end

  # SoftHSM's code for a hash of OAEP that it does not have.
  def of(:arguments_bad, %{mechanism: :rsa_pkcs_oaep}, _error) do
    {"the module does not take the arguments, and the hash of :rsa_pkcs_oaep is a likely cause",
     usual_parameters(%{mechanism: :rsa_pkcs_oaep})}
  end

  def of(:arguments_bad, %{mechanism: mechanism} = details, error) do
    case taken(details) do
      "" ->
        of(:arguments_bad, Map.delete(details, :mechanism), error)

      names ->
        {"the module does not take the arguments, and the parameters of #{inspect(mechanism)}#{names} are a likely cause",
         usual_parameters(details)}
    end
  end

  def of(:output_length_invalid, _details, error) do
    {"#{error.function || "the module"} returned CKR_OK, but the length of its answer cannot be right, so that the answer is not returned",
     "The mechanism does not work on this token. Use another one, and tell the module's vendor"}
  end

  def of(:iv_replaced, _details, _error) do
    {"the module encrypted with another IV than the one that was given",
     "The module's IV is in details.iv. For a token that makes its own IVs, give iv: :token"}
  end

  def of(:iv_not_made, _details, _error) do
    {"the token made no IV of its own, so that the ciphertext is not returned",
     "Give the mechanism an IV that is used once"}
  end

  # Token, module, slot

  def of(:token_unavailable, details, _error) do
    {"the token #{away(details)}#{cause(details)}", retry_after(details)}
  end

  def of(:module_load_failed, details, _error) do
    {"the PKCS#11 module#{path(details)} could not be loaded#{cause(details)}",
     "Compare :module with the vendor's path, and the file's architecture with this system's"}
  end

  def of(:module_initialize_failed, details, _error) do
    {"the PKCS#11 module#{path(details)} did not initialize",
     "Check its configuration (#{configuration(details)}). The operating system's variables are set with :module_env: a module does not see " <>
       "those of System.put_env/2"}
  end

  def of(:module_digest_mismatch, details, _error) do
    {"the PKCS#11 module#{path(details)} is not the file whose digest :module_sha256 gives, it was not loaded",
     "Find out who changed it; after an update of the module, give its new digest"}
  end

  def of(:module_conflict, details, _error) do
    option = if details[:option], do: inspect(details[:option]), else: "option"

    {"the PKCS#11 module#{path(details)} is loaded already with another #{option}",
     "Give all pools of one module the same #{option}; it is read once per VM"}
  end

  def of(:module_busy, details, _error) do
    {"no call can enter the PKCS#11 module#{path(details)}: C_Initialize, C_Finalize or, if it is serialized, another call has not returned from it",
     "Find out what the module waits for. The pool looks for its token until the call returns"}
  end

  def of(:module_stuck, details, _error) do
    calls =
      case details[:inside] do
        1 -> "1 call has"
        n when is_integer(n) -> "#{n} calls have"
        _unknown -> "calls have"
      end

    {"#{calls} not returned from the PKCS#11 module#{path(details)} in time, and the module was left as it is",
     "Try again when status/1 counts no call as :hung, or give the calls more time with :queue_timeout"}
  end

  def of(:module_adopted, details, _error) do
    {"another library of this VM has initialized the PKCS#11 module#{path(details)}, and only that one may finalize it",
     "Have that library initialize it again, or let the pool be the first to load it"}
  end

  # Of Pkcs11Pool.Token.init/3.
  def of(:slot_not_found, %{selector: "an uninitialized token"} = details, _error) do
    {"no slot has an uninitialized token#{available(details)}",
     "In many modules, slots are made by the vendor's tool or in the configuration. To initialize a token again, name its slot: everything that is on the token is lost"}
  end

  def of(:ambiguous_slot, %{selector: "an uninitialized token"} = details, _error) do
    {"more than one slot has an uninitialized token#{available(details)}",
     "Name one by {:slot_id, number}"}
  end

  def of(:slot_not_found, details, _error) do
    {"no slot with a token matches :slot#{selector(details)}#{available(details)}",
     "Compare :slot with the token's label and serial number"}
  end

  def of(:ambiguous_slot, details, _error) do
    {"more than one slot matches :slot#{selector(details)}#{available(details)}",
     "Name it by {:token_serial, serial}"}
  end

  def of(:pool_size_fixed, _details, _error),
    do: {"a pool of type :token has exactly one session, whatever its load", nil}

  # Of a call of Pkcs11Pool.Token, which has no pool.
  def of(:slot_in_use, _details, %{pool: nil}) do
    {"the token is used by a pool, or by another call of Pkcs11Pool.Token",
     "Stop the pools of the token first"}
  end

  def of(:slot_in_use, _details, _error) do
    {"the token is used by another pool, and a pool of type :token has its token for itself; " <>
       "or a call of Pkcs11Pool.Token uses it", "Stop the other pool, or share one pool"}
  end

  # Leases

  def of(:not_owner, _details, _error),
    do: {"the lease belongs to another process", "Use it in the process that runs with_session/3"}

  def of(:lease_ended, %{stream: true, timeout_ms: ms}, _error) do
    {"the stream did not end within its :lease_timeout of #{ms} ms, and has lost its session",
     "Raise the option :lease_timeout of the call, or of the pool"}
  end

  def of(:lease_ended, %{stream: true}, _error) do
    {"the stream has lost its session before its end, and a stream is never continued on another one",
     "Begin it again. The log says what happened to the token"}
  end

  def of(:stream_in_progress, %{sessions: sessions}, _error) do
    {"the calling process runs streams on all sessions that the pool has (#{sessions}), so that another call would wait for the process itself",
     "Raise :pool_size, or make the call before the stream begins or after it has ended"}
  end

  def of(:stream_in_progress, _details, _error) do
    {"a stream uses the session, and nothing else can run on it until the stream has ended",
     "Make the call before the stream begins or after it has ended, or outside of the with_session/3 block"}
  end

  def of(:lease_ended, _details, _error),
    do: {"the lease has ended with its with_session/3 block", nil}

  # Return codes that say enough with a word more

  def of(:key_function_not_permitted, _details, _error) do
    {"the key's attributes do not allow this operation",
     "Make the key with the operation's attribute, such as sign: true"}
  end

  # This library's own use of the code, see Pkcs11Pool.API.Attributes.
  def of(:key_type_inconsistent, %{cause: :other_curve}, _error) do
    {"the key is on another curve than the one that was asked for",
     "Give the curve of the key (key_info/3 says which); for JOSE its algorithm: ES256 for P-256, ES384 for P-384, ES512 for P-521, ES256K for secp256k1"}
  end

  def of(:key_type_inconsistent, %{cause: :no_public_key}, _error) do
    {"the object holds no public key that OTP knows",
     "For a private key other than RSA, give the object of its public key, or the label that both have"}
  end

  # This library's own as well, before the module is asked.
  def of(:key_type_inconsistent, details, %{code: nil})
      when is_map_key(details, :class) or is_map_key(details, :key_type) do
    {"#{kind_of_key(details)} does not fit#{mechanism(details)}, and the module was not called",
     "Give the mechanism a key of its type; a private key signs, decrypts, unwraps and derives, its public key verifies, encrypts and wraps"}
  end

  def of(:key_type_inconsistent, details, _error),
    do: {"the key's type does not fit#{mechanism(details)}", nil}

  def of(:key_unextractable, _details, _error),
    do: {"the key may not leave the token (extractable: false)", nil}

  def of(:data_len_range, _details, %{code: nil}) do
    {"the pool makes no MAC of empty data with this mechanism, since some modules answer with bytes of their memory",
     "If data may be empty, use an HMAC or a CMAC"}
  end

  def of(:data_len_range, _details, _error),
    do: {"the data is too long or too short for the mechanism and key", nil}

  def of(:device_error, details, _error) do
    {"the token refused the operation#{cause(details)}",
     "The code says that the device failed. If your token also answers so when the caller made a mistake, such as a changed ciphertext, give the pool " <>
       "retry_policy: %{device_error: :caller}"}
  end

  def of(:session_read_only, _details, _error),
    do: {"the pool's sessions are read-only", "Leave :read_only out of the pool's options"}

  def of(:token_write_protected, _details, _error),
    do: {"the token is write-protected", nil}

  def of(:function_not_supported, details, %{function: :C_LoginUser}) do
    {"the PKCS#11 module#{path(details)} does not offer C_LoginUser (PKCS#11 3.0), which a pool with a :username needs",
     "Leave :username out. If the vendor expects the name in the PIN (\"user:password\"), put it there"}
  end

  def of(:function_not_supported, _details, error) do
    {"the module does not have #{error.function || "this function"}", nil}
  end

  def of(:template_incomplete, _details, _error),
    do: {"the template lacks an attribute that the token needs", nil}

  def of(:template_inconsistent, _details, _error),
    do: {"the template's attributes contradict each other, the mechanism or the token", nil}

  def of(:session_count, _details, _error) do
    {"the token opens no more sessions", "Lower :pool_size to what the token allows"}
  end

  def of(reason, details, error) do
    what = if error.code, do: "the token refused the operation", else: words(reason)
    {what <> cause(details), nil}
  end
end
