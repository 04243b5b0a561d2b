defmodule Pkcs11Pool.SecretTest do
  # A PIN that is typed at a terminal: util-linux's `script` makes one.
  use ExUnit.Case, async: true

  @moduletag timeout: 120_000
  @script System.find_executable("script")
  @moduletag skip: if(@script == nil, do: "there is no script(1) here", else: false)

  # Echo comes back a moment after the VM has ended.
  @afterwards "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do " <>
                "if stty -a | grep -q ' -echo '; then sleep 1; else echo; echo 'the echo is on'; exit; fi; done"

  @ask ~S"""
  IO.puts("pid #{System.pid()}.")
  result = Pkcs11Pool.CommandLine.Secret.ask("PIN: ")
  IO.puts("typed: #{inspect(:erlang.phash2(result))}.")
  """

  defp terminal do
    command =
      "#{System.find_executable("elixir")} -pa #{Application.app_dir(:pkcs11_pool, "ebin")}"

    file =
      Path.join(Pkcs11Pool.Test.SoftHSM.dir(), "ask-#{System.unique_integer([:positive])}.exs")

    File.write!(file, @ask)
    args = ["-qec", "#{command} #{file}; #{@afterwards}", "/dev/null"]
    Port.open({:spawn_executable, @script}, [:binary, :exit_status, args: args])
  end

  # What the terminal shows, until it has this, or until its end.
  defp shown(port, until, text \\ "") do
    if until != :end and text =~ until do
      text
    else
      receive do
        {^port, {:data, data}} -> shown(port, until, text <> data)
        {^port, {:exit_status, _status}} -> text
      after
        60_000 -> flunk("the terminal shows: #{text}")
      end
    end
  end

  test "is returned, is not shown, and leaves the terminal as it was" do
    port = terminal()
    before = shown(port, "PIN: ")
    Port.command(port, "271828\n")
    text = before <> shown(port, :end)
    assert text =~ "typed: #{:erlang.phash2({:ok, "271828"})}."
    refute text =~ "271828"
    assert text =~ "the echo is on"
  end

  test "nothing typed is none" do
    port = terminal()
    shown(port, "PIN: ")
    Port.command(port, "\n")
    assert shown(port, :end) =~ "typed: #{:erlang.phash2(:none)}."
  end

  test "the echo comes back if the VM is killed meanwhile" do
    port = terminal()
    assert [_all, pid] = Regex.run(~r/pid (\d+)\./, shown(port, "PIN: "))
    {_, 0} = System.cmd("kill", ["-KILL", pid])
    assert shown(port, :end) =~ "the echo is on"
  end
end
