//! SIGINT, SIGTERM and SIGHUP, counted. The VM answers the first with its BREAK menu, for which OTP has no other answer in a running VM, and the
//! others by an end at once; a Mix task that has to clean up asks for them here, and gives them back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// What the signals did before, while they are ours.
static BEFORE: Mutex<Vec<(libc::c_int, libc::sigaction)>> = Mutex::new(Vec::new());

extern "C" fn count(_signal: libc::c_int) {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// From now on the signals are counted; one that the system refuses to hand over does what it did.
pub(crate) fn trap() {
    let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    if !before.is_empty() {
        return;
    }
    for signal in SIGNALS {
        // SAFETY: a sigaction of zeros is valid: the default action, no flags, an empty mask.
        let (mut ours, mut theirs): (libc::sigaction, libc::sigaction) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let handler: extern "C" fn(libc::c_int) = count;
        ours.sa_sigaction = handler as libc::sighandler_t;
        ours.sa_flags = libc::SA_RESTART;
        // SAFETY: both point to a sigaction of this function's, and the handler only adds to an atomic, which may be done in any signal handler.
        if unsafe { libc::sigaction(signal, &ours, &mut theirs) } == 0 {
            before.push((signal, theirs));
        }
    }
}

/// The signals do what they did before.
pub(crate) fn release() {
    for (signal, theirs) in BEFORE.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // SAFETY: the action is what `sigaction` gave; nothing is written.
        unsafe { libc::sigaction(signal, &theirs, std::ptr::null_mut()) };
    }
}

/// How many came while they were counted.
pub(crate) fn counted() -> usize {
    COUNT.load(Ordering::Relaxed)
}
