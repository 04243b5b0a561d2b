defmodule Pkcs11Pool.Test.Tokens.TPM2 do
  @moduledoc false
  # tpm2-pkcs11 on a software TPM (swtpm). Between them is the resource manager tpm2-abrmd, on a D-Bus of its own: without one a TPM has room for
  # three objects.

  @behaviour Pkcs11Pool.Test.Tokens

  alias Pkcs11Pool.Test.Tokens

  @pin "12345678"
  @paths [
    "/usr/lib/*/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib/*/libtpm2_pkcs11.so.1",
    "/usr/lib64/pkcs11/libtpm2_pkcs11.so"
  ]
  @bus "tabrmd:bus_type=session"

  @impl true
  def title, do: "tpm2-pkcs11"

  @impl true
  def version, do: Tokens.package_version("libtpm2-pkcs11-1")

  @impl true
  def launcher do
    programs = [
      {"dbus-run-session", "dbus"},
      {"tpm2-abrmd", "tpm2-abrmd"},
      {"swtpm", "swtpm"},
      {"tpm2_ptool", "libtpm2-pkcs11-tools"},
      {"tpm2_shutdown", "tpm2-tools"}
    ]

    with :ok <- Tokens.require_programs(programs), do: {:ok, ["dbus-run-session", "--"]}
  end

  @impl true
  def set_up(dir) do
    [state, store] = for name <- ["state", "store"], do: Path.join(dir, name)
    Enum.each([state, store], &File.mkdir!/1)
    env = %{"TPM2_PKCS11_STORE" => store, "TPM2_PKCS11_TCTI" => @bus}
    tools = [env: Map.to_list(env) ++ [{"TPM2TOOLS_TCTI", @bus}]]
    pins = ["--sopin=87654321", "--userpin=" <> @pin]

    with module when is_binary(module) <-
           Tokens.find(@paths) || Tokens.not_installed(["libtpm2-pkcs11-1"]),
         :ok <- start_tpm(dir, state),
         :ok <- Tokens.await(fn -> answers?(tools) end, "the TPM does not answer"),
         :ok <- Tokens.run("tpm2_ptool", ["init", "--path", store], tools),
         :ok <-
           Tokens.run(
             "tpm2_ptool",
             ["addtoken", "--pid=1", "--label=matrix", "--path", store] ++ pins,
             tools
           ) do
      # One that is switched off without warning counts that as wrong PINs.
      System.at_exit(fn _status -> System.cmd("tpm2_shutdown", ["-c"], tools) end)
      opts = [module: module, module_env: env, slot: {:token_label, "matrix"}, pool_size: 2]
      {:ok, [%{title: title(), opts: opts, pin: @pin}]}
    end
  end

  defp start_tpm(dir, state) do
    [port, control] = two_ports()

    swtpm =
      ["socket", "--tpm2", "--tpmstate", "dir=" <> state] ++
        ["--server", "type=tcp,port=#{port},bindaddr=127.0.0.1"] ++
        ["--ctrl", "type=tcp,port=#{control},bindaddr=127.0.0.1"] ++
        ["--flags", "not-need-init,startup-clear"]

    :ok = Tokens.start("swtpm", swtpm, Path.join(dir, "swtpm.log"))

    with :ok <- Tokens.await(fn -> listens?(control) end, "swtpm does not start") do
      allow_root = if match?({"0\n", 0}, System.cmd("id", ["-u"])), do: ["--allow-root"], else: []
      manager = ["--session", "--tcti=swtpm:host=127.0.0.1,port=#{port}"] ++ allow_root
      Tokens.start("tpm2-abrmd", manager, Path.join(dir, "abrmd.log"))
    end
  end

  # The second is the first one and 1: tpm2-tss looks for the control there.
  defp two_ports do
    Enum.find_value(1..50, fn _try ->
      with {:ok, first} <- :gen_tcp.listen(0, ip: {127, 0, 0, 1}),
           {:ok, port} <- :inet.port(first) do
        second = :gen_tcp.listen(port + 1, ip: {127, 0, 0, 1})
        :gen_tcp.close(first)

        with {:ok, second} <- second do
          :gen_tcp.close(second)
          [port, port + 1]
        else
          _taken -> nil
        end
      end
    end)
  end

  # The control takes any number of connections, one after the other.
  defp listens?(port) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, []) do
      {:ok, socket} -> :gen_tcp.close(socket) == :ok
      {:error, _reason} -> false
    end
  end

  defp answers?(tools),
    do:
      match?(
        {_, 0},
        System.cmd("tpm2_getrandom", ["--hex", "8"], [stderr_to_stdout: true] ++ tools)
      )
end
