//! Cryptographic operations in one go: the Init call, then the final call straight into a sized buffer.
//!
//! Two C calls each, one more only when the buffer proves too small (and one before for raw RSA, `CKM_RSA_X_509`).
//! Input may be empty; it is not copied.

use cryptoki_sys::*;

use super::attributes::get_attributes;
use super::buffer::{input, length, output, zeroed};
use super::codes::Class;
use super::error::{CallError, Phase, check};
use super::functions::{Functions, call};
use super::lengths::lacks_tag;
use super::mechanism::Mechanism;
use crate::support::wiped::Wiped;

/// Bytes of the first buffer for a signature or digest when the caller has no better idea. Enough for RSA-8192.
pub const SIGNATURE_HINT: usize = 1024;

/// Bytes that encryption and decryption may add to their input before a second call is needed.
pub(super) const CIPHER_MARGIN: usize = 1024;

/// `C_SignInit`, `C_Sign`. `hint` is the size in bytes of the first buffer, such as [`SIGNATURE_HINT`].
pub fn sign(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mechanism: &Mechanism,
    data: &[u8],
    hint: usize,
) -> Result<Wiped, CallError> {
    sign_after(functions, session, key, mechanism, data, hint, &mut || Ok(()))
}

/// The same, with something between the two calls: the login that a key with `CKA_ALWAYS_AUTHENTICATE` wants. Its error leaves the operation
/// active.
pub fn sign_after(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mechanism: &Mechanism,
    data: &[u8],
    hint: usize,
    between: &mut dyn FnMut() -> Result<(), CallError>,
) -> Result<Wiped, CallError> {
    check_raw_rsa("C_Sign", functions, session, key, mechanism, data)?;
    mechanism.with_ck(|mechanism| {
        // SAFETY: the mechanism and what it points to live through both calls.
        let code = unsafe { call!(functions, C_SignInit(session, mechanism, key)) };
        check("C_SignInit", Phase::Init, code)?;
        between().map_err(|error| CallError { active: true, ..error })?;
        output("C_Sign", Phase::Final, hint, data.len(), |buffer, size| {
            // SAFETY: `data` is only read; `buffer` has room for `size` bytes.
            unsafe { call!(functions, C_Sign(session, input(data), length(data), buffer, size)) }
        })
    })
}

/// Zeros behind a signature that a module verifies: some read as many bytes as it should have, whatever they are told (opencryptoki 3.23). Enough
/// for RSA-8192.
const SIGNATURE_MARGIN: usize = 1024;

/// A signature, and zeros behind it.
pub(super) fn with_margin(signature: &[u8], function: &'static str, phase: Phase) -> Result<Wiped, CallError> {
    let mut padded = zeroed(signature.len().saturating_add(SIGNATURE_MARGIN), function, phase)?;
    padded[..signature.len()].copy_from_slice(signature);
    Ok(padded)
}

/// `C_VerifyInit`, `C_Verify`. A signature that does not match is `CKR_SIGNATURE_INVALID`, or
/// `CKR_SIGNATURE_LEN_RANGE` where its length alone gives it away.
pub fn verify(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mechanism: &Mechanism,
    data: &[u8],
    signature: &[u8],
) -> Result<(), CallError> {
    check_raw_rsa("C_Verify", functions, session, key, mechanism, data)?;
    let padded = with_margin(signature, "C_Verify", Phase::Init)?;
    mechanism.with_ck(|mechanism| {
        // SAFETY: the mechanism and what it points to live through both calls.
        let code = unsafe { call!(functions, C_VerifyInit(session, mechanism, key)) };
        check("C_VerifyInit", Phase::Init, code)?;
        // SAFETY: both inputs are only read.
        let code = unsafe { call!(functions, C_Verify(session, input(data), length(data), input(&padded), length(signature))) };
        check("C_Verify", Phase::Final, code)
    })
}

/// `C_DigestInit`, `C_Digest`.
pub fn digest(functions: &Functions, session: CK_SESSION_HANDLE, mechanism: &Mechanism, data: &[u8]) -> Result<Wiped, CallError> {
    mechanism.with_ck(|mechanism| {
        // SAFETY: the mechanism and what it points to live through both calls.
        let code = unsafe { call!(functions, C_DigestInit(session, mechanism)) };
        check("C_DigestInit", Phase::Init, code)?;
        output("C_Digest", Phase::Final, SIGNATURE_HINT, data.len(), |buffer, size| {
            // SAFETY: `data` is only read; `buffer` has room for `size` bytes.
            unsafe { call!(functions, C_Digest(session, input(data), length(data), buffer, size)) }
        })
    })
}

/// `C_DigestInit`, `C_DigestKey`, `C_DigestFinal`, with a `C_DigestUpdate` before or after the key where something comes there.
pub fn digest_key(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mechanism: &Mechanism,
    prefix: &[u8],
    suffix: &[u8],
) -> Result<Wiped, CallError> {
    mechanism.with_ck(|mechanism| {
        // SAFETY: the mechanism and what it points to live through the call.
        let code = unsafe { call!(functions, C_DigestInit(session, mechanism)) };
        check("C_DigestInit", Phase::Init, code)?;
        digest_update(functions, session, prefix)?;
        // SAFETY: takes handles only; a bad one is an error code.
        let code = unsafe { call!(functions, C_DigestKey(session, key)) };
        check("C_DigestKey", Phase::Final, code).map_err(|error| end_digest(functions, session, error))?;
        digest_update(functions, session, suffix)?;
        digest_final(functions, session)
    })
}

fn digest_update(functions: &Functions, session: CK_SESSION_HANDLE, data: &[u8]) -> Result<(), CallError> {
    if data.is_empty() {
        return Ok(());
    }
    // SAFETY: `data` is only read.
    let code = unsafe { call!(functions, C_DigestUpdate(session, input(data), length(data))) };
    check("C_DigestUpdate", Phase::Final, code)
}

fn digest_final(functions: &Functions, session: CK_SESSION_HANDLE) -> Result<Wiped, CallError> {
    output("C_DigestFinal", Phase::Final, SIGNATURE_HINT, 0, |buffer, size| {
        // SAFETY: `buffer` has room for `size` bytes.
        unsafe { call!(functions, C_DigestFinal(session, buffer, size)) }
    })
}

/// A key that is refused need not end the operation: it is ended here, so that the session is good. Then it is as if the Init had refused the key.
fn end_digest(functions: &Functions, session: CK_SESSION_HANDLE, error: CallError) -> CallError {
    if !matches!(error.class(), Class::Caller | Class::StaleHandle | Class::LoginLost) {
        return error;
    }
    let is_ended = match digest_final(functions, session) {
        Ok(_digest) => true,
        Err(last) => last.code == CKR_OPERATION_NOT_INITIALIZED,
    };
    if is_ended { CallError { phase: Phase::Init, active: false, ..error } } else { CallError { active: true, ..error } }
}

/// What an encryption gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// The ciphertext; with an authenticating mechanism the tag is at its end.
    pub bytes: Wiped,
    /// The IV that the module wrote in place of what it was given.
    pub iv: Option<Vec<u8>>,
}

/// `C_EncryptInit`, `C_Encrypt`.
pub fn encrypt(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mechanism: &Mechanism,
    data: &[u8],
) -> Result<Encrypted, CallError> {
    let guess = data.len().saturating_add(CIPHER_MARGIN);
    check_raw_rsa("C_Encrypt", functions, session, key, mechanism, data)?;
    let (result, iv) = mechanism.for_plaintext(data.len()).with_ck_iv(|mechanism| {
        // SAFETY: the mechanism and what it points to live through both calls.
        let code = unsafe { call!(functions, C_EncryptInit(session, mechanism, key)) };
        check("C_EncryptInit", Phase::Init, code)?;
        output("C_Encrypt", Phase::Final, guess, data.len(), |buffer, size| {
            // SAFETY: `data` is only read; `buffer` has room for `size` bytes.
            unsafe { call!(functions, C_Encrypt(session, input(data), length(data), buffer, size)) }
        })
    });
    Ok(Encrypted { bytes: result?, iv })
}

/// `C_DecryptInit`, `C_Decrypt`. What has no room for its tag is `CKR_ENCRYPTED_DATA_LEN_RANGE`, also where the module finds nothing wrong with it: kryoptic
/// 1.5.4 takes no bytes at all for a ciphertext of AES-CCM.
pub fn decrypt(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mechanism: &Mechanism,
    data: &[u8],
) -> Result<Wiped, CallError> {
    decrypt_after(functions, session, key, mechanism, data, &mut || Ok(()))
}

/// The same, with something between the two calls, as in [`sign_after`].
pub fn decrypt_after(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mechanism: &Mechanism,
    data: &[u8],
    between: &mut dyn FnMut() -> Result<(), CallError>,
) -> Result<Wiped, CallError> {
    let guess = data.len().saturating_add(CIPHER_MARGIN);
    let decrypted = mechanism.for_ciphertext(data.len()).with_ck(|mechanism| {
        // SAFETY: the mechanism and what it points to live through both calls.
        let code = unsafe { call!(functions, C_DecryptInit(session, mechanism, key)) };
        check("C_DecryptInit", Phase::Init, code)?;
        between().map_err(|error| CallError { active: true, ..error })?;
        output("C_Decrypt", Phase::Final, guess, data.len(), |buffer, size| {
            // SAFETY: `data` is only read; `buffer` has room for `size` bytes.
            unsafe { call!(functions, C_Decrypt(session, input(data), length(data), buffer, size)) }
        })
    })?;
    if lacks_tag(mechanism, data.len()) {
        return Err(CallError::new("C_Decrypt", CKR_ENCRYPTED_DATA_LEN_RANGE, Phase::Final));
    }
    Ok(decrypted)
}

/// Turns down input for `CKM_RSA_X_509` that is longer than the key's modulus: SoftHSM 2.6.1 counts below zero then,
/// and ends the *process* by `exit(5)`. One `C_GetAttributeValue` before the Init, with this mechanism only.
fn check_raw_rsa(
    function: &'static str,
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mechanism: &Mechanism,
    data: &[u8],
) -> Result<(), CallError> {
    if mechanism.code != CKM_RSA_X_509 {
        return Ok(());
    }
    let read = get_attributes(functions, session, key, &[CKA_MODULUS])?;
    let modulus = read.first().and_then(|(_, read)| read.bytes());
    let size = modulus.map(|bytes| bytes.iter().skip_while(|byte| **byte == 0).count());
    match size {
        Some(size) if data.len() > size => Err(CallError::new(function, CKR_DATA_LEN_RANGE, Phase::Init)),
        _ => Ok(()),
    }
}

/// `C_SeedRandom`.
pub fn seed_random(functions: &Functions, session: CK_SESSION_HANDLE, seed: &[u8]) -> Result<(), CallError> {
    // SAFETY: the seed is only read.
    let code = unsafe { call!(functions, C_SeedRandom(session, input(seed), length(seed))) };
    check("C_SeedRandom", Phase::Single, code)
}

/// The fewest bytes that `C_GenerateRandom` is asked for: some tokens give no fewer at once.
const LEAST_RANDOM: usize = 8;

/// `C_GenerateRandom`: `count` bytes, in calls for at most `chunk` each and at least 8, of which what is too much is cut. None at
/// all makes no call.
pub fn generate_random(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    count: usize,
    chunk: usize,
) -> Result<Wiped, CallError> {
    let mut bytes = zeroed(count, "C_GenerateRandom", Phase::Single)?;
    for piece in bytes.chunks_mut(chunk.max(LEAST_RANDOM)) {
        if piece.len() >= LEAST_RANDOM {
            fill_random(functions, session, piece)?;
        } else {
            let mut more = zeroed(LEAST_RANDOM, "C_GenerateRandom", Phase::Single)?;
            fill_random(functions, session, &mut more)?;
            piece.copy_from_slice(&more[..piece.len()]);
        }
    }
    Ok(bytes)
}

fn fill_random(functions: &Functions, session: CK_SESSION_HANDLE, bytes: &mut [u8]) -> Result<(), CallError> {
    // SAFETY: the buffer has room for so many bytes.
    let code = unsafe { call!(functions, C_GenerateRandom(session, bytes.as_mut_ptr(), bytes.len() as CK_ULONG)) };
    check("C_GenerateRandom", Phase::Single, code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: CK_FUNCTION_LIST = {
        // SAFETY: a version of zeros, and no functions.
        unsafe { std::mem::zeroed() }
    };

    unsafe extern "C" fn verify_init(_: CK_SESSION_HANDLE, _: *mut CK_MECHANISM, _: CK_OBJECT_HANDLE) -> CK_RV {
        CKR_OK
    }

    /// Reads a whole MAC, whatever the length: good if it is two ones and zeros.
    unsafe extern "C" fn verify_whole(
        _: CK_SESSION_HANDLE,
        _: *mut CK_BYTE,
        _: CK_ULONG,
        signature: *mut CK_BYTE,
        _: CK_ULONG,
    ) -> CK_RV {
        // SAFETY: what this test is about.
        let whole = unsafe { std::slice::from_raw_parts(signature, 64) };
        if whole[..2] == [1, 1] && whole[2..] == [0; 62] { CKR_OK } else { CKR_SIGNATURE_INVALID }
    }

    #[test]
    fn behind_a_signature_are_zeros() {
        static LIST: CK_FUNCTION_LIST =
            CK_FUNCTION_LIST { C_VerifyInit: Some(verify_init), C_Verify: Some(verify_whole), ..EMPTY };
        // SAFETY: the functions above do what is asked of them.
        let functions = unsafe { Functions::from_list(&LIST) };
        let mechanism = Mechanism::new(CKM_SHA256_HMAC);
        // What lies behind in memory would be these.
        let signature = [1; 64];
        assert_eq!(verify(&functions, 1, 1, &mechanism, b"", &signature[..2]), Ok(()));
        assert!(verify(&functions, 1, 1, &mechanism, b"", &signature[..1]).is_err());
    }
}
