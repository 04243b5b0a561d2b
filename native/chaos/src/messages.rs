//! A token that offers its authenticating ciphers by messages only (PKCS#11 3.0).

use std::sync::atomic::Ordering;

use cryptoki_sys::*;

use crate::call::{on_session, on_slot};
use crate::function::Function;
use crate::real::real;
use crate::state::CHAOS;

/// Whether the token offers a mechanism by messages only.
fn has_messages_only(mechanism: CK_MECHANISM_TYPE) -> bool {
    CHAOS.messages_only.load(Ordering::SeqCst) && matches!(mechanism, CKM_AES_GCM | CKM_AES_CCM | CKM_CHACHA20_POLY1305)
}

/// `CKR_MECHANISM_INVALID` for what is offered by messages only.
///
/// # Safety
/// NULL or a mechanism, as the application promises.
pub unsafe fn check_offered(mechanism: *const CK_MECHANISM) -> Result<(), CK_RV> {
    // SAFETY: the caller's promise.
    match unsafe { mechanism.as_ref() } {
        Some(mechanism) if has_messages_only(mechanism.mechanism) => Err(CKR_MECHANISM_INVALID),
        _ => Ok(()),
    }
}

pub unsafe extern "C" fn C_DecryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) -> CK_RV {
    on_session(Function::C_DecryptInit, session, false, |list, claim| {
        let key = CHAOS.objects.real(key, claim.generation(), CKR_KEY_HANDLE_INVALID)?;
        // SAFETY: the application's promise.
        unsafe { check_offered(mechanism) }?;
        // SAFETY: the application promises the real function what it needs; the handles are the real ones.
        Ok(unsafe { real!(list, C_DecryptInit(claim.real(), mechanism, key)) })
    })
}

pub unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    on_slot(Function::C_GetMechanismInfo, slot, |list, slot| {
        // SAFETY: the application promises the real function what it needs; the slot is the real one.
        let code = unsafe { real!(list, C_GetMechanismInfo(slot, mechanism, info)) };
        if code == CKR_OK && has_messages_only(mechanism) {
            // SAFETY: the real function wrote there.
            unsafe { (*info).flags &= !(CKF_ENCRYPT | CKF_DECRYPT) };
        }
        code
    })
}
