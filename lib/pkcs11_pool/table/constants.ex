defmodule Pkcs11Pool.Table.Constants do
  @moduledoc false
  # The small tables of PKCS#11 3.2 (pkcs11t.h). Where two names share a number, the first is the
  # one that a number is shown by.

  # CKO_
  @classes [
    data: 0x0000,
    certificate: 0x0001,
    public_key: 0x0002,
    private_key: 0x0003,
    secret_key: 0x0004,
    hw_feature: 0x0005,
    domain_parameters: 0x0006,
    mechanism: 0x0007,
    otp_key: 0x0008,
    profile: 0x0009,
    validation: 0x000A,
    trust: 0x000B
  ]

  # CKK_
  @key_types [
    rsa: 0x0000,
    dsa: 0x0001,
    dh: 0x0002,
    ec: 0x0003,
    ecdsa: 0x0003,
    x9_42_dh: 0x0004,
    kea: 0x0005,
    generic_secret: 0x0010,
    rc2: 0x0011,
    rc4: 0x0012,
    des: 0x0013,
    des2: 0x0014,
    des3: 0x0015,
    cast: 0x0016,
    cast3: 0x0017,
    cast128: 0x0018,
    cast5: 0x0018,
    rc5: 0x0019,
    idea: 0x001A,
    skipjack: 0x001B,
    baton: 0x001C,
    juniper: 0x001D,
    cdmf: 0x001E,
    aes: 0x001F,
    blowfish: 0x0020,
    twofish: 0x0021,
    securid: 0x0022,
    hotp: 0x0023,
    acti: 0x0024,
    camellia: 0x0025,
    aria: 0x0026,
    md5_hmac: 0x0027,
    sha_1_hmac: 0x0028,
    ripemd128_hmac: 0x0029,
    ripemd160_hmac: 0x002A,
    sha256_hmac: 0x002B,
    sha384_hmac: 0x002C,
    sha512_hmac: 0x002D,
    sha224_hmac: 0x002E,
    seed: 0x002F,
    gostr3410: 0x0030,
    gostr3411: 0x0031,
    gost28147: 0x0032,
    chacha20: 0x0033,
    poly1305: 0x0034,
    aes_xts: 0x0035,
    sha3_224_hmac: 0x0036,
    sha3_256_hmac: 0x0037,
    sha3_384_hmac: 0x0038,
    sha3_512_hmac: 0x0039,
    blake2b_160_hmac: 0x003A,
    blake2b_256_hmac: 0x003B,
    blake2b_384_hmac: 0x003C,
    blake2b_512_hmac: 0x003D,
    salsa20: 0x003E,
    x2ratchet: 0x003F,
    ec_edwards: 0x0040,
    ec_montgomery: 0x0041,
    hkdf: 0x0042,
    sha512_224_hmac: 0x0043,
    sha512_256_hmac: 0x0044,
    sha512_t_hmac: 0x0045,
    hss: 0x0046,
    xmss: 0x0047,
    xmssmt: 0x0048,
    ml_kem: 0x0049,
    ml_dsa: 0x004A,
    slh_dsa: 0x004B
  ]

  # CKC_
  @certificate_types [
    x_509: 0x0000,
    x_509_attr_cert: 0x0001,
    wtls: 0x0002
  ]

  # CKG_MGF1_, by the hash
  @mgfs [
    sha1: 0x0001,
    sha256: 0x0002,
    sha384: 0x0003,
    sha512: 0x0004,
    sha224: 0x0005,
    sha3_224: 0x0006,
    sha3_256: 0x0007,
    sha3_384: 0x0008,
    sha3_512: 0x0009
  ]

  # CKD_
  @kdfs [
    null: 0x0001,
    sha1_kdf: 0x0002,
    sha1_kdf_asn1: 0x0003,
    sha1_kdf_concatenate: 0x0004,
    sha224_kdf: 0x0005,
    sha256_kdf: 0x0006,
    sha384_kdf: 0x0007,
    sha512_kdf: 0x0008,
    cpdiversify_kdf: 0x0009,
    sha3_224_kdf: 0x000A,
    sha3_256_kdf: 0x000B,
    sha3_384_kdf: 0x000C,
    sha3_512_kdf: 0x000D,
    sha1_kdf_sp800: 0x000E,
    sha224_kdf_sp800: 0x000F,
    sha256_kdf_sp800: 0x0010,
    sha384_kdf_sp800: 0x0011,
    sha512_kdf_sp800: 0x0012,
    sha3_224_kdf_sp800: 0x0013,
    sha3_256_kdf_sp800: 0x0014,
    sha3_384_kdf_sp800: 0x0015,
    sha3_512_kdf_sp800: 0x0016,
    blake2b_160_kdf: 0x0017,
    blake2b_256_kdf: 0x0018,
    blake2b_384_kdf: 0x0019,
    blake2b_512_kdf: 0x001A
  ]

  # CKH_
  @hedges [
    hedge_preferred: 0x0000,
    hedge_required: 0x0001,
    deterministic_required: 0x0002
  ]

  # CKF_ of CK_MECHANISM_INFO
  @mechanism_flags [
    hw: 0x0001,
    message_encrypt: 0x0002,
    message_decrypt: 0x0004,
    message_sign: 0x0008,
    message_verify: 0x0010,
    multi_message: 0x0020,
    find_objects: 0x0040,
    encrypt: 0x0100,
    decrypt: 0x0200,
    digest: 0x0400,
    sign: 0x0800,
    sign_recover: 0x1000,
    verify: 0x2000,
    verify_recover: 0x4000,
    generate: 0x8000,
    generate_key_pair: 0x00010000,
    wrap: 0x00020000,
    unwrap: 0x00040000,
    derive: 0x00080000,
    ec_f_p: 0x00100000,
    ec_f_2m: 0x00200000,
    ec_ecparameters: 0x00400000,
    ec_oid: 0x00800000,
    ec_uncompress: 0x01000000,
    ec_compress: 0x02000000,
    ec_curvename: 0x04000000,
    encapsulate: 0x10000000,
    decapsulate: 0x20000000,
    extension: 0x80000000
  ]

  @spec classes() :: [{atom, non_neg_integer}]
  def classes, do: @classes

  @spec key_types() :: [{atom, non_neg_integer}]
  def key_types, do: @key_types

  @spec certificate_types() :: [{atom, non_neg_integer}]
  def certificate_types, do: @certificate_types

  @spec mgfs() :: [{atom, non_neg_integer}]
  def mgfs, do: @mgfs

  # What attributes of other kinds may be: CK_CERTIFICATE_CATEGORY_, CK_SECURITY_DOMAIN_, CKH_, CK_OTP_FORMAT_, CK_OTP_PARAM_, CKP_ (profiles), CKV_TYPE_,
  # CKV_AUTHORITY_TYPE_, CKT_.
  @enumerations [
    certificate_category: [unspecified: 0, token_user: 1, authority: 2, other_entity: 3],
    security_domain: [unspecified: 0, manufacturer: 1, operator: 2, third_party: 3],
    hw_feature_type: [monotonic_counter: 1, clock: 2, user_interface: 3],
    otp_format: [decimal: 0, hexadecimal: 1, alphanumeric: 2, binary: 3],
    otp_requirement: [ignored: 0, optional: 1, mandatory: 2],
    profile_id: [
      invalid_id: 0,
      baseline_provider: 1,
      extended_provider: 2,
      authentication_token: 3,
      public_certificates_token: 4,
      complete_provider: 5,
      hkdf_tls_token: 6
    ],
    validation_type: [unspecified: 0, software: 1, hardware: 2, firmware: 3, hybrid: 4],
    validation_authority_type: [unspecified: 0, nist_cmvp: 1, common_criteria: 2],
    trust: [
      trust_unknown: 0,
      trusted: 1,
      trust_anchor: 2,
      not_trusted: 3,
      trust_must_verify_trust: 4
    ]
  ]

  # CKP_ of CKA_PARAMETER_SET: which of them a number means, the key type says.
  @parameter_sets [
    ml_dsa: [ml_dsa_44: 1, ml_dsa_65: 2, ml_dsa_87: 3],
    ml_kem: [ml_kem_512: 1, ml_kem_768: 2, ml_kem_1024: 3],
    slh_dsa: [
      slh_dsa_sha2_128s: 1,
      slh_dsa_shake_128s: 2,
      slh_dsa_sha2_128f: 3,
      slh_dsa_shake_128f: 4,
      slh_dsa_sha2_192s: 5,
      slh_dsa_shake_192s: 6,
      slh_dsa_sha2_192f: 7,
      slh_dsa_shake_192f: 8,
      slh_dsa_sha2_256s: 9,
      slh_dsa_shake_256s: 10,
      slh_dsa_sha2_256f: 11,
      slh_dsa_shake_256f: 12
    ]
  ]

  @spec hedges() :: [{atom, non_neg_integer}]
  def hedges, do: @hedges

  @spec enumerations() :: [{kind :: atom, [{atom, non_neg_integer}]}]
  def enumerations, do: @enumerations

  @spec parameter_sets() :: [{key_type :: atom, [{atom, pos_integer}]}]
  def parameter_sets, do: @parameter_sets

  # CKF_ of CK_SLOT_INFO
  @slot_flags [
    token_present: 0x1,
    removable_device: 0x2,
    hw_slot: 0x4
  ]

  # CKF_INTERFACE_ of CK_INTERFACE
  @interface_flags [fork_safe: 0x1]

  # CKF_ of CK_TOKEN_INFO
  @token_flags [
    rng: 0x1,
    write_protected: 0x2,
    login_required: 0x4,
    user_pin_initialized: 0x8,
    restore_key_not_needed: 0x20,
    clock_on_token: 0x40,
    protected_authentication_path: 0x100,
    dual_crypto_operations: 0x200,
    token_initialized: 0x400,
    secondary_authentication: 0x800,
    user_pin_count_low: 0x10000,
    user_pin_final_try: 0x20000,
    user_pin_locked: 0x40000,
    user_pin_to_be_changed: 0x80000,
    so_pin_count_low: 0x100000,
    so_pin_final_try: 0x200000,
    so_pin_locked: 0x400000,
    so_pin_to_be_changed: 0x800000,
    error_state: 0x1000000
  ]

  @spec kdfs() :: [{atom, non_neg_integer}]
  def kdfs, do: @kdfs

  @spec mechanism_flags() :: [{atom, non_neg_integer}]
  def mechanism_flags, do: @mechanism_flags

  @spec slot_flags() :: [{atom, non_neg_integer}]
  def slot_flags, do: @slot_flags

  @spec interface_flags() :: [{atom, non_neg_integer}]
  def interface_flags, do: @interface_flags

  @spec token_flags() :: [{atom, non_neg_integer}]
  def token_flags, do: @token_flags
end
