defmodule Bench.Tokens do
  @moduledoc "Throwaway SoftHSM tokens with the benchmark's keys."

  alias Pkcs11Pool.Test.SoftHSM
  alias Pkcs11Pool.Testing.Chaos

  @typedoc "What `Pkcs11Pool.Test.SoftHSM` makes, and what is known of the keys."
  @type t :: map

  @typedoc "Milliseconds that C_Sign takes, and asking it for a size."
  @type latency :: %{sign: number, size_query: number}

  @doc "A token with an RSA, a P-256, an HMAC and an AES key, labelled as the operations that use them."
  @spec new!() :: t
  def new! do
    token = SoftHSM.new_token!()

    private =
      for {label, id, algorithm} <- [
            {"rsa", <<1>>, ~w(rsa:2048)},
            {"ec", <<2>>, ~w(ec -pkeyopt ec_paramgen_curve:P-256)}
          ],
          into: %{} do
        {label, pair!(token, label, id, algorithm)}
      end

    aes = file(token, "aes")

    # A tool that ends a key at its first zero byte, as softhsm2-util does, fails every time, not once in eight.
    File.write!(aes, <<0, :crypto.strong_rand_bytes(31)::binary>>)

    SoftHSM.pkcs11_tool!(
      token,
      ~w(--write-object #{aes} --type secrkey --key-type AES:32 --label aes_gcm --id 04 --private --sensitive)
    )

    SoftHSM.pkcs11_tool!(token, ~w(--keygen --key-type GENERIC:32 --label hmac --id 03))
    Map.merge(token, %{private: private, aes: File.read!(aes)})
  end

  # Java sees a key pair only with a certificate.
  defp pair!(token, label, id, algorithm) do
    [pem, certificate] = for ending <- ~w(pem crt), do: file(token, "#{label}.#{ending}")

    SoftHSM.openssl!(
      ~w(req -x509 -nodes -subj /CN=#{label} -days 2 -keyout #{pem} -out #{certificate} -newkey) ++
        algorithm
    )

    SoftHSM.import!(token, pem, label, id)

    SoftHSM.pkcs11_tool!(
      token,
      ~w(--write-object #{certificate} --type cert --label #{label} --id #{Base.encode16(id)})
    )

    [entry] = pem |> File.read!() |> :public_key.pem_decode()
    :public_key.pem_entry_decode(entry)
  end

  @doc "A file beside the token."
  @spec file(t, String.t()) :: Path.t()
  def file(token, name), do: Map.get(token, :real, token.module) <> "." <> name

  @doc """
  The same token behind a chaos module of its own that makes C_Sign slow; `nil`: as it is. A process other than this one needs one for itself.
  """
  @spec slow!(t, latency | nil) :: t
  def slow!(token, nil), do: token

  def slow!(token, latency) do
    real = Map.get(token, :real, token.module)
    chaos = Chaos.start!(real, module_env: token.module_env, tmp_dir: SoftHSM.dir())
    # Java signs in parts.
    for function <- [:C_Sign, :C_SignFinal], do: Chaos.latency(chaos, function, latency.sign)
    Chaos.size_query_latency(chaos, latency.size_query)
    Map.merge(token, %{module: chaos.module, real: real, chaos: chaos})
  end

  @doc "Removes its chaos module, if it has one: after the last pool on it has stopped."
  @spec fast(t) :: :ok
  def fast(%{chaos: chaos}), do: Chaos.stop(chaos)
  def fast(_token), do: :ok
end
