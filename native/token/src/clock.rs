//! The one clock: time since the first look at it.

use once_cell::sync::Lazy;
use session_pool::Millis;
use std::time::Instant;

static START: Lazy<Instant> = Lazy::new(Instant::now);

/// Now, in milliseconds.
pub fn now() -> Millis {
    START.elapsed().as_millis() as Millis
}

/// Now, in nanoseconds: for durations, and for what happens within one millisecond.
pub fn nanos() -> u64 {
    START.elapsed().as_nanos() as u64
}
