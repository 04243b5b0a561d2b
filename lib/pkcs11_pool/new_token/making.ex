defmodule Pkcs11Pool.NewToken.Making do
  @moduledoc false
  # A job of `Pkcs11Pool.SeparateVM` that makes a token. Whatever can be refused is refused before anything is done; each thing that is done is told at once.

  alias Pkcs11Pool.Doctor.Entry
  alias Pkcs11Pool.{Error, NewKey, Pin, Token}

  @typedoc "What it tells."
  @type told ::
          Entry.told()
          | {:refused, reason :: atom, details :: term}
          | {:done, :token | :pin | {:key, String.t(), id :: binary, NewKey.type()}}
          | {:not_done, :token | :pin | {:key, String.t()}, Error.t()}

  @doc "Makes it."
  @spec run(map, (told | tuple -> :ok)) :: :ok
  def run(argument, tell) do
    with {:ok, held, listing} <- Entry.open(argument, tell) do
      with {:ok, slot, info} <- place(argument, listing.slots),
           {:ok, so_pin} <- pin(argument.so_pin, "so-pin"),
           {:ok, pin} <- pin(argument.pin, "pin"),
           :ok <- unlike(so_pin, pin),
           # Of a token that is made anew, the officer's PIN is what it is.
           :ok <- if(argument.reinitialize, do: :ok, else: fits(so_pin, "--so-pin", info)),
           :ok <- fits(pin, "--pin", info) do
        make(argument, slot, so_pin, pin, tell)
      else
        {:refused, _reason, _details} = refused -> tell.(refused)
      end

      Entry.close(held, tell)
    end

    :ok
  end

  ## Where

  defp place(%{reinitialize: false} = argument, slots) do
    taken = Enum.find(slots, &(initialized?(&1) and &1.token.label == argument.label))
    if taken, do: {:refused, :label_taken, taken.token.serial}, else: free(argument.slot, slots)
  end

  defp place(%{reinitialize: true} = argument, slots) do
    wanted = argument.slot || {:token_label, argument.label}

    case Enum.filter(slots, &named?(&1, wanted)) do
      [slot] -> {:ok, {:slot_id, slot.slot_id}, slot.token}
      [] -> {:refused, :no_such_token, nil}
      _several -> {:refused, :ambiguous_token, nil}
    end
  end

  defp free(nil, slots) do
    tokens = for %{token: %{}} = slot <- slots, do: slot

    case Enum.reject(tokens, &initialized?/1) do
      # Whatever its number is by then.
      [slot] -> {:ok, :uninitialized, slot.token}
      [] -> {:refused, :no_uninitialized, Enum.map(tokens, & &1.token.label)}
      several -> {:refused, :several_uninitialized, Enum.map(several, & &1.slot_id)}
    end
  end

  defp free({:slot_id, id}, slots) do
    case Enum.find(slots, &(&1.slot_id == id)) do
      %{token: %{} = token} = slot ->
        if initialized?(slot),
          do: {:refused, :initialized, token.label},
          else: {:ok, {:slot_id, id}, token}

      _none ->
        {:refused, :no_such_token, nil}
    end
  end

  defp named?(%{token: %{}} = slot, {:slot_id, id}), do: slot.slot_id == id
  defp named?(%{token: %{serial: serial}} = slot, {:token_serial, serial}), do: initialized?(slot)
  defp named?(%{token: %{label: label}} = slot, {:token_label, label}), do: initialized?(slot)
  defp named?(_slot, _wanted), do: false

  defp initialized?(%{token: %{flags: flags}}), do: :token_initialized in flags
  defp initialized?(_empty), do: false

  ## PINs

  defp pin({:value, pin}, _prefix), do: {:ok, pin}

  defp pin(source, prefix) do
    with {:error, reason} <- Pin.Source.fetch(source) do
      {kind, _value} = source
      {:refused, :pin_source, {"--#{prefix}-#{kind}", Pin.Source.explain(reason)}}
    end
  end

  defp unlike(pin, pin), do: {:refused, :same_pins, nil}
  defp unlike(_so_pin, _pin), do: :ok

  defp fits(pin, option, %{min_pin_length: min, max_pin_length: max}) do
    # A module that is careless says 0 to 0, or nothing.
    known? = is_integer(min) and is_integer(max) and max > 0

    if known? and byte_size(pin) not in min..max//1,
      do: {:refused, :pin_length, {option, min, max}},
      else: :ok
  end

  ## Making

  defp make(argument, slot, so_pin, pin, tell) do
    options = Entry.options(argument)
    officer = fn -> so_pin end
    user = fn -> pin end
    named = {:token_label, argument.label}

    with :ok <-
           step(tell, :token, {:step, :secret, "make the token (C_InitToken)"}, fn ->
             Token.init([slot: slot] ++ options, argument.label, officer)
           end),
         :ok <-
           step(tell, :pin, {:step, :pin, "set the user PIN (C_Login, C_InitPIN)"}, fn ->
             Token.init_pin([slot: named] ++ options, officer, user)
           end),
         do: keys(argument, named, user, tell)
  end

  defp step(tell, what, step, fun) do
    tell.(step)

    case fun.() do
      :ok ->
        tell.({:done, what})

      {:error, error} ->
        tell.({:not_done, what, error})
        :failed
    end
  end

  defp keys(%{keys: []}, _slot, _pin, _tell), do: :ok

  defp keys(%{keys: [{first, _type} | _rest]} = argument, slot, pin, tell) do
    tell.({:step, :login, "log in (C_OpenSession, C_Login)"})

    made =
      Entry.with_pool(argument, slot, [pin: pin], fn pool ->
        Enum.reduce_while(argument.keys, :ok, fn key, :ok -> key(pool, key, tell) end)
      end)

    with {:error, error} <- made, do: tell.({:not_done, {:key, first}, error})
  end

  defp key(pool, {label, type}, tell) do
    id = :crypto.strong_rand_bytes(8)
    tell.({:step, :key, "make the key #{inspect(label)} (C_GenerateKeyPair, C_GenerateKey)"})

    case NewKey.generate(pool, label, id, type, NewKey.strict(type)) do
      :ok ->
        tell.({:done, {:key, label, id, type}})
        {:cont, :ok}

      {:error, error} ->
        tell.({:not_done, {:key, label}, error})
        {:halt, :ok}
    end
  end
end
