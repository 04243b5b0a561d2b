//! Which keys a mechanism of the standard takes. Some modules do not look: SoftHSM signs with an AES key by CKM_DSA, and crashes.

use cryptoki_sys::*;

/// What is done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// `C_SignInit`.
    Sign,
    /// `C_VerifyInit`.
    Verify,
    /// `C_EncryptInit`.
    Encrypt,
    /// `C_DecryptInit`.
    Decrypt,
    /// `C_WrapKey`: the key that wraps.
    Wrap,
    /// `C_UnwrapKey`: the key that unwraps.
    Unwrap,
    /// `C_DeriveKey`: the key that another is derived from.
    Derive,
    /// `C_EncapsulateKey`.
    Encapsulate,
    /// `C_DecapsulateKey`.
    Decapsulate,
}

/// The keys of a mechanism. Of no types: any type of that class, as far as is known.
enum Keys {
    Pair(&'static [CK_KEY_TYPE]),
    Secret(&'static [CK_KEY_TYPE]),
}

/// Whether a key of this class and type can be what the mechanism takes. What the token does not say of the key, and what is a vendor's own, is left to
/// the module.
pub fn fits(mechanism: CK_MECHANISM_TYPE, usage: Use, class: Option<CK_OBJECT_CLASS>, key_type: Option<CK_KEY_TYPE>) -> bool {
    if mechanism >= CKM_VENDOR_DEFINED {
        return true;
    }
    // Of the standard's.
    let class = class.filter(|class| *class < CKO_VENDOR_DEFINED);
    let key_type = key_type.filter(|key_type| *key_type < CKK_VENDOR_DEFINED);
    let Some(keys) = keys(mechanism) else {
        return class.is_none_or(|class| matches!(class, CKO_PUBLIC_KEY | CKO_PRIVATE_KEY | CKO_SECRET_KEY | CKO_OTP_KEY));
    };
    let (wanted, types) = match (keys, usage) {
        (Keys::Secret(types), _) => (CKO_SECRET_KEY, types),
        (Keys::Pair(types), Use::Sign | Use::Decrypt | Use::Unwrap | Use::Derive | Use::Decapsulate) => (CKO_PRIVATE_KEY, types),
        (Keys::Pair(types), Use::Verify | Use::Encrypt | Use::Wrap | Use::Encapsulate) => (CKO_PUBLIC_KEY, types),
    };
    class.is_none_or(|class| class == wanted) && (types.is_empty() || key_type.is_none_or(|own| types.contains(&own)))
}

/// `None`: the standard's, but for no key, or unknown here.
fn keys(mechanism: CK_MECHANISM_TYPE) -> Option<Keys> {
    let types: &[CK_KEY_TYPE] = match mechanism {
        CKM_RSA_PKCS..=CKM_RSA_PKCS_OAEP
        | CKM_RSA_X9_31..=CKM_SHA1_RSA_PKCS_PSS
        | CKM_SHA256_RSA_PKCS..=CKM_SHA224_RSA_PKCS_PSS
        | CKM_SHA3_256_RSA_PKCS..=CKM_SHA3_224_RSA_PKCS_PSS
        | CKM_RSA_AES_KEY_WRAP
        | CKM_RSA_PKCS_TPM_1_1
        | CKM_RSA_PKCS_OAEP_TPM_1_1 => &[CKK_RSA],
        CKM_DSA..=CKM_DSA_SHA512 | CKM_DSA_SHA3_224..=CKM_DSA_SHA3_512 => &[CKK_DSA],
        CKM_ECDSA..=CKM_ECDSA_SHA3_512 => &[CKK_EC],
        // Before there was a type for them, Edwards keys were EC keys.
        CKM_EDDSA => &[CKK_EC_EDWARDS, CKK_EC],
        CKM_XEDDSA => &[CKK_EC_MONTGOMERY, CKK_EC],
        // SoftHSM's Montgomery keys are Edwards keys.
        CKM_ECDH1_DERIVE | CKM_ECDH1_COFACTOR_DERIVE => &[CKK_EC, CKK_EC_MONTGOMERY, CKK_EC_EDWARDS],
        CKM_ECDH_AES_KEY_WRAP | CKM_ECDH_COF_AES_KEY_WRAP => &[CKK_EC],
        CKM_ECDH_X_AES_KEY_WRAP => &[CKK_EC_MONTGOMERY, CKK_EC],
        CKM_ECMQV_DERIVE => &[CKK_EC],
        CKM_DH_PKCS_DERIVE => &[CKK_DH],
        CKM_X9_42_DH_DERIVE | CKM_X9_42_DH_HYBRID_DERIVE | CKM_X9_42_MQV_DERIVE => &[CKK_X9_42_DH],
        CKM_ML_DSA | CKM_HASH_ML_DSA | CKM_HASH_ML_DSA_SHA224..=CKM_HASH_ML_DSA_SHAKE256 => &[CKK_ML_DSA],
        CKM_SLH_DSA | CKM_HASH_SLH_DSA | CKM_HASH_SLH_DSA_SHA224..=CKM_HASH_SLH_DSA_SHAKE256 => &[CKK_SLH_DSA],
        CKM_ML_KEM => &[CKK_ML_KEM],
        CKM_HSS => &[CKK_HSS],
        CKM_XMSS => &[CKK_XMSS],
        CKM_XMSSMT => &[CKK_XMSSMT],
        CKM_GOSTR3410 | CKM_GOSTR3410_WITH_GOSTR3411 => &[CKK_GOSTR3410],
        _ => return secret_keys(mechanism).map(Keys::Secret),
    };
    Some(Keys::Pair(types))
}

fn secret_keys(mechanism: CK_MECHANISM_TYPE) -> Option<&'static [CK_KEY_TYPE]> {
    Some(match mechanism {
        CKM_AES_ECB_ENCRYPT_DATA | CKM_AES_CBC_ENCRYPT_DATA => &[CKK_AES],
        CKM_DES_ECB_ENCRYPT_DATA | CKM_DES_CBC_ENCRYPT_DATA => &[CKK_DES],
        CKM_DES3_ECB_ENCRYPT_DATA | CKM_DES3_CBC_ENCRYPT_DATA => &[CKK_DES3, CKK_DES2],
        CKM_CAMELLIA_ECB_ENCRYPT_DATA | CKM_CAMELLIA_CBC_ENCRYPT_DATA => &[CKK_CAMELLIA],
        CKM_ARIA_ECB_ENCRYPT_DATA | CKM_ARIA_CBC_ENCRYPT_DATA => &[CKK_ARIA],
        CKM_SEED_ECB_ENCRYPT_DATA | CKM_SEED_CBC_ENCRYPT_DATA => &[CKK_SEED],
        // Whatever secret it is.
        CKM_CONCATENATE_BASE_AND_KEY
        | CKM_CONCATENATE_BASE_AND_DATA
        | CKM_CONCATENATE_DATA_AND_BASE
        | CKM_XOR_BASE_AND_DATA
        | CKM_EXTRACT_KEY_FROM_KEY
        | CKM_HKDF_DERIVE
        | CKM_HKDF_DATA
        | CKM_SP800_108_COUNTER_KDF
        | CKM_SP800_108_FEEDBACK_KDF
        | CKM_SP800_108_DOUBLE_PIPELINE_KDF => &[],
        CKM_AES_ECB..=CKM_AES_GMAC | CKM_AES_OFB..=CKM_AES_KEY_WRAP_PKCS7 => &[CKK_AES],
        CKM_AES_XTS => &[CKK_AES_XTS, CKK_AES],
        CKM_DES_ECB..=CKM_DES_CBC_PAD | CKM_DES_OFB64..=CKM_DES_CFB8 => &[CKK_DES],
        CKM_DES3_ECB..=CKM_DES3_CMAC => &[CKK_DES3, CKK_DES2],
        CKM_RC2_ECB..=CKM_RC2_CBC_PAD => &[CKK_RC2],
        CKM_RC4 => &[CKK_RC4],
        CKM_RC5_ECB..=CKM_RC5_CBC_PAD => &[CKK_RC5],
        CKM_CDMF_ECB..=CKM_CDMF_CBC_PAD => &[CKK_CDMF],
        CKM_CAST_ECB..=CKM_CAST_CBC_PAD => &[CKK_CAST],
        CKM_CAST3_ECB..=CKM_CAST3_CBC_PAD => &[CKK_CAST3],
        CKM_CAST128_ECB..=CKM_CAST128_CBC_PAD => &[CKK_CAST128],
        CKM_IDEA_ECB..=CKM_IDEA_CBC_PAD => &[CKK_IDEA],
        CKM_CAMELLIA_ECB..=CKM_CAMELLIA_CBC_PAD | CKM_CAMELLIA_CTR => &[CKK_CAMELLIA],
        CKM_ARIA_ECB..=CKM_ARIA_CBC_PAD => &[CKK_ARIA],
        CKM_SEED_ECB..=CKM_SEED_CBC_PAD => &[CKK_SEED],
        CKM_SKIPJACK_ECB64..=CKM_SKIPJACK_CFB8 => &[CKK_SKIPJACK],
        CKM_BATON_ECB128..=CKM_BATON_SHUFFLE => &[CKK_BATON],
        CKM_JUNIPER_ECB128..=CKM_JUNIPER_SHUFFLE => &[CKK_JUNIPER],
        CKM_BLOWFISH_CBC | CKM_BLOWFISH_CBC_PAD => &[CKK_BLOWFISH],
        CKM_TWOFISH_CBC | CKM_TWOFISH_CBC_PAD => &[CKK_TWOFISH],
        CKM_GOST28147_ECB..=CKM_GOST28147_MAC => &[CKK_GOST28147],
        CKM_CHACHA20 | CKM_CHACHA20_POLY1305 => &[CKK_CHACHA20],
        CKM_SALSA20 | CKM_SALSA20_POLY1305 => &[CKK_SALSA20],
        CKM_POLY1305 => &[CKK_POLY1305],
        // Generic secrets, keys of one HMAC, and on some tokens any secret key.
        CKM_MD2_HMAC
        | CKM_MD2_HMAC_GENERAL
        | CKM_MD5_HMAC
        | CKM_MD5_HMAC_GENERAL
        | CKM_SHA_1_HMAC
        | CKM_SHA_1_HMAC_GENERAL
        | CKM_RIPEMD128_HMAC
        | CKM_RIPEMD128_HMAC_GENERAL
        | CKM_RIPEMD160_HMAC
        | CKM_RIPEMD160_HMAC_GENERAL
        | CKM_SHA224_HMAC
        | CKM_SHA224_HMAC_GENERAL
        | CKM_SHA256_HMAC
        | CKM_SHA256_HMAC_GENERAL
        | CKM_SHA384_HMAC
        | CKM_SHA384_HMAC_GENERAL
        | CKM_SHA512_HMAC
        | CKM_SHA512_HMAC_GENERAL
        | CKM_SHA512_224_HMAC
        | CKM_SHA512_224_HMAC_GENERAL
        | CKM_SHA512_256_HMAC
        | CKM_SHA512_256_HMAC_GENERAL
        | CKM_SHA512_T_HMAC
        | CKM_SHA512_T_HMAC_GENERAL
        | CKM_SHA3_224_HMAC
        | CKM_SHA3_224_HMAC_GENERAL
        | CKM_SHA3_256_HMAC
        | CKM_SHA3_256_HMAC_GENERAL
        | CKM_SHA3_384_HMAC
        | CKM_SHA3_384_HMAC_GENERAL
        | CKM_SHA3_512_HMAC
        | CKM_SHA3_512_HMAC_GENERAL
        | CKM_BLAKE2B_160_HMAC
        | CKM_BLAKE2B_160_HMAC_GENERAL
        | CKM_BLAKE2B_256_HMAC
        | CKM_BLAKE2B_256_HMAC_GENERAL
        | CKM_BLAKE2B_384_HMAC
        | CKM_BLAKE2B_384_HMAC_GENERAL
        | CKM_BLAKE2B_512_HMAC
        | CKM_BLAKE2B_512_HMAC_GENERAL
        | CKM_GOSTR3411_HMAC => &[],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: Option<CK_OBJECT_CLASS> = Some(CKO_PRIVATE_KEY);
    const PUBLIC: Option<CK_OBJECT_CLASS> = Some(CKO_PUBLIC_KEY);
    const SECRET: Option<CK_OBJECT_CLASS> = Some(CKO_SECRET_KEY);

    #[test]
    fn a_key_of_another_type_does_not_fit() {
        for (mechanism, usage, class, key_type) in [
            (CKM_DSA, Use::Sign, SECRET, CKK_AES),
            (CKM_RSA_PKCS, Use::Sign, PRIVATE, CKK_EC),
            (CKM_SHA256_RSA_PKCS_PSS, Use::Verify, PUBLIC, CKK_EC),
            (CKM_ECDSA, Use::Sign, PRIVATE, CKK_RSA),
            (CKM_ECDSA, Use::Sign, PRIVATE, CKK_EC_EDWARDS),
            (CKM_AES_GCM, Use::Encrypt, SECRET, CKK_GENERIC_SECRET),
            (CKM_AES_CBC, Use::Encrypt, SECRET, CKK_DES3),
            (CKM_AES_KEY_WRAP, Use::Wrap, SECRET, CKK_DES3),
            (CKM_AES_KEY_WRAP_KWP, Use::Unwrap, SECRET, CKK_GENERIC_SECRET),
            (CKM_RSA_AES_KEY_WRAP, Use::Unwrap, PRIVATE, CKK_EC),
            (CKM_ECDH1_DERIVE, Use::Derive, PRIVATE, CKK_RSA),
            (CKM_AES_ECB_ENCRYPT_DATA, Use::Derive, SECRET, CKK_DES3),
            (CKM_ML_KEM, Use::Encapsulate, PUBLIC, CKK_ML_DSA),
        ] {
            assert!(!fits(mechanism, usage, class, Some(key_type)), "{mechanism:#x}");
            assert!(!fits(mechanism, usage, None, Some(key_type)), "{mechanism:#x}");
        }
    }

    #[test]
    fn a_key_of_another_class_does_not_fit() {
        for (mechanism, usage, class) in [
            (CKM_ECDSA, Use::Sign, CKO_PUBLIC_KEY),
            (CKM_ECDSA, Use::Verify, CKO_PRIVATE_KEY),
            (CKM_RSA_PKCS_OAEP, Use::Encrypt, CKO_PRIVATE_KEY),
            (CKM_RSA_PKCS_OAEP, Use::Decrypt, CKO_PUBLIC_KEY),
            (CKM_RSA_PKCS, Use::Sign, CKO_CERTIFICATE),
            (CKM_AES_GCM, Use::Decrypt, CKO_DATA),
            (CKM_ML_KEM, Use::Encapsulate, CKO_PRIVATE_KEY),
            (CKM_ML_KEM, Use::Decapsulate, CKO_PUBLIC_KEY),
            (CKM_SHA256_HMAC, Use::Sign, CKO_PRIVATE_KEY),
            (CKM_HOTP, Use::Sign, CKO_DATA),
            (CKM_RSA_PKCS_OAEP, Use::Wrap, CKO_PRIVATE_KEY),
            (CKM_RSA_PKCS, Use::Unwrap, CKO_PUBLIC_KEY),
            (CKM_AES_KEY_WRAP, Use::Wrap, CKO_PRIVATE_KEY),
            (CKM_ECDH1_DERIVE, Use::Derive, CKO_PUBLIC_KEY),
            (CKM_HKDF_DERIVE, Use::Derive, CKO_PRIVATE_KEY),
            (CKM_XOR_BASE_AND_DATA, Use::Derive, CKO_DATA),
        ] {
            assert!(!fits(mechanism, usage, Some(class), None), "{mechanism:#x}");
        }
    }

    #[test]
    fn a_key_of_its_own_fits() {
        for (mechanism, usage, class, key_type) in [
            (CKM_SHA512_RSA_PKCS, Use::Sign, PRIVATE, CKK_RSA),
            (CKM_RSA_PKCS_OAEP, Use::Encrypt, PUBLIC, CKK_RSA),
            (CKM_ECDSA_SHA3_512, Use::Verify, PUBLIC, CKK_EC),
            (CKM_EDDSA, Use::Sign, PRIVATE, CKK_EC_EDWARDS),
            (CKM_DES3_CBC_PAD, Use::Decrypt, SECRET, CKK_DES2),
            (CKM_AES_CMAC, Use::Sign, SECRET, CKK_AES),
            (CKM_SHA256_HMAC, Use::Verify, SECRET, CKK_SHA256_HMAC),
            (CKM_ML_DSA, Use::Sign, PRIVATE, CKK_ML_DSA),
            (CKM_RSA_AES_KEY_WRAP, Use::Wrap, PUBLIC, CKK_RSA),
            (CKM_AES_CBC_PAD, Use::Unwrap, SECRET, CKK_AES),
            (CKM_ECDH1_DERIVE, Use::Derive, PRIVATE, CKK_EC_MONTGOMERY),
            (CKM_ECDH1_DERIVE, Use::Derive, PRIVATE, CKK_EC_EDWARDS),
            (CKM_DES3_ECB_ENCRYPT_DATA, Use::Derive, SECRET, CKK_DES2),
            (CKM_HKDF_DERIVE, Use::Derive, SECRET, CKK_AES),
            (CKM_ML_KEM, Use::Encapsulate, PUBLIC, CKK_ML_KEM),
            (CKM_ML_KEM, Use::Decapsulate, PRIVATE, CKK_ML_KEM),
        ] {
            assert!(fits(mechanism, usage, class, Some(key_type)), "{mechanism:#x}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_to_the_module() {
        assert!(fits(CKM_VENDOR_DEFINED + 1, Use::Sign, Some(CKO_DATA), Some(CKK_AES)));
        assert!(fits(CKM_ECDSA, Use::Sign, None, None));
        assert!(fits(CKM_ECDSA, Use::Sign, PRIVATE, Some(CKK_VENDOR_DEFINED + 1)));
        assert!(fits(CKM_ECDSA, Use::Sign, Some(CKO_VENDOR_DEFINED + 1), Some(CKK_EC)));
        assert!(fits(CKM_HOTP, Use::Sign, Some(CKO_OTP_KEY), Some(CKK_HOTP)));
    }
}
