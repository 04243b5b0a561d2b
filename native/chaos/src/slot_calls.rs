//! The functions that speak of slots, and those that open and close sessions on them.

use std::ffi::c_void;
use std::ptr;

use cryptoki_sys::*;

use crate::call::{on_session, on_slot, plain};
use crate::function::Function;
use crate::real::real;
use crate::state::CHAOS;

pub unsafe extern "C" fn C_GetSlotList(token_present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> CK_RV {
    plain(Function::C_GetSlotList, |list| {
        if CHAOS.slots.pristine() {
            // SAFETY: the application promises the real function what it needs.
            let code = unsafe { real!(list, C_GetSlotList(token_present, slots, count)) };
            if code == CKR_OK {
                // SAFETY: the real function wrote there.
                unsafe { CHAOS.point(Function::C_GetSlotList).tell_count(count) };
            }
            return Ok(code);
        }
        if count.is_null() {
            return Err(CKR_ARGUMENTS_BAD);
        }
        let mut shown = real_slots(list, token_present)?;
        if token_present != CK_FALSE {
            shown.retain(|slot| CHAOS.slots.away(*slot).is_none());
        }
        // SAFETY: not NULL, and the application's to write to.
        let room = std::mem::replace(unsafe { &mut *count }, shown.len() as CK_ULONG);
        if slots.is_null() {
            return Ok(CKR_OK);
        }
        if (room as usize) < shown.len() {
            return Err(CKR_BUFFER_TOO_SMALL);
        }
        for (index, slot) in shown.iter().enumerate() {
            // SAFETY: there is room for `room` slots, says the application.
            unsafe { *slots.add(index) = CHAOS.slots.shown(*slot) };
        }
        Ok(CKR_OK)
    })
}

/// The real module's slots.
fn real_slots(list: &CK_FUNCTION_LIST, token_present: CK_BBOOL) -> Result<Vec<CK_SLOT_ID>, CK_RV> {
    let mut count = 0;
    // SAFETY: asks for the number only.
    let code = unsafe { real!(list, C_GetSlotList(token_present, ptr::null_mut(), &mut count)) };
    if code != CKR_OK {
        return Err(code);
    }
    let mut slots = vec![0; count as usize];
    // SAFETY: there is room for `count` slots.
    let code = unsafe { real!(list, C_GetSlotList(token_present, slots.as_mut_ptr(), &mut count)) };
    if code != CKR_OK {
        return Err(code);
    }
    slots.truncate(count as usize);
    Ok(slots)
}

pub unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    plain(Function::C_GetSlotInfo, |list| {
        let real = CHAOS.slots.real(slot)?;
        // SAFETY: the application promises the real function what it needs; the slot is the real one.
        let code = unsafe { real!(list, C_GetSlotInfo(real, info)) };
        if code == CKR_OK && CHAOS.slots.away(real).is_some() {
            // SAFETY: the real function wrote there.
            unsafe { (*info).flags &= !CKF_TOKEN_PRESENT };
        }
        if code == CKR_OK && tells_events() {
            // SAFETY: as above.
            unsafe { (*info).flags |= CKF_REMOVABLE_DEVICE };
        }
        if code == CKR_OK && is_malformed() {
            // SAFETY: as above.
            let info = unsafe { &mut *info };
            end_by_nul(&mut info.slotDescription);
            info.manufacturerID[0] = NOT_UTF8;
        }
        Ok(code)
    })
}

pub unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    on_slot(Function::C_GetTokenInfo, slot, |list, slot| {
        // SAFETY: as above.
        let code = unsafe { real!(list, C_GetTokenInfo(slot, info)) };
        if code == CKR_OK {
            // SAFETY: the real function wrote there.
            show_token(slot, unsafe { &mut *info });
        }
        code
    })
}

/// Puts in what chaos adds to a token, and the counts of sessions, which not every module has.
fn show_token(slot: CK_SLOT_ID, info: &mut CK_TOKEN_INFO) {
    info.flags = CHAOS.token_flags(CHAOS.pins.flags(slot, info.flags));
    let sessions: Vec<_> = CHAOS.sessions.living().into_iter().filter(|session| session.slot == slot).collect();
    info.ulSessionCount = sessions.len() as CK_ULONG;
    info.ulRwSessionCount = sessions.iter().filter(|session| session.read_write).count() as CK_ULONG;
    let limit = CHAOS.session_limit.load(std::sync::atomic::Ordering::SeqCst);
    if limit != usize::MAX {
        info.ulMaxSessionCount = limit as CK_ULONG;
        info.ulMaxRwSessionCount = limit as CK_ULONG;
    }
    if is_malformed() {
        malform(info);
    }
}

fn tells_events() -> bool {
    CHAOS.slot_events.load(std::sync::atomic::Ordering::SeqCst)
}

/// No text in UTF-8 has it.
const NOT_UTF8: CK_BYTE = 0xff;

fn is_malformed() -> bool {
    CHAOS.malformed_info.load(std::sync::atomic::Ordering::SeqCst)
}

/// What careless modules make of a token's description.
fn malform(info: &mut CK_TOKEN_INFO) {
    [&mut info.label[..], &mut info.serialNumber, &mut info.model].into_iter().for_each(end_by_nul);
    info.manufacturerID[0] = NOT_UTF8;
    info.utcTime = *b"2023-13-32 25:61";
    info.flags |= CKF_CLOCK_ON_TOKEN;
    (info.ulSessionCount, info.ulMaxSessionCount) = (CK_UNAVAILABLE_INFORMATION, CK_EFFECTIVELY_INFINITE);
    // As by those that have 32 bits for it.
    (info.ulRwSessionCount, info.ulMaxRwSessionCount) = (CK_ULONG::from(u32::MAX), CK_UNAVAILABLE_INFORMATION);
    (info.ulMinPinLen, info.ulMaxPinLen) = (CK_UNAVAILABLE_INFORMATION, CK_UNAVAILABLE_INFORMATION);
    (info.ulTotalPublicMemory, info.ulFreePublicMemory) = (CK_UNAVAILABLE_INFORMATION, CK_ULONG::from(u32::MAX));
    (info.ulTotalPrivateMemory, info.ulFreePrivateMemory) = (CK_UNAVAILABLE_INFORMATION, CK_UNAVAILABLE_INFORMATION);
}

/// A text that ends as in C, with something behind it, where it should be padded with blanks.
fn end_by_nul(field: &mut [CK_BYTE]) {
    let end = field.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    if let Some((nul, rest)) = field[end..].split_first_mut() {
        *nul = 0;
        rest.fill(b'#');
    }
}

pub unsafe extern "C" fn C_WaitForSlotEvent(flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: *mut c_void) -> CK_RV {
    plain(Function::C_WaitForSlotEvent, |list| {
        if tells_events() {
            if slot.is_null() {
                return Err(CKR_ARGUMENTS_BAD);
            }
            if flags & CKF_DONT_BLOCK == 0 {
                CHAOS.violation("C_WaitForSlotEvent called to wait, which forbids C_Finalize".into());
                return Err(CKR_FUNCTION_NOT_SUPPORTED);
            }
            let event = CHAOS.slots.next_event().ok_or(CKR_NO_EVENT)?;
            // SAFETY: not NULL, and the application's to write to.
            unsafe { *slot = event };
            return Ok(CKR_OK);
        }
        // SAFETY: the application promises the real function what it needs.
        let code = unsafe { real!(list, C_WaitForSlotEvent(flags, slot, reserved)) };
        if code == CKR_OK && !slot.is_null() {
            // SAFETY: the real function wrote there.
            unsafe { *slot = CHAOS.slots.shown(*slot) };
        }
        Ok(code)
    })
}

/// No callback reaches the real module: it would name the real session.
pub unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: *mut c_void,
    _notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    plain(Function::C_OpenSession, |list| {
        let removals = CHAOS.slots.removals();
        let slot = CHAOS.slots.real(slot)?;
        CHAOS.slots.check_present(slot)?;
        if session.is_null() {
            return Err(CKR_ARGUMENTS_BAD);
        }
        let read_write = flags & CKF_RW_SESSION != 0;
        if read_write && CHAOS.token_flags(0) & CKF_WRITE_PROTECTED != 0 {
            return Err(CKR_TOKEN_WRITE_PROTECTED);
        }
        CHAOS.sessions.reserve()?;
        let mut real = CK_INVALID_HANDLE;
        // SAFETY: the handle is written to a local; no callback is given.
        let code = unsafe { real!(list, C_OpenSession(slot, flags, ptr::null_mut(), None, &mut real)) };
        if code != CKR_OK {
            CHAOS.sessions.unreserve();
            return Err(code);
        }
        let added = CHAOS.sessions.add(real, slot, read_write);
        // Either this sees the removal, or the removal sees the session.
        if removals != CHAOS.slots.removals() {
            CHAOS.sessions.withdraw(added);
            return Err(CKR_DEVICE_REMOVED);
        }
        CHAOS.slots.used(slot);
        // SAFETY: not NULL, and the application's to write to.
        unsafe { *session = added };
        Ok(CKR_OK)
    })
}

pub unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    on_session(Function::C_CloseSession, session, false, |list, claim| {
        // SAFETY: takes a handle only; a bad one is an error code.
        let code = unsafe { real!(list, C_CloseSession(claim.real())) };
        if code == CKR_OK {
            claim.closed();
        }
        Ok(code)
    })
}

pub unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    on_slot(Function::C_CloseAllSessions, slot, |list, slot| {
        if let Some(function) = CHAOS.sessions.busy(slot) {
            CHAOS.violation(format!("C_CloseAllSessions called while another thread is in {function}"));
            return CKR_FUNCTION_FAILED;
        }
        // SAFETY: takes a slot only; a bad one is an error code.
        let code = unsafe { real!(list, C_CloseAllSessions(slot)) };
        if code == CKR_OK {
            CHAOS.sessions.forget_all(Some(slot));
        }
        code
    })
}

pub unsafe extern "C" fn C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) -> CK_RV {
    on_session(Function::C_GetSessionInfo, session, false, |list, claim| {
        // SAFETY: the application promises the real function what it needs; the session is the real one.
        let code = unsafe { real!(list, C_GetSessionInfo(claim.real(), info)) };
        if code == CKR_OK {
            // SAFETY: the real function wrote there.
            unsafe { (*info).slotID = CHAOS.slots.shown((*info).slotID) };
        }
        Ok(code)
    })
}
