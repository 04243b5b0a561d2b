defmodule Pkcs11Pool.Token do
  @moduledoc """
  Slots and tokens, without a pool: lists them, makes tokens, and sets PINs. For scripts and tests.

      {:ok, %{slots: slots}} = Pkcs11Pool.Token.list(module: "/usr/lib/softhsm/libsofthsm2.so")
      for %{slot_id: id, token: %{label: label}} <- slots, do: {id, label}

  ## Making tokens and setting PINs

      opts = [module: "/usr/lib/softhsm/libsofthsm2.so", slot: :uninitialized]

      :ok = Pkcs11Pool.Token.init(opts, "payments", {:env, "SO_PIN"})

      opts = Keyword.put(opts, :slot, {:token_label, "payments"})
      :ok = Pkcs11Pool.Token.init_pin(opts, {:env, "SO_PIN"}, {:env, "HSM_PIN"})
      :ok = Pkcs11Pool.Token.set_pin(opts, {:env, "HSM_PIN"}, {:file, "/run/secrets/new_pin"})

  These call `C_InitToken`, `C_InitPIN` and `C_SetPIN`. Their options:

    * `:module`, `:slot` - required, and as for a pool. A token without a label is named by its `:slot_id`. For `init/3` the slot may also be `:uninitialized`: the slot whose
      token is not initialized yet, whatever its number, since numbers may change. If there is none, the error is `:slot_not_found`; if there are several, `:ambiguous_slot`. `mix pkcs11_pool.init` uses it
    * `:module_sha256`, `:module_env`, `:module_args`, `:pin_timeout` - as for a pool
    * `:user` - for `set_pin/3`: whose PIN it is, `:user` (the default) or `:so`
    * `:force` - `true`: try the present PIN even if the token says that one more wrong PIN locks it, or that it is locked

  PINs come from sources, as in a pool's `:pin`. While a pool uses the token, these functions return `:slot_in_use`. While one of them uses
  the token, the start of a pool returns it.

  If the token refuses the present PIN, no pool tries that PIN again, just as if it had been a pool's. When a PIN has been set, it counts as never refused.
  """

  import Pkcs11Pool.API.Bang, only: [defbang: 1]

  alias Pkcs11Pool.Token.Information
  alias Pkcs11Pool.{Error, Native, Options, Pin}

  @typedoc "Major and minor."
  @type version :: {0..255, 0..255}

  @typedoc "A number, or `:unavailable` if the token does not tell it (`CK_UNAVAILABLE_INFORMATION`)."
  @type count :: non_neg_integer | :unavailable

  @typedoc "A limit, or `:infinity` if there is none (`CK_EFFECTIVELY_INFINITE`)."
  @type limit :: count | :infinity

  @typedoc """
  Information about a token (`CK_TOKEN_INFO`):

    * `:label`, `:manufacturer`, `:model`, `:serial` - texts without their padding; bytes that are not UTF-8 are replaced by U+FFFD
    * `:flags` - the flags that are set, by PKCS#11's names in lower case without `CKF_`: `:login_required`, `:token_initialized`,
      `:user_pin_locked`, `:write_protected`, ...
    * `:hardware_version`, `:firmware_version`
    * `:session_count`, `:rw_session_count` - sessions that this VM has open on the token, all and the read-write ones; `:max_session_count`,
      `:max_rw_session_count` - how many it may have
    * `:min_pin_length`, `:max_pin_length` - bytes of a PIN
    * `:total_public_memory`, `:free_public_memory`, `:total_private_memory`, `:free_private_memory` - bytes for public and for private objects
    * `:utc_time` - the time of the token's clock; `:unavailable` if the token has no clock, or if this is not a time
  """
  @type info :: %{
          label: String.t(),
          manufacturer: String.t(),
          model: String.t(),
          serial: String.t(),
          flags: [atom],
          hardware_version: version,
          firmware_version: version,
          session_count: count,
          max_session_count: limit,
          rw_session_count: count,
          max_rw_session_count: limit,
          min_pin_length: count,
          max_pin_length: count,
          total_public_memory: count,
          free_public_memory: count,
          total_private_memory: count,
          free_private_memory: count,
          utc_time: DateTime.t() | :unavailable
        }

  @typedoc """
  Information about a slot (`CK_SLOT_INFO`), and about the token in it:

    * `:slot_id` - its number, for `slot: {:slot_id, n}`. A number may change when tokens come and go
    * `:flags` - those that are set of `:token_present`, `:removable_device`, `:hw_slot`
    * `:token` - nil for an empty slot
    * `:error` - nil, or why something could not be read; the value of that is `:unavailable`
  """
  @type slot :: %{
          slot_id: non_neg_integer,
          description: String.t() | :unavailable,
          manufacturer: String.t() | :unavailable,
          flags: [atom] | :unavailable,
          hardware_version: version | :unavailable,
          firmware_version: version | :unavailable,
          token: info | nil | :unavailable,
          error: Error.t() | nil
        }

  @typedoc """
  One of a module's interfaces (`CK_INTERFACE`, PKCS#11 3.0). The standard's interfaces have the name `"PKCS 11"`; others are the vendor's. `:version` is the version
  of the interface's function list.
  """
  @type interface :: %{
          name: String.t(),
          version: version | :unavailable,
          flags: [:fork_safe]
        }

  @typedoc """
  Information about a module (`CK_INFO`; `:unavailable` if it gives none) and about all its slots. `:cryptoki_version` is the version of PKCS#11
  that the module follows, `:version` is the module's own.

  `:interfaces` are those that `C_GetInterfaceList` returns. `:function_list` is the version of the functions that are called: the newest of 3.2, 3.1 and 3.0 that
  `C_GetInterface` gives, or else 2.40. A module of PKCS#11 2.40 has no interfaces.
  """
  @type listing :: %{
          module:
            %{
              manufacturer: String.t(),
              description: String.t(),
              version: version,
              cryptoki_version: version,
              function_list: version,
              interfaces: [interface] | :unavailable
            }
            | :unavailable,
          slots: [slot]
        }

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
  Information about a module, its slots and the tokens in them: `{:ok, %{module: map, slots: [slot]}}`. It needs no pool and no PIN.

      iex> {:ok, %{slots: slots}} = Pkcs11Pool.Token.list(module: "/usr/lib/softhsm/libsofthsm2.so")
      iex> for %{token: %{label: label, serial: serial}} <- slots, do: {label, serial}
      [{"payments", "3e5d1b2c8f0a6d47"}]

  Empty slots are listed, too, with `token: nil`. A slot that fails to answer has an `:error`; the others are listed all the same, and a malformed field is no
  error. The whole call fails with the error of `C_Initialize` or `C_GetSlotList`, or with an error that the start of a pool may have, such as
  `:module_load_failed` or `:module_conflict`.

  Options:

    * `:module` - required, the absolute path
    * `:module_sha256`, `:module_env`, `:module_args` - as for a pool. If pools use the module, they must be the same as theirs; leave them out to take the module as
      it is
    * `:operation_timeout` - ms that the call may take, 30,000 by default. After that time the error is `:operation_timeout`

  Pools that use the module are not disturbed. If nobody uses it, it is loaded and initialized, and finalized again. A thread of its own calls the module. If the
  module hangs, that thread is left behind, and the module is not finalized before the call returns.

  Calls `C_GetInfo`, `C_GetInterfaceList` if the module has it, `C_GetSlotList`, and for each slot `C_GetSlotInfo` and `C_GetTokenInfo` (PKCS#11 2.40, 5.4 and 5.5). If nobody uses the
  module, also `C_Initialize` and `C_Finalize`.
  """
  @spec list([
          {:module, Path.t()}
          | {:module_sha256, String.t()}
          | {:module_env, map}
          | {:module_args, String.t()}
          | {:operation_timeout, pos_integer}
        ]) :: {:ok, listing} | {:error, Error.t()}
  def list(opts) do
    opts = Options.Token.list!(opts)
    timeout = opts.operation_timeout

    module = opts |> module() |> Map.put(:timeout, timeout)

    case Native.Library.call(fn -> Native.read_module(module) end) do
      {:ok, listing} ->
        {:ok, Information.module(listing)}

      {:error, native} ->
        {:error, Error.from_native(native, nil)}

      :timeout ->
        details = %{path: opts.module, timeout_ms: timeout}
        {:error, Error.new(:operation_timeout, executed: :unknown, details: details)}
    end
  end

  defbang list!(options :: keyword) :: listing

  @doc """
  A PKCS#11 URI (RFC 7512) of a token, as `list/1` or `Pkcs11Pool.token_info/2` describe it (`token`, `manufacturer`, `serial`, `model`), or of a slot of `list/1` (with
  `slot-manufacturer`, `slot-description`, `slot-id`, and the attributes of its token). A value that is empty, unavailable or not UTF-8 is left out. The URI may be a pool's `:slot`.

  A slot's number and description may change when tokens come and go. So if you store a URI, store that of `slot.token`.

      iex> Pkcs11Pool.Token.to_uri(%{label: "payments", manufacturer: "SoftHSM project", model: "SoftHSM v2", serial: "3e5d"})
      "pkcs11:token=payments;manufacturer=SoftHSM%20project;serial=3e5d;model=SoftHSM%20v2"
  """
  @spec to_uri(info | slot) :: String.t()
  def to_uri(%{slot_id: id, description: description, manufacturer: manufacturer, token: token}) do
    uri = if is_map(token), do: uri(token), else: %Pkcs11Pool.URI{}

    Pkcs11Pool.URI.format(%{
      uri
      | slot_id: id,
        slot_description: Pkcs11Pool.URI.named(description),
        slot_manufacturer: Pkcs11Pool.URI.named(manufacturer)
    })
  end

  def to_uri(%{label: _, serial: _, manufacturer: _, model: _} = info),
    do: info |> uri() |> Pkcs11Pool.URI.format()

  def to_uri(_other) do
    raise ArgumentError,
          "expected a token as Pkcs11Pool.token_info/2 describes it, or a slot of Pkcs11Pool.Token.list/1"
  end

  defp uri(info) do
    %Pkcs11Pool.URI{
      token: Pkcs11Pool.URI.named(info.label),
      serial: Pkcs11Pool.URI.named(info.serial),
      manufacturer: Pkcs11Pool.URI.named(info.manufacturer),
      model: Pkcs11Pool.URI.named(info.model)
    }
  end

  @doc """
  Makes a token with this label (at most 32 bytes) and this PIN of the security officer. *Everything that was on the token is lost*, also the user's PIN. If the token was
  initialized before, the PIN must be that of its security officer.

  Calls `C_InitToken`.
  """
  @spec init([option], String.t(), Pkcs11Pool.pin_source()) :: :ok | {:error, Error.t()}
  def init(opts, label, so_pin_source) do
    unless is_binary(label) and String.valid?(label) and byte_size(label) <= 32 do
      # Without the value: it may be a PIN in the wrong place.
      raise ArgumentError, "expected a label of at most 32 bytes of UTF-8"
    end

    run(Options.Token.init!(opts), [so_pin_source], fn _opts, [so_pin] ->
      {:init_token, label, so_pin}
    end)
  end

  @doc """
  Sets the user's PIN; the security officer logs in for that. It is the first PIN of a new token, or replaces one that is forgotten or locked.

  Calls `C_OpenSession`, `C_Login`, `C_InitPIN`, `C_Logout`, `C_CloseSession`.
  """
  @spec init_pin([option], Pkcs11Pool.pin_source(), Pkcs11Pool.pin_source()) ::
          :ok | {:error, Error.t()}
  def init_pin(opts, so_pin_source, pin_source) do
    run(Options.Token.provision!(opts), [so_pin_source, pin_source], fn _opts, [so_pin, pin] ->
      {:init_pin, so_pin, pin}
    end)
  end

  @doc """
  Replaces a PIN: the user's, or with `user: :so` the security officer's.

  Calls `C_OpenSession`, `C_SetPIN`, `C_CloseSession`, and for the security officer's `C_Login` and `C_Logout`.
  """
  @spec set_pin([option], Pkcs11Pool.pin_source(), Pkcs11Pool.pin_source()) ::
          :ok | {:error, Error.t()}
  def set_pin(opts, old_source, new_source) do
    run(Options.Token.provision!(opts), [old_source, new_source], fn opts, [old, new] ->
      {:set_pin, Options.user_type(opts.user), old, new}
    end)
  end

  # `what` makes the native request in the one process that has the PINs.
  defp run(opts, sources, what) do
    slot =
      opts
      |> module()
      |> Map.merge(%{slot: Options.native_slot(opts.slot), force: opts.force})

    sources = Enum.flat_map(sources, &source!/1)

    provision = fn pins ->
      Native.Library.call(fn -> Native.provision(slot, what.(opts, pins)) end)
    end

    case Pin.Process.run(nil, sources, opts.pin_timeout, provision) do
      :ok -> :ok
      {:error, %Error{} = error} -> {:error, error}
      {:error, native} -> {:error, Error.from_native(native, nil)}
    end
  end

  defp module(opts) do
    opts
    |> Map.take([:module, :module_sha256, :module_args])
    |> Map.put(:module_env, opts.module_env || %{})
  end

  defp source!(nil),
    do: raise(ArgumentError, "expected a PIN source: " <> Pin.Source.expected())

  defp source!(source), do: Options.pin_sources!(source)
end
