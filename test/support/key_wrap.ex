defmodule Pkcs11Pool.Test.KeyWrap do
  @moduledoc """
  AES key wrap without padding (RFC 3394) and with it (RFC 5649), and what is made of that with RSA and ECDH (PKCS#11 3.2, 6.1.22 and 6.3.20), by OTP's `:crypto`:
  another implementation than a token's.
  """

  @icv :binary.copy(<<0xA6>>, 8)

  @doc "Wraps a key whose length is a multiple of 8 (RFC 3394)."
  @spec wrap(kek :: binary, binary) :: binary
  def wrap(kek, key) when rem(byte_size(key), 8) == 0 and byte_size(key) >= 16,
    do: run(kek, @icv, key)

  @doc "Unwraps what `wrap/2` wrapped, or `:error`."
  @spec unwrap(kek :: binary, binary) :: {:ok, binary} | :error
  def unwrap(kek, wrapped) do
    case invert(kek, wrapped) do
      {@icv, key} -> {:ok, key}
      _other -> :error
    end
  end

  @doc "Wraps a key of any length (RFC 5649)."
  @spec wrap_padded(kek :: binary, binary) :: binary
  def wrap_padded(kek, key) do
    size = byte_size(key)
    padded = key <> :binary.copy(<<0>>, rem(8 - rem(size, 8), 8))
    icv = <<0xA65959A6::32, size::32>>
    if byte_size(padded) == 8, do: encrypt(kek, icv <> padded), else: run(kek, icv, padded)
  end

  @doc "Unwraps what `wrap_padded/2` wrapped, or `:error`."
  @spec unwrap_padded(kek :: binary, binary) :: {:ok, binary} | :error
  def unwrap_padded(kek, wrapped) do
    {icv, padded} =
      if byte_size(wrapped) == 16 do
        <<icv::binary-8, padded::binary-8>> = decrypt(kek, wrapped)
        {icv, padded}
      else
        invert(kek, wrapped)
      end

    with <<0xA65959A6::32, size::32>> <- icv,
         true <- size <= byte_size(padded) and byte_size(padded) - size < 8,
         <<key::binary-size(size), padding::binary>> <- padded,
         true <- padding == :binary.copy(<<0>>, byte_size(padding)) do
      {:ok, key}
    else
      _other -> :error
    end
  end

  @doc "Wraps a key with an AES key of so many bits, and that with an RSA key by OAEP (`CKM_RSA_AES_KEY_WRAP`)."
  @spec wrap_rsa_aes(tuple, bits :: pos_integer, hash :: atom, label :: binary, binary) :: binary
  def wrap_rsa_aes(public_key, bits, hash, label, key) do
    aes = :crypto.strong_rand_bytes(div(bits, 8))
    :public_key.encrypt_public(aes, public_key, oaep(hash, label)) <> wrap_padded(aes, key)
  end

  @doc "Unwraps what `wrap_rsa_aes/5` wrapped: the key, and the bits of the AES key."
  @spec unwrap_rsa_aes(tuple, hash :: atom, label :: binary, binary) ::
          {:ok, binary, bits :: pos_integer} | :error
  def unwrap_rsa_aes({:RSAPrivateKey, _, n, _, _, _, _, _, _, _, _} = key, hash, label, wrapped) do
    size = byte_size(:binary.encode_unsigned(n))
    <<first::binary-size(size), rest::binary>> = wrapped
    aes = :public_key.decrypt_private(first, key, oaep(hash, label))
    with {:ok, value} <- unwrap_padded(aes, rest), do: {:ok, value, bit_size(aes)}
  end

  @doc "Wraps a key with an AES key of so many bits that a new pair on the curve and this public key share (`CKM_ECDH_AES_KEY_WRAP`). The hash is that of the KDF of ANSI X9.63; nil: none."
  @spec wrap_ecdh_aes(tuple, bits :: pos_integer, hash :: atom | nil, shared :: binary, binary) ::
          binary
  def wrap_ecdh_aes({{:ECPoint, theirs}, {:namedCurve, oid}}, bits, hash, shared, key) do
    curve = :pubkey_cert_records.namedCurves(oid)
    {point, secret} = :crypto.generate_key(:ecdh, curve)
    aes = kdf(:crypto.compute_key(:ecdh, theirs, secret, curve), hash, shared, div(bits, 8))
    point <> wrap_padded(aes, key)
  end

  @doc "Unwraps what `wrap_ecdh_aes/5` wrapped."
  @spec unwrap_ecdh_aes(tuple, bits :: pos_integer, hash :: atom | nil, shared :: binary, binary) ::
          {:ok, binary} | :error
  def unwrap_ecdh_aes(private_key, bits, hash, shared, wrapped) do
    {:namedCurve, oid} = elem(private_key, 3)
    curve = :pubkey_cert_records.namedCurves(oid)
    size = byte_size(elem(private_key, 4))
    <<point::binary-size(size), rest::binary>> = wrapped
    secret = :crypto.compute_key(:ecdh, point, elem(private_key, 2), curve)
    unwrap_padded(kdf(secret, hash, shared, div(bits, 8)), rest)
  end

  # ANSI X9.63, 5.6.3.
  defp kdf(secret, nil, "", size), do: binary_part(secret, 0, size)

  defp kdf(secret, hash, shared, size) do
    blocks = for n <- 1..4, into: "", do: :crypto.hash(hash, [secret, <<n::32>>, shared])
    binary_part(blocks, 0, size)
  end

  defp oaep(hash, label) do
    [
      rsa_padding: :rsa_pkcs1_oaep_padding,
      rsa_oaep_md: hash,
      rsa_mgf1_md: hash,
      rsa_oaep_label: label
    ]
  end

  # RFC 3394, 2.2.1.
  defp run(kek, icv, key) do
    registers = for <<register::binary-8 <- key>>, do: register
    count = length(registers)

    {a, registers} =
      for round <- 0..5, reduce: {icv, registers} do
        {a, registers} ->
          {registers, a} =
            registers
            |> Enum.with_index(1)
            |> Enum.map_reduce(a, fn {register, i}, a ->
              <<high::64, low::binary-8>> = encrypt(kek, a <> register)
              {low, <<Bitwise.bxor(high, count * round + i)::64>>}
            end)

          {a, registers}
      end

    IO.iodata_to_binary([a | registers])
  end

  # RFC 3394, 2.2.2.
  defp invert(kek, <<a::binary-8, wrapped::binary>>) do
    registers = for <<register::binary-8 <- wrapped>>, do: register
    count = length(registers)

    {a, registers} =
      for round <- 5..0//-1, reduce: {a, registers} do
        {a, registers} ->
          {reversed, a} =
            registers
            |> Enum.with_index(1)
            |> Enum.reverse()
            |> Enum.map_reduce(a, fn {register, i}, <<a::64>> ->
              <<a::binary-8, low::binary-8>> =
                decrypt(kek, <<Bitwise.bxor(a, count * round + i)::64>> <> register)

              {low, a}
            end)

          {a, Enum.reverse(reversed)}
      end

    {a, IO.iodata_to_binary(registers)}
  end

  defp encrypt(kek, block), do: :crypto.crypto_one_time(cipher(kek), kek, block, true)
  defp decrypt(kek, block), do: :crypto.crypto_one_time(cipher(kek), kek, block, false)

  defp cipher(kek), do: :"aes_#{8 * byte_size(kek)}_ecb"
end
