//! The ceiling: how many sessions the token gives, where those are fewer than the pool may have. It falls when the token refuses one, and
//! is tried upwards again later.

use crate::Millis;
use crate::effect::{Grant, Waiting};
use crate::pool::{All, Pool};
use crate::stake::Opening;
use crate::stripe::Stripe;
use crate::sync::Ordering;

/// How soon after a refusal one more session is tried: at first, and at the longest.
const BACKOFF: (Millis, Millis) = (1_000, 60_000);

/// The most sessions that the token gives, as far as it has said so.
#[derive(Debug, Default)]
pub(crate) struct Ceiling {
    /// `None`: it has refused none.
    limit: Option<usize>,
    /// When it is to be tried.
    raise_at: Millis,
    backoff: Millis,
    /// It was raised since the last refusal.
    tried: bool,
}

impl Ceiling {
    pub(crate) fn of(&self, size: usize) -> usize {
        self.limit.map_or(size, |limit| limit.min(size))
    }

    pub(crate) fn lift(&mut self) {
        *self = Self::default();
    }

    fn fall(&mut self, open: usize, now: Millis) {
        self.backoff = match self.limit {
            None => BACKOFF.0,
            // Many are refused at once; only what was tried since counts anew.
            Some(_) if self.tried => (self.backoff * 2).min(BACKOFF.1),
            Some(_) => self.backoff,
        };
        self.limit = Some(self.limit.map_or(open, |limit| limit.min(open)));
        self.tried = false;
        self.raise_at = now.saturating_add(self.backoff);
    }

    fn raise(&mut self, size: usize, now: Millis) {
        match self.limit {
            Some(limit) if limit + 1 < size => {
                self.limit = Some(limit + 1);
                self.tried = true;
                self.raise_at = now.saturating_add(self.backoff);
            }
            _ => self.lift(),
        }
    }
}

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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_with_each_refusal_of_what_was_tried_up_to_a_minute() {
        let mut ceiling = Ceiling::default();
        // A burst is one refusal.
        for open in (2..8).rev() {
            ceiling.fall(open, 0);
        }
        assert_eq!((ceiling.of(8), ceiling.raise_at), (2, 1_000));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            ceiling.raise(8, 0);
            assert_eq!(ceiling.of(8), 3);
            ceiling.fall(2, 0);
            pauses.push(ceiling.raise_at);
        }
        assert_eq!(pauses, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn a_ceiling_that_reaches_the_size_is_none() {
        let mut ceiling = Ceiling::default();
        ceiling.fall(2, 0);
        ceiling.raise(3, 5);
        assert_eq!(ceiling.of(3), 3);
        ceiling.fall(2, 10);
        assert_eq!(ceiling.raise_at, 1_010, "it begins anew");
    }
}
