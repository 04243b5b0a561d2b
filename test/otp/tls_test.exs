defmodule Pkcs11Pool.OTP.TLSTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.Test.{ChaosToken, OTPLibrary, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos
  alias Pkcs11Pool.{Error, OTP, X509}

  unless OTP.supported?() do
    @moduletag skip: "keys of :ssl can be on a token from OTP 27 on"
  end

  # Mix takes OTP's applications that no dependency names out of the code path.
  @compile {:no_warn_undefined, :ssl}

  @keys ["rsa", "p256", "ed25519"]
  @timeout 30_000

  setup_all do
    if OTP.supported?(), do: set_up(), else: :ok
  end

  defp set_up do
    true = OTPLibrary.load(:ssl)
    {:ok, _started} = Application.ensure_all_started(:ssl)
    token = ChaosToken.new!()
    opts = SoftHSM.pool_opts(token, pool_size: 2)
    start_supervised!({Pkcs11Pool, opts})
    pool = opts[:name]
    for label <- ["ca" | @keys], do: key_pair!(pool, label)
    ca = X509.self_signed!(pool, "ca", [common_name: "Test CA"], ca: true)

    certificates =
      for key <- @keys, into: %{} do
        request = X509.request!(pool, key, common_name: key)

        opts = [profile: :peer, san: ["localhost", {:ip, "127.0.0.1"}]]
        {key, X509.certificate!(pool, "ca", ca, request, opts)}
      end

    %{pool: pool, token: token, chaos: token.chaos, ca: ca, certificates: certificates}
  end

  defp key_pair!(pool, "rsa") do
    Pools.signing_pair!(pool, "rsa", :rsa_pkcs_key_pair_gen,
      modulus_bits: 2048,
      public_exponent: 65_537
    )
  end

  defp key_pair!(pool, "ed25519"),
    do: Pools.signing_pair!(pool, "ed25519", :ec_edwards_key_pair_gen, ec_params: :ed25519)

  defp key_pair!(pool, label),
    do: Pools.signing_pair!(pool, label, :ec_key_pair_gen, ec_params: :secp256r1)

  defp pair(context, key),
    do: %{cert: context.certificates[key], key: OTP.private_key!(context.pool, key)}

  # A listener that says "hello" to each connection, and its port.
  defp listen!(context, key, opts) do
    opts =
      [
        certs_keys: [pair(context, key)],
        cacerts: [context.ca],
        ip: {127, 0, 0, 1},
        reuseaddr: true,
        active: false,
        mode: :binary,
        log_level: :none
      ] ++ opts

    {:ok, socket} = :ssl.listen(0, opts)
    {:ok, {_address, port}} = :ssl.sockname(socket)
    acceptor = spawn(fn -> accept(socket) end)

    on_exit(fn ->
      Process.exit(acceptor, :kill)
      :ssl.close(socket)
    end)

    port
  end

  @page "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"

  defp accept(listener) do
    case :ssl.transport_accept(listener) do
      {:ok, socket} ->
        # Neither a handshake that fails nor a client that wanted no more than one ends the listener.
        with {:ok, socket} <- :ssl.handshake(socket, @timeout),
             _headers = :ssl.recv(socket, 0, 1_000),
             :ok <- :ssl.send(socket, @page),
             do: :ssl.close(socket)

        accept(listener)

      {:error, :closed} ->
        :ok
    end
  end

  defp connect(context, port, opts) do
    opts =
      [
        cacerts: [context.ca],
        verify: :verify_peer,
        server_name_indication: ~c"localhost",
        active: false,
        mode: :binary,
        log_level: :none
      ] ++ opts

    :ssl.connect({127, 0, 0, 1}, port, opts, @timeout)
  end

  defp greeting(socket) do
    :ok = :ssl.send(socket, "GET / HTTP/1.0\r\n\r\n")
    {:ok, text} = :ssl.recv(socket, 0, @timeout)
    :ssl.close(socket)
    text
  end

  # OTP has Ed25519 in TLS 1.3 only.
  for version <- [:"tlsv1.2", :"tlsv1.3"],
      key <- @keys,
      {version, key} != {:"tlsv1.2", "ed25519"} do
    test "a server with #{key} on the token, #{version}: :ssl, openssl and curl trust it",
         context do
      serve(context, unquote(key), unquote(version))
    end

    test "a client with #{key} on the token, #{version}: :ssl and openssl take its certificate",
         context do
      connect_with_certificate(context, unquote(key), unquote(version))
    end
  end

  defp serve(context, key, version) do
    port = listen!(context, key, versions: [version])

    {:ok, socket} = connect(context, port, versions: [version])
    assert {:ok, [protocol: ^version]} = :ssl.connection_information(socket, [:protocol])
    assert greeting(socket) =~ "hello"

    ca = file!(context.ca)
    flag = if version == :"tlsv1.2", do: "-tls1_2", else: "-tls1_3"

    {output, 0} =
      System.shell(
        "echo Q | openssl s_client -connect 127.0.0.1:#{port} #{flag} -CAfile #{ca} -verify_return_error -servername localhost 2>&1"
      )

    assert output =~ "Verify return code: 0 (ok)"

    if System.find_executable("curl") do
      tls = if version == :"tlsv1.2", do: ["--tls-max", "1.2"], else: ["--tlsv1.3"]
      url = "https://localhost:#{port}/"

      assert {"hello", 0} =
               System.cmd("curl", ["--silent", "--show-error", "--cacert", ca] ++ tls ++ [url],
                 stderr_to_stdout: true
               )
    end
  end

  defp connect_with_certificate(context, key, version) do
    opts = [versions: [version], verify: :verify_peer, fail_if_no_peer_cert: true]
    port = listen!(context, "p256", opts)
    client = [versions: [version], certs_keys: [pair(context, key)]]
    {:ok, socket} = connect(context, port, client)
    assert greeting(socket) =~ "hello"

    # Without a certificate there is none: the server did ask.
    refute match?({:ok, _}, answered(connect(context, port, versions: [version])))

    assert openssl_server(context, key, version) =~ ~r/verify return:1/
  end

  # In TLS 1.3 the client's end is done before the server has seen its certificate.
  defp answered({:ok, socket}) do
    with :ok <- :ssl.send(socket, "GET / HTTP/1.0\r\n\r\n"), do: :ssl.recv(socket, 0, @timeout)
  end

  defp answered(error), do: error

  # What `openssl s_server` prints of a client that connects with a certificate.
  defp openssl_server(context, key, version) do
    {server_key, request, server_certificate} = {unique("key"), unique("csr"), unique("server")}

    SoftHSM.openssl!(
      ~w(req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost) ++
        ["-keyout", server_key, "-out", request]
    )

    [request] = request |> File.read!() |> X509.from_pem()
    opts = [profile: :server, san: ["localhost"]]
    certificate = X509.certificate!(context.pool, "ca", context.ca, request, opts)
    File.write!(server_certificate, X509.to_pem(:certificate, certificate))

    args =
      ~w(s_server -accept 127.0.0.1:0 -Verify 1 -verify_return_error -naccept 1 -www) ++
        ["-key", server_key, "-cert", server_certificate, "-CAfile", file!(context.ca)]

    port =
      Port.open({:spawn_executable, System.find_executable("openssl")}, [
        :binary,
        :stderr_to_stdout,
        :exit_status,
        line: 1000,
        args: args
      ])

    number = listening(port)

    opts = [
      versions: [version],
      certs_keys: [pair(context, key)],
      cacerts: [context.ca],
      verify: :verify_peer,
      server_name_indication: ~c"localhost",
      active: false,
      mode: :binary
    ]

    {:ok, socket} = :ssl.connect({127, 0, 0, 1}, number, opts, @timeout)
    :ok = :ssl.send(socket, "GET / HTTP/1.0\r\n\r\n")
    _page = :ssl.recv(socket, 0, @timeout)
    :ssl.close(socket)
    output(port, "")
  end

  defp listening(port) do
    receive do
      {^port, {:data, {:eol, "ACCEPT 127.0.0.1:" <> number}}} -> String.to_integer(number)
      {^port, {:data, _other}} -> listening(port)
    after
      @timeout -> flunk("openssl s_server does not listen")
    end
  end

  defp output(port, text) do
    receive do
      {^port, {:data, {_eol, line}}} -> output(port, text <> line <> "\n")
      {^port, {:exit_status, _status}} -> text
    after
      @timeout -> flunk("openssl s_server does not end: #{text}")
    end
  end

  test "pkix_sign/2 signs with it, as OTP's own records are", context do
    for key <- @keys do
      {:OTPCertificate, tbs, _algorithm, _signature} =
        :public_key.pkix_decode_cert(context.certificates[key], :otp)

      # The CA's key signs again.
      certificate = :public_key.pkix_sign(tbs, OTP.private_key!(context.pool, "ca"))
      assert {:ok, _} = :public_key.pkix_path_validation(context.ca, [certificate], [])
    end
  end

  test "handshakes fail while the token is away, the log says why, and they succeed when it is back",
       context do
    %{pool: pool, chaos: chaos, token: token} = context
    port = listen!(context, "p256", [])

    log =
      capture_log(fn ->
        results =
          for n <- 1..100 do
            if n == 30, do: Chaos.remove_token(chaos)

            if n == 60 do
              Chaos.return_token(chaos, slot_id: token.slot_id + 77)
              Poll.until(fn -> Pkcs11Pool.await_ready(pool, 5_000) == :ok end, @timeout)
            end

            case connect(context, port, []) do
              {:ok, socket} -> greeting(socket) =~ "hello" && :ok
              {:error, _alert} -> :failed
            end
          end

        {before, rest} = Enum.split(results, 29)
        {away, back} = Enum.split(rest, 30)
        assert Enum.uniq(before) == [:ok]
        assert Enum.uniq(away) == [:failed]
        assert Enum.uniq(back) == [:ok]
      end)

    # Other tests log at the same time.
    lines =
      for line <- String.split(log, "\n"),
          line =~ "a signature for :public_key or :ssl failed",
          line =~ inspect(pool),
          do: line

    # Thirty failed, for one or two reasons: a line for each, and not for each handshake.
    assert length(lines) in 1..3
    Pools.drained!(pool)
  end

  test "what the function raises is the pool's error", context do
    %{key: %{sign_fun: fun}} = pair(context, "p256")
    assert is_binary(fun.("message", :sha256, []))
    missing = OTP.private_key!(context.pool, "none", algorithm: :rsa)

    capture_log(fn ->
      assert_raise Error, ~r/no object on the token/, fn ->
        :public_key.sign("message", :sha256, missing)
      end
    end)
  end

  defp file!(der) do
    path = unique("ca")
    File.write!(path, X509.to_pem(:certificate, der))
    path
  end

  defp unique(name),
    do: Path.join(SoftHSM.dir(), "tls-#{name}-#{System.unique_integer([:positive])}.pem")
end
