//! Mechanisms, and the C structures of their parameters.

use std::borrow::Cow;
use std::ops::Deref;
use std::ptr;

use cryptoki_sys::*;

use super::buffer::{length, optional};
use super::derivation::{self, Derivation};
use super::params::{Iv, Params};
use crate::support::wiped::Wiped;

/// A mechanism with its parameters, owned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mechanism {
    /// `CKM_*`.
    pub code: CK_MECHANISM_TYPE,
    /// What goes with it.
    pub params: Params,
}

impl Mechanism {
    /// A mechanism without parameters.
    pub fn new(code: CK_MECHANISM_TYPE) -> Mechanism {
        Mechanism { code, params: Params::None }
    }

    /// Whether the token is to make the IV.
    pub fn has_token_iv(&self) -> bool {
        matches!(self.params, Params::Gcm { iv: Iv::Token, .. } | Params::Ccm { nonce: Iv::Token, .. })
    }

    /// The mechanism for an operation on a whole plaintext of so many bytes, which some parameters must say.
    pub(super) fn for_plaintext(&self, size: usize) -> Cow<'_, Mechanism> {
        match &self.params {
            Params::Ccm { nonce, aad, mac_length, data_length: None } => {
                let (nonce, aad, data_length) = (nonce.clone(), aad.clone(), Some(size as CK_ULONG));
                Cow::Owned(Mechanism {
                    code: self.code,
                    params: Params::Ccm { nonce, aad, mac_length: *mac_length, data_length },
                })
            }
            _ => Cow::Borrowed(self),
        }
    }

    /// The same of a whole ciphertext.
    pub(super) fn for_ciphertext(&self, size: usize) -> Cow<'_, Mechanism> {
        match &self.params {
            Params::Ccm { mac_length, .. } => self.for_plaintext(size.saturating_sub(*mac_length as usize)),
            _ => Cow::Borrowed(self),
        }
    }

    /// Whether its parameters change what is signed, so that a module that does not look at them makes another signature than the one that is wanted.
    pub(crate) fn has_signed_params(&self) -> bool {
        matches!(&self.params, Params::Eddsa { prehash, context } if *prehash || !context.is_empty())
    }

    /// The other key that it names has this handle.
    pub fn set_key(&mut self, handle: CK_OBJECT_HANDLE) {
        if let Params::Derivation(derivation) = &mut self.params
            && let Some(key) = derivation.key_mut()
        {
            *key = handle;
        }
    }

    /// Whether its parameters have a password.
    pub fn has_password(&self) -> bool {
        matches!(&self.params, Params::Derivation(derivation) if matches!(**derivation, Derivation::Pbkdf2 { .. }))
    }

    /// Whether the structure has a pointer to the password's length, as before PKCS#11 2.40.
    pub fn set_length_pointer(&mut self, is_pointer: bool) {
        if let Params::Derivation(derivation) = &mut self.params
            && let Derivation::Pbkdf2 { has_length_pointer, .. } = &mut **derivation
        {
            *has_length_pointer = is_pointer;
        }
    }

    /// Calls `f` with the C structure. It and all it points to live as long as `f` runs, hence over both the Init and
    /// the final call made in it.
    pub fn with_ck<R>(&self, f: impl FnOnce(&mut CK_MECHANISM) -> R) -> R {
        self.with_ck_iv(f).0
    }

    /// The same. Gives also the IV (or the bytes that are the parameter) if the module has changed it: a token that makes the IV writes it
    /// there, as late as in `C_Encrypt`.
    pub fn with_ck_iv<R>(&self, f: impl FnOnce(&mut CK_MECHANISM) -> R) -> (R, Option<Vec<u8>>) {
        let mut parts = Parts::of(&self.params);
        let result = f(&mut parts.ck(self.code));
        (result, parts.replaced_iv(&self.params))
    }
}

/// A mechanism whose C structure stays where it is, with all it points to, for an operation of several calls: a module may look at it, or write an IV
/// there, in any of them.
pub struct HeldMechanism {
    mechanism: Mechanism,
    parts: Box<Parts>,
    ck: Box<CK_MECHANISM>,
}

// SAFETY: all its pointers point to what it owns.
unsafe impl Send for HeldMechanism {}

impl HeldMechanism {
    /// Holds it.
    pub fn new(mechanism: Mechanism) -> Self {
        let mut parts = Box::new(Parts::of(&mechanism.params));
        let ck = Box::new(parts.ck(mechanism.code));
        Self { mechanism, parts, ck }
    }

    /// The C structure, which is good as long as this lives.
    pub fn ck(&mut self) -> &mut CK_MECHANISM {
        &mut self.ck
    }

    /// The IV (or the bytes that are the parameter) if the module has changed it.
    pub fn replaced_iv(&self) -> Option<Vec<u8>> {
        self.parts.replaced_iv(&self.mechanism.params)
    }
}

impl Deref for HeldMechanism {
    type Target = Mechanism;

    fn deref(&self) -> &Mechanism {
        &self.mechanism
    }
}

/// The C structure of a mechanism's parameters. It points into the parameters, and to the bytes that the module may write.
struct Parts {
    writable: Wiped,
    parameter: Parameter,
}

/// What `pParameter` points to.
enum Parameter {
    None,
    /// The bytes that the module may write.
    Bytes,
    Gcm(CK_GCM_PARAMS),
    RsaPss(CK_RSA_PKCS_PSS_PARAMS),
    RsaOaep(CK_RSA_PKCS_OAEP_PARAMS),
    RsaAes(CK_RSA_AES_KEY_WRAP_PARAMS, CK_RSA_PKCS_OAEP_PARAMS),
    EcdhAes(CK_ECDH_AES_KEY_WRAP_PARAMS),
    Derivation(Box<derivation::Parts>),
    Ecdh1(CK_ECDH1_DERIVE_PARAMS),
    SignatureContext(CK_SIGN_ADDITIONAL_CONTEXT),
    HashSignatureContext(CK_HASH_SIGN_ADDITIONAL_CONTEXT),
    Ccm(CK_CCM_PARAMS),
    Poly1305(CK_SALSA20_CHACHA20_POLY1305_PARAMS),
    ChaCha20(CK_CHACHA20_PARAMS),
    Eddsa(CK_EDDSA_PARAMS),
}

impl Parts {
    fn of(params: &Params) -> Self {
        let mut writable = match params {
            Params::Bytes(bytes) => Wiped::from(&bytes[..]),
            Params::Gcm { iv, .. } | Params::Ccm { nonce: iv, .. } => Wiped::from(iv.buffer()),
            Params::Poly1305 { nonce, .. } | Params::ChaCha20 { nonce, .. } => Wiped::from(&nonce[..]),
            _ => Wiped::default(),
        };
        let parameter = match params {
            Params::None | Params::Hashed { .. } => Parameter::None,
            Params::Bytes(_) => Parameter::Bytes,
            Params::Gcm { aad, tag_bits, .. } => {
                let size = length(&writable);
                Parameter::Gcm(CK_GCM_PARAMS {
                    pIv: self::writable(&mut writable),
                    ulIvLen: size,
                    ulIvBits: size.saturating_mul(8),
                    pAAD: optional(aad),
                    ulAADLen: length(aad),
                    ulTagBits: *tag_bits,
                })
            }
            Params::RsaPss { hash, mgf, salt_length } => {
                Parameter::RsaPss(CK_RSA_PKCS_PSS_PARAMS { hashAlg: *hash, mgf: *mgf, sLen: *salt_length })
            }
            Params::RsaOaep { hash, mgf, source } => Parameter::RsaOaep(oaep(*hash, *mgf, source)),
            Params::RsaAes { aes_bits, hash, mgf, source } => {
                let wrap = CK_RSA_AES_KEY_WRAP_PARAMS { ulAESKeyBits: *aes_bits, pOAEPParams: ptr::null_mut() };
                Parameter::RsaAes(wrap, oaep(*hash, *mgf, source))
            }
            Params::EcdhAes { aes_bits, kdf, shared_data } => Parameter::EcdhAes(CK_ECDH_AES_KEY_WRAP_PARAMS {
                ulAESKeyBits: *aes_bits,
                kdf: *kdf,
                ulSharedDataLen: length(shared_data),
                pSharedData: optional(shared_data),
            }),
            Params::Derivation(derivation) => Parameter::Derivation(Box::new(derivation::Parts::of(derivation))),
            Params::Ecdh1 { kdf, shared_data, public_data } => Parameter::Ecdh1(CK_ECDH1_DERIVE_PARAMS {
                kdf: *kdf,
                ulSharedDataLen: length(shared_data),
                pSharedData: optional(shared_data),
                ulPublicDataLen: length(public_data),
                pPublicData: optional(public_data),
            }),
            Params::SignatureContext { hedge, context, hash: None } => Parameter::SignatureContext(CK_SIGN_ADDITIONAL_CONTEXT {
                hedgeVariant: *hedge,
                pContext: optional(context),
                ulContextLen: length(context),
            }),
            Params::SignatureContext { hedge, context, hash: Some(hash) } => {
                Parameter::HashSignatureContext(CK_HASH_SIGN_ADDITIONAL_CONTEXT {
                    hedgeVariant: *hedge,
                    pContext: optional(context),
                    ulContextLen: length(context),
                    hash: *hash,
                })
            }
            Params::Ccm { aad, mac_length, data_length, .. } => Parameter::Ccm(CK_CCM_PARAMS {
                ulDataLen: data_length.unwrap_or(0),
                ulNonceLen: length(&writable),
                pNonce: self::writable(&mut writable),
                pAAD: optional(aad),
                ulAADLen: length(aad),
                ulMACLen: *mac_length,
            }),
            Params::Poly1305 { aad, .. } => Parameter::Poly1305(CK_SALSA20_CHACHA20_POLY1305_PARAMS {
                // In bytes, as NSS, kryoptic and others have it; the standard's text says bits.
                ulNonceLen: length(&writable),
                pNonce: self::writable(&mut writable),
                pAAD: optional(aad),
                ulAADLen: length(aad),
            }),
            Params::ChaCha20 { counter, .. } => Parameter::ChaCha20(CK_CHACHA20_PARAMS {
                pBlockCounter: optional(counter),
                blockCounterBits: length(counter).saturating_mul(8),
                ulNonceBits: length(&writable).saturating_mul(8),
                pNonce: self::writable(&mut writable),
            }),
            Params::Eddsa { prehash, context } => Parameter::Eddsa(CK_EDDSA_PARAMS {
                phFlag: if *prehash { CK_TRUE } else { CK_FALSE },
                ulContextDataLen: length(context),
                pContextData: optional(context),
            }),
        };
        Self { writable, parameter }
    }

    /// What points to it: good as long as it stays where it is.
    fn ck(&mut self, code: CK_MECHANISM_TYPE) -> CK_MECHANISM {
        fn of<P>(params: &mut P) -> (CK_VOID_PTR, usize) {
            ((&raw mut *params).cast(), size_of::<P>())
        }
        let (parameter, size): (CK_VOID_PTR, usize) = match &mut self.parameter {
            Parameter::None => (ptr::null_mut(), 0),
            Parameter::Bytes => (writable(&mut self.writable).cast(), self.writable.len()),
            Parameter::Gcm(params) => of(params),
            Parameter::RsaPss(params) => of(params),
            Parameter::RsaOaep(params) => of(params),
            Parameter::RsaAes(params, oaep) => {
                params.pOAEPParams = oaep;
                of(params)
            }
            Parameter::EcdhAes(params) => of(params),
            Parameter::Derivation(parts) => parts.parameter(),
            Parameter::Ecdh1(params) => of(params),
            Parameter::SignatureContext(params) => of(params),
            Parameter::HashSignatureContext(params) => of(params),
            Parameter::Ccm(params) => of(params),
            Parameter::Poly1305(params) => of(params),
            Parameter::ChaCha20(params) => of(params),
            Parameter::Eddsa(params) => of(params),
        };
        CK_MECHANISM { mechanism: code, pParameter: parameter, ulParameterLen: size as CK_ULONG }
    }

    /// What the module has written in place of what it was given.
    fn replaced_iv(&self, params: &Params) -> Option<Vec<u8>> {
        let is_replaced = match params {
            Params::Gcm { iv, .. } | Params::Ccm { nonce: iv, .. } => iv.is_replaced_by(&self.writable),
            Params::Bytes(bytes) | Params::Poly1305 { nonce: bytes, .. } | Params::ChaCha20 { nonce: bytes, .. } => {
                self.writable != *bytes
            }
            _ => false,
        };
        is_replaced.then(|| self.writable.to_vec())
    }
}

fn oaep(hash: CK_MECHANISM_TYPE, mgf: CK_RSA_PKCS_MGF_TYPE, source: &[u8]) -> CK_RSA_PKCS_OAEP_PARAMS {
    CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: hash,
        mgf,
        source: CKZ_DATA_SPECIFIED,
        // SoftHSM wants NULL for an empty source.
        pSourceData: optional(source).cast(),
        ulSourceDataLen: length(source),
    }
}

/// The address of a parameter that the module may write into: NULL when empty.
fn writable(bytes: &mut [u8]) -> CK_BYTE_PTR {
    if bytes.is_empty() { ptr::null_mut() } else { bytes.as_mut_ptr() }
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
    fn rsa_aes_parameters_point_to_those_of_oaep() {
        let params = Params::RsaAes { aes_bits: 256, hash: CKM_SHA256, mgf: CKG_MGF1_SHA1, source: b"label".to_vec() };
        // Wherever it is moved before it is used.
        let held = Box::new(HeldMechanism::new(Mechanism { code: CKM_RSA_AES_KEY_WRAP, params: params.clone() }));
        let mut held = *held;
        let look = |ck: &mut CK_MECHANISM| {
            assert_eq!({ ck.ulParameterLen } as usize, size_of::<CK_RSA_AES_KEY_WRAP_PARAMS>());
            // SAFETY: it points to such a structure, and that to such a structure of OAEP.
            let (wrap, oaep) = unsafe {
                let wrap = ck.pParameter.cast::<CK_RSA_AES_KEY_WRAP_PARAMS>().read_unaligned();
                (wrap, wrap.pOAEPParams.read_unaligned())
            };
            assert_eq!({ wrap.ulAESKeyBits }, 256);
            assert_eq!(({ oaep.hashAlg }, { oaep.mgf }, { oaep.ulSourceDataLen }), (CKM_SHA256, CKG_MGF1_SHA1, 5));
        };
        look(held.ck());
        Mechanism { code: CKM_RSA_AES_KEY_WRAP, params }.with_ck(look);
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
}
