//! Calls that hang: their sessions count no longer, so that others may be opened in their stead.

use crate::effect::Grant;
use crate::pool::Pool;
use crate::stake::{Stage, Stake};
use crate::stripe::{Stripe, decrement};
use crate::sync::Ordering;

/// What became of a stake whose call hangs.
#[derive(Debug)]
#[must_use]
pub enum Quarantined<S, W> {
    /// It holds no capacity any more; this is who gets it.
    Freed(Option<Grant<S, W>>),
    /// As many are hung as there may be sessions, or this one is already: nothing has changed.
    Kept,
}

impl<S, W> Pool<S, W> {
    /// The call that a session is used in hangs: another session may take its place. At most as many are hung as the pool has sessions,
    /// so that a module that hangs for ever costs no more than twice the size. Whoever has the session finds out when the call returns, and
    /// cannot but close it.
    pub fn quarantine(&self, stake: &mut Stake) -> Quarantined<S, W> {
        let mut all = self.lock_all();
        if stake.is_hung() || all.sum(|stripe| stripe.hung) >= all.size() {
            return Quarantined::Kept;
        }
        let stripe = &mut all.stripes[stake.stripe];
        stripe.leave(stake.stage);
        stripe.hung += 1;
        stake.stage = Stage::Hung;
        self.shrinking.store(all.has_leftover(), Ordering::Relaxed);
        Quarantined::Freed(self.match_next(&mut all))
    }

    /// A stake whose session is gone by another road (its holder panicked): its capacity goes to the next waiter.
    pub fn forfeit(&self, stake: Stake) -> Option<Grant<S, W>> {
        self.stripes[stake.stripe].lock().leave(stake.stage);
        if stake.is_hung() { None } else { self.match_one() }
    }
}

impl<S, W> Stripe<S, W> {
    /// One that counted at this stage does so no longer.
    pub(crate) fn leave(&mut self, stage: Stage) {
        decrement(match stage {
            Stage::Opening => &mut self.opening,
            Stage::Running => &mut self.running,
            Stage::Leased => &mut self.leased,
            Stage::Closing => &mut self.closing,
            Stage::Hung => &mut self.hung,
        });
    }
}
