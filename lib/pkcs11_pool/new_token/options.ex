defmodule Pkcs11Pool.NewToken.Options do
  @moduledoc false
  # The arguments of `mix pkcs11_pool.init`.

  import Pkcs11Pool.CommandLine.Refusal

  alias Pkcs11Pool.CommandLine.{Switches, Token}
  alias Pkcs11Pool.NewKey

  @switches Token.switches() ++
              [
                so_pin_env: :string,
                so_pin_file: :string,
                so_pin_prompt: :boolean,
                pin_env: :string,
                pin_file: :string,
                pin_prompt: :boolean,
                key: :string,
                reinitialize: :boolean,
                timeout: :float
              ]

  # CK_TOKEN_INFO.label
  @longest_label 32

  @enforce_keys [:module, :label, :so_pin, :so_pin_option, :pin, :pin_option]
  defstruct @enforce_keys ++
              [
                :module_env,
                :module_args,
                :module_sha256,
                :slot,
                :slot_option,
                keys: [],
                reinitialize: false,
                timeout: 30_000
              ]

  @typedoc "`:slot` is where the token is to be made; nil: where none is, or with `:reinitialize` the one with this label."
  @type t :: %__MODULE__{
          module: Path.t(),
          module_env: %{String.t() => String.t()} | nil,
          module_args: String.t() | nil,
          module_sha256: String.t() | nil,
          slot: tuple | nil,
          slot_option: String.t() | nil,
          label: String.t(),
          so_pin: Token.pin() | {:value, binary},
          so_pin_option: String.t(),
          pin: Token.pin() | {:value, binary},
          pin_option: String.t(),
          keys: [{label :: String.t(), NewKey.type()}],
          reinitialize: boolean,
          timeout: pos_integer
        }

  @doc "The options, or what is wrong with the arguments."
  @spec parse([String.t()]) :: {:ok, t} | {:error, message :: String.t()}
  def parse(arguments) do
    {given, several} =
      Switches.parse(arguments, @switches, "mix help pkcs11_pool.init", [:module_env, :key])

    if given[:uri], do: refuse("--uri is not taken: give --token-label")
    {slot, slot_option} = given |> Map.delete(:token_label) |> Token.optional_slot()
    {so_pin, so_pin_option} = Token.pin_source(given, "so-pin") || {:prompt, "--so-pin-prompt"}
    {pin, pin_option} = Token.pin_source(given, "pin") || {:prompt, "--pin-prompt"}

    options = %__MODULE__{
      module: Token.module_path(given),
      module_env: Token.module_env(several.module_env),
      module_args: given[:module_args],
      module_sha256: Token.module_sha256(given[:module_sha256]),
      slot: slot,
      slot_option: slot_option,
      label: label(given[:token_label]),
      so_pin: so_pin,
      so_pin_option: so_pin_option,
      pin: pin,
      pin_option: pin_option,
      keys: keys(several.key),
      reinitialize: given[:reinitialize] || false,
      timeout: Token.timeout(given[:timeout])
    }

    if match?({:token_serial, _serial}, slot) and not options.reinitialize,
      do:
        refuse(
          "--token-serial names a token that is initialized: give --reinitialize too, to make it anew with the loss of all that is on it"
        )

    {:ok, options}
  catch
    {:refused, message} -> {:error, message}
  end

  defp label(nil), do: refuse("--token-label LABEL is missing: the name of the new token")

  defp label(label) do
    # Tokens fill it up with spaces.
    if String.valid?(label) and byte_size(label) in 1..@longest_label and
         String.trim(label) == label,
       do: label,
       else:
         refuse(
           "--token-label wants 1 to #{@longest_label} bytes of UTF-8, without spaces at its ends"
         )
  end

  defp keys(keys) do
    keys = Enum.map(keys, &key/1)
    labels = Enum.map(keys, &elem(&1, 0))

    case labels -- Enum.uniq(labels) do
      [] -> keys
      [label | _more] -> refuse("--key: two keys have the label #{label}")
    end
  end

  # The label may have a colon.
  defp key(text) do
    with [_all, label, type] when label != "" <- Regex.run(~r/\A(.*):(\w+)\z/s, text),
         type when type != nil <- Enum.find(NewKey.types(), &(Atom.to_string(&1) == type)),
         true <- String.valid?(label) do
      {label, type}
    else
      _other ->
        refuse(
          "--key wants LABEL:TYPE, such as signing:p256, with one of the types #{Enum.join(NewKey.types(), ", ")}"
        )
    end
  end
end
