defmodule Pkcs11Pool.Doctor.Examination do
  @moduledoc false
  # What is asked of a module, in a VM of its own: a job of `Pkcs11Pool.SeparateVM`. It tells what it learns as soon as it knows it, and each step before it is
  # taken. It judges nothing.

  alias Pkcs11Pool.Doctor.{Entry, Signature}
  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Token.Selection

  @typedoc "Which token; what is done with it; the PIN."
  @type argument :: %{
          module: Path.t(),
          module_env: map | nil,
          module_args: String.t() | nil,
          module_sha256: String.t() | nil,
          slot: tuple | String.t() | nil,
          depth: :list | :tokens,
          login: boolean,
          pin: {:env, String.t()} | {:file, Path.t()} | {:value, binary} | :pin_pad | nil,
          key: Pkcs11Pool.Template.t() | nil
        }

  @typedoc "What it tells. `where` is `:module`, or a slot's number."
  @type told ::
          Entry.told()
          | {:selected, [non_neg_integer]}
          | {:mechanisms, slot_id :: non_neg_integer, [map] | Error.t()}
          | {:objects, slot_id :: non_neg_integer, {[map], more :: boolean} | Error.t()}
          | {:login, slot_id :: non_neg_integer, :ok | Error.t()}
          | {:login_not_tried, slot_id :: non_neg_integer | nil, reason :: atom}
          | {:signature, slot_id :: non_neg_integer, map | atom | Error.t()}

  # More are counted, and not described.
  @most_objects 100

  @doc "Asks."
  @spec run(argument, (told | tuple -> :ok)) :: :ok
  def run(argument, tell) do
    with {:ok, held, listing} <- Entry.open(argument, tell) do
      selected = Selection.select(listing, argument.slot)
      tell.({:selected, Enum.map(selected, & &1.slot_id)})
      if argument.depth == :tokens, do: tokens(selected, argument, tell)
      Entry.close(held, tell)
    end

    :ok
  end

  ## Tokens

  defp tokens(selected, argument, tell) do
    initialized = Enum.filter(selected, &initialized?/1)

    for slot <- initialized do
      with_pool(slot, argument, [], fn pool ->
        mechanisms(slot, pool, tell)
        unless argument.login, do: objects(slot, pool, tell)
        unless argument.login or argument.key == nil, do: sign(slot, pool, argument.key, tell)
      end)
      |> failed(slot, tell)
    end

    if argument.login, do: login(initialized, argument, tell)
  end

  defp initialized?(%{token: %{flags: flags}}), do: :token_initialized in flags
  defp initialized?(_empty), do: false

  defp failed({:error, error}, slot, tell), do: tell.({:mechanisms, slot.slot_id, error})
  defp failed(_done, _slot, _tell), do: :ok

  defp with_pool(slot, argument, more, fun),
    do: Entry.with_pool(argument, {:slot_id, slot.slot_id}, more, fun)

  defp mechanisms(slot, pool, tell) do
    tell.(step(:mechanisms, slot, "ask for mechanisms (C_GetMechanismList, C_GetMechanismInfo)"))
    tell.({:mechanisms, slot.slot_id, value(Pkcs11Pool.mechanisms(pool))})
  end

  defp objects(slot, pool, tell) do
    tell.(step(:objects, slot, "look for keys and other objects (C_OpenSession, C_FindObjects)"))

    told =
      with {:ok, objects} <- Pkcs11Pool.find_objects(pool, [], limit: @most_objects + 1) do
        {shown, more} = Enum.split(objects, @most_objects)
        {:ok, {Enum.map(shown, &object(pool, &1)), more != []}}
      end

    tell.({:objects, slot.slot_id, value(told)})
  end

  @keys [:private_key, :public_key, :secret_key]

  defp object(pool, object) do
    info =
      with true <- object.class in @keys,
           {:ok, info} <- Pkcs11Pool.key_info(pool, object) do
        Map.take(info, [:bits, :curve, :usage, :sensitive, :extractable, :always_authenticate])
      else
        _unknown -> %{}
      end

    Map.merge(
      %{class: object.class, type: object.key_type, label: object.label, id: object.id},
      info
    )
  end

  ## Login

  defp login([slot], %{pin: pin} = argument, tell) do
    case refusal(slot.token.flags, pin) do
      nil ->
        # From here on the module has the PIN, and may write it wherever it writes.
        tell.(step(:secret, slot, "log in (C_OpenSession, C_Login)"))

        result =
          with_pool(slot, argument, login_options(pin), fn pool ->
            log_in(slot, pool, argument, tell)
          end)

        with {:error, error} <- result, do: tell.({:login, slot.slot_id, error})

      reason ->
        tell.({:login_not_tried, slot.slot_id, reason})
    end
  end

  defp login([], _argument, tell), do: tell.({:login_not_tried, nil, :no_token})
  defp login(_several, _argument, tell), do: tell.({:login_not_tried, nil, :several_tokens})

  # The pool asks the token for its flags as well, right before C_Login.
  defp refusal(flags, pin) do
    cond do
      :user_pin_locked in flags -> :user_pin_locked
      :user_pin_final_try in flags -> :user_pin_final_try
      :user_pin_initialized not in flags and :login_required in flags -> :no_user_pin
      pin == :pin_pad and :protected_authentication_path not in flags -> :no_pin_pad
      true -> nil
    end
  end

  defp log_in(slot, pool, argument, tell) do
    # Once: a PIN that is refused is not tried again by the pool.
    case Pkcs11Pool.await_ready(pool, :infinity) do
      :ok ->
        tell.({:login, slot.slot_id, :ok})
        objects(slot, pool, tell)
        sign(slot, pool, argument.key || :any, tell)

      {:error, error} ->
        tell.({:login, slot.slot_id, error})
    end

    :ok
  end

  # Codes after which a pool tries again, on another session or when the token or the module is there again. A pool may do that: such a module has not looked at the PIN.
  # Here nothing is taken for granted, and whatever goes wrong is to be seen.
  @tried_again [
    :session_handle_invalid,
    :session_closed,
    :cryptoki_not_initialized,
    :device_removed,
    :token_not_present,
    :token_not_recognized,
    :slot_id_invalid,
    :device_error,
    :device_memory,
    :host_memory,
    :session_count,
    :user_not_logged_in,
    :operation_active
  ]

  defp login_options(pin),
    do: [{:retry_policy, Map.new(@tried_again, &{&1, :caller})} | pin_options(pin)]

  defp pin_options(:pin_pad), do: [protected_authentication_path: true]
  defp pin_options({:value, pin}), do: [pin: fn -> pin end]
  defp pin_options(source), do: [pin: source]

  ## Signature

  defp sign(slot, pool, key, tell) do
    tell.(step(:sign, slot, "sign with a key (C_SignInit, C_Sign)"))

    verifying = fn ->
      tell.(step(:verify, slot, "verify the signature (C_VerifyInit, C_Verify)"))
    end

    tell.({:signature, slot.slot_id, value(Signature.make(pool, key, verifying))})
  end

  defp step(name, slot, text), do: {:step, name, "#{text} on the token in slot #{slot.slot_id}"}

  defp value({:ok, value}), do: value
  defp value({:error, error}), do: error
end
