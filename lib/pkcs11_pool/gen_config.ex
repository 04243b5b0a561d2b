defmodule Pkcs11Pool.GenConfig do
  @moduledoc false
  # `mix pkcs11_pool.gen.config`: the child specification of a pool on a token that is there.

  import Pkcs11Pool.CommandLine.Refusal

  alias Pkcs11Pool.CommandLine.{Switches, Token}
  alias Pkcs11Pool.{Doctor, URI}

  @switches Token.switches() ++
              [
                name: :string,
                pin_env: :string,
                pin_file: :string,
                no_pin: :boolean,
                timeout: :float
              ]

  @default_name "MyApp.HSM"
  @default_variable "HSM_PIN"

  # A pool's default.
  @usual_size 4

  @doc "Runs with the task's arguments, prints, and returns the exit code, which is one of the doctor's."
  @spec main([String.t()]) :: exit_code :: 0..4
  def main(arguments) do
    with {:ok, options, more} <- parse(arguments),
         report = Doctor.examine(options, :list),
         {:ok, slot} <- one(report, options) do
      IO.puts(specification(slot, report, options, more))
      0
    else
      {:error, message} ->
        IO.puts(:stderr, "** #{message}")
        2

      {:failed, code, message} ->
        IO.puts(:stderr, "** #{message}")
        code
    end
  end

  defp parse(arguments) do
    {given, several} = Switches.parse(arguments, @switches, "mix help pkcs11_pool.gen.config")
    {slot, slot_option} = Token.optional_slot(given)

    options = %Doctor.Options{
      module: Token.module_path(given),
      module_env: Token.module_env(several.module_env),
      module_args: given[:module_args],
      module_sha256: Token.module_sha256(given[:module_sha256]),
      slot: slot,
      slot_option: slot_option,
      timeout: Token.timeout(given[:timeout])
    }

    {:ok, options, %{name: name(given[:name] || @default_name), pin: pin(given)}}
  catch
    {:refused, message} -> {:error, message}
  end

  # It is printed as it is.
  defp name(name) do
    if name =~ ~r/\A(:[a-z_]\w*|[A-Z]\w*(\.[A-Z]\w*)*)\z/,
      do: name,
      else: refuse("--name wants the name of a pool, such as MyApp.HSM or :hsm")
  end

  defp pin(given) do
    case {Token.pin_source(given, "pin"), given[:no_pin] || false} do
      {nil, no_pin} -> if no_pin, do: :none, else: :default
      {{pin, _option}, false} -> pin
      {{_pin, option}, true} -> refuse("#{option} and --no-pin: give one of them")
    end
  end

  ## Which token

  defp one(report, options) do
    candidates =
      for %{token: %{flags: flags}} = slot <- report.slots || [],
          slot.slot_id in (report.selected || []),
          :token_initialized in flags,
          do: slot

    case {candidates, report} do
      {[slot], %{exit_code: 0}} ->
        {:ok, slot}

      {[_one, _two | _rest], %{exit_code: 0}} ->
        {:failed, 1, which(candidates, options)}

      {[], %{exit_code: 0}} ->
        {:failed, 1,
         "the token is not initialized: it has no label to be named by. mix pkcs11_pool.init makes a token"}

      {_any, %{exit_code: code, findings: findings}} ->
        {:failed, code, Enum.map_join(findings, "\n** ", &finding/1)}
    end
  end

  defp finding(%{what: what, remedy: nil}), do: what
  defp finding(%{what: what, remedy: remedy}), do: "#{what} #{remedy}"

  defp which(candidates, options) do
    names =
      Enum.map_join(candidates, ", ", fn %{slot_id: id, token: token} ->
        "#{inspect(token.label)} (serial number #{token.serial}, now in slot #{id})"
      end)

    how =
      if options.slot,
        do: "#{options.slot_option} matches several tokens",
        else: "there are several tokens"

    "#{how}: #{names}. Name one by --token-label, or by --token-serial where several have one label"
  end

  ## The specification

  defp specification(%{token: token} = slot, report, options, more) do
    values =
      [
        name: {:code, more.name},
        module: options.module,
        module_env: options.module_env,
        module_args: options.module_args,
        module_sha256: options.module_sha256,
        slot: selector(slot, report),
        pool_size: pool_size(token)
      ] ++ login(token, more.pin) ++ read_only(token)

    lines = for {name, value} <- values, value != nil, do: " #{name}: #{code(value)}"

    """
    # The token #{inspect(token.label)}, serial number #{inspect(token.serial)}, #{inspect(token.model)} of #{inspect(token.manufacturer)}.
    # For the children of your application's supervisor, before whatever calls it.
    {Pkcs11Pool,
    #{Enum.join(lines, ",\n")}}\
    """
  end

  defp code({:code, code}), do: code

  defp code(value),
    do: inspect(value, limit: :infinity, printable_limit: :infinity, width: :infinity)

  # By what stays: the number of a slot changes when tokens come and go.
  defp selector(%{token: token} = slot, report) do
    tokens = for %{token: %{} = token} <- report.slots, do: token

    cond do
      only?(token, tokens, [:label]) ->
        {:token_label, token.label}

      only?(token, tokens, [:serial]) ->
        {:token_serial, token.serial}

      only?(token, tokens, [:label, :serial, :manufacturer, :model]) ->
        Pkcs11Pool.Token.to_uri(token)

      true ->
        %{slot | token: nil} |> Pkcs11Pool.Token.to_uri() |> without_description()
    end
  end

  # Bytes that are no UTF-8 are shown as U+FFFD, by which nothing is found.
  defp only?(token, tokens, names) do
    values = Map.take(token, names)

    Enum.all?(values, fn {_name, value} ->
      value != "" and not String.contains?(value, "\uFFFD")
    end) and
      Enum.count(tokens, &(Map.take(&1, names) == values)) == 1
  end

  defp without_description(uri) do
    uri
    |> URI.parse!()
    |> Map.merge(%{slot_description: nil, slot_manufacturer: nil})
    |> URI.format()
  end

  defp pool_size(token) do
    limits =
      for limit <- [token.max_session_count, token.max_rw_session_count],
          is_integer(limit) and limit > 0,
          do: limit

    Enum.min([@usual_size | limits])
  end

  defp login(token, :default) do
    cond do
      :protected_authentication_path in token.flags -> [protected_authentication_path: true]
      :login_required in token.flags -> [pin: {:env, @default_variable}]
      true -> []
    end
  end

  defp login(_token, :none), do: []
  defp login(_token, pin), do: [pin: pin]

  defp read_only(token), do: if(:write_protected in token.flags, do: [read_only: true], else: [])
end
