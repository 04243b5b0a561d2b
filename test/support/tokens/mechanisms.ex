defmodule Pkcs11Pool.Test.Tokens.Mechanisms do
  @moduledoc """
  Uses every mechanism that a token offers and that there is a way to use here, both ways: what was signed is verified, what was encrypted is decrypted, and
  OTP's `:crypto` must agree where it can tell: on digests, MACs, ciphertexts of known keys, and signatures of public keys that can be read. What was
  changed must not be taken.
  """

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Mechanism.Params
  alias Pkcs11Pool.Test.Tokens.KeyMechanisms

  @typedoc "What came of a mechanism: it works, the token refuses it, an answer was wrong, or there is no way to use it here."
  @type result :: :works | {:refused, String.t()} | {:wrong, String.t()} | :not_tried

  # Of a message that is hashed or padded: none, less than a block, a block, several calls' worth.
  @messages ["", "m", :binary.copy("0123456789abcdef", 2), :binary.copy("message ", 200)]
  @blocks :binary.copy("0123456789abcdef", 8)
  @iv "an IV: 16 bytes."
  @gcm_iv "IV 12 bytes."

  # Of SLH-DSA the one that signs in the shortest time.
  @signing [ml_dsa: [:ml_dsa_44, :ml_dsa_65, :ml_dsa_87], slh_dsa: [:slh_dsa_sha2_128f]]
  @encapsulated [:ml_kem_512, :ml_kem_768, :ml_kem_1024]

  @doc "Every mechanism that the token offers, with what came of it, in the order of their names."
  @spec exercise(term) :: [{atom | {:vendor, non_neg_integer}, result}]
  def exercise(pool) do
    {:ok, offered} = Pkcs11Pool.mechanisms(pool)
    keys = :ets.new(:keys, [])

    results =
      for %{mechanism: name, flags: flags} = info <-
            Enum.sort_by(offered, &inspect(&1.mechanism)),
          do: {name, use_mechanism(name, flags, info, {pool, keys})}

    for {_kind, {:ok, objects}} <- :ets.tab2list(keys),
        %{objects: list} = objects,
        object <- list,
        do: Pkcs11Pool.destroy_object(pool, object)

    Enum.uniq(results)
  end

  defp use_mechanism(name, flags, info, token) do
    case ways(name, flags, info) do
      [] -> :not_tried
      ways -> ways |> Enum.map(&try_way(&1, token)) |> verdict()
    end
  end

  # One wrong answer is too many. One way that works shows that the mechanism does: a token may refuse a hash, a length, or no data.
  defp verdict(results) do
    Enum.find(results, &match?({:wrong, _}, &1)) || Enum.find(results, &(&1 == :works)) ||
      hd(results)
  end

  defp try_way(way, token) do
    go(way, token)
  catch
    {:refused, _text} = refused -> refused
    {:wrong, _text} = wrong -> wrong
  end

  ## The ways to use a mechanism

  defp ways(name, flags, info) when is_atom(name) do
    Enum.flat_map([:digest, :sign, :encrypt, :wrap, :derive, :encapsulate, :generate], fn kind ->
      if flag(kind) in flags or (kind == :generate and :generate_key_pair in flags),
        do: ways(kind, name, Atom.to_string(name), info),
        else: []
    end)
  end

  defp ways(_vendor, _flags, _info), do: []

  defp flag(kind), do: kind

  defp ways(:digest, name, _text, _info) do
    case Params.hashes() do
      %{^name => hash} ->
        if hash in :crypto.supports(:hashs),
          do: for(m <- @messages, do: {:digest, name, hash, m}),
          else: []

      _no_hash ->
        []
    end
  end

  defp ways(:sign, name, text, _info) do
    cond do
      match = Regex.run(~r/^(\w+?)_hmac(_general)?$/, text) ->
        hmac_ways(name, match)

      name == :aes_cmac ->
        for m <- @messages, do: {:mac, :aes, name, {:cmac, 16}, m}

      name == :aes_cmac_general ->
        for m <- @messages, do: {:mac, :aes, {name, length: 8}, {:cmac, 8}, m}

      name in [:aes_mac, :des3_mac, :des3_cmac] ->
        for m <- @messages, do: {:mac, cipher_key(text), name, nil, m}

      name == :rsa_pkcs ->
        [{:signature, :rsa, name, :raw, "a digest"}] ++
          for hash <- [:sha256, :sha512],
              m <- @messages,
              do: {:signature, :rsa, {name, hash: hash}, hash, m}

      name == :rsa_x_509 ->
        [{:signature, :rsa, name, :padded, <<0, 1>> <> :binary.copy("x", 254)}]

      name == :rsa_pkcs_pss ->
        for hash <- [:sha_1, :sha256, :sha384, :sha512],
            do:
              {:signature, :rsa, {name, hash: hash}, {:pss_digest, crypto_hash(hash)},
               :crypto.hash(crypto_hash(hash), "message")}

      match = Regex.run(~r/^(\w+)_rsa_pkcs_pss$/, text) ->
        with_hash(match, fn hash ->
          for m <- @messages, do: {:signature, :rsa, name, {:pss, hash}, m}
        end)

      match = Regex.run(~r/^(\w+)_rsa_pkcs$/, text) ->
        with_hash(match, fn hash -> for m <- @messages, do: {:signature, :rsa, name, hash, m} end)

      name == :ecdsa ->
        for(
          curve <- [:secp256r1, :secp384r1, :secp521r1],
          do:
            {:signature, {:ec, curve}, name, {:digest, :sha256}, :crypto.hash(:sha256, "message")}
        ) ++
          for m <- @messages,
              do: {:signature, {:ec, :secp256r1}, {name, hash: :sha256}, :sha256, m}

      match = Regex.run(~r/^ecdsa_(\w+)$/, text) ->
        with_hash(match, fn hash ->
          for curve <- [:secp256r1, :secp384r1],
              m <- @messages,
              do: {:signature, {:ec, curve}, name, hash, m}
        end)

      name == :eddsa ->
        for m <- @messages, do: {:signature, :ed25519, name, :none, m}

      match = Regex.run(~r/^(ml|slh)_dsa$/, text) ->
        for m <- @messages,
            mechanism <- [name, {name, context: "app", hedge: :deterministic}],
            do: {:signature, post_quantum(match), mechanism, nil, m}

      match = Regex.run(~r/^hash_(ml|slh)_dsa$/, text) ->
        for hash <- [:sha256, :sha512],
            do:
              {:signature, post_quantum(match), {name, hash: hash}, nil,
               :crypto.hash(hash, "message")}

      match = Regex.run(~r/^hash_(ml|slh)_dsa_\w+$/, text) ->
        for m <- @messages, do: {:signature, post_quantum(match), name, nil, m}

      true ->
        []
    end
  end

  defp ways(:encrypt, name, text, _info) do
    cond do
      name in [:aes_ecb, :des3_ecb] ->
        [{:cipher, cipher_key(text), name, cipher(text), @blocks}]

      name in [:aes_cbc, :des3_cbc] ->
        [{:cipher, cipher_key(text), iv(name), cipher(text), @blocks}]

      name in [:aes_cbc_pad, :des3_cbc_pad] ->
        for m <- @messages, do: {:cipher, cipher_key(text), iv(name), cipher(text), m}

      name == :aes_ctr ->
        for m <- @messages, do: {:cipher, :aes, {name, counter_block: @iv}, cipher(text), m}

      name in [:aes_ofb, :aes_cfb8, :aes_cfb128] ->
        for m <- @messages, do: {:cipher, :aes, iv(name), cipher(text), m}

      name == :aes_cts ->
        [{:cipher, :aes, iv(name), nil, @blocks <> "more"}]

      name == :aes_gcm ->
        for m <- @messages,
            aad <- ["", "header"],
            do: {:aead, :aes, {name, iv: @gcm_iv, aad: aad}, {@gcm_iv, aad}, m}

      name == :rsa_pkcs ->
        [{:rsa_cipher, name, [rsa_padding: :rsa_pkcs1_padding], "a secret"}]

      name == :rsa_x_509 ->
        [{:rsa_cipher, name, [rsa_padding: :rsa_no_padding], <<0, 2>> <> :binary.copy("y", 254)}]

      name == :rsa_pkcs_oaep ->
        for hash <- [:sha_1, :sha256],
            do: {:rsa_cipher, {name, hash: hash}, oaep(crypto_hash(hash)), "a secret"}

      true ->
        []
    end
  end

  defp ways(:derive, :ecdh1_derive, _text, _info), do: [{:ecdh, :bare}, {:ecdh, :der}]

  defp ways(kind, name, _text, _info) when kind in [:wrap, :derive],
    do: for(way <- KeyMechanisms.ways(kind, name), do: {:keys, way})

  defp ways(:encapsulate, :ml_kem, _text, _info),
    do: for(set <- @encapsulated, do: {:kem, {:ml_kem, set}})

  defp ways(:encapsulate, _name, _text, _info), do: []

  defp ways(:generate, name, _text, _info) do
    case name do
      :rsa_pkcs_key_pair_gen ->
        [{:generate, :rsa}]

      :ec_key_pair_gen ->
        for curve <- [:secp256r1, :secp384r1, :secp521r1], do: {:generate, {:ec, curve}}

      :ec_edwards_key_pair_gen ->
        [{:generate, :ed25519}]

      name when name in [:ml_dsa_key_pair_gen, :slh_dsa_key_pair_gen] ->
        type = if name == :ml_dsa_key_pair_gen, do: :ml_dsa, else: :slh_dsa
        for set <- @signing[type], do: {:generate, {type, set}}

      :ml_kem_key_pair_gen ->
        for set <- @encapsulated, do: {:generate, {:ml_kem, set}}

      :aes_key_gen ->
        [{:generate, :aes}]

      :des3_key_gen ->
        [{:generate, :des3}]

      :generic_secret_key_gen ->
        [{:generate, {:generic, 32}}]

      _other ->
        for way <- KeyMechanisms.ways(:generate, name), do: {:keys, way}
    end
  end

  defp post_quantum([_all, "ml"]), do: {:ml_dsa, :ml_dsa_65}
  defp post_quantum([_all, "slh"]), do: {:slh_dsa, :slh_dsa_sha2_128f}

  defp hmac_ways(name, [_all, text | general]) do
    with_hash([nil, text], fn hash ->
      size = byte_size(:crypto.hash(hash, ""))
      {mechanism, length} = if general == [], do: {name, size}, else: {{name, length: 12}, 12}
      for m <- @messages, do: {:mac, {:generic, size}, mechanism, {{:hmac, hash}, length}, m}
    end)
  end

  defp with_hash([_all, text | _rest], fun) do
    hash =
      Enum.find_value(Params.hashes(), fn {name, hash} ->
        if Atom.to_string(name) == text, do: hash
      end)

    if hash && hash in :crypto.supports(:hashs), do: fun.(hash), else: []
  end

  defp crypto_hash(hash), do: Map.fetch!(Params.hashes(), hash)

  defp cipher_key("aes" <> _), do: :aes
  defp cipher_key("des3" <> _), do: :des3

  defp cipher("aes_cbc_pad"), do: {:aes_256_cbc, @iv, padding: :pkcs_padding}
  defp cipher("aes_cfb8"), do: {:aes_256_cfb8, @iv, []}
  defp cipher("aes_cfb128"), do: {:aes_256_cfb128, @iv, []}
  defp cipher("aes_ecb"), do: {:aes_256_ecb, "", []}
  defp cipher("aes_" <> mode), do: {String.to_existing_atom("aes_256_" <> mode), @iv, []}
  defp cipher("des3_ecb"), do: nil
  defp cipher("des3_cbc_pad"), do: {:des_ede3_cbc, binary_part(@iv, 0, 8), padding: :pkcs_padding}
  defp cipher("des3_cbc"), do: {:des_ede3_cbc, binary_part(@iv, 0, 8), []}

  defp iv(name) do
    {name,
     iv:
       if(String.starts_with?(Atom.to_string(name), "des3"), do: binary_part(@iv, 0, 8), else: @iv)}
  end

  defp oaep(hash),
    do: [rsa_padding: :rsa_pkcs1_oaep_padding, rsa_oaep_md: hash, rsa_mgf1_md: hash]

  ## How each of them is used

  defp go({:digest, name, hash, data}, {pool, _keys}) do
    digest = ok!(Pkcs11Pool.digest(pool, name, data))

    if digest == :crypto.hash(hash, data),
      do: :works,
      else: wrong("#{byte_size(data)} bytes have another digest")
  end

  defp go({:mac, kind, mechanism, reference, data}, {pool, _keys} = token) do
    %{objects: [key], value: value} = key!(token, kind)
    mac = ok!(Pkcs11Pool.sign(pool, key, mechanism, data))
    takes!(pool, key, mechanism, data, mac)

    if value != nil and reference != nil and mac != reference_mac(reference, value, data),
      do: wrong("of #{byte_size(data)} bytes, :crypto makes another MAC"),
      else: :works
  end

  defp go({:signature, kind, mechanism, how, data}, {pool, _keys} = token) do
    %{objects: [public, private]} = key!(token, kind)
    signature = ok!(Pkcs11Pool.sign(pool, private, mechanism, data))
    takes!(pool, public, mechanism, data, signature)

    case Pkcs11Pool.public_key(pool, public) do
      {:ok, key} ->
        if verifies?(how, kind, key, data, signature),
          do: :works,
          else: wrong("of #{byte_size(data)} bytes, :crypto refuses the signature")

      {:error, _unreadable} ->
        :works
    end
  end

  defp go({:cipher, kind, mechanism, reference, data}, {pool, _keys} = token) do
    %{objects: [key], value: value} = key!(token, kind)
    ciphertext = ok!(Pkcs11Pool.encrypt(pool, key, mechanism, data))
    plaintext = ok!(Pkcs11Pool.decrypt(pool, key, mechanism, ciphertext))

    cond do
      plaintext != data ->
        wrong("#{byte_size(data)} bytes are decrypted to others")

      data != "" and ciphertext == data ->
        wrong("the ciphertext is the plaintext")

      value != nil and reference != nil and
          ciphertext != reference_ciphertext(reference, value, data) ->
        wrong("of #{byte_size(data)} bytes, :crypto makes another ciphertext")

      true ->
        :works
    end
  end

  defp go({:aead, kind, mechanism, {iv, aad}, data}, {pool, _keys} = token) do
    %{objects: [key], value: value} = key!(token, kind)
    ciphertext = ok!(Pkcs11Pool.encrypt(pool, key, mechanism, data))

    if value != nil do
      {expected, tag} = :crypto.crypto_one_time_aead(:aes_256_gcm, value, iv, data, aad, 16, true)

      if ciphertext != expected <> tag,
        do: wrong("of #{byte_size(data)} bytes, :crypto makes another ciphertext")
    end

    if ok!(Pkcs11Pool.decrypt(pool, key, mechanism, ciphertext)) != data,
      do: wrong("#{byte_size(data)} bytes are decrypted to others")

    case Pkcs11Pool.decrypt(pool, key, mechanism, flip(ciphertext)) do
      {:ok, _plaintext} -> wrong("a changed ciphertext is decrypted")
      {:error, %Error{reason: :decryption_failed}} -> :works
      {:error, error} -> wrong("a changed ciphertext is #{describe(error)}")
    end
  end

  defp go({:rsa_cipher, mechanism, padding, data}, {pool, _keys} = token) do
    %{objects: [public, private]} = key!(token, :rsa)
    ciphertext = ok!(Pkcs11Pool.encrypt(pool, public, mechanism, data))

    if ok!(Pkcs11Pool.decrypt(pool, private, mechanism, ciphertext)) != data,
      do: wrong("decrypted to other data")

    with {:ok, {:RSAPublicKey, n, e}} <- Pkcs11Pool.public_key(pool, public) do
      ciphertext = :crypto.public_encrypt(:rsa, data, [e, n], padding)

      if ok!(Pkcs11Pool.decrypt(pool, private, mechanism, ciphertext)) != data,
        do: wrong("what :crypto encrypted is decrypted to other data")
    end

    :works
  end

  defp go({:ecdh, form}, {pool, _keys} = token) do
    %{objects: [public, private]} = key!(token, {:ec, :secp256r1})
    {theirs, their_secret} = :crypto.generate_key(:ecdh, :secp256r1)
    point = if form == :bare, do: theirs, else: <<4, byte_size(theirs)>> <> theirs

    template =
      [
        class: :secret_key,
        key_type: :generic_secret,
        value_len: 32,
        token: true,
        label: "derived"
      ] ++ [sensitive: false, extractable: true]

    derived =
      ok!(Pkcs11Pool.derive_key(pool, private, {:ecdh1_derive, public_data: point}, template))

    value = Pkcs11Pool.get_attributes(pool, derived, [:value])
    Pkcs11Pool.destroy_object(pool, derived)

    with {:ok, {{:ECPoint, ours}, _curve}} <- Pkcs11Pool.public_key(pool, public),
         {:ok, %{value: value}} <- value do
      if value != :crypto.compute_key(:ecdh, ours, their_secret, :secp256r1),
        do: wrong(":crypto derives another secret")
    end

    :works
  end

  # Both sides on the token, since no OTP that is supported knows ML-KEM.
  defp go({:kem, kind}, {pool, _keys} = token) do
    %{objects: [public, private]} = key!(token, kind)

    template =
      [class: :secret_key, key_type: :generic_secret, value_len: 32, token: true, label: "shared"] ++
        [sensitive: false, extractable: true]

    {ciphertext, one} = ok!(Pkcs11Pool.encapsulate(pool, public, :ml_kem, template))
    other = ok!(Pkcs11Pool.decapsulate(pool, private, :ml_kem, ciphertext, template))
    third = ok!(Pkcs11Pool.decapsulate(pool, private, :ml_kem, flip(ciphertext), template))

    values =
      for object <- [one, other, third] do
        value = Pkcs11Pool.get_attributes(pool, object, [:value])
        Pkcs11Pool.destroy_object(pool, object)
        value
      end

    case values do
      [{:ok, secret}, {:ok, secret}, {:ok, secret}] ->
        wrong("a changed ciphertext has the same secret")

      [{:ok, secret}, {:ok, secret}, {:ok, _other}] ->
        :works

      [{:ok, _secret}, {:ok, _other}, _third] ->
        wrong("both sides have other secrets")

      _unreadable ->
        :works
    end
  end

  defp go({:generate, kind}, {pool, _keys}) do
    objects = ok!(generate(pool, kind, "generated"))
    for object <- objects, do: Pkcs11Pool.destroy_object(pool, object)
    :works
  end

  defp go({:keys, way}, {pool, _keys}) do
    case KeyMechanisms.go(way, pool) do
      :works -> :works
      {:wrong, text} -> wrong(text)
      {:error, error} -> throw({:refused, describe(error)})
    end
  end

  # It is taken, and so is nothing else.
  defp takes!(pool, key, mechanism, data, signature) do
    case Pkcs11Pool.verify(pool, key, mechanism, data, signature) do
      :ok ->
        :ok

      {:error, %Error{reason: :signature_invalid}} ->
        wrong("of #{byte_size(data)} bytes, its own signature is refused")

      {:error, error} ->
        throw({:refused, "verify: " <> describe(error)})
    end

    for {what, other} <- [
          {"a changed signature", flip(signature)},
          {"half a signature", binary_part(signature, 0, div(byte_size(signature), 2))}
        ] do
      case Pkcs11Pool.verify(pool, key, mechanism, data, other) do
        :ok -> wrong("#{what} is taken")
        {:error, %Error{reason: :signature_invalid}} -> :ok
        {:error, error} -> wrong("#{what} is #{describe(error)}")
      end
    end
  end

  ## What :crypto says

  defp reference_mac({{:hmac, hash}, size}, key, data),
    do: binary_part(:crypto.mac(:hmac, hash, key, data), 0, size)

  defp reference_mac({:cmac, size}, key, data),
    do: binary_part(:crypto.mac(:cmac, :aes_256_cbc, key, data), 0, size)

  defp reference_ciphertext({cipher, "", opts}, key, data),
    do: :crypto.crypto_one_time(cipher, key, data, [encrypt: true] ++ opts)

  defp reference_ciphertext({cipher, iv, opts}, key, data),
    do: :crypto.crypto_one_time(cipher, key, iv, data, [encrypt: true] ++ opts)

  defp verifies?(how, :rsa, {:RSAPublicKey, n, e}, data, signature) do
    case how do
      :raw ->
        :crypto.public_decrypt(:rsa, signature, [e, n], rsa_padding: :rsa_pkcs1_padding) == data

      :padded ->
        :crypto.public_decrypt(:rsa, signature, [e, n], rsa_padding: :rsa_no_padding) == data

      {:pss_digest, hash} ->
        :crypto.verify(:rsa, hash, {:digest, data}, signature, [e, n], pss(hash))

      {:pss, hash} ->
        :crypto.verify(:rsa, hash, data, signature, [e, n], pss(hash))

      hash ->
        :crypto.verify(:rsa, hash, data, signature, [e, n])
    end
  end

  defp verifies?(how, {:ec, curve}, {{:ECPoint, point}, _params}, data, signature) do
    {hash, message} =
      with {:digest, hash} <- how, do: {hash, {:digest, data}}, else: (hash -> {hash, data})

    size = div(byte_size(signature), 2)
    <<r::unit(8)-size(size), s::unit(8)-size(size)>> = signature
    der = :public_key.der_encode(:"ECDSA-Sig-Value", {:"ECDSA-Sig-Value", r, s})
    :crypto.verify(:ecdsa, hash, message, der, [point, curve])
  end

  defp verifies?(:none, :ed25519, {{:ECPoint, point}, _params}, data, signature),
    do: :crypto.verify(:eddsa, :none, data, signature, [point, :ed25519])

  # No OTP that is supported knows them.
  defp verifies?(nil, {_type, _set}, _key, _data, _signature), do: true

  defp pss(hash),
    do: [
      rsa_padding: :rsa_pkcs1_pss_padding,
      rsa_pss_saltlen: byte_size(:crypto.hash(hash, "")),
      rsa_mgf1_md: hash
    ]

  ## Keys

  # Each kind is made once: of a known value where the token takes one.
  defp key!({pool, keys}, kind) do
    case :ets.lookup(keys, kind) do
      [{_kind, made}] -> made
      [] -> tap(make(pool, kind), &:ets.insert(keys, {kind, &1}))
    end
    |> ok!()
  end

  defp make(pool, kind) do
    label = "key #{inspect(kind)}"

    with {:ok, type, size} <- secret(kind),
         value = known_value(type, size),
         {:ok, object} <-
           Pkcs11Pool.create_object(pool, secret_template(type, label) ++ [value: value]) do
      {:ok, %{objects: [object], value: value}}
    else
      _no_import ->
        with {:ok, objects} <- generate(pool, kind, label),
             do: {:ok, %{objects: objects, value: nil}}
    end
  end

  defp secret(:aes), do: {:ok, :aes, 32}
  defp secret(:des3), do: {:ok, :des3, 24}
  defp secret({:generic, size}), do: {:ok, :generic_secret, size}
  defp secret(_pair), do: :error

  # Of odd parity, as DES wants its keys.
  defp known_value(:des3, size) do
    for <<byte::7, _parity::1 <- :crypto.strong_rand_bytes(size)>>, into: "" do
      ones = for <<(bit::1 <- <<byte::7>>)>>, reduce: 0, do: (count -> count + bit)
      <<byte::7, rem(ones + 1, 2)::1>>
    end
  end

  defp known_value(_type, size), do: :crypto.strong_rand_bytes(size)

  defp secret_template(type, label) do
    uses =
      if type == :generic_secret,
        do: [sign: true, verify: true],
        else: [encrypt: true, decrypt: true, sign: true, verify: true]

    [class: :secret_key, key_type: type, token: true, private: true, label: label] ++ uses
  end

  defp generate(pool, kind, label) do
    common = [token: true, label: label]

    case kind do
      :rsa ->
        pair(
          pool,
          :rsa_pkcs_key_pair_gen,
          common ++ [modulus_bits: 2048, public_exponent: 65_537, verify: true, encrypt: true],
          common ++ [private: true, sign: true, decrypt: true]
        )

      {:ec, curve} ->
        pair(
          pool,
          :ec_key_pair_gen,
          common ++ [ec_params: curve, verify: true],
          common ++ [private: true, sign: true, derive: true]
        )

      :ed25519 ->
        pair(
          pool,
          :ec_edwards_key_pair_gen,
          common ++ [ec_params: :ed25519, verify: true],
          common ++ [private: true, sign: true]
        )

      {type, set} when type in [:ml_dsa, :slh_dsa] ->
        pair(
          pool,
          if(type == :ml_dsa, do: :ml_dsa_key_pair_gen, else: :slh_dsa_key_pair_gen),
          common ++ [parameter_set: set, verify: true],
          common ++ [private: true, sign: true]
        )

      {:ml_kem, set} ->
        pair(
          pool,
          :ml_kem_key_pair_gen,
          common ++ [parameter_set: set, encapsulate: true],
          common ++ [private: true, decapsulate: true]
        )

      :aes ->
        one(pool, :aes_key_gen, secret_template(:aes, label) ++ [value_len: 32])

      :des3 ->
        one(pool, :des3_key_gen, secret_template(:des3, label))

      {:generic, size} ->
        one(
          pool,
          :generic_secret_key_gen,
          secret_template(:generic_secret, label) ++ [value_len: size]
        )
    end
  end

  defp pair(pool, mechanism, public, private) do
    with {:ok, {public, private}} <-
           Pkcs11Pool.generate_key_pair(pool, mechanism, public, private),
         do: {:ok, [public, private]}
  end

  defp one(pool, mechanism, template) do
    template = Keyword.drop(template, [:class, :key_type])
    with {:ok, object} <- Pkcs11Pool.generate_key(pool, mechanism, template), do: {:ok, [object]}
  end

  @doc "Makes a key, or a pair of them, that stays on the token."
  @spec make_key(term, :ec | :rsa | :aes, String.t()) :: {:ok, [Object.t()]} | {:error, Error.t()}
  def make_key(pool, :ec, label), do: generate(pool, {:ec, :secp256r1}, label)
  def make_key(pool, kind, label), do: generate(pool, kind, label)

  @doc "A key pair that signs: P-256, or RSA where the token has no such curve."
  @spec make_signing_key(term, String.t()) :: :ok | {:error, Error.t()}
  def make_signing_key(pool, label) do
    with {:error, _no_ec} <- make_key(pool, :ec, label),
         {:error, error} <- make_key(pool, :rsa, label) do
      {:error, error}
    else
      {:ok, _objects} -> :ok
    end
  end

  @doc "Inside a lease: a pair of session objects, and the mechanism that it signs by."
  @spec session_pair(term) :: {:ok, {Object.t(), Object.t()}} | {:error, Error.t()}
  def session_pair(pool) do
    Pkcs11Pool.generate_key_pair(
      pool,
      :ec_key_pair_gen,
      [ec_params: :secp256r1, verify: true, label: "session"],
      sign: true,
      label: "session"
    )
  end

  ## Helpers

  @doc "An error in a few words: the reason, and what the module said where that is another thing."
  @spec describe(Error.t()) :: String.t()
  def describe(%Error{reason: reason, code: code, function: function}) do
    name = code && Pkcs11Pool.ReturnCode.name(code)

    told =
      cond do
        code == nil -> ""
        name == reason -> " (#{function})"
        true -> " (#{function}: #{name})"
      end

    "#{reason}#{told}"
  end

  defp ok!({:ok, value}), do: value
  defp ok!({:error, %Error{} = error}), do: throw({:refused, describe(error)})

  defp wrong(text), do: throw({:wrong, text})

  defp flip(<<first, rest::binary>>), do: <<Bitwise.bxor(first, 1)>> <> rest
end
