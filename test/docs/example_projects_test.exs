defmodule Pkcs11Pool.ExampleProjectsTest do
  # The projects in examples/, as a reader runs them.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.Test.Poll

  @moduletag :tmp_dir
  @moduletag :build
  @moduletag timeout: :timer.minutes(15)

  # What the caller of this test may have set for this project must not reach theirs.
  defp env(dir) do
    # Cargo's work is shared with this project's own.
    target =
      System.get_env("PKCS11_POOL_CARGO_TARGET_DIR") ||
        Path.join(Mix.Project.app_path(), "native")

    [
      {"MIX_ENV", "dev"},
      {"MIX_BUILD_PATH", Path.join(dir, "build")},
      {"MIX_EXS", nil},
      {"MIX_TARGET", nil},
      {"PKCS11_POOL_CARGO_TARGET_DIR", target}
    ]
  end

  test "the signing service signs payments, each of which is verified", %{tmp_dir: dir} do
    {output, status} =
      System.cmd("mix", ["run", "-e", "SigningService.demo"],
        cd: "examples/signing_service",
        env: env(dir),
        stderr_to_stdout: true
      )

    assert {status, output} == {0, output}
    assert output =~ "64 payments signed and verified"
  end

  unless Pkcs11Pool.OTP.supported?(),
    do: @tag(skip: "keys of :ssl can be on a token from OTP 27 on")

  test "curl gets the page of the HTTPS server, and trusts its certificate", %{tmp_dir: dir} do
    ca = Path.join(dir, "ca.pem")
    env = [{"PORT", "0"}, {"CA_FILE", ca} | env(dir)]

    env =
      for {name, value} <- env,
          do: {String.to_charlist(name), if(value, do: String.to_charlist(value), else: false)}

    # Its standard input ends with this process, and so does it.
    port =
      Port.open({:spawn_executable, System.find_executable("sh")}, [
        :binary,
        :stderr_to_stdout,
        line: 1000,
        cd: "examples/https",
        env: env,
        args: ["-c", "mix run --no-halt & pid=$!; read -r _; kill $pid"]
      ])

    number = listening(port, "")

    assert {"Hello, the key of this server is on a token.\n", 0} =
             System.cmd("curl", [
               "--silent",
               "--show-error",
               "--cacert",
               ca,
               "https://localhost:#{number}/"
             ])

    Port.command(port, "end\n")
    Poll.until(fn -> Port.info(port) == nil end, 30_000)
  end

  defp listening(port, output) do
    receive do
      {^port, {:data, {:eol, line}}} ->
        case Regex.run(~r"listening on https://localhost:(\d+)/", line, capture: :all_but_first) do
          [number] -> number
          nil -> listening(port, output <> line <> "\n")
        end
    after
      600_000 -> flunk("the server does not listen: #{output}")
    end
  end
end
