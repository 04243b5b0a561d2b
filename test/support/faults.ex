defmodule Pkcs11Pool.Test.Faults do
  @moduledoc """
  What the pool promises to do about every return code, wherever in a call it comes: the table that `test/recovery/faults_test.exs` proves and
  `test/recovery/faults.md` shows. Written by hand from the policy, not from what the code does.
  """

  alias Pkcs11Pool.ReturnCode

  @typedoc """
  Where a return code comes:

    * `:look_up`, `:init`, `:final` - while a call that may be repeated (a signature) looks for its key, at its Init, at its final call
    * `:change_look_up`, `:change` - while a call that may not be repeated (`destroy_object/3`) looks for its object, and at the call itself
    * `:open`, `:login` - when the pool opens its first session, and logs in, for a call
  """
  @type place :: :look_up | :init | :final | :change_look_up | :change | :open | :login

  @typedoc """
  What is promised:

    * `:once` - what the caller gets if the code comes once: `:ok`, or the reason (`:itself`: the code's own name) with `executed`
    * `:always` - the same if it comes for as long as it is asked
    * `:calls` - how often the C function is called: `{if it comes once, if it comes always}`; `:any` where recovery calls it, too
    * `:retries` - how often the operation is tried again, and an event says so: `{once, always}`; a login is seen to within its operation
    * `:session` - what becomes of the session that met it; `:none` where there was none
    * `:closed` - how many sessions so are closed: `{once, always}`
    * `:after` - what is due before the next call succeeds: nothing, or somebody's `login/3`
  """
  @type promise :: %{
          once: :ok | {reason :: atom, executed :: boolean | :unknown},
          always: :ok | {reason :: atom, executed :: boolean | :unknown},
          calls: {pos_integer, pos_integer} | :any,
          retries: {non_neg_integer, non_neg_integer},
          session: :kept | :closed | :none,
          closed: {non_neg_integer, non_neg_integer} | :any,
          after: :nothing | :login
        }

  @functions %{
    look_up: :C_FindObjectsInit,
    init: :C_SignInit,
    final: :C_Sign,
    change_look_up: :C_FindObjectsInit,
    change: :C_DestroyObject,
    open: :C_OpenSession,
    login: :C_Login
  }

  @places [:look_up, :init, :final, :change_look_up, :change, :open, :login]

  # One that a vendor may have, and one that nobody has.
  @vendor 0x80000123
  @unassigned 0x0000_0BAD

  @codes [
    dead_session: [:session_handle_invalid, :session_closed],
    dirty_session: [
      :operation_active,
      :operation_not_initialized,
      :operation_cancel_failed,
      :pending
    ],
    stale_handle: [
      :key_handle_invalid,
      :object_handle_invalid,
      :unwrapping_key_handle_invalid,
      :wrapping_key_handle_invalid
    ],
    login_lost: [:user_not_logged_in],
    already_logged_in: [:user_already_logged_in],
    login_conflict: [
      :user_another_already_logged_in,
      :user_too_many_types,
      :session_read_only_exists,
      :session_read_write_so_exists
    ],
    credential: [
      :pin_incorrect,
      :pin_invalid,
      :pin_len_range,
      :pin_expired,
      :pin_locked,
      :user_pin_not_initialized
    ],
    capacity: [:session_count, :token_resource_exceeded],
    token_gone: [
      :device_removed,
      :token_not_present,
      :token_not_recognized,
      :slot_id_invalid,
      :token_not_initialized
    ],
    device_trouble: [:device_error, :device_memory, :host_memory, :fips_self_test_failed],
    ambiguous: [:general_error, :function_failed],
    module: [:cryptoki_not_initialized],
    locking: [:cant_lock, :need_to_create_threads, :mutex_bad, :mutex_not_locked],
    buffer: [:buffer_too_small],
    caller: [
      :cancel,
      :arguments_bad,
      :no_event,
      :attribute_read_only,
      :attribute_sensitive,
      :attribute_type_invalid,
      :attribute_value_invalid,
      :action_prohibited,
      :data_invalid,
      :data_len_range,
      :encrypted_data_invalid,
      :encrypted_data_len_range,
      :aead_decrypt_failed,
      :function_canceled,
      :function_not_parallel,
      :function_not_supported,
      :key_size_range,
      :key_type_inconsistent,
      :key_not_needed,
      :key_changed,
      :key_needed,
      :key_indigestible,
      :key_function_not_permitted,
      :key_not_wrappable,
      :key_unextractable,
      :mechanism_invalid,
      :mechanism_param_invalid,
      :session_parallel_not_supported,
      :session_read_only,
      :session_exists,
      :signature_invalid,
      :signature_len_range,
      :template_incomplete,
      :template_inconsistent,
      :token_write_protected,
      :unwrapping_key_size_range,
      :unwrapping_key_type_inconsistent,
      :user_type_invalid,
      :wrapped_key_invalid,
      :wrapped_key_len_range,
      :wrapping_key_size_range,
      :wrapping_key_type_inconsistent,
      :random_seed_not_supported,
      :random_no_rng,
      :domain_params_invalid,
      :curve_not_supported,
      :saved_state_invalid,
      :information_sensitive,
      :state_unsaveable,
      :cryptoki_already_initialized,
      :new_pin_mode,
      :next_otp,
      :exceeded_max_iterations,
      :library_load_failed,
      :pin_too_weak,
      :public_key_invalid,
      :function_rejected,
      :key_exhausted,
      :session_async_not_supported,
      :seed_random_required,
      :operation_not_validated,
      :parameter_set_not_supported
    ],
    unknown: [@vendor, @unassigned]
  ]

  @doc "The places."
  @spec places() :: [place, ...]
  def places, do: @places

  @doc "The classes, in the policy's order."
  @spec classes() :: [ReturnCode.class(), ...]
  def classes, do: Keyword.keys(@codes)

  @doc "The codes of a class: names, or numbers that have none."
  @spec codes(ReturnCode.class()) :: [atom | non_neg_integer, ...]
  def codes(class), do: Keyword.fetch!(@codes, class)

  @doc "The C function that meets the code in this place."
  @spec function(place) :: atom
  def function(place), do: Map.fetch!(@functions, place)

  @doc "What is promised where a code of a class comes."
  @spec promise(ReturnCode.class(), place, code :: atom | non_neg_integer) :: promise
  def promise(class, place, code),
    do: (exception(code, place) || rule(class, place) |> probed(class, place)) |> at(place)

  defp at(promise, :login), do: %{promise | retries: {0, 0}}
  defp at(promise, _place), do: promise

  # Initializing a module again, or finding a token again, ends with a session, and maybe a login, to see if it works. What a session of before is worth to it is not told either.
  defp probed(promise, :module, :open), do: %{promise | calls: :any, closed: :any}
  defp probed(promise, :capacity, :open), do: %{promise | calls: :any, closed: :any}
  defp probed(promise, :module, :login), do: %{promise | calls: :any, closed: :any}
  defp probed(promise, :module, _place), do: %{promise | closed: :any}
  defp probed(promise, _class, _place), do: promise

  @doc "What `Pkcs11Pool.Test.FaultBench.observe/5` sees if the promise is kept."
  @spec expected(ReturnCode.class(), place, code :: atom | non_neg_integer, :once | :always) ::
          map
  def expected(class, place, code, mode) do
    promise = promise(class, place, code)
    nth = if mode == :once, do: 0, else: 1

    %{
      result: Map.fetch!(promise, mode),
      calls: counted(promise.calls, nth),
      retries: counted(promise.retries, nth),
      closed: counted(promise.closed, nth),
      next: if(promise.after == :login, do: :ok_after_login, else: :ok),
      rest: []
    }
  end

  defp counted(:any, _nth), do: :any
  defp counted(counts, nth), do: elem(counts, nth)

  ## Happenings

  @typedoc """
  What befalls a call while the module is in a function:

    * `:sessions_died`, `:objects_invalidated`, `:logged_out`, `:uninitialized` - all sessions, all handles, the login, or the module's state are lost
    * `:numbers_reused` - all sessions are lost, and their numbers are given to those of another pool before the call goes on
    * `:token_removed` - the token is taken away, and comes back in another slot when the call has been answered
    * `:hung`, `:slow` - the function does not return within `:operation_timeout`, until somebody releases it, or later by itself
    * `:full` - the token gives no session
    * `:reloaded` - somebody calls `Pkcs11Pool.reload/2`
    * `:keys_vanished` - nothing is found any more, until the module is initialized again
    * `:device_lost` - from the next call on all fail, though the library says that all is well, until the module is initialized again
  """
  @type happening ::
          :sessions_died
          | :numbers_reused
          | :objects_invalidated
          | :logged_out
          | :uninitialized
          | :token_removed
          | :hung
          | :slow
          | :full
          | :reloaded
          | :keys_vanished
          | :device_lost

  @happenings [
    :sessions_died,
    :numbers_reused,
    :objects_invalidated,
    :logged_out,
    :uninitialized,
    :token_removed,
    :hung,
    :slow,
    :full,
    :reloaded,
    :keys_vanished,
    :device_lost
  ]

  @doc "What may befall a call in a place."
  @spec happenings(place) :: [happening]
  def happenings(place), do: Enum.filter(@happenings, &outcome(&1, place))

  @doc "What the caller gets whom it befalls; nil where it cannot."
  @spec outcome(happening, place) :: :ok | {atom, boolean | :unknown} | nil
  def outcome(happening, _place) when happening in [:hung, :slow],
    do: {:operation_timeout, :unknown}

  def outcome(:token_removed, place),
    do: {:token_unavailable, if(place in [:final, :change], do: :unknown, else: false)}

  # A lost handle or login is refused before anything is done, and then a change is not made a second time either; what else is lost leaves open
  # whether it was made.
  def outcome(:sessions_died, :change), do: {:session_handle_invalid, :unknown}

  # Found and destroyed on a session that is another's: whether it was the right one, nobody knows. A handle of before was refused, and the
  # change is made on a session of its own. Before the first session and its login there is no number to lose.
  def outcome(:numbers_reused, :change_look_up), do: {:session_lost, :unknown}

  def outcome(:numbers_reused, place) when place in [:open, :login], do: nil
  def outcome(:uninitialized, :change), do: {:cryptoki_not_initialized, :unknown}
  def outcome(:objects_invalidated, :change), do: {:object_handle_invalid, false}
  def outcome(:logged_out, :change), do: nil
  # There is no login yet.
  def outcome(:logged_out, place) when place in [:open, :login], do: nil
  def outcome(:full, :open), do: {:token_unavailable, false}
  def outcome(:full, _place), do: nil
  # What it was to change has vanished, and was not looked for before.
  def outcome(:keys_vanished, :change_look_up), do: {:key_not_found, false}
  def outcome(:keys_vanished, :change), do: {:object_handle_invalid, false}
  # The call that the device was in succeeds; what comes after it does not.
  def outcome(:device_lost, :init), do: {:general_error, :unknown}

  def outcome(:device_lost, place) when place not in [:final, :change],
    do: {:general_error, false}

  def outcome(_happening, _place), do: :ok

  ## The table

  @titles %{
    look_up: "look-up of the key",
    init: "Init",
    final: "final call",
    change_look_up: "look-up for a change",
    change: "a change",
    open: "open",
    login: "login"
  }

  @doc "The table in Markdown, for the guide."
  @spec markdown() :: String.t()
  def markdown do
    heads = for place <- @places, do: "#{@titles[place]} (`#{function(place)}`)"
    codes = for class <- classes(), row <- rows(class), do: row

    happenings =
      for happening <- @happenings do
        ["`:#{happening}`" | for(place <- @places, do: happening_cell(outcome(happening, place)))]
      end

    Enum.join(
      [table(["class" | heads], codes), table(["what happens" | heads], happenings)],
      "\n"
    )
  end

  # One row for each class, and one for those of its codes that differ.
  defp rows(class) do
    groups =
      class
      |> codes()
      |> Enum.group_by(fn code -> for place <- @places, do: cell(promise(class, place, code)) end)
      |> Enum.sort_by(fn {_cells, codes} -> -length(codes) end)

    for {{cells, codes}, index} <- Enum.with_index(groups) do
      name =
        if index == 0, do: "`:#{class}`", else: "- " <> Enum.map_join(codes, ", ", &constant/1)

      [name | cells]
    end
  end

  defp constant(code), do: "CKR_#{code |> Atom.to_string() |> String.upcase()}"

  defp cell(%{once: :ok, always: :ok} = promise), do: "ok" <> called(promise)

  defp cell(%{once: once, always: {reason, executed}, session: session} = promise) do
    [
      if(once == :ok, do: "once more", else: "error") <> called(promise),
      if(reason != :itself, do: "`#{inspect(reason)}`"),
      "`#{executed}`",
      if(session != :none, do: to_string(session)),
      if(promise.after == :login, do: "`login/3`")
    ]
    |> Enum.reject(&is_nil/1)
    |> Enum.join(", ")
  end

  # How often, if it comes always, and how many of these calls are the operation's other try.
  defp called(%{calls: :any}), do: ""
  defp called(%{calls: {_once, always}, retries: {_, 0}}), do: " (#{always})"
  defp called(%{calls: {_once, always}, retries: {_, retries}}), do: " (#{always}, #{retries})"

  defp happening_cell(nil), do: ""
  defp happening_cell(:ok), do: "ok"
  defp happening_cell({reason, executed}), do: "`#{inspect(reason)}`, `#{executed}`"

  defp table(heads, rows) do
    rule = Enum.map(heads, fn _head -> "---" end)
    Enum.map_join([heads, rule | rows], fn cells -> "| " <> Enum.join(cells, " | ") <> " |\n" end)
  end

  ## The rules

  defp rule(:dead_session, place) when place in [:look_up, :init, :change_look_up],
    do: retried(false, :closed)

  defp rule(:dead_session, :final), do: retried(:unknown, :closed)
  defp rule(:dead_session, :change), do: returned(:unknown, :closed)

  # It tells of an operation that some other call has left behind: what had not begun may begin elsewhere.
  defp rule(:dirty_session, place) when place in [:look_up, :init, :change_look_up],
    do: retried(false, :closed)

  defp rule(:dirty_session, place) when place in [:final, :change], do: returned(true, :closed)

  # A handle that is refused is refused before anything is done. What is tried again after its final call is tried on another session: here the
  # operation may still be active.
  defp rule(:stale_handle, place) when place in [:look_up, :init, :change_look_up],
    do: retried(false, :kept)

  defp rule(:stale_handle, :final), do: retried(false, :closed)

  defp rule(:stale_handle, :change), do: returned(false, :kept)

  defp rule(:login_lost, place) when place in [:look_up, :init, :change_look_up],
    do: retried(false, :kept)

  defp rule(:login_lost, :final), do: retried(false, :closed)

  defp rule(:login_lost, :change), do: returned(false, :kept)

  # A token that has no room for the first session is as good as away.
  defp rule(:capacity, :open), do: returned(:token_unavailable, false, :none)

  # The login is what was wanted.
  defp rule(:already_logged_in, :login), do: fine(1)
  defp rule(:login_conflict, :login), do: returned(:login_conflict, false, :kept)
  defp rule(:credential, :login), do: %{returned(false, :kept) | after: :login}

  defp rule(:token_gone, place) when place in [:look_up, :init, :change_look_up],
    do: returned(false, :closed)

  defp rule(:token_gone, place) when place in [:final, :change], do: returned(:unknown, :closed)

  defp rule(:device_trouble, place) when place in [:look_up, :init, :change_look_up],
    do: retried(false, :kept)

  # Not tried again any more, it leaves the session to the next call, which takes another one if it has to.
  defp rule(:device_trouble, :final), do: %{retried(:unknown, :closed) | closed: {1, 1}}
  defp rule(:device_trouble, :change), do: returned(:unknown, :kept)
  defp rule(:device_trouble, :open), do: retried(false, :none)

  defp rule(:module, place) when place in [:look_up, :init, :change_look_up],
    do: retried(false, :closed)

  defp rule(:module, :final), do: retried(:unknown, :closed)
  defp rule(:module, :change), do: returned(:unknown, :closed)
  defp rule(:module, :open), do: %{retried(false, :none) | always: {:token_unavailable, false}}
  defp rule(:module, :login), do: retried(false, :closed)

  # The final call is made again with a larger buffer, from 1 KiB up to more than 1 MiB.
  defp rule(:buffer, :final),
    do: %{returned(true, :closed) | once: :ok, calls: {2, 12}, closed: {0, 1}}

  defp rule(class, :final) when class in [:buffer, :caller], do: returned(true, :kept)
  defp rule(class, :change) when class in [:buffer, :caller], do: returned(true, :kept)

  defp rule(:unknown, place) when place in [:final, :change], do: returned(:unknown, :closed)

  defp rule(:unknown, place) when place in [:look_up, :init, :change_look_up],
    do: returned(false, :closed)

  # The session's own end is no word about the PIN.
  defp rule(:dead_session, :login), do: retried(false, :closed)

  # Everything else is the caller's to know. A session that could not log in is only kept if the answer says that it is not to blame.
  defp rule(_class, :open), do: returned(false, :none)
  defp rule(:caller, :login), do: returned(false, :kept)
  defp rule(_class, :login), do: returned(false, :closed)
  defp rule(_class, place) when place in [:final, :change], do: returned(:unknown, :kept)
  defp rule(_class, _place), do: returned(false, :kept)

  ## What goes by the code rather than by its class

  # These come before the module looks at the operation, which so stays active.
  defp exception(:arguments_bad, :final), do: returned(true, :closed)

  # The module has no such function, or had no operation to end: nothing has run.
  defp exception(:function_not_supported, :final), do: returned(false, :closed)
  defp exception(:function_not_supported, :change), do: returned(false, :kept)

  defp exception(:operation_not_initialized, place) when place in [:final, :change],
    do: returned(false, :closed)

  defp exception(:host_memory, :final), do: retried(:unknown, :closed)

  # A token that is write-protected has read-only sessions.
  defp exception(:token_write_protected, :open), do: %{fine(2) | always: {:itself, false}}

  # What the module will do with the answer is not known yet.
  defp exception(:pending, place) when place in [:final, :change], do: returned(:unknown, :closed)

  # Its length alone gives a wrong signature away.
  defp exception(:signature_len_range, place) do
    with %{always: {:itself, executed}, session: session} <- rule(:caller, place),
         do: returned(:signature_invalid, executed, session)
  end

  defp exception(_code, _place), do: nil

  ## Promises

  defp retried(executed, session) do
    %{once: :ok, always: {:itself, executed}, calls: {2, 2}, retries: {1, 1}, session: session}
    |> Map.merge(%{closed: closed(session, {1, 2}), after: :nothing})
  end

  defp returned(reason \\ :itself, executed, session) do
    result = {reason, executed}

    %{once: result, always: result, calls: {1, 1}, retries: {0, 0}, session: session}
    |> Map.merge(%{closed: closed(session, {1, 1}), after: :nothing})
  end

  defp fine(calls),
    do: %{
      once: :ok,
      always: :ok,
      calls: {calls, calls},
      retries: {0, 0},
      session: :kept,
      closed: {0, 0},
      after: :nothing
    }

  defp closed(:closed, counts), do: counts
  defp closed(_kept, _counts), do: {0, 0}
end
