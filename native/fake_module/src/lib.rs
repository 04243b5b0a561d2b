//! A PKCS#11 module for the Rust tests of `token`. It wraps nothing: it is a small model of slots, tokens, sessions, logins and secret keys, which
//! does what the standard says, and whatever a test tells it to do instead ([`FakeModule`]).
//!
//! Each copy of the library's file that is loaded by a path of its own is a module of its own. A test loads one, asks it for its [`FakeModule`] by
//! the symbol `fake_module`, and calls that one's methods: no socket, no file, no environment. It is built for tests only.

// The functions have PKCS#11's names.
#![allow(non_snake_case)]

mod calls;
mod control;
mod model;

pub use control::{Call, FakeModule};
pub use model::{KEY_LABEL, PIN, Token, ciphertext_for, signature, tag};

use cryptoki_sys::{
    CK_FLAGS, CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_INTERFACE_PTR_PTR, CK_RV, CK_UTF8CHAR_PTR, CK_VERSION_PTR,
    CKR_ARGUMENTS_BAD, CKR_OK,
};

static FAKE: FakeModule = FakeModule::new();

/// What this copy of the library is steered by.
#[unsafe(no_mangle)]
pub extern "C" fn fake_module() -> &'static FakeModule {
    &FAKE
}

/// The one symbol that a PKCS#11 module must have.
///
/// # Safety
/// `list` is NULL or room for one pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not NULL, and room for one pointer is the caller's promise. Nobody may write to the list.
    unsafe { *list = std::ptr::from_ref::<CK_FUNCTION_LIST>(&calls::LIST).cast_mut() };
    CKR_OK
}

/// The interfaces that a test has made it offer ([`FakeModule::offer_interfaces`]).
///
/// # Safety
/// `version` is NULL or valid, `interface` NULL or room for one pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterface(
    _name: CK_UTF8CHAR_PTR,
    version: CK_VERSION_PTR,
    interface: CK_INTERFACE_PTR_PTR,
    _flags: CK_FLAGS,
) -> CK_RV {
    // SAFETY: as the caller promises.
    unsafe { calls::get_interface(version, interface) }
}
