# Tries the pool on tokens, each in a VM of its own: see script/test-tokens.

alias Pkcs11Pool.Test.Tokens
alias Pkcs11Pool.Test.Tokens.{Features, Guide, Trial}

{opts, names} = OptionParser.parse!(System.argv(), strict: [write: :boolean])
known = for {name, _token} <- Tokens.all(), do: Atom.to_string(name)

case names -- known do
  [] ->
    :ok

  unknown ->
    raise ArgumentError,
          "unknown tokens #{Enum.join(unknown, ", ")}; there are #{Enum.join(known, ", ")}"
end

chosen =
  for {name, token} <- Tokens.all(),
      names == [] or Atom.to_string(name) in names,
      do: {name, token}

kept = Guide.results()

text = fn
  :pass -> "yes"
  {:pass, note} -> "yes (#{note})"
  {:fail, text} -> "NO: #{text}"
  {:not_offered, reason} -> "not offered: #{reason}"
end

found =
  for {name, token} <- chosen do
    IO.puts("\n== #{token.title()}")
    report = Trial.launch(name, token)

    case report do
      %{not_tested: reason} ->
        IO.puts("not tested here: #{reason}")

      %{features: features} ->
        for {feature, result} <- features,
            do: IO.puts("#{Features.all()[feature]}: #{text.(result)}")
    end

    {name, report}
  end

# What was tried before stays where it could not be tried here.
tested =
  for {name, report} <- found,
      not is_map_key(report, :not_tested) or
        is_map_key(Map.get(kept, name, %{not_tested: ""}), :not_tested),
      into: %{},
      do: {name, report}

results = Map.merge(kept, tested)
IO.puts(["\n", Guide.markdown(results)])

# What fails as the guide says it does is known.
failures =
  for {name, %{features: features}} <- found,
      known = Map.get(Map.get(kept, name, %{}), :features, []),
      {feature, {:fail, text} = result} <- features,
      known[feature] != result,
      do: "#{name}: #{feature}: #{text}"

# A token that is asked for by its name has to be there.
missing =
  for {name, %{not_tested: reason}} <- found,
      names != [],
      do: "#{name}: not tested here: #{reason}"

differing =
  for {name, %{version: version} = report} <- found,
      !opts[:write],
      kept[name] != report do
    case kept[name] do
      %{version: ^version} ->
        "#{name}: guides/tokens.md says otherwise: script/test-tokens --write #{name}"

      %{version: other} ->
        IO.puts("#{name}: guides/tokens.md is about version #{other}, this is #{version}") && nil

      _never ->
        "#{name}: guides/tokens.md says nothing of it: script/test-tokens --write #{name}"
    end
  end

if opts[:write], do: Guide.write(results)

case failures ++ missing ++ Enum.reject(differing, &is_nil/1) do
  [] -> IO.puts("passed")
  problems -> Enum.each(problems, &IO.puts("FAILED: #{&1}")) && System.halt(1)
end
