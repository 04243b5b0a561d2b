//! Carelessness with lengths, as real modules have it.
//!
//! * opencryptoki 3.23 verifies a MAC without a look at the length that it is given, and leaves the length of an OFB or CFB ciphertext as it was.
//! * Some tokens give out a plaintext before its tag has been verified (the standard leaves it to them).
//! * Some tokens give only so many random bytes in one call: NSS 65,536, Google's kmsp11 8 to 1,024.

use std::sync::atomic::Ordering;

use cryptoki_sys::*;

use crate::call::on_session;
use crate::function::Function;
use crate::point::Point;
use crate::real::real;
use crate::state::CHAOS;

/// What a point says of the length of its output: the truth.
const TRUE: u8 = 0;
/// Nothing: the length stays as the application gave it.
const KEPT: u8 = 1;
/// One byte more than the application has room for.
const EXCEEDED: u8 = 2;

/// What a word of a command stands for.
pub fn told(word: &str) -> Result<u8, String> {
    match word {
        "true" => Ok(TRUE),
        "kept" => Ok(KEPT),
        "exceeded" => Ok(EXCEEDED),
        _ => Err(format!("{word} is none of true, kept, exceeded")),
    }
}

/// Writes what the point says of a length for which the application gave `given`.
///
/// # Safety
/// `size` is NULL, and nothing was given, or room for one number.
pub unsafe fn tell_size(point: &Point, given: Option<CK_ULONG>, size: *mut CK_ULONG) {
    let Some(given) = given else { return };
    let told = match point.told_size.load(Ordering::Relaxed) {
        KEPT => given,
        EXCEEDED => given + 1,
        _ => return,
    };
    // SAFETY: the caller's promise.
    unsafe { *size = told };
}

pub unsafe extern "C" fn C_Verify(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    size: CK_ULONG,
    signature: *mut CK_BYTE,
    signature_size: CK_ULONG,
) -> CK_RV {
    on_session(Function::C_Verify, session, false, |list, claim| {
        let signature_size = match CHAOS.signature_size.load(Ordering::Relaxed) {
            0 => signature_size,
            own => own as CK_ULONG,
        };
        // SAFETY: the application promises the real function what it needs; the session is the real one. A length of our own is the mistake that
        // is to be shown: what is behind a shorter signature is read.
        Ok(unsafe { real!(list, C_Verify(claim.real(), data, size, signature, signature_size)) })
    })
}

pub unsafe extern "C" fn C_DecryptUpdate(
    session: CK_SESSION_HANDLE,
    part: *mut CK_BYTE,
    size: CK_ULONG,
    output: *mut CK_BYTE,
    output_size: *mut CK_ULONG,
) -> CK_RV {
    on_session(Function::C_DecryptUpdate, session, output.is_null(), |list, claim| {
        // SAFETY: NULL or room for one number is the application's promise.
        let given = unsafe { output_size.as_ref() }.copied();
        // SAFETY: the application promises the real function what it needs; the session is the real one.
        let code = unsafe { real!(list, C_DecryptUpdate(claim.real(), part, size, output, output_size)) };
        if code != CKR_OK || output.is_null() {
            return Ok(code);
        }
        // SAFETY: the real function wrote there.
        let gives_nothing = unsafe { output_size.as_ref() } == Some(&0);
        if gives_nothing && given >= Some(size) && CHAOS.early_plaintext.load(Ordering::Relaxed) {
            // SAFETY: there is room for so many bytes, and for their number.
            unsafe {
                std::ptr::write_bytes(output, b'?', size as usize);
                *output_size = size;
            }
        }
        // SAFETY: the real function wrote there.
        unsafe { tell_size(CHAOS.point(Function::C_DecryptUpdate), given, output_size) };
        Ok(code)
    })
}

pub unsafe extern "C" fn C_GenerateRandom(session: CK_SESSION_HANDLE, random: *mut CK_BYTE, size: CK_ULONG) -> CK_RV {
    on_session(Function::C_GenerateRandom, session, false, |list, claim| {
        let (min, max) = (CHAOS.random_min.load(Ordering::Relaxed), CHAOS.random_max.load(Ordering::Relaxed));
        if !(min..=max).contains(&(size as usize)) {
            return Err(CKR_ARGUMENTS_BAD);
        }
        // SAFETY: the application promises the real function what it needs; the session is the real one.
        Ok(unsafe { real!(list, C_GenerateRandom(claim.real(), random, size)) })
    })
}
