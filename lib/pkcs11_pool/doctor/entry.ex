defmodule Pkcs11Pool.Doctor.Entry do
  @moduledoc false
  # The first steps of every job on a module in a VM of its own: it is loaded, initialized, and asked for its slots.

  alias Pkcs11Pool.{Error, Native}
  alias Pkcs11Pool.Token.Information

  @typedoc "The module."
  @type argument :: %{
          required(:module) => Path.t(),
          required(:module_env) => map | nil,
          required(:module_args) => String.t() | nil,
          required(:module_sha256) => String.t() | nil,
          optional(atom) => term
        }

  @typedoc "What it tells, beside the steps."
  @type told ::
          {:module, map}
          | {:slots, [Pkcs11Pool.Token.slot()]}
          | {:failed, step :: atom, Error.t()}

  @doc "The module, which stays initialized until `close/2`, and what it says; `:failed` if that was told."
  @spec open(argument, (told | tuple -> :ok)) ::
          {:ok, held :: reference, Pkcs11Pool.Token.listing()} | :failed
  def open(argument, tell) do
    with :ok <- load(argument, tell),
         {:ok, held} <- initialize(argument, tell),
         {:ok, listing} <- list(argument, tell),
         do: {:ok, held, listing}
  end

  @doc "Finalizes the module."
  @spec close(reference, (tuple -> :ok)) :: :ok
  def close(held, tell) do
    tell.({:step, :finalize, "finalize the module (C_Finalize)"})
    Native.release_module(held)
  end

  @doc "The options of a pool or of `Pkcs11Pool.Token` that name the module."
  @spec options(argument) :: keyword
  def options(argument) do
    for name <- [:module, :module_env, :module_args, :module_sha256],
        value = Map.fetch!(argument, name),
        value != nil,
        do: {name, value}
  end

  @doc "What `fun` returns of a new pool on the token in this slot."
  @spec with_pool(argument, slot :: tuple, keyword, (pool :: term -> result)) ::
          result | {:error, Error.t()}
        when result: term
  def with_pool(argument, slot, more, fun) do
    name = {__MODULE__, make_ref()}

    # Whoever has started this VM has the only clock.
    own = [
      name: name,
      slot: slot,
      pool_size: 1,
      lazy: true,
      executor: :threads,
      queue_timeout: :infinity,
      operation_timeout: :infinity
    ]

    with {:ok, supervisor} <- Pkcs11Pool.start_link(options(argument) ++ own ++ more) do
      try do
        fun.(name)
      after
        Supervisor.stop(supervisor)
      end
    end
  end

  defp load(argument, tell) do
    tell.({:step, :load, "load the module (dlopen, C_GetFunctionList)"})
    argument |> place() |> Native.load_module() |> told(:load, tell)
  end

  defp initialize(argument, tell) do
    tell.({:step, :initialize, "initialize the module (C_Initialize)"})
    argument |> place() |> Native.hold_module() |> told(:initialize, tell)
  end

  defp list(argument, tell) do
    tell.(
      {:step, :list, "ask for its slots and tokens (C_GetInfo, C_GetSlotList, C_GetTokenInfo)"}
    )

    with {:ok, raw} <- argument |> place() |> Native.read_module() |> told(:list, tell) do
      listing = Information.module(raw)
      tell.({:module, listing.module})
      tell.({:slots, listing.slots})
      {:ok, listing}
    end
  end

  defp told({:error, native}, step, tell) do
    tell.({:failed, step, Error.from_native(native, nil)})
    :failed
  end

  defp told(result, _step, _tell), do: result

  @day 86_400_000

  defp place(argument) do
    %{
      module: argument.module,
      module_sha256: argument.module_sha256,
      module_env: argument.module_env || %{},
      module_args: argument.module_args,
      timeout: @day
    }
  end
end
