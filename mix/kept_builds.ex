defmodule Pkcs11Pool.Build.KeptBuilds do
  @moduledoc false
  # What cargo has built is kept in the user's cache folder, so that the next project in which nothing has been built yet (another `Mix.install`, a fresh clone)
  # has it at once. It is found by a digest of all that decides what cargo builds: sources, profile, system, environment.

  # One is 3 MB.
  @most 5

  @doc "The folder of what would be built now."
  @spec folder(Path.t(), Path.t(), String.t(), String.t()) :: Path.t()
  def folder(cache_dir, root, profile, target) do
    what = {profile, target, sources(root), configuration(root), environment(), system()}
    digest = :crypto.hash(:sha256, :erlang.term_to_binary(what))
    Path.join([cache_dir, "builds", Base.encode16(digest, case: :lower)])
  end

  @doc "The contents of the files of these names, if all are there."
  @spec fetch(Path.t(), [String.t()]) :: {:ok, %{String.t() => binary}} | :error
  def fetch(folder, names) do
    contents =
      for name <- names,
          {:ok, content} <- [File.read(Path.join(folder, name))],
          into: %{},
          do: {name, content}

    if map_size(contents) == length(names), do: {:ok, contents}, else: :error
  end

  @doc "Keeps files. Where that cannot be done, the next project builds for itself."
  @spec keep(Path.t(), %{String.t() => binary}) :: :ok
  def keep(folder, contents) do
    with :ok <- File.mkdir_p(folder) do
      for {name, content} <- contents do
        path = Path.join(folder, name)
        temporary = "#{path}.#{System.pid()}.tmp"
        # A library is there as a whole, or not at all.
        with :ok <- File.write(temporary, content), do: File.rename(temporary, path)
      end

      forget_old(Path.dirname(folder))
    end

    :ok
  end

  defp forget_old(builds) do
    # Another build may be forgetting the same ones.
    folders =
      for folder <- Path.wildcard(Path.join(builds, "*")),
          {:ok, stat} <- [File.stat(folder, time: :posix)],
          do: {stat.mtime, folder}

    for {_time, folder} <- folders |> Enum.sort(:desc) |> Enum.drop(@most), do: File.rm_rf(folder)
  end

  ## What decides

  defp sources(root) do
    named = ["Cargo.toml", "Cargo.lock", "rust-toolchain", "rust-toolchain.toml"]

    for path <-
          Path.wildcard(Path.join(root, "native/**/*")) ++ Enum.map(named, &Path.join(root, &1)),
        {:ok, content} <- [File.read(path)],
        do: {Path.relative_to(path, root), :crypto.hash(:sha256, content)}
  end

  # Cargo reads those of the folders above, too.
  defp configuration(root) do
    home = System.get_env("CARGO_HOME") || Path.join(System.user_home() || "/", ".cargo")

    above =
      root |> Path.split() |> Enum.scan(&Path.join(&2, &1)) |> Enum.map(&Path.join(&1, ".cargo"))

    for folder <- [home | above],
        name <- ["config.toml", "config"],
        {:ok, content} <- [File.read(Path.join(folder, name))],
        do: content
  end

  defp environment do
    for {name, value} <- System.get_env(),
        name in ~w(CC CXX CFLAGS AR LDFLAGS) or String.starts_with?(name, ["CARGO_", "RUST"]),
        name != "CARGO_HOME",
        do: {name, value}
  end

  # A cache folder may be seen from more than one system, as from containers: what one has built another's C library may not be able to load.
  defp system do
    {:erlang.system_info(:system_architecture), File.read("/etc/os-release")}
  end
end
