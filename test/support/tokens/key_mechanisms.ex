defmodule Pkcs11Pool.Test.Tokens.KeyMechanisms do
  @moduledoc """
  Mechanisms that wrap keys, and that make keys of others, on a token: what is wrapped comes back as the same key, and what is derived is what OTP's `:crypto` makes of the
  same. All keys are those of one session, so that nothing stays.
  """

  alias Pkcs11Pool.Test.KeyWrap

  @typedoc "A mechanism, and what it is tried with."
  @type way :: {:wrap | :derive | :password, term, term}

  @base :binary.list_to_bin(for i <- 1..32, do: i)
  @iv "an IV: 16 bytes."
  @nonce "IV 12 bytes."

  @doc "The ways to use a mechanism that wraps, derives or generates."
  @spec ways(:wrap | :derive | :generate, atom) :: [way]
  def ways(:wrap, name) do
    case name do
      :aes_key_wrap -> [{:wrap, name, &KeyWrap.wrap/2}]
      :aes_key_wrap_kwp -> [{:wrap, name, &KeyWrap.wrap_padded/2}]
      # Its meaning has changed from version to version.
      name when name in [:aes_key_wrap_pad, :aes_key_wrap_pkcs7] -> [{:wrap, name, nil}]
      :aes_cbc -> [{:wrap, {name, iv: @iv}, nil}]
      :aes_cbc_pad -> [{:wrap, {name, iv: @iv}, nil}]
      :aes_gcm -> [{:wrap, {name, iv: @nonce}, nil}]
      :rsa_pkcs -> [{:wrap, name, :rsa}]
      :rsa_pkcs_oaep -> for hash <- [:sha1, :sha256], do: {:wrap, {name, hash: hash}, :rsa}
      :rsa_aes_key_wrap -> for hash <- [:sha1, :sha256], do: {:wrap, {name, hash: hash}, :rsa}
      _other -> []
    end
  end

  def ways(:derive, name) do
    case name do
      :hkdf_derive ->
        [{:derive, {name, hash: :sha256, salt: @iv, info: "info"}, hkdf()}]

      :sp800_108_counter_kdf ->
        [{:derive, {name, kdf_data([])}, kdf("")}]

      :sp800_108_feedback_kdf ->
        [{:derive, {name, [iv: @iv] ++ kdf_data([:previous])}, kdf(@iv)}]

      :sp800_108_double_pipeline_kdf ->
        [{:derive, {name, kdf_data([:previous])}, kdf(pipeline())}]

      :concatenate_base_and_key ->
        [{:derive, name, @base <> @iv}]

      :concatenate_base_and_data ->
        [{:derive, {name, data: @iv}, @base <> @iv}]

      :concatenate_data_and_base ->
        [{:derive, {name, data: @iv}, @iv <> @base}]

      :xor_base_and_data ->
        [{:derive, {name, data: @base}, :binary.copy(<<0>>, 32)}]

      :extract_key_from_key ->
        [{:derive, {name, first_bit: 8}, binary_part(@base, 1, 16)}]

      :aes_ecb_encrypt_data ->
        [{:derive, {name, data: @base}, aes(:aes_256_ecb, "")}]

      :aes_cbc_encrypt_data ->
        [{:derive, {name, iv: @iv, data: @base}, aes(:aes_256_cbc, @iv)}]

      _other ->
        []
    end
  end

  def ways(:generate, :pkcs5_pbkd2) do
    params = [prf: :hmac_sha256, iterations: 1000, salt: @iv, password: "password"]
    expected = :crypto.pbkdf2_hmac(:sha256, "password", @iv, 1000, 32)
    [{:password, {:pkcs5_pbkd2, params}, expected}]
  end

  def ways(:generate, _name), do: []

  defp hkdf do
    key = :crypto.mac(:hmac, :sha256, @iv, @base)
    :crypto.mac(:hmac, :sha256, key, "info" <> <<1>>)
  end

  # NIST SP 800-108, 4: a block of HMAC-SHA-256, of which the IV, or the first block of the pipeline, is a part.
  defp kdf_data(previous) do
    data = previous ++ [{:counter, 32}, "label", <<0>>, "context", {:length, 32}]
    [prf: :sha256_hmac, data: data]
  end

  defp kdf(previous) do
    data = <<previous::binary, 1::32, "label", 0, "context", 256::32>>
    :crypto.mac(:hmac, :sha256, @base, data)
  end

  defp pipeline, do: :crypto.mac(:hmac, :sha256, @base, <<"label", 0, "context", 256::32>>)

  defp aes(cipher, iv), do: :crypto.crypto_one_time(cipher, @base, iv, @base, true)

  @doc "Uses it."
  @spec go(way, pool :: term) ::
          :works | {:wrong, String.t()} | {:error, Pkcs11Pool.Error.t()}
  def go(way, pool), do: Pkcs11Pool.with_session(pool, fn -> use_it(way, pool) end)

  defp use_it({:wrap, mechanism, reference}, pool) do
    value = :crypto.strong_rand_bytes(16)

    with {:ok, wrapping, unwrapping} <- wrapping_keys(pool, reference),
         {:ok, key} <- create(pool, :aes, value, []),
         {:ok, wrapped} <- Pkcs11Pool.wrap_key(pool, wrapping, mechanism, key),
         true <-
           not is_function(reference) or wrapped == reference.(@base, value) or
             {:wrong, ":crypto wraps it otherwise"},
         {:ok, back} <-
           Pkcs11Pool.unwrap_key(pool, unwrapping, mechanism, wrapped, secret(:aes)) do
      same(pool, back, value)
    end
  end

  defp use_it({:derive, mechanism, expected}, pool) do
    type = if mechanism_name(mechanism) =~ "encrypt_data", do: :aes, else: :generic_secret
    template = secret(:generic_secret) ++ [value_len: byte_size(expected)]

    with {:ok, base} <- create(pool, type, @base, derive: true),
         {:ok, mechanism} <- with_other_key(pool, mechanism),
         {:ok, key} <- Pkcs11Pool.derive_key(pool, base, mechanism, template),
         do: same(pool, key, expected)
  end

  defp use_it({:password, mechanism, expected}, pool) do
    template = secret(:aes) ++ [value_len: byte_size(expected)]

    with {:ok, key} <- Pkcs11Pool.generate_key(pool, mechanism, template),
         do: same(pool, key, expected)
  end

  defp mechanism_name({name, _params}), do: Atom.to_string(name)
  defp mechanism_name(name), do: Atom.to_string(name)

  defp with_other_key(pool, :concatenate_base_and_key) do
    with {:ok, key} <- create(pool, :generic_secret, @iv, derive: true),
         do: {:ok, {:concatenate_base_and_key, key: key}}
  end

  defp with_other_key(_pool, mechanism), do: {:ok, mechanism}

  defp wrapping_keys(pool, :rsa) do
    public = [modulus_bits: 2048, public_exponent: 65_537, wrap: true]

    with {:ok, {public, private}} <-
           Pkcs11Pool.generate_key_pair(pool, :rsa_pkcs_key_pair_gen, public,
             private: true,
             unwrap: true
           ),
         do: {:ok, public, private}
  end

  defp wrapping_keys(pool, _reference) do
    with {:ok, key} <- create(pool, :aes, @base, wrap: true, unwrap: true), do: {:ok, key, key}
  end

  defp create(pool, type, value, uses),
    do: Pkcs11Pool.create_object(pool, secret(type) ++ [value: value] ++ uses)

  defp secret(type),
    do: [
      class: :secret_key,
      key_type: type,
      private: true,
      sensitive: false,
      extractable: true,
      label: "key"
    ]

  # Where its value cannot be read, that there is such a key is all that can be said.
  defp same(pool, key, value) do
    case Pkcs11Pool.get_attributes(pool, key, [:value]) do
      {:ok, %{value: ^value}} -> :works
      {:ok, _other} -> {:wrong, "the key that comes of it is another one"}
      {:error, _unreadable} -> :works
    end
  end
end
