//! The interfaces of PKCS#11 3.0: that of 3.0 where the real module has one, and always that of 2.40.

use std::ptr;
use std::sync::OnceLock;

use cryptoki_sys::*;

use crate::messages::{
    C_DecryptMessage, C_EncryptMessage, C_MessageDecryptFinal, C_MessageDecryptInit, C_MessageEncryptFinal, C_MessageEncryptInit,
    C_SessionCancel,
};
use crate::state::CHAOS;
use crate::{C_GetInterface, forward};

/// The name of the interfaces that the standard defines.
const STANDARD: &[u8] = b"PKCS 11\0";

const V2_40: (u8, u8) = (2, 40);
const V3_0: (u8, u8) = (3, 0);

struct Interface(CK_INTERFACE);

// SAFETY: what its pointers point to is never written to, and stays.
unsafe impl Send for Interface {}
// SAFETY: as above.
unsafe impl Sync for Interface {}

/// The list of 3.0, with those of its functions that can be steered.
fn list_3_0() -> CK_FUNCTION_LIST_3_0 {
    let mut list = CK_FUNCTION_LIST_3_0::default();
    // SAFETY: a list of 3.0 begins as one of 2.40, by the standard, and is longer.
    unsafe { ptr::copy_nonoverlapping(&raw const forward::LIST, (&raw mut list).cast(), 1) };
    CK_FUNCTION_LIST_3_0 {
        version: CK_VERSION { major: V3_0.0, minor: V3_0.1 },
        C_GetInterface: Some(C_GetInterface),
        C_SessionCancel: Some(C_SessionCancel),
        C_MessageEncryptInit: Some(C_MessageEncryptInit),
        C_EncryptMessage: Some(C_EncryptMessage),
        C_MessageEncryptFinal: Some(C_MessageEncryptFinal),
        C_MessageDecryptInit: Some(C_MessageDecryptInit),
        C_DecryptMessage: Some(C_DecryptMessage),
        C_MessageDecryptFinal: Some(C_MessageDecryptFinal),
        ..list
    }
}

fn interface(list: CK_VOID_PTR) -> Interface {
    Interface(CK_INTERFACE { pInterfaceName: STANDARD.as_ptr().cast_mut(), pFunctionList: list, flags: 0 })
}

/// The interface of a version, or the newest one; `None`: there is none.
pub fn find(version: Option<CK_VERSION>) -> Option<*mut CK_INTERFACE> {
    static OLD: OnceLock<Interface> = OnceLock::new();
    static NEW: OnceLock<Interface> = OnceLock::new();
    let has_later = CHAOS.later().is_some();
    let found = match version.map(|version| (version.major, version.minor)) {
        None | Some(V3_0) if has_later => {
            // It is never freed: the application keeps it.
            NEW.get_or_init(|| interface(ptr::from_mut(Box::leak(Box::new(list_3_0()))).cast()))
        }
        None | Some(V2_40) => OLD.get_or_init(|| interface(ptr::from_ref(&forward::LIST).cast_mut().cast())),
        Some(_) => return None,
    };
    Some(ptr::from_ref(&found.0).cast_mut())
}

/// Whether an application asks for an interface of the standard.
///
/// # Safety
/// NULL, or a text with a NUL behind it.
pub unsafe fn is_standard(name: *const CK_UTF8CHAR) -> bool {
    // SAFETY: the caller's promise: what comes behind a NUL is not read.
    name.is_null() || STANDARD.iter().enumerate().all(|(index, byte)| unsafe { name.add(index).read() } == *byte)
}
