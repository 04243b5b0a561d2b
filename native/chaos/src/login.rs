//! The functions that take a PIN, with the counter of wrong ones.

use cryptoki_sys::*;

use crate::call::{on_session, on_slot};
use crate::function::Function;
use crate::pins::Owner;
use crate::real::real;
use crate::state::CHAOS;

pub unsafe extern "C" fn C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, size: CK_ULONG) -> CK_RV {
    on_session(Function::C_Login, session, false, |list, claim| {
        // SAFETY: the application promises the real function what it needs; the session is the real one.
        let ask = || unsafe { real!(list, C_Login(claim.real(), user, pin, size)) };
        let owner = if user == CKU_SO { Owner::SecurityOfficer } else { Owner::User };
        Ok(CHAOS.pins.attempt(claim.slot(), owner, ask))
    })
}

pub unsafe extern "C" fn C_LoginUser(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    size: CK_ULONG,
    name: *mut CK_UTF8CHAR,
    name_size: CK_ULONG,
) -> CK_RV {
    on_session(Function::C_LoginUser, session, false, |_, claim| {
        // SAFETY: as above.
        let ask = || unsafe { real!(CHAOS.later(), C_LoginUser(claim.real(), user, pin, size, name, name_size)) };
        let owner = if user == CKU_SO { Owner::SecurityOfficer } else { Owner::User };
        Ok(CHAOS.pins.attempt(claim.slot(), owner, ask))
    })
}

pub unsafe extern "C" fn C_SetPIN(
    session: CK_SESSION_HANDLE,
    old: *mut CK_UTF8CHAR,
    old_size: CK_ULONG,
    new: *mut CK_UTF8CHAR,
    new_size: CK_ULONG,
) -> CK_RV {
    on_session(Function::C_SetPIN, session, false, |list, claim| {
        // SAFETY: as above.
        let ask = || unsafe { real!(list, C_SetPIN(claim.real(), old, old_size, new, new_size)) };
        let mut info = CK_SESSION_INFO::default();
        // SAFETY: the structure is a local that outlives the call.
        let known = unsafe { real!(list, C_GetSessionInfo(claim.real(), &mut info)) } == CKR_OK;
        let owner = if known && info.state == CKS_RW_SO_FUNCTIONS { Owner::SecurityOfficer } else { Owner::User };
        Ok(CHAOS.pins.attempt(claim.slot(), owner, ask))
    })
}

pub unsafe extern "C" fn C_InitPIN(session: CK_SESSION_HANDLE, pin: *mut CK_UTF8CHAR, size: CK_ULONG) -> CK_RV {
    on_session(Function::C_InitPIN, session, false, |list, claim| {
        // SAFETY: as above.
        let code = unsafe { real!(list, C_InitPIN(claim.real(), pin, size)) };
        if code == CKR_OK {
            CHAOS.pins.forgive(claim.slot(), Owner::User);
        }
        Ok(code)
    })
}

pub unsafe extern "C" fn C_InitToken(slot: CK_SLOT_ID, pin: *mut CK_UTF8CHAR, size: CK_ULONG, label: *mut CK_UTF8CHAR) -> CK_RV {
    on_slot(Function::C_InitToken, slot, |list, slot| {
        // SAFETY: as above, with the real slot.
        let ask = || unsafe { real!(list, C_InitToken(slot, pin, size, label)) };
        let code = CHAOS.pins.attempt(slot, Owner::SecurityOfficer, ask);
        if code == CKR_OK {
            CHAOS.pins.forgive(slot, Owner::User);
        }
        code
    })
}
