defmodule Pkcs11Pool.Options.Value do
  @moduledoc false
  # The check of one option by itself, with messages in NimbleOptions' words.

  alias Pkcs11Pool.Argument.Suggestion
  alias Pkcs11Pool.{Pin, Profile, ReturnCode}

  # Two of them added up are still a timeout that `receive` takes.
  @longest_ms 0x7FFFFFFF
  @most_random 1_048_576

  # Each may be a thread, and those of a token are far fewer.
  @most_sessions 1_024

  # Each is a process of the caller's.
  @most_waiting 1_000_000

  # What a CK_SLOT_ID holds.
  @largest_slot_id 0xFFFFFFFFFFFFFFFF

  # Longer than any token's, and no burden.
  @longest_username 1_024

  # What the native side and C can take.
  @c_string "UTF-8 without zero bytes"

  @doc """
  The value of an option of a pool or a call, as `Pkcs11Pool.Options` keeps it.
  """
  @spec validate!(name :: atom, term) :: term
  def validate!(:name, nil), do: invalid!(:name, "an atom or another term that is not nil", nil)
  def validate!(:name, name), do: name

  def validate!(:module, path) do
    expected = "the absolute path of a PKCS#11 module, as a string"

    cond do
      not (is_binary(path) and Path.type(path) == :absolute) -> invalid!(:module, expected, path)
      not c_string?(path) -> invalid!(:module, expected <> " of " <> @c_string, path)
      true -> path
    end
  end

  def validate!(name, nil) when name in [:module_sha256, :module_env, :module_args, :pin],
    do: nil

  def validate!(:module_sha256, digest) do
    if is_binary(digest) and digest =~ ~r/\A[0-9A-Fa-f]{64}\z/,
      do: String.downcase(digest),
      else: invalid!(:module_sha256, "64 hexadecimal digits as a string", digest)
  end

  # The values may be secret, and so may be the arguments.
  def validate!(:module_env, env) do
    if is_map(env) and not is_struct(env) and Enum.all?(env, &variable?/1),
      do: env,
      else:
        invalid!(
          :module_env,
          "a map of strings of #{@c_string}: names of variables (without \"=\"), and their values"
        )
  end

  def validate!(:module_args, args) do
    if is_binary(args) and c_string?(args),
      do: args,
      else: invalid!(:module_args, "a string of #{@c_string}")
  end

  def validate!(:slot, {kind, text} = slot)
      when kind in [:token_label, :token_serial] and is_binary(text) and text != "" do
    if String.valid?(text),
      do: slot,
      else: invalid_slot!("a tuple with a string that is not UTF-8")
  end

  def validate!(:slot, {:slot_id, id}) when is_integer(id) and id in 0..@largest_slot_id,
    do: {:slot_id, id}

  # A URI may hold a PIN, so that a string is not shown.
  def validate!(:slot, text) when is_binary(text) do
    if Pkcs11Pool.URI.uri?(text),
      do: {:uri, slot_of_uri!(text)},
      else: invalid_slot!("a string without that")
  end

  def validate!(:slot, {kind, value}) when is_atom(kind) and not is_binary(value),
    do: invalid_slot!(inspect({kind, value}))

  def validate!(:slot, {kind, _text}) when is_atom(kind),
    do: invalid_slot!("{#{inspect(kind)}, string}")

  def validate!(:slot, _other), do: invalid_slot!("another term")

  def validate!(:type, :soft_hsm), do: :hsm
  def validate!(:type, type), do: one_of!(:type, type, [:hsm, :cloud_hsm, :token, :soft_hsm])

  def validate!(:pin, source) do
    case Pin.Source.normalize(source) do
      {:ok, normalized} ->
        normalized

      :error when is_binary(source) ->
        raise ArgumentError,
              "invalid value for :pin option: a PIN must not be given as a string, since it would " <>
                "sit in the supervisor's state; expected " <> Pin.Source.expected()

      :error ->
        invalid!(:pin, Pin.Source.expected())
    end
  end

  def validate!(:pin_retention, value),
    do: one_of!(:pin_retention, value, [:per_login, :until_logout])

  def validate!(:user, value), do: one_of!(:user, value, [:user, :so])

  def validate!(:username, nil), do: nil

  def validate!(:username, name) do
    if is_binary(name) and name != "" and byte_size(name) <= @longest_username and
         String.valid?(name),
       do: name,
       else:
         invalid!(
           :username,
           "non-empty string in UTF-8 of at most #{@longest_username} bytes",
           name
         )
  end

  def validate!(:executor, value),
    do: one_of!(:executor, value, [:auto, :dirty_io, :threads])

  def validate!(:start, value), do: one_of!(:start, value, [:resilient, :strict])

  def validate!(:reauthentication, value),
    do: one_of!(:reauthentication, value, [:prompt, :fail])

  def validate!(:signature, value), do: one_of!(:signature, value, [:raw, :der])

  def validate!(:profile, nil), do: nil
  def validate!(:profile, value), do: one_of!(:profile, value, Profile.names())

  def validate!(name, value) when name in [:session_object, :unverified],
    do: one_of!(name, value, [:refuse, :allow])

  def validate!(name, value)
      when name in [
             :protected_authentication_path,
             :lazy,
             :read_only,
             :serialize,
             :partial,
             :force,
             :call
           ] do
    if is_boolean(value), do: value, else: invalid!(name, "boolean", value)
  end

  def validate!(name, value) when name in [:pool_size, :stripes] do
    if sessions?(value),
      do: value,
      else: invalid!(name, "positive integer of at most #{@most_sessions}", value)
  end

  def validate!(:max_waiting, value) do
    if is_integer(value) and value in 0..@most_waiting,
      do: value,
      else: invalid!(:max_waiting, "non negative integer of at most #{@most_waiting}", value)
  end

  # A source that may take for ever could hold up every caller for ever.
  # And what costs every session is not to be done without a pause.
  def validate!(name, value) when name in [:pin_timeout, :timeout, :trouble_interval] do
    if is_integer(value) and value in 1..@longest_ms,
      do: value,
      else: invalid!(name, "positive integer (milliseconds)", value)
  end

  def validate!(name, value)
      when name in [:queue_timeout, :operation_timeout, :shutdown_timeout, :key_cache_ttl] do
    if value == :infinity or (is_integer(value) and value in 0..@longest_ms),
      do: value,
      else: invalid!(name, "non negative integer (milliseconds) or :infinity", value)
  end

  def validate!(name, value)
      when name in [
             :lease_timeout,
             :idle_ttl,
             :max_lifetime,
             :inactivity_timeout,
             :trouble_timeout
           ] do
    if value == :infinity or (is_integer(value) and value in 1..@longest_ms),
      do: value,
      else: invalid!(name, "positive integer (milliseconds) or :infinity", value)
  end

  # Without the value: it may be secret.
  def validate!(name, value) when name in [:prefix, :suffix] do
    IO.iodata_to_binary(value)
  rescue
    ArgumentError -> invalid!(name, "iodata")
  end

  def validate!(:select, value) do
    if value == :newest or is_function(value, 1),
      do: value,
      else: invalid!(:select, ":newest or a function of one argument, a list of objects", value)
  end

  def validate!(:limit, value) do
    if is_integer(value) and value in 1..1_000_000,
      do: value,
      else: invalid!(:limit, "positive integer of at most 1_000_000 (objects)", value)
  end

  def validate!(:random_chunk, value) do
    if is_integer(value) and value in 8..@most_random,
      do: value,
      else: invalid!(:random_chunk, "integer from 8 to 1_048_576 (bytes)", value)
  end

  def validate!(:keepalive, value) do
    if value == :off or (is_integer(value) and value in 1..@longest_ms),
      do: value,
      else: invalid!(:keepalive, "positive integer (milliseconds) or :off", value)
  end

  def validate!(:telemetry_metadata, metadata) do
    if is_map(metadata) and not is_struct(metadata),
      do: metadata,
      else: invalid!(:telemetry_metadata, "map")
  end

  def validate!(:retry_policy, policy) when is_map(policy) and not is_struct(policy) do
    Map.new(policy, fn {code, class} ->
      {return_code!(code), one_of!(:retry_policy, class, ReturnCode.classes())}
    end)
  end

  def validate!(:retry_policy, policy),
    do: invalid!(:retry_policy, "map of return codes to classes", policy)

  defp sessions?(value), do: is_integer(value) and value in 1..@most_sessions

  @doc """
  A pool's size that is given to a call. Raises `ArgumentError` for what is none.
  """
  @spec size!(term) :: 1..1_024
  def size!(n) do
    unless sessions?(n) do
      raise ArgumentError,
            "expected a number of sessions from 1 to #{@most_sessions}, got: #{inspect(n)}"
    end

    n
  end

  defp return_code!(written) do
    code = if is_atom(written), do: ReturnCode.code(written), else: written

    cond do
      not is_integer(code) or code not in 1..0xFFFFFFFFFFFFFFFF ->
        invalid!(
          :retry_policy,
          "return codes such as :general_error or 0x80000123",
          written,
          Suggestion.for(written, ReturnCode.names())
        )

      code in ReturnCode.credential_codes() ->
        invalid!(
          :retry_policy,
          "no return code that is about a PIN: its class is always :credential, so that no PIN is " <>
            "tried twice",
          written
        )

      true ->
        code
    end
  end

  defp slot_of_uri!(uri) do
    in_slot!(fn ->
      parsed = Pkcs11Pool.URI.parse!(uri)
      _checked = Pkcs11Pool.URI.pin_file!(parsed)

      if Pkcs11Pool.URI.to_template(parsed) != [] do
        raise ArgumentError,
              "the URI names an object (object, id or type), expected " <>
                "one that names a slot or token only; a call's key may be such a URI"
      end

      Pkcs11Pool.URI.to_slot(parsed)
    end)
  end

  @doc """
  The PIN source that a `:slot` option names, which is valid by itself: nil for none. Raises `ArgumentError` if it is a URI of another module.
  """
  @spec pin_of_slot!(slot :: term, module :: Path.t()) :: Pin.Source.normalized() | nil
  def pin_of_slot!(uri, module) when is_binary(uri) do
    in_slot!(fn ->
      parsed = Pkcs11Pool.URI.parse!(uri)
      :ok = Pkcs11Pool.URI.check_module!(parsed, module)
      path = Pkcs11Pool.URI.pin_file!(parsed)
      if path, do: {:file, path}
    end)
  end

  def pin_of_slot!(_other, _module), do: nil

  defp in_slot!(fun) do
    fun.()
  rescue
    error in ArgumentError ->
      message = "invalid value for :slot option: " <> Exception.message(error)
      reraise ArgumentError, [message: message], __STACKTRACE__
  end

  defp variable?({name, value}) do
    is_binary(name) and name != "" and c_string?(name) and not String.contains?(name, "=") and
      is_binary(value) and c_string?(value)
  end

  defp c_string?(string), do: String.valid?(string) and not String.contains?(string, <<0>>)

  defp one_of!(name, value, valid) do
    if value in valid, do: value, else: invalid!(name, "one of #{inspect(valid)}", value)
  end

  @doc """
  Raises for a value that is not shown.
  """
  @spec invalid!(atom, String.t()) :: no_return
  def invalid!(name, expected) do
    raise ArgumentError, "invalid value for #{inspect(name)} option: expected #{expected}"
  end

  @doc """
  Raises for a value that is shown.
  """
  @spec invalid!(atom, String.t(), term) :: no_return
  def invalid!(name, expected, value), do: invalid!(name, expected, value, "")

  @spec invalid!(atom, String.t(), term, hint :: String.t()) :: no_return
  defp invalid!(name, expected, value, hint) do
    raise ArgumentError,
          "invalid value for #{inspect(name)} option: expected #{expected}, got: " <>
            inspect(value) <> hint
  end

  @doc """
  Raises for a value that another option forbids.
  """
  @spec refused!(atom, String.t()) :: no_return
  def refused!(name, why) do
    raise ArgumentError, "invalid value for #{inspect(name)} option: " <> why
  end

  @spec invalid_slot!(String.t()) :: no_return
  defp invalid_slot!(got) do
    raise ArgumentError,
          "invalid value for :slot option: expected {:token_label, string}, {:token_serial, string}, " <>
            "{:slot_id, integer} with one from 0 to 2^64 - 1, or a PKCS#11 URI, which starts with pkcs11:, got: " <>
            got
  end
end
