defmodule Pkcs11Pool.Build.Cargo do
  @moduledoc false
  # Runs cargo, and tells who waits for it how far it is.

  alias Pkcs11Pool.Build.{CargoMessages, Precompiled}

  # Long enough that an ordinary build stays quiet, short enough that nobody takes a cold one for hung.
  @progress_interval 10_000

  @doc """
  Builds packages of the workspace in `root`, and returns cargo's exit status and its messages.

  Options: `:profile`, `:target_dir`, and `:progress_interval` in ms.
  """
  @spec build(Path.t(), [String.t()], keyword) :: {status :: non_neg_integer, [map]}
  def build(root, packages, opts) do
    # Without colours on a terminal rustc's messages are hard to read, and cargo does not see ours
    # behind the pipe.
    rendered = if IO.ANSI.enabled?(), do: "json-diagnostic-rendered-ansi", else: "json"
    locked = if File.exists?(Path.join(root, "Cargo.lock")), do: ["--locked"], else: []

    args =
      ["build", "--quiet", "--profile", opts[:profile]] ++
        Enum.flat_map(packages, &["--package", &1]) ++
        ["--target-dir", opts[:target_dir], "--message-format", rendered] ++ locked

    first = not File.dir?(opts[:target_dir])

    # The flag makes rustler export `nif_init`. The workspace's .cargo/config.toml sets it as
    # well, but a `--config` or an environment of the user's may hide that, and a library built
    # without it would stay in cargo's cache.
    port =
      Port.open({:spawn_executable, find!(root)}, [
        :binary,
        :exit_status,
        :hide,
        args: args,
        cd: root,
        env: [{~c"RUSTLER_PRIMARY_NIF_INIT", ~c"1"}],
        line: 65_536
      ])

    now = now()
    interval = Keyword.get(opts, :progress_interval, @progress_interval)

    collect(port, "", [], %{
      profile: opts[:profile],
      first: first,
      interval: interval,
      started: now,
      next: now + interval,
      compiled: 0
    })
  end

  @doc "The cargo to run, or a `Mix.Error` that says which one is needed."
  @spec find!(Path.t()) :: Path.t()
  def find!(root) do
    find() ||
      Mix.raise("pkcs11_pool is partly written in Rust, and cargo was not found. #{remedy(root)}")
  end

  @doc "The cargo to run, if there is one."
  @spec find() :: Path.t() | nil
  def find, do: System.find_executable(System.get_env("CARGO", "cargo"))

  @doc """
  Raises if cargo is too old. Asked only after a failure: an old cargo fails in its own, often
  obscure way, and asking takes time.
  """
  @spec check_version!(Path.t()) :: :ok
  def check_version!(root) do
    minimum = minimal_version(root)

    with {output, 0} <- System.cmd(find!(root), ["--version"], cd: root, stderr_to_stdout: true),
         [_all, found] <- Regex.run(~r/^cargo (\d+\.\d+\.\d+)/m, output),
         :lt <- Version.compare(found, minimum) do
      Mix.raise("cargo #{found} is too old for pkcs11_pool. #{remedy(root)}")
    else
      _new_enough_or_unknown -> :ok
    end
  end

  defp remedy(root) do
    "Install Rust #{minimal_version(root)} or newer, for instance with rustup (`rustup update stable`), " <>
      "and see that `cargo` is in PATH, " <> Precompiled.remedy()
  end

  defp minimal_version(root) do
    [_all, version] =
      Regex.run(~r/^rust-version = "([\d.]+)"/m, File.read!(Path.join(root, "Cargo.toml")))

    if version =~ ~r/^\d+\.\d+$/, do: version <> ".0", else: version
  end

  ## What cargo says

  # Cargo is quiet, so that a build with nothing to do says nothing. What it has to do is said as
  # soon as it is known, and then every ten seconds how far it is.
  defp collect(port, partial, messages, progress) do
    receive do
      {^port, {:data, {:noeol, part}}} ->
        collect(port, partial <> part, messages, progress)

      {^port, {:data, {:eol, part}}} ->
        case CargoMessages.decode(partial <> part) do
          {:ok, message} ->
            print(message)
            collect(port, "", [message | messages], count(message, progress))

          :error ->
            collect(port, "", messages, progress)
        end

      {^port, {:exit_status, status}} ->
        {status, Enum.reverse(messages)}
    after
      max(progress.next - now(), 0) ->
        seconds = div(now() - progress.started + 500, 1000)
        Mix.shell().info(progress_line(progress.compiled, seconds))
        collect(port, partial, messages, %{progress | next: now() + progress.interval})
    end
  end

  defp progress_line(0, seconds) do
    "Waiting for cargo for #{seconds} s: it fetches crates, compiles the first ones, or waits for another cargo"
  end

  defp progress_line(compiled, seconds) do
    "Compiling the native library, crates done: #{compiled}, after #{seconds} s"
  end

  defp count(%{"reason" => "compiler-artifact", "fresh" => false}, progress) do
    if progress.compiled == 0 do
      first = if progress.first, do: ". The first time it takes minutes", else: ""

      Mix.shell().info(
        "Compiling the native library (cargo, profile #{progress.profile})#{first}"
      )
    end

    %{progress | compiled: progress.compiled + 1}
  end

  defp count(_message, progress), do: progress

  defp print(%{"message" => %{"rendered" => rendered}}) when is_binary(rendered),
    do: IO.write(:stderr, rendered)

  defp print(_message), do: :ok

  defp now, do: System.monotonic_time(:millisecond)
end
