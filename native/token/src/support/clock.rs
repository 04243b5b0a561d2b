//! The one clock of this crate. It begins at 0 when it is first read, and never goes back.

use once_cell::sync::Lazy;
use session_pool::Millis;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static START: Lazy<(Instant, Duration)> =
    Lazy::new(|| (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));

/// Now, in milliseconds.
pub fn now() -> Millis {
    START.0.elapsed().as_millis() as Millis
}

/// Now, in nanoseconds: for durations, and for the order of what happens within one millisecond.
pub fn nanos() -> u64 {
    START.0.elapsed().as_nanos() as u64
}

/// A time in nanoseconds, in milliseconds.
pub(crate) fn millis(nanos: u64) -> Millis {
    nanos / 1_000_000
}

/// The same clock's time of an instant.
pub(crate) fn at(instant: Instant) -> Millis {
    instant.saturating_duration_since(START.0).as_millis() as Millis
}

/// A time of this clock as milliseconds since 1970, by the system's clock as it was when this one began: it does not move when that is set.
pub fn unix(time: Millis) -> u64 {
    (START.1.as_millis() as u64).saturating_add(time)
}
