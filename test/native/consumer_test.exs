defmodule Pkcs11Pool.ConsumerTest do
  # A Mix project that depends on this one by path, as a user's does, and a release of it.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.Test.{FileServer, SoftHSM}

  @moduletag :tmp_dir
  @moduletag :build
  @moduletag timeout: :timer.minutes(15)

  setup %{tmp_dir: dir} do
    write_project(dir, File.cwd!())

    write(dir, "lib/consumer.ex", ~S"""
    defmodule Consumer do
      use Application

      def start(_type, _args) do
        token = {:token_serial, System.fetch_env!("TOKEN_SERIAL")}

        pool =
          {Pkcs11Pool,
           name: Consumer.HSM,
           module: System.fetch_env!("TOKEN_MODULE"),
           module_env: %{"SOFTHSM2_CONF" => System.fetch_env!("TOKEN_CONF")},
           slot: token,
           pool_size: 2,
           pin: {:env, "TOKEN_PIN"}}

        Supervisor.start_link([pool], strategy: :one_for_one)
      end

      def sign_and_verify do
        id = :crypto.strong_rand_bytes(8)

        {public, private} =
          Pkcs11Pool.generate_key_pair!(
            Consumer.HSM,
            :rsa_pkcs_key_pair_gen,
            [token: true, id: id, modulus_bits: 2048, verify: true],
            [token: true, id: id, private: true, sensitive: true, sign: true]
          )

        signature = Pkcs11Pool.sign!(Consumer.HSM, private, :sha256_rsa_pkcs, "payment")
        :ok = Pkcs11Pool.verify(Consumer.HSM, public, :sha256_rsa_pkcs, "payment", signature)

        key = Pkcs11Pool.public_key!(Consumer.HSM, public)
        true = :public_key.verify("payment", :sha256, signature, key)
        IO.puts("signed and verified")
      end
    end
    """)

    token = SoftHSM.new_token!()

    env = %{
      "MIX_ENV" => "prod",
      "TOKEN_SERIAL" => token.serial,
      "TOKEN_MODULE" => token.module,
      "TOKEN_CONF" => token.module_env["SOFTHSM2_CONF"],
      "TOKEN_PIN" => token.pin,
      # Nothing that was built or downloaded for another project.
      "PKCS11_POOL_CACHE_DIR" => Path.join(dir, "cache"),
      # What the caller of this test may have set for this project must not reach the consumer.
      "PKCS11_POOL_BUILD" => nil,
      "PKCS11_POOL_PRECOMPILED" => nil,
      "PKCS11_POOL_CHECKSUMS" => nil,
      "PKCS11_POOL_CHAOS" => nil,
      "CARGO_BUILD_TARGET" => nil,
      "MIX_BUILD_PATH" => nil,
      "MIX_BUILD_ROOT" => nil,
      "MIX_DEPS_PATH" => nil,
      "MIX_EXS" => nil,
      "MIX_TARGET" => nil
    }

    # Cargo's work is shared with this project's own, which is as good as new: only a long run
    # does it all again.
    env =
      if System.get_env("PKCS11_POOL_LONG"),
        do: env,
        else: Map.put_new(env, "PKCS11_POOL_CARGO_TARGET_DIR", target_dir())

    %{env: env}
  end

  test "a project that depends on this one signs", %{tmp_dir: dir, env: env} do
    output = run!(dir, env, "mix", ["run", "-e", "Consumer.sign_and_verify()"])
    assert output =~ "signed and verified"

    # A second time there is nothing to compile.
    output = run!(dir, env, "mix", ["run", "-e", "Consumer.sign_and_verify()"])
    refute output =~ "Compiling"

    bench(dir, env)

    run!(dir, env, "mix", ["release", "--quiet", "--overwrite"])
    released = Path.join(dir, "_build/prod/rel/consumer/lib/pkcs11_pool-0.1.0")
    refute File.exists?(Path.join(released, "native"))
    # Nothing in production misbehaves on command.
    assert Path.wildcard(Path.join(released, "**/*.so")) |> Enum.map(&Path.basename/1) ==
             ["pkcs11_pool_nif.so"]

    code = "{:ok, _} = Application.ensure_all_started(:consumer); Consumer.sign_and_verify()"
    output = run!(dir, env, "_build/prod/rel/consumer/bin/consumer", ["eval", code])
    assert output =~ "signed and verified"

    doctor(dir, env)
  end

  test "a project goes from nothing to a verified signature by the guide's commands, as they are written",
       %{tmp_dir: dir, env: env} do
    assert [_all, commands] =
             Regex.run(~r/## From nothing.*?```sh\n(.*?)```/s, File.read!("guides/doctor.md"))

    # Where SoftHSM is elsewhere than in the guide.
    commands = String.replace(commands, "/usr/lib/softhsm/libsofthsm2.so", SoftHSM.module_path())
    write(dir, "quick_start.sh", commands)

    # A project that starts nothing.
    project = dir |> Path.join("mix.exs") |> File.read!()
    write(dir, "mix.exs", String.replace(project, "[mod: {Consumer, []}]", "[]"))

    {output, status} =
      System.cmd("sh", ["-eu", "quick_start.sh"], cd: dir, env: env, stderr_to_stdout: true)

    assert {status, output} == {0, output}
    assert output =~ ~s(Made the token "payments".)
    assert output =~ "All that was asked for works."
    assert output =~ "The signature is verified."
  end

  test "a project's tests have the chaos module, and its production is told how to get it", %{
    tmp_dir: dir,
    env: env
  } do
    code = ~S"""
    chaos = Pkcs11Pool.Testing.Chaos.start!(System.fetch_env!("TOKEN_MODULE"))
    IO.puts(Path.basename(chaos.module))
    """

    start = ["run", "--no-start", "-e", code]
    # MIX_ENV=dev is what Mix takes by default.
    dev = %{env | "MIX_ENV" => nil}
    assert run!(dir, dev, "mix", start) =~ "pkcs11_pool_chaos.so"

    assert {output, 1} = System.cmd("mix", start, cd: dir, env: env, stderr_to_stdout: true)

    assert output =~
             "run `PKCS11_POOL_CHAOS=1 mix deps.compile pkcs11_pool --force`"
  end

  test "a project on a machine without cargo takes the precompiled library from a server, and signs",
       %{
         tmp_dir: dir,
         env: env
       } do
    # What a package manager would put into deps/.
    package = Path.join(dir, "package")

    for file <- Mix.Project.config()[:package][:files] do
      File.mkdir_p!(Path.dirname(Path.join(package, file)))
      File.cp_r!(file, Path.join(package, file))
    end

    write_project(dir, package)
    path = without_cargo(System.fetch_env!("PATH"))
    env = Map.merge(env, %{"PATH" => path, "CARGO" => nil, "PKCS11_POOL_CARGO_TARGET_DIR" => nil})
    sign = ["run", "-e", "Consumer.sign_and_verify()"]

    # Neither of the two is there.
    {output, 1} = System.cmd(mix(), sign, cd: dir, env: env, stderr_to_stdout: true)
    assert output =~ "cargo was not found. Install Rust"
    assert output =~ "or name a place with precompiled libraries in PKCS11_POOL_PRECOMPILED"

    place = Path.join(dir, "place")
    publish(place, package)
    server = FileServer.start!(place)
    env = Map.put(env, "PKCS11_POOL_PRECOMPILED", server.url)
    output = run!(dir, env, "mix", sign)
    assert output =~ "Downloading #{server.url}/pkcs11_pool-"
    assert output =~ "signed and verified"
    assert [_once] = server.asked.()

    run!(dir, env, "mix", ["release", "--quiet", "--overwrite"])
    code = "{:ok, _} = Application.ensure_all_started(:consumer); Consumer.sign_and_verify()"
    output = run!(dir, env, "_build/prod/rel/consumer/bin/consumer", ["eval", code])
    assert output =~ "signed and verified"
    assert [_once] = server.asked.()
  end

  defp write_project(dir, dependency) do
    write(dir, "mix.exs", """
    defmodule Consumer.MixProject do
      use Mix.Project

      def project do
        [
          app: :consumer,
          version: "1.0.0",
          deps: [{:pkcs11_pool, path: #{inspect(dependency)}}]
        ]
      end

      def application, do: [mod: {Consumer, []}]
    end
    """)
  end

  # An archive of what this project has built, as script/package would make one, and its checksum in the package.
  defp publish(place, package) do
    File.mkdir_p!(place)
    target = Pkcs11Pool.Build.Precompiled.target()
    name = "pkcs11_pool-#{Mix.Project.config()[:version]}-#{target}.tar.gz"
    library = Application.app_dir(:pkcs11_pool, "priv/native/pkcs11_pool_nif.so")
    archive = Path.join(place, name)

    :ok =
      :erl_tar.create(
        to_charlist(archive),
        [{~c"pkcs11_pool_nif.so", File.read!(library)}],
        [:compressed]
      )

    sha256 = Base.encode16(:crypto.hash(:sha256, File.read!(archive)), case: :lower)
    write(package, "checksums.sha256", "#{sha256}  #{name}\n")
  end

  defp without_cargo(path) do
    path = path |> String.split(":") |> Enum.reject(&File.exists?(Path.join(&1, "cargo")))

    for command <- ["mix", "elixir", "erl", "sh"],
        do: assert(Enum.any?(path, &File.exists?(Path.join(&1, command))))

    Enum.join(path, ":")
  end

  # By `mix`, and by `eval` in the release.
  defp doctor(dir, env) do
    module = "--module #{env["TOKEN_MODULE"]} --module-env SOFTHSM2_CONF=#{env["TOKEN_CONF"]}"
    token = "--token-serial #{env["TOKEN_SERIAL"]}"
    arguments = "#{module} #{token} --login --pin-env TOKEN_PIN --json"
    release = "_build/prod/rel/consumer/bin/consumer"
    call = "Pkcs11Pool.Release.doctor(#{inspect(arguments)})"

    for {command, words} <- [
          {"mix", ["pkcs11_pool.doctor" | String.split(arguments)]},
          {release, ["eval", call]}
        ] do
      assert run!(dir, env, command, words) =~ ~s("verified_by_otp": true)
    end

    # A token of its own, and the specification of a pool on it.
    module = SoftHSM.new_module!()
    conf = SoftHSM.module_env(module)["SOFTHSM2_CONF"]
    module = "--module #{module} --module-env SOFTHSM2_CONF=#{conf} --token-label made"
    # Any variable is a PIN.
    arguments = "#{module} --so-pin-env TOKEN_CONF --pin-env TOKEN_PIN --key signing:p256"
    call = "Pkcs11Pool.Release.init(#{inspect(arguments)})"
    assert run!(dir, env, release, ["eval", call]) =~ ~s(Made the key "signing")
    call = "Pkcs11Pool.Release.gen_config(#{inspect(module)})"
    assert run!(dir, env, release, ["eval", call]) =~ ~s(slot: {:token_label, "made"})

    # The exit code is the command's.
    call = ~s|Pkcs11Pool.Release.doctor(["--module", "/none.so"])|
    options = [cd: dir, env: Map.to_list(env), stderr_to_stdout: true]
    assert {output, 1} = System.cmd(Path.join(dir, release), ["eval", call], options)
    assert output =~ "There is no file /none.so."
    # The boot files of a release that was not made by this Erlang's own installation are found.
    refute output =~ "could not be started"
  end

  # The project's application is not started for it: that would fail without its token.
  defp bench(dir, env) do
    module = [
      "--module",
      env["TOKEN_MODULE"],
      "--module-env",
      "SOFTHSM2_CONF=" <> env["TOKEN_CONF"]
    ]

    token = ["--token-serial", env["TOKEN_SERIAL"], "--pin-env", "TOKEN_PIN"]
    how = ["--make-keys", "--sessions", "1,2", "--seconds", "0.1"]
    env = %{env | "TOKEN_SERIAL" => nil}
    output = run!(dir, env, "mix", ["pkcs11_pool.bench" | module ++ token ++ how])
    assert output =~ "Recommended: pool_size"
    assert output =~ "Deleted the key pair"
  end

  defp run!(dir, env, command, args) do
    command = if command == "mix", do: mix(), else: Path.join(dir, command)

    # A question must find the end of the input rather than wait for an answer.
    args = ["-c", ~s(exec "$0" "$@" </dev/null), command | args]

    case System.cmd("sh", args, cd: dir, env: env, stderr_to_stdout: true) do
      {output, 0} ->
        output

      {output, status} ->
        flunk("#{command} exited with #{status}:\n#{output}")
    end
  end

  defp mix, do: System.find_executable("mix")

  defp target_dir do
    System.get_env("PKCS11_POOL_CARGO_TARGET_DIR") || Path.join(Mix.Project.app_path(), "native")
  end

  defp write(dir, path, content) do
    path = Path.join(dir, path)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, content)
  end
end
