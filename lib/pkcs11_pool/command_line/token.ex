defmodule Pkcs11Pool.CommandLine.Token do
  @moduledoc false
  # Which module, token, key and PIN, by the arguments of the tasks.

  import Pkcs11Pool.CommandLine.Refusal

  alias Pkcs11Pool.CommandLine.Switches
  alias Pkcs11Pool.Options.Value
  alias Pkcs11Pool.URI

  @slots [
    token_label: "--token-label",
    token_serial: "--token-serial",
    slot_id: "--slot-id",
    uri: "--uri"
  ]

  @doc "The options that name a module, and a token in it."
  @spec switches() :: keyword(atom)
  def switches do
    [
      module: :string,
      module_env: :string,
      module_args: :string,
      module_sha256: :string,
      token_label: :string,
      token_serial: :string,
      slot_id: :integer,
      uri: :string
    ]
  end

  # A CK_SLOT_ID.
  @last_slot 0xFFFFFFFFFFFFFFFF

  @doc "The module's path, whatever is there."
  @spec module_path(map) :: Path.t()
  def module_path(%{module: path}) do
    path = Path.expand(path)

    accepted(
      :module,
      path,
      "--module wants the path of a PKCS#11 library, in UTF-8 and without zero bytes"
    )
  end

  def module_path(_none),
    do: refuse("--module PATH is missing: the path of your vendor's PKCS#11 library")

  @doc "The module's path, where there is a file."
  @spec module(map) :: Path.t()
  def module(given) do
    path = module_path(given)

    cond do
      File.regular?(path) ->
        path

      File.dir?(path) ->
        refuse("--module: #{path} is a folder: give the path of the PKCS#11 library in it")

      true ->
        refuse(
          "--module: there is no file #{path}: give the path of your vendor's PKCS#11 library, such as /usr/lib/softhsm/libsofthsm2.so"
        )
    end
  end

  @doc "Its variables, from `NAME=VALUE` of each."
  @spec module_env([String.t()]) :: %{String.t() => String.t()} | nil
  def module_env([]), do: nil

  def module_env(assignments) do
    Map.new(assignments, fn assignment ->
      case String.split(assignment, "=", parts: 2) do
        [name, value] when name != "" -> {name, value}
        # Without the value, which may be secret.
        _other -> refuse("--module-env wants NAME=VALUE, once for each variable")
      end
    end)
  end

  @doc "Its digest."
  @spec module_sha256(String.t() | nil) :: String.t() | nil
  def module_sha256(digest) do
    accepted(
      :module_sha256,
      digest,
      "--module-sha256 wants 64 hexadecimal digits, as sha256sum prints them, got: #{digest}"
    )
  end

  # As the pool will check it, but in words of the arguments.
  defp accepted(name, value, message) do
    Value.validate!(name, value)
    value
  rescue
    ArgumentError -> refuse(message)
  end

  @doc "The pool's `:slot`, and the argument that gave it."
  @spec slot(map) :: {tuple | String.t(), option :: String.t()}
  def slot(given) do
    case optional_slot(given) do
      {nil, nil} -> refuse("which token? Give one of #{names(@slots)}")
      slot -> slot
    end
  end

  @doc "The same, or nil twice."
  @spec optional_slot(map) :: {tuple | String.t(), option :: String.t()} | {nil, nil}
  def optional_slot(given) do
    case for {name, option} <- @slots, is_map_key(given, name), do: {name, option} do
      [{:uri, option}] ->
        {uri(given.uri), option}

      [{name, option}] ->
        {selector(name, given[name]), option}

      [] ->
        {nil, nil}

      several ->
        refuse(
          "#{Enum.map_join(several, " and ", &elem(&1, 1))} each name a token: give one of them"
        )
    end
  end

  defp selector(:slot_id, id) when id in 0..@last_slot, do: {:slot_id, id}

  defp selector(:slot_id, id),
    do: refuse("--slot-id wants a whole number from 0 to #{@last_slot}, got: #{id}")

  defp selector(:token_label, label) do
    message = "--token-label wants the label of a token, which is not empty"
    accepted(:slot, {:token_label, label}, message)
  end

  defp selector(:token_serial, serial) do
    message = "--token-serial wants the serial number of a token, which is not empty"
    accepted(:slot, {:token_serial, serial}, message)
  end

  defp uri(uri) do
    parsed = parse_uri(uri, "--uri")

    if URI.to_slot(parsed) == %{},
      do: refuse("--uri names no token: give one such as pkcs11:token=payments")

    accepted(
      :slot,
      uri,
      "--uri names an object (object, id or type), too: give that part with --key"
    )
  end

  @doc "A key's template, from its label or URI."
  @spec key(String.t()) :: Pkcs11Pool.Template.t()
  def key(key) do
    if URI.uri?(key), do: key_of(parse_uri(key, "--key")), else: label_of(key)
  end

  defp key_of(uri) do
    if URI.to_slot(uri) != %{},
      do: refuse("--key: the URI names a token, too: give that part with --uri")

    case URI.to_template(uri) do
      [] -> refuse("--key: the URI names no key: give object=LABEL or id=%01 in it")
      template -> template
    end
  end

  defp label_of(""),
    do: refuse("--key is empty: give a label, or pkcs11:id=%01 for a key without one")

  defp label_of(label), do: [label: label]

  @typedoc "Where a PIN comes from. `:prompt`: from somebody at the terminal."
  @type pin :: {:env, String.t()} | {:file, Path.t()} | :prompt

  @doc "The pool's `:pin`, and the argument that gave it."
  @spec pin(map) :: {{:env, String.t()} | {:file, Path.t()} | nil, option :: String.t()}
  def pin(given) do
    case {pin_source(given, "pin"), given[:no_pin] || false} do
      {{pin, option}, false} ->
        {pin, option}

      {nil, true} ->
        {nil, "--no-pin"}

      {nil, false} ->
        refuse("how does it log in? Give one of --pin-env VARIABLE, --pin-file PATH, --no-pin")

      {{_pin, option}, true} ->
        refuse("#{option} and --no-pin: give one of them")
    end
  end

  @doc """
  The source of a PIN by `--PREFIX-env`, `--PREFIX-file` or `--PREFIX-prompt`, and the argument that gave it; nil for none.
  """
  @spec pin_source(map, prefix :: String.t()) :: {pin, option :: String.t()} | nil
  def pin_source(given, prefix) do
    kinds = for kind <- ["env", "file", "prompt"], do: {kind, "--#{prefix}-#{kind}"}

    sources =
      for {kind, option} <- kinds,
          {name, value} <- given,
          Switches.option(name) == option and value != false,
          do: {kind, option, value}

    case sources do
      [] ->
        nil

      [{"env", option, variable}] ->
        # It is not shown: it may be a PIN.
        message = "#{option} wants the name of a variable, without the PIN itself"
        {accepted(:pin, {:env, variable}, message), option}

      [{"file", option, ""}] ->
        refuse("#{option} wants the path of a file")

      [{"file", option, path}] ->
        {{:file, Path.expand(path)}, option}

      [{"prompt", option, true}] ->
        {:prompt, option}

      several ->
        refuse("#{Enum.map_join(several, " and ", &elem(&1, 1))}: give one of them")
    end
  end

  @doc "Milliseconds, of `--timeout SECONDS`."
  @spec timeout(float | nil) :: pos_integer
  def timeout(nil), do: 30_000

  def timeout(seconds) when seconds > 0 and seconds <= 86_400,
    do: max(1, round(seconds * 1_000))

  def timeout(seconds),
    do: refuse("--timeout wants seconds, above 0 and at most 86400, got: #{seconds}")

  defp names(options), do: Enum.map_join(options, ", ", &elem(&1, 1))
end
