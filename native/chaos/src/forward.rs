//! Our function list, and the functions that need nothing but to be handed on.

use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys::*;

use crate::C_GetFunctionList;
use crate::call::{on_session, on_slot, plain};
use crate::careless::{self, C_DecryptUpdate, C_GenerateRandom, C_Verify};
use crate::function::Function;
use crate::iv::C_EncryptInit;
use crate::lifecycle::{C_Finalize, C_Initialize};
use crate::login::{C_InitPIN, C_InitToken, C_Login, C_SetPIN};
use crate::messages::{C_DecryptInit, C_GetMechanismInfo};
use crate::real::real;
use crate::slot_calls::{
    C_CloseAllSessions, C_CloseSession, C_GetSessionInfo, C_GetSlotInfo, C_GetSlotList, C_GetTokenInfo, C_OpenSession,
    C_WaitForSlotEvent,
};
use crate::state::CHAOS;
use crate::unique_ids::{C_FindObjectsInit, C_GetAttributeValue};

/// The list in which the functions of this file are.
fn functions(list: &CK_FUNCTION_LIST) -> &CK_FUNCTION_LIST {
    list
}

/// Functions that take a session first, of the list that the caller's `functions` gives. `takes`: handles of objects, and what a stale one is answered with; `gives`:
/// where the real module writes handles; `asks`: a pointer that is NULL when only a size is wanted.
macro_rules! on_session {
    ($(
        $name:ident($($argument:ident: $type:ty),*)
        $(takes($($taken:ident: $invalid:ident),+))? $(asks($output:ident, $size:ident))? $(gives($($given:ident),+))?;
    )*) => { $(
        pub(crate) unsafe extern "C" fn $name(session: CK_SESSION_HANDLE, $($argument: $type),*) -> CK_RV {
            let size_query = false $(|| $output.is_null())?;
            on_session(Function::$name, session, size_query, |list, claim| {
                $($(let $taken = CHAOS.objects.real($taken, claim.generation(), $invalid)?;)+)?
                // SAFETY: NULL or room for one number is the application's promise.
                $(let given = unsafe { $size.as_ref() }.copied();)?
                // SAFETY: the application promises the real function what it needs; the handles are the real ones.
                let code = unsafe { real!(functions(list), $name(claim.real(), $($argument),*)) };
                $(if code == CKR_OK && !$output.is_null() {
                    // SAFETY: the real function wrote there.
                    unsafe { careless::tell_size(CHAOS.point(Function::$name), given, $size) };
                })?
                $(if code == CKR_OK && !size_query {
                    $(
                        // SAFETY: the real function wrote one handle there.
                        unsafe { CHAOS.objects.show($given, 1) };
                    )+
                })?
                Ok(code)
            })
        }
    )* };
}
pub(crate) use on_session as on_session_functions;

on_session! {
    C_GetOperationState(state: *mut CK_BYTE, size: *mut CK_ULONG) asks(state, size);
    C_SetOperationState(state: *mut CK_BYTE, size: CK_ULONG, encryption_key: CK_OBJECT_HANDLE, authentication_key: CK_OBJECT_HANDLE)
        takes(encryption_key: CKR_KEY_HANDLE_INVALID, authentication_key: CKR_KEY_HANDLE_INVALID);
    C_Logout();
    C_CreateObject(template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE) gives(object);
    C_CopyObject(object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, copy: *mut CK_OBJECT_HANDLE)
        takes(object: CKR_OBJECT_HANDLE_INVALID) gives(copy);
    C_SetAttributeValue(object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG)
        takes(object: CKR_OBJECT_HANDLE_INVALID);
    C_FindObjectsFinal();
    C_Encrypt(data: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG) asks(output, output_size);
    C_EncryptUpdate(part: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG) asks(output, output_size);
    C_EncryptFinal(output: *mut CK_BYTE, output_size: *mut CK_ULONG) asks(output, output_size);
    C_Decrypt(data: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG) asks(output, output_size);
    C_DecryptFinal(output: *mut CK_BYTE, output_size: *mut CK_ULONG) asks(output, output_size);
    C_DigestInit(mechanism: *mut CK_MECHANISM);
    C_Digest(data: *mut CK_BYTE, size: CK_ULONG, digest: *mut CK_BYTE, digest_size: *mut CK_ULONG) asks(digest, digest_size);
    C_DigestUpdate(part: *mut CK_BYTE, size: CK_ULONG);
    C_DigestKey(key: CK_OBJECT_HANDLE) takes(key: CKR_KEY_HANDLE_INVALID);
    C_DigestFinal(digest: *mut CK_BYTE, digest_size: *mut CK_ULONG) asks(digest, digest_size);
    C_SignInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) takes(key: CKR_KEY_HANDLE_INVALID);
    C_Sign(data: *mut CK_BYTE, size: CK_ULONG, signature: *mut CK_BYTE, signature_size: *mut CK_ULONG) asks(signature, signature_size);
    C_SignUpdate(part: *mut CK_BYTE, size: CK_ULONG);
    C_SignFinal(signature: *mut CK_BYTE, signature_size: *mut CK_ULONG) asks(signature, signature_size);
    C_SignRecoverInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) takes(key: CKR_KEY_HANDLE_INVALID);
    C_SignRecover(data: *mut CK_BYTE, size: CK_ULONG, signature: *mut CK_BYTE, signature_size: *mut CK_ULONG) asks(signature, signature_size);
    C_VerifyInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) takes(key: CKR_KEY_HANDLE_INVALID);
    C_VerifyUpdate(part: *mut CK_BYTE, size: CK_ULONG);
    C_VerifyFinal(signature: *mut CK_BYTE, signature_size: CK_ULONG);
    C_VerifyRecoverInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) takes(key: CKR_KEY_HANDLE_INVALID);
    C_VerifyRecover(signature: *mut CK_BYTE, signature_size: CK_ULONG, data: *mut CK_BYTE, size: *mut CK_ULONG) asks(data, size);
    C_DigestEncryptUpdate(part: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG) asks(output, output_size);
    C_DecryptDigestUpdate(part: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG) asks(output, output_size);
    C_SignEncryptUpdate(part: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG) asks(output, output_size);
    C_DecryptVerifyUpdate(part: *mut CK_BYTE, size: CK_ULONG, output: *mut CK_BYTE, output_size: *mut CK_ULONG) asks(output, output_size);
    C_GenerateKey(mechanism: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE)
        gives(key);
    C_GenerateKeyPair(mechanism: *mut CK_MECHANISM, public_template: *mut CK_ATTRIBUTE, public_count: CK_ULONG, private_template: *mut CK_ATTRIBUTE, private_count: CK_ULONG, public_key: *mut CK_OBJECT_HANDLE, private_key: *mut CK_OBJECT_HANDLE)
        gives(public_key, private_key);
    C_WrapKey(mechanism: *mut CK_MECHANISM, wrapping_key: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE, wrapped_size: *mut CK_ULONG)
        takes(wrapping_key: CKR_WRAPPING_KEY_HANDLE_INVALID, key: CKR_KEY_HANDLE_INVALID) asks(wrapped, wrapped_size);
    C_UnwrapKey(mechanism: *mut CK_MECHANISM, unwrapping_key: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE, size: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE)
        takes(unwrapping_key: CKR_UNWRAPPING_KEY_HANDLE_INVALID) gives(key);
    C_DeriveKey(mechanism: *mut CK_MECHANISM, base_key: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE)
        takes(base_key: CKR_KEY_HANDLE_INVALID) gives(key);
    C_SeedRandom(seed: *mut CK_BYTE, size: CK_ULONG);
    C_GetFunctionStatus();
    C_CancelFunction();
}

unsafe extern "C" fn C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> CK_RV {
    on_session(Function::C_DestroyObject, session, false, |list, claim| {
        let real = CHAOS.objects.real(object, claim.generation(), CKR_OBJECT_HANDLE_INVALID)?;
        // SAFETY: takes handles only; the real ones.
        let code = unsafe { real!(list, C_DestroyObject(claim.real(), real)) };
        if code == CKR_OK {
            CHAOS.objects.destroyed(object);
        }
        Ok(code)
    })
}

unsafe extern "C" fn C_GetObjectSize(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, size: *mut CK_ULONG) -> CK_RV {
    on_session(Function::C_GetObjectSize, session, false, |list, claim| {
        let real = CHAOS.objects.real(object, claim.generation(), CKR_OBJECT_HANDLE_INVALID)?;
        // SAFETY: the application promises the real function what it needs; the handles are the real ones.
        let code = unsafe { real!(list, C_GetObjectSize(claim.real(), real, size)) };
        if code == CKR_OK {
            // SAFETY: the real function wrote there.
            unsafe { CHAOS.point(Function::C_GetObjectSize).tell_count(size) };
        }
        Ok(code)
    })
}

/// The object that an endless search finds again and again.
static LAST_FOUND: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    max: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    on_session(Function::C_FindObjects, session, false, |list, claim| {
        // SAFETY: the application promises the real function what it needs; the session is the real one.
        let code = unsafe { real!(list, C_FindObjects(claim.real(), objects, max, count)) };
        if code == CKR_OK && CHAOS.hides_objects.load(Ordering::SeqCst) {
            // SAFETY: the real function wrote there.
            unsafe { *count = 0 };
        } else if code == CKR_OK {
            if CHAOS.endless_search.load(Ordering::SeqCst) && max > 0 {
                // SAFETY: there is room for `max` handles, and for their count.
                unsafe {
                    if *count == 0 {
                        *objects = LAST_FOUND.load(Ordering::SeqCst);
                    }
                    LAST_FOUND.store(*objects, Ordering::SeqCst);
                    (1..max as usize).for_each(|index| *objects.add(index) = *objects);
                    *count = max;
                }
            }
            // SAFETY: so many handles the real function wrote.
            unsafe { CHAOS.objects.show(objects, *count as usize) };
            // SAFETY: the real function wrote there.
            unsafe { CHAOS.point(Function::C_FindObjects).tell_count(count) };
        }
        Ok(code)
    })
}

unsafe extern "C" fn C_GetInfo(info: *mut CK_INFO) -> CK_RV {
    // SAFETY: the application promises the real function what it needs.
    plain(Function::C_GetInfo, |list| Ok(unsafe { real!(list, C_GetInfo(info)) }))
}

unsafe extern "C" fn C_GetMechanismList(slot: CK_SLOT_ID, mechanisms: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG) -> CK_RV {
    on_slot(Function::C_GetMechanismList, slot, |list, slot| {
        // SAFETY: the application promises the real function what it needs; the slot is the real one.
        let code = unsafe { real!(list, C_GetMechanismList(slot, mechanisms, count)) };
        if code == CKR_OK {
            // SAFETY: the real function wrote there.
            unsafe { CHAOS.point(Function::C_GetMechanismList).tell_count(count) };
        }
        code
    })
}

/// The list that the application gets, or its beginning.
pub static LIST: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
    version: CK_VERSION { major: 2, minor: 40 },
    C_Initialize: Some(C_Initialize),
    C_Finalize: Some(C_Finalize),
    C_GetInfo: Some(C_GetInfo),
    C_GetFunctionList: Some(C_GetFunctionList),
    C_GetSlotList: Some(C_GetSlotList),
    C_GetSlotInfo: Some(C_GetSlotInfo),
    C_GetTokenInfo: Some(C_GetTokenInfo),
    C_GetMechanismList: Some(C_GetMechanismList),
    C_GetMechanismInfo: Some(C_GetMechanismInfo),
    C_InitToken: Some(C_InitToken),
    C_InitPIN: Some(C_InitPIN),
    C_SetPIN: Some(C_SetPIN),
    C_OpenSession: Some(C_OpenSession),
    C_CloseSession: Some(C_CloseSession),
    C_CloseAllSessions: Some(C_CloseAllSessions),
    C_GetSessionInfo: Some(C_GetSessionInfo),
    C_GetOperationState: Some(C_GetOperationState),
    C_SetOperationState: Some(C_SetOperationState),
    C_Login: Some(C_Login),
    C_Logout: Some(C_Logout),
    C_CreateObject: Some(C_CreateObject),
    C_CopyObject: Some(C_CopyObject),
    C_DestroyObject: Some(C_DestroyObject),
    C_GetObjectSize: Some(C_GetObjectSize),
    C_GetAttributeValue: Some(C_GetAttributeValue),
    C_SetAttributeValue: Some(C_SetAttributeValue),
    C_FindObjectsInit: Some(C_FindObjectsInit),
    C_FindObjects: Some(C_FindObjects),
    C_FindObjectsFinal: Some(C_FindObjectsFinal),
    C_EncryptInit: Some(C_EncryptInit),
    C_Encrypt: Some(C_Encrypt),
    C_EncryptUpdate: Some(C_EncryptUpdate),
    C_EncryptFinal: Some(C_EncryptFinal),
    C_DecryptInit: Some(C_DecryptInit),
    C_Decrypt: Some(C_Decrypt),
    C_DecryptUpdate: Some(C_DecryptUpdate),
    C_DecryptFinal: Some(C_DecryptFinal),
    C_DigestInit: Some(C_DigestInit),
    C_Digest: Some(C_Digest),
    C_DigestUpdate: Some(C_DigestUpdate),
    C_DigestKey: Some(C_DigestKey),
    C_DigestFinal: Some(C_DigestFinal),
    C_SignInit: Some(C_SignInit),
    C_Sign: Some(C_Sign),
    C_SignUpdate: Some(C_SignUpdate),
    C_SignFinal: Some(C_SignFinal),
    C_SignRecoverInit: Some(C_SignRecoverInit),
    C_SignRecover: Some(C_SignRecover),
    C_VerifyInit: Some(C_VerifyInit),
    C_Verify: Some(C_Verify),
    C_VerifyUpdate: Some(C_VerifyUpdate),
    C_VerifyFinal: Some(C_VerifyFinal),
    C_VerifyRecoverInit: Some(C_VerifyRecoverInit),
    C_VerifyRecover: Some(C_VerifyRecover),
    C_DigestEncryptUpdate: Some(C_DigestEncryptUpdate),
    C_DecryptDigestUpdate: Some(C_DecryptDigestUpdate),
    C_SignEncryptUpdate: Some(C_SignEncryptUpdate),
    C_DecryptVerifyUpdate: Some(C_DecryptVerifyUpdate),
    C_GenerateKey: Some(C_GenerateKey),
    C_GenerateKeyPair: Some(C_GenerateKeyPair),
    C_WrapKey: Some(C_WrapKey),
    C_UnwrapKey: Some(C_UnwrapKey),
    C_DeriveKey: Some(C_DeriveKey),
    C_SeedRandom: Some(C_SeedRandom),
    C_GenerateRandom: Some(C_GenerateRandom),
    C_GetFunctionStatus: Some(C_GetFunctionStatus),
    C_CancelFunction: Some(C_CancelFunction),
    C_WaitForSlotEvent: Some(C_WaitForSlotEvent),
};
