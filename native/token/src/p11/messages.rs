//! Encryption by messages (PKCS#11 3.0), in which the token makes the IV. It tells it by a structure that is made for that, other than `C_Encrypt`, where
//! modules write over the IV that they were given.

use cryptoki_sys::*;

use super::buffer::{input, length, output, zeroed};
use super::codes::Class;
use super::crypto::{CIPHER_MARGIN, Encrypted};
use super::error::{CallError, Phase, check};
use super::functions::{Functions, call_later};
use super::mechanism::Mechanism;
use super::params::{Iv, Params, TOKEN_IV_SIZE};
use crate::support::wiped::Wiped;

/// `C_MessageEncryptInit`, `C_EncryptMessage`, `C_MessageEncryptFinal`: the IV is random, and the tag at the end of the ciphertext. `None`: the mechanism is
/// none whose IV the token is to make, or the module has it not by messages; nothing has been done then.
pub fn encrypt(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mechanism: &Mechanism,
    data: &[u8],
) -> Result<Option<Encrypted>, CallError> {
    let Mechanism { code: CKM_AES_GCM, params: Params::Gcm { iv: Iv::Token, aad, tag_bits } } = mechanism else {
        return Ok(None);
    };
    let mut init = CK_MECHANISM { mechanism: CKM_AES_GCM, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
    // SAFETY: the mechanism, which has no parameters, lives through the call.
    let code = unsafe { call_later!(functions, v3_0, C_MessageEncryptInit(session, &mut init, key)) };
    if matches!(code, CKR_FUNCTION_NOT_SUPPORTED | CKR_MECHANISM_INVALID | CKR_MECHANISM_PARAM_INVALID) {
        return Ok(None);
    }
    check("C_MessageEncryptInit", Phase::Init, code)?;
    match encrypt_one(functions, session, aad, *tag_bits, data) {
        Ok(encrypted) => {
            let code = end(functions, session);
            check("C_MessageEncryptFinal", Phase::Final, code).map_err(|error| CallError { active: true, ..error })?;
            Ok(Some(encrypted))
        }
        Err(error) => Err(end_after(functions, session, error)),
    }
}

fn encrypt_one(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    aad: &[u8],
    tag_bits: CK_ULONG,
    data: &[u8],
) -> Result<Encrypted, CallError> {
    let tag_size = usize::try_from(tag_bits.div_ceil(8)).unwrap_or(usize::MAX);
    let mut tag = zeroed(tag_size, "C_EncryptMessage", Phase::Final)?;
    let mut iv = Wiped::from(vec![0; TOKEN_IV_SIZE]);
    let mut params = CK_GCM_MESSAGE_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: length(&iv),
        ulIvFixedBits: 0,
        ivGenerator: CKG_GENERATE_RANDOM,
        pTag: tag.as_mut_ptr(),
        ulTagBits: tag_bits,
    };
    let guess = data.len().saturating_add(CIPHER_MARGIN);
    let mut bytes = output("C_EncryptMessage", Phase::Final, guess, data.len(), |buffer, size| {
        let (pointer, params_size) = ((&raw mut params).cast(), size_of::<CK_GCM_MESSAGE_PARAMS>() as CK_ULONG);
        // SAFETY: the parameters and the IV and the tag, to which they point, live through the call, and have as much room as they say; `aad` and `data` are only
        // read; `buffer` has room for `size` bytes.
        unsafe {
            call_later!(
                functions,
                v3_0,
                C_EncryptMessage(session, pointer, params_size, input(aad), length(aad), input(data), length(data), buffer, size)
            )
        }
    })?;
    if !bytes.append(&tag) {
        // It is longer than any that could be.
        return Err(CallError { active: false, ..CallError::new("C_EncryptMessage", CKR_OK, Phase::Final) });
    }
    let is_made = iv.iter().any(|byte| *byte != 0);
    Ok(Encrypted { bytes, iv: is_made.then(|| iv.to_vec()) })
}

/// Ends the operation: as little as a message that is encrypted does one end it that fails. What speaks of another failure than the message's own is left to whoever
/// looks into it.
fn end_after(functions: &Functions, session: CK_SESSION_HANDLE, error: CallError) -> CallError {
    let is_its_own = if error.is_of_output() {
        !error.active
    } else {
        matches!(error.class(), Class::Caller | Class::StaleHandle | Class::LoginLost)
    };
    let is_ended = is_its_own && matches!(end(functions, session), CKR_OK | CKR_OPERATION_NOT_INITIALIZED);
    CallError { active: !is_ended, ..error }
}

fn end(functions: &Functions, session: CK_SESSION_HANDLE) -> CK_RV {
    // SAFETY: takes a handle only.
    unsafe { call_later!(functions, v3_0, C_MessageEncryptFinal(session)) }
}
