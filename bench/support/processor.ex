defmodule Bench.Processor do
  @moduledoc """
  Processor time, of all threads of a process, in user and kernel mode: unlike throughput, it hardly depends on what else the machine does.
  """

  # Microseconds in the unit of /proc, which is the same on all architectures that OTP and Rust run on.
  @tick 10_000

  @doc "Microseconds that a process of the operating system has used: by default this VM."
  @spec time(pid :: String.t() | non_neg_integer) :: non_neg_integer
  def time(pid \\ "self") do
    # Behind the name, which may hold anything.
    fields = "/proc/#{pid}/stat" |> File.read!() |> String.split(")") |> List.last()

    [user, system] =
      fields |> String.split() |> Enum.slice(11, 2) |> Enum.map(&String.to_integer/1)

    (user + system) * @tick
  end

  @doc "How often threads of this VM have gone to sleep, to be woken later: their voluntary context switches."
  @spec sleeps() :: non_neg_integer
  def sleeps do
    # By another process: to read a file is a sleep or two of this one's, and there may be a thousand threads.
    files = "/proc/#{System.pid()}/task/*/status"
    {lines, _status} = System.shell("grep -hs ^voluntary_ctxt_switches #{files}")
    for([_all, count] <- Regex.scan(~r/(\d+)/, lines), do: String.to_integer(count)) |> Enum.sum()
  end
end
