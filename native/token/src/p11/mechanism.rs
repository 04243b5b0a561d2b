//! Mechanisms and their parameters.

use std::fmt;
use std::ptr;

use cryptoki_sys::*;

use super::buffer::{length, optional};

/// A mechanism with its parameters, owned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mechanism {
    /// `CKM_*`.
    pub code: CK_MECHANISM_TYPE,
    /// What goes with it.
    pub params: Params,
}

/// Mechanism parameters. Its `Debug` shows lengths in place of bytes.
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
        iv: Vec<u8>,
        /// Additional authenticated data; may be empty.
        aad: Vec<u8>,
        /// Bits of tag, usually 128.
        tag_bits: CK_ULONG,
    },
    /// `CK_ECDH1_DERIVE_PARAMS`.
    Ecdh1 {
        /// `CKD_*` of the key derivation function.
        kdf: CK_ULONG,
        /// Data shared with the other side; may be empty.
        shared_data: Vec<u8>,
        /// The other side's public point.
        public_data: Vec<u8>,
    },
}

impl Mechanism {
    /// A mechanism without parameters.
    pub fn new(code: CK_MECHANISM_TYPE) -> Mechanism {
        Mechanism { code, params: Params::None }
    }

    /// Calls `f` with the C structure. It and all it points to live as long as `f` runs, hence over both the Init and
    /// the final call made in it (tokens that make the IV write it as late as `C_Encrypt`).
    pub fn with_ck<R>(&self, f: impl FnOnce(&mut CK_MECHANISM) -> R) -> R {
        match &self.params {
            Params::None => f(&mut CK_MECHANISM { mechanism: self.code, pParameter: ptr::null_mut(), ulParameterLen: 0 }),
            Params::Bytes(bytes) => {
                // A copy, for modules that write into it.
                let mut bytes = bytes.clone();
                let pointer = if bytes.is_empty() { ptr::null_mut() } else { bytes.as_mut_ptr() };
                f(&mut CK_MECHANISM { mechanism: self.code, pParameter: pointer.cast(), ulParameterLen: length(&bytes) })
            }
            Params::RsaPss { hash, mgf, salt_length } => {
                self.with_struct(CK_RSA_PKCS_PSS_PARAMS { hashAlg: *hash, mgf: *mgf, sLen: *salt_length }, f)
            }
            // SoftHSM wants NULL for an empty source.
            Params::RsaOaep { hash, mgf, source } => self.with_struct(
                CK_RSA_PKCS_OAEP_PARAMS {
                    hashAlg: *hash,
                    mgf: *mgf,
                    source: CKZ_DATA_SPECIFIED,
                    pSourceData: optional(source).cast(),
                    ulSourceDataLen: length(source),
                },
                f,
            ),
            Params::Gcm { iv, aad, tag_bits } => {
                // A copy, for tokens that write their own IV into it.
                let mut iv = iv.clone();
                let size = length(&iv);
                let pointer = if iv.is_empty() { ptr::null_mut() } else { iv.as_mut_ptr() };
                self.with_struct(
                    CK_GCM_PARAMS {
                        pIv: pointer,
                        ulIvLen: size,
                        ulIvBits: size.saturating_mul(8),
                        pAAD: optional(aad),
                        ulAADLen: length(aad),
                        ulTagBits: *tag_bits,
                    },
                    f,
                )
            }
            Params::Ecdh1 { kdf, shared_data, public_data } => self.with_struct(
                CK_ECDH1_DERIVE_PARAMS {
                    kdf: *kdf,
                    ulSharedDataLen: length(shared_data),
                    pSharedData: optional(shared_data),
                    ulPublicDataLen: length(public_data),
                    pPublicData: optional(public_data),
                },
                f,
            ),
        }
    }

    fn with_struct<P, R>(&self, mut params: P, f: impl FnOnce(&mut CK_MECHANISM) -> R) -> R {
        f(&mut CK_MECHANISM {
            mechanism: self.code,
            pParameter: (&raw mut params).cast(),
            ulParameterLen: size_of::<P>() as CK_ULONG,
        })
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Params::None => write!(f, "None"),
            Params::Bytes(bytes) => write!(f, "[{} bytes]", bytes.len()),
            Params::RsaPss { hash, mgf, salt_length } => {
                write!(f, "RsaPss {{ hash: {hash:#x}, mgf: {mgf:#x}, salt_length: {salt_length} }}")
            }
            Params::RsaOaep { hash, mgf, source } => {
                write!(f, "RsaOaep {{ hash: {hash:#x}, mgf: {mgf:#x}, source: [{} bytes] }}", source.len())
            }
            Params::Gcm { iv, aad, tag_bits } => {
                write!(f, "Gcm {{ iv: [{} bytes], aad: [{} bytes], tag_bits: {tag_bits} }}", iv.len(), aad.len())
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
    fn no_parameters() {
        Mechanism::new(CKM_RSA_PKCS).with_ck(|ck| {
            assert_eq!({ ck.mechanism }, CKM_RSA_PKCS);
            assert!({ ck.pParameter }.is_null());
            assert_eq!({ ck.ulParameterLen }, 0);
        });
    }

    #[test]
    fn gcm_parameters() {
        let mechanism = Mechanism { code: CKM_AES_GCM, params: Params::Gcm { iv: vec![7; 12], aad: vec![], tag_bits: 128 } };
        mechanism.with_ck(|ck| {
            assert_eq!({ ck.ulParameterLen } as usize, size_of::<CK_GCM_PARAMS>());
            // SAFETY: `with_ck` points it at such a structure.
            let params = unsafe { ck.pParameter.cast::<CK_GCM_PARAMS>().read_unaligned() };
            assert_eq!(({ params.ulIvLen }, { params.ulIvBits }, { params.ulTagBits }), (12, 96, 128));
            assert!({ params.pAAD }.is_null());
            // SAFETY: the IV is 12 bytes that the module may overwrite.
            unsafe {
                assert_eq!(params.pIv.read(), 7);
                params.pIv.write(0);
            }
        });
        assert!(matches!(mechanism.params, Params::Gcm { ref iv, .. } if iv[0] == 7));
    }

    #[test]
    fn debug_shows_no_bytes() {
        let params = Params::Ecdh1 { kdf: CKD_NULL, shared_data: b"secret".to_vec(), public_data: vec![4; 65] };
        assert_eq!(format!("{params:?}"), "Ecdh1 { kdf: 0x1, shared_data: [6 bytes], public_data: [65 bytes] }");
    }
}
