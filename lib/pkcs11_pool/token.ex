defmodule Pkcs11Pool.Token do
  @moduledoc """
  Makes a token and sets its PINs, for scripts and tests: `C_InitToken`, `C_InitPIN`, `C_SetPIN`.

      opts = [module: "/usr/lib/softhsm/libsofthsm2.so", slot: {:slot_id, 0}]

      :ok = Pkcs11Pool.Token.init(opts, "payments", {:env, "SO_PIN"})

      opts = Keyword.put(opts, :slot, {:token_label, "payments"})
      :ok = Pkcs11Pool.Token.init_pin(opts, {:env, "SO_PIN"}, {:env, "HSM_PIN"})
      :ok = Pkcs11Pool.Token.set_pin(opts, {:env, "HSM_PIN"}, {:file, "/run/secrets/new_pin"})

  The options:

    * `:module`, `:slot` - required, and as for a pool. A token without a label is named by its `:slot_id`
    * `:module_sha256`, `:module_env`, `:module_args`, `:pin_timeout` - as for a pool
    * `:user` - of `set_pin/3`: whose PIN it is, `:user` (the default) or `:so`
    * `:force` - try the present PIN even when the token says that one more wrong one locks it, or that it is locked

  PINs come from sources, as a pool's `:pin` does. While a pool uses the token, everything here is `:slot_in_use`; while something here uses
  it, so is the start of a pool.

  A present PIN that the token refuses is remembered as a pool's would be: no pool tries it again. Once a PIN has been set, nothing is held
  against it.
  """

  alias Pkcs11Pool.{Error, Native, Options, PinProcess, PinSource}

  @type option ::
          {:module, Path.t()}
          | {:slot, term}
          | {:module_sha256, String.t()}
          | {:module_env, map}
          | {:module_args, String.t()}
          | {:pin_timeout, pos_integer}
          | {:user, :user | :so}
          | {:force, boolean}

  @doc """
  Makes a token with this label (at most 32 bytes) and security officer's PIN. *Everything on the token is gone*, also its user's PIN. If there is a token
  already, the PIN must be that of its security officer.

  Calls `C_InitToken`.
  """
  @spec init([option], String.t(), PinSource.t()) :: :ok | {:error, Error.t()}
  def init(opts, label, so_pin_source) do
    unless is_binary(label) and String.valid?(label) and byte_size(label) <= 32 do
      # Without the value: it may be a PIN in the wrong place.
      raise ArgumentError, "expected a label of at most 32 bytes of UTF-8"
    end

    run(opts, [so_pin_source], fn _opts, [so_pin] -> {:init_token, label, so_pin} end)
  end

  @doc """
  Sets the user's PIN, in the security officer's name: the first one of a new token, or in place of one that is forgotten or locked.

  Calls `C_OpenSession`, `C_Login`, `C_InitPIN`, `C_Logout`, `C_CloseSession`.
  """
  @spec init_pin([option], PinSource.t(), PinSource.t()) :: :ok | {:error, Error.t()}
  def init_pin(opts, so_pin_source, pin_source) do
    run(opts, [so_pin_source, pin_source], fn _opts, [so_pin, pin] -> {:init_pin, so_pin, pin} end)
  end

  @doc """
  Replaces a PIN, the user's or with `user: :so` the security officer's.

  Calls `C_OpenSession`, `C_SetPIN`, `C_CloseSession`, and for the security officer's `C_Login` and `C_Logout`.
  """
  @spec set_pin([option], PinSource.t(), PinSource.t()) :: :ok | {:error, Error.t()}
  def set_pin(opts, old_source, new_source) do
    run(opts, [old_source, new_source], fn opts, [old, new] ->
      {:set_pin, Options.user_type(opts.user), old, new}
    end)
  end

  # `what` makes the native request in the one process that has the PINs.
  defp run(opts, sources, what) do
    opts = Options.token!(opts)

    place = %{
      module: opts.module,
      module_sha256: opts.module_sha256,
      module_env: opts.module_env || %{},
      module_args: opts.module_args,
      slot: Options.native_slot(opts.slot),
      force: opts.force
    }

    sources = Enum.flat_map(sources, &source!/1)

    provision = &Native.provision(place, what.(opts, &1))

    case PinProcess.run(nil, sources, opts.pin_timeout, provision) do
      :ok -> :ok
      {:error, %Error{} = error} -> {:error, error}
      {:error, native} -> {:error, Error.from_native(native, nil)}
    end
  end

  defp source!(nil),
    do: raise(ArgumentError, "expected a PIN source: " <> PinSource.expected())

  defp source!(source), do: Options.pin_sources!(source)
end
