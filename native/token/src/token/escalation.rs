//! What is tried when new sessions are dead from the start: one step more each time, and from the beginning again once a call has succeeded.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::backoff::Backoff;

/// How far it has gone for a token. At level 0, a session that dies is simply opened again.
#[derive(Default)]
pub(crate) struct Escalation(AtomicU32);

/// What is done to a token on whose new sessions nothing works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// `C_Logout`, and a login through the gate.
    LogOut,
    /// `C_Finalize` and `C_Initialize`.
    Reinitialize,
    /// The same once more, after a while in which it counts as away.
    Again(Duration),
}

impl Escalation {
    /// The next step. Whoever escalates is alone: the token's generation tells.
    pub(crate) fn escalate(&self) -> Level {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => Level::LogOut,
            1 => Level::Reinitialize,
            steps => Level::Again(Backoff::after(steps - 2).next()),
        }
    }

    /// A call has succeeded on a new session: the trouble is over.
    pub(crate) fn reset(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_step_by_step_and_begins_anew_after_a_success() {
        let escalation = Escalation::default();
        assert_eq!(escalation.escalate(), Level::LogOut);
        assert_eq!(escalation.escalate(), Level::Reinitialize);
        let waits: Vec<_> = (0..20).map(|_| escalation.escalate()).collect();
        let Level::Again(first) = waits[0] else { panic!("{waits:?}") };
        let Level::Again(last) = waits[19] else { panic!("{waits:?}") };
        assert!(last > first * 10);
        escalation.reset();
        assert_eq!(escalation.escalate(), Level::LogOut);
    }
}
