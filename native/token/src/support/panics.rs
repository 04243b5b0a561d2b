//! Panics of ours on threads that must go on. Each is a fault of this library: Rust says on the standard error where it was, and it is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// What `run` gives; `None`: it has panicked, and nobody but the count knows.
pub fn survive<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => Some(value),
        Err(panic) => {
            COUNT.fetch_add(1, Ordering::Relaxed);
            // What was panicked with may panic when it is dropped.
            std::mem::forget(panic);
            None
        }
    }
}

/// How many there were in this VM.
pub fn panics() -> u64 {
    COUNT.load(Ordering::Relaxed)
}
