defmodule Pkcs11Pool.SeparateVM do
  @moduledoc false
  # Runs a job in a VM of its own, so that a PKCS#11 module that crashes or hangs takes nothing with it: what the job had told until then is there, and the
  # step in which it ended. The other VM is a process of the same user, started with this one's code paths. Nothing that the job is given, a PIN for
  # instance, stands on its command line or in its environment: it goes through a pipe. It writes no crash dump and no core.
  #
  # The two speak by the descriptors 3 and 4 of the other one. Its standard output and error go into a file: what the module writes there often says why it fails.

  alias Pkcs11Pool.SeparateVM.Child

  @typedoc "A job: a module with `run(argument, tell)`, whose `tell` returns when what it was given is safely on its way."
  @type job :: {module, argument :: term}

  @typedoc """
  What a job tells: `{:step, name, text}` before each step that may crash or hang, where `text` says what it does; everything else is its own. After a step of
  the name `:secret` nothing that the module writes is shown.
  """
  @type told :: {:step, name :: atom, text :: String.t()} | term

  @type outcome ::
          :done | {:signal, 1..127} | {:exit, byte} | {:hung, ms :: pos_integer} | :failed

  @type result :: %{
          outcome: outcome,
          step: {name :: atom, text :: String.t()},
          told: [told],
          output: String.t(),
          failure: String.t() | nil
        }

  # Of what the module writes.
  @most_output 8_192

  # The VM itself has to start, on a machine that may be busy.
  @start_limit 60_000

  @first_step {:start, "start a VM of its own"}
  @last_step {:halt, "end its VM, after all that was asked of it"}

  @doc """
  Runs a job. A step that takes longer than `limit` ms ends the other VM. `env` are variables that it has from its start. 
  """
  @spec run(job, limit :: pos_integer, env :: %{String.t() => String.t()}) :: result
  def run(job, limit, env \\ %{}) do
    dir = make_dir!()
    output = Path.join(dir, "output")

    try do
      {outcome, state} = run_in(output, job, limit, env)

      %{
        outcome: outcome,
        step: state.step,
        told: Enum.reverse(state.told),
        output: state.output || read(output),
        failure: state.failure
      }
    after
      File.rm_rf!(dir)
    end
  end

  ## The other VM

  defp run_in(output, job, limit, env) do
    port = start(output, env)

    try do
      send_term(port, job)
      state = %{step: @first_step, told: [], output: nil, failure: nil}
      wait(port, os_pid(port), limit, max(limit, @start_limit), output, state)
    after
      close(port)
    end
  end

  # The shell becomes the VM: it has its process id, and its end is the VM's.
  @script ~S(ulimit -c 0; out=$1; shift; exec "$@" </dev/null >"$out" 2>&1)

  defp start(output, env) do
    arguments = ["-c", @script, "sh", output, Path.join(bin_dir(), "erlexec") | erl_arguments()]

    Port.open({:spawn_executable, "/bin/sh"}, [
      :binary,
      :nouse_stdio,
      :exit_status,
      packet: 4,
      args: arguments,
      env: environment(env)
    ])
  end

  defp os_pid(port) do
    case Port.info(port, :os_pid) do
      {:os_pid, pid} -> pid
      nil -> nil
    end
  end

  defp erl_arguments do
    boot = ["-boot", boot_file(), "-noshell", "-noinput" | boot_variables()]
    paths = Enum.flat_map(:code.get_path(), &["-pa", to_string(&1)])
    boot ++ paths ++ ["-s", Atom.to_string(Child), "main"]
  end

  # In a release it is beside the file that this VM was started by; elsewhere Erlang's own. Neither starts anything of the application's.
  defp boot_file do
    beside =
      case :init.get_argument(:boot) do
        {:ok, arguments} -> arguments |> List.last() |> to_string() |> Path.dirname()
        :error -> nil
      end

    [beside, Path.join(:code.root_dir(), "bin")]
    |> Enum.reject(&is_nil/1)
    |> Enum.map(&Path.join(&1, "start_clean"))
    |> Enum.find("start_clean", &File.exists?(&1 <> ".boot"))
  end

  defp boot_variables do
    case :init.get_argument(:boot_var) do
      {:ok, all} ->
        Enum.flat_map(all, &["-boot_var" | Enum.map(&1, fn word -> to_string(word) end)])

      :error ->
        []
    end
  end

  defp bin_dir do
    System.get_env("BINDIR") ||
      Path.join(:code.root_dir(), "erts-#{:erlang.system_info(:version)}/bin")
  end

  defp environment(env) do
    own = %{
      "BINDIR" => bin_dir(),
      "ROOTDIR" => to_string(:code.root_dir()),
      "EMU" => "beam",
      "PROGNAME" => "erl",
      # A dump would have the PIN.
      "ERL_CRASH_DUMP_SECONDS" => "0",
      # What this VM was told (a name, a cookie, a heart) is not meant for that one.
      "ERL_AFLAGS" => nil,
      "ERL_FLAGS" => nil,
      "ERL_ZFLAGS" => nil
    }

    for {name, value} <- Map.merge(env, own),
        do: {String.to_charlist(name), if(value, do: String.to_charlist(value), else: false)}
  end

  ## What it tells

  defp wait(port, pid, limit, first_limit, output, state) do
    receive do
      {^port, {:data, packet}} ->
        packet |> decode() |> take(port, pid, limit, output, state)

      {^port, {:exit_status, status}} ->
        {ended(status), state}
    after
      first_limit ->
        kill(port, pid)
        {{:hung, first_limit}, state}
    end
  end

  defp note({:step, :secret = name, text}, output, state),
    do: %{state | step: {name, text}, output: read(output)}

  defp note({:step, name, text}, _output, state), do: %{state | step: {name, text}}
  defp note(told, _output, state), do: %{state | told: [told | state.told]}

  defp take({:ok, {:tell, told}}, port, pid, limit, output, state) do
    state = note(told, output, state)

    # The job goes on only now: else the end of its VM could come before what it had told, and what it writes from now on would be read as well.
    send_term(port, :heard)
    wait(port, pid, limit, limit, output, state)
  end

  # It has nothing left to do, but its end may be long in coming: a module's own threads and exit handlers.
  defp take({:ok, :done}, port, pid, limit, output, state) do
    send_term(port, :heard)

    case wait(port, pid, limit, limit, output, %{state | step: @last_step}) do
      {{:exit, 0}, state} -> {:done, state}
      ended -> ended
    end
  end

  defp take({:ok, {:failed, failure}}, port, pid, _limit, _output, state) do
    kill(port, pid)
    {:failed, %{state | failure: failure}}
  end

  defp take(:error, port, pid, _limit, _output, state) do
    kill(port, pid)
    {:failed, %{state | failure: "what the other VM said could not be read"}}
  end

  # What a shell says of a program that a signal has ended.
  defp ended(status) when status > 128, do: {:signal, status - 128}
  defp ended(status), do: {:exit, status}

  defp kill(port, pid) do
    if pid,
      do: System.cmd("/bin/sh", ["-c", ~S(kill -KILL "$0"), "#{pid}"], stderr_to_stdout: true)

    receive do
      {^port, {:exit_status, _killed}} -> :ok
    after
      # A process in an uninterruptible call of the system's.
      5_000 -> :ok
    end
  end

  # With nothing of it left in the caller's mailbox.
  defp close(port) do
    Process.unlink(port)
    Port.close(port)
  rescue
    ArgumentError -> :ok
  after
    flush(port)
  end

  defp flush(port) do
    receive do
      {^port, _anything} -> flush(port)
      {:EXIT, ^port, _reason} -> flush(port)
    after
      0 -> :ok
    end
  end

  defp send_term(port, term) do
    Port.command(port, :erlang.term_to_binary(term))
  rescue
    # It has ended already: its status comes.
    ArgumentError -> true
  end

  defp decode(packet) do
    {:ok, :erlang.binary_to_term(packet)}
  rescue
    ArgumentError -> :error
  end

  ## What it writes

  defp make_dir! do
    random = Base.url_encode64(:crypto.strong_rand_bytes(9))
    dir = Path.join(System.tmp_dir!(), "pkcs11_pool-#{System.pid()}-#{random}")
    File.mkdir!(dir)
    File.chmod!(dir, 0o700)
    dir
  end

  # The end of it, which is next to what failed.
  defp read(path) do
    with {:ok, %{size: size}} <- File.stat(path),
         from = max(0, size - @most_output),
         {:ok, {:ok, text}} <-
           File.open(path, [:read, :binary], &:file.pread(&1, from, @most_output)) do
      printable(text)
    else
      _nothing -> ""
    end
  end

  defp printable(text) do
    for <<char::utf8 <- valid(text)>>, char in [?\n, ?\t] or char >= 0x20,
      into: "",
      do: <<char::utf8>>
  end

  defp valid(text),
    do:
      if(String.valid?(text),
        do: text,
        else: for(<<byte <- text>>, byte < 0x80, into: "", do: <<byte>>)
      )
end
