defmodule Pkcs11Pool.Doctor.Options do
  @moduledoc false
  # The arguments of `mix pkcs11_pool.doctor`. A module that is not there, or no module, is what the doctor is asked about, and no mistake here.

  import Pkcs11Pool.CommandLine.Refusal

  alias Pkcs11Pool.CommandLine.{Switches, Token}

  @switches Token.switches() ++
              [
                login: :boolean,
                pin_env: :string,
                pin_file: :string,
                pin_prompt: :boolean,
                pin_pad: :boolean,
                key: :string,
                json: :boolean,
                timeout: :float
              ]

  @enforce_keys [:module]
  defstruct @enforce_keys ++
              [
                :module_env,
                :module_args,
                :module_sha256,
                :slot,
                :slot_option,
                :pin,
                :pin_option,
                :key,
                login: false,
                json: false,
                timeout: 30_000
              ]

  @typedoc "`:timeout` is in ms. `:pin` is nil without `:login`."
  @type t :: %__MODULE__{
          module: Path.t(),
          module_env: %{String.t() => String.t()} | nil,
          module_args: String.t() | nil,
          module_sha256: String.t() | nil,
          slot: tuple | String.t() | nil,
          slot_option: String.t() | nil,
          login: boolean,
          pin: Token.pin() | :pin_pad | nil,
          pin_option: String.t() | nil,
          key: Pkcs11Pool.Template.t() | nil,
          json: boolean,
          timeout: pos_integer
        }

  @doc "The options, or what is wrong with the arguments."
  @spec parse([String.t()]) :: {:ok, t} | {:error, message :: String.t()}
  def parse(arguments) do
    {given, several} = Switches.parse(arguments, @switches, "mix help pkcs11_pool.doctor")
    {slot, slot_option} = Token.optional_slot(given)
    {pin, pin_option} = pin(given)

    {:ok,
     %__MODULE__{
       module: Token.module_path(given),
       module_env: Token.module_env(several.module_env),
       module_args: given[:module_args],
       module_sha256: Token.module_sha256(given[:module_sha256]),
       slot: slot,
       slot_option: slot_option,
       login: given[:login] || false,
       pin: pin,
       pin_option: pin_option,
       key: given[:key] && Token.key(given.key),
       json: given[:json] || false,
       timeout: Token.timeout(given[:timeout])
     }}
  catch
    {:refused, message} -> {:error, message}
  end

  # A PIN costs a try where it is wrong: it is tried only where both say so.
  defp pin(given) do
    source = Token.pin_source(given, "pin")
    pad = given[:pin_pad] || false

    case {given[:login] || false, source, pad} do
      {false, nil, false} ->
        {nil, nil}

      {false, _source, _pad} ->
        refuse(
          "#{option(source)} without --login: give --login too, so that it is clear that a login is tried"
        )

      {true, nil, true} ->
        {:pin_pad, "--pin-pad"}

      {true, {_pin, option}, true} ->
        refuse("#{option} and --pin-pad: give one of them")

      {true, {pin, option}, false} ->
        {pin, option}

      {true, nil, false} ->
        {:prompt, "--pin-prompt"}
    end
  end

  defp option({_pin, option}), do: option
  defp option(nil), do: "--pin-pad"
end
