defmodule Pkcs11Pool.SeparateVMTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.SeparateVM
  alias Pkcs11Pool.Test.{Jobs, Poll}

  @moduletag timeout: 300_000
  @limit 120_000

  defp run(what, limit \\ @limit, env \\ %{}), do: SeparateVM.run({Jobs, what}, limit, env)

  test "a job tells terms, in order, and is done" do
    terms = [:one, %{two: <<0, 255>>}, {:step, :last, "end"}, [3.0]]
    result = run({:tell, terms})
    assert %{outcome: :done, told: [:one, %{two: <<0, 255>>}, [3.0]], output: ""} = result
    refute_received _anything
  end

  test "a VM that a signal ends leaves what was told, and the step in which it was" do
    for {signal, number} <- [{"SEGV", 11}, {"ABRT", 6}, {"KILL", 9}] do
      result = run({:kill, signal})
      assert result.outcome == {:signal, number}
      assert result.step == {:second, "do the second thing"}
      assert result.told == [:before]
    end
  end

  test "a VM that is ended with a code is not taken for one that is done, not even with 0" do
    for status <- [0, 5],
        do: assert(%{outcome: {:exit, ^status}, step: {:second, _}} = run({:exit, status}))
  end

  test "a step that takes too long ends the other VM" do
    # The limit of a step is not that of the VM's start.
    result = run(:hang, 1_000)
    assert result.outcome == {:hung, 1_000}
    assert {:second, _text} = result.step
    assert [{:pid, pid}] = result.told
    Poll.until(fn -> not File.exists?("/proc/#{pid}") end)
  end

  test "the other VM ends when whoever started it is gone" do
    own = self()

    {starter, monitor} =
      spawn_monitor(fn ->
        # The starter waits in `run`; what it is told comes here by its mailbox's trace.
        :erlang.trace(self(), true, [:receive, {:tracer, own}])
        run(:hang)
      end)

    pid = traced_pid()
    Process.exit(starter, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^starter, :killed}, 60_000
    Poll.until(fn -> not File.exists?("/proc/#{pid}") end)
  end

  defp traced_pid do
    receive do
      {:trace, _pid, :receive, {_port, {:data, packet}}} ->
        case :erlang.binary_to_term(packet) do
          {:tell, {:pid, pid}} -> pid
          _other -> traced_pid()
        end

      {:trace, _pid, :receive, _other} ->
        traced_pid()
    after
      120_000 -> flunk("the other VM did not start")
    end
  end

  test "a job that raises is a failure of ours, which shows no value" do
    result = run({:raise, "271828"})
    assert result.outcome == :failed
    assert result.failure =~ "RuntimeError in Pkcs11Pool.Test.Jobs.run/2"
    refute inspect(result) =~ "271828"
  end

  test "what is written is told up to the step that has the PIN" do
    result = run(:write)
    assert result.outcome == :done
    assert result.output =~ "to the output"
    assert result.output =~ "to the error[31m"
    refute inspect(result) =~ "271828"
  end

  @tag :tmp_dir
  test "what a job is given is neither on its command line nor in its environment", %{
    tmp_dir: dir
  } do
    file = Path.join(dir, "seen-314159")
    assert %{outcome: :done} = run({:look, file})
    assert {:ok, seen} = File.read(file)
    assert seen =~ "erlexec" or seen =~ "beam"
    refute seen =~ "314159"
  end

  test "it has its variables from its start, and no flags of this VM's" do
    System.put_env("ERL_FLAGS", "-some_flag_of_this_vm yes")
    on_exit(fn -> System.delete_env("ERL_FLAGS") end)
    names = ["SEPARATE_VM_TEST", "ERL_FLAGS", "ERL_CRASH_DUMP_SECONDS"]

    assert %{told: [["a value", nil, "0"]]} =
             run({:environment, names}, @limit, %{"SEPARATE_VM_TEST" => "a value"})
  end

  test "nothing of it is left in the temporary folder" do
    assert %{outcome: :done, told: [output]} = run(:output)
    refute File.exists?(Path.dirname(output))
  end
end
