//! Generating, wrapping, unwrapping and deriving keys.

use cryptoki_sys::*;

use super::buffer::{input, length, output};
use super::crypto::Encrypted;
use super::error::{CallError, Phase, check};
use super::functions::{Functions, call, call_later};
use super::mechanism::Mechanism;
use super::template::{Attribute, count, with_ck};
use crate::support::wiped::Wiped;

/// Bytes of the first buffer for a wrapped key. Enough for RSA-4096.
const WRAPPED_HINT: usize = 4096;

/// Bytes of the first buffer for an encapsulated secret. Enough for ML-KEM-1024.
const ENCAPSULATED_HINT: usize = 4096;

/// `C_GenerateKey`.
pub fn generate_key(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    mechanism: &Mechanism,
    template: &[Attribute],
) -> Result<CK_OBJECT_HANDLE, CallError> {
    let mut key = CK_INVALID_HANDLE;
    let code = mechanism.with_ck(|mechanism| {
        with_ck(template, |attributes| {
            let (pointer, size) = (attributes.as_mut_ptr(), count(attributes));
            // SAFETY: mechanism and template live through the call; the handle is a local.
            unsafe { call!(functions, C_GenerateKey(session, mechanism, pointer, size, &mut key)) }
        })
    });
    check("C_GenerateKey", Phase::Single, code)?;
    Ok(key)
}

/// `C_GenerateKeyPair`. Gives the public and the private key.
pub fn generate_key_pair(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    mechanism: &Mechanism,
    public_template: &[Attribute],
    private_template: &[Attribute],
) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE), CallError> {
    let (mut public, mut private) = (CK_INVALID_HANDLE, CK_INVALID_HANDLE);
    let code = mechanism.with_ck(|mechanism| {
        with_ck(public_template, |public_part| {
            with_ck(private_template, |private_part| {
                let (public_pointer, public_size) = (public_part.as_mut_ptr(), count(public_part));
                let (private_pointer, private_size) = (private_part.as_mut_ptr(), count(private_part));
                // SAFETY: mechanism and templates live through the call; the handles are locals.
                unsafe {
                    call!(
                        functions,
                        C_GenerateKeyPair(
                            session,
                            mechanism,
                            public_pointer,
                            public_size,
                            private_pointer,
                            private_size,
                            &mut public,
                            &mut private
                        )
                    )
                }
            })
        })
    });
    check("C_GenerateKeyPair", Phase::Single, code)?;
    Ok((public, private))
}

/// `C_WrapKey`: the key, encrypted under the wrapping key.
pub fn wrap_key(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    mechanism: &Mechanism,
    wrapping_key: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
) -> Result<Encrypted, CallError> {
    let (wrapped, iv) = mechanism.with_ck_iv(|mechanism| {
        let mechanism: CK_MECHANISM_PTR = mechanism;
        output("C_WrapKey", Phase::Single, WRAPPED_HINT, 0, |buffer, size| {
            // SAFETY: the mechanism lives through the call; `buffer` has room for `size` bytes.
            unsafe { call!(functions, C_WrapKey(session, mechanism, wrapping_key, key, buffer, size)) }
        })
    });
    Ok(Encrypted { bytes: wrapped?, iv })
}

/// `C_UnwrapKey`: makes a key object of a wrapped key. No key is wrapped to nothing: that is `CKR_WRAPPED_KEY_LEN_RANGE`, and the module is not asked, since
/// kryoptic 1.5.4 makes an empty key of it.
pub fn unwrap_key(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    mechanism: &Mechanism,
    unwrapping_key: CK_OBJECT_HANDLE,
    wrapped: &[u8],
    template: &[Attribute],
) -> Result<CK_OBJECT_HANDLE, CallError> {
    if wrapped.is_empty() {
        return Err(CallError::new("C_UnwrapKey", CKR_WRAPPED_KEY_LEN_RANGE, Phase::Init));
    }
    let mut key = CK_INVALID_HANDLE;
    let mechanism = mechanism.for_ciphertext(wrapped.len());
    let code = mechanism.with_ck(|mechanism| {
        with_ck(template, |attributes| {
            let (pointer, size) = (attributes.as_mut_ptr(), count(attributes));
            // SAFETY: mechanism, wrapped key and template live through the call; the handle is a local.
            unsafe {
                call!(
                    functions,
                    C_UnwrapKey(session, mechanism, unwrapping_key, input(wrapped), length(wrapped), pointer, size, &mut key)
                )
            }
        })
    });
    check("C_UnwrapKey", Phase::Single, code)?;
    Ok(key)
}

/// `C_DeriveKey`: makes a key object from a base key.
pub fn derive_key(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    mechanism: &Mechanism,
    base_key: CK_OBJECT_HANDLE,
    template: &[Attribute],
) -> Result<CK_OBJECT_HANDLE, CallError> {
    let mut key = CK_INVALID_HANDLE;
    let code = mechanism.with_ck(|mechanism| {
        with_ck(template, |attributes| {
            let (pointer, size) = (attributes.as_mut_ptr(), count(attributes));
            // SAFETY: mechanism and template live through the call; the handle is a local.
            unsafe { call!(functions, C_DeriveKey(session, mechanism, base_key, pointer, size, &mut key)) }
        })
    });
    check("C_DeriveKey", Phase::Single, code)?;
    Ok(key)
}

/// What an encapsulation has made.
#[derive(Debug)]
pub struct Encapsulated {
    /// What the holder of the private key makes the same key of.
    pub ciphertext: Result<Wiped, CallError>,
    /// The key; also where there is no ciphertext of which it is certain that it is the token's.
    pub key: Option<CK_OBJECT_HANDLE>,
}

/// `C_EncapsulateKey` (PKCS#11 3.2): makes a key object of a new secret, and the ciphertext of that secret for the holder of the private key.
pub fn encapsulate_key(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    mechanism: &Mechanism,
    public_key: CK_OBJECT_HANDLE,
    template: &[Attribute],
) -> Encapsulated {
    let (mut key, mut is_made) = (CK_INVALID_HANDLE, false);
    let ciphertext = mechanism.with_ck(|mechanism| {
        let mechanism: CK_MECHANISM_PTR = mechanism;
        with_ck(template, |attributes| {
            let (pointer, count) = (attributes.as_mut_ptr(), count(attributes));
            output("C_EncapsulateKey", Phase::Single, ENCAPSULATED_HINT, 0, |buffer, size| {
                // SAFETY: mechanism and template live through the call; `buffer` has room for `size` bytes; the handle is a local.
                let code = unsafe {
                    call_later!(
                        functions,
                        v3_2,
                        C_EncapsulateKey(session, mechanism, public_key, pointer, count, buffer, size, &mut key)
                    )
                };
                is_made = code == CKR_OK;
                code
            })
        })
    });
    Encapsulated { ciphertext, key: is_made.then_some(key) }
}

/// `C_DecapsulateKey` (PKCS#11 3.2): makes a key object of the secret in a ciphertext.
pub fn decapsulate_key(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    mechanism: &Mechanism,
    private_key: CK_OBJECT_HANDLE,
    ciphertext: &[u8],
    template: &[Attribute],
) -> Result<CK_OBJECT_HANDLE, CallError> {
    let mut key = CK_INVALID_HANDLE;
    let code = mechanism.with_ck(|mechanism| {
        with_ck(template, |attributes| {
            let (pointer, count) = (attributes.as_mut_ptr(), count(attributes));
            let (bytes, size) = (input(ciphertext), length(ciphertext));
            // SAFETY: mechanism, template and ciphertext live through the call; the handle is a local.
            unsafe {
                call_later!(
                    functions,
                    v3_2,
                    C_DecapsulateKey(session, mechanism, private_key, pointer, count, bytes, size, &mut key)
                )
            }
        })
    });
    check("C_DecapsulateKey", Phase::Single, code)?;
    Ok(key)
}
