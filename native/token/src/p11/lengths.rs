//! How long a signature or MAC is, as far as its mechanism says.

use cryptoki_sys::*;

use super::mechanism::{Mechanism, Params};

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
        code => of_mac(code).or_else(|| of_general_mac(mechanism)).map_or(SignatureLength::Unknown, SignatureLength::Bytes),
    }
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
        for code in [CKM_DSA, CKM_ML_DSA, CKM_VENDOR_DEFINED + 1] {
            assert_eq!(of(code), SignatureLength::Unknown);
        }
    }
}
