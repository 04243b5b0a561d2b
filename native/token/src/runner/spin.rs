//! Whether a runner that has nothing to do stays near for a moment, since there will probably be something at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use session_pool::{Entered, RunnerId};

use crate::operation::host::{Host, Outlet};
use crate::pool::in_flight::Cell;
use crate::pool::{Grant, TokenPool};
use crate::support::clock::nanos;

/// How long: what it takes to wake a runner, a few times over.
const MOMENT: Duration = Duration::from_micros(100);

/// The pace at which a runner has been called lately. Only its own thread writes it.
#[derive(Default)]
pub(crate) struct Pace {
    /// When it had nothing more to do, in nanoseconds; 0: it has not been called yet.
    rested_at: AtomicU64,
    /// The last time, it was called within a moment.
    is_quick: AtomicBool,
}

impl Pace {
    fn rests(&self, nanos: u64) {
        self.rested_at.store(nanos, Ordering::Relaxed);
    }

    /// It was woken for something.
    pub(crate) fn called(&self, nanos: u64) {
        let rested_at = self.rested_at.load(Ordering::Relaxed);
        let is_quick = rested_at > 0 && u128::from(nanos.saturating_sub(rested_at)) <= MOMENT.as_nanos();
        self.is_quick.store(is_quick, Ordering::Relaxed);
    }
}

impl<H: Host> TokenPool<H> {
    /// A runner has nothing more to do.
    pub(crate) fn rest(&self, id: RunnerId, cell: &Cell<H>, outlet: &mut impl Outlet<H>) -> Entered<Grant<H>> {
        if !outlet.may_wait() {
            return self.roster.park(id);
        }
        cell.pace.rests(nanos());
        if !cell.pace.is_quick.load(Ordering::Relaxed) || self.is_draining() {
            return self.roster.park(id);
        }
        match self.roster.linger(id) {
            Entered::Parked => outlet.wait(MOMENT),
            found => return found,
        }
        let entered = self.roster.park(id);
        cell.pace.is_quick.store(matches!(entered, Entered::Run(_)), Ordering::Relaxed);
        entered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_is_quick_when_it_was_called_within_a_moment() {
        let pace = Pace::default();
        let is_quick = || pace.is_quick.load(Ordering::Relaxed);
        pace.called(1_000);
        assert!(!is_quick(), "it has never rested");
        pace.rests(2_000);
        pace.called(102_000);
        assert!(is_quick());
        pace.rests(200_000);
        pace.called(300_001);
        assert!(!is_quick());
    }
}
