//! What the hazards run on: a copy of the fake module for each test ([`module`]), a host over channels ([`host`]), and pools with runners on threads
//! of their own ([`pool`]). Nothing is shared between tests.

pub mod host;
pub mod module;
pub mod pool;

use std::time::{Duration, Instant};

/// How long is waited for what is sure to come: for as long as the slowest machine may take.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until something is so.
pub fn poll(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
