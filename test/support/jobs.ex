defmodule Pkcs11Pool.Test.Jobs do
  @moduledoc "What another VM is told to do, for the tests of `Pkcs11Pool.SeparateVM`."

  @doc "A job of that module."
  def run(what, tell)

  def run({:tell, terms}, tell), do: Enum.each(terms, tell)

  def run({:kill, signal}, tell) do
    tell.(:before)
    tell.({:step, :second, "do the second thing"})
    System.cmd("kill", ["-" <> signal, System.pid()])
    Process.sleep(:infinity)
  end

  def run({:exit, status}, tell) do
    tell.({:step, :second, "do the second thing"})
    :erlang.halt(status)
  end

  def run(:hang, tell) do
    tell.({:step, :second, "do the second thing"})
    tell.({:pid, System.pid()})
    Process.sleep(:infinity)
  end

  def run({:raise, secret}, _tell), do: raise("it raised with #{secret}")

  def run(:write, tell) do
    IO.write("to the output\n")
    IO.write(:stderr, "to the error\e[31m\n")
    tell.({:step, :secret, "use the PIN"})
    IO.write("271828\n")
  end

  def run({:look, file}, _tell) do
    File.write!(file, [File.read!("/proc/self/cmdline"), File.read!("/proc/self/environ")])
  end

  def run(:output, tell), do: tell.(File.read_link!("/proc/self/fd/1"))

  def run({:environment, names}, tell),
    do: tell.(for(name <- names, do: System.get_env(name)))
end
