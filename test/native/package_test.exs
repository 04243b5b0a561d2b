defmodule Pkcs11Pool.PackageTest do
  # What is published: the list of files, and what stands in them about the library.
  use ExUnit.Case, async: true

  @config Mix.Project.config()
  @package @config[:package]

  test "the package has every file that the build and its reader need" do
    files = @package[:files]
    for file <- files, do: assert(File.exists?(file), "#{file} is in mix.exs, and not there")

    # Mix compiles with these, the rest is for people.
    for needed <-
          ~w(mix.exs mix lib native .cargo Cargo.toml Cargo.lock .formatter.exs) ++
            ~w(README.md CHANGELOG.md LICENSE THIRD_PARTY_LICENSES.md SECURITY.md usage-rules.md guides),
        do: assert(needed in files)

    # Each crate of the workspace: cargo refuses one of which a member is missing.
    members = Path.wildcard("native/*/Cargo.toml")
    workspace = File.read!("Cargo.toml")
    for member <- members, do: assert(workspace =~ inspect(Path.dirname(member)))

    # What is built is built where it is used.
    refute Enum.any?(files, &String.starts_with?(&1, "priv"))
  end

  test "the package says what it is, where it comes from, and under which licence" do
    assert %URI{scheme: "https", host: host} = URI.parse(@config[:source_url])
    assert host not in [nil, ""]
    assert String.length(@config[:description]) in 50..300
    assert @package[:licenses] == ["Apache-2.0"]
    assert File.read!("LICENSE") =~ "Apache License"

    assert map_size(@package[:links]) >= 1

    for {_title, link} <- @package[:links],
        do: assert(String.starts_with?(link, @config[:source_url]))
  end

  test "the crates have the package's version" do
    assert File.read!("Cargo.toml") =~
             ~s([workspace.package]\nversion = "#{@config[:version]}"\n)
  end

  test "each function that SECURITY.md, CONTRIBUTING.md and usage-rules.md name is there" do
    for file <- ["SECURITY.md", "CONTRIBUTING.md", "usage-rules.md"],
        [_all, module, name, arity] <-
          Regex.scan(~r{`(?:(Pkcs11Pool(?:\.\w+)*)\.)?(\w+[!?]?)/(\d)`}, File.read!(file)) do
      module = if module == "", do: Pkcs11Pool, else: Module.concat([module])
      known = for {name, arity} <- module.__info__(:functions), do: "#{name}/#{arity}"
      assert "#{name}/#{arity}" in known, "#{file}: #{inspect(module)}.#{name}/#{arity}"
    end
  end

  test "each file and script that CONTRIBUTING.md and SECURITY.md name is there" do
    for file <- ["CONTRIBUTING.md", "SECURITY.md"],
        [_all, path] <-
          Regex.scan(~r{\b((?:script|guides|test|native)/[\w./]*\w)}, File.read!(file)),
        do: assert(File.exists?(path), "#{file}: #{path}")
  end

  # Names of functions and lines of the source are most of a library that has them.
  if match?({:unix, :linux}, :os.type()) do
    test "the native library is stripped" do
      library = File.read!(Application.app_dir(:pkcs11_pool, "priv/native/pkcs11_pool_nif.so"))
      sections = sections(library)
      assert ".text" in sections
      for section <- [".symtab", ".debug_info", ".debug_line"], do: refute(section in sections)
      # A name that a stripped library must have: the VM looks for it.
      assert library =~ "nif_init"
    end

    # The names of an ELF file's sections: its head says where the table of sections is, and which of them has their names.
    defp sections(<<0x7F, "ELF", 2, 1, _head::binary>> = elf) do
      <<_::binary-size(0x28), table::little-64, _::binary-size(10), size::little-16,
        count::little-16, names::little-16, _::binary>> = elf

      headers =
        for index <- 0..(count - 1) do
          <<name::little-32, _::binary-size(20), offset::little-64, _::binary>> =
            binary_part(elf, table + index * size, size)

          {name, offset}
        end

      {_name, start} = Enum.at(headers, names)

      for {name, _offset} <- headers do
        rest = binary_part(elf, start + name, byte_size(elf) - start - name)
        rest |> :binary.split(<<0>>) |> hd()
      end
    end
  end
end
