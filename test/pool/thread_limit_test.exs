defmodule Pkcs11Pool.ThreadLimitTest do
  # A VM of its own, whose system gives it no more threads.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.SoftHSM

  @moduletag timeout: 120_000

  # Threads with large stacks reach the limit long before anything else does.
  @env [{"RUST_MIN_STACK", "#{256 * 1_048_576}"}, {"MALLOC_ARENA_MAX", "1"}]

  @script ~S"""
  [pool] = System.argv()
  {pool, []} = Code.eval_string(pool)
  {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)
  {:ok, _supervisor} = Pkcs11Pool.start_link(pool)
  :ok = Pkcs11Pool.await_ready(pool[:name], 60_000)

  limit = fn bytes -> {_, 0} = System.cmd("prlimit", ["--pid", System.pid(), "--as=#{bytes}"]) end
  [_, kilobytes] = Regex.run(~r/VmSize:\s+(\d+) kB/, File.read!("/proc/self/status"))
  limit.("#{String.to_integer(kilobytes) * 1_024 + 700 * 1_048_576}:")
  :ok = Pkcs11Pool.resize(pool[:name], 64)
  limit.("unlimited:")

  {:ok, _bytes} = Pkcs11Pool.generate_random(pool[:name], 8)
  Logger.flush()
  IO.puts("done")
  """

  if System.find_executable("prlimit") == nil, do: @moduletag(skip: "needs prlimit")

  test "threads that the system refuses are told of in one line, and the others serve" do
    script = Path.join(SoftHSM.dir(), "threads-#{System.unique_integer([:positive])}.exs")
    File.write!(script, @script)
    token = SoftHSM.new_token!()
    pool = SoftHSM.pool_opts(token, pool_size: 1, executor: :threads, pin: nil)
    paths = :code.get_path() |> Enum.map(&List.to_string/1) |> Enum.filter(&(&1 =~ "_build"))
    arguments = Enum.flat_map(paths, &["-pa", &1]) ++ [script, inspect(pool, limit: :infinity)]
    options = [env: @env, stderr_to_stdout: true]
    {output, status} = System.cmd(System.find_executable("elixir"), arguments, options)
    assert {output =~ "done", status} == {true, 0}, output
    assert [[_line, refused]] = Regex.scan(~r/the system refuses (\d+) of 63 threads/, output)
    assert String.to_integer(refused) in 2..63
  end
end
