defmodule Mix.Tasks.Compile.Pkcs11PoolNif do
  @moduledoc """
  Builds the Rust libraries with cargo, or takes precompiled ones: the NIF, into `priv/native`, and
  for tests the PKCS#11 module of `Pkcs11Pool.Testing.Chaos`.

  The chaos module is built only when the project that is compiled (the user's, when this one is its
  dependency) is in `:dev` or `:test`, or when `PKCS11_POOL_CHAOS` asks for it. It is put into the
  folder `chaos` of the application in `_build`, which no release copies; into `priv/native`, which
  releases copy, only when asked for.

  Cargo alone decides what is stale, so it is asked every time. Its target folder lies in
  `_build`, that of the consuming project when this one is a dependency. Errors and warnings
  become Mix diagnostics.

  What was built is kept in the user's cache folder. A project in which cargo has not worked yet,
  such as the next script with `Mix.install`, takes it from there if sources, profile, system and
  environment are the same.

  Precompiled libraries are archives of `script/package`, for whom has no cargo. They are taken
  only where somebody says from where, and only with the checksum that stands in a list of one's own
  or in the package's `checksums.sha256`. `guides/deployment.md` has an example.

      config :pkcs11_pool,
        precompiled: "https://files.example.com/pkcs11_pool",
        precompiled_checksums: Path.expand("pkcs11_pool.sha256", __DIR__)

  ## Options

    * `--warnings-as-errors` - a warning of rustc fails the compilation, too

  ## Environment

    * `PKCS11_POOL_CHAOS` - `1`: build the chaos module in any environment, and let it be part of a
      release; `0`: never build it
    * `PKCS11_POOL_PRECOMPILED` - the place of the precompiled libraries: the URL or the path of a
      folder of archives, or of one archive. It goes before the configuration
    * `PKCS11_POOL_CHECKSUMS` - the list of their checksums, as `sha256sum` writes it
    * `PKCS11_POOL_BUILD` - `1`: build with cargo all the same, whatever is there
    * `PKCS11_POOL_CACERTS` - a file with the certificate authorities of a server of one's own, by
      default those of the system; `https_proxy`, `http_proxy` and `no_proxy` as usual
    * `PKCS11_POOL_CACHE_DIR` - where downloads and builds are kept, by default the user's cache folder
    * `CARGO_BUILD_TARGET` - the system to build for, as cargo takes it (`aarch64-unknown-linux-musl`)
    * `CARGO` - the cargo to run, by default the one in `PATH`
    * `PKCS11_POOL_CARGO_PROFILE` - cargo's profile, by default `release`
    * `PKCS11_POOL_CARGO_TARGET_DIR` - the target folder, by default in `_build`. `mix clean`
      leaves it alone
  """
  use Mix.Task.Compiler

  alias Mix.Task.Compiler.Diagnostic
  alias Pkcs11Pool.Build.{Cargo, CargoMessages, KeptBuilds, Precompiled}

  @recursive true
  @chaos "pkcs11_pool_chaos.so"
  @chaos_environments ["dev", "test"]

  @impl Mix.Task.Compiler
  def run(args) do
    {opts, _rest, _invalid} = OptionParser.parse(args, switches: [warnings_as_errors: :boolean])
    ensure_crypto()
    libraries = libraries()

    {status, diagnostics} =
      case Precompiled.choose(root(), Mix.Project.config()[:version]) do
        {:ok, archive} -> {take(archive, Map.values(libraries)), []}
        :cargo -> build(libraries, opts)
      end

    if status != :error do
      remove_unwanted(Map.values(libraries))
      link_priv()
    end

    {status, diagnostics}
  end

  # For digests. A newer Mix takes what the project does not list out of the code path.
  defp ensure_crypto do
    if function_exported?(Mix, :ensure_application!, 1),
      do: apply(Mix, :ensure_application!, [:crypto])
  end

  @impl Mix.Task.Compiler
  def clean do
    File.rm_rf!(priv_native())
    File.rm_rf!(chaos_dir())
    File.rm_rf!(default_target_dir())
    File.rm(manifest())
    :ok
  end

  ## Precompiled

  # What was installed from which archive is written down, so that an archive is opened once.
  defp take(archive, libraries) do
    if taken?(archive, libraries) do
      :noop
    else
      contents = Precompiled.libraries!(archive, Path.join(cache_dir(), "archives"))

      for library <- libraries,
          not is_map_key(contents, Path.basename(library)),
          do: Mix.raise("#{archive.location} has no #{Path.basename(library)}")

      status = install_all(libraries, contents)
      Mix.shell().info("Took the native library from #{archive.location}")
      digests = for library <- libraries, into: %{}, do: {library, digest(library)}
      File.mkdir_p!(Path.dirname(manifest()))
      File.write!(manifest(), :erlang.term_to_binary({archive.sha256, digests}))
      status
    end
  end

  defp taken?(archive, libraries) do
    with {:ok, content} <- File.read(manifest()),
         {sha256, digests} when sha256 == archive.sha256 <- :erlang.binary_to_term(content) do
      Enum.all?(libraries, &(is_map_key(digests, &1) and digests[&1] == digest(&1)))
    else
      _other -> false
    end
  end

  defp digest(path) do
    case File.read(path) do
      {:ok, content} -> :crypto.hash(:sha256, content)
      {:error, _reason} -> nil
    end
  end

  defp manifest, do: Path.join(Mix.Project.manifest_path(), "compile.pkcs11_pool_nif")

  ## Cargo

  defp build(libraries, opts) do
    paths = Map.values(libraries)
    kept = kept_folder()

    with true <- kept != nil and not File.dir?(target_dir()),
         {:ok, contents} <- KeptBuilds.fetch(kept, Enum.map(paths, &Path.basename/1)) do
      status = install_all(paths, contents)

      if status == :ok,
        do: Mix.shell().info("Took the native library that was built before, from #{kept}")

      {status, []}
    else
      _nothing_kept -> build_with_cargo(libraries, kept, opts)
    end
  end

  defp build_with_cargo(libraries, kept, opts) do
    {status, messages} =
      Cargo.build(root(), Map.keys(libraries), profile: profile(), target_dir: target_dir())

    diagnostics =
      messages |> Enum.map(&CargoMessages.diagnostic(&1, root())) |> Enum.reject(&is_nil/1)

    cond do
      status != 0 ->
        {:error, errors_of_failure(diagnostics)}

      opts[:warnings_as_errors] && Enum.any?(diagnostics, &(&1.severity == :warning)) ->
        Mix.shell().error("The native library has warnings, and --warnings-as-errors is set")
        {:error, diagnostics}

      true ->
        contents =
          for library <- Map.values(libraries), into: %{} do
            name = Path.basename(library, ".so")
            {name <> ".so", name |> built_library(messages) |> File.read!()}
          end

        status = install_all(Map.values(libraries), contents)
        if status == :ok and kept != nil, do: KeptBuilds.keep(kept, contents)
        {status, diagnostics}
    end
  end

  # In a project in which cargo has worked before, cargo decides what is stale, and so it does where somebody says where it is to work.
  defp kept_folder do
    if System.get_env("PKCS11_POOL_BUILD") != "1" and
         System.get_env("PKCS11_POOL_CARGO_TARGET_DIR") == nil,
       do: KeptBuilds.folder(cache_dir(), root(), profile(), Precompiled.target())
  end

  defp errors_of_failure(diagnostics) do
    Cargo.check_version!(root())

    if Enum.any?(diagnostics, &(&1.severity == :error)) do
      diagnostics
    else
      text =
        "cargo failed without a word of rustc's, see its output above. " <>
          "If it asks for another Cargo.lock, run `cargo check` in #{root()}"

      Mix.shell().error(text)

      [
        %Diagnostic{
          compiler_name: "cargo",
          details: nil,
          file: Path.join(root(), "Cargo.toml"),
          message: text,
          position: 0,
          severity: :error
        }
        | diagnostics
      ]
    end
  end

  ## The libraries

  # Taken from cargo's own words, since its place depends on the profile and on a `--target` of
  # the user's.
  defp built_library(name, messages) do
    Enum.find_value(messages, fn
      %{"reason" => "compiler-artifact", "target" => %{"name" => ^name}, "filenames" => files} ->
        Enum.find(files, &(Path.extname(&1) in [".so", ".dylib"]))

      _other ->
        nil
    end) || Mix.raise("cargo built no shared library #{name}")
  end

  defp install_all(libraries, contents) do
    statuses = for library <- libraries, do: install(library, contents[Path.basename(library)])
    if :ok in statuses, do: :ok, else: :noop
  end

  # By way of another name: a VM that has the old library loaded keeps it, and none ever sees half
  # a file.
  defp install(installed, content) do
    if File.read(installed) == {:ok, content} do
      :noop
    else
      temporary = "#{installed}.#{System.pid()}.tmp"
      File.mkdir_p!(Path.dirname(installed))
      File.write!(temporary, content)
      File.chmod!(temporary, 0o755)
      File.rename!(temporary, installed)
      :ok
    end
  end

  # What was built when it was asked for must not get into a release when it is not.
  defp remove_unwanted(libraries) do
    for dir <- [priv_native(), chaos_dir()],
        file = Path.join(dir, @chaos),
        file not in libraries,
        do: File.rm(file)
  end

  # Mix links priv into _build before the compilers run, and only if it exists by then.
  defp link_priv, do: Mix.Project.build_structure()

  # Cargo's packages, and where the libraries go that they make. Erlang looks for `.so` on macOS, too.
  defp libraries do
    nif = %{"nif" => Path.join(priv_native(), "pkcs11_pool_nif.so")}

    case System.get_env("PKCS11_POOL_CHAOS") do
      "1" ->
        Map.put(nif, "chaos", Path.join(priv_native(), @chaos))

      other ->
        if other != "0" and environment() in @chaos_environments,
          do: Map.put(nif, "chaos", Path.join(chaos_dir(), @chaos)),
          else: nif
    end
  end

  # That of the project which is compiled. Mix.env/0 does not say it: for a dependency it is :prod,
  # whatever the project's is, but it is compiled into the project's own folder.
  defp environment do
    if System.get_env("MIX_BUILD_PATH") do
      System.get_env("MIX_ENV", Atom.to_string(Mix.env()))
    else
      folder = Path.basename(Mix.Project.build_path())
      String.replace_prefix(folder, "#{Mix.target()}_", "")
    end
  end

  ## Places

  defp chaos_dir, do: Path.join(Mix.Project.app_path(), "chaos")

  defp priv_native, do: Path.join([root(), "priv", "native"])

  defp root, do: Path.dirname(Mix.Project.project_file())

  defp profile, do: System.get_env("PKCS11_POOL_CARGO_PROFILE", "release")

  defp target_dir do
    case System.get_env("PKCS11_POOL_CARGO_TARGET_DIR") do
      nil -> default_target_dir()
      dir -> Path.expand(dir)
    end
  end

  # Across projects: what was downloaded or built for one need not be for the next. A user without a home folder has it in the project.
  defp cache_dir do
    configured = System.get_env("PKCS11_POOL_CACHE_DIR")

    cond do
      configured not in [nil, ""] ->
        configured

      System.user_home() || System.get_env("XDG_CACHE_HOME") ->
        to_string(:filename.basedir(:user_cache, ~c"pkcs11_pool"))

      true ->
        Path.join(Mix.Project.app_path(), "cache")
    end
  end

  defp default_target_dir, do: Path.join(Mix.Project.app_path(), "native")
end
