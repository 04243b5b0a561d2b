defmodule Pkcs11Pool.Test.MatrixTrial do
  @moduledoc """
  Tries a row of `Pkcs11Pool.Test.Matrix` on a pool, both ways: what the token makes is taken by the other implementation and is the same where it can be,
  and the token takes what the other one makes. Data of no bytes, of one, around a block, and of a mebibyte.
  """

  import ExUnit.Assertions

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Matrix, SoftHSM}

  @mebibyte 1_048_576

  @doc "Tries a row with keys from a table that begins empty."
  @spec try_row(atom, term, :ets.table(), Pkcs11Pool.Test.Matrix.row()) :: :ok
  def try_row(token, pool, keys, {kind, mechanism, key, reference}) do
    Process.put(:one_part, Matrix.one_part(token))
    key = key && key!(pool, keys, key)
    try_kind(kind, pool, mechanism, key, reference)
    :ok
  rescue
    error in Error -> flunk("#{inspect(mechanism)}: #{Exception.message(error)}")
  end

  ## Kinds

  defp try_kind(:digest, pool, mechanism, nil, hash) do
    for data <- data(64) do
      expected = hash(hash, data)
      assert {mechanism, Pkcs11Pool.digest(pool, mechanism, data)} == {mechanism, {:ok, expected}}

      assert {mechanism, Pkcs11Pool.digest_stream(pool, mechanism, parts(data))} ==
               {mechanism, {:ok, expected}}
    end
  end

  defp try_kind(:mac, pool, mechanism, key, reference) do
    for data <- data(if(elem(reference, 0) == :cmac, do: 16, else: 64)) do
      mac = mac(reference, key.value, data)

      assert {mechanism, Pkcs11Pool.sign(pool, key.object, mechanism, data)} ==
               {mechanism, {:ok, mac}}

      check_verification(pool, key.object, mechanism, data, mac)
      assert {:ok, [{:ok, ^mac}]} = Pkcs11Pool.sign_many(pool, key.object, mechanism, [data])

      if streamed?(mechanism, data),
        do: assert({:ok, mac} == Pkcs11Pool.sign_stream(pool, key.object, mechanism, parts(data)))
    end
  end

  defp try_kind(:signature, pool, mechanism, key, reference) do
    for data <- data(64) do
      signed = [
        Pkcs11Pool.sign(pool, key.private, mechanism, data),
        hd(Pkcs11Pool.sign_many!(pool, key.private, mechanism, [data]))
      ]

      streamed =
        if streamed?(mechanism, data),
          do: [Pkcs11Pool.sign_stream(pool, key.private, mechanism, parts(data))],
          else: []

      for result <- signed ++ streamed do
        assert {:ok, signature} =
                 with({:error, error} <- result, do: {mechanism, byte_size(data), error})

        assert verifies?(reference, key, data, signature), inspect({mechanism, byte_size(data)})
      end

      check_verification(pool, key.public, mechanism, data, signature(reference, key, data))
    end
  end

  defp try_kind(:cipher, pool, mechanism, key, reference) do
    block = if match?({:des3_cbc, _}, mechanism) or mechanism == :des3_ecb, do: 8, else: 16
    blocks? = elem(reference, 0) in [:blocks, :openssl_blocks]

    for data <- data(block), fits?(reference, data) do
      sealed = seal(reference, key.value, data)
      named = fn result -> {mechanism, byte_size(data), result} end

      assert named.(Pkcs11Pool.encrypt(pool, key.object, mechanism, data)) ==
               named.({:ok, sealed})

      assert named.(Pkcs11Pool.decrypt(pool, key.object, mechanism, sealed)) ==
               named.({:ok, data})

      case mechanism do
        {name, params} ->
          assert {:ok, [{:ok, ^sealed}]} =
                   Pkcs11Pool.encrypt_many(pool, key.object, name, [{params, data}])

          assert {:ok, [{:ok, ^data}]} =
                   Pkcs11Pool.decrypt_many(pool, key.object, name, [{params, sealed}])

        name ->
          assert {:ok, [{:ok, ^sealed}]} = Pkcs11Pool.encrypt_many(pool, key.object, name, [data])
          assert {:ok, [{:ok, ^data}]} = Pkcs11Pool.decrypt_many(pool, key.object, name, [sealed])
      end

      if streamed?(mechanism, data) do
        mechanism = streamed(mechanism, data)

        assert sealed ==
                 collect(Pkcs11Pool.encrypt_stream(pool, key.object, mechanism, parts(data)))

        opened =
          Pkcs11Pool.decrypt_stream(pool, key.object, mechanism, parts(sealed), unverified: :allow)

        assert data == collect(opened)
      end

      if elem(reference, 0) == :aead do
        assert {:error, %Error{reason: :decryption_failed}} =
                 Pkcs11Pool.decrypt(pool, key.object, mechanism, flip(sealed))
      end
    end

    if blocks? do
      for size <- [1, block - 1, block + 1] do
        assert {:error, %Error{}} =
                 Pkcs11Pool.encrypt(pool, key.object, mechanism, :binary.copy("d", size))
      end
    end
  end

  defp try_kind(:rsa_cipher, pool, mechanism, key, {padding, overhead}) do
    {e, n, d} = key.numbers
    longest = 256 - overhead

    for size <- [0, 1, longest - 1, longest], data = :binary.copy("d", size) do
      {:ok, sealed} = Pkcs11Pool.encrypt(pool, key.public, mechanism, data)
      assert :crypto.private_decrypt(:rsa, sealed, [e, n, d], padding) == data
      sealed = :crypto.public_encrypt(:rsa, data, [e, n], padding)

      assert {mechanism, size, Pkcs11Pool.decrypt(pool, key.private, mechanism, sealed)} ==
               {mechanism, size, {:ok, data}}

      assert {:ok, [{:ok, sealed}]} = Pkcs11Pool.encrypt_many(pool, key.public, mechanism, [data])

      assert {:ok, [{:ok, ^data}]} =
               Pkcs11Pool.decrypt_many(pool, key.private, mechanism, [sealed])
    end

    assert {:error, %Error{}} =
             Pkcs11Pool.encrypt(pool, key.public, mechanism, :binary.copy("d", longest + 1))

    # OpenSSL, and what is made with it, may give something at random in place of an error of PKCS #1 v1.5.
    case Pkcs11Pool.decrypt(pool, key.private, mechanism, <<1::2048>>) do
      {:ok, other} -> assert mechanism == :rsa_pkcs and other != "d"
      {:error, %Error{reason: reason}} -> assert reason == :decryption_failed
    end
  end

  defp try_kind(:agreement, pool, mechanism, key, {:ecdh, curve}) do
    {theirs, secret} = :crypto.generate_key(:ecdh, curve)
    shared = :crypto.compute_key(:ecdh, key.point, secret, curve)
    template = [class: :secret_key, key_type: :generic_secret, value_len: byte_size(shared)]
    mechanism = {mechanism, public_data: theirs}
    {:ok, derived} = Pkcs11Pool.derive_key(pool, key.private, mechanism, readable(template))

    assert {curve, Pkcs11Pool.get_attributes(pool, derived, [:value])} ==
             {curve, {:ok, %{value: shared}}}
  end

  defp try_kind(:wrap, pool, mechanism, key, reference) do
    # Whole blocks: SoftHSM pads a key to such, and wraps it so.

    for size <- [16, 24, 32, 104], value = :crypto.strong_rand_bytes(size) do
      template = [class: :secret_key, key_type: :generic_secret]
      {:ok, payload} = Pkcs11Pool.create_object(pool, readable(template ++ [value: value]))

      {:ok, wrapped} =
        Pkcs11Pool.wrap_key(pool, Map.get(key, :public, key[:object]), mechanism, payload)

      assert {mechanism, size, unwrap(reference, key, wrapped)} == {mechanism, size, value}
      theirs = wrap(reference, key, value)

      {:ok, unwrapped} =
        Pkcs11Pool.unwrap_key(
          pool,
          Map.get(key, :private, key[:object]),
          mechanism,
          theirs,
          readable(template)
        )

      assert {:ok, %{value: ^value}} = Pkcs11Pool.get_attributes(pool, unwrapped, [:value])
      bad = flip(theirs)
      private = Map.get(key, :private, key[:object])

      case Pkcs11Pool.unwrap_key(pool, private, mechanism, bad, readable(template)) do
        {:error, %Error{}} ->
          :ok

        # PKCS #1 v1.5 says nothing of the content.
        {:ok, object} ->
          assert {:ok, %{value: other}} = Pkcs11Pool.get_attributes(pool, object, [:value])
          assert other != value
      end
    end
  end

  defp check_verification(pool, key, mechanism, data, good) do
    assert {mechanism, byte_size(data), Pkcs11Pool.verify(pool, key, mechanism, data, good)} ==
             {mechanism, byte_size(data), :ok}

    assert {:ok, [{:ok, true}, {:error, %Error{reason: :signature_invalid}}]} =
             Pkcs11Pool.verify_many(pool, key, mechanism, [{data, good}, {data, flip(good)}])

    other = if data == "", do: "!", else: flip(data)
    assert {:error, error} = Pkcs11Pool.verify(pool, key, mechanism, other, good)

    assert {mechanism, byte_size(data), error.reason} ==
             {mechanism, byte_size(data), :signature_invalid}

    if streamed?(mechanism, data),
      do: assert(:ok == Pkcs11Pool.verify_stream(pool, key, mechanism, parts(data), good))
  end

  ## The other implementation

  defp hash({:openssl, name, _size}, data), do: openssl(["dgst", "-" <> name, "-binary"], data)
  defp hash(hash, data), do: :crypto.hash(hash, data)

  defp mac({:hmac, {:openssl, name, _size}, :whole}, key, data) do
    openssl(
      [
        "dgst",
        "-" <> name,
        "-mac",
        "HMAC",
        "-macopt",
        "hexkey:" <> Base.encode16(key),
        "-binary"
      ],
      data
    )
  end

  defp mac({:hmac, hash, :whole}, key, data), do: :crypto.mac(:hmac, hash, key, data)

  defp mac({:hmac, hash, length}, key, data),
    do: binary_part(:crypto.mac(:hmac, hash, key, data), 0, length)

  defp mac({:cmac, cipher, length}, key, data),
    do: binary_part(:crypto.mac(:cmac, cipher, key, data), 0, length)

  defp verifies?({:rsa, hash}, %{numbers: {e, n, _d}}, data, signature),
    do: :crypto.verify(:rsa, hash, data, signature, [e, n])

  defp verifies?({:pss, hash}, %{numbers: {e, n, _d}}, data, signature),
    do: :crypto.verify(:rsa, hash, data, signature, [e, n], pss())

  defp verifies?({:ecdsa, hash}, %{point: point, curve: curve}, data, signature) do
    {:ok, der} = Pkcs11Pool.EcdsaSignature.to_der(signature)
    :crypto.verify(:ecdsa, hash, data, der, [point, curve])
  end

  defp verifies?({:eddsa, curve}, %{point: point}, data, signature),
    do: :crypto.verify(:eddsa, :none, data, signature, [point, curve])

  defp signature({:rsa, hash}, %{numbers: {e, n, d}}, data),
    do: :crypto.sign(:rsa, hash, data, [e, n, d])

  defp signature({:pss, hash}, %{numbers: {e, n, d}}, data),
    do: :crypto.sign(:rsa, hash, data, [e, n, d], pss())

  defp signature({:ecdsa, hash}, %{secret: secret, curve: curve, order_size: size}, data) do
    der = :crypto.sign(:ecdsa, hash, data, [secret, curve])
    {:ok, raw} = Pkcs11Pool.EcdsaSignature.from_der(der, size)
    raw
  end

  defp signature({:eddsa, curve}, %{secret: secret}, data),
    do: :crypto.sign(:eddsa, :none, data, [secret, curve])

  # A salt as long as the hash.
  defp pss, do: [rsa_padding: :rsa_pkcs1_pss_padding, rsa_pss_saltlen: -1]

  defp fits?({kind, _cipher, iv}, data) when kind == :blocks,
    do: rem(byte_size(data), if(byte_size(iv) == 8, do: 8, else: 16)) == 0

  defp fits?({:openssl_blocks, _cipher}, data), do: data != "" and rem(byte_size(data), 8) == 0
  defp fits?({:stealing, _cipher, _iv}, data), do: byte_size(data) >= 16
  defp fits?(_reference, _data), do: true

  defp seal({:blocks, cipher, iv}, key, data), do: one_time(cipher, key, iv, data, true)
  defp seal({:stream, cipher, iv}, key, data), do: one_time(cipher, key, iv, data, true)

  defp seal({:padded, cipher, iv}, key, data),
    do: one_time(cipher, key, iv, data, encrypt: true, padding: :pkcs_padding)

  defp seal({:aead, cipher, iv, aad, tag_size}, key, data) do
    {sealed, tag} = :crypto.crypto_one_time_aead(cipher, key, iv, data, aad, tag_size, true)
    sealed <> tag
  end

  # CBC-CS1 (NIST SP 800-38A, addendum): the last but one block loses what the last one has been filled up with.
  defp seal({:stealing, cipher, iv}, key, data) do
    case rem(byte_size(data), 16) do
      0 ->
        one_time(cipher, key, iv, data, true)

      rest ->
        filled = one_time(cipher, key, iv, data <> :binary.copy(<<0>>, 16 - rest), true)
        kept = byte_size(filled) - 32 + rest
        binary_part(filled, 0, kept) <> binary_part(filled, byte_size(filled), -16)
    end
  end

  defp seal({:openssl_blocks, cipher}, key, data),
    do: openssl(["enc", "-" <> cipher, "-nopad", "-K", Base.encode16(key)], data, "-in")

  defp one_time(cipher, key, "", data, flag), do: :crypto.crypto_one_time(cipher, key, data, flag)

  defp one_time(cipher, key, iv, data, flag),
    do: :crypto.crypto_one_time(cipher, key, iv, data, flag)

  defp wrap(padding, %{numbers: {e, n, _d}}, value) when is_list(padding),
    do: :crypto.public_encrypt(:rsa, value, [e, n], padding)

  # RFC 3394 and 5649.
  defp wrap(:key_wrap, %{value: key}, value),
    do: wrap_blocks(key, <<0xA6A6A6A6A6A6A6A6::64>>, value)

  defp wrap(:key_wrap_pad, %{value: key}, value) do
    padded = value <> :binary.copy(<<0>>, rem(8 - rem(byte_size(value), 8), 8))
    wrap_blocks(key, <<0xA65959A6::32, byte_size(value)::32>>, padded)
  end

  defp wrap_blocks(key, initial, value) do
    blocks = for <<block::binary-size(8) <- value>>, do: block
    n = length(blocks)

    {a, blocks} =
      for(j <- 0..5, i <- 1..n, do: {j, i})
      |> Enum.reduce({initial, blocks}, fn {j, i}, {a, blocks} ->
        <<a::64, block::binary-size(8)>> =
          :crypto.crypto_one_time(:aes_256_ecb, key, a <> Enum.at(blocks, i - 1), true)

        {<<Bitwise.bxor(a, n * j + i)::64>>, List.replace_at(blocks, i - 1, block)}
      end)

    Enum.join([a | blocks])
  end

  defp unwrap(padding, %{numbers: {e, n, d}}, wrapped) when is_list(padding),
    do: :crypto.private_decrypt(:rsa, wrapped, [e, n, d], padding)

  defp unwrap(:key_wrap, %{value: key}, wrapped) do
    {<<0xA6A6A6A6A6A6A6A6::64>>, value} = unwrap_blocks(key, wrapped)
    value
  end

  defp unwrap(:key_wrap_pad, %{value: key}, wrapped) do
    {<<0xA65959A6::32, size::32>>, padded} = unwrap_blocks(key, wrapped)
    binary_part(padded, 0, size)
  end

  defp unwrap_blocks(key, <<a::binary-size(8), wrapped::binary>>) do
    blocks = for <<block::binary-size(8) <- wrapped>>, do: block
    n = length(blocks)

    {a, blocks} =
      for(j <- 5..0//-1, i <- n..1//-1, do: {j, i})
      |> Enum.reduce({a, blocks}, fn {j, i}, {<<a::64>>, blocks} ->
        input = <<Bitwise.bxor(a, n * j + i)::64>> <> Enum.at(blocks, i - 1)

        <<a::binary-size(8), block::binary-size(8)>> =
          :crypto.crypto_one_time(:aes_256_ecb, key, input, false)

        {a, List.replace_at(blocks, i - 1, block)}
      end)

    {a, Enum.join(blocks)}
  end

  # What openssl prints for the data.
  defp openssl(args, data, option \\ nil) do
    path = Path.join(SoftHSM.dir(), "matrix-#{System.unique_integer([:positive])}")
    File.write!(path, data)
    output = SoftHSM.openssl!(args ++ if(option, do: [option, path], else: [path]))
    File.rm!(path)
    output
  end

  ## Keys: made here, so that both sides have them

  defp key!(pool, keys, kind) do
    case :ets.lookup(keys, kind) do
      [{_kind, key}] ->
        key

      [] ->
        key = make!(pool, kind)
        :ets.insert(keys, {kind, key})
        key
    end
  end

  defp make!(pool, kind) when kind in [:aes, :des3, :chacha20] or elem(kind, 0) == :generic do
    {type, size} =
      case kind do
        :aes -> {:aes, 32}
        :des3 -> {:des3, 24}
        :chacha20 -> {:chacha20, 32}
        {:generic, size} -> {:generic_secret, size}
      end

    value = odd_parity(type, :crypto.strong_rand_bytes(size))

    uses =
      if type == :generic_secret, do: [:sign, :verify], else: [:encrypt, :decrypt, :sign, :verify]

    uses = if type == :aes, do: uses ++ [:wrap, :unwrap], else: uses
    template = [class: :secret_key, key_type: type, token: true, value: value, label: "#{type}"]
    {:ok, object} = Pkcs11Pool.create_object(pool, template ++ for(use <- uses, do: {use, true}))
    %{value: value, object: object}
  end

  defp make!(pool, :rsa) do
    {:RSAPrivateKey, _, n, e, d, _, _, _, _, _, _} =
      key = :public_key.generate_key({:rsa, 2048, 65_537})

    private = [label: "rsa", token: true, sign: true, decrypt: true, unwrap: true]
    {:ok, private} = Pkcs11Pool.import_private_key(pool, key, private)

    {:ok, public} =
      Pkcs11Pool.create_object(pool,
        class: :public_key,
        key_type: :rsa,
        token: true,
        label: "rsa",
        verify: true,
        encrypt: true,
        wrap: true,
        modulus: n,
        public_exponent: e
      )

    %{private: private, public: public, numbers: {e, n, d}}
  end

  defp make!(pool, {family, curve}) do
    type = if family == :edwards and curve in [:ed25519, :ed448], do: :eddsa, else: :ecdh
    {point, secret} = :crypto.generate_key(type, curve)
    key_type = %{ec: :ec, edwards: :ec_edwards, montgomery: :ec_montgomery}[family]
    common = [key_type: key_type, token: true, label: "#{curve}", ec_params: curve]
    order_size = if family == :ec, do: order_size(curve)
    secret = if family == :ec, do: pad(secret, order_size), else: secret
    uses = if type == :eddsa, do: [sign: true], else: [derive: true]
    uses = if family == :ec, do: [sign: true, derive: true], else: uses

    {:ok, private} =
      Pkcs11Pool.create_object(pool, [class: :private_key, value: secret] ++ uses ++ common)

    verify = if family == :montgomery, do: [], else: [verify: true]

    {:ok, public} =
      Pkcs11Pool.create_object(
        pool,
        [class: :public_key, ec_point: der(point)] ++ verify ++ common
      )

    %{
      private: private,
      public: public,
      point: point,
      secret: secret,
      curve: curve,
      order_size: order_size
    }
  end

  defp order_size(curve) do
    {_field, _coefficients, _base, order, _cofactor} = :crypto.ec_curve(curve)
    byte_size(order)
  end

  defp pad(secret, size), do: :binary.copy(<<0>>, size - byte_size(secret)) <> secret

  defp der(point) when byte_size(point) < 128, do: <<4, byte_size(point)>> <> point
  defp der(point), do: <<4, 0x81, byte_size(point)>> <> point

  defp odd_parity(:des3, value), do: for(<<byte <- value>>, into: <<>>, do: <<odd(byte)>>)
  defp odd_parity(_type, value), do: value

  defp odd(byte) do
    ones = for(<<(bit::1 <- <<byte>>)>>, do: bit) |> Enum.sum()
    if rem(ones, 2) == 1, do: byte, else: Bitwise.bxor(byte, 1)
  end

  defp readable(template),
    do: template ++ [token: true, private: true, sensitive: false, extractable: true]

  ## Data

  defp data(block) do
    for size <- [0, 1, block - 1, block, block + 1, @mebibyte], do: bytes(size)
  end

  # The same for each size, and no block like the one before.
  defp bytes(@mebibyte) do
    for(number <- 1..div(@mebibyte, 8), into: <<>>, do: <<number::64>>)
  end

  defp bytes(size), do: binary_part(for(number <- 1..100, into: <<>>, do: <<number>>), 0, size)

  defp parts(data) when byte_size(data) < 100, do: for(<<byte::binary-size(1) <- data>>, do: byte)

  defp parts(data) do
    {first, rest} = {binary_part(data, 0, 1), binary_part(data, 1, byte_size(data) - 1)}
    [first | for(<<part::binary-size(65_535) <- rest>>, do: part)] ++ [tail(rest, 65_535)]
  end

  defp tail(data, size), do: binary_part(data, byte_size(data), -rem(byte_size(data), size))

  # A stream of no data is an operation that has not begun, if kryoptic is asked.
  defp streamed?({name, _params}, data), do: streamed?(name, data)
  defp streamed?(name, data), do: data != "" and name not in Process.get(:one_part)

  defp streamed({:aes_ccm, params}, data),
    do: {:aes_ccm, params ++ [data_length: byte_size(data)]}

  defp streamed(mechanism, _data), do: mechanism

  defp collect(stream), do: stream |> Enum.to_list() |> IO.iodata_to_binary()

  defp flip(binary) do
    {first, last} = {binary_part(binary, 0, byte_size(binary) - 1), :binary.last(binary)}
    first <> <<Bitwise.bxor(last, 1)>>
  end
end
