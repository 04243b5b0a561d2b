defmodule Pkcs11Pool.Doctor.Findings do
  @moduledoc false
  # What is wrong, by what an examination has learnt, in sentences that say what to do.

  alias Pkcs11Pool.Doctor.{Advice, ModuleFile}
  alias Pkcs11Pool.Error

  @typedoc """
  `:id` is for programs, and does not change. An `:error` keeps the pool from working, a `:warning` may, an `:info` is worth knowing.
  """
  @type finding :: %{
          level: :error | :warning | :info,
          id: atom,
          what: String.t(),
          remedy: String.t() | nil
        }

  @doc "The facts with their findings, the worst first, and the exit code."
  @spec report(map, map) :: map
  def report(facts, options) do
    findings =
      [
        file(facts, options),
        vm(facts),
        failed(facts, options),
        slots(facts, options),
        Enum.map(examined(facts), &token(&1, facts)),
        mechanisms(facts),
        objects(facts, options),
        login(facts, options),
        signatures(facts, options)
      ]
      |> List.flatten()
      |> Enum.reject(&is_nil/1)
      |> Enum.uniq()
      |> Enum.sort_by(
        &Enum.find_index([:error, :warning, :info], fn level -> level == &1.level end)
      )

    Map.merge(facts, %{findings: findings, exit_code: exit_code(facts, findings)})
  end

  # The documented ones, see the task.
  defp exit_code(facts, findings) do
    ids = for %{level: :error, id: id} <- findings, do: id

    cond do
      :module_crashed in ids -> 3
      :module_exited in ids -> 3
      :module_hangs in ids -> 4
      pin_trouble?(facts) -> 5
      ids != [] -> 1
      true -> 0
    end
  end

  @pin_reasons [
    :pin_incorrect,
    :pin_invalid,
    :pin_len_range,
    :pin_expired,
    :pin_locked,
    :pin_final_try
  ]
  @pin_refusals [:user_pin_locked, :user_pin_final_try]

  # Some tokens answer to a wrong PIN with a code of their own.
  defp pin_trouble?(%{login: {_id, %Error{reason: reason, function: function}}}),
    do: reason in @pin_reasons or function == :C_Login

  defp pin_trouble?(%{login: {_id, {:not_tried, reason}}}), do: reason in @pin_refusals
  defp pin_trouble?(_facts), do: false

  ## The file

  defp file(%{file: nil}, _options), do: nil

  defp file(%{file: :missing, path: path}, _options),
    do: error(:file_missing, "There is no file #{path}.", other_modules())

  defp file(%{file: :folder, path: path}, _options) do
    inside =
      case Path.wildcard(Path.join(path, "*.so")) do
        [] -> other_modules()
        files -> "Give the path of the library in it: #{some(files)}."
      end

    error(:file_is_folder, "#{path} is a folder.", inside)
  end

  defp file(%{file: :not_regular, path: path}, _options),
    do: error(:file_not_regular, "#{path} is no regular file.", other_modules())

  defp file(%{file: :unreadable, path: path}, _options) do
    error(
      :file_unreadable,
      "#{path} cannot be read by the user that runs this.",
      "Give this user the right to read it, and to enter each folder above it. A group of the vendor's often has that: add the user to it, and log in anew."
    )
  end

  defp file(%{file: :empty, path: path}, _options),
    do: error(:file_empty, "#{path} is empty.", "Install the vendor's software again.")

  defp file(%{file: {:not_elf, head}, path: path}, _options) do
    kind =
      cond do
        String.starts_with?(head, "#!") -> "a script"
        String.printable?(head) -> "a text"
        String.starts_with?(head, <<0xCF, 0xFA, 0xED, 0xFE>>) -> "a file for macOS"
        String.starts_with?(head, "MZ") -> "a file for Windows"
        true -> "something else"
      end

    error(
      :file_not_a_library,
      "#{path} is no shared library, but #{kind}.",
      "A PKCS#11 module is a file that ends in .so. " <> other_modules()
    )
  end

  defp file(%{file: :not_shared, path: path}, _options),
    do:
      error(
        :file_not_a_library,
        "#{path} is a program or an object file, and no shared library.",
        "A PKCS#11 module is a file that ends in .so. " <> other_modules()
      )

  defp file(%{file: {:other_machine, file, vm}, path: path}, _options) do
    error(
      :file_of_other_machine,
      "#{path} is built for #{file}, and this VM for #{vm}.",
      "Install the vendor's library for #{vm}."
    )
  end

  defp other_modules do
    case ModuleFile.installed() do
      [] ->
        "Look for the path in the vendor's documentation, and install the software first."

      modules ->
        "Look for the path in the vendor's documentation. Installed here are: #{some(modules)}."
    end
  end

  ## The other VM

  defp vm(%{vm: nil}), do: nil
  defp vm(%{vm: %{outcome: :done}}), do: nil

  defp vm(%{vm: %{outcome: outcome, step: {:start, _text}} = vm}) do
    error(
      :no_separate_vm,
      "A VM of its own for the module could not be started (#{Advice.outcome(outcome)}).",
      "What it said: #{if vm.output == "", do: "nothing", else: vm.output}"
    )
  end

  defp vm(%{vm: %{outcome: {:signal, signal}, step: {name, text}}}) do
    error(
      :module_crashed,
      "The module crashed (#{Advice.signal(signal)}) when it was to #{text}. In your application it would have ended the VM.",
      Advice.crash(name)
    )
  end

  defp vm(%{vm: %{outcome: {:exit, status}, step: {name, text}}}) do
    error(
      :module_exited,
      "The module ended the VM (exit code #{status}) when it was to #{text}. It would end your application's as well.",
      Advice.crash(name)
    )
  end

  defp vm(%{vm: %{outcome: {:hung, ms}, step: {name, text}}}) do
    error(
      :module_hangs,
      "The module did not return within #{Advice.seconds(ms)} when it was to #{text}.",
      Advice.hang(name)
    )
  end

  defp vm(%{vm: %{outcome: :failed, failure: failure, step: {_name, text}}}) do
    error(
      :doctor_failed,
      "The examination itself failed when it was to #{text}: #{failure || "no reason is known"}.",
      "This is a fault of pkcs11_pool: please report it with this text."
    )
  end

  ## Loading and initializing

  defp failed(%{failed: nil}, _options), do: nil

  defp failed(%{failed: {:load, %Error{reason: :module_digest_mismatch}}} = facts, _options) do
    error(
      :module_digest_mismatch,
      "#{facts.path} has the SHA-256 #{facts.sha256}, and not the one that --module-sha256 gives. It was not loaded.",
      "Find out who changed the file. After an update of the vendor's, take the new digest."
    )
  end

  defp failed(%{failed: {:load, %Error{} = error}} = facts, _options) do
    cause = if is_binary(error.details[:cause]), do: error.details.cause, else: Advice.what(error)
    error(:module_not_loaded, "#{facts.path} could not be loaded: #{cause}.", Advice.load(cause))
  end

  defp failed(%{failed: {:initialize, error}, path: path}, options) do
    error(
      :module_not_initialized,
      "The module refuses to start: #{Advice.what(error)}.",
      Advice.initialize(path, options)
    )
  end

  defp failed(%{failed: {:list, error}}, _options) do
    error(
      :slots_not_listed,
      "The module does not list its slots: #{Advice.what(error)}.",
      "See the vendor's log and whether the device or server behind the module is reachable."
    )
  end

  ## Slots

  defp slots(%{slots: nil}, _options), do: nil

  defp slots(%{slots: []}, _options) do
    error(
      :no_slots,
      "The module has no slots at all.",
      "Its configuration names no device, or the device is not connected: see the vendor's documentation on how a slot or partition is assigned to this machine."
    )
  end

  defp slots(facts, options) do
    [Enum.map(facts.slots, &slot_error/1), no_token(facts, options), not_found(facts, options)] ++
      [same_labels(facts)]
  end

  defp slot_error(%{error: nil}), do: nil

  defp slot_error(%{slot_id: id, error: error}) do
    warning(
      :slot_unreadable,
      "Slot #{id} does not say all of itself: #{Advice.what(error)}.",
      "If it is the slot that you want: see whether its device is connected, and the vendor's log."
    )
  end

  defp no_token(facts, options) do
    initialized = Enum.any?(facts.slots, &initialized?/1)
    uninitialized = for %{token: %{}} = slot <- facts.slots, not initialized?(slot), do: slot

    cond do
      initialized ->
        nil

      uninitialized != [] ->
        error(
          :no_token,
          "No token is initialized: there is a slot for one, but nothing is in it yet.",
          "Make a token with: mix pkcs11_pool.init --module #{options.module} --token-label LABEL" <>
            " (or with the vendor's tool, which most HSMs want)." <> Advice.other_user(options)
        )

      true ->
        error(
          :no_token,
          "There are slots, but no token is in any of them.",
          "Put the card or key in, or switch the device on and connect it."
        )
    end
  end

  defp not_found(%{selected: [], slots: slots}, %{slot: slot} = options) when slot != nil do
    there =
      case for(%{token: %{} = token} <- slots, do: token) do
        [] -> ""
        tokens -> " There are: #{some(Enum.map(tokens, &token_name/1))}."
      end

    error(
      :slot_not_found,
      "No token matches #{options.slot_option}.#{there}",
      "Compare it with the labels and serial numbers above. Slot numbers may change: prefer --token-label."
    )
  end

  defp not_found(_facts, _options), do: nil

  defp token_name(%{label: "", serial: ""}), do: "an uninitialized one"

  defp token_name(%{label: label, serial: serial}),
    do: "#{inspect(label)} (serial number #{serial})"

  defp same_labels(facts) do
    labels = for %{token: %{label: label}} = slot <- facts.slots, initialized?(slot), do: label

    for {label, count} <- Enum.frequencies(labels), count > 1 do
      warning(
        :same_label,
        "#{count} tokens have the label #{inspect(label)}: a pool with slot: {:token_label, #{inspect(label)}} would find them ambiguous.",
        "Name the token by its serial number: slot: {:token_serial, serial}."
      )
    end
  end

  ## Tokens

  defp initialized?(%{token: %{flags: flags}}), do: :token_initialized in flags
  defp initialized?(_empty), do: false

  defp examined(%{slots: slots, selected: selected}) when is_list(slots) and is_list(selected),
    do: for(slot <- slots, slot.slot_id in selected, initialized?(slot), do: slot)

  defp examined(_facts), do: []

  defp token(%{token: %{flags: flags} = token}, _facts) do
    name = inspect(token.label)

    [
      if :user_pin_locked in flags do
        error(
          :user_pin_locked,
          "The user PIN of the token #{name} is locked after too many wrong tries.",
          "Its security officer can set a new one: Pkcs11Pool.Token.init_pin/3, or the vendor's tool. Nothing here tries a PIN meanwhile."
        )
      end,
      if :user_pin_final_try in flags and :user_pin_locked not in flags do
        error(
          :user_pin_final_try,
          "One more wrong user PIN locks the token #{name}. No PIN is tried.",
          "Find out the right PIN, and log in once with the vendor's tool: that gives the token its tries back. A pool waits for login/3 with force: true."
        )
      end,
      if :user_pin_count_low in flags and :user_pin_final_try not in flags and
           :user_pin_locked not in flags do
        warning(
          :user_pin_count_low,
          "A wrong user PIN has been given to the token #{name} since its last good login.",
          "Make sure of the PIN before the next try: most tokens lock after a few wrong ones."
        )
      end,
      if :user_pin_to_be_changed in flags do
        warning(
          :user_pin_to_be_changed,
          "The user PIN of the token #{name} must be changed before it is of use.",
          "Change it with Pkcs11Pool.Token.set_pin/3, or with the vendor's tool."
        )
      end,
      if :user_pin_initialized not in flags and :login_required in flags do
        error(
          :no_user_pin,
          "The token #{name} has no user PIN yet: nobody can log in.",
          "Its security officer sets one: Pkcs11Pool.Token.init_pin/3, or the vendor's tool."
        )
      end,
      for flag <- [:so_pin_locked, :so_pin_final_try], flag in flags do
        warning(
          flag,
          if(flag == :so_pin_locked,
            do: "The security officer's PIN of the token #{name} is locked.",
            else: "One more wrong security officer's PIN locks that of the token #{name}."
          ),
          "A pool does not need it. Whoever wants to set PINs or make the token anew does."
        )
      end,
      if :error_state in flags do
        error(
          :token_error_state,
          "The token #{name} says that it is in an error state (CKF_ERROR_STATE): its self-test failed.",
          "Start the device again; if it says so again, ask the vendor."
        )
      end,
      if :write_protected in flags do
        info(
          :write_protected,
          "The token #{name} is write-protected: keys on it can be used, and none can be made.",
          "Give the pool read_only: true if it does not open sessions otherwise."
        )
      end,
      sessions(token, name),
      if token.label == "" do
        warning(
          :no_label,
          "The token with the serial number #{token.serial} has no label.",
          "Name it by its serial number: slot: {:token_serial, #{inspect(token.serial)}}."
        )
      end
    ]
  end

  # The default size of a pool.
  @usual_size 4

  defp sessions(token, name) do
    limits =
      for limit <- [token.max_session_count, token.max_rw_session_count],
          is_integer(limit) and limit > 0,
          do: limit

    case limits do
      [] ->
        nil

      limits ->
        most = Enum.min(limits)
        used = if is_integer(token.session_count), do: token.session_count, else: 0

        cond do
          used >= most ->
            warning(
              :no_free_session,
              "The token #{name} allows #{most} sessions, and all of them are open already.",
              "Close them elsewhere: other programs on this machine may have them."
            )

          most < @usual_size ->
            info(
              :few_sessions,
              "The token #{name} allows #{most} session(s).",
              "Give the pool pool_size: #{most}."
            )

          true ->
            nil
        end
    end
  end

  ## Mechanisms, objects

  defp mechanisms(facts) do
    for {id, mechanisms} <- facts.mechanisms do
      case mechanisms do
        %Error{} = error ->
          error(
            :mechanisms_unreadable,
            "The token in slot #{id} does not say what it can do: #{Advice.what(error)}.",
            Advice.remedy(error)
          )

        [] ->
          warning(
            :no_mechanisms,
            "The token in slot #{id} has no mechanisms at all.",
            "See whether it is set up completely, by the vendor's tool."
          )

        _some ->
          nil
      end
    end
  end

  defp objects(facts, options) do
    for {id, objects} <- facts.objects do
      case objects do
        %Error{} = error ->
          error(
            :objects_unreadable,
            "The token in slot #{id} does not list its objects: #{Advice.what(error)}.",
            Advice.remedy(error)
          )

        {[], false} ->
          if options.login,
            do:
              warning(
                :no_objects,
                "There is no key on the token in slot #{id}, nor anything else that this login may see.",
                "Make one with Pkcs11Pool.generate_key_pair/5, mix pkcs11_pool.init --key or the vendor's tool. If there should be one: is it the right token and user?"
              ),
            else:
              info(
                :no_visible_objects,
                "Without a login nothing is to be seen on the token in slot #{id}.",
                "Private keys show after a login: give --login."
              )

        _some ->
          nil
      end
    end
  end

  ## Login, signature

  defp login(%{login: nil}, _options), do: nil
  defp login(%{login: {_id, :ok}}, _options), do: nil

  defp login(%{login: {nil, {:not_tried, :no_token}}} = facts, options) do
    if facts.selected == [] and options.slot != nil,
      do: nil,
      else:
        error(
          :login_not_tried,
          "No login was tried: there is no initialized token for it.",
          "See the other findings."
        )
  end

  defp login(%{login: {nil, {:not_tried, :several_tokens}}} = facts, _options) do
    names = for slot <- examined(facts), do: token_name(slot.token)

    error(
      :login_not_tried,
      "No login was tried: there are several tokens, #{some(names)}.",
      "Say which one, with --token-label or --token-serial."
    )
  end

  defp login(%{login: {_id, {:not_tried, :no_pin_pad}}}, _options) do
    error(
      :login_not_tried,
      "No login was tried: the token has no PIN pad (CKF_PROTECTED_AUTHENTICATION_PATH is not set).",
      "Give the PIN by --pin-env, --pin-file or --pin-prompt."
    )
  end

  # The token's own finding says it.
  defp login(%{login: {_id, {:not_tried, _flags}}}, _options), do: nil

  defp login(%{login: {_id, %Error{reason: :pin_incorrect}}}, options) do
    error(
      :pin_incorrect,
      "The token refused the PIN (#{options.pin_option}). That used up one of its tries. It was tried once, and not again.",
      "Make sure of the PIN before you run this again: most tokens lock after a few wrong ones."
    )
  end

  defp login(%{login: {_id, %Error{reason: :pin_source_failed} = error}}, options) do
    error(
      :pin_source_failed,
      "#{options.pin_option}: #{Advice.what(error)}.",
      "Nothing was tried, and no try was used up."
    )
  end

  defp login(%{login: {_id, %Error{} = error}}, options) do
    error(
      :login_failed,
      "The login failed (#{options.pin_option}): #{Advice.what(error)}. It was tried once, and not again.",
      Advice.remedy(error)
    )
  end

  defp signatures(facts, options) do
    for {id, signature} <- facts.signatures, do: signature(signature, id, options)
  end

  defp signature(%Error{} = error, id, _options) do
    error(
      :signing_failed,
      "A signature failed on the token in slot #{id}: #{Advice.what(error)}.",
      Advice.remedy(error)
    )
  end

  defp signature(:no_key, id, %{key: key} = options) when key != nil do
    error(
      :key_not_found,
      "No key on the token in slot #{id} matches --key and may sign.",
      if(options.login,
        do: "Compare it with the keys above: label, id and usage.",
        else: "Private keys show after a login: give --login."
      )
    )
  end

  defp signature(:no_key, id, _options) do
    info(
      :nothing_signed,
      "Nothing was signed: there is no key on the token in slot #{id} that may sign.",
      "Name another token, or make a key with sign: true."
    )
  end

  defp signature(:no_mechanism, id, _options) do
    warning(
      :nothing_signed,
      "Nothing was signed: the token in slot #{id} has no mechanism for its signing keys that is known here.",
      "Compare the keys' types with the mechanisms above, and try the pool itself."
    )
  end

  defp signature(%{on_token: on_token, in_vm: in_vm} = signature, id, _options) do
    name = inspect(signature.key.label)

    cond do
      in_vm == :invalid or match?(%Error{reason: :signature_invalid}, on_token) ->
        error(
          :signature_wrong,
          "The signature of the key #{name} is not one of the public key that has its id, on the token in slot #{id}.",
          "The two may not be a pair: compare their ids and labels. If they are, the token signs wrongly: ask the vendor."
        )

      match?(%Error{}, on_token) and in_vm == :ok ->
        info(
          :verified_here_only,
          "The token in slot #{id} does not verify: #{Advice.what(on_token)}. The signature is right, by OTP's own verification.",
          "Verify with :public_key in your application."
        )

      match?(%Error{}, on_token) ->
        warning(
          :not_verified,
          "The key #{name} signs, but the token in slot #{id} does not verify: #{Advice.what(on_token)}.",
          Advice.remedy(on_token)
        )

      on_token == nil ->
        info(
          :not_verified,
          "The key #{name} signs. The signature was not verified, since the token has no public key with its id.",
          "Nothing has to be done if your application has the public key or its certificate."
        )

      true ->
        nil
    end
  end

  ## Shapes

  defp error(id, what, remedy), do: finding(:error, id, what, remedy)
  defp warning(id, what, remedy), do: finding(:warning, id, what, remedy)
  defp info(id, what, remedy), do: finding(:info, id, what, remedy)

  defp finding(level, id, what, remedy),
    do: %{level: level, id: id, what: what, remedy: remedy}

  @shown 8

  defp some(names) do
    more = if length(names) > @shown, do: ", ...", else: ""
    Enum.join(Enum.take(names, @shown), ", ") <> more
  end
end
