defmodule Pkcs11Pool.Build.Download do
  @moduledoc false
  # One file by HTTP or HTTPS, with what OTP brings.

  @profile :pkcs11_pool_build
  @connect_timeout 15_000
  @timeout 300_000

  @doc "Whether it is a URL that can be downloaded from."
  @spec url?(String.t()) :: boolean
  def url?(text), do: text =~ ~r{\Ahttps?://}i

  @doc "The content of a URL, or a sentence about why it cannot be had."
  @spec get(String.t()) :: {:ok, binary} | {:error, String.t()}
  def get(url) do
    with :ok <- start([:inets, :ssl, :public_key]),
         {:ok, tls} <- tls_options(url) do
      {:ok, _pid} = start_profile()

      try do
        :httpc.set_options(proxies(), @profile)
        options = [ssl: tls, connect_timeout: @connect_timeout, timeout: @timeout]
        headers = [{~c"user-agent", ~c"pkcs11_pool"}]
        request = {to_charlist(url), headers}

        case :httpc.request(:get, request, options, [body_format: :binary], @profile) do
          {:ok, {{_version, 200, _reason}, _headers, body}} -> {:ok, body}
          {:ok, {{_version, status, _reason}, _headers, _body}} -> {:error, "HTTP #{status}"}
          {:error, reason} -> {:error, in_words(reason)}
        end
      after
        :inets.stop(:httpc, @profile)
      end
    end
  end

  # A newer Mix takes what a project does not list out of the code path.
  defp start(applications) do
    Enum.reduce_while(applications, :ok, fn application, :ok ->
      if function_exported?(Mix, :ensure_application!, 1),
        do: apply(Mix, :ensure_application!, [application])

      case Application.ensure_all_started(application) do
        {:ok, _started} ->
          {:cont, :ok}

        {:error, _reason} ->
          {:halt, {:error, "Erlang's application #{application} is not installed here"}}
      end
    end)
  end

  defp start_profile do
    case :inets.start(:httpc, profile: @profile) do
      {:error, {:already_started, pid}} -> {:ok, pid}
      other -> other
    end
  end

  ## TLS

  defp tls_options(url) do
    if url =~ ~r{\Ahttps}i do
      with {:ok, certificates} <- trusted() do
        match = :public_key.pkix_verify_hostname_match_fun(:https)

        {:ok,
         [
           verify: :verify_peer,
           cacerts: certificates,
           customize_hostname_check: [match_fun: match]
         ]}
      end
    else
      {:ok, []}
    end
  end

  # Those of the operating system, or of a file, for a server whose authority is one's own.
  defp trusted do
    case System.get_env("PKCS11_POOL_CACERTS") do
      empty when empty in [nil, ""] ->
        try do
          {:ok, :public_key.cacerts_get()}
        catch
          _kind, _reason ->
            {:error,
             "this system has no list of certificate authorities: install `ca-certificates`, or name a file in PKCS11_POOL_CACERTS"}
        end

      path ->
        with {:ok, pem} <- File.read(path),
             [_ | _] = entries <- :public_key.pem_decode(pem) do
          {:ok, for({:Certificate, der, :not_encrypted} <- entries, do: der)}
        else
          _unreadable -> {:error, "PKCS11_POOL_CACERTS names no file with certificates: #{path}"}
        end
    end
  end

  ## Proxies, by the usual variables

  defp proxies do
    none =
      for host <- String.split(variable("no_proxy") || "", ",", trim: true),
          do: to_charlist(String.trim(host))

    for {name, option} <- [{"http_proxy", :proxy}, {"https_proxy", :https_proxy}],
        proxy = variable(name),
        %URI{host: host, port: port} when host != nil <- [URI.parse(proxy)],
        do: {option, {{to_charlist(host), port || 80}, none}}
  end

  defp variable(name) do
    Enum.find_value([name, String.upcase(name)], fn name ->
      case System.get_env(name) do
        empty when empty in [nil, ""] -> nil
        value -> value
      end
    end)
  end

  ## Words

  defp in_words({:failed_connect, details}) do
    Enum.find_value(details, "no connection", fn
      {_family, _options, reason} -> in_words(reason)
      _address -> nil
    end)
  end

  defp in_words({:tls_alert, {alert, text}}),
    do: "TLS refuses the server (#{alert}): #{String.trim(to_string(text))}"

  defp in_words(:timeout), do: "no answer in time"

  defp in_words(reason) when is_atom(reason) do
    case :inet.format_error(reason) do
      ~c"unknown" ++ _rest -> inspect(reason)
      words -> to_string(words)
    end
  end

  defp in_words(reason), do: inspect(reason)
end
