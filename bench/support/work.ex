defmodule Bench.Work do
  @moduledoc "The operations that are measured: their input, how the pool runs them, and whether an output is right."

  alias Pkcs11Pool.EcdsaSignature

  @type name :: :rsa | :ec | :hmac | :aes_gcm | :random | :verify_rsa | :verify_ec

  @names [:rsa, :ec, :hmac, :aes_gcm, :random, :verify_rsa, :verify_ec]
  @titles %{
    rsa: "RSA-2048 sign",
    ec: "P-256 sign",
    hmac: "HMAC of 1 KiB",
    aes_gcm: "AES-GCM of 1 KiB",
    random: "32 random bytes",
    verify_rsa: "RSA-2048 verify",
    verify_ec: "P-256 verify"
  }

  @mechanisms %{rsa: :sha256_rsa_pkcs, ec: :ecdsa, hmac: :sha256_hmac}

  @message :binary.copy("a message to sign. ", 3)
  @kibibyte :binary.copy("0123456789abcdef", 64)
  @iv :binary.copy(<<7>>, 12)

  @spec names() :: [name]
  def names, do: @names

  @spec title(name) :: String.t()
  def title(name), do: @titles[name]

  @doc "The label of its key."
  @spec key(name) :: String.t()
  def key(:verify_rsa), do: "rsa"
  def key(:verify_ec), do: "ec"
  def key(name), do: Atom.to_string(name)

  @doc "Its input. P-256 gets what is hashed already."
  @spec data(name) :: binary
  def data(name) when name in [:rsa, :verify_rsa], do: @message
  def data(name) when name in [:ec, :verify_ec], do: :crypto.hash(:sha256, @message)
  def data(name) when name in [:hmac, :aes_gcm], do: @kibibyte
  def data(:random), do: ""

  @doc "The mechanism by which it signs; `nil`: it does not."
  @spec mechanism(name) :: atom | nil
  def mechanism(name), do: @mechanisms[name]

  @doc "What it verifies: a signature that OTP has made."
  @spec signature(name, Bench.Tokens.t()) :: binary
  def signature(:verify_rsa, token),
    do: :public_key.sign(@message, :sha256, token.private["rsa"])

  def signature(:verify_ec, token) do
    der = :public_key.sign(@message, :sha256, token.private["ec"])
    {:ok, raw} = EcdsaSignature.from_der(der, 32)
    raw
  end

  def signature(_name, _token), do: ""

  @doc "Runs it through a pool: a function that returns its output."
  @spec operation(name, pool :: term, Bench.Tokens.t(), keyword) :: (() -> binary)
  def operation(name, pool, token, opts \\ []) do
    {key, data, signature} = {key(name), data(name), signature(name, token)}
    run(name, pool, key, data, signature, opts)
  end

  defp run(name, pool, key, data, _signature, opts) when is_map_key(@mechanisms, name) do
    mechanism = mechanism(name)
    fn -> Pkcs11Pool.sign!(pool, key, mechanism, data, opts) end
  end

  defp run(:aes_gcm, pool, key, data, _signature, opts) do
    mechanism = gcm()
    fn -> Pkcs11Pool.encrypt!(pool, key, mechanism, data, opts) end
  end

  defp run(:random, pool, _key, _data, _signature, opts),
    do: fn -> Pkcs11Pool.generate_random!(pool, 32, opts) end

  defp run(:verify_rsa, pool, key, data, signature, opts),
    do: verification(pool, key, :sha256_rsa_pkcs, data, signature, opts)

  defp run(:verify_ec, pool, key, data, signature, opts),
    do: verification(pool, key, :ecdsa, data, signature, opts)

  defp verification(pool, key, mechanism, data, signature, opts) do
    fn ->
      :ok = Pkcs11Pool.verify!(pool, key, mechanism, data, signature, opts)
      ""
    end
  end

  @doc "Those that can be prepared."
  @spec preparable() :: [name]
  def preparable, do: [:rsa, :ec, :hmac, :verify_rsa, :verify_ec]

  @doc "The same as `operation/4`, prepared once."
  @spec prepared(name, pool :: term, Bench.Tokens.t(), keyword) :: (() -> binary)
  def prepared(name, pool, token, opts \\ []) do
    {key, data, signature} = {key(name), data(name), signature(name, token)}
    {operation, mechanism} = preparation(name)
    prepared = Pkcs11Pool.prepare!(pool, operation, key, mechanism, opts)

    if operation == :sign do
      fn -> Pkcs11Pool.sign!(prepared, data) end
    else
      fn ->
        :ok = Pkcs11Pool.verify!(prepared, data, signature)
        ""
      end
    end
  end

  defp preparation(:rsa), do: {:sign, :sha256_rsa_pkcs}
  defp preparation(:ec), do: {:sign, :ecdsa}
  defp preparation(:hmac), do: {:sign, :sha256_hmac}
  defp preparation(:verify_rsa), do: {:verify, :sha256_rsa_pkcs}
  defp preparation(:verify_ec), do: {:verify, :ecdsa}

  @doc "Those of which there can be many in one call here."
  @spec batched() :: [name]
  def batched, do: [:ec, :hmac, :aes_gcm]

  @doc "So many of them in one call: a function that returns the last output."
  @spec batch(name, pool :: term, pos_integer) :: (() -> binary)
  def batch(name, pool, size) do
    {key, many} = {key(name), many(name, size)}
    fn -> pool |> many.(key) |> last() end
  end

  defp many(:ec, size), do: sign_many(:ec, :ecdsa, size)
  defp many(:hmac, size), do: sign_many(:hmac, :sha256_hmac, size)

  # As for the single caller beside it: it runs its own operations.
  @at_once [operation_timeout: :infinity]

  # Each has a nonce of its own, the last one that of the single operation.
  defp many(:aes_gcm, size) do
    list =
      for number <- size..1,
          do: {[iv: :binary.part(@iv, 0, 10) <> <<number + 0x0706::16>>], data(:aes_gcm)}

    &Pkcs11Pool.encrypt_many!(&1, &2, :aes_gcm, list, @at_once)
  end

  defp sign_many(name, mechanism, size) do
    list = List.duplicate(data(name), size)
    &Pkcs11Pool.sign_many!(&1, &2, mechanism, list, @at_once)
  end

  # Each of them must have succeeded.
  defp last([{:ok, output}]), do: output
  defp last([{:ok, _output} | rest]), do: last(rest)

  defp gcm, do: {:aes_gcm, iv: @iv, aad: "", tag_bits: 128}

  @doc "Raises unless the output is right, as others than the pool see it."
  @spec check!(name, output :: binary, Bench.Tokens.t(), who :: String.t()) :: :ok
  def check!(name, output, token, who) do
    unless right?(name, output, token),
      do: raise("#{who}: #{title(name)} gave #{Base.encode16(output)}")

    :ok
  end

  defp right?(:rsa, output, token) do
    {:RSAPrivateKey, _, n, e, _, _, _, _, _, _, _} = token.private["rsa"]
    :public_key.verify(@message, :sha256, output, {:RSAPublicKey, n, e})
  end

  defp right?(:ec, output, token) do
    private = token.private["ec"]
    {:ok, der} = EcdsaSignature.to_der(output)
    public = {{:ECPoint, elem(private, 4)}, elem(private, 3)}
    :public_key.verify(@message, :sha256, der, public)
  end

  # The token itself, which is the only one to know the key.
  defp right?(:hmac, output, token) do
    Bench.Pools.with_pool(token, [pool_size: 1], fn pool ->
      Pkcs11Pool.verify(pool, "hmac", :sha256_hmac, @kibibyte, output) == :ok
    end)
  end

  defp right?(:aes_gcm, output, token) do
    {ciphertext, tag} =
      :crypto.crypto_one_time_aead(:aes_256_gcm, token.aes, @iv, @kibibyte, "", true)

    output == ciphertext <> tag
  end

  defp right?(:random, output, _token),
    do: byte_size(output) == 32 and output != :binary.copy(<<0>>, 32)

  # They raise if not.
  defp right?(verification, output, _token) when verification in [:verify_rsa, :verify_ec],
    do: output == ""
end
