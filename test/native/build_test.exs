defmodule Pkcs11Pool.BuildTest do
  # The Mix compiler is run in a project of its own, which means another working directory for the whole VM.
  use ExUnit.Case, async: false

  import Pkcs11Pool.Test.BuildProject

  alias Mix.Tasks.Compile.Pkcs11PoolNif
  alias Pkcs11Pool.Build.Cargo
  alias Pkcs11Pool.Test.BuildProject

  @moduletag :tmp_dir
  @moduletag :build

  setup %{tmp_dir: dir} do
    %{project: BuildProject.new!(dir)}
  end

  test "builds when cargo finds something stale, and only then", %{project: project} do
    assert {{:ok, []}, ""} = compile(project)
    assert_received {:mix_shell, :info, ["Compiling the native library" <> _]}
    first = stat(project.library)

    assert priv(project) == ["pkcs11_pool_nif.so"]
    assert File.regular?(project.chaos)

    # Mix looks for priv before the compilers run, when this one did not exist yet.
    app_path = in_project(project, &Mix.Project.app_path/0)
    assert File.regular?(Path.join(app_path, "priv/native/pkcs11_pool_nif.so"))
    assert File.dir?(Path.join(app_path, "native/release"))

    assert {{:noop, []}, ""} = compile(project)
    refute_received {:mix_shell, :info, ["Compiling" <> _]}
    assert stat(project.library) == first

    rust(project, "#[unsafe(no_mangle)] pub extern \"C\" fn two() -> i32 { 2 }")
    assert {{:ok, []}, ""} = compile(project)
    # Another file by the same name: a VM that has the old one loaded must not find it changed.
    assert stat(project.library).inode != first.inode
  end

  test "puts a library back that is gone", %{project: project} do
    compile(project)

    for library <- [project.library, project.chaos] do
      File.rm!(library)
      assert {{:ok, []}, ""} = compile(project)
      assert File.regular?(library)
    end
  end

  test "builds the chaos module in :dev, and for production only when asked", %{project: project} do
    # Its crate does not compile: nobody tries.
    write(project.dir, "native/chaos/src/lib.rs", "fn broken(")
    assert {{:ok, []}, ""} = compile_in(project, :prod)
    assert priv(project) == ["pkcs11_pool_nif.so"]
    refute File.exists?(in_build(project, :prod))

    write(project.dir, "native/chaos/src/lib.rs", "")
    assert {{:ok, []}, ""} = compile_in(project, :dev)
    assert priv(project) == ["pkcs11_pool_nif.so"]
    assert File.regular?(in_build(project, :dev))

    put_env("PKCS11_POOL_CHAOS", "1")
    assert {{:ok, []}, ""} = compile_in(project, :prod)
    assert priv(project) == ["pkcs11_pool_chaos.so", "pkcs11_pool_nif.so"]

    # It does not stay in the next release.
    put_env("PKCS11_POOL_CHAOS", nil)
    compile_in(project, :prod)
    assert priv(project) == ["pkcs11_pool_nif.so"]

    put_env("PKCS11_POOL_CHAOS", "0")
    compile_in(project, :dev)
    refute File.exists?(in_build(project, :dev))
  end

  test "a folder of the user's for the build says nothing about the environment, MIX_ENV does", %{
    project: project
  } do
    folder = Path.join(project.dir, "elsewhere")
    chaos = Path.join(folder, "lib/#{project.app}/chaos/pkcs11_pool_chaos.so")
    put_env("MIX_BUILD_PATH", folder)
    put_env("MIX_ENV", "prod")
    compile(project)
    refute File.exists?(chaos)

    put_env("MIX_ENV", "test")
    compile(project)
    assert File.regular?(chaos)
  end

  test "returns warnings, again while they last", %{project: project} do
    rust(project, "fn unused() {}")

    assert {{:ok, [diagnostic]}, output} = compile(project)
    assert diagnostic.severity == :warning
    assert diagnostic.message == "function `unused` is never used [dead_code]"
    assert diagnostic.file == project.source
    assert diagnostic.position == {1, 3, 1, 9}
    assert output =~ "function `unused` is never used"

    assert {{:noop, [^diagnostic]}, ^output} = compile(project)
    assert {{:error, [^diagnostic]}, ^output} = compile(project, ["--warnings-as-errors"])
    assert {{:noop, [^diagnostic]}, ^output} = compile(project, ["--no-warnings-as-errors"])
  end

  test "returns errors, and leaves the library as it was", %{project: project} do
    compile(project)
    content = File.read!(project.library)

    rust(project, "\n  pub fn wrong() -> i32 { \"one\" }")
    assert {{:error, [diagnostic]}, output} = compile(project)
    assert diagnostic.severity == :error
    assert diagnostic.message == "mismatched types [E0308]"
    assert diagnostic.file == project.source
    assert {2, _start, 2, _end} = diagnostic.position
    assert output =~ "mismatched types"

    assert File.read!(project.library) == content
  end

  test "says so when cargo fails before rustc runs", %{project: project} do
    cargo(project, "exit 101")

    assert {{:error, [diagnostic]}, _output} = compile(project)
    assert diagnostic.file == Path.join(project.dir, "Cargo.toml")
    assert diagnostic.message =~ "cargo failed"
  end

  # Answers to "still at work" by letting cargo end.
  defmodule WaitingShell do
    @behaviour Mix.Shell

    @impl true
    def info(message) do
      send(self(), {:said, message})
      {sentence, file} = Process.get(:go_on)
      if String.starts_with?(message, sentence), do: File.touch!(file)
      :ok
    end

    @impl true
    def error(message), do: info(message)
    @impl true
    def prompt(_message), do: ""
    @impl true
    def yes?(_message), do: false
    @impl true
    def yes?(_message, _options), do: false
    @impl true
    def cmd(_command), do: 0
    @impl true
    def cmd(_command, _options), do: 0
    @impl true
    def print_app, do: :ok
  end

  test "says that cargo is at work, and how far it is", %{project: project} do
    Mix.shell(WaitingShell)

    # Ends when it is told to. Nothing hangs if it never is.
    wait = fn sentence, name ->
      file = Path.join(project.dir, name)
      Process.put(:go_on, {sentence, file})
      "for i in $(seq 600); do [ -e #{file} ] && exit; sleep 0.1; done; exit 1"
    end

    cargo(project, wait.("Waiting for cargo for ", "first"))
    assert cargo_build(project) == {0, []}

    artifact = ~S(echo '{"reason":"compiler-artifact","fresh":false}')
    wait = wait.("Compiling the native library, crates done: 2", "second")
    cargo(project, "#{artifact}; #{artifact}; #{wait}")
    assert {0, [_first, _second]} = cargo_build(project)
    assert_received {:said, "Compiling the native library (cargo, profile release)" <> _}
  end

  defp cargo_build(project) do
    Cargo.build(project.dir, ["nif"],
      profile: "release",
      target_dir: project.dir,
      progress_interval: 200
    )
  end

  test "names the remedy when cargo is missing or too old", %{project: project} do
    put_env("CARGO", Path.join(project.dir, "no-cargo"))

    assert_raise Mix.Error, ~r/cargo was not found\. Install Rust 1\.91\.0 or newer/, fn ->
      compile(project)
    end

    cargo(project, "[ $1 = --version ] && echo 'cargo 1.63.0 (abc 2022-07-01)' && exit; exit 101")

    assert_raise Mix.Error, ~r/cargo 1\.63\.0 is too old.*Install Rust 1\.91\.0 or newer/, fn ->
      compile(project)
    end
  end

  test "cleans up", %{project: project} do
    compile(project)
    target_dir = in_project(project, fn -> Path.join(Mix.Project.app_path(), "native") end)
    assert File.exists?(target_dir)

    in_project(project, &Pkcs11PoolNif.clean/0)
    refute File.exists?(target_dir)
    refute File.exists?(Path.dirname(project.library))
    refute File.exists?(project.chaos)
  end

  # The compiler reads the library, which may change the time of the last access.
  defp stat(path), do: %{File.stat!(path) | atime: nil}
end
