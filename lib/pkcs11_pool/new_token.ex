defmodule Pkcs11Pool.NewToken do
  @moduledoc false
  # `mix pkcs11_pool.init`: makes a token, sets its PINs and makes keys, in a VM of its own, and says at each end what has been done.

  alias Pkcs11Pool.CommandLine.Secret
  alias Pkcs11Pool.Doctor.{Advice, Findings, ModuleFile}
  alias Pkcs11Pool.{Error, SeparateVM}
  alias Pkcs11Pool.NewToken.{Making, Options}

  @perhaps "What was under way then may have been done all the same: look at the token with mix pkcs11_pool.doctor."

  @doc "Runs with the task's arguments, prints, and returns the exit code."
  @spec main([String.t()]) :: exit_code :: 0..5
  def main(arguments) do
    with {:ok, options} <- Options.parse(arguments),
         {:ok, options} <- with_typed_pins(options) do
      make(options)
    else
      {:error, message} ->
        IO.puts(:stderr, "** #{message}")
        2
    end
  end

  defp make(options) do
    case ModuleFile.check(options.module) do
      :ok ->
        argument =
          Map.take(options, [
            :module,
            :module_env,
            :module_args,
            :module_sha256,
            :slot,
            :label,
            :reinitialize,
            :so_pin,
            :pin,
            :keys
          ])

        job = {Making, argument}
        result = SeparateVM.run(job, options.timeout, options.module_env || %{})
        ended(result, options)

      {:error, problem} ->
        unusable(%{file: problem}, options)
    end
  end

  ## The end of it

  defp ended(result, options) do
    done = for {:done, what} <- result.told, do: what
    Enum.each(done, &IO.puts(done(&1, options)))

    failed =
      Enum.find(result.told, &(is_tuple(&1) and elem(&1, 0) in [:failed, :refused, :not_done]))

    case {failed, result.outcome} do
      {nil, :done} ->
        next(options)
        0

      # All is made by then.
      {nil, _crashed} ->
        unusable(%{vm: Map.delete(result, :told)}, options, done)

      {{:failed, step, error}, _done} ->
        unusable(%{failed: {step, error}}, options)

      {{:refused, reason, details}, _done} ->
        say(refused(reason, details, options))
        say("Nothing was done.")
        1

      {{:not_done, what, error}, _done} ->
        say(not_done(what, error, options))
        if error.executed == :unknown, do: say(@perhaps)
        if done != [] or error.executed != :unknown, do: say(left(done, options))
        if what == :token and pin_error?(error), do: 5, else: 1
    end
  end

  # The steps that change the token.
  @changing [:secret, :pin, :key]

  # What is wrong with the module is said as the doctor says it.
  defp unusable(facts, options, done \\ []) do
    none = %{
      path: options.module,
      file: nil,
      vm: nil,
      failed: nil,
      slots: nil,
      selected: nil,
      mechanisms: %{},
      objects: %{},
      login: nil,
      signatures: %{}
    }

    report =
      none
      |> Map.merge(facts)
      |> Map.put_new(:sha256, nil)
      |> Findings.report(Map.merge(options, %{login: false, key: nil}))

    for %{what: what, remedy: remedy} <- report.findings, do: say("#{what} #{remedy}")
    under_way? = match?(%{vm: %{step: {step, _text}}} when step in @changing, facts)
    if under_way?, do: say(@perhaps)
    if done != [] or not under_way?, do: say(left(done, options))
    report.exit_code
  end

  defp say(text), do: IO.puts(:stderr, "** #{text}")

  defp pin_error?(%Error{reason: reason}),
    do: reason in [:pin_incorrect, :pin_locked, :pin_final_try]

  defp done(:token, options), do: "Made the token #{inspect(options.label)}."
  defp done(:pin, _options), do: "Set its user PIN."

  defp done({:key, label, id, type}, _options),
    do: "Made the key #{inspect(label)} (#{type}, id #{Base.encode16(id, case: :lower)})."

  defp next(options) do
    env = for {name, _value} <- options.module_env || %{}, do: " --module-env #{name}=..."

    IO.puts("""

    Next:
      mix pkcs11_pool.gen.config --module #{options.module}#{env} --token-label #{shell(options.label)}
    prints the child specification of a pool, and
      mix pkcs11_pool.doctor --module #{options.module}#{env} --token-label #{shell(options.label)} --login
    proves that it works.
    """)
  end

  defp shell(text) do
    if text =~ ~r/\A[\w.,:@%+-]+\z/,
      do: text,
      else: "'#{String.replace(text, "'", ~S('\''))}'"
  end

  defp refused(:label_taken, serial, options) do
    "There is a token #{inspect(options.label)} already (serial number #{serial}). Give another --token-label; or --reinitialize to make it anew: all that is on it is lost then."
  end

  defp refused(:initialized, label, options) do
    "#{options.slot_option} names the token #{inspect(label)}, which is initialized. Give --reinitialize to make it anew: all that is on it is lost then."
  end

  defp refused(:no_uninitialized, [], _options) do
    "The module has no slot with a token in it. See its configuration, and whether its device is connected: mix pkcs11_pool.doctor says more."
  end

  defp refused(:no_uninitialized, labels, _options) do
    "No slot has a token that nobody has initialized; there are: #{Enum.map_join(labels, ", ", &inspect/1)}. " <>
      "Many HSMs make their slots and partitions with a tool of the vendor's. To make one of these anew, with the loss of all that is on it, give its label by --token-label, and --reinitialize."
  end

  defp refused(:several_uninitialized, ids, _options) do
    "Several slots have a token that nobody has initialized: #{Enum.join(ids, ", ")}. Name one by --slot-id."
  end

  defp refused(:no_such_token, _details, %{slot_option: nil} = options) do
    "There is no token #{inspect(options.label)} to make anew. Without --reinitialize a new one is made."
  end

  defp refused(:no_such_token, _details, options),
    do: "No token matches #{options.slot_option}."

  defp refused(:ambiguous_token, _details, _options),
    do: "Several tokens match. Name one by --token-serial or --slot-id."

  defp refused(:pin_length, {option, min, max}, _options),
    do: "#{option}: the token takes PINs of #{min} to #{max} bytes."

  defp refused(:pin_source, {option, explained}, _options), do: "#{option}: #{explained}."

  defp refused(:same_pins, _details, _options) do
    "The security officer's PIN and the user's PIN are the same: everybody who knows the user's PIN could set a new one, and initialize the token again. Give two PINs."
  end

  defp not_done(:token, %Error{reason: :pin_incorrect}, options) do
    "#{options.so_pin_option}: the token refused the security officer's PIN. That used up one of its tries; it was tried once, and not again. Make sure of it before you run this again."
  end

  defp not_done(:token, error, _options), do: "The token was not made: #{explained(error)}"
  defp not_done(:pin, error, _options), do: "The user PIN was not set: #{explained(error)}"

  defp not_done({:key, label}, error, _options),
    do: "The key #{inspect(label)} was not made: #{explained(error)}"

  defp explained(error), do: "#{Advice.what(error)}. #{Advice.remedy(error)}"

  # It is never left open what there is now.
  defp left([], _options), do: "Nothing was made."

  defp left(done, options) do
    keys = for {:key, label, _id, _type} <- done, do: label
    missing = for {label, _type} <- options.keys, label not in keys, do: inspect(label)

    cond do
      :pin not in done ->
        "The token #{inspect(options.label)} is there now, without a user PIN and without keys. To begin anew, run this again with --reinitialize."

      missing == [] ->
        "All that was to be made is made."

      true ->
        "The token #{inspect(options.label)} is there now, with its PINs. Not made: #{Enum.join(missing, ", ")}. " <>
          "Make them with Pkcs11Pool.generate_key_pair/5 or Pkcs11Pool.generate_key/4; or begin anew, with --reinitialize."
    end
  end

  ## PINs from a terminal

  defp with_typed_pins(options) do
    with {:ok, so_pin} <-
           typed(options.so_pin, "New PIN of the security officer", options, :so_pin),
         {:ok, pin} <- typed(options.pin, "New PIN of the user", options, :pin),
         do: {:ok, %{options | so_pin: so_pin, pin: pin}}
  end

  # The present one of a token that is made anew is no new one: it is typed once.
  defp typed(:prompt, _name, %{reinitialize: true}, :so_pin),
    do: ask("PIN of the security officer: ", "--so-pin-env VARIABLE or --so-pin-file PATH")

  defp typed(:prompt, name, _options, kind) do
    prefix = if kind == :so_pin, do: "--so-pin", else: "--pin"
    instead = "#{prefix}-env VARIABLE or #{prefix}-file PATH"

    with {:ok, {:value, first}} <- ask("#{name}: ", instead),
         {:ok, {:value, second}} <- ask("#{name}, once more: ", instead) do
      if first == second, do: {:ok, {:value, first}}, else: {:error, "the two are not the same"}
    end
  end

  defp typed(source, _name, _options, _kind), do: {:ok, source}

  defp ask(question, instead) do
    case Secret.ask(question) do
      {:ok, pin} ->
        {:ok, {:value, pin}}

      :none ->
        {:error, "there is no terminal to ask for the PIN, or none was typed: give #{instead}"}
    end
  end
end
