defmodule Pkcs11Pool.CommandLine.Switches do
  @moduledoc false
  # The arguments of a task, taken apart. A message names the option and the remedy; it never shows an argument that could be a PIN.

  import Pkcs11Pool.CommandLine.Refusal

  @pins ["--pin", "-p", "--pin-value", "--so-pin", "--user-pin", "--new-pin"]

  @doc """
  The arguments of options that may be given once, and the lists of those that may be given several times (`repeated`). `help` says where all of them are listed.
  """
  @spec parse([String.t()], keyword(atom), help :: String.t(), repeated :: [atom]) ::
          {%{optional(atom) => term}, %{optional(atom) => [term]}}
  def parse(arguments, switches, help, repeated \\ [:module_env]) do
    # All values of each: that one of two is dropped would be told to nobody.
    strict = for {name, type} <- switches, do: {name, [type, :keep]}
    {given, rest, invalid} = OptionParser.parse(arguments, strict: strict)
    known!(invalid, rest, switches, help)
    {several, once} = Keyword.split(given, repeated)
    once!(once)
    {Map.new(once), Map.new(repeated, &{&1, Keyword.get_values(several, &1)})}
  end

  @doc "An option as it is written."
  @spec option(atom) :: String.t()
  def option(name), do: "--" <> dashed(name)

  defp dashed(name), do: name |> Atom.to_string() |> String.replace("_", "-")

  defp known!([], [], _switches, _help), do: :ok

  defp known!(invalid, rest, switches, help) do
    names = for {name, _value} <- invalid, do: name

    cond do
      pin = Enum.find(names, &(&1 in @pins)) ->
        prefix = if pin == "--so-pin", do: "--so-pin", else: "--pin"

        refuse(
          "#{pin} is not taken: everybody on this machine can read a PIN on the command line (ps, the shell's history). " <>
            "Put it into a variable or into a file that only you can read, and give #{prefix}-env VARIABLE or #{prefix}-file PATH"
        )

      names != [] ->
        wrong(hd(invalid), switches, help)

      true ->
        # It is not shown: it may be what somebody took for the PIN's place.
        refuse(
          "#{length(rest)} argument(s) without an option: every argument belongs to an option, and one with spaces into quotes"
        )
    end
  end

  @spec wrong({String.t(), String.t() | nil}, keyword(atom), String.t()) :: no_return
  defp wrong({name, value}, switches, help) do
    key = name |> String.trim_leading("-") |> String.replace("-", "_")

    case Enum.find(switches, fn {switch, _type} -> Atom.to_string(switch) == key end) do
      {_switch, :boolean} -> refuse("#{name} takes no value")
      {_switch, type} when value == nil -> refuse("#{name} wants #{kind(type)} after it")
      {_switch, type} -> refuse("#{name} wants #{kind(type)}, got: #{value}")
      nil -> refuse("there is no option #{name}#{like(name, switches)}. See: #{help}")
    end
  end

  defp kind(:integer), do: "a whole number"
  defp kind(:float), do: "a number"
  defp kind(_string), do: "a value"

  defp like("--" <> name, switches) do
    options = for {switch, _type} <- switches, do: dashed(switch)

    case Enum.max_by(options, &String.jaro_distance(&1, name)) do
      best -> if String.jaro_distance(best, name) > 0.8, do: ", did you mean --#{best}?", else: ""
    end
  end

  defp like(_short, _switches), do: ""

  defp once!(given) do
    for {name, values} <- Enum.group_by(given, &elem(&1, 0)),
        length(values) > 1,
        do: refuse("#{option(name)} is given #{length(values)} times: give it once")
  end
end
