defmodule Pkcs11Pool.Bench.Options.Token do
  @moduledoc false
  # Which module, token and PIN, by the arguments of `mix pkcs11_pool.bench`.

  import Pkcs11Pool.Bench.Options.Refusal

  alias Pkcs11Pool.Options.Value
  alias Pkcs11Pool.URI

  @slots [
    token_label: "--token-label",
    token_serial: "--token-serial",
    slot_id: "--slot-id",
    uri: "--uri"
  ]
  @pins [pin_env: "--pin-env", pin_file: "--pin-file", no_pin: "--no-pin"]

  # A CK_SLOT_ID.
  @last_slot 0xFFFFFFFFFFFFFFFF

  @doc "The module's path."
  @spec module(map) :: Path.t()
  def module(%{module: path}) do
    path = Path.expand(path)

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

  def module(_none),
    do: refuse("--module PATH is missing: the path of your vendor's PKCS#11 library")

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
    case for {name, option} <- @slots, is_map_key(given, name), do: {name, option} do
      [{:uri, option}] ->
        {uri(given.uri), option}

      [{name, option}] ->
        {selector(name, given[name]), option}

      [] ->
        refuse("which token? Give one of #{names(@slots)}")

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

  @doc "The pool's `:pin`, and the argument that gave it."
  @spec pin(map) :: {{:env, String.t()} | {:file, Path.t()} | nil, option :: String.t()}
  def pin(given) do
    case for {name, option} <- @pins, Map.get(given, name, false) != false, do: {name, option} do
      [{:pin_env, option}] ->
        # It is not shown: it may be a PIN.
        message = "--pin-env wants the name of a variable, without the PIN itself"
        {accepted(:pin, {:env, given.pin_env}, message), option}

      [{:pin_file, _option}] when given.pin_file == "" ->
        refuse("--pin-file wants the path of a file")

      [{:pin_file, option}] ->
        {{:file, Path.expand(given.pin_file)}, option}

      [{:no_pin, option}] ->
        {nil, option}

      [] ->
        refuse("how does it log in? Give one of --pin-env VARIABLE, --pin-file PATH, --no-pin")

      several ->
        refuse("#{Enum.map_join(several, " and ", &elem(&1, 1))}: give one of them")
    end
  end

  defp names(options), do: Enum.map_join(options, ", ", &elem(&1, 1))
end
