//! What the pool does when the token refuses a session, and when it may give one more.

use super::Pool;
use super::locked::All;
use crate::Millis;
use crate::effect::{Grant, Waiting};
use crate::stake::Opening;
use crate::stripe::Stripe;
use crate::sync::Ordering;

impl<S, W> Pool<S, W> {
    /// The token gives no further session: the ceiling falls to what is there, and the operation goes back to its place to wait for one of
    /// those. `Err`: nothing is there to wait for, or the pool drains.
    #[expect(clippy::type_complexity)]
    pub fn refused(&self, opening: Opening, waiter: Waiting<W>, now: Millis) -> Result<Vec<Grant<S, W>>, (Opening, Waiting<W>)> {
        let mut all = self.lock_all();
        let others = all.sum(Stripe::taken) - usize::from(!opening.is_hung());
        if others == 0 || self.draining.load(Ordering::Relaxed) {
            return Err((opening, waiter));
        }
        let Opening(stake) = opening;
        all.stripes[stake.stripe].leave(stake.stage);
        all.shared.ceiling.fall(others, now);
        self.capped.store(true, Ordering::Relaxed);
        self.restore(&mut all, waiter);
        Ok(self.match_waiters(&mut all))
    }

    /// Whether the token has refused sessions: a hint, without a lock.
    pub fn is_capped(&self) -> bool {
        self.capped.load(Ordering::Relaxed)
    }

    /// A session was opened. If it is one that the token would have refused before, another is tried at once.
    #[must_use]
    pub fn widen(&self, now: Millis) -> Vec<Grant<S, W>> {
        let mut all = self.lock_all();
        if all.shared.ceiling.tried && all.sum(|stripe| stripe.opening) == 0 {
            return self.raise(&mut all, now);
        }
        Vec::new()
    }

    /// Tries one more session if it is time, and something waits for it.
    pub(crate) fn raise_if_due(&self, all: &mut All<'_, S, W>, now: Millis) -> Vec<Grant<S, W>> {
        if all.shared.ceiling.limit.is_none() || now < all.shared.ceiling.raise_at {
            return Vec::new();
        }
        self.raise(all, now)
    }

    fn raise(&self, all: &mut All<'_, S, W>, now: Millis) -> Vec<Grant<S, W>> {
        if self.next_waiter(all).is_none() || all.sum(Stripe::taken) < all.ceiling() {
            return Vec::new();
        }
        let size = all.size();
        all.shared.ceiling.raise(size, now);
        self.capped.store(all.shared.ceiling.limit.is_some(), Ordering::Relaxed);
        self.match_waiters(all)
    }
}
