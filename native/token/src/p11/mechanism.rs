//! Mechanisms and their parameters.

use std::fmt;
use std::ptr;

use cryptoki_sys::*;

use super::buffer::{length, optional};
use crate::support::wiped::{Wiped, wipe};

/// A mechanism with its parameters, owned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mechanism {
    /// `CKM_*`.
    pub code: CK_MECHANISM_TYPE,
    /// What goes with it.
    pub params: Params,
}

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

/// Who makes an initialization vector.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Iv {
    /// The caller.
    Given(Vec<u8>),
    /// The token, which writes it into a zeroed buffer of 12 bytes.
    Token,
}

/// Bytes of an IV that the token makes: what NIST SP 800-38D recommends for GCM.
const TOKEN_IV_SIZE: usize = 12;

impl Iv {
    /// The buffer that the module gets.
    fn buffer(&self) -> Vec<u8> {
        match self {
            Self::Given(bytes) => bytes.clone(),
            Self::Token => vec![0; TOKEN_IV_SIZE],
        }
    }
}

impl Mechanism {
    /// A mechanism without parameters.
    pub fn new(code: CK_MECHANISM_TYPE) -> Mechanism {
        Mechanism { code, params: Params::None }
    }

    /// Whether the token is to make the IV.
    pub fn has_token_iv(&self) -> bool {
        matches!(self.params, Params::Gcm { iv: Iv::Token, .. })
    }

    /// Calls `f` with the C structure. It and all it points to live as long as `f` runs, hence over both the Init and
    /// the final call made in it.
    pub fn with_ck<R>(&self, f: impl FnOnce(&mut CK_MECHANISM) -> R) -> R {
        self.with_ck_iv(f).0
    }

    /// The same. Gives also the IV (or the bytes that are the parameter) if the module has changed it: a token that makes the IV writes it
    /// there, as late as in `C_Encrypt`.
    pub fn with_ck_iv<R>(&self, f: impl FnOnce(&mut CK_MECHANISM) -> R) -> (R, Option<Vec<u8>>) {
        match &self.params {
            Params::Bytes(bytes) => {
                let mut copy = Wiped::from(&bytes[..]);
                let result = f(&mut CK_MECHANISM {
                    mechanism: self.code,
                    pParameter: writable(&mut copy).cast(),
                    ulParameterLen: length(bytes),
                });
                (result, (copy != *bytes).then(|| copy.to_vec()))
            }
            Params::Gcm { iv, aad, tag_bits } => {
                let before = Wiped::from(iv.buffer());
                let mut copy = before.clone();
                let size = length(&copy);
                let params = CK_GCM_PARAMS {
                    pIv: writable(&mut copy),
                    ulIvLen: size,
                    ulIvBits: size.saturating_mul(8),
                    pAAD: optional(aad),
                    ulAADLen: length(aad),
                    ulTagBits: *tag_bits,
                };
                let result = self.with_struct(params, f);
                (result, (copy != before).then(|| copy.to_vec()))
            }
            Params::None | Params::Hashed { .. } => {
                (f(&mut CK_MECHANISM { mechanism: self.code, pParameter: ptr::null_mut(), ulParameterLen: 0 }), None)
            }
            Params::RsaPss { hash, mgf, salt_length } => {
                let params = CK_RSA_PKCS_PSS_PARAMS { hashAlg: *hash, mgf: *mgf, sLen: *salt_length };
                (self.with_struct(params, f), None)
            }
            Params::RsaOaep { hash, mgf, source } => {
                let params = CK_RSA_PKCS_OAEP_PARAMS {
                    hashAlg: *hash,
                    mgf: *mgf,
                    source: CKZ_DATA_SPECIFIED,
                    // SoftHSM wants NULL for an empty source.
                    pSourceData: optional(source).cast(),
                    ulSourceDataLen: length(source),
                };
                (self.with_struct(params, f), None)
            }
            Params::Ecdh1 { kdf, shared_data, public_data } => {
                let params = CK_ECDH1_DERIVE_PARAMS {
                    kdf: *kdf,
                    ulSharedDataLen: length(shared_data),
                    pSharedData: optional(shared_data),
                    ulPublicDataLen: length(public_data),
                    pPublicData: optional(public_data),
                };
                (self.with_struct(params, f), None)
            }
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

/// The address of a parameter that the module may write into: NULL when empty.
fn writable(bytes: &mut [u8]) -> CK_BYTE_PTR {
    if bytes.is_empty() { ptr::null_mut() } else { bytes.as_mut_ptr() }
}

impl Drop for Params {
    fn drop(&mut self) {
        match self {
            Params::None | Params::Hashed { .. } | Params::RsaPss { .. } => (),
            Params::Bytes(bytes) => wipe(bytes),
            Params::RsaOaep { source, .. } => wipe(source),
            Params::Gcm { iv, aad, .. } => {
                wipe(aad);
                if let Iv::Given(iv) = iv {
                    wipe(iv);
                }
            }
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
            Params::RsaOaep { hash, mgf, source } => {
                write!(f, "RsaOaep {{ hash: {hash:#x}, mgf: {mgf:#x}, source: [{} bytes] }}", source.len())
            }
            Params::Gcm { iv, aad, tag_bits } => {
                write!(f, "Gcm {{ iv: {iv:?}, aad: [{} bytes], tag_bits: {tag_bits} }}", aad.len())
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

    fn gcm(iv: Iv) -> Mechanism {
        Mechanism { code: CKM_AES_GCM, params: Params::Gcm { iv, aad: vec![], tag_bits: 128 } }
    }

    #[test]
    fn gcm_parameters() {
        let mechanism = gcm(Iv::Given(vec![7; 12]));
        let ((), written) = mechanism.with_ck_iv(|ck| {
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
        assert_eq!(mechanism, gcm(Iv::Given(vec![7; 12])));
        assert_eq!(written, Some([&[0][..], &[7; 11]].concat()));
    }

    #[test]
    fn the_tokens_iv_is_what_it_writes_into_zeros() {
        let write = |byte| {
            gcm(Iv::Token).with_ck_iv(|ck| {
                // SAFETY: `with_ck_iv` points it at such a structure, whose IV the module may overwrite.
                unsafe {
                    let params = ck.pParameter.cast::<CK_GCM_PARAMS>().read_unaligned();
                    assert_eq!(std::slice::from_raw_parts(params.pIv, { params.ulIvLen } as usize), [0; 12]);
                    params.pIv.write_bytes(byte, 12);
                }
            })
        };
        assert_eq!(write(9).1, Some(vec![9; 12]));
        assert_eq!(write(0).1, None);
    }

    #[test]
    fn bytes_are_given_back_if_they_have_changed() {
        let mechanism = Mechanism { code: CKM_AES_CBC, params: Params::Bytes(vec![3; 16]) };
        // SAFETY: the parameter is 16 bytes that the module may overwrite.
        let write = |byte| mechanism.with_ck_iv(|ck| unsafe { ck.pParameter.cast::<u8>().write(byte) }).1;
        assert_eq!(write(3), None);
        assert_eq!(write(4), Some([&[4][..], &[3; 15]].concat()));
    }

    #[test]
    fn debug_shows_no_bytes() {
        let params = Params::Ecdh1 { kdf: CKD_NULL, shared_data: b"secret".to_vec(), public_data: vec![4; 65] };
        assert_eq!(format!("{params:?}"), "Ecdh1 { kdf: 0x1, shared_data: [6 bytes], public_data: [65 bytes] }");
    }
}
