defmodule Pkcs11Pool.Test.BuildProject do
  @moduledoc false
  # A small project with crates that need no other: cargo builds them in a fraction of a second. What it changes in the environment is put back.

  import ExUnit.Callbacks, only: [on_exit: 1]
  import ExUnit.CaptureIO

  alias Mix.Tasks.Compile.Pkcs11PoolNif

  @variables ~w(PKCS11_POOL_CARGO_TARGET_DIR PKCS11_POOL_CARGO_PROFILE PKCS11_POOL_CHAOS PKCS11_POOL_BUILD PKCS11_POOL_PRECOMPILED) ++
               ~w(PKCS11_POOL_CHECKSUMS PKCS11_POOL_CACERTS CARGO_BUILD_TARGET)

  @type t :: %{app: atom, dir: Path.t(), source: Path.t(), library: Path.t(), chaos: Path.t()}

  @doc "Makes one in the folder. Mix's shell sends its messages to the calling process."
  @spec new!(Path.t()) :: t
  def new!(dir) do
    # Mix remembers projects by their app, so each test has one of its own.
    app = :"built#{System.unique_integer([:positive])}"

    write(dir, "mix.exs", """
    defmodule Pkcs11Pool.BuildTest.Project.#{app |> to_string() |> String.capitalize()} do
      use Mix.Project
      def project, do: [app: :#{app}, version: "1.0.0"]
    end
    """)

    write(dir, "Cargo.toml", """
    [workspace]
    resolver = "3"
    members = ["native/nif", "native/chaos"]

    [workspace.package]
    rust-version = "1.91"
    """)

    for package <- ["nif", "chaos"] do
      write(dir, "native/#{package}/Cargo.toml", """
      [package]
      name = "#{package}"
      version = "0.1.0"
      edition = "2024"

      [lib]
      name = "pkcs11_pool_#{package}"
      crate-type = ["cdylib"]
      """)
    end

    write(dir, "native/chaos/src/lib.rs", "")

    project = %{
      app: app,
      dir: dir,
      source: Path.join(dir, "native/nif/src/lib.rs"),
      library: Path.join(dir, "priv/native/pkcs11_pool_nif.so"),
      # Beside ebin, where no release looks.
      chaos: Path.join(dir, "_build/test/lib/#{app}/chaos/pkcs11_pool_chaos.so")
    }

    rust(project, "pub extern \"C\" fn one() -> i32 { 1 }")

    Enum.each(@variables, &put_env(&1, nil))
    put_env("PKCS11_POOL_CACHE_DIR", Path.join(dir, "cache"))

    shell = Mix.shell()
    Mix.shell(Mix.Shell.Process)
    on_exit(fn -> Mix.shell(shell) end)

    project
  end

  @doc "The Mix compiler's answer, and what it printed."
  def compile(project, args \\ []) do
    with_io(:stderr, fn -> in_project(project, fn -> Pkcs11PoolNif.run(args) end) end)
  end

  @doc "As `MIX_ENV=... mix compile` would."
  def compile_in(project, env) do
    Mix.env(env)
    compile(project)
  after
    Mix.env(:test)
  end

  @doc "Where the chaos module is in an environment's part of `_build`."
  def in_build(project, env) do
    Path.join(project.dir, "_build/#{env}/lib/#{project.app}/chaos/pkcs11_pool_chaos.so")
  end

  @doc "The files that a release would get."
  def priv(project), do: project.library |> Path.dirname() |> File.ls!() |> Enum.sort()

  def in_project(project, fun) do
    Mix.Project.in_project(project.app, project.dir, fn _module -> fun.() end)
  end

  @doc "The source of the crate `nif`."
  def rust(project, source), do: write(project.dir, "native/nif/src/lib.rs", source <> "\n")

  @doc "A cargo that does what the script says."
  def cargo(project, script) do
    write(project.dir, "bin/cargo", "#!/bin/sh\n#{script}\n")
    path = Path.join(project.dir, "bin/cargo")
    File.chmod!(path, 0o755)
    put_env("CARGO", path)
  end

  def put_env(name, value) do
    before = System.get_env(name)
    if value, do: System.put_env(name, value), else: System.delete_env(name)
    on_exit(fn -> if before, do: System.put_env(name, before), else: System.delete_env(name) end)
  end

  def write(dir, path, content) do
    path = Path.join(dir, path)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, content)
  end
end
