//! Whether a runner that has nothing to do stays awake for a moment: it does if its last calls came within one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long: what it takes to wake a runner, a few times over.
pub(crate) const MOMENT: Duration = Duration::from_micros(100);

/// The pace at which a runner has been called lately. Only its own thread writes it.
#[derive(Default)]
pub(crate) struct Pace {
    /// When it had nothing more to do, in nanoseconds; 0: it has not been called yet.
    idle_at: AtomicU64,
    /// The last time, it was called within a moment.
    is_quick: AtomicBool,
}

impl Pace {
    /// It has nothing more to do. Whether it is worth its while to wait for a moment.
    pub(crate) fn note_idle(&self, nanos: u64) -> bool {
        self.idle_at.store(nanos, Ordering::Relaxed);
        self.is_quick.load(Ordering::Relaxed)
    }

    /// It was woken for something.
    pub(crate) fn note_call(&self, nanos: u64) {
        let idle_at = self.idle_at.load(Ordering::Relaxed);
        let is_quick = idle_at > 0 && u128::from(nanos.saturating_sub(idle_at)) <= MOMENT.as_nanos();
        self.is_quick.store(is_quick, Ordering::Relaxed);
    }

    /// It has waited for a moment: whether something came.
    pub(crate) fn note_wait(&self, was_called: bool) {
        self.is_quick.store(was_called, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_is_quick_when_it_was_called_within_a_moment() {
        let pace = Pace::default();
        pace.note_call(1_000);
        assert!(!pace.note_idle(2_000), "it has never been idle");
        pace.note_call(102_000);
        assert!(pace.note_idle(200_000));
        pace.note_call(300_001);
        assert!(!pace.note_idle(400_000));
    }

    #[test]
    fn a_runner_that_has_waited_in_vain_is_not_quick() {
        let pace = Pace::default();
        pace.note_wait(true);
        assert!(pace.note_idle(1_000));
        pace.note_wait(false);
        assert!(!pace.note_idle(2_000));
    }
}
