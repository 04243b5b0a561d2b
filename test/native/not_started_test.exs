defmodule Pkcs11Pool.NotStartedTest do
  # A script that has the library and has not started its application, in a VM of its own.
  use ExUnit.Case, async: true

  @moduletag timeout: 120_000

  @script ~S"""
  Process.flag(:trap_exit, true)
  options = [name: :hsm, module: "/none.so", slot: {:slot_id, 1}]

  for call <- [
        fn -> Pkcs11Pool.start_link(options) end,
        fn -> Supervisor.start_link([{Pkcs11Pool, options}], strategy: :one_for_one) end,
        fn -> Pkcs11Pool.sign(:hsm, "key", :ecdsa, "data") end,
        fn -> Pkcs11Pool.with_session(:hsm, fn -> :ok end) end,
        fn -> Pkcs11Pool.await_ready(:hsm, 10) end,
        fn -> Pkcs11Pool.Health.check(:hsm) end
      ] do
    IO.puts("answer: " <> String.replace(inspect(call.(), width: :infinity), "\n", " "))
  end
  """

  test "a pool, and a call of one, say in one sentence that the application is not started" do
    ebin = Path.dirname(to_string(:code.which(Pkcs11Pool)))

    {output, status} =
      System.cmd(System.find_executable("elixir"), ["-pa", ebin, "-e", @script],
        stderr_to_stdout: true
      )

    assert status == 0, output
    answers = output |> String.split("\n") |> Enum.filter(&String.starts_with?(&1, "answer: "))
    assert length(answers) == 6, output

    for answer <- answers do
      assert answer =~ ":application_not_started"
      assert answer =~ "pool :hsm: the application :pkcs11_pool is not running"
      assert answer =~ "Application.ensure_all_started(:pkcs11_pool)"
    end
  end
end
