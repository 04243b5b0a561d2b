defmodule Bench.Machine do
  @moduledoc "What the benchmarks ran on: the machine, the versions of all that takes part, the date, the load at the start."

  @doc "Names and texts, in the order in which they are to be read."
  @spec describe() :: [{String.t(), String.t()}]
  def describe do
    [
      {"Date", DateTime.utc_now() |> DateTime.truncate(:second) |> DateTime.to_string()},
      {"Commit", run("git", ~w(describe --always --dirty))},
      {"Processor",
       "#{line("/proc/cpuinfo", ~r/^model name\s*: (.*)$/m)}, #{System.schedulers_online()} cores"},
      {"Load at the start", line("/proc/loadavg", ~r/^(\S+ \S+ \S+)/)},
      {"System",
       "#{line("/etc/os-release", ~r/^PRETTY_NAME="(.*)"$/m)}, Linux #{run("uname", ["-r"])}"},
      {"Elixir, OTP", "#{System.version()}, #{otp()}"},
      {"Dirty-IO schedulers", "#{:erlang.system_info(:dirty_io_schedulers)}"},
      {"SoftHSM", run("softhsm2-util", ["--version"])},
      {"Rust", run("rustc", ["--version"])},
      {"poolboy", package("erlang-poolboy")},
      {"Java", run("java", ["--version"])}
    ]
  end

  defp otp do
    [:code.root_dir(), "releases", :erlang.system_info(:otp_release), "OTP_VERSION"]
    |> Path.join()
    |> line(~r/^(\S+)/)
  end

  defp line(file, pattern) do
    with {:ok, text} <- File.read(file), [_, found] <- Regex.run(pattern, text) do
      found
    else
      _unknown -> "unknown"
    end
  end

  defp package(name), do: run("dpkg-query", ["--show", "--showformat=${Version}", name])

  # The first line of what a program says.
  defp run(program, arguments) do
    with path when path != nil <- System.find_executable(program),
         {output, 0} <- System.cmd(path, arguments, stderr_to_stdout: true) do
      output |> String.split("\n") |> hd() |> String.trim()
    else
      _none -> "none"
    end
  end
end
