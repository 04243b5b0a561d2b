//! How long a signature, MAC, digest, ciphertext or plaintext is, as far as its mechanism says.

use std::ops::RangeInclusive;

use cryptoki_sys::*;

use super::mechanism::Mechanism;
use super::params::Params;

/// What the length of a mechanism's signatures depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureLength {
    /// The mechanism alone: so many bytes.
    Bytes(usize),
    /// The RSA key: as long as its modulus.
    Modulus,
    /// The EC key: r and s, each as long as the order of its curve.
    TwoOrders,
    /// The Edwards key: as its curve has it.
    Edwards,
    /// The parameter set of a key of this type (ML-DSA, SLH-DSA).
    ParameterSet(CK_KEY_TYPE),
    /// Something that we do not know.
    Unknown,
}

/// What the length of a mechanism's signatures depends on.
pub fn of_signature(mechanism: &Mechanism) -> SignatureLength {
    match mechanism.code {
        CKM_RSA_PKCS
        | CKM_RSA_9796
        | CKM_RSA_X_509
        | CKM_RSA_X9_31
        | CKM_SHA1_RSA_X9_31
        | CKM_RSA_PKCS_PSS
        | CKM_MD2_RSA_PKCS
        | CKM_MD5_RSA_PKCS
        | CKM_SHA1_RSA_PKCS
        | CKM_RIPEMD128_RSA_PKCS
        | CKM_RIPEMD160_RSA_PKCS
        | CKM_SHA224_RSA_PKCS
        | CKM_SHA256_RSA_PKCS
        | CKM_SHA384_RSA_PKCS
        | CKM_SHA512_RSA_PKCS
        | CKM_SHA3_224_RSA_PKCS
        | CKM_SHA3_256_RSA_PKCS
        | CKM_SHA3_384_RSA_PKCS
        | CKM_SHA3_512_RSA_PKCS
        | CKM_SHA1_RSA_PKCS_PSS
        | CKM_SHA224_RSA_PKCS_PSS
        | CKM_SHA256_RSA_PKCS_PSS
        | CKM_SHA384_RSA_PKCS_PSS
        | CKM_SHA512_RSA_PKCS_PSS
        | CKM_SHA3_224_RSA_PKCS_PSS
        | CKM_SHA3_256_RSA_PKCS_PSS
        | CKM_SHA3_384_RSA_PKCS_PSS
        | CKM_SHA3_512_RSA_PKCS_PSS => SignatureLength::Modulus,
        CKM_ECDSA | CKM_ECDSA_SHA1 | CKM_ECDSA_SHA224 | CKM_ECDSA_SHA256 | CKM_ECDSA_SHA384 | CKM_ECDSA_SHA512
        | CKM_ECDSA_SHA3_224 | CKM_ECDSA_SHA3_256 | CKM_ECDSA_SHA3_384 | CKM_ECDSA_SHA3_512 => SignatureLength::TwoOrders,
        CKM_EDDSA => SignatureLength::Edwards,
        CKM_ML_DSA | CKM_HASH_ML_DSA | CKM_HASH_ML_DSA_SHA224..=CKM_HASH_ML_DSA_SHAKE256 => {
            SignatureLength::ParameterSet(CKK_ML_DSA)
        }
        CKM_SLH_DSA | CKM_HASH_SLH_DSA | CKM_HASH_SLH_DSA_SHA224..=CKM_HASH_SLH_DSA_SHAKE256 => {
            SignatureLength::ParameterSet(CKK_SLH_DSA)
        }
        code => of_mac(code).or_else(|| of_general_mac(mechanism)).map_or(SignatureLength::Unknown, SignatureLength::Bytes),
    }
}

/// Bytes of a signature by a key of this type with this parameter set: FIPS 204, table 2, and FIPS 205, table 2.
pub fn of_parameter_set(key_type: CK_KEY_TYPE, set: CK_ULONG) -> Option<usize> {
    Some(match (key_type, set) {
        (CKK_ML_DSA, CKP_ML_DSA_44) => 2_420,
        (CKK_ML_DSA, CKP_ML_DSA_65) => 3_309,
        (CKK_ML_DSA, CKP_ML_DSA_87) => 4_627,
        (CKK_SLH_DSA, CKP_SLH_DSA_SHA2_128S | CKP_SLH_DSA_SHAKE_128S) => 7_856,
        (CKK_SLH_DSA, CKP_SLH_DSA_SHA2_128F | CKP_SLH_DSA_SHAKE_128F) => 17_088,
        (CKK_SLH_DSA, CKP_SLH_DSA_SHA2_192S | CKP_SLH_DSA_SHAKE_192S) => 16_224,
        (CKK_SLH_DSA, CKP_SLH_DSA_SHA2_192F | CKP_SLH_DSA_SHAKE_192F) => 35_664,
        (CKK_SLH_DSA, CKP_SLH_DSA_SHA2_256S | CKP_SLH_DSA_SHAKE_256S) => 29_792,
        (CKK_SLH_DSA, CKP_SLH_DSA_SHA2_256F | CKP_SLH_DSA_SHAKE_256F) => 49_856,
        _ => return None,
    })
}

/// Bytes of a ciphertext for an ML-KEM key with this parameter set: FIPS 203, table 3.
pub fn of_encapsulated(mechanism: CK_MECHANISM_TYPE, set: CK_ULONG) -> Option<usize> {
    Some(match (mechanism, set) {
        (CKM_ML_KEM, CKP_ML_KEM_512) => 768,
        (CKM_ML_KEM, CKP_ML_KEM_768) => 1_088,
        (CKM_ML_KEM, CKP_ML_KEM_1024) => 1_568,
        _ => return None,
    })
}

/// Bytes of a MAC whose mechanism fixes them. A `*_MAC` that is no `*_CMAC` is half of its cipher's block.
fn of_mac(code: CK_MECHANISM_TYPE) -> Option<usize> {
    Some(match code {
        CKM_DES_MAC | CKM_DES3_MAC | CKM_CDMF_MAC | CKM_RC2_MAC | CKM_CAST_MAC | CKM_CAST3_MAC | CKM_CAST128_MAC
        | CKM_IDEA_MAC => 4,
        CKM_AES_MAC | CKM_CAMELLIA_MAC | CKM_ARIA_MAC | CKM_SEED_MAC | CKM_DES3_CMAC => 8,
        CKM_AES_XCBC_MAC_96 => 12,
        CKM_AES_CMAC | CKM_AES_XCBC_MAC | CKM_POLY1305 | CKM_MD2_HMAC | CKM_MD5_HMAC | CKM_RIPEMD128_HMAC => 16,
        CKM_SHA_1_HMAC | CKM_RIPEMD160_HMAC | CKM_BLAKE2B_160_HMAC => 20,
        CKM_SHA224_HMAC | CKM_SHA512_224_HMAC | CKM_SHA3_224_HMAC => 28,
        CKM_SHA256_HMAC | CKM_SHA512_256_HMAC | CKM_SHA3_256_HMAC | CKM_BLAKE2B_256_HMAC | CKM_GOSTR3411_HMAC => 32,
        CKM_SHA384_HMAC | CKM_SHA3_384_HMAC | CKM_BLAKE2B_384_HMAC => 48,
        CKM_SHA512_HMAC | CKM_SHA3_512_HMAC | CKM_BLAKE2B_512_HMAC => 64,
        _ => return None,
    })
}

/// Bytes of a MAC whose parameter, a `CK_MAC_GENERAL_PARAMS`, says them.
fn of_general_mac(mechanism: &Mechanism) -> Option<usize> {
    let is_general = matches!(
        mechanism.code,
        CKM_DES_MAC_GENERAL
            | CKM_DES3_MAC_GENERAL
            | CKM_DES3_CMAC_GENERAL
            | CKM_CDMF_MAC_GENERAL
            | CKM_CAST_MAC_GENERAL
            | CKM_CAST3_MAC_GENERAL
            | CKM_CAST128_MAC_GENERAL
            | CKM_IDEA_MAC_GENERAL
            | CKM_AES_MAC_GENERAL
            | CKM_AES_CMAC_GENERAL
            | CKM_CAMELLIA_MAC_GENERAL
            | CKM_ARIA_MAC_GENERAL
            | CKM_SEED_MAC_GENERAL
            | CKM_MD2_HMAC_GENERAL
            | CKM_MD5_HMAC_GENERAL
            | CKM_RIPEMD128_HMAC_GENERAL
            | CKM_RIPEMD160_HMAC_GENERAL
            | CKM_SHA_1_HMAC_GENERAL
            | CKM_SHA224_HMAC_GENERAL
            | CKM_SHA256_HMAC_GENERAL
            | CKM_SHA384_HMAC_GENERAL
            | CKM_SHA512_HMAC_GENERAL
            | CKM_SHA512_224_HMAC_GENERAL
            | CKM_SHA512_256_HMAC_GENERAL
            | CKM_SHA3_224_HMAC_GENERAL
            | CKM_SHA3_256_HMAC_GENERAL
            | CKM_SHA3_384_HMAC_GENERAL
            | CKM_SHA3_512_HMAC_GENERAL
            | CKM_BLAKE2B_160_HMAC_GENERAL
            | CKM_BLAKE2B_256_HMAC_GENERAL
            | CKM_BLAKE2B_384_HMAC_GENERAL
            | CKM_BLAKE2B_512_HMAC_GENERAL
    );
    let Params::Bytes(bytes) = &mechanism.params else { return None };
    let length = bytes.as_slice().try_into().ok().map(CK_ULONG::from_ne_bytes).filter(|_| is_general)?;
    usize::try_from(length).ok()
}

/// Whether it is a MAC that is the last of a chain of blocks (FIPS 113): of no data there is none. CMACs, HMACs and the like have one.
pub fn is_chained_mac(code: CK_MECHANISM_TYPE) -> bool {
    matches!(
        code,
        CKM_DES_MAC
            | CKM_DES_MAC_GENERAL
            | CKM_DES3_MAC
            | CKM_DES3_MAC_GENERAL
            | CKM_CDMF_MAC
            | CKM_CDMF_MAC_GENERAL
            | CKM_RC2_MAC
            | CKM_RC2_MAC_GENERAL
            | CKM_RC5_MAC
            | CKM_RC5_MAC_GENERAL
            | CKM_CAST_MAC
            | CKM_CAST_MAC_GENERAL
            | CKM_CAST3_MAC
            | CKM_CAST3_MAC_GENERAL
            | CKM_CAST128_MAC
            | CKM_CAST128_MAC_GENERAL
            | CKM_IDEA_MAC
            | CKM_IDEA_MAC_GENERAL
            | CKM_AES_MAC
            | CKM_AES_MAC_GENERAL
            | CKM_CAMELLIA_MAC
            | CKM_CAMELLIA_MAC_GENERAL
            | CKM_ARIA_MAC
            | CKM_ARIA_MAC_GENERAL
            | CKM_SEED_MAC
            | CKM_SEED_MAC_GENERAL
    )
}

/// Bytes of a digest; `None`: unknown.
pub fn of_digest(mechanism: &Mechanism) -> Option<RangeInclusive<usize>> {
    let size = match mechanism.code {
        CKM_MD2 | CKM_MD5 | CKM_RIPEMD128 => 16,
        CKM_SHA_1 | CKM_RIPEMD160 | CKM_BLAKE2B_160 => 20,
        CKM_SHA224 | CKM_SHA512_224 | CKM_SHA3_224 => 28,
        CKM_SHA256 | CKM_SHA512_256 | CKM_SHA3_256 | CKM_BLAKE2B_256 => 32,
        CKM_SHA384 | CKM_SHA3_384 | CKM_BLAKE2B_384 => 48,
        CKM_SHA512 | CKM_SHA3_512 | CKM_BLAKE2B_512 => 64,
        _ => return None,
    };
    Some(size..=size)
}

/// What a mode makes of the length of its input.
enum Mode {
    /// Nothing.
    Same,
    /// It fills up the last block, with at least one byte.
    Padded(usize),
    /// It adds an authentication tag of so many bytes.
    Tagged(RangeInclusive<usize>),
    /// RSA.
    Rsa,
}

fn mode(mechanism: &Mechanism) -> Option<Mode> {
    Some(match mechanism.code {
        CKM_AES_ECB | CKM_AES_CBC | CKM_AES_CTR | CKM_AES_OFB | CKM_AES_CFB1 | CKM_AES_CFB8 | CKM_AES_CFB64 | CKM_AES_CFB128
        | CKM_AES_CTS | CKM_AES_XTS | CKM_CAMELLIA_ECB | CKM_CAMELLIA_CBC | CKM_CAMELLIA_CTR | CKM_ARIA_ECB | CKM_ARIA_CBC
        | CKM_SEED_ECB | CKM_SEED_CBC | CKM_TWOFISH_CBC | CKM_BLOWFISH_CBC | CKM_DES_ECB | CKM_DES_CBC | CKM_DES_OFB8
        | CKM_DES_OFB64 | CKM_DES_CFB8 | CKM_DES_CFB64 | CKM_DES3_ECB | CKM_DES3_CBC | CKM_CDMF_ECB | CKM_CDMF_CBC
        | CKM_CAST_ECB | CKM_CAST_CBC | CKM_CAST3_ECB | CKM_CAST3_CBC | CKM_CAST128_ECB | CKM_CAST128_CBC | CKM_IDEA_ECB
        | CKM_IDEA_CBC | CKM_RC2_ECB | CKM_RC2_CBC | CKM_RC4 | CKM_CHACHA20 | CKM_SALSA20 => Mode::Same,
        CKM_AES_CBC_PAD | CKM_CAMELLIA_CBC_PAD | CKM_ARIA_CBC_PAD | CKM_SEED_CBC_PAD | CKM_TWOFISH_CBC_PAD => Mode::Padded(16),
        CKM_DES_CBC_PAD | CKM_DES3_CBC_PAD | CKM_CDMF_CBC_PAD | CKM_CAST_CBC_PAD | CKM_CAST3_CBC_PAD | CKM_CAST128_CBC_PAD
        | CKM_IDEA_CBC_PAD | CKM_BLOWFISH_CBC_PAD | CKM_RC2_CBC_PAD => Mode::Padded(8),
        CKM_AES_GCM => match &mechanism.params {
            Params::Gcm { tag_bits, .. } => {
                let tag = usize::try_from(tag_bits.div_ceil(8)).ok()?;
                Mode::Tagged(tag..=tag)
            }
            _ => Mode::Tagged(0..=16),
        },
        CKM_AES_CCM => match &mechanism.params {
            Params::Ccm { mac_length, .. } => {
                let tag = usize::try_from(*mac_length).ok()?;
                Mode::Tagged(tag..=tag)
            }
            _ => Mode::Tagged(0..=16),
        },
        CKM_CHACHA20_POLY1305 | CKM_SALSA20_POLY1305 => Mode::Tagged(16..=16),
        CKM_RSA_PKCS | CKM_RSA_PKCS_OAEP | CKM_RSA_X_509 => Mode::Rsa,
        _ => return None,
    })
}

/// Whether a plaintext is none before its ciphertext's tag has been verified.
pub fn is_authenticated(mechanism: &Mechanism) -> bool {
    matches!(mechanism.params, Params::Gcm { .. }) || matches!(mode(mechanism), Some(Mode::Tagged(_)))
}

/// Whether a ciphertext of so many bytes has no room for the tag that its mechanism gives it.
pub fn lacks_tag(mechanism: &Mechanism, cipher: usize) -> bool {
    matches!(mode(mechanism), Some(Mode::Tagged(tag)) if cipher < *tag.start())
}

/// Bytes that a ciphertext of so many bytes may have, with an RSA key whose modulus has so many; `None`: unknown.
pub fn of_ciphertext(mechanism: &Mechanism, plain: usize, modulus: Option<usize>) -> Option<RangeInclusive<usize>> {
    match mode(mechanism)? {
        Mode::Same => Some(plain..=plain),
        Mode::Padded(block) => {
            let padded = (plain / block).checked_add(1)?.checked_mul(block)?;
            Some(padded..=padded)
        }
        Mode::Tagged(tag) => Some(plain.checked_add(*tag.start())?..=plain.checked_add(*tag.end())?),
        Mode::Rsa => modulus.map(|modulus| modulus..=modulus),
    }
}

/// Whether a key that is wrapped may have so many bytes, with an RSA key whose modulus has so many. How long the key itself is, we do not know.
pub fn may_be_wrapped(mechanism: &Mechanism, wrapped: usize, modulus: Option<usize>) -> bool {
    match (mechanism.code, modulus) {
        (CKM_RSA_PKCS | CKM_RSA_PKCS_OAEP | CKM_RSA_X_509, Some(modulus)) => wrapped == modulus,
        // The AES key that RSA has encrypted, and the key that this has wrapped.
        (CKM_RSA_AES_KEY_WRAP, Some(modulus)) => wrapped >= modulus + 16 && (wrapped - modulus).is_multiple_of(8),
        (CKM_AES_KEY_WRAP | CKM_AES_KEY_WRAP_PAD | CKM_AES_KEY_WRAP_KWP | CKM_AES_KEY_WRAP_PKCS7, _) => {
            wrapped >= 16 && wrapped.is_multiple_of(8)
        }
        _ => match mode(mechanism) {
            Some(Mode::Padded(block)) => wrapped > 0 && wrapped.is_multiple_of(block),
            Some(Mode::Tagged(tag)) => wrapped > *tag.start(),
            _ => wrapped > 0,
        },
    }
}

/// Bytes that a plaintext may have whose ciphertext has so many; `None`: unknown.
pub fn of_plaintext(mechanism: &Mechanism, cipher: usize) -> Option<RangeInclusive<usize>> {
    Some(match mode(mechanism)? {
        Mode::Same => cipher..=cipher,
        Mode::Padded(block) => cipher.saturating_sub(block)..=cipher.saturating_sub(1),
        Mode::Tagged(tag) => cipher.saturating_sub(*tag.end())..=cipher.saturating_sub(*tag.start()),
        Mode::Rsa => 0..=cipher,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_as_long_as_its_mechanism_says() {
        let bytes = |code| of_signature(&Mechanism::new(code));
        assert_eq!(bytes(CKM_SHA256_HMAC), SignatureLength::Bytes(32));
        assert_eq!(bytes(CKM_SHA512_224_HMAC), SignatureLength::Bytes(28));
        assert_eq!(bytes(CKM_AES_CMAC), SignatureLength::Bytes(16));
        assert_eq!(bytes(CKM_AES_MAC), SignatureLength::Bytes(8));
    }

    #[test]
    fn that_of_a_general_one_as_its_parameter_says() {
        let general = |code, bytes: &[u8]| of_signature(&Mechanism { code, params: Params::Bytes(bytes.to_vec()) });
        let ten = (10 as CK_ULONG).to_ne_bytes();
        assert_eq!(general(CKM_SHA256_HMAC_GENERAL, &ten), SignatureLength::Bytes(10));
        assert_eq!(general(CKM_AES_CMAC_GENERAL, &ten), SignatureLength::Bytes(10));
        assert_eq!(general(CKM_SHA256_HMAC_GENERAL, b"?"), SignatureLength::Unknown);
        // Whatever these bytes are, they are no length.
        assert_eq!(general(CKM_VENDOR_DEFINED, &ten), SignatureLength::Unknown);
    }

    #[test]
    fn others_depend_on_the_key_or_are_unknown() {
        let of = |code| of_signature(&Mechanism::new(code));
        assert_eq!(of(CKM_SHA256_RSA_PKCS_PSS), SignatureLength::Modulus);
        assert_eq!(of(CKM_ECDSA), SignatureLength::TwoOrders);
        assert_eq!(of(CKM_EDDSA), SignatureLength::Edwards);
        assert_eq!(of(CKM_HASH_ML_DSA_SHA512), SignatureLength::ParameterSet(CKK_ML_DSA));
        assert_eq!(of(CKM_SLH_DSA), SignatureLength::ParameterSet(CKK_SLH_DSA));
        for code in [CKM_DSA, CKM_ML_DSA_KEY_PAIR_GEN, CKM_VENDOR_DEFINED + 1] {
            assert_eq!(of(code), SignatureLength::Unknown);
        }
    }

    #[test]
    fn a_parameter_set_is_that_of_its_key_type() {
        assert_eq!(of_parameter_set(CKK_ML_DSA, 1), Some(2_420));
        assert_eq!(of_parameter_set(CKK_SLH_DSA, 1), Some(7_856));
        assert_eq!(of_parameter_set(CKK_SLH_DSA, 12), Some(49_856));
        assert_eq!(of_parameter_set(CKK_ML_DSA, 4), None);
        assert_eq!(of_parameter_set(CKK_ML_KEM, 1), None);
        assert_eq!(of_encapsulated(CKM_ML_KEM, 2), Some(1_088));
        assert_eq!(of_encapsulated(CKM_RSA_PKCS, 2), None);
    }

    #[test]
    fn a_mode_says_how_long_its_output_is() {
        let (of, key) = (|code| Mechanism::new(code), Some(256));
        let both = |code, plain, cipher| (of_ciphertext(&of(code), plain, key), of_plaintext(&of(code), cipher));
        for code in [CKM_AES_OFB, CKM_AES_CFB8, CKM_AES_CFB128, CKM_AES_CTR, CKM_DES3_CBC] {
            assert_eq!(both(code, 225, 225), (Some(225..=225), Some(225..=225)));
        }
        assert_eq!(both(CKM_AES_CBC_PAD, 15, 16), (Some(16..=16), Some(0..=15)));
        assert_eq!(both(CKM_AES_CBC_PAD, 16, 32), (Some(32..=32), Some(16..=31)));
        assert_eq!(both(CKM_DES3_CBC_PAD, 0, 8), (Some(8..=8), Some(0..=7)));
        assert_eq!(both(CKM_CHACHA20_POLY1305, 5, 21), (Some(21..=21), Some(5..=5)));
        assert_eq!(both(CKM_RSA_PKCS_OAEP, 5, 256), (Some(256..=256), Some(0..=256)));
        assert_eq!(of_ciphertext(&of(CKM_RSA_PKCS), 5, None), None);
        assert_eq!(both(CKM_VENDOR_DEFINED + 1, 5, 5), (None, None));
    }

    #[test]
    fn a_wrapped_key_is_as_long_as_its_mechanism_allows() {
        let may_be = |code, size, modulus| may_be_wrapped(&Mechanism::new(code), size, modulus);
        assert!(may_be(CKM_RSA_PKCS_OAEP, 256, Some(256)) && !may_be(CKM_RSA_PKCS_OAEP, 255, Some(256)));
        assert!(may_be(CKM_RSA_PKCS, 255, None));
        assert!(
            may_be(CKM_AES_KEY_WRAP, 24, None) && !may_be(CKM_AES_KEY_WRAP, 23, None) && !may_be(CKM_AES_KEY_WRAP_KWP, 8, None)
        );
        assert!(may_be(CKM_RSA_AES_KEY_WRAP, 256 + 40, Some(256)));
        assert!(!may_be(CKM_RSA_AES_KEY_WRAP, 256, Some(256)) && !may_be(CKM_RSA_AES_KEY_WRAP, 40, Some(256)));
        assert!(may_be(CKM_AES_CBC_PAD, 48, None) && !may_be(CKM_AES_CBC_PAD, 47, None) && !may_be(CKM_AES_CBC_PAD, 0, None));
        assert!(may_be(CKM_VENDOR_DEFINED, 1, None) && !may_be(CKM_VENDOR_DEFINED, 0, None));
    }

    #[test]
    fn a_tag_is_as_long_as_its_parameter_says() {
        let gcm = |tag_bits| {
            let iv = super::super::params::Iv::Given(vec![1; 12]);
            Mechanism { code: CKM_AES_GCM, params: Params::Gcm { iv, aad: Default::default(), tag_bits } }
        };
        assert_eq!(of_ciphertext(&gcm(96), 5, None), Some(17..=17));
        assert_eq!(of_plaintext(&gcm(128), 16), Some(0..=0));
        assert!(lacks_tag(&gcm(128), 15));
        assert!(!lacks_tag(&gcm(128), 16));
        assert!(!lacks_tag(&Mechanism::new(CKM_AES_CBC), 0));
        assert_eq!(of_ciphertext(&gcm(128), usize::MAX, None), None);
    }

    #[test]
    fn digests() {
        assert_eq!(of_digest(&Mechanism::new(CKM_SHA512_256)), Some(32..=32));
        assert_eq!(of_digest(&Mechanism::new(CKM_VENDOR_DEFINED)), None);
    }
}
