# Checks how the files of the Rust crates import each other: none imports, by whatever way, a file that imports it; and the token crate's
# folders are layers. Paths are read from the text (`use ...`, `crate::a::b`, `super::a`); tests are left out.

defmodule Layers do
  # Lowest first. A file imports only from its own layer and from those before it. lib.rs may import all.
  @layers ~w(support p11 error module token options operation execution pool runner)

  @sources ["bench/bare/src", "bench/raw/src", "bench/state/src" | Path.wildcard("native/*/src")]

  def run do
    problems = Enum.flat_map(@sources, &circles/1) ++ layer_problems("native/token/src")
    Enum.each(problems, &IO.puts/1)
    if problems != [], do: System.halt(1)

    IO.puts(
      "#{length(@sources)} crates, no import circle; the token crate's layers: #{Enum.join(@layers, " < ")}"
    )
  end

  defp circles(source) do
    imports = imports(source)

    for circle <- components(imports), length(circle) > 1 do
      names = circle |> Enum.sort() |> Enum.map_join(", ", &(Enum.join(&1, "::") |> name()))
      "#{source}: these files import each other in a circle: #{names}"
    end
  end

  defp name(""), do: "lib"
  defp name(name), do: name

  defp layer_problems(source) do
    for {[from | _] = file, targets} <- imports(source),
        [to | _] = target <- targets,
        problem?(from, to) do
      "#{source}: #{Enum.join(file, "::")} imports #{Enum.join(target, "::")}, of a layer above its own"
    end
  end

  defp problem?(from, to) do
    level = &Enum.find_index(@layers, fn layer -> layer == &1 end)
    unless level.(from), do: raise("#{from} is not in the list of layers in script/layers.exs")
    level.(to) > level.(from)
  end

  # Each file's module path, and those that it imports. lib.rs is [].
  defp imports(source) do
    files =
      for path <- Path.wildcard("#{source}/**/*.rs"), into: %{}, do: {module(path, source), path}

    for {file, path} <- files, file != [], List.last(file) != "tests", into: %{} do
      targets = path |> File.read!() |> without_tests() |> paths() |> Enum.map(&resolve(&1, file))

      known =
        for target <- targets,
            found = longest_known(target, files),
            found not in [nil, file, []],
            do: found

      {file, Enum.uniq(known)}
    end
  end

  defp module(path, source) do
    path
    |> Path.relative_to(source)
    |> Path.rootname()
    |> Path.split()
    |> Enum.reject(&(&1 in ["mod", "lib", "main"]))
  end

  defp without_tests(text) do
    [code | _] = String.split(text, ~r/^#\[cfg\(.*test.*\)\]\n(?=mod )/m)
    String.replace(code, ~r{//.*}, "")
  end

  defp paths(text) do
    uses = for [_, tree] <- Regex.scan(~r/\buse\s+([^;]+);/, text), path <- expand(tree), do: path
    rest = String.replace(text, ~r/\buse\s+[^;]+;/, "")

    uses ++
      for [path] <- Regex.scan(~r/\b(?:crate|super)(?:::\w+)+/, rest),
          do: String.split(path, "::")
  end

  # `a::{b, c::{d}}` as the paths that it stands for.
  defp expand(tree) do
    case String.split(String.trim(tree), "{", parts: 2) do
      [path] ->
        [path |> String.split(" as ") |> hd() |> String.split("::") |> Enum.map(&String.trim/1)]

      [head, rest] ->
        prefix =
          head |> String.split("::") |> Enum.map(&String.trim/1) |> Enum.reject(&(&1 == ""))

        inner = rest |> String.trim() |> String.replace_suffix("}", "")
        for part <- split(inner), path <- expand(part), do: prefix ++ path
    end
  end

  # At the commas that are in no braces.
  defp split(text) do
    {parts, last, _} =
      for <<char::utf8 <- text>>, reduce: {[], "", 0} do
        {parts, part, 0} when char == ?, -> {[part | parts], "", 0}
        {parts, part, depth} -> {parts, part <> <<char::utf8>>, depth + depth(char)}
      end

    Enum.reject([last | parts], &(String.trim(&1) == ""))
  end

  defp depth(?{), do: 1
  defp depth(?}), do: -1
  defp depth(_), do: 0

  defp resolve(["crate" | path], _file), do: path
  defp resolve(["self" | path], file), do: file ++ path
  defp resolve(["super" | path], file), do: resolve_super(path, Enum.drop(file, -1))
  # Of a module of its own, or of another crate, whose names are none of ours.
  defp resolve(path, file), do: file ++ path

  defp resolve_super(["super" | path], file), do: resolve_super(path, Enum.drop(file, -1))
  defp resolve_super(path, file), do: file ++ path

  defp longest_known([], _files), do: nil

  defp longest_known(path, files) do
    if Map.has_key?(files, path), do: path, else: longest_known(Enum.drop(path, -1), files)
  end

  # The sets of files that all import each other, by whatever way.
  defp components(imports) do
    reach =
      for {file, _} <- imports, into: %{}, do: {file, reachable([file], imports, MapSet.new())}

    together = fn one, other -> other in reach[one] and one in reach[other] end

    imports
    |> Map.keys()
    |> Enum.map(fn file ->
      [file | for({other, _} <- imports, other != file, together.(file, other), do: other)]
    end)
    |> Enum.uniq_by(&Enum.sort/1)
  end

  defp reachable([], _imports, seen), do: seen

  defp reachable([file | rest], imports, seen) do
    new = for target <- Map.get(imports, file, []), target not in seen, do: target
    reachable(new ++ rest, imports, MapSet.union(seen, MapSet.new(new)))
  end
end

Layers.run()
