defmodule Pkcs11Pool.Test.Supported do
  @moduledoc """
  `guides/supported.md`: what is supported, by C function and by mechanism, with the tests that cover it.

  The tables of mechanisms come from `Pkcs11Pool.Test.Matrix` and from what stands here; `PKCS11_POOL_WRITE_GUIDE=1 mix test
  test/docs/supported_guide_test.exs` writes them into the guide.
  """

  alias Pkcs11Pool.Mechanism.Params
  alias Pkcs11Pool.Table.Mechanisms
  alias Pkcs11Pool.Test.Matrix

  @guide "guides/supported.md"
  @marks ["<!-- supported: begin -->\n", "<!-- supported: end -->"]
  @matrix "test/matrix/matrix_test.exs"

  # {the C function, what of this library calls it, the tests}. The functions are Pkcs11Pool's, unless a module is named.
  @c_functions [
    {:C_Initialize, ~w(start_link/1 reload/2),
     ~w(test/pool/start_test.exs test/recovery/reload_test.exs)},
    {:C_Finalize, ~w(reload/2), ~w(test/recovery/reload_test.exs)},
    {:C_GetInfo, ~w(Token.list/1), ~w(test/module/token_test.exs)},
    {:C_GetFunctionList, ~w(start_link/1), ~w(test/pool/start_test.exs)},
    {:C_GetInterface, ~w(start_link/1), ~w(test/module/interfaces_test.exs)},
    {:C_GetInterfaceList, ~w(Token.list/1), ~w(test/module/interfaces_test.exs)},
    {:C_GetSlotList, ~w(start_link/1 Token.list/1),
     ~w(test/pool/start_test.exs test/module/token_test.exs)},
    {:C_GetSlotInfo, ~w(Token.list/1), ~w(test/module/token_test.exs)},
    {:C_GetTokenInfo, ~w(token_info/2 Token.list/1),
     ~w(test/api/information_test.exs test/module/token_test.exs)},
    {:C_GetMechanismList, ~w(mechanisms/1), ~w(test/api/parameters_test.exs)},
    {:C_GetMechanismInfo, ~w(mechanisms/1 encrypt/5 decrypt/5),
     ~w(test/api/parameters_test.exs test/api/messages_test.exs)},
    {:C_WaitForSlotEvent, ~w(start_link/1), ~w(test/recovery/slot_events_test.exs)},
    {:C_InitToken, ~w(Token.init/3), ~w(test/module/token_test.exs)},
    {:C_InitPIN, ~w(Token.init_pin/3), ~w(test/module/token_test.exs)},
    {:C_SetPIN, ~w(Token.set_pin/3), ~w(test/module/token_test.exs)},
    {:C_OpenSession, ~w(start_link/1), ~w(test/pool/start_test.exs test/pool/ceiling_test.exs)},
    {:C_CloseSession, ~w(resize/2), ~w(test/pool/resize_test.exs)},
    {:C_GetSessionInfo, ~w(start_link/1), ~w(test/pool/keepalive_test.exs)},
    {:C_SessionCancel, ~w(with_session/3), ~w(test/pool/stream_life_test.exs)},
    {:C_Login, ~w(login/3), ~w(test/login/login_gate_test.exs test/login/pin_test.exs)},
    {:C_LoginUser, ~w(start_link/1), ~w(test/module/interfaces_test.exs)},
    {:C_Logout, ~w(logout/2), ~w(test/login/logout_test.exs)},
    {:C_CreateObject, ~w(create_object/3 import_private_key/4),
     ~w(test/api/create_object_test.exs test/api/import_private_key_test.exs)},
    {:C_CopyObject, ~w(copy_object/4), ~w(test/api/create_object_test.exs)},
    {:C_DestroyObject, ~w(destroy_object/3), ~w(test/api/objects_test.exs)},
    {:C_GetObjectSize, ~w(object_size/3), ~w(test/api/create_object_test.exs)},
    {:C_GetAttributeValue, ~w(get_attributes/4 public_key/3 key_info/3 prepare/5),
     ~w(test/api/objects_test.exs test/api/key_info_test.exs test/api/prepare_test.exs)},
    {:C_SetAttributeValue, ~w(set_attributes/4), ~w(test/api/create_object_test.exs)},
    {:C_FindObjectsInit, ~w(find_objects/3), ~w(test/api/object_search_test.exs)},
    {:C_FindObjects, ~w(find_objects/3), ~w(test/api/object_search_test.exs)},
    {:C_FindObjectsFinal, ~w(find_objects/3), ~w(test/api/object_search_test.exs)},
    {:C_EncryptInit, ~w(encrypt/5 encrypt_many/5 encrypt_stream/5),
     [@matrix, "test/api/cipher_test.exs"]},
    {:C_Encrypt, ~w(encrypt/5 encrypt_many/5), [@matrix, "test/api/cipher_test.exs"]},
    {:C_EncryptUpdate, ~w(encrypt_stream/5), [@matrix, "test/api/stream_test.exs"]},
    {:C_EncryptFinal, ~w(encrypt_stream/5), [@matrix, "test/api/stream_test.exs"]},
    {:C_DecryptInit, ~w(decrypt/5 decrypt_many/5 decrypt_stream/5),
     [@matrix, "test/api/cipher_test.exs"]},
    {:C_Decrypt, ~w(decrypt/5 decrypt_many/5), [@matrix, "test/api/cipher_test.exs"]},
    {:C_DecryptUpdate, ~w(decrypt_stream/5), [@matrix, "test/api/stream_test.exs"]},
    {:C_DecryptFinal, ~w(decrypt_stream/5), [@matrix, "test/api/stream_test.exs"]},
    {:C_DigestInit, ~w(digest/4 digest_key/4 digest_stream/4),
     [@matrix, "test/api/digest_key_test.exs"]},
    {:C_Digest, ~w(digest/4), [@matrix]},
    {:C_DigestUpdate, ~w(digest_key/4 digest_stream/4),
     [@matrix, "test/api/digest_key_test.exs"]},
    {:C_DigestKey, ~w(digest_key/4), ~w(test/api/digest_key_test.exs)},
    {:C_DigestFinal, ~w(digest_key/4 digest_stream/4), [@matrix, "test/api/digest_key_test.exs"]},
    {:C_SignInit, ~w(sign/5 sign_many/5 sign_stream/5), [@matrix, "test/api/sign_test.exs"]},
    {:C_Sign, ~w(sign/5 sign_many/5), [@matrix, "test/api/sign_test.exs"]},
    {:C_SignUpdate, ~w(sign_stream/5), [@matrix, "test/api/stream_test.exs"]},
    {:C_SignFinal, ~w(sign_stream/5), [@matrix, "test/api/stream_test.exs"]},
    {:C_VerifyInit, ~w(verify/6 verify_many/5 verify_stream/6),
     [@matrix, "test/api/sign_test.exs"]},
    {:C_Verify, ~w(verify/6 verify_many/5), [@matrix, "test/api/sign_test.exs"]},
    {:C_VerifyUpdate, ~w(verify_stream/6), [@matrix, "test/api/stream_test.exs"]},
    {:C_VerifyFinal, ~w(verify_stream/6), [@matrix, "test/api/stream_test.exs"]},
    {:C_GenerateKey, ~w(generate_key/4), ~w(test/api/cipher_test.exs)},
    {:C_GenerateKeyPair, ~w(generate_key_pair/5), ~w(test/api/sign_test.exs)},
    {:C_WrapKey, ~w(wrap_key/5), [@matrix, "test/api/wrap_test.exs"]},
    {:C_UnwrapKey, ~w(unwrap_key/6), [@matrix, "test/api/unwrap_derive_test.exs"]},
    {:C_DeriveKey, ~w(derive_key/5), [@matrix, "test/api/derive_test.exs"]},
    {:C_EncapsulateKey, ~w(encapsulate/5), ~w(test/api/encapsulation_test.exs)},
    {:C_DecapsulateKey, ~w(decapsulate/6), ~w(test/api/encapsulation_test.exs)},
    {:C_MessageEncryptInit, ~w(encrypt/5 encrypt_many/5),
     ~w(test/api/token_iv_test.exs test/api/messages_test.exs)},
    {:C_EncryptMessage, ~w(encrypt/5 encrypt_many/5),
     ~w(test/api/token_iv_test.exs test/api/messages_test.exs)},
    {:C_MessageEncryptFinal, ~w(encrypt/5 encrypt_many/5),
     ~w(test/api/token_iv_test.exs test/api/messages_test.exs)},
    {:C_MessageDecryptInit, ~w(decrypt/5 decrypt_many/5),
     ~w(test/api/messages_test.exs test/wycheproof/ciphers_test.exs)},
    {:C_DecryptMessage, ~w(decrypt/5 decrypt_many/5),
     ~w(test/api/messages_test.exs test/wycheproof/ciphers_test.exs)},
    {:C_MessageDecryptFinal, ~w(decrypt/5 decrypt_many/5),
     ~w(test/api/messages_test.exs test/wycheproof/ciphers_test.exs)},
    {:C_SeedRandom, ~w(seed_random/3), ~w(test/api/digest_key_test.exs)},
    {:C_GenerateRandom, ~w(generate_random/3), ~w(test/api/random_chunk_test.exs)}
  ]

  @not_called [
    {"C_CloseAllSessions", "it would close the sessions of others on the token"},
    {"C_GetOperationState, C_SetOperationState",
     "few tokens have them, and a state that is saved holds keys"},
    {"C_SignRecoverInit, C_SignRecover, C_VerifyRecoverInit, C_VerifyRecover",
     "`:rsa_x_509` and `:rsa_pkcs` do the same with `encrypt/5` and `decrypt/5`"},
    {"C_DigestEncryptUpdate, C_DecryptDigestUpdate, C_SignEncryptUpdate, C_DecryptVerifyUpdate",
     "two streams do the same, on tokens that lack them, too"},
    {"C_GetFunctionStatus, C_CancelFunction", "PKCS#11 has them for old programs only"},
    {"C_EncryptMessageBegin, C_EncryptMessageNext",
     "an IV that the token makes is for `encrypt/5`, which has the data in one part"},
    {"C_DecryptMessageBegin, C_DecryptMessageNext",
     "`decrypt_stream/5` does the same, but on a token that offers the mechanism by messages only"},
    {"C_MessageSignInit, C_SignMessage, C_SignMessageBegin, C_SignMessageNext, C_MessageSignFinal",
     "`sign_many/5` does the same"},
    {"C_MessageVerifyInit, C_VerifyMessage, C_VerifyMessageBegin, C_VerifyMessageNext, C_MessageVerifyFinal",
     "`verify_many/5` does the same"},
    {"C_VerifySignatureInit, C_VerifySignature, C_VerifySignatureUpdate, C_VerifySignatureFinal",
     "no mechanism that is tried here needs them"},
    {"C_WrapKeyAuthenticated, C_UnwrapKeyAuthenticated",
     "`wrap_key/5` and `unwrap_key/6` with `:aes_gcm` do the same: `:aad` is the additional data"},
    {"C_GetSessionValidationFlags",
     "it is about certified modes, and no token that we have says anything there"},
    {"C_AsyncComplete, C_AsyncGetID, C_AsyncJoin", "the pool's own threads wait for slow calls"}
  ]

  # Mechanisms that other tests use: {mechanism, what is done with it, the test}.
  @elsewhere [
    {:rsa_x_509, "sign/5", "test/api/sign_test.exs"},
    {:rsa_pkcs_pss, "verify/6", "test/wycheproof/signatures_test.exs"},
    {:dsa_sha256, "sign/5", "test/api/sign_test.exs"},
    {:aes_key_gen, "generate_key/4", "test/api/cipher_test.exs"},
    {:des3_key_gen, "generate_key/4", "test/api/key_info_test.exs"},
    {:generic_secret_key_gen, "generate_key/4", "test/api/sign_test.exs"},
    {:rsa_pkcs_key_pair_gen, "generate_key_pair/5", "test/api/sign_test.exs"},
    {:ec_key_pair_gen, "generate_key_pair/5", "test/api/sign_test.exs"},
    {:ec_edwards_key_pair_gen, "generate_key_pair/5", "test/api/sign_test.exs"},
    {:ec_montgomery_key_pair_gen, "generate_key_pair/5", "test/api/derive_test.exs"},
    {:ml_dsa_key_pair_gen, "generate_key_pair/5", "test/api/post_quantum_test.exs"},
    {:ml_dsa, "sign/5", "test/api/post_quantum_test.exs"},
    {:ml_kem_key_pair_gen, "generate_key_pair/5", "test/api/encapsulation_test.exs"},
    {:ml_kem, "encapsulate/5", "test/api/encapsulation_test.exs"},
    {:ml_kem, "decapsulate/6", "test/wycheproof/ciphers_test.exs"},
    {:ml_dsa, "verify/6", "test/wycheproof/signatures_test.exs"},
    {:slh_dsa_key_pair_gen, "generate_key_pair/5", "test/api/post_quantum_test.exs"},
    {:slh_dsa, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_ml_dsa, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_ml_dsa_sha224, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_ml_dsa_sha256, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_ml_dsa_sha384, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_ml_dsa_sha512, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_ml_dsa_sha3_224, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_ml_dsa_sha3_256, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_ml_dsa_sha3_384, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_ml_dsa_sha3_512, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_slh_dsa, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_slh_dsa_sha224, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_slh_dsa_sha256, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_slh_dsa_sha384, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_slh_dsa_sha512, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_slh_dsa_sha3_224, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_slh_dsa_sha3_256, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_slh_dsa_sha3_384, "sign/5", "test/api/post_quantum_test.exs"},
    {:hash_slh_dsa_sha3_512, "sign/5", "test/api/post_quantum_test.exs"},
    {:rsa_aes_key_wrap, "wrap_key/5", "test/tokens/open_cryptoki_test.exs"},
    {:rsa_aes_key_wrap, "unwrap_key/6", "test/tokens/open_cryptoki_test.exs"},
    {:ecdh_aes_key_wrap, "wrap_key/5", "test/tokens/open_cryptoki_test.exs"},
    {:ecdh_aes_key_wrap, "unwrap_key/6", "test/tokens/open_cryptoki_test.exs"},
    {:hkdf_derive, "derive_key/5", "test/api/derive_test.exs"},
    {:sp800_108_counter_kdf, "derive_key/5", "test/api/derive_test.exs"},
    {:sp800_108_feedback_kdf, "derive_key/5", "test/api/derive_test.exs"},
    {:sp800_108_double_pipeline_kdf, "derive_key/5", "test/api/derive_test.exs"},
    {:pkcs5_pbkd2, "generate_key/4", "test/api/derive_test.exs"},
    {:concatenate_base_and_key, "derive_key/5", "test/api/derive_test.exs"},
    {:concatenate_base_and_data, "derive_key/5", "test/api/derive_test.exs"},
    {:concatenate_data_and_base, "derive_key/5", "test/api/derive_test.exs"},
    {:xor_base_and_data, "derive_key/5", "test/api/derive_test.exs"},
    {:extract_key_from_key, "derive_key/5", "test/api/derive_test.exs"},
    {:aes_ecb_encrypt_data, "derive_key/5", "test/api/derive_test.exs"},
    {:aes_cbc_encrypt_data, "derive_key/5", "test/api/derive_test.exs"},
    {:des3_cbc_encrypt_data, "derive_key/5", "test/api/derive_test.exs"}
  ]

  # Which sets of Wycheproof try a mechanism, and where: {mechanisms, the beginning of the sets' names, the test}.
  @wycheproof [
    {[:ecdsa], "ecdsa_", "test/wycheproof/signatures_test.exs"},
    {[:eddsa], "ed25519", "test/wycheproof/signatures_test.exs"},
    {[:rsa_pkcs], "rsa_signature_", "test/wycheproof/signatures_test.exs"},
    {[:rsa_pkcs_pss], "rsa_pss_", "test/wycheproof/signatures_test.exs"},
    {[:rsa_pkcs_oaep], "rsa_oaep_", "test/wycheproof/ciphers_test.exs"},
    {[:aes_gcm], "aes_gcm", "test/wycheproof/ciphers_test.exs"},
    {[:aes_ccm], "aes_ccm", "test/wycheproof/ciphers_test.exs"},
    {[:aes_cbc_pad], "aes_cbc_pkcs5", "test/wycheproof/ciphers_test.exs"},
    {[:aes_cmac], "aes_cmac", "test/wycheproof/ciphers_test.exs"},
    {[:aes_key_wrap], "aes_wrap", "test/wycheproof/ciphers_test.exs"},
    {[:aes_key_wrap_pad, :aes_key_wrap_kwp], "aes_kwp", "test/wycheproof/ciphers_test.exs"},
    {[:chacha20_poly1305], "chacha20_poly1305", "test/wycheproof/ciphers_test.exs"},
    {[:ecdh1_derive], "ecdh_", "test/wycheproof/ciphers_test.exs"},
    {~w(sha_1_hmac sha224_hmac sha256_hmac sha384_hmac sha512_hmac sha512_224_hmac sha512_256_hmac
        sha3_224_hmac sha3_256_hmac sha3_384_hmac sha3_512_hmac)a, "hmac_",
     "test/wycheproof/ciphers_test.exs"}
  ]

  # What the table of mechanisms calls the functions of a kind.
  @titles [
    digest: "digest",
    mac: "sign",
    signature: "sign",
    cipher: "encrypt",
    rsa_cipher: "encrypt in one part",
    agreement: "derive",
    wrap: "wrap"
  ]

  def c_functions, do: @c_functions
  def not_called, do: @not_called
  def elsewhere, do: @elsewhere
  def wycheproof, do: @wycheproof

  @doc "What the guide shows between its marks."
  @spec shown() :: String.t()
  def shown do
    [_before, shown, _rest] = String.split(File.read!(@guide), @marks)
    shown
  end

  @doc "Writes the tables into the guide."
  @spec write() :: :ok
  def write do
    [before, _shown, rest] = String.split(File.read!(@guide), @marks)
    [first, last] = @marks
    File.write!(@guide, [before, first, markdown(), last, rest])
  end

  @doc "The tables."
  @spec markdown() :: String.t()
  def markdown do
    IO.iodata_to_binary([
      "\n## By C function\n\n",
      table(["C function", "functions", "tests"], Enum.map(@c_functions, &c_row/1)),
      "\nNot called:\n\n",
      table(["C functions", "why"], for({names, why} <- @not_called, do: [names, why])),
      "\n## By mechanism\n\n",
      for {title, functions} <- titles() do
        "* #{title}: #{code(functions)}\n"
      end,
      for {token, title} <- Matrix.tokens() do
        "* no streams on #{title}: #{Matrix.one_part(token) |> Enum.map(&inspect/1) |> code()}\n"
      end,
      "\n",
      table(
        ["mechanism", "functions"] ++ Keyword.values(Matrix.tokens()) ++ ["Wycheproof"],
        matrix_rows()
      ),
      "\nOther tests use these:\n\n",
      table(["mechanism", "functions", "tests"], Enum.map(@elsewhere, &elsewhere_row/1)),
      "\nThese take parameters by name, too, and no token of ours has them, or nobody has tried them: ",
      untried() |> Enum.map_join(", ", &"`#{inspect(&1)}`"),
      ".\n\n"
    ])
  end

  defp titles do
    Enum.uniq(for {kind, title} <- @titles, do: {title, Matrix.functions(kind)})
  end

  defp c_row({name, functions, tests}), do: ["`#{name}`", code(functions), code(tests)]

  defp elsewhere_row({name, function, test}),
    do: ["`#{inspect(name)}`", code([function]), code([test])]

  defp matrix_rows do
    rows = for {token, _title} <- Matrix.tokens(), row <- Matrix.rows(token), do: {token, row}

    rows
    |> Enum.group_by(fn {_token, {_kind, mechanism, _key, _reference}} -> name(mechanism) end)
    |> Enum.sort_by(fn {name, _rows} -> inspect(name) end)
    |> Enum.map(fn {name, rows} ->
      kinds = rows |> Enum.map(fn {_token, row} -> elem(row, 0) end) |> Enum.uniq()
      functions = kinds |> Enum.map(&@titles[&1]) |> Enum.uniq()

      tokens =
        for {token, _title} <- Matrix.tokens(),
            do: tried(for {^token, row} <- rows, do: row)

      ["`#{inspect(name)}`", Enum.join(functions, ", ")] ++ tokens ++ [vectors(name)]
    end)
  end

  # With which hashes and curves, where there is more than one.
  defp tried([]), do: ""

  defp tried(rows) do
    hashes =
      for {_kind, {_name, params}, _key, _reference} <- rows, hash = params[:hash], do: hash

    curves =
      for {_kind, _mechanism, {family, curve}, _reference} <- rows, family != :generic, do: curve

    case Enum.uniq(hashes) ++ Enum.uniq(curves) do
      [] -> "yes"
      variants -> Enum.map_join(variants, ", ", &to_string/1)
    end
  end

  defp vectors(name) do
    if Enum.any?(@wycheproof, fn {names, _sets, _test} -> name in names end), do: "yes", else: ""
  end

  @doc "Mechanisms with parameters that have names, which no row has."
  @spec untried() :: [atom]
  def untried do
    tried =
      for({token, _title} <- Matrix.tokens(), {_, m, _, _} <- Matrix.rows(token), do: name(m)) ++
        for {name, _function, _test} <- @elsewhere, do: name

    codes = for name <- tried, into: MapSet.new(), do: Keyword.fetch!(Mechanisms.all(), name)

    for {name, code} <- Enum.uniq_by(Mechanisms.all(), &elem(&1, 1)),
        code not in codes,
        Params.names(name) != [],
        do: name
  end

  defp name({name, _params}), do: name
  defp name(name), do: name

  defp code(names), do: Enum.map_join(names, ", ", &"`#{&1}`")

  defp table(heads, rows) do
    [heads, Enum.map(heads, fn _head -> "---" end) | rows]
    |> Enum.map(&["| ", Enum.intersperse(&1, " | "), " |\n"])
  end
end
