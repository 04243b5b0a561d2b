//! The ladder that is climbed when new sessions are dead from the start: one rung at a time, and down again when a call succeeds.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::backoff::Backoff;

/// How far up a token is. At the bottom, a session that dies is simply opened again.
#[derive(Default)]
pub(crate) struct Ladder(AtomicU32);

/// What is done to a token on whose new sessions nothing works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// `C_Logout`, and a login through the gate.
    LogOut,
    /// `C_Finalize` and `C_Initialize`.
    Reinitialize,
    /// The same once more, after a while in which it counts as away.
    Again(Duration),
}

impl Ladder {
    /// One rung up. Whoever climbs is alone: the token's generation tells.
    pub(crate) fn climb(&self) -> Rung {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => Rung::LogOut,
            1 => Rung::Reinitialize,
            falls => Rung::Again(Backoff::after(falls - 2).next()),
        }
    }

    /// A call has succeeded on a new session: the trouble is over.
    pub(crate) fn settle(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_climbed_rung_by_rung_and_left_by_a_success() {
        let ladder = Ladder::default();
        assert_eq!(ladder.climb(), Rung::LogOut);
        assert_eq!(ladder.climb(), Rung::Reinitialize);
        let waits: Vec<_> = (0..20).map(|_| ladder.climb()).collect();
        let Rung::Again(first) = waits[0] else { panic!("{waits:?}") };
        let Rung::Again(last) = waits[19] else { panic!("{waits:?}") };
        assert!(last > first * 10);
        ladder.settle();
        assert_eq!(ladder.climb(), Rung::LogOut);
    }
}
