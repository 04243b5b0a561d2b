defmodule HttpsExample do
  @moduledoc """
  An HTTPS server whose private key is on a token.
  """
  use Application

  alias Pkcs11Pool.{OTP, Testing, X509}

  @impl true
  def start(_type, _args) do
    token = Testing.new_token!(label: "https")

    children = [
      {Pkcs11Pool, Testing.pool_options(token, name: HttpsExample.HSM)},
      {Task.Supervisor, name: HttpsExample.Connections},
      {Task, &serve/0}
    ]

    Supervisor.start_link(children, strategy: :rest_for_one)
  end

  defp serve do
    certificates = certificates()

    {:ok, listener} =
      :ssl.listen(port(),
        certs_keys: [
          %{cert: certificates, key: OTP.private_key!(HttpsExample.HSM, "server")}
        ],
        ip: {127, 0, 0, 1},
        reuseaddr: true,
        active: false,
        packet: :http_bin
      )

    {:ok, {_address, port}} = :ssl.sockname(listener)
    IO.puts("listening on https://localhost:#{port}/")
    accept(listener)
  end

  # The server's certificate, then the CA's.
  defp certificates do
    Testing.generate_keys!(HttpsExample.HSM, ca: :p256, server: :p256)
    hsm = HttpsExample.HSM
    ca = X509.self_signed!(hsm, "ca", [common_name: "Example CA"], ca: true)
    request = X509.request!(hsm, "server", common_name: "localhost")

    certificate = X509.certificate!(hsm, "ca", ca, request, profile: :server, san: ["localhost"])

    File.write!(System.get_env("CA_FILE", "ca.pem"), X509.to_pem(:certificate, ca))
    [certificate, ca]
  end

  defp port, do: "PORT" |> System.get_env("8443") |> String.to_integer()

  defp accept(listener) do
    {:ok, socket} = :ssl.transport_accept(listener)
    {:ok, pid} = Task.Supervisor.start_child(HttpsExample.Connections, fn -> answer(socket) end)
    # It waits until the socket is its own.
    :ok = :ssl.controlling_process(socket, pid)
    send(pid, :yours)
    accept(listener)
  end

  defp answer(socket) do
    receive do
      :yours -> :ok
    end

    with {:ok, socket} <- :ssl.handshake(socket, 10_000),
         {:ok, {:http_request, _method, _path, _version}} <- :ssl.recv(socket, 0, 10_000) do
      body = "Hello, the key of this server is on a token.\n"
      head = "HTTP/1.1 200 OK\r\nContent-Length: #{byte_size(body)}\r\nConnection: close\r\n\r\n"
      :ok = :ssl.send(socket, [head, body])
      :ssl.close(socket)
    end
  end
end
