//! A token that makes the IVs of AES-GCM by itself, as HSMs in FIPS mode do: it writes its own over whatever the application gives.

use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys::*;

use crate::call::on_session;
use crate::function::Function;
use crate::messages::check_offered;
use crate::real::real;
use crate::state::CHAOS;

/// How many have been made: no two are the same.
static MADE: AtomicU64 = AtomicU64::new(0);

pub unsafe extern "C" fn C_EncryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) -> CK_RV {
    on_session(Function::C_EncryptInit, session, false, |list, claim| {
        let key = CHAOS.objects.real(key, claim.generation(), CKR_KEY_HANDLE_INVALID)?;
        // SAFETY: the application's promise.
        unsafe { check_offered(mechanism) }?;
        if CHAOS.makes_iv.load(Ordering::SeqCst) {
            // SAFETY: the application promises the real function what it needs.
            unsafe { make(mechanism) };
        }
        // SAFETY: the application promises the real function what it needs; the handles are the real ones.
        Ok(unsafe { real!(list, C_EncryptInit(claim.real(), mechanism, key)) })
    })
}

/// # Safety
/// NULL or a mechanism as PKCS#11 wants it, whose IV may be written to.
unsafe fn make(mechanism: *mut CK_MECHANISM) {
    // SAFETY: the caller's promise.
    let Some(CK_MECHANISM { mechanism, pParameter, ulParameterLen }) = unsafe { mechanism.as_ref() }.copied() else { return };
    if mechanism != CKM_AES_GCM || pParameter.is_null() || ulParameterLen as usize != size_of::<CK_GCM_PARAMS>() {
        return;
    }
    // SAFETY: as long as that, it is this structure.
    let params = unsafe { pParameter.cast::<CK_GCM_PARAMS>().read_unaligned() };
    if params.pIv.is_null() {
        return;
    }
    let number = (MADE.fetch_add(1, Ordering::SeqCst) + 1).to_be_bytes();
    for index in 0..params.ulIvLen as usize {
        // SAFETY: so many bytes the IV has.
        unsafe { params.pIv.add(index).write(number[index % number.len()]) };
    }
}
