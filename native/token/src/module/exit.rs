//! The guard at the process's end: a module's exit handlers must not run while a thread is inside the module.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::module;

/// How long the end of the VM waits for calls in flight that are not known to hang: a look for a token may.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// A module's share in it. Handlers run in reverse order: ours must be registered behind those of the module, which are at the latest there
/// after its `C_Initialize`. The system has no way to take one back and keeps each, so that a module that is initialized again and again, or fails
/// to be, registers none again.
#[derive(Default)]
pub(crate) struct Guard {
    refused: AtomicBool,
    initialized: AtomicBool,
}

impl Guard {
    /// Call it after each `C_Initialize`: it registers the handler behind the first one that succeeds. Until then a failed one has it registered,
    /// once, for the sake of another that hangs. Where none can be registered, the VM's end is as it would be without.
    pub(crate) fn after_initialize(&self, succeeded: bool) {
        self.register(succeeded, || {
            let _registered = register();
        });
    }

    fn register(&self, succeeded: bool, register: impl FnOnce()) {
        let registered = if succeeded { &self.initialized } else { &self.refused };
        let is_needed = succeeded || !self.initialized.load(Ordering::SeqCst);
        if is_needed && !registered.swap(true, Ordering::SeqCst) {
            register();
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the handler is registered for a module with these results of `C_Initialize`.
    fn registered(results: &[bool]) -> usize {
        let (guard, mut count) = (Guard::default(), 0);
        for succeeded in results {
            guard.register(*succeeded, || count += 1);
        }
        count
    }

    #[test]
    fn a_module_that_is_initialized_again_and_again_registers_the_handler_once() {
        assert_eq!(registered(&[true; 1_000]), 1);
        assert_eq!(registered(&[true, false, true, false]), 1);
    }

    #[test]
    fn one_that_cannot_be_initialized_registers_it_once_and_behind_its_first_success_again() {
        assert_eq!(registered(&[false; 1_000]), 1);
        assert_eq!(registered(&[false, false, true, true, false]), 2);
    }
}
