//! The guard at the process's end: a module's exit handlers must not run while a thread is inside the module.

use std::time::Duration;

use crate::module;

/// How long the end of the VM waits for calls in flight that are not known to hang: a look for a token may.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// Registers the handler. Call it after each module's `C_Initialize`: handlers run in reverse order, ours before those of this module.
/// Where none can be registered, the VM's end is as it would be without.
pub(crate) fn guard() {
    let _registered = register();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn register() -> bool {
    unsafe extern "C" {
        fn on_exit(function: extern "C" fn(libc::c_int, *mut libc::c_void), argument: *mut libc::c_void) -> libc::c_int;
    }
    extern "C" fn handler(status: libc::c_int, _argument: *mut libc::c_void) {
        if !module::halt(TIMEOUT) {
            // A call hangs: the module's destructors would pull the ground from under it. Leave without them, and without a flush of C's
            // streams: the one that the call is writing to is locked. The VM itself writes without them.
            // SAFETY: ends the process; nothing runs after it.
            unsafe { libc::_exit(status) };
        }
    }
    // SAFETY: the handler is a function of this library, which is never unloaded, and it does not unwind.
    unsafe { on_exit(handler, std::ptr::null_mut()) == 0 }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn register() -> bool {
    extern "C" fn handler() {
        module::halt(TIMEOUT);
    }
    // SAFETY: the handler is a function of this library, which is never unloaded, and it does not unwind.
    unsafe { libc::atexit(handler) == 0 }
}
