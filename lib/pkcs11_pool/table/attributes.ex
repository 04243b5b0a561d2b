defmodule Pkcs11Pool.Table.Attributes do
  @moduledoc false
  # CKA_ names and numbers of PKCS#11 3.2 (pkcs11t.h), by number, each with the kind of its value.
  # Where two names share a number, the first is the one that a number is shown by.

  @attributes [
    {:class, 0x0000, :class},
    {:token, 0x0001, :bool},
    {:private, 0x0002, :bool},
    {:label, 0x0003, :string},
    {:unique_id, 0x0004, :string},
    {:application, 0x0010, :string},
    {:value, 0x0011, :bytes},
    {:object_id, 0x0012, :bytes},
    {:certificate_type, 0x0080, :certificate_type},
    {:issuer, 0x0081, :bytes},
    {:serial_number, 0x0082, :bytes},
    {:ac_issuer, 0x0083, :bytes},
    {:owner, 0x0084, :bytes},
    {:attr_types, 0x0085, :bytes},
    {:trusted, 0x0086, :bool},
    {:certificate_category, 0x0087, :certificate_category},
    {:java_midp_security_domain, 0x0088, :security_domain},
    {:url, 0x0089, :string},
    {:hash_of_subject_public_key, 0x008A, :bytes},
    {:hash_of_issuer_public_key, 0x008B, :bytes},
    {:name_hash_algorithm, 0x008C, :mechanism},
    {:check_value, 0x0090, :bytes},
    {:key_type, 0x0100, :key_type},
    {:subject, 0x0101, :bytes},
    {:id, 0x0102, :bytes},
    {:sensitive, 0x0103, :bool},
    {:encrypt, 0x0104, :bool},
    {:decrypt, 0x0105, :bool},
    {:wrap, 0x0106, :bool},
    {:unwrap, 0x0107, :bool},
    {:sign, 0x0108, :bool},
    {:sign_recover, 0x0109, :bool},
    {:verify, 0x010A, :bool},
    {:verify_recover, 0x010B, :bool},
    {:derive, 0x010C, :bool},
    {:start_date, 0x0110, :date},
    {:end_date, 0x0111, :date},
    {:modulus, 0x0120, :bigint},
    {:modulus_bits, 0x0121, :ulong},
    {:public_exponent, 0x0122, :bigint},
    {:private_exponent, 0x0123, :bigint},
    {:prime_1, 0x0124, :bigint},
    {:prime_2, 0x0125, :bigint},
    {:exponent_1, 0x0126, :bigint},
    {:exponent_2, 0x0127, :bigint},
    {:coefficient, 0x0128, :bigint},
    {:public_key_info, 0x0129, :bytes},
    {:prime, 0x0130, :bigint},
    {:subprime, 0x0131, :bigint},
    {:base, 0x0132, :bigint},
    {:prime_bits, 0x0133, :ulong},
    {:subprime_bits, 0x0134, :ulong},
    {:sub_prime_bits, 0x0134, :ulong},
    {:value_bits, 0x0160, :ulong},
    {:value_len, 0x0161, :ulong},
    {:extractable, 0x0162, :bool},
    {:local, 0x0163, :bool},
    {:never_extractable, 0x0164, :bool},
    {:always_sensitive, 0x0165, :bool},
    {:key_gen_mechanism, 0x0166, :mechanism},
    {:modifiable, 0x0170, :bool},
    {:copyable, 0x0171, :bool},
    {:destroyable, 0x0172, :bool},
    {:ec_params, 0x0180, :ec_params},
    {:ecdsa_params, 0x0180, :ec_params},
    {:ec_point, 0x0181, :bytes},
    {:secondary_auth, 0x0200, :bool},
    {:auth_pin_flags, 0x0201, :ulong},
    {:always_authenticate, 0x0202, :bool},
    {:wrap_with_trusted, 0x0210, :bool},
    {:otp_format, 0x0220, :otp_format},
    {:otp_length, 0x0221, :ulong},
    {:otp_time_interval, 0x0222, :ulong},
    {:otp_user_friendly_mode, 0x0223, :bool},
    {:otp_challenge_requirement, 0x0224, :otp_requirement},
    {:otp_time_requirement, 0x0225, :otp_requirement},
    {:otp_counter_requirement, 0x0226, :otp_requirement},
    {:otp_pin_requirement, 0x0227, :otp_requirement},
    {:otp_user_identifier, 0x022A, :string},
    {:otp_service_identifier, 0x022B, :string},
    {:otp_service_logo, 0x022C, :bytes},
    {:otp_service_logo_type, 0x022D, :string},
    {:otp_counter, 0x022E, :bytes},
    {:otp_time, 0x022F, :string},
    {:gostr3410_params, 0x0250, :bytes},
    {:gostr3411_params, 0x0251, :bytes},
    {:gost28147_params, 0x0252, :bytes},
    {:hw_feature_type, 0x0300, :hw_feature_type},
    {:reset_on_init, 0x0301, :bool},
    {:has_reset, 0x0302, :bool},
    {:pixel_x, 0x0400, :ulong},
    {:pixel_y, 0x0401, :ulong},
    {:resolution, 0x0402, :ulong},
    {:char_rows, 0x0403, :ulong},
    {:char_columns, 0x0404, :ulong},
    {:color, 0x0405, :bool},
    {:bits_per_pixel, 0x0406, :ulong},
    {:char_sets, 0x0480, :string},
    {:encoding_methods, 0x0481, :string},
    {:mime_types, 0x0482, :string},
    {:mechanism_type, 0x0500, :mechanism},
    {:required_cms_attributes, 0x0501, :bytes},
    {:default_cms_attributes, 0x0502, :bytes},
    {:supported_cms_attributes, 0x0503, :bytes},
    {:profile_id, 0x0601, :profile_id},
    {:x2ratchet_bag, 0x0602, :bytes},
    {:x2ratchet_bagsize, 0x0603, :ulong},
    {:x2ratchet_bobs1stmsg, 0x0604, :bool},
    {:x2ratchet_ckr, 0x0605, :bytes},
    {:x2ratchet_cks, 0x0606, :bytes},
    {:x2ratchet_dhp, 0x0607, :bytes},
    {:x2ratchet_dhr, 0x0608, :bytes},
    {:x2ratchet_dhs, 0x0609, :bytes},
    {:x2ratchet_hkr, 0x060A, :bytes},
    {:x2ratchet_hks, 0x060B, :bytes},
    {:x2ratchet_isalice, 0x060C, :bool},
    {:x2ratchet_nhkr, 0x060D, :bytes},
    {:x2ratchet_nhks, 0x060E, :bytes},
    {:x2ratchet_nr, 0x060F, :ulong},
    {:x2ratchet_ns, 0x0610, :ulong},
    {:x2ratchet_pns, 0x0611, :ulong},
    {:x2ratchet_rk, 0x0612, :bytes},
    {:hss_levels, 0x0617, :ulong},
    {:hss_lms_type, 0x0618, :ulong},
    {:hss_lmots_type, 0x0619, :ulong},
    {:hss_lms_types, 0x061A, :ulongs},
    {:hss_lmots_types, 0x061B, :ulongs},
    {:hss_keys_remaining, 0x061C, :ulong},
    {:parameter_set, 0x061D, :parameter_set},
    {:object_validation_flags, 0x061E, :ulong},
    {:validation_type, 0x061F, :validation_type},
    {:validation_version, 0x0620, :version},
    {:validation_level, 0x0621, :ulong},
    {:validation_module_id, 0x0622, :string},
    {:validation_flag, 0x0623, :ulong},
    {:validation_authority_type, 0x0624, :validation_authority_type},
    {:validation_country, 0x0625, :string},
    {:validation_certificate_identifier, 0x0626, :string},
    {:validation_certificate_uri, 0x0627, :string},
    {:validation_vendor_uri, 0x0628, :string},
    {:validation_profile, 0x0629, :string},
    {:encapsulate_template, 0x062A, :template},
    {:decapsulate_template, 0x062B, :template},
    {:trust_server_auth, 0x062C, :trust},
    {:trust_client_auth, 0x062D, :trust},
    {:trust_code_signing, 0x062E, :trust},
    {:trust_email_protection, 0x062F, :trust},
    {:trust_ipsec_ike, 0x0630, :trust},
    {:trust_time_stamping, 0x0631, :trust},
    {:trust_ocsp_signing, 0x0632, :trust},
    {:encapsulate, 0x0633, :bool},
    {:decapsulate, 0x0634, :bool},
    {:hash_of_certificate, 0x0635, :bytes},
    {:public_crc64_value, 0x0636, :bytes},
    {:seed, 0x0637, :bytes},
    {:wrap_template, 0x40000211, :template},
    {:unwrap_template, 0x40000212, :template},
    {:derive_template, 0x40000213, :template},
    {:allowed_mechanisms, 0x40000600, :mechanisms}
  ]

  @type kind ::
          :bool
          | :ulong
          | :ulongs
          | :bytes
          | :string
          | :bigint
          | :date
          | :class
          | :key_type
          | :certificate_type
          | :mechanism
          | :mechanisms
          | :template
          | :ec_params
          | :certificate_category
          | :security_domain
          | :hw_feature_type
          | :otp_format
          | :otp_requirement
          | :profile_id
          | :validation_type
          | :validation_authority_type
          | :trust
          | :parameter_set
          | :version

  @spec all() :: [{atom, non_neg_integer, kind}]
  def all, do: @attributes
end
