//! A PKCS#11 module for tests. It wraps a real one, hands every call on, and on command makes it slow, faulty, hung,
//! full, removed, logged out or dead. It also counts: calls, threads inside, and misuse on which a real module would
//! crash.
//!
//! It is steered over a Unix socket, one text command a line ([`command`]); from Elixir by `Pkcs11Pool.Testing.Chaos`.
//! What it wraps and where it listens, it finds in a file beside itself or in its environment ([`config`]). Each copy
//! of the library, loaded by its own path, is a module of its own.
//!
//! A call passes these stages ([`call`]): counted; refused if the module is not initialized; its session claimed (two
//! threads on one are a violation); then the rules of its function, i.e. crash, hang, latency, a return code *instead
//! of* the real call; then the real call; then a return code *after* it. Without rules that costs a few atomic
//! operations and one uncontended lock. No lock is held while a call sleeps, hangs, or is in the real module, except
//! around `C_Initialize`, `C_Finalize` and the PIN functions.

// The functions have PKCS#11's names.
#![allow(non_snake_case)]

mod call;
mod careless;
mod claims;
mod command;
mod complaint;
mod config;
mod control;
mod forward;
mod function;
mod interfaces;
mod iv;
mod later;
mod lifecycle;
mod login;
mod messages;
mod objects;
mod pins;
mod point;
mod real;
mod rule;
mod sessions;
mod slot_calls;
mod slots;
mod state;
#[cfg(test)]
mod tests;
mod trouble;
mod unique_ids;

use std::ptr;

use cryptoki_sys::{
    CK_FLAGS, CK_FUNCTION_LIST, CK_INTERFACE, CK_RV, CK_ULONG, CK_UTF8CHAR, CK_VERSION, CKR_ARGUMENTS_BAD, CKR_OK,
};

/// The one symbol that a PKCS#11 module must have. The control starts here, at the latest at `C_Initialize`.
///
/// # Safety
/// `list` is NULL or room for one pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    call::guarded(|| {
        config::apply();
        // SAFETY: not NULL, and room for one pointer is the caller's promise. Nobody may write to the list.
        unsafe { *list = ptr::from_ref(&forward::LIST).cast_mut() };
        Ok(CKR_OK)
    })
}

/// The first of the symbols that a module of PKCS#11 3.0 has beside it.
///
/// # Safety
/// `name` is NULL or ends with a NUL, `version` is NULL or valid, `interface` NULL or room for one pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    call::guarded(|| {
        config::apply();
        // SAFETY: the caller's promise.
        unsafe { interfaces::get(name, version, interface, flags) }
    })
}

/// The second one.
///
/// # Safety
/// `count` is NULL or valid, and `list` NULL or room for as many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterfaceList(list: *mut CK_INTERFACE, count: *mut CK_ULONG) -> CK_RV {
    call::guarded(|| {
        config::apply();
        // SAFETY: the caller's promise.
        unsafe { interfaces::list(list, count) }
    })
}
