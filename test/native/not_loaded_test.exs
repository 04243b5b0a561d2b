defmodule Pkcs11Pool.NotLoadedTest do
  # A release whose native library cannot be loaded: it is built for another system, or missing. In a VM of its own, with the library's code in a place
  # where no native library is.
  use ExUnit.Case, async: true

  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  @script ~S"""
  Process.flag(:trap_exit, true)
  {:ok, _} = Application.ensure_all_started(:pkcs11_pool)
  defmodule Secrets, do: def(pin(pin), do: pin)
  place = [module: "/none.so", module_env: %{"API_KEY" => "hunter2"}, module_args: "hunter2"]
  pin = {Secrets, :pin, ["hunter2"]}
  options = [name: :hsm, pin: pin, slot: {:slot_id, 1}] ++ place
  show = fn what -> IO.puts("answer: " <> inspect(what, limit: :infinity, structs: false)) end

  for call <- [
        fn -> Pkcs11Pool.start_link(options) end,
        fn -> Supervisor.start_link([{Pkcs11Pool, options}], strategy: :one_for_one) end,
        fn -> Pkcs11Pool.Token.list(place) end,
        fn -> Pkcs11Pool.Token.init([slot: {:slot_id, 1}] ++ place, "label", pin) end
      ] do
    try do
      show.(call.())
    catch
      kind, reason -> show.({:raised, kind, reason, __STACKTRACE__})
    end
  end
  """

  test "every call says so, and no stack trace shows an argument", %{tmp_dir: dir} do
    ebin = Path.join([dir, "pkcs11_pool", "ebin"])
    File.mkdir_p!(Path.dirname(ebin))
    File.cp_r!(Path.dirname(to_string(:code.which(Pkcs11Pool))), ebin)
    script = Path.join(dir, "script.exs")
    File.write!(script, @script)
    args = ["--logger-sasl-reports", "true", "-pa", ebin, script]

    {output, status} = System.cmd(System.find_executable("elixir"), args, stderr_to_stdout: true)

    assert status == 0, output
    refute output =~ "hunter2"
    answers = output |> String.split("\n") |> Enum.filter(&String.starts_with?(&1, "answer: "))
    assert length(answers) == 4
    for answer <- answers, do: assert(answer =~ "the native library of pkcs11_pool is not loaded")
    # The VM itself has said why.
    assert output =~ "pkcs11_pool_nif"
  end
end
