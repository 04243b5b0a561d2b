defmodule Pkcs11Pool.Test.FileServer do
  @moduledoc false
  # A small HTTP server on this machine: it gives the files of a folder, one request a connection. With `tls:` options it speaks HTTPS.

  import ExUnit.Callbacks, only: [start_supervised!: 1]

  @doc "Starts it, and returns its URL (with `localhost`), its port, and a function that says which paths were asked for."
  @spec start!(Path.t(), keyword) :: %{
          url: String.t(),
          port: :inet.port_number(),
          asked: (() -> [String.t()])
        }
  def start!(folder, opts \\ []) do
    tls = opts[:tls]

    {:ok, listener} =
      :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}, reuseaddr: true])

    {:ok, port} = :inet.port(listener)
    log = start_supervised!(Supervisor.child_spec({Agent, fn -> [] end}, id: make_ref()))
    server = {Task, fn -> accept(listener, folder, tls, log) end}
    pid = start_supervised!(Supervisor.child_spec(server, id: make_ref()))
    :ok = :gen_tcp.controlling_process(listener, pid)

    %{
      url: "#{if tls, do: "https", else: "http"}://localhost:#{port}",
      port: port,
      asked: fn -> log |> Agent.get(& &1) |> Enum.reverse() end
    }
  end

  defp accept(listener, folder, tls, log) do
    {:ok, socket} = :gen_tcp.accept(listener)

    # A client that refuses the certificate ends the handshake.
    with {:ok, transport, socket} <- handshake(socket, tls),
         do: serve(transport, socket, folder, log)

    accept(listener, folder, tls, log)
  end

  defp handshake(socket, nil), do: {:ok, :gen_tcp, socket}

  # By `apply/3`: the library itself does not depend on :ssl, and this is compiled with it.
  defp handshake(socket, options) do
    with {:ok, socket} <- apply(:ssl, :handshake, [socket, options, 30_000]),
         do: {:ok, :ssl, socket}
  end

  defp serve(transport, socket, folder, log) do
    with {:ok, path} <- request(transport, socket, "") do
      Agent.update(log, &[path | &1])

      {status, body} =
        case File.read(Path.join(folder, path)) do
          {:ok, content} -> {"200 OK", content}
          {:error, _reason} -> {"404 Not Found", ""}
        end

      head =
        "HTTP/1.1 #{status}\r\ncontent-length: #{byte_size(body)}\r\nconnection: close\r\n\r\n"

      transport.send(socket, [head, body])
    end

    transport.close(socket)
  end

  defp request(transport, socket, head) do
    with {:ok, part} <- transport.recv(socket, 0, 30_000) do
      head = head <> part

      if String.ends_with?(head, "\r\n\r\n") do
        ["GET", path | _rest] = String.split(head, " ")
        {:ok, path}
      else
        request(transport, socket, head)
      end
    end
  end
end
