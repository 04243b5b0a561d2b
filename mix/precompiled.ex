defmodule Pkcs11Pool.Build.Precompiled do
  @moduledoc false
  # Native libraries that somebody has built before: `script/package` makes an archive for each system, and a list of their checksums. Nothing is
  # taken that is not on the list, and nothing is looked for where nobody has said where.

  alias Pkcs11Pool.Build.Download

  @checksums "checksums.sha256"
  @guide "guides/deployment.md"

  @typedoc "Where an archive lies (a URL or a path), and which digest it has."
  @type archive :: %{name: String.t(), location: String.t(), sha256: String.t(), list: Path.t()}

  @doc """
  The archive to take, or `:cargo` where the library is to be built: where no place is configured, where `PKCS11_POOL_BUILD` asks for it, and where
  the list has nothing for this system.
  """
  @spec choose(Path.t(), String.t()) :: {:ok, archive} | :cargo
  def choose(root, version) do
    place = place()

    if place == nil or System.get_env("PKCS11_POOL_BUILD") == "1",
      do: :cargo,
      else: find(place, list(root), "pkcs11_pool-#{version}-#{target()}.tar.gz")
  end

  @doc "What to configure, for a message in which nothing is."
  @spec remedy() :: String.t()
  def remedy do
    "or name a place with precompiled libraries in PKCS11_POOL_PRECOMPILED (#{@guide} says how)"
  end

  @doc """
  The libraries in an archive, by the names of their files. The archive comes from the folder of earlier downloads, if it is there.
  """
  @spec libraries!(archive, Path.t()) :: %{String.t() => binary}
  def libraries!(archive, cache_dir) do
    archive |> content!(cache_dir) |> unpack!(archive)
  end

  @doc "The system to build for: as cargo takes it, else that of this VM, by the name that Rust has for it."
  @spec target() :: String.t()
  def target do
    System.get_env("CARGO_BUILD_TARGET") ||
      rust_name(to_string(:erlang.system_info(:system_architecture)))
  end

  @doc "Rust's name for a system, from the one that Erlang has: `x86_64-pc-linux-gnu` is `x86_64-unknown-linux-gnu`."
  @spec rust_name(String.t()) :: String.t()
  def rust_name(system) do
    [processor | rest] = String.split(system, "-")
    processor = Map.get(%{"amd64" => "x86_64", "arm64" => "aarch64"}, processor, processor)

    cond do
      "linux" in rest and List.last(rest) in ["gnu", "musl"] ->
        "#{processor}-unknown-linux-#{List.last(rest)}"

      "apple" in rest ->
        "#{processor}-apple-darwin"

      true ->
        system
    end
  end

  ## Where

  # The environment goes before the configuration, so that one build can differ.
  defp place do
    setting("PKCS11_POOL_PRECOMPILED", :precompiled)
  end

  defp list(root) do
    setting("PKCS11_POOL_CHECKSUMS", :precompiled_checksums) || Path.join(root, @checksums)
  end

  defp setting(variable, key) do
    case System.get_env(variable) do
      empty when empty in [nil, ""] -> Application.get_env(:pkcs11_pool, key)
      value -> value
    end
  end

  defp find(place, list, wanted) do
    place = place |> to_string() |> String.replace_prefix("file://", "")
    check_place!(place)
    sums = checksums!(list)
    # A place may be one archive, under whatever name the list has for it.
    {name, location} =
      if String.ends_with?(place, ".tar.gz"),
        do: {Path.basename(place), place},
        else: {wanted, String.trim_trailing(place, "/") <> "/" <> wanted}

    case sums do
      %{^name => sha256} ->
        {:ok, %{name: name, location: location, sha256: sha256, list: list}}

      _other ->
        Mix.shell().info(
          "No precompiled library of pkcs11_pool fits: #{list} has no #{name}. It is built with cargo"
        )

        :cargo
    end
  end

  # A dependency is compiled in its own folder, so a relative path would mean another one than who wrote it thinks.
  defp check_place!(place) do
    uri = URI.parse(place)

    cond do
      Download.url?(place) and uri.userinfo != nil ->
        Mix.raise(
          "The place of pkcs11_pool's precompiled libraries must not have a user and password in it: they would end up in logs. " <>
            "Get the archives yourself, and name their folder"
        )

      Download.url?(place) or Path.type(place) == :absolute ->
        :ok

      true ->
        Mix.raise(
          "The place of pkcs11_pool's precompiled libraries must be a URL (https://...) or an absolute path, and is #{inspect(place)}"
        )
    end
  end

  # As `sha256sum` writes it: 64 digits, a blank, a blank or an asterisk, the file's name.
  defp checksums!(list) do
    case File.read(list) do
      {:ok, text} ->
        for line <- String.split(text, ["\r\n", "\n"]),
            [_all, sha256, name] <- [Regex.run(~r/^([0-9a-fA-F]{64}) [ *](.+)$/, line)],
            into: %{},
            do: {name, String.downcase(sha256)}

      {:error, reason} ->
        Mix.raise(
          "pkcs11_pool takes no precompiled library without its checksum, and the list #{list} cannot be read " <>
            "(#{:file.format_error(reason)}). Name it in PKCS11_POOL_CHECKSUMS, #{or_build()}"
        )
    end
  end

  ## What

  defp content!(archive, cache_dir) do
    if Download.url?(archive.location) do
      cached = Path.join(cache_dir, archive.name)

      with {:ok, content} <- File.read(cached), true <- sha256(content) == archive.sha256 do
        content
      else
        _missing_or_another -> archive |> download!() |> keep(cached)
      end
    else
      case File.read(archive.location) do
        {:ok, content} ->
          check!(content, archive)

        {:error, reason} ->
          Mix.raise(
            "The precompiled library of pkcs11_pool cannot be read: #{archive.location}: #{:file.format_error(reason)}. " <>
              "Put it there, #{or_build()}"
          )
      end
    end
  end

  defp download!(archive) do
    Mix.shell().info("Downloading #{archive.location}")

    case Download.get(archive.location) do
      {:ok, content} ->
        check!(content, archive)

      {:error, why} ->
        Mix.raise(
          "The precompiled library of pkcs11_pool could not be downloaded from #{archive.location}: #{why}. " <>
            "Mend that, #{or_build()}"
        )
    end
  end

  defp check!(content, archive) do
    case sha256(content) do
      sha256 when sha256 == archive.sha256 ->
        content

      other ->
        Mix.raise(
          "#{archive.location} is refused: its SHA-256 is #{other}, and #{archive.list} says #{archive.sha256}. " <>
            "Somebody has changed the archive or the list: find out who. Get the right one, #{or_build()}"
        )
    end
  end

  defp or_build, do: "or set PKCS11_POOL_BUILD=1 to build it with cargo"

  # Where it cannot be kept, it is downloaded again next time.
  defp keep(content, path) do
    temporary = "#{path}.#{System.pid()}.tmp"

    with :ok <- File.mkdir_p(Path.dirname(path)), :ok <- File.write(temporary, content) do
      File.rename(temporary, path)
    end

    content
  end

  # Nothing is unpacked to the disk, so no name in the archive can lead anywhere.
  defp unpack!(content, archive) do
    case :erl_tar.extract({:binary, content}, [:compressed, :memory]) do
      {:ok, files} ->
        for {name, content} <- files, into: %{}, do: {Path.basename(to_string(name)), content}

      {:error, reason} ->
        Mix.raise("#{archive.location} is no archive of pkcs11_pool's: #{inspect(reason)}")
    end
  end

  defp sha256(content), do: Base.encode16(:crypto.hash(:sha256, content), case: :lower)
end
