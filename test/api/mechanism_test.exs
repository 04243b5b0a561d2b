defmodule Pkcs11Pool.MechanismTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Mechanism

  doctest Mechanism

  @iv16 <<0::128>>
  @word :erlang.system_info(:wordsize) * 8

  defp message(fun), do: assert_raise(ArgumentError, fun) |> Exception.message()

  test "plain mechanisms have the numbers of the standard" do
    for {name, code} <- [
          rsa_pkcs: 0x1,
          rsa_x_509: 0x3,
          sha1_rsa_pkcs: 0x6,
          sha256_rsa_pkcs: 0x40,
          sha512_rsa_pkcs: 0x42,
          sha_1: 0x220,
          sha256: 0x250,
          sha256_hmac: 0x251,
          sha384: 0x260,
          sha512: 0x270,
          generic_secret_key_gen: 0x350,
          ec_key_pair_gen: 0x1040,
          ecdsa_key_pair_gen: 0x1040,
          ecdsa: 0x1041,
          ecdsa_sha1: 0x1042,
          ecdsa_sha256: 0x1044,
          ec_edwards_key_pair_gen: 0x1055,
          eddsa: 0x1057,
          aes_key_gen: 0x1080,
          aes_ecb: 0x1081,
          aes_cmac: 0x108A,
          aes_key_wrap: 0x2109,
          ml_dsa: 0x1D
        ] do
      assert Mechanism.encode!(name) == {code, nil}
      assert Mechanism.encode!({name, nil}) == {code, nil}
      assert Mechanism.encode!({name, []}) == {code, nil}
    end
  end

  test "PSS parameters default to the hash in the name" do
    assert Mechanism.encode!(:sha1_rsa_pkcs_pss) == {0xE, {:rsa_pss, 0x220, 1, 20}}
    assert Mechanism.encode!(:sha224_rsa_pkcs_pss) == {0x47, {:rsa_pss, 0x255, 5, 28}}
    assert Mechanism.encode!(:sha256_rsa_pkcs_pss) == {0x43, {:rsa_pss, 0x250, 2, 32}}
    assert Mechanism.encode!(:sha384_rsa_pkcs_pss) == {0x44, {:rsa_pss, 0x260, 3, 48}}
    assert Mechanism.encode!(:sha512_rsa_pkcs_pss) == {0x45, {:rsa_pss, 0x270, 4, 64}}
    assert Mechanism.encode!(:sha3_256_rsa_pkcs_pss) == {0x63, {:rsa_pss, 0x2B0, 7, 32}}

    assert Mechanism.encode!({:sha256_rsa_pkcs_pss, salt_length: 20, mgf: :sha1}) ==
             {0x43, {:rsa_pss, 0x250, 1, 20}}

    assert message(fn -> Mechanism.encode!({:sha256_rsa_pkcs_pss, hash: :sha1}) end) =~
             "contradicts its name"
  end

  describe "the context of a signature" do
    test "is empty and hedged, unless it is said" do
      for {name, code} <- [ml_dsa: 0x1D, slh_dsa: 0x2E, hash_ml_dsa_sha256: 0x24] do
        assert Mechanism.encode!(name) == {code, nil}
        assert Mechanism.encode!({name, []}) == {code, nil}

        assert Mechanism.encode!({name, context: "app"}) ==
                 {code, {:signature_context, 0, "app", nil}}

        for {hedge, number} <- [
              preferred: 0,
              required: 1,
              deterministic: 2,
              hedge_preferred: 0,
              hedge_required: 1,
              deterministic_required: 2
            ] do
          assert Mechanism.encode!({name, hedge: hedge}) ==
                   {code, {:signature_context, number, "", nil}}
        end
      end
    end

    test "has the hash of a digest" do
      assert Mechanism.encode!({:hash_ml_dsa, hash: :sha512}) ==
               {0x1F, {:signature_context, 0, "", 0x270}}

      assert Mechanism.encode!({:hash_slh_dsa, hash: :sha3_256, context: "c", hedge: :required}) ==
               {0x34, {:signature_context, 1, "c", 0x2B0}}

      assert Mechanism.hash({:hash_ml_dsa, hash: :sha512}) == :sha512
      assert Mechanism.hash(:hash_slh_dsa_sha3_384) == :sha3_384
      assert Mechanism.hash(:ml_dsa) == nil
    end

    test "has a limit, and what else is wrong is named, without its value" do
      encode = &message(fn -> Mechanism.encode!(&1) end)

      assert {_code, {_, 0, <<_::2040>>, nil}} =
               Mechanism.encode!({:ml_dsa, context: <<0::2040>>})

      assert encode.({:ml_dsa, context: <<0::2048>>}) ==
               "invalid parameter :context of mechanism :ml_dsa: expected a binary of at most 255 bytes, " <>
                 "got: a binary of 256 bytes"

      assert encode.({:slh_dsa, hedge: true}) =~
               "expected one of [:preferred, :required, :deterministic], got: true"

      assert encode.({:ml_dsa, hash: :sha256}) =~ "unknown parameter :hash of mechanism :ml_dsa"
      assert encode.(:hash_ml_dsa) =~ "give {:hash_ml_dsa, hash: :sha256}"
      assert encode.({:hash_ml_dsa, context: "c"}) =~ "needs the parameter :hash"
      assert encode.({:hash_ml_dsa, hash: :sha0}) =~ "invalid parameter :hash"
      assert encode.({:ml_dsa, "bytes"}) =~ "must be a keyword list with [:context, :hedge]"
      assert encode.({:ml_kem, "bytes"}) =~ "takes no parameters"
    end
  end

  test "an IV that the token makes is for encryption" do
    gcm = {0x1087, {:gcm, :token, "", 128}}
    assert Mechanism.encode_for!(:encrypt, {:aes_gcm, iv: :token}) == gcm
    assert Mechanism.iv({:aes_gcm, iv: :token}, gcm) == :token
    assert Mechanism.encode_for!(:decrypt, {:aes_cbc, iv: @iv16}) == {0x1082, @iv16}

    ccm = {0x1088, {:ccm, :token, "", 16, nil}}
    assert Mechanism.encode_for!(:encrypt, {:aes_ccm, nonce: :token}) == ccm
    assert Mechanism.iv({:aes_ccm, nonce: :token}, ccm) == :token

    for operation <- [:decrypt, :sign, :verify] do
      for mechanism <- [
            {:aes_gcm, iv: :token},
            {:aes_ccm, nonce: :token},
            {:vendor, 0x80000001, {:aes_gcm, iv: :token}}
          ] do
        assert message(fn -> Mechanism.encode_for!(operation, mechanism) end) =~
                 ":token is for encryption"
      end
    end
  end

  test "mechanisms with an IV or a counter are known" do
    for mechanism <- [
          :aes_gcm,
          {:aes_gcm, iv: @iv16},
          {:aes_cbc, @iv16},
          :aes_cbc_pad,
          :aes_ctr,
          :des3_cbc,
          {:vendor, 0x80000001, {:aes_gcm, iv: @iv16}},
          {:vendor, 0x80000001, :aes_gcm},
          # The standard's, by their numbers.
          {:vendor, 0x1085, @iv16},
          {:vendor, 0x1085, nil},
          {:vendor, 0x1085, {:rsa_pkcs_pss, hash: :sha256}}
        ] do
      assert Mechanism.takes_iv?(mechanism)
    end

    for mechanism <- [
          :aes_ecb,
          :rsa_pkcs,
          :aes_key_wrap,
          {:vendor, 0x80000001, @iv16},
          {:vendor, 0x80000001, nil},
          {:vendor, 0x1081, nil},
          :sha256
        ] do
      refute Mechanism.takes_iv?(mechanism)
    end
  end

  test "of a counter the block is what must not be used twice" do
    block = :crypto.strong_rand_bytes(16)
    params = [counter_block: block, counter_bits: 64]
    struct = <<64::native-size(@word), block::binary>>

    for mechanism <- [
          {:aes_ctr, params},
          {:vendor, 0x80000001, {:aes_ctr, params}},
          {:vendor, 0x1086, {:aes_ctr, params}},
          {:vendor, 0x1086, struct}
        ] do
      encoded = Mechanism.encode!(mechanism)
      assert elem(encoded, 1) == struct
      assert Mechanism.iv(mechanism, encoded) == block
    end

    # What is no C struct of it is the token's to refuse.
    assert Mechanism.iv({:vendor, 0x1086, "short"}, {0x1086, "short"}) == "short"
    assert Mechanism.iv({:vendor, 0x80000001, struct}, {0x80000001, struct}) == nil
  end

  test "parameters are added, and replace those of the same name" do
    assert Mechanism.with_params!(:aes_gcm, iv: @iv16) == {:aes_gcm, iv: @iv16}
    assert Mechanism.with_params!({:aes_gcm, nil}, iv: @iv16) == {:aes_gcm, iv: @iv16}
    assert Mechanism.with_params!({:aes_gcm, iv: :token}, iv: @iv16) == {:aes_gcm, iv: @iv16}

    assert Mechanism.with_params!({:vendor, 0x80000001, :aes_gcm}, iv: @iv16) ==
             {:vendor, 0x80000001, {:aes_gcm, iv: @iv16}}

    for {mechanism, params} <- [
          {:aes_gcm, "iv"},
          {{:aes_cbc, @iv16}, [iv: @iv16]},
          {{:vendor, 0x80000001, @iv16}, [iv: @iv16]},
          {{:vendor, 0x80000001, nil}, [iv: @iv16]},
          {"aes_gcm", [iv: @iv16]}
        ] do
      assert message(fn -> Mechanism.with_params!(mechanism, params) end) =~ "keyword lists"
    end
  end

  test "PSS and OAEP parameters default to the hash that is given" do
    assert Mechanism.encode!({:rsa_pkcs_pss, hash: :sha384}) == {0xD, {:rsa_pss, 0x260, 3, 48}}

    assert Mechanism.encode!({:rsa_pkcs_pss, hash: :sha256, mgf: :sha1, salt_length: 0}) ==
             {0xD, {:rsa_pss, 0x250, 1, 0}}

    assert Mechanism.encode!({:rsa_pkcs_oaep, hash: :sha1}) == {0x9, {:rsa_oaep, 0x220, 1, ""}}

    assert Mechanism.encode!({:rsa_pkcs_oaep, hash: :sha512, mgf: :sha256, source: "label"}) ==
             {0x9, {:rsa_oaep, 0x270, 2, "label"}}
  end

  test "a raw signature mechanism with a hash takes a message" do
    assert Mechanism.encode!({:ecdsa, hash: :sha256}) == {0x1041, {:hashed, 0x250}}
    assert Mechanism.encode!({:rsa_pkcs, hash: :sha}) == {0x1, {:hashed, 0x220}}
    assert Mechanism.hash({:ecdsa, hash: :sha384}) == :sha384
    assert Mechanism.ecdsa?({:ecdsa, hash: :sha384})

    for {mechanism, text} <- [
          {{:ecdsa, hash: :md5}, "invalid parameter :hash of mechanism :ecdsa: expected one of"},
          {{:ecdsa, salt: 1}, "unknown parameter :salt"},
          {{:rsa_pkcs, "bytes"}, "keyword list"},
          {{:vendor, 0x80000001, {:ecdsa, hash: :sha256}}, "in no C struct"}
        ] do
      assert message(fn -> Mechanism.encode!(mechanism) end) =~ text
    end

    for operation <- [:encrypt, :decrypt] do
      assert message(fn -> Mechanism.encode_for!(operation, {:rsa_pkcs, hash: :sha256}) end) =~
               "parameter :hash of mechanism :rsa_pkcs is for signatures"
    end
  end

  test "ciphers take an IV of their block's length" do
    assert Mechanism.encode!({:aes_cbc, iv: @iv16}) == {0x1082, @iv16}
    assert Mechanism.encode!({:aes_cbc_pad, iv: @iv16}) == {0x1085, @iv16}
    assert Mechanism.encode!({:des3_cbc, iv: <<0::64>>}) == {0x133, <<0::64>>}

    assert Mechanism.encode!({:aes_ctr, counter_block: @iv16}) ==
             {0x1086, <<128::native-size(@word), 0::128>>}

    assert message(fn -> Mechanism.encode!({:aes_cbc, iv: "short"}) end) =~
             "invalid parameter :iv of mechanism :aes_cbc: expected a binary of 16 bytes, " <>
               "got: a binary of 5 bytes"
  end

  test "what no CK_ULONG holds, or is no whole number of bytes, is refused" do
    large = Bitwise.bsl(1, @word)
    largest = large - 1
    assert Mechanism.encode!({:vendor, largest, nil}) == {largest, nil}

    assert Mechanism.encode!({:rsa_pkcs_pss, hash: :sha256, salt_length: largest}) ==
             {0xD, {:rsa_pss, 0x250, 2, largest}}

    assert Mechanism.encode!({:sha256_hmac_general, length: largest}) ==
             {0x252, <<largest::native-size(@word)>>}

    for {mechanism, text} <- [
          {{:vendor, large, nil}, "code"},
          {{:vendor, large, {:aes_cbc, iv: @iv16}}, "code"},
          {{:rsa_pkcs_pss, hash: :sha256, salt_length: large}, ":salt_length"},
          {{:sha256_rsa_pkcs_pss, salt_length: large}, ":salt_length"},
          {{:sha256_hmac_general, length: large + 16}, ":length"},
          {{:aes_cbc, iv: <<0::127>>}, ":iv"},
          {{:aes_cbc, <<0::127>>}, "keyword list"},
          {{:des3_cbc_pad, iv: <<0::63>>}, ":iv"},
          {{:vendor, 0x80000001, <<0::127>>}, "binary"},
          {{:vendor, 0x80000001, {:aes_cbc, iv: <<0::127>>}}, ":iv"},
          {{:aes_ctr, counter_block: <<0::127>>}, ":counter_block"},
          {{:aes_gcm, iv: <<0::95>>}, ":iv"},
          {{:aes_key_wrap, <<0::63>>}, "keyword list"}
        ] do
      assert message(fn -> Mechanism.encode!(mechanism) end) =~ text
    end

    assert message(fn -> Mechanism.known!({:vendor, large, nil}) end) =~ "code"
  end

  test "GCM takes the caller's IV or the token's" do
    assert Mechanism.encode!({:aes_gcm, iv: <<1::96>>}) == {0x1087, {:gcm, <<1::96>>, "", 128}}

    assert Mechanism.encode!({:aes_gcm, iv: :token, aad: "a", tag_bits: 96}) ==
             {0x1087, {:gcm, :token, "a", 96}}

    assert message(fn -> Mechanism.encode!({:aes_gcm, iv: ""}) end) =~ "non-empty"

    # Some tokens use but the beginning of a longer one.
    longest = :binary.copy("i", 128)
    assert {0x1087, {:gcm, ^longest, "", 128}} = Mechanism.encode!({:aes_gcm, iv: longest})

    for mechanism <- [
          {:aes_gcm, iv: longest <> "i"},
          {:vendor, 0x80000001, {:aes_gcm, iv: :binary.copy("i", 256)}}
        ] do
      message = message(fn -> Mechanism.encode!(mechanism) end)
      assert message =~ "invalid parameter :iv of mechanism :aes_gcm"
      assert message =~ "at most 128 bytes"
      assert message =~ "some tokens use only the beginning of a longer one"
      refute message =~ "iii"
    end

    assert message(fn -> Mechanism.encode!({:aes_gcm, iv: <<1::96>>, tag_bits: 12}) end) =~
             ":tag_bits"
  end

  test "key agreement takes the other side's public data" do
    assert Mechanism.encode!({:ecdh1_derive, public_data: "P"}) ==
             {0x1050, {:ecdh1, 1, "", "P"}}

    for kdf <- [:sha256_kdf, :sha256] do
      assert Mechanism.encode!({:ecdh1_derive, kdf: kdf, public_data: "P", shared_data: "S"}) ==
               {0x1050, {:ecdh1, 6, "S", "P"}}
    end

    assert Mechanism.encode!({:dh_pkcs_derive, public_data: "P"}) == {0x21, "P"}
  end

  test "a truncated MAC takes its length" do
    assert Mechanism.encode!({:sha256_hmac_general, length: 16}) ==
             {0x252, <<16::native-size(@word)>>}
  end

  test "a vendor's number takes bytes, nothing, or a known mechanism's struct" do
    assert Mechanism.encode!({:vendor, 0x80000001, nil}) == {0x80000001, nil}
    assert Mechanism.encode!({:vendor, 0x80000001, <<1, 2>>}) == {0x80000001, <<1, 2>>}

    assert Mechanism.encode!({:vendor, 0x80000001, {:rsa_pkcs_pss, hash: :sha256}}) ==
             {0x80000001, {:rsa_pss, 0x250, 2, 32}}

    assert Mechanism.encode!({:vendor, 0x80000001, :sha256_rsa_pkcs_pss}) ==
             {0x80000001, {:rsa_pss, 0x250, 2, 32}}

    assert Mechanism.encode!({:vendor, 0x80000001, {:aes_cbc, iv: @iv16}}) == {0x80000001, @iv16}

    for bad <- [
          {:vendor, -1, nil},
          {:vendor, 1},
          :vendor,
          {:vendor, 1, 2},
          {:vendor, 1, {1, 2, 3}}
        ] do
      assert message(fn -> Mechanism.encode!(bad) end) =~ "vendor"
    end
  end

  test "a mechanism without a struct of its own takes the struct's bytes" do
    assert Mechanism.encode!({:salsa20, "struct"}) == {0x4020, "struct"}
    assert message(fn -> Mechanism.encode!(:salsa20) end) =~ "{:salsa20, binary}"
  end

  test "CCM and Poly1305 take a nonce of a length that they have" do
    nonce = <<1::96>>
    assert Mechanism.encode!({:aes_ccm, nonce: nonce}) == {0x1088, {:ccm, nonce, "", 16, nil}}

    assert Mechanism.encode!({:aes_ccm, nonce: nonce, aad: "a", mac_length: 4, data_length: 0}) ==
             {0x1088, {:ccm, nonce, "a", 4, 0}}

    assert Mechanism.encode!({:chacha20_poly1305, nonce: nonce, aad: "a"}) ==
             {0x4021, {:poly1305, nonce, "a"}}

    assert Mechanism.encode!({:chacha20, nonce: nonce, counter: 258}) ==
             {0x1226, {:chacha20, <<2, 1, 0, 0>>, nonce}}

    assert Mechanism.encode!({:chacha20, nonce: <<1::64>>}) ==
             {0x1226, {:chacha20, <<0::64>>, <<1::64>>}}

    for {mechanism, text} <- [
          {:aes_ccm, "give {:aes_ccm, nonce: binary}"},
          {:chacha20_poly1305, "give {:chacha20_poly1305, nonce: binary}"},
          {{:aes_ccm, aad: ""}, "needs the parameter :nonce"},
          {{:aes_ccm, nonce: <<0::48>>}, ":nonce"},
          {{:aes_ccm, nonce: <<0::112>>},
           "7 to 13 bytes, or :token for one that the token makes, got: a binary of 14 bytes"},
          {{:aes_ccm, nonce: nonce, mac_length: 5}, ":mac_length"},
          {{:aes_ccm, nonce: nonce, data_length: -1}, ":data_length"},
          {{:aes_ccm, nonce: nonce, aad: nil}, ":aad"},
          {{:chacha20_poly1305, nonce: <<0::72>>}, "8, 12 or 24 bytes"},
          {{:chacha20_poly1305, nonce: :token}, "8, 12 or 24 bytes"},
          {{:chacha20_poly1305, iv: nonce}, "unknown parameter :iv"},
          {{:chacha20, nonce: nonce, counter: 0x1_0000_0000}, ":counter"},
          {{:chacha20, nonce: nonce, counter: -1}, "32 bits"},
          {{:chacha20, "struct"}, "keyword list"}
        ] do
      assert message(fn -> Mechanism.encode!(mechanism) end) =~ text
    end

    for {name, params} <- [aes_ccm: [], chacha20_poly1305: [], chacha20: [counter: 7]] do
      mechanism = {name, [nonce: nonce] ++ params}
      assert Mechanism.takes_iv?(mechanism)
      assert Mechanism.iv(mechanism, Mechanism.encode!(mechanism)) =~ nonce
    end
  end

  test "EdDSA takes a context, and whether the message is hashed first" do
    assert Mechanism.encode!(:eddsa) == {0x1057, nil}
    assert Mechanism.encode!({:eddsa, context: ""}) == {0x1057, {:eddsa, false, ""}}

    assert Mechanism.encode!({:eddsa, prehash: true, context: "c"}) ==
             {0x1057, {:eddsa, true, "c"}}

    for {params, text} <- [
          {[prehash: 1], ":prehash of mechanism :eddsa: expected a boolean"},
          {[context: :binary.copy("c", 256)], "at most 255 bytes"},
          {[hash: :sha512], "unknown parameter :hash"},
          {"struct", "keyword list"}
        ] do
      assert message(fn -> Mechanism.encode!({:eddsa, params}) end) =~ text
    end
  end

  test "what a stream cannot know or check beforehand is refused" do
    refuse = fn operation, mechanism ->
      message(fn -> Mechanism.streamable!(operation, Mechanism.encode!(mechanism)) end)
    end

    assert refuse.(:encrypt, {:aes_ccm, nonce: <<1::96>>}) =~ ":data_length"
    assert refuse.(:sign, {:eddsa, context: "c"}) =~ "sign/5"
    assert refuse.(:verify, {:eddsa, prehash: true}) =~ "verify/6"

    for mechanism <- [:eddsa, {:eddsa, context: ""}, {:aes_ccm, nonce: <<1::96>>, data_length: 3}] do
      assert Mechanism.streamable!(:sign, Mechanism.encode!(mechanism)) == :ok
    end
  end

  test "missing parameters are named with the remedy" do
    assert message(fn -> Mechanism.encode!(:rsa_pkcs_pss) end) ==
             "mechanism :rsa_pkcs_pss needs parameters: give {:rsa_pkcs_pss, hash: :sha256}"

    assert message(fn -> Mechanism.encode!({:rsa_pkcs_pss, mgf: :sha256}) end) =~
             "needs the parameter :hash"

    assert message(fn -> Mechanism.encode!(:aes_gcm) end) =~ "{:aes_gcm, iv: binary}"
    assert message(fn -> Mechanism.encode!(:aes_cbc) end) =~ "{:aes_cbc, iv: binary}"

    assert message(fn -> Mechanism.encode!(:ecdh1_derive) end) =~
             "{:ecdh1_derive, public_data: binary}"
  end

  test "unknown mechanisms and parameters are named, with what was probably meant" do
    assert message(fn -> Mechanism.encode!(:sha256_rsa_pkcs_psss) end) =~
             "unknown mechanism :sha256_rsa_pkcs_psss, did you mean :sha256_rsa_pkcs_pss?"

    assert message(fn -> Mechanism.encode!(:CKM_SHA256_RSA_PKCS) end) =~
             "did you mean :sha256_rsa_pkcs?"

    refute message(fn -> Mechanism.encode!(:zzz) end) =~ "did you mean"

    assert message(fn -> Mechanism.encode!({:rsa_pkcs_pss, hash: :sha256, salt_len: 32}) end) =~
             "unknown parameter :salt_len of mechanism :rsa_pkcs_pss, did you mean :salt_length?"

    assert message(fn -> Mechanism.encode!({:aes_cbc, iv: @iv16, iv: @iv16}) end) =~
             "duplicate parameter :iv"

    assert message(fn -> Mechanism.encode!({:sha256_rsa_pkcs, salt_length: 3}) end) =~
             "takes no parameters"

    assert message(fn -> Mechanism.encode!({:rsa_pkcs_pss, hash: :sha257}) end) =~
             "expected one of"
  end

  test "a name of JOSE, OTP or TLS is answered with the mechanism that it means" do
    for {names, meant} <- [
          {[:rs256, :RS256, "RS256", :rsa_sha256, :sha256_rsa, :sha256WithRSAEncryption],
           ":sha256_rsa_pkcs"},
          {[:rsa_pkcs1_sha256, :rsa_with_sha256, :sha256_with_rsa, "rsa-sha256"],
           ":sha256_rsa_pkcs"},
          {[:rs384], ":sha384_rsa_pkcs"},
          {[:rs512, :rsa_sha512], ":sha512_rsa_pkcs"},
          {[:rsa_sha, :rsa_sha1], ":sha1_rsa_pkcs"},
          {[:ps256, "PS256", :rsa_pss_sha256, :rsa_pss_rsae_sha256, :rsa_pss_pss_sha256],
           ":sha256_rsa_pkcs_pss"},
          {[:ps512], ":sha512_rsa_pkcs_pss"},
          {[:es256, "ES256", :es256k, :ecdsa_with_sha256, :sha256_ecdsa, :ecdsa_secp256r1_sha256],
           "{:ecdsa, hash: :sha256}"},
          {[:es384], "{:ecdsa, hash: :sha384}"},
          {[:es512, :ecdsa_with_SHA512], "{:ecdsa, hash: :sha512}"},
          {[:ed25519, :ed448, :Ed25519, "EdDSA", :eddsa_ed25519], ":eddsa"},
          {[:hs256, "HS256", :hmac_sha256, :hmac], ":sha256_hmac"},
          {[:hs384], ":sha384_hmac"},
          {[:hmac_sha, :hmac_sha1], ":sha_1_hmac"},
          {[:a256gcm, :aes_256_gcm, :aes_128_gcm, "A128GCM"], "{:aes_gcm, iv: iv}"},
          {[:aes_256_cbc], "{:aes_cbc_pad, iv: iv} or {:aes_cbc, iv: iv}"},
          {[:aes_256_ctr], "{:aes_ctr, counter_block: block}"},
          {[:rsa_oaep, "RSA-OAEP", :rsa_pkcs1_oaep_padding], "{:rsa_pkcs_oaep, hash: :sha1}"},
          {[:rsa_oaep_256, "RSA-OAEP-256"], "{:rsa_pkcs_oaep, hash: :sha256}"},
          {[:rsa1_5, "RSA1_5", :rsa_pkcs1_padding], ":rsa_pkcs"},
          {[:rsa_pkcs1_pss_padding, :rsa_pss], ":sha256_rsa_pkcs_pss"},
          {[:rsa], ":sha256_rsa_pkcs, {:rsa_pkcs_oaep, hash: :sha256} or :rsa_pkcs_key_pair_gen"},
          {[:ec, :ecc], "{:ecdsa, hash: :sha256} or :ec_key_pair_gen"},
          {[:aes], "{:aes_gcm, iv: iv} or :aes_key_gen"},
          {[:sha, :sha1], ":sha_1"},
          {["sha256_rsa_pkcs", "CKM_SHA256_RSA_PKCS"], ":sha256_rsa_pkcs"}
        ],
        name <- names do
      assert message(fn -> Mechanism.encode!(name) end) =~ "did you mean #{meant}?"
      assert message(fn -> Mechanism.encode!({name, []}) end) =~ "did you mean #{meant}?"
    end

    for name <- ["RS256", :rs256, "nothing like it", :rsa_sha256] do
      message = message(fn -> Mechanism.encode!(name) end)
      refute message =~ "dsa_sha"
    end
  end

  test "what a suggestion says is a mechanism" do
    for suggestion <- Pkcs11Pool.Mechanism.OtherNames.suggestions() do
      {mechanism, _binding} =
        Code.eval_string(suggestion, iv: @iv16, block: @iv16, point: <<4, 0::512>>)

      assert {code, _params} = Mechanism.encode!(mechanism)
      assert is_integer(code)
    end
  end

  test "a digest signs nothing, and the message says what does" do
    for {hash, name} <- [sha256: "sha256", sha_1: "sha1", sha512: "sha512"],
        operation <- [:sign, :verify] do
      message = message(fn -> Mechanism.encode_for!(operation, hash) end)
      assert message =~ "mechanism #{inspect(hash)} is a digest, and signs nothing"
      assert message =~ ":#{name}_rsa_pkcs (RSA)"
      assert message =~ "{:ecdsa, hash: :#{name}} (EC)"
      assert message =~ ":#{hash}_hmac (a secret key)"
    end

    # Those that there are.
    message = message(fn -> Mechanism.encode_for!(:sign, :sha512_256) end)
    assert message =~ "did you mean :sha512_256_hmac (a secret key)?"
    assert message(fn -> Mechanism.encode_for!(:encrypt, :sha256) end) =~ "digest/4 computes it"
    assert Mechanism.encode!(:sha256) == {0x250, nil}
  end

  test "what is no mechanism at all is refused" do
    for bad <- [nil, "sha256", 64, {}, {:rsa_pkcs, 1, 2}, {"rsa_pkcs", []}, [:rsa_pkcs], %{}] do
      assert message(fn -> Mechanism.encode!(bad) end) =~ "mechanism"
    end
  end

  test "no message shows a parameter's bytes" do
    secret = "correct horse battery staple"

    for bad <- [
          {:aes_cbc, iv: secret},
          {:aes_cbc, secret},
          {:ecdh1_derive, public_data: ~c"x", shared_data: secret},
          {:ecdh1_derive, public_data: "P", shared_data: [secret]},
          {:ecdh1_derive, secret},
          {:sha256_rsa_pkcs, secret},
          {secret, secret},
          {:vendor, secret, secret}
        ] do
      refute message(fn -> Mechanism.encode!(bad) end) =~ "correct"
    end
  end

  test "every name's number decodes to a name of the same number" do
    for {name, code} <- Pkcs11Pool.Table.Mechanisms.all() do
      assert Mechanism.code!(name) == code
      assert Mechanism.code!(Mechanism.decode(code)) == code
    end

    assert Mechanism.decode(0x1040) == :ec_key_pair_gen
    assert Mechanism.decode(0x80000001) == {:vendor, 0x80000001}
    assert Mechanism.code!({:vendor, 0x80000001}) == 0x80000001
    assert Mechanism.name({:rsa_pkcs_pss, hash: :sha256}) == :rsa_pkcs_pss
    assert Mechanism.name({:vendor, 0x80000001, nil}) == {:vendor, 0x80000001}
  end

  test "flags are those of CK_MECHANISM_INFO" do
    assert Mechanism.flags(0) == []
    assert Mechanism.flags(0x300) == [:encrypt, :decrypt]
    assert Mechanism.flags(0x10000) == [:generate_key_pair]

    assert Mechanism.flags(0x1F02800) ==
             [:sign, :verify, :ec_f_p, :ec_f_2m, :ec_ecparameters, :ec_oid, :ec_uncompress]
  end

  test "the hash is that of the name or of the parameters" do
    assert Mechanism.hash(:sha256_rsa_pkcs) == :sha256
    assert Mechanism.hash(:sha512_256) == :sha512_256
    assert Mechanism.hash(:sha512_256_hmac) == :sha512_256
    assert Mechanism.hash(:ecdsa_sha1) == :sha
    assert Mechanism.hash(:sha3_384_rsa_pkcs_pss) == :sha3_384
    assert Mechanism.hash({:sha256_rsa_pkcs_pss, salt_length: 1}) == :sha256
    assert Mechanism.hash({:rsa_pkcs_pss, hash: :sha384}) == :sha384
    assert Mechanism.hash({:rsa_pkcs_oaep, hash: :sha1}) == :sha
    assert Mechanism.hash({:vendor, 0x80000001, {:rsa_pkcs_pss, hash: :sha384}}) == :sha384
    assert Mechanism.hash({:vendor, 0x80000001, "bytes"}) == nil

    for none <- [:rsa_pkcs, :ecdsa, :eddsa, {:aes_gcm, iv: "iv"}, :sha256_key_derivation] do
      assert Mechanism.hash(none) == nil
    end
  end

  test "ECDSA is told from what only sounds like it" do
    for yes <- [:ecdsa, :ecdsa_sha256, {:ecdsa, nil}, 0x1041, 0x1044] do
      assert Mechanism.ecdsa?(yes)
    end

    for no <- [:eddsa, :dsa, :dsa_sha1, :sha256_rsa_pkcs, :ecdsa_key_pair_gen, 0x1040, 0x1057] do
      refute Mechanism.ecdsa?(no)
    end
  end

  test "operation and mechanism imply the key's class" do
    for asymmetric <- [
          :sha256_rsa_pkcs,
          :rsa_x_509,
          {:rsa_pkcs_pss, hash: :sha256},
          :ecdsa,
          :eddsa,
          :ml_dsa,
          0x1041,
          {:vendor, 0x80000001, {:rsa_pkcs_pss, hash: :sha256}}
        ] do
      assert Mechanism.class_for(:sign, asymmetric) == :private_key
      assert Mechanism.class_for(:verify, asymmetric) == :public_key
    end

    for symmetric <- [:sha256_hmac, :aes_cmac, {:aes_gcm, iv: "iv"}, 0x251],
        operation <- [:sign, :verify, :encrypt, :decrypt, :wrap, :unwrap, :derive] do
      assert Mechanism.class_for(operation, symmetric) == :secret_key
    end

    oaep = {:rsa_pkcs_oaep, hash: :sha1}
    assert Mechanism.class_for(:encrypt, oaep) == :public_key
    assert Mechanism.class_for(:decrypt, oaep) == :private_key
    assert Mechanism.class_for(:wrap, oaep) == :public_key
    assert Mechanism.class_for(:unwrap, oaep) == :private_key
    assert Mechanism.class_for(:derive, {:ecdh1_derive, public_data: "P"}) == :private_key
    assert Mechanism.class_for(:encapsulate, :ml_kem) == :public_key
    assert Mechanism.class_for(:decapsulate, :ml_kem) == :private_key
    assert Mechanism.class_for(:sign, 0x80000001) == nil
    assert Mechanism.class_for(:sign, {:vendor, 0x80000001, nil}) == nil
  end
end
