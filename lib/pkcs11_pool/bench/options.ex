defmodule Pkcs11Pool.Bench.Options do
  @moduledoc false
  # The arguments of `mix pkcs11_pool.bench`, checked before anything is loaded. A message names the option and the remedy; it never shows an
  # argument that could be a PIN.

  import Pkcs11Pool.CommandLine.Refusal
  import Pkcs11Pool.CommandLine.Switches, only: [option: 1]

  alias Pkcs11Pool.CommandLine.{Switches, Token}
  alias Pkcs11Pool.Mechanism

  @switches Token.switches() ++
              [
                pin_env: :string,
                pin_file: :string,
                no_pin: :boolean,
                key: :string,
                mechanism: :string,
                bytes: :integer,
                make_keys: :boolean,
                sessions: :string,
                callers: :integer,
                seconds: :float,
                rounds: :integer,
                executor: :string,
                svg: :string,
                json: :string
              ]

  @sessions [1, 2, 4, 8, 16, 32]
  @most_bytes 65_536

  @enforce_keys [:module, :slot, :slot_option, :pin, :pin_option]
  defstruct @enforce_keys ++
              [
                :module_env,
                :module_args,
                :module_sha256,
                :key,
                :mechanism,
                :callers,
                :svg,
                :json,
                bytes: 32,
                make_keys: false,
                sessions: @sessions,
                seconds: 3.0,
                rounds: 3,
                executor: :auto
              ]

  @typedoc """
  Checked arguments. `:slot` and `:pin` are as a pool takes them, with the names of the arguments that gave them; `:key` is a template.
  """
  @type t :: %__MODULE__{
          module: Path.t(),
          slot: tuple | String.t(),
          slot_option: String.t(),
          pin: {:env, String.t()} | {:file, Path.t()} | nil,
          pin_option: String.t(),
          module_env: %{String.t() => String.t()} | nil,
          module_args: String.t() | nil,
          module_sha256: String.t() | nil,
          key: Pkcs11Pool.Template.t() | nil,
          mechanism: Mechanism.t() | nil,
          bytes: pos_integer,
          make_keys: boolean,
          sessions: [pos_integer, ...],
          callers: pos_integer,
          seconds: float,
          rounds: pos_integer,
          executor: :auto | :dirty_io | :threads,
          svg: Path.t() | nil,
          json: Path.t() | nil
        }

  @doc "The options, or what is wrong with the arguments."
  @spec parse([String.t()]) :: {:ok, t} | {:error, message :: String.t()}
  def parse(arguments) do
    {given, several} = Switches.parse(arguments, @switches, "mix help pkcs11_pool.bench")
    {slot, slot_option} = Token.slot(given)
    {pin, pin_option} = Token.pin(given)

    options = %__MODULE__{
      module: Token.module(given),
      module_env: Token.module_env(several.module_env),
      module_args: given[:module_args],
      module_sha256: Token.module_sha256(given[:module_sha256]),
      slot: slot,
      slot_option: slot_option,
      pin: pin,
      pin_option: pin_option
    }

    checked =
      for {name, value} <- given,
          name in [
            :key,
            :mechanism,
            :bytes,
            :make_keys,
            :sessions,
            :seconds,
            :rounds,
            :executor,
            :svg,
            :json
          ],
          do: {name, check(name, value)}

    {:ok, options |> struct!(checked) |> callers(given[:callers]) |> together()}
  catch
    {:refused, message} -> {:error, message}
  end

  ## What is measured, and how

  defp check(:key, key), do: Token.key(key)

  defp check(:mechanism, text), do: mechanism(text)
  defp check(:bytes, bytes) when bytes in 1..@most_bytes, do: bytes

  defp check(:bytes, bytes),
    do: refuse("--bytes wants a number from 1 to #{@most_bytes}, got: #{bytes}")

  defp check(:make_keys, make_keys), do: make_keys

  defp check(:sessions, text) do
    numbers = for part <- String.split(text, ","), do: part |> String.trim() |> Integer.parse()

    if Enum.all?(numbers, &match?({number, ""} when number in 1..1_000, &1)),
      do: numbers |> Enum.map(&elem(&1, 0)) |> Enum.uniq() |> Enum.sort(),
      else:
        refuse(
          "--sessions wants whole numbers from 1 to 1000 with commas between them, such as 1,2,4,8, got: #{text}"
        )
  end

  defp check(:seconds, seconds) when seconds > 0, do: seconds
  defp check(:seconds, seconds), do: refuse("--seconds wants a number above 0, got: #{seconds}")
  defp check(:rounds, rounds) when rounds > 0, do: rounds
  defp check(:rounds, rounds), do: refuse("--rounds wants a whole number from 1, got: #{rounds}")

  defp check(:executor, text) do
    case Enum.find([:auto, :dirty_io, :threads], &(Atom.to_string(&1) == text)) do
      nil -> refuse("--executor wants auto, dirty_io or threads, got: #{text}")
      executor -> executor
    end
  end

  defp check(name, path) when name in [:svg, :json] do
    path = Path.expand(path)

    cond do
      File.dir?(path) ->
        refuse("#{option(name)}: #{path} is a folder: give the path of the file to write")

      File.dir?(Path.dirname(path)) ->
        path

      true ->
        refuse("#{option(name)}: there is no folder #{Path.dirname(path)}: make it first")
    end
  end

  # As PKCS#11 writes it, as Pkcs11Pool.Mechanism does, or with parameters as a literal of Elixir.
  defp mechanism(text) do
    mechanism =
      if text =~ ~r/\A:?\w+\z/,
        do: text |> String.trim_leading(":") |> without_prefix() |> String.to_atom(),
        else: literal(text)

    Mechanism.encode!(mechanism)
    mechanism
  rescue
    error in ArgumentError -> refuse("--mechanism: #{Exception.message(error)}")
  end

  defp without_prefix(name) do
    name |> String.downcase() |> String.replace_prefix("ckm_", "")
  end

  defp literal(text) do
    with {:ok, quoted} <- Code.string_to_quoted(text),
         true <- Macro.quoted_literal?(quoted) do
      {literal, _no_binding} = Code.eval_quoted(quoted)
      literal
    else
      _no_literal ->
        refuse(
          "--mechanism wants a name such as sha256_rsa_pkcs or CKM_SHA256_RSA_PKCS, or one with parameters such as '{:rsa_pkcs_pss, hash: :sha256}'"
        )
    end
  end

  # Twice as many as the most sessions, so that there is always one that waits.
  defp callers(options, nil), do: %{options | callers: 2 * List.last(options.sessions)}

  defp callers(options, callers) do
    most = List.last(options.sessions)

    if callers < most,
      do:
        refuse(
          "--callers #{callers} cannot keep #{most} sessions busy: give at least as many callers as the most of --sessions, or fewer --sessions"
        )

    %{options | callers: callers}
  end

  defp together(%{key: key, make_keys: true}) when key != nil,
    do:
      refuse(
        "--key and --make-keys exclude each other: measure a key that exists, or one that is made for the run"
      )

  defp together(options), do: options
end
