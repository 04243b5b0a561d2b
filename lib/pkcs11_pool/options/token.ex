defmodule Pkcs11Pool.Options.Token do
  @moduledoc false
  # The options of the functions in `Pkcs11Pool.Token`, which need no pool.

  alias Pkcs11Pool.Options
  alias Pkcs11Pool.Options.{Shape, Value}

  @doc """
  The options of `Pkcs11Pool.Token.list/1`. Raises `ArgumentError` that names the option.
  """
  @spec list!(keyword) :: %{required(atom) => term}
  def list!(options) do
    names = [:module, :module_sha256, :module_env, :module_args, :operation_timeout]
    options = checked!(options, [:module], names)

    # A module that hangs would hold its caller for ever.
    unless options.operation_timeout in 1..0x7FFFFFFF do
      Value.invalid!(
        :operation_timeout,
        "positive integer (milliseconds)",
        options.operation_timeout
      )
    end

    options
  end

  @names [:module, :slot, :module_sha256, :module_env, :module_args, :pin_timeout, :user, :force]

  @doc """
  The options of `Pkcs11Pool.Token.init/3`: the slot may be `:uninitialized`. Raises `ArgumentError` that names the option.
  """
  @spec init!(keyword) :: %{required(atom) => term}
  def init!(options) do
    if Keyword.keyword?(options) and options[:slot] == :uninitialized do
      options
      |> Keyword.delete(:slot)
      |> checked!([:module], @names -- [:slot])
      |> Map.put(:slot, :uninitialized)
    else
      provision!(options)
    end
  end

  @doc """
  The options of `Pkcs11Pool.Token.init_pin/3` and `set_pin/3`. Raises `ArgumentError` that names the option.
  """
  @spec provision!(keyword) :: %{required(atom) => term}
  def provision!(options) do
    checked = checked!(options, [:module, :slot], @names)
    # The PINs are the arguments.
    _pin = Value.pin_of_slot!(options[:slot], checked.module)
    checked
  end

  defp checked!(options, required, names) do
    Shape.keyword!(options)
    Shape.known!(options, names)
    Shape.required!(options, required)

    for name <- names, into: %{} do
      if Keyword.has_key?(options, name),
        do: {name, Value.validate!(name, options[name])},
        else: {name, default(name)}
    end
  end

  defp default(:force), do: false
  defp default(name), do: Options.default(name)
end
