//! The parameters of mechanisms, as bytes and numbers: `mechanism` makes the C structures of them.

use std::fmt;

use cryptoki_sys::*;

use super::derivation::Derivation;
use crate::support::wiped::wipe;

/// Mechanism parameters. Its `Debug` shows lengths in place of bytes, and bytes are wiped when they are dropped: a password, or data that two sides share.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Params {
    /// `pParameter` is NULL.
    None,
    /// The parameter as it stands: an IV, or a vendor's structure.
    Bytes(Vec<u8>),
    /// `CK_RSA_PKCS_PSS_PARAMS`.
    RsaPss {
        /// `CKM_*` of the hash.
        hash: CK_MECHANISM_TYPE,
        /// `CKG_*` of the mask generation function.
        mgf: CK_RSA_PKCS_MGF_TYPE,
        /// Bytes of salt.
        salt_length: CK_ULONG,
    },
    /// `CK_RSA_PKCS_OAEP_PARAMS`, the source being `CKZ_DATA_SPECIFIED`.
    RsaOaep {
        /// `CKM_*` of the hash.
        hash: CK_MECHANISM_TYPE,
        /// `CKG_*` of the mask generation function.
        mgf: CK_RSA_PKCS_MGF_TYPE,
        /// The label of RFC 8017; usually empty.
        source: Vec<u8>,
    },
    /// `CK_GCM_PARAMS`.
    Gcm {
        /// The initialization vector.
        iv: Iv,
        /// Additional authenticated data; may be empty.
        aad: Vec<u8>,
        /// Bits of tag, usually 128.
        tag_bits: CK_ULONG,
    },
    /// None, as [`Params::None`]: the mechanism takes a digest, and what is to be signed is a message.
    Hashed {
        /// `CKM_*` of the hash.
        hash: CK_MECHANISM_TYPE,
        /// `CKA_EC_PARAMS` of the only curve whose keys may sign so.
        curve: Option<Vec<u8>>,
    },
    /// `CK_CCM_PARAMS`.
    Ccm {
        /// The nonce, of 7 to 13 bytes if it is given.
        nonce: Iv,
        /// Additional authenticated data; may be empty.
        aad: Vec<u8>,
        /// Bytes of the MAC.
        mac_length: CK_ULONG,
        /// Bytes of the plaintext; `None`: as many as there are, which only a call with all the data can know.
        data_length: Option<CK_ULONG>,
    },
    /// `CK_SALSA20_CHACHA20_POLY1305_PARAMS`.
    Poly1305 {
        /// The nonce.
        nonce: Vec<u8>,
        /// Additional authenticated data; may be empty.
        aad: Vec<u8>,
    },
    /// `CK_CHACHA20_PARAMS`.
    ChaCha20 {
        /// The number of the first block, little-endian, in as many bytes as the counter has.
        counter: Vec<u8>,
        /// The nonce.
        nonce: Vec<u8>,
    },
    /// `CK_EDDSA_PARAMS`.
    Eddsa {
        /// The message is hashed first (Ed25519ph, Ed448ph).
        prehash: bool,
        /// The context; may be empty.
        context: Vec<u8>,
    },
    /// `CK_RSA_AES_KEY_WRAP_PARAMS`: what wraps the AES key that wraps the key, as in [`Params::RsaOaep`].
    RsaAes {
        /// Bits of the AES key.
        aes_bits: CK_ULONG,
        /// `CKM_*` of the hash.
        hash: CK_MECHANISM_TYPE,
        /// `CKG_*` of the mask generation function.
        mgf: CK_RSA_PKCS_MGF_TYPE,
        /// The label of RFC 8017; usually empty.
        source: Vec<u8>,
    },
    /// `CK_ECDH_AES_KEY_WRAP_PARAMS`: what makes the AES key that wraps the key, as in [`Params::Ecdh1`].
    EcdhAes {
        /// Bits of the AES key.
        aes_bits: CK_ULONG,
        /// `CKD_*` of the key derivation function.
        kdf: CK_ULONG,
        /// Data shared with the other side; may be empty.
        shared_data: Vec<u8>,
    },
    /// What a key is made with.
    Derivation(Box<Derivation>),
    /// `CK_ECDH1_DERIVE_PARAMS`.
    Ecdh1 {
        /// `CKD_*` of the key derivation function.
        kdf: CK_ULONG,
        /// Data shared with the other side; may be empty.
        shared_data: Vec<u8>,
        /// The other side's public point.
        public_data: Vec<u8>,
    },
    /// `CK_SIGN_ADDITIONAL_CONTEXT`, or `CK_HASH_SIGN_ADDITIONAL_CONTEXT` where there is a hash.
    SignatureContext {
        /// `CKH_*`: whether the signature is made with fresh random bytes.
        hedge: CK_HEDGE_TYPE,
        /// The context string of FIPS 204 and 205; may be empty.
        context: Vec<u8>,
        /// `CKM_*` of the hash whose digest is signed.
        hash: Option<CK_MECHANISM_TYPE>,
    },
}

/// Who makes an initialization vector.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Iv {
    /// The caller.
    Given(Vec<u8>),
    /// The token, which writes it into a zeroed buffer of 12 bytes.
    Token,
}

/// Bytes of an IV that the token makes: what NIST SP 800-38D recommends for GCM. It is one of the sizes of a nonce for CCM, too: data up to 16 MiB.
pub(super) const TOKEN_IV_SIZE: usize = 12;

impl Iv {
    /// The buffer that the module gets.
    pub(super) fn buffer(&self) -> Vec<u8> {
        match self {
            Self::Given(bytes) => bytes.clone(),
            Self::Token => vec![0; TOKEN_IV_SIZE],
        }
    }

    /// Whether the module has written another into the buffer.
    pub(super) fn is_replaced_by(&self, buffer: &[u8]) -> bool {
        match self {
            Self::Given(bytes) => bytes != buffer,
            Self::Token => buffer.iter().any(|byte| *byte != 0),
        }
    }

    fn wipe(&mut self) {
        if let Self::Given(bytes) = self {
            wipe(bytes);
        }
    }
}

impl Drop for Params {
    fn drop(&mut self) {
        match self {
            // A derivation's are wiped by themselves.
            Params::None | Params::Hashed { .. } | Params::RsaPss { .. } | Params::Derivation(_) => (),
            Params::Bytes(bytes) => wipe(bytes),
            Params::RsaOaep { source, .. } | Params::RsaAes { source, .. } => wipe(source),
            Params::Gcm { iv, aad, .. } => {
                wipe(aad);
                iv.wipe();
            }
            Params::Ccm { nonce, aad, .. } => {
                wipe(aad);
                nonce.wipe();
            }
            Params::Poly1305 { nonce, aad } => {
                wipe(aad);
                wipe(nonce);
            }
            Params::ChaCha20 { nonce, .. } => wipe(nonce),
            Params::Eddsa { context, .. } | Params::SignatureContext { context, .. } => wipe(context),
            Params::EcdhAes { shared_data, .. } => wipe(shared_data),
            Params::Ecdh1 { shared_data, public_data, .. } => {
                wipe(shared_data);
                wipe(public_data);
            }
        }
    }
}

impl fmt::Debug for Iv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(bytes) => write!(f, "[{} bytes]", bytes.len()),
            Self::Token => write!(f, "the token's"),
        }
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Params::None => write!(f, "None"),
            Params::Hashed { hash, .. } => write!(f, "Hashed {{ hash: {hash:#x} }}"),
            Params::Bytes(bytes) => write!(f, "[{} bytes]", bytes.len()),
            Params::RsaPss { hash, mgf, salt_length } => {
                write!(f, "RsaPss {{ hash: {hash:#x}, mgf: {mgf:#x}, salt_length: {salt_length} }}")
            }
            Params::Derivation(derivation) => derivation.fmt(f),
            Params::RsaAes { aes_bits, hash, mgf, source } => {
                write!(f, "RsaAes {{ aes_bits: {aes_bits}, hash: {hash:#x}, mgf: {mgf:#x}, source: [{} bytes] }}", source.len())
            }
            Params::EcdhAes { aes_bits, kdf, shared_data } => {
                write!(f, "EcdhAes {{ aes_bits: {aes_bits}, kdf: {kdf:#x}, shared_data: [{} bytes] }}", shared_data.len())
            }
            Params::RsaOaep { hash, mgf, source } => {
                write!(f, "RsaOaep {{ hash: {hash:#x}, mgf: {mgf:#x}, source: [{} bytes] }}", source.len())
            }
            Params::Gcm { iv, aad, tag_bits } => {
                write!(f, "Gcm {{ iv: {iv:?}, aad: [{} bytes], tag_bits: {tag_bits} }}", aad.len())
            }
            Params::Ccm { nonce, aad, mac_length, data_length } => write!(
                f,
                "Ccm {{ nonce: {nonce:?}, aad: [{} bytes], mac_length: {mac_length}, data_length: {data_length:?} }}",
                aad.len()
            ),
            Params::Poly1305 { nonce, aad } => {
                write!(f, "Poly1305 {{ nonce: [{} bytes], aad: [{} bytes] }}", nonce.len(), aad.len())
            }
            Params::ChaCha20 { nonce, .. } => write!(f, "ChaCha20 {{ nonce: [{} bytes] }}", nonce.len()),
            Params::Eddsa { prehash, context } => {
                write!(f, "Eddsa {{ prehash: {prehash}, context: [{} bytes] }}", context.len())
            }
            Params::SignatureContext { hedge, context, hash } => {
                write!(f, "SignatureContext {{ hedge: {hedge:#x}, context: [{} bytes], hash: {hash:#x?} }}", context.len())
            }
            Params::Ecdh1 { kdf, shared_data, public_data } => write!(
                f,
                "Ecdh1 {{ kdf: {kdf:#x}, shared_data: [{} bytes], public_data: [{} bytes] }}",
                shared_data.len(),
                public_data.len()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_bytes() {
        let params = Params::Ecdh1 { kdf: CKD_NULL, shared_data: b"secret".to_vec(), public_data: vec![4; 65] };
        assert_eq!(format!("{params:?}"), "Ecdh1 { kdf: 0x1, shared_data: [6 bytes], public_data: [65 bytes] }");
        let secret = || b"secret".to_vec();
        for params in [
            Params::Bytes(secret()),
            Params::Ccm { nonce: Iv::Given(secret()), aad: secret(), mac_length: 16, data_length: None },
            Params::Poly1305 { nonce: secret(), aad: secret() },
            Params::ChaCha20 { counter: vec![0; 4], nonce: secret() },
            Params::Eddsa { prehash: true, context: secret() },
            Params::EcdhAes { aes_bits: 256, kdf: CKD_NULL, shared_data: secret() },
        ] {
            let shown = format!("{params:?}");
            assert!(shown.contains("[6 bytes]") && !shown.contains("115"), "{shown}");
        }
    }
}
