defmodule Pkcs11Pool.PinMountTest do
  # PIN files as Kubernetes and Docker mount them, in a VM with mounts of its own. It takes root, or a user who may have a namespace of his own: elsewhere
  # only the rule itself is tested, in native/token/src/support/pin_file.rs.
  use ExUnit.Case, async: true

  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  @unshare (cond do
              match?({_, 0}, System.cmd("unshare", ~w(-m true), stderr_to_stdout: true)) ->
                ~w(-m)

              match?({_, 0}, System.cmd("unshare", ~w(-rm true), stderr_to_stdout: true)) ->
                ~w(-rm)

              true ->
                nil
            end)

  if @unshare == nil, do: @moduletag(skip: "no mount namespaces here")

  # In $1: kubernetes/ and docker/, as they mount secrets; root/, a tmpfs that only root writes to; shared/, one that all may write to.
  @mounts ~S"""
  set -e
  cd "$1"
  mkdir kubernetes docker root shared
  mount -t tmpfs -o mode=1777 tmpfs kubernetes
  mkdir kubernetes/..2024_01
  printf hunter2 > kubernetes/..2024_01/pin; chmod 444 kubernetes/..2024_01/pin
  printf hunter2 > kubernetes/..2024_01/group; chmod 440 kubernetes/..2024_01/group
  printf hunter2 > kubernetes/..2024_01/writable; chmod 666 kubernetes/..2024_01/writable
  ln -s ..2024_01 kubernetes/..data
  for name in pin group writable; do ln -s ..data/$name kubernetes/$name; done
  mount -o remount,ro kubernetes
  printf hunter2 > secret; chmod 444 secret
  touch docker/pin; mount --bind secret docker/pin; mount -o remount,ro,bind docker/pin
  for mount in root shared; do
    mount -t tmpfs -o mode=755 tmpfs $mount
    mkdir $mount/folder
    printf hunter2 > $mount/folder/pin; chmod 444 $mount/folder/pin
  done
  chmod 1777 shared
  ln -s ../root/folder/pin kubernetes-link
  ln -s root/folder/pin link
  shift; exec "$@"
  """

  @script ~S"""
  [dir] = System.argv()
  {:ok, _} = Application.ensure_all_started(:pkcs11_pool)

  results =
    for {path, options} <- [
          {"kubernetes/pin", []}, {"kubernetes/group", []}, {"kubernetes/writable", []}, {"docker/pin", []},
          {"root/folder/pin", []}, {"link", []}, {"shared/folder/pin", []}, {"secret", []},
          {"shared/folder/pin", [mode: :any]}, {"kubernetes/writable", [mode: :any]}, {"kubernetes/pin", []}
        ] do
      full = Path.join(dir, path)
      source = if options == [], do: {:file, full}, else: {:file, full, options}
      {:ok, normalized} = Pkcs11Pool.Pin.Source.normalize(source)

      case Pkcs11Pool.Pin.Source.fetch(normalized) do
        {:ok, "hunter2"} -> {path, options, :taken}
        {:error, {reason, ^full}} -> {path, options, reason}
      end
    end

  File.write!(Path.join(dir, "results"), :erlang.term_to_binary(results))
  """

  test "a PIN that group or others may read is taken from a mount that is read-only or root's, with one warning",
       %{
         tmp_dir: dir
       } do
    dir = Path.expand(dir)
    script = Path.join(dir, "script.exs")
    File.write!(script, @script)
    File.write!(Path.join(dir, "mounts.sh"), @mounts)
    paths = :code.get_path() |> Enum.map(&List.to_string/1) |> Enum.filter(&(&1 =~ "_build"))

    elixir =
      [System.find_executable("elixir")] ++
        Enum.flat_map(paths, &["-pa", &1]) ++ [script, dir]

    {output, status} =
      System.cmd("unshare", @unshare ++ ["sh", Path.join(dir, "mounts.sh"), dir] ++ elixir,
        stderr_to_stdout: true
      )

    assert status == 0, output

    assert dir |> Path.join("results") |> File.read!() |> :erlang.binary_to_term() == [
             {"kubernetes/pin", [], :taken},
             {"kubernetes/group", [], :taken},
             {"kubernetes/writable", [], :file_writable},
             {"docker/pin", [], :taken},
             {"root/folder/pin", [], :taken},
             {"link", [], :taken},
             {"shared/folder/pin", [], :file_mode},
             {"secret", [], :file_mode},
             {"shared/folder/pin", [mode: :any], :taken},
             {"kubernetes/writable", [mode: :any], :file_writable},
             {"kubernetes/pin", [], :taken}
           ]

    for {name, mount} <- [
          {"kubernetes/pin", "read-only"},
          {"kubernetes/group", "read-only"},
          {"docker/pin", "read-only"},
          {"root/folder/pin", "root's"},
          {"link", "root's"}
        ] do
      path = Path.join(dir, name)

      lines =
        output |> String.split("\n") |> Enum.filter(&(&1 =~ "the PIN in #{path} may be read"))

      assert [line] = lines
      assert line =~ mount
      assert line =~ "[warning]" or line =~ "[warn]"
    end

    refute output =~ "hunter2"
    refute output =~ "shared/folder/pin may be read"
  end
end
