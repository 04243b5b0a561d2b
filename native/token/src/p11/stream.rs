//! Cryptographic operations of several calls: the Init call, any number of Updates, the Final one.

use cryptoki_sys::*;

use super::buffer::{input, length, output};
use super::crypto::{CIPHER_MARGIN, SIGNATURE_HINT, with_margin};
use super::error::{CallError, Phase, check};
use super::functions::{Functions, call};
use super::mechanism::HeldMechanism;
use crate::support::wiped::Wiped;

/// Which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `C_Digest...`
    Digest,
    /// `C_Sign...`
    Sign,
    /// `C_Verify...`
    Verify,
    /// `C_Encrypt...`
    Encrypt,
    /// `C_Decrypt...`
    Decrypt,
}

/// The most that the first buffer of a Final call has room for: a token that gathers all it is given has more to give then, and says so.
const FINAL_GUESS: usize = 1 << 20;

/// `C_...Init`. `key` is of no account for a digest. `between` as in `crypto::sign_after`. The mechanism must live until the operation has ended.
pub fn begin(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    kind: Kind,
    key: CK_OBJECT_HANDLE,
    mechanism: &mut HeldMechanism,
    between: &mut dyn FnMut() -> Result<(), CallError>,
) -> Result<(), CallError> {
    let mechanism = mechanism.ck();
    // SAFETY: the mechanism and what it points to live until the operation has ended, as the caller of this has it.
    let (function, code) = unsafe {
        match kind {
            Kind::Digest => ("C_DigestInit", call!(functions, C_DigestInit(session, mechanism))),
            Kind::Sign => ("C_SignInit", call!(functions, C_SignInit(session, mechanism, key))),
            Kind::Verify => ("C_VerifyInit", call!(functions, C_VerifyInit(session, mechanism, key))),
            Kind::Encrypt => ("C_EncryptInit", call!(functions, C_EncryptInit(session, mechanism, key))),
            Kind::Decrypt => ("C_DecryptInit", call!(functions, C_DecryptInit(session, mechanism, key))),
        }
    };
    check(function, Phase::Init, code)?;
    between().map_err(|error| CallError { active: true, ..error })
}

/// `C_...Update`: what it gives, which is nothing for a digest or a signature. `held_back`: how many bytes were given to the operation before, and not
/// come out again.
pub fn update(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    kind: Kind,
    data: &[u8],
    held_back: usize,
) -> Result<Wiped, CallError> {
    let (part, size) = (input(data), length(data));
    // SAFETY: `data` is only read.
    let (function, code) = unsafe {
        match kind {
            Kind::Digest => ("C_DigestUpdate", call!(functions, C_DigestUpdate(session, part, size))),
            Kind::Sign => ("C_SignUpdate", call!(functions, C_SignUpdate(session, part, size))),
            Kind::Verify => ("C_VerifyUpdate", call!(functions, C_VerifyUpdate(session, part, size))),
            Kind::Encrypt | Kind::Decrypt => {
                let guess = data.len().saturating_add(held_back.min(CIPHER_MARGIN)).saturating_add(CIPHER_MARGIN);
                let due = data.len().saturating_add(held_back);
                return if kind == Kind::Encrypt {
                    output("C_EncryptUpdate", Phase::Final, guess, due, |buffer, room| {
                        call!(functions, C_EncryptUpdate(session, part, size, buffer, room))
                    })
                } else {
                    output("C_DecryptUpdate", Phase::Final, guess, due, |buffer, room| {
                        call!(functions, C_DecryptUpdate(session, part, size, buffer, room))
                    })
                };
            }
        }
    };
    check(function, Phase::Final, code).map(|()| Wiped::default())
}

/// `C_...Final`: what it gives. `signature` is what is verified.
pub fn finish(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    kind: Kind,
    signature: &[u8],
    held_back: usize,
) -> Result<Wiped, CallError> {
    let guess = held_back.min(FINAL_GUESS).saturating_add(CIPHER_MARGIN);
    // SAFETY, of the four below: the buffer has room for as many bytes as it is said to.
    match kind {
        Kind::Digest => output("C_DigestFinal", Phase::Final, SIGNATURE_HINT, 0, |buffer, room| {
            // SAFETY: as above.
            unsafe { call!(functions, C_DigestFinal(session, buffer, room)) }
        }),
        Kind::Sign => output("C_SignFinal", Phase::Final, SIGNATURE_HINT, 0, |buffer, room| {
            // SAFETY: as above.
            unsafe { call!(functions, C_SignFinal(session, buffer, room)) }
        }),
        Kind::Encrypt => output("C_EncryptFinal", Phase::Final, guess, held_back, |buffer, room| {
            // SAFETY: as above.
            unsafe { call!(functions, C_EncryptFinal(session, buffer, room)) }
        }),
        Kind::Decrypt => output("C_DecryptFinal", Phase::Final, guess, held_back, |buffer, room| {
            // SAFETY: as above.
            unsafe { call!(functions, C_DecryptFinal(session, buffer, room)) }
        }),
        Kind::Verify => {
            let padded = with_margin(signature, "C_VerifyFinal", Phase::Final)?;
            // SAFETY: the signature is only read.
            let code = unsafe { call!(functions, C_VerifyFinal(session, input(&padded), length(signature))) };
            check("C_VerifyFinal", Phase::Final, code).map(|()| Wiped::default())
        }
    }
}

/// `C_Sign` or `C_Verify` of a digest that was computed here meanwhile: the end of an operation of one part that [`begin`] has begun.
pub fn finish_with_digest(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    kind: Kind,
    digest: &[u8],
    signature: &[u8],
) -> Result<Wiped, CallError> {
    if kind == Kind::Verify {
        let padded = with_margin(signature, "C_Verify", Phase::Final)?;
        // SAFETY: both inputs are only read.
        let code =
            unsafe { call!(functions, C_Verify(session, input(digest), length(digest), input(&padded), length(signature))) };
        return check("C_Verify", Phase::Final, code).map(|()| Wiped::default());
    }
    output("C_Sign", Phase::Final, SIGNATURE_HINT, digest.len(), |buffer, room| {
        // SAFETY: the digest is only read; the buffer has room for as many bytes as it is said to.
        unsafe { call!(functions, C_Sign(session, input(digest), length(digest), buffer, room)) }
    })
}
