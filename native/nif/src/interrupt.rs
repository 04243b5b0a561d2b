//! SIGINT, counted. The VM answers it with its BREAK menu, and OTP has no way to ask for anything else in a running VM; a Mix task that has to
//! clean up on Ctrl-C asks for it here, and gives it back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// What the signal did before, while it is ours.
static BEFORE: Mutex<Option<libc::sigaction>> = Mutex::new(None);

extern "C" fn count(_signal: libc::c_int) {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// From now on the signal is counted. `false`: the system refuses.
pub(crate) fn trap() -> bool {
    let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    if before.is_some() {
        return true;
    }
    // SAFETY: a sigaction of zeros is valid: the default action, no flags, an empty mask.
    let (mut ours, mut theirs): (libc::sigaction, libc::sigaction) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let handler: extern "C" fn(libc::c_int) = count;
    ours.sa_sigaction = handler as libc::sighandler_t;
    ours.sa_flags = libc::SA_RESTART;
    // SAFETY: both point to a sigaction of this function's, and the handler only adds to an atomic, which may be done in any signal handler.
    let trapped = unsafe { libc::sigaction(libc::SIGINT, &ours, &mut theirs) } == 0;
    if trapped {
        *before = Some(theirs);
    }
    trapped
}

/// The signal does what it did before.
pub(crate) fn release() {
    if let Some(theirs) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // SAFETY: the action is what `sigaction` gave; nothing is written.
        unsafe { libc::sigaction(libc::SIGINT, &theirs, std::ptr::null_mut()) };
    }
}

/// How many came while they were counted.
pub(crate) fn counted() -> usize {
    COUNT.load(Ordering::Relaxed)
}
