defmodule Pkcs11Pool.Test.Tokens.OpenCryptoki do
  @moduledoc false
  # The software token of opencryptoki. Its folders have fixed names, and its daemon shares memory with the modules: hence it runs where the mounts, the shared
  # memory and the processes are its own.

  @behaviour Pkcs11Pool.Test.Tokens

  alias Pkcs11Pool.Test.Tokens

  # Its PINs have 4 to 8 characters; those of a new token are these.
  @first_so_pin "87654321"
  @so_pin "76543210"
  @pin "12345670"
  @paths ["/usr/lib/*/pkcs11/libopencryptoki.so", "/usr/lib/*/opencryptoki/libopencryptoki.so*"]
  @folders ["/var/lib/opencryptoki", "/etc/opencryptoki", "/run", "/dev/shm"]

  @impl true
  def title, do: "opencryptoki"

  @impl true
  def version, do: Tokens.package_version("libopencryptoki0")

  @impl true
  def launcher do
    isolation =
      ~w(unshare --mount --ipc --pid --fork --kill-child --mount-proc --propagation private)

    with :ok <-
           Tokens.require_programs([{"pkcsslotd", "opencryptoki"}, {"unshare", "util-linux"}]),
         {:root, true} <- {:root, match?({"0\n", 0}, System.cmd("id", ["-u"]))},
         {_output, 0} <-
           System.cmd(hd(isolation), tl(isolation) ++ ["true"], stderr_to_stdout: true) do
      {:ok, isolation}
    else
      {:not_tested, _reason} = not_tested -> not_tested
      {:root, false} -> {:not_tested, "it takes root"}
      {_output, _status} -> {:not_tested, "there are no namespaces for it here (unshare)"}
    end
  end

  @impl true
  def set_up(dir) do
    with module when is_binary(module) <-
           Tokens.find(@paths) || Tokens.not_installed(["libopencryptoki0"]),
         :ok <- own_folders(dir),
         :ok <- Tokens.start("pkcsslotd", ["-f"], Path.join(dir, "pkcsslotd.log")),
         opts = [module: module, slot: {:slot_id, 3}],
         :ok <- Tokens.await(fn -> present?(module) end, "pkcsslotd does not start"),
         :ok <- init(opts) do
      opts = [module: module, slot: {:token_label, "matrix"}, pool_size: 4]
      {:ok, [%{title: title(), opts: opts, pin: @pin}]}
    end
  end

  # Seen by this VM and by what it starts only.
  defp own_folders(dir) do
    Enum.reduce_while(@folders, :ok, fn folder, :ok ->
      own = Path.join([dir, "opencryptoki", folder])
      File.mkdir_p!(own)
      # Newer versions want strength.conf, too.
      if folder == "/etc/opencryptoki", do: File.cp_r!(folder, own)

      case Tokens.run("mount", ["--bind", own, folder]) do
        :ok -> {:cont, :ok}
        not_tested -> {:halt, not_tested}
      end
    end)
    |> case do
      :ok -> fill_folders()
      not_tested -> not_tested
    end
  end

  defp fill_folders do
    File.write!("/etc/opencryptoki/opencryptoki.conf", """
    version opencryptoki-3.1
    slot 3
    {
    stdll = libpkcs11_sw.so
    }
    """)

    shared = ["/var/lib/opencryptoki", "/run/lock/opencryptoki", "/run/opencryptoki"]

    folders = [
      "/var/lib/opencryptoki/swtok/TOK_OBJ",
      "/var/lib/opencryptoki/HSM_MK_CHANGE",
      "/run/lock/opencryptoki/swtok",
      "/run/opencryptoki"
    ]

    Enum.each(folders, &File.mkdir_p!/1)
    # The daemon of newer versions becomes a user of its own.
    owner =
      if match?({_id, 0}, System.cmd("id", ["pkcsslotd"], stderr_to_stdout: true)),
        do: "pkcsslotd",
        else: "root"

    with :ok <- Tokens.run("chown", ["-R", "#{owner}:pkcs11" | shared]),
         :ok <- Tokens.run("chmod", ["-R", "770" | shared]),
         :ok <- Tokens.run("chgrp", ["-R", "pkcs11", "/etc/opencryptoki"]),
         do: Tokens.run("chmod", ["1777", "/dev/shm"])
  end

  defp present?(module) do
    case Pkcs11Pool.Token.list(module: module) do
      {:ok, %{slots: slots}} -> Enum.any?(slots, &is_map(&1.token))
      {:error, _error} -> false
    end
  end

  # A new token's PINs have to be changed before they are good for anything.
  defp init(opts) do
    so = fn -> @so_pin end
    labelled = Keyword.put(opts, :slot, {:token_label, "matrix"})

    with :ok <- Pkcs11Pool.Token.init(opts, "matrix", fn -> @first_so_pin end),
         :ok <- Pkcs11Pool.Token.set_pin([user: :so] ++ labelled, fn -> @first_so_pin end, so),
         :ok <- Pkcs11Pool.Token.init_pin(labelled, so, fn -> "1234567" end),
         :ok <- Pkcs11Pool.Token.set_pin(labelled, fn -> "1234567" end, fn -> @pin end) do
      :ok
    else
      {:error, error} -> {:not_tested, "the token cannot be made: #{Exception.message(error)}"}
    end
  end
end
