defmodule Pkcs11Pool.CommandLine.Secret do
  @moduledoc false
  # Asks somebody at a terminal for a PIN, which is not shown while it is typed.

  # A shell of its own turns the echo off, and on again when it is told to or when this VM is gone, however it ends. It has the VM's standard input, but
  # reads nothing of it; it is spoken to by the descriptors 3 and 4.
  @script ~S"""
  saved=$(stty -g 2>/dev/null) || exit 3
  stty -echo || exit 3
  printf x >&4
  read -r _ <&3
  stty "$saved"
  exit 0
  """

  @doc "What is typed, without its newline; `:none` where there is no terminal, or nothing is typed."
  @spec ask(question :: String.t()) :: {:ok, String.t()} | :none
  def ask(question) do
    options = [:binary, :nouse_stdio, :exit_status, args: ["-c", @script]]
    port = Port.open({:spawn_executable, "/bin/sh"}, options)

    receive do
      {^port, {:data, "x"}} ->
        typed = gets(question)
        Port.command(port, "\n")

        receive do
          {^port, {:exit_status, _status}} -> IO.write(:stderr, "\n")
        end

        typed

      {^port, {:exit_status, _no_terminal}} ->
        :none
    end
  end

  # On the standard error: the standard output may be for programs.
  defp gets(question) do
    IO.write(:stderr, question)

    with typed when is_binary(typed) <- IO.gets(""),
         typed when typed != "" <- String.trim_trailing(typed, "\n") do
      {:ok, typed}
    else
      _nothing -> :none
    end
  end
end
