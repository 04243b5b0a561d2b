defmodule Pkcs11Pool.KeptBuildsTest do
  # What was built once need not be built again for the next project. The Mix compiler is run in projects of its own, which means another working directory for the
  # whole VM.
  use ExUnit.Case, async: false

  import Pkcs11Pool.Test.BuildProject

  alias Pkcs11Pool.Test.BuildProject

  @moduletag :tmp_dir
  @moduletag :build

  setup %{tmp_dir: dir} do
    first = BuildProject.new!(Path.join(dir, "first"))
    second = BuildProject.new!(Path.join(dir, "second"))
    put_env("PKCS11_POOL_CACHE_DIR", Path.join(dir, "cache"))
    %{first: first, second: second}
  end

  test "a second project of the same sources takes what the first has built", %{
    first: first,
    second: second
  } do
    assert {{:ok, []}, ""} = compile(first)
    without_cargo(second)
    assert {{:ok, []}, ""} = compile(second)
    assert_received {:mix_shell, :info, ["Took the native library that was built before" <> _]}
    assert File.read!(second.library) == File.read!(first.library)
    assert File.read!(second.chaos) == File.read!(first.chaos)
    assert {{:noop, []}, ""} = compile(second)
  end

  test "other sources, another profile or another environment are built", %{
    first: first,
    second: second
  } do
    compile(first)
    without_cargo(second)

    put_env("PKCS11_POOL_CARGO_PROFILE", "dev")
    assert {{:error, [_]}, _} = compile(second)
    put_env("PKCS11_POOL_CARGO_PROFILE", nil)

    put_env("RUSTFLAGS", "-Copt-level=1")
    assert {{:error, [_]}, _} = compile(second)
    put_env("RUSTFLAGS", nil)

    put_env("PKCS11_POOL_BUILD", "1")
    assert {{:error, [_]}, _} = compile(second)
    put_env("PKCS11_POOL_BUILD", nil)

    source = File.read!(second.source)
    rust(second, "pub extern \"C\" fn two() -> i32 { 2 }")
    assert {{:error, [_]}, _} = compile(second)

    File.write!(second.source, source)
    assert {{:ok, []}, ""} = compile(second)
  end

  test "where cargo has worked before, it decides", %{first: first} do
    compile(first)
    without_cargo(first)
    assert {{:error, [_]}, _} = compile(first)
  end

  test "a production build keeps no chaos module, and one for tests is built", %{
    first: first,
    second: second
  } do
    compile_in(first, :prod)
    without_cargo(second)
    assert {{:ok, []}, ""} = compile_in(second, :prod)
    assert priv(second) == ["pkcs11_pool_nif.so"]
    assert {{:error, [_]}, _} = compile_in(second, :dev)
  end

  # As some containers have it. Mix itself wants MIX_HOME then.
  test "a user without a home folder can build, too", %{tmp_dir: dir, first: first} do
    write_own_project(first)
    cargo(first, "echo cargo was run >&2; exit 101")

    env = %{
      "HOME" => nil,
      "CARGO_HOME" => nil,
      "PKCS11_POOL_CACHE_DIR" => nil,
      "MIX_HOME" => dir,
      "MIX_BUILD_PATH" => nil
    }

    mix = System.find_executable("mix")

    assert {output, 1} =
             System.cmd(mix, ["compile"], cd: first.dir, env: env, stderr_to_stdout: true)

    assert output =~ "cargo was run"
  end

  test "only the newest builds are kept", %{tmp_dir: dir, first: first} do
    for number <- 1..7 do
      rust(first, "#[unsafe(no_mangle)] pub extern \"C\" fn n() -> i32 { #{number} }")
      assert {{:ok, []}, ""} = compile(first)
    end

    assert length(Path.wildcard(Path.join(dir, "cache/builds/*"))) == 5
  end

  # A script of its own, as a user starts it, with another folder of installations: Mix knows nothing of the first one.
  test "Mix.install does not build again what is there", %{
    tmp_dir: dir,
    first: first,
    second: second
  } do
    Enum.each([first, second], &write_own_project/1)

    assert install(dir, "one", first) =~ "Compiling the native library"

    without_cargo(second)
    output = install(dir, "two", second)
    assert output =~ "Took the native library that was built before"
    refute output =~ "Compiling the native library"
    assert File.read!(second.library) == File.read!(first.library)
  end

  # One that Mix can compile without this test's VM.
  defp write_own_project(project) do
    files = Path.wildcard(Path.expand("mix/*.ex"))

    write(project.dir, "mix.exs", """
    Code.compiler_options(ignore_module_conflict: true)
    Kernel.ParallelCompiler.require(#{inspect(files)})

    defmodule #{inspect(__MODULE__)}.Small do
      use Mix.Project
      def project, do: [app: :small, version: "1.0.0", compilers: [:pkcs11_pool_nif] ++ Mix.compilers()]
    end
    """)
  end

  defp install(dir, folder, project) do
    script = "Mix.install([{:small, path: #{inspect(project.dir)}}])"

    env = %{
      "MIX_INSTALL_DIR" => Path.join(dir, folder),
      "MIX_ENV" => nil,
      "MIX_BUILD_PATH" => nil
    }

    elixir = System.find_executable("elixir")
    {output, status} = System.cmd(elixir, ["-e", script], env: env, stderr_to_stdout: true)
    assert status == 0, output
    output
  end

  # A cargo that cannot build anything.
  defp without_cargo(project), do: cargo(project, "exit 101")
end
