//! Sessions that are kept alive: a token that drops a session which is not used for a while is called on it before that. It is no use of the
//! session: it stays as idle as it was, and is closed at its TTL.

use super::Pool;
use crate::Millis;
use crate::effect::{Grant, Source, Ticket, Waiting};
use crate::sync::Ordering;

impl<S, W> Pool<S, W> {
    /// The idle session on which its token was not called for the longest time, if that was before `called_before` or then: it is to be kept
    /// alive, and comes back by `release` or `discard`. None while another one is (see [`end_keeping`](Self::end_keeping)), or while operations
    /// are held back (where others wait, nothing is idle), and none that is about to be closed.
    pub fn take_to_keep(&self, called_before: Millis, now: Millis, payload: impl FnOnce() -> W) -> Option<Grant<S, W>> {
        let mut all = self.lock_all();
        if all.shared.is_keeping || !self.is_open() {
            return None;
        }
        let open = all.sum(|stripe| stripe.idle.len() + stripe.running + stripe.leased);
        let stays = open <= self.floor.load(Ordering::Relaxed);
        let due = all.stripes.iter().enumerate().flat_map(|(stripe, its)| {
            let idle = its.idle.iter().enumerate();
            let due = idle.filter(|(_, idle)| idle.called <= called_before && (stays || !self.is_stale(idle, now)));
            due.map(move |(place, idle)| (idle.called, stripe, place))
        });
        let (_, stripe, place) = due.min()?;
        let idle = all.stripes[stripe].idle.remove(place)?;
        all.stripes[stripe].running += 1;
        all.shared.is_keeping = true;
        let since = idle.since;
        let mut held = idle.held(stripe);
        held.idle_since = Some(since);
        let ticket = Ticket { stripe, id: self.next_id.fetch_add(1, Ordering::Relaxed) };
        Some(Grant { source: Source::Session(held), waiter: Waiting { payload: payload(), ticket } })
    }

    /// The session that was to be kept alive has been, or not: another one may be. Whoever has one for long, for its call hangs, says so at the
    /// end of it.
    pub fn end_keeping(&self) {
        self.lock_all().shared.is_keeping = false;
    }
}
