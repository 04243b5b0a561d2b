//! The guard at the process's end: a module's exit handlers must not run while a thread is inside the module.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the end of the VM waits for calls in flight that are not known to hang. One of them may all the same, as in the search for a token.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps everybody out of every module, and waits until those inside have left; `false`: not within the time, or they hang.
type Halt = fn(Duration) -> bool;

/// What the handler calls.
static HALT: OnceLock<Halt> = OnceLock::new();

/// A module's share in it. Handlers run in reverse order: ours must be registered behind those of the module, which are at the latest there
/// after its `C_Initialize`. The system has no way to take one back and keeps each, so that a module that is initialized again and again, or fails
/// to be, registers none again.
pub(super) struct Guard {
    halt: Halt,
    /// A handler was registered behind a `C_Initialize` that failed.
    is_behind_failure: AtomicBool,
    /// A handler was registered behind a `C_Initialize` that succeeded.
    is_behind_success: AtomicBool,
}

impl Guard {
    /// `halt` is called at the process's end; all guards have the same.
    pub(super) fn new(halt: Halt) -> Self {
        Self { halt, is_behind_failure: AtomicBool::new(false), is_behind_success: AtomicBool::new(false) }
    }

    /// Call it after each `C_Initialize`: it registers the handler behind the first one that succeeds. Until then a failed one has it registered,
    /// once, for the sake of another that hangs. Where none can be registered, the VM's end is as it would be without.
    pub(super) fn after_initialize(&self, succeeded: bool) {
        self.register(succeeded, |halt| {
            let _registered = register(halt);
        });
    }

    fn register(&self, succeeded: bool, register: impl FnOnce(Halt)) {
        let registered = if succeeded { &self.is_behind_success } else { &self.is_behind_failure };
        let is_needed = succeeded || !self.is_behind_success.load(Ordering::SeqCst);
        if is_needed && !registered.swap(true, Ordering::SeqCst) {
            register(self.halt);
        }
    }
}

/// What the handler does; `false`: somebody is still inside of a module.
fn halt() -> bool {
    HALT.get().is_none_or(|halt| halt(TIMEOUT))
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn register(called: Halt) -> bool {
    unsafe extern "C" {
        fn on_exit(function: extern "C" fn(libc::c_int, *mut libc::c_void), argument: *mut libc::c_void) -> libc::c_int;
    }
    extern "C" fn handler(status: libc::c_int, _argument: *mut libc::c_void) {
        if !halt() {
            // A call hangs: the module's destructors would pull the ground from under it. Leave without them, and without a flush of C's
            // streams: the one that the call is writing to is locked. The VM itself writes without them.
            // SAFETY: ends the process; nothing runs after it.
            unsafe { libc::_exit(status) };
        }
    }
    HALT.get_or_init(|| called);
    // SAFETY: the handler is a function of this library, which is never unloaded, and it does not unwind.
    unsafe { on_exit(handler, std::ptr::null_mut()) == 0 }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn register(called: Halt) -> bool {
    extern "C" fn handler() {
        halt();
    }
    HALT.get_or_init(|| called);
    // SAFETY: the handler is a function of this library, which is never unloaded, and it does not unwind.
    unsafe { libc::atexit(handler) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the handler is registered for a module with these results of `C_Initialize`.
    fn registered(results: &[bool]) -> usize {
        let (guard, mut count) = (Guard::new(|_| true), 0);
        for succeeded in results {
            guard.register(*succeeded, |_| count += 1);
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
