defmodule Pkcs11Pool.PrecompiledTest do
  # The Mix compiler takes libraries that were built before. It is run in a project of its own, which means another working directory for the whole VM.
  use ExUnit.Case, async: false

  import Pkcs11Pool.Test.BuildProject

  alias Pkcs11Pool.Build.{Download, Precompiled}
  alias Pkcs11Pool.Test.{BuildProject, FileServer}

  @moduletag :tmp_dir
  @moduletag :build

  @target Precompiled.rust_name(to_string(:erlang.system_info(:system_architecture)))
  @archive "pkcs11_pool-1.0.0-#{@target}.tar.gz"

  setup %{tmp_dir: dir} do
    project = BuildProject.new!(dir)
    # Where cargo must not run, it would be noticed.
    cargo(project, "echo cargo was run >&2; exit 101")
    place = Path.join(dir, "place")
    publish(place, %{"pkcs11_pool_nif.so" => "nif", "pkcs11_pool_chaos.so" => "chaos"})
    put_env("PKCS11_POOL_CHECKSUMS", Path.join(place, "checksums.sha256"))
    %{project: project, place: place}
  end

  test "a library is taken from a folder, and the archive is opened once", %{
    project: project,
    place: place
  } do
    put_env("PKCS11_POOL_PRECOMPILED", place)
    assert {{:ok, []}, ""} = compile(project)
    assert_received {:mix_shell, :info, ["Took the native library from " <> _]}
    assert File.read!(project.library) == "nif"
    assert File.read!(project.chaos) == "chaos"

    # The VM looks for it where Mix has linked it to.
    app_path = in_project(project, &Mix.Project.app_path/0)
    assert File.regular?(Path.join(app_path, "priv/native/pkcs11_pool_nif.so"))

    File.rename!(Path.join(place, @archive), Path.join(place, "away"))
    assert {{:noop, []}, ""} = compile(project)

    File.rename!(Path.join(place, "away"), Path.join(place, @archive))
    File.rm!(project.library)
    assert {{:ok, []}, ""} = compile(project)
    assert File.read!(project.library) == "nif"

    # Another archive: the list says so.
    publish(place, %{"pkcs11_pool_nif.so" => "newer", "pkcs11_pool_chaos.so" => "chaos"})
    assert {{:ok, []}, ""} = compile(project)
    assert File.read!(project.library) == "newer"
  end

  test "nothing that misbehaves on command is taken for production", %{
    project: project,
    place: place
  } do
    put_env("PKCS11_POOL_PRECOMPILED", place)
    compile_in(project, :prod)
    assert priv(project) == ["pkcs11_pool_nif.so"]
    refute File.exists?(in_build(project, :prod))

    compile_in(project, :dev)
    assert priv(project) == ["pkcs11_pool_nif.so"]
    assert File.read!(in_build(project, :dev)) == "chaos"
  end

  test "one archive may be named, and file:// is a path", %{project: project, place: place} do
    File.rename!(Path.join(place, @archive), Path.join(place, "mine.tar.gz"))
    list(place, "mine.tar.gz")

    put_env("PKCS11_POOL_PRECOMPILED", "file://" <> Path.join(place, "mine.tar.gz"))
    assert {{:ok, []}, ""} = compile(project)
    assert File.read!(project.library) == "nif"
  end

  test "an archive is downloaded once for all projects", %{project: project, place: place} do
    server = FileServer.start!(place)
    put_env("PKCS11_POOL_PRECOMPILED", server.url <> "/")
    url = "#{server.url}/#{@archive}"
    assert {{:ok, []}, ""} = compile(project)
    assert_received {:mix_shell, :info, ["Downloading " <> ^url]}
    assert File.read!(project.library) == "nif"
    assert server.asked.() == ["/" <> @archive]

    # As if for another project.
    in_project(project, &Mix.Tasks.Compile.Pkcs11PoolNif.clean/0)
    refute File.exists?(project.library)
    assert {{:ok, []}, ""} = compile(project)
    assert File.read!(project.library) == "nif"
    assert length(server.asked.()) == 1

    # What was kept is checked each time.
    in_project(project, &Mix.Tasks.Compile.Pkcs11PoolNif.clean/0)
    [kept] = Path.wildcard(Path.join(project.dir, "cache/**/#{@archive}"))
    File.write!(kept, "changed")
    assert {{:ok, []}, ""} = compile(project)
    assert File.read!(project.library) == "nif"
    assert length(server.asked.()) == 2
  end

  test "an archive whose checksum is another is refused, and what was there stays", %{
    project: project,
    place: place
  } do
    put_env("PKCS11_POOL_PRECOMPILED", place)
    compile(project)

    good = File.read!(Path.join(place, @archive))

    publish(place, %{"pkcs11_pool_nif.so" => "evil", "pkcs11_pool_chaos.so" => "evil"},
      list: false
    )

    evil = File.read!(Path.join(place, @archive))
    File.rm!(project.library)

    message = catch_error(compile(project)).message
    assert message =~ "is refused: its SHA-256 is #{sha256(evil)}"
    assert message =~ "says #{sha256(good)}"
    assert message =~ "PKCS11_POOL_BUILD=1"
    refute File.exists?(project.library)

    server = FileServer.start!(place)
    put_env("PKCS11_POOL_PRECOMPILED", server.url)
    assert catch_error(compile(project)).message =~ "is refused"
    refute File.exists?(project.library)

    # What was refused was not kept.
    File.write!(Path.join(place, @archive), good)
    assert {{:ok, []}, ""} = compile(project)
    assert File.read!(project.library) == "nif"
  end

  test "without a list of checksums nothing is taken", %{project: project, place: place} do
    put_env("PKCS11_POOL_PRECOMPILED", place)
    put_env("PKCS11_POOL_CHECKSUMS", nil)

    assert_raise Mix.Error,
                 ~r/no precompiled library without its checksum, and the list .*checksums\.sha256 cannot be read \(no such file/,
                 fn -> compile(project) end

    # By default it is the package's own.
    File.cp!(Path.join(place, "checksums.sha256"), Path.join(project.dir, "checksums.sha256"))
    assert {{:ok, []}, ""} = compile(project)
  end

  test "cargo builds where the list has nothing for this system, and where it is asked to", %{
    project: project,
    place: place
  } do
    put_env("CARGO", nil)
    put_env("PKCS11_POOL_PRECOMPILED", place)

    put_env("PKCS11_POOL_BUILD", "1")
    assert {{:ok, []}, ""} = compile(project)
    assert <<0x7F, _::binary>> = File.read!(project.library)
    put_env("PKCS11_POOL_BUILD", nil)

    File.rm!(project.library)
    File.write!(Path.join(place, "checksums.sha256"), "")
    assert {{:ok, []}, ""} = compile(project)
    assert_received {:mix_shell, :info, ["No precompiled library of pkcs11_pool fits: " <> why]}
    assert why =~ "has no #{@archive}"
    assert <<0x7F, _::binary>> = File.read!(project.library)
  end

  test "where neither cargo nor a precompiled library is there, one message names both", %{
    project: project
  } do
    put_env("CARGO", Path.join(project.dir, "no-cargo"))
    message = catch_error(compile(project)).message
    assert message =~ "cargo was not found. Install Rust 1.91.0 or newer"
    assert message =~ "or name a place with precompiled libraries in PKCS11_POOL_PRECOMPILED"
  end

  test "CARGO_BUILD_TARGET chooses the system, the environment goes before the configuration", %{
    project: project,
    place: place
  } do
    Application.put_env(:pkcs11_pool, :precompiled, place)
    Application.put_env(:pkcs11_pool, :precompiled_checksums, Path.join(place, "other.sha256"))

    on_exit(fn ->
      Application.delete_env(:pkcs11_pool, :precompiled)
      Application.delete_env(:pkcs11_pool, :precompiled_checksums)
    end)

    other = "pkcs11_pool-1.0.0-aarch64-unknown-linux-musl.tar.gz"
    write_archive(place, other, %{"pkcs11_pool_nif.so" => "arm", "pkcs11_pool_chaos.so" => "arm"})
    list(place, other, "other.sha256")
    put_env("PKCS11_POOL_CHECKSUMS", nil)
    put_env("CARGO_BUILD_TARGET", "aarch64-unknown-linux-musl")
    assert {{:ok, []}, ""} = compile(project)
    assert File.read!(project.library) == "arm"

    put_env("CARGO_BUILD_TARGET", nil)
    put_env("PKCS11_POOL_CHECKSUMS", Path.join(place, "checksums.sha256"))
    put_env("PKCS11_POOL_PRECOMPILED", place)
    Application.put_env(:pkcs11_pool, :precompiled, "/nowhere")
    assert {{:ok, []}, ""} = compile(project)
    assert File.read!(project.library) == "nif"
  end

  test "a place that cannot be meant so is refused", %{project: project} do
    put_env("PKCS11_POOL_PRECOMPILED", "vendor/archives")

    assert_raise Mix.Error, ~r/an absolute path, and is "vendor\/archives"/, fn ->
      compile(project)
    end

    put_env("PKCS11_POOL_PRECOMPILED", "https://me:hunter2@files.example.com")
    error = catch_error(compile(project))
    assert error.message =~ "must not have a user and password"
    refute error.message =~ "hunter2"
  end

  test "what cannot be had is said in words", %{project: project, place: place} do
    server = FileServer.start!(place)
    put_env("PKCS11_POOL_PRECOMPILED", server.url <> "/elsewhere")

    assert_raise Mix.Error, ~r/could not be downloaded from .*: HTTP 404\./, fn ->
      compile(project)
    end

    # A port on which nobody listens: it was free a moment ago.
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :gen_tcp.close(socket)
    put_env("PKCS11_POOL_PRECOMPILED", "http://127.0.0.1:#{port}")

    assert_raise Mix.Error, ~r/could not be downloaded from .*: connection refused\./, fn ->
      compile(project)
    end

    put_env("PKCS11_POOL_PRECOMPILED", Path.join(place, "elsewhere"))

    assert_raise Mix.Error, ~r/cannot be read: .*: no such file or directory\./, fn ->
      compile(project)
    end

    File.write!(Path.join(place, @archive), "no archive")
    list(place, @archive)
    put_env("PKCS11_POOL_PRECOMPILED", place)
    assert_raise Mix.Error, ~r/is no archive of pkcs11_pool's/, fn -> compile(project) end

    publish(place, %{"README" => "nothing else"})
    assert_raise Mix.Error, ~r/has no pkcs11_pool_/, fn -> compile(project) end
  end

  test "a server by HTTPS must be who it says", %{project: project, place: place, tmp_dir: dir} do
    {authority, tls} = certificates("localhost")
    server = FileServer.start!(place, tls: tls)
    put_env("PKCS11_POOL_PRECOMPILED", server.url)

    # The system knows nothing of the authority.
    assert_raise Mix.Error, ~r/TLS refuses the server \(unknown_ca\)/, fn -> compile(project) end
    assert server.asked.() == []

    write(
      dir,
      "authority.pem",
      :public_key.pem_encode([{:Certificate, authority, :not_encrypted}])
    )

    put_env("PKCS11_POOL_CACERTS", Path.join(dir, "authority.pem"))
    assert {{:ok, []}, ""} = compile(project)
    assert File.read!(project.library) == "nif"

    # Right authority, another name.
    url = "https://127.0.0.1:#{server.port}/#{@archive}"
    assert {:error, "TLS refuses the server (" <> _} = Download.get(url)

    write(dir, "authority.pem", "nothing")
    assert {:error, "PKCS11_POOL_CACERTS names no file" <> _} = Download.get(url)
  end

  test "systems have the names that Rust gives them" do
    for {system, name} <- %{
          "x86_64-pc-linux-gnu" => "x86_64-unknown-linux-gnu",
          "x86_64-unknown-linux-gnu" => "x86_64-unknown-linux-gnu",
          "x86_64-alpine-linux-musl" => "x86_64-unknown-linux-musl",
          "x86_64-pc-linux-musl" => "x86_64-unknown-linux-musl",
          "aarch64-unknown-linux-gnu" => "aarch64-unknown-linux-gnu",
          "aarch64-alpine-linux-musl" => "aarch64-unknown-linux-musl",
          "aarch64-apple-darwin23.4.0" => "aarch64-apple-darwin",
          "x86_64-apple-darwin23" => "x86_64-apple-darwin",
          # No archive has such a name: cargo is asked.
          "armv7l-unknown-linux-gnueabihf" => "armv7l-unknown-linux-gnueabihf",
          "x86_64-unknown-freebsd14.0" => "x86_64-unknown-freebsd14.0"
        },
        do: assert(Precompiled.rust_name(system) == name)
  end

  # An archive for this system, and the list of checksums.
  defp publish(place, files, opts \\ []) do
    write_archive(place, @archive, files)
    if Keyword.get(opts, :list, true), do: list(place, @archive)
  end

  defp write_archive(place, name, files) do
    File.mkdir_p!(place)
    files = for {name, content} <- files, do: {to_charlist(name), content}
    :ok = :erl_tar.create(to_charlist(Path.join(place, name)), files, [:compressed])
  end

  defp list(place, name, list \\ "checksums.sha256") do
    sha256 = place |> Path.join(name) |> File.read!() |> sha256()
    other = String.duplicate("0", 64) <> "  another.tar.gz\n"
    File.write!(Path.join(place, list), other <> "#{sha256}  #{name}\n")
  end

  defp sha256(content), do: Base.encode16(:crypto.hash(:sha256, content), case: :lower)

  # A server's certificate for that name, and the authority that has signed it.
  defp certificates(name) do
    # OTP's own choice of a digest is one that a newer TLS refuses.
    signed = [digest: :sha256, key: {:namedCurve, :secp256r1}]
    san = {:Extension, {2, 5, 29, 17}, false, [{:dNSName, to_charlist(name)}]}
    server = %{root: signed, intermediates: [], peer: signed ++ [extensions: [san]]}
    client = %{root: signed, intermediates: [], peer: signed}
    chains = %{server_chain: server, client_chain: client}
    %{server_config: config, client_config: client_config} = :public_key.pkix_test_data(chains)

    # The authority is among those that the client is to trust.
    [authority | _rest] = trusted_by(config[:cert], client_config[:cacerts])
    {authority, Keyword.take(config, [:cert, :key])}
  end

  defp trusted_by(cert, cacerts) do
    Enum.filter(cacerts, &:public_key.pkix_is_issuer(cert, &1))
  end
end
