# Writes THIRD_PARTY_LICENSES.md, or checks it: which crates cargo links into the native libraries, and the texts of their licences, from the crates
# themselves. Build tools and macros leave no code of their own in a library, so they are not in it.

Code.require_file("../mix/cargo_messages.ex", __DIR__)

defmodule Licenses do
  alias Pkcs11Pool.Build.CargoMessages

  @file_name "THIRD_PARTY_LICENSES.md"
  @libraries ["nif", "chaos"]

  # Systems that script/package builds for.
  @platforms ~w(x86_64-unknown-linux-gnu x86_64-unknown-linux-musl aarch64-unknown-linux-gnu aarch64-unknown-linux-musl)

  # Those that the package may be used under without asking anybody. Another one is looked at by a person, and added here.
  @accepted ~w(Apache-2.0 MIT ISC BSD-2-Clause BSD-3-Clause Zlib 0BSD Unicode-3.0 Unlicense)

  @texts ~r/^(licen[sc]e|copying|copyright|notice|unlicense)/i

  def run(["--check"]) do
    if File.read(@file_name) == {:ok, document()} do
      IO.puts("#{@file_name} is as it should be")
    else
      IO.puts(:stderr, "#{@file_name} is not what the linked crates say: run script/licenses")
      System.halt(1)
    end
  end

  def run([]) do
    File.write!(@file_name, document())
    IO.puts("Wrote #{@file_name}")
  end

  def run(_arguments) do
    IO.puts(:stderr, "usage: script/licenses [--check]")
    System.halt(2)
  end

  defp document do
    crates = Enum.sort_by(linked_crates(), &{&1["name"], &1["version"]})
    Enum.each(crates, &check_license/1)
    rows = Enum.map_join(crates, "\n", &row/1)
    texts = crates |> Enum.flat_map(&texts/1) |> Enum.group_by(&elem(&1, 1), &elem(&1, 0))

    """
    # Licences of others

    The native library of pkcs11_pool is linked with these crates. `script/licenses` writes this file.

    | crate | version | licence | source |
    |---|---|---|---|
    #{rows}

    It is also linked with Rust's standard library (MIT OR Apache-2.0, <https://www.rust-lang.org>). Libraries that `script/package` has built
    contain LLVM's compiler-rt and libunwind (Apache-2.0 WITH LLVM-exception, <https://llvm.org>), which zig brings. Where a crate may be used under more than one
    licence, it is used under the Apache License 2.0 if that is one of them: its text is in the file LICENSE. The other texts that the crates bring follow.
    #{texts |> Enum.sort_by(fn {_text, names} -> Enum.sort(names) end) |> Enum.map_join(&section/1)}\
    """
  end

  defp row(crate) do
    "| #{crate["name"]} | #{crate["version"]} | #{crate["license"]} | <#{crate["repository"]}> |"
  end

  defp section({text, names}) do
    "\n## #{names |> Enum.sort() |> Enum.uniq() |> Enum.join(", ")}\n\n```text\n#{text}\n```\n"
  end

  # The same text, but for its line ends and margins, is printed once.
  defp texts(crate) do
    folder = Path.dirname(crate["manifest_path"])

    for name <- folder |> File.ls!() |> Enum.sort(),
        name =~ @texts,
        path = Path.join(folder, name),
        File.regular?(path),
        text = path |> File.read!() |> tidy(),
        not apache?(text),
        do: {"#{crate["name"]} #{crate["version"]}: #{name}", text}
  end

  defp tidy(text) do
    text
    |> String.split(~r/\r?\n/)
    |> Enum.map_join("\n", &String.trim_trailing/1)
    |> String.trim("\n")
  end

  defp apache?(text), do: text =~ ~r/\A\s*Apache License\s+Version 2\.0, January 2004/

  # `A OR B` (or `A/B`, as it was written once): one is enough; `A AND B`: both.
  defp check_license(crate) do
    accepted? =
      (crate["license"] || "")
      |> String.replace(["(", ")"], "")
      |> String.split(~r/ AND /)
      |> Enum.all?(fn alternatives ->
        alternatives |> String.split(~r{ OR |/}) |> Enum.any?(&(&1 in @accepted))
      end)

    unless accepted? do
      IO.puts(
        :stderr,
        "The licence of #{crate["name"]} #{crate["version"]}, #{inspect(crate["license"])}, is not among those that are accepted"
      )

      System.halt(1)
    end
  end

  ## Cargo

  defp linked_crates do
    metadata = metadata()
    packages = Map.new(metadata["packages"], &{&1["id"], &1})
    nodes = Map.new(metadata["resolve"]["nodes"], &{&1["id"], &1["deps"]})
    ours = for {id, %{"source" => nil}} <- packages, do: id
    roots = for id <- ours, packages[id]["name"] in @libraries, do: id

    for id <- reach(roots, nodes, packages, MapSet.new()), id not in ours, do: packages[id]
  end

  defp reach([], _nodes, _packages, seen), do: seen

  defp reach([id | rest], nodes, packages, seen) do
    if id in seen do
      reach(rest, nodes, packages, seen)
    else
      next =
        for dependency <- nodes[id],
            Enum.any?(dependency["dep_kinds"], &(&1["kind"] == nil)),
            not macro?(packages[dependency["pkg"]]),
            do: dependency["pkg"]

      reach(next ++ rest, nodes, packages, MapSet.put(seen, id))
    end
  end

  defp macro?(package), do: Enum.any?(package["targets"], &("proc-macro" in &1["kind"]))

  defp metadata do
    platforms = Enum.flat_map(@platforms, &["--filter-platform", &1])
    arguments = ["metadata", "--format-version", "1", "--locked" | platforms]
    {output, 0} = System.cmd(System.get_env("CARGO", "cargo"), arguments)
    {:ok, metadata} = CargoMessages.decode(output)
    metadata
  end
end

Licenses.run(System.argv())
