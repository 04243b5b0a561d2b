//! An operation that wants the pool for itself, as a logout of everybody does. While one waits, or has its turn, nothing else is granted but
//! control operations. Its turn comes when all that ran has ended: no session is running, being opened or being closed. Sessions that callers
//! have for themselves are not waited for.

use super::Pool;
use super::locked::{All, Shared};
use crate::effect::{EXCLUSIVE, Grant, Refusal, Submitted, Ticket};
use crate::sync::Ordering;

impl<S, W> Pool<S, W> {
    /// An exclusive operation arrives. It goes before all others but control operations, passes the gate, and is never refused for want of room.
    /// A draining pool gives it back. When it has ended, say [`end_exclusive`](Self::end_exclusive).
    pub fn submit_exclusive(&self, payload: W) -> Submitted<S, W> {
        let mut all = self.lock_all();
        if self.draining.load(Ordering::Relaxed) {
            return Submitted::Refused(payload, Refusal::Draining);
        }
        let ticket = Ticket { stripe: EXCLUSIVE, id: self.next_id.fetch_add(1, Ordering::Relaxed) };
        all.shared.exclusive.push(ticket.id, payload);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.note_reserved(&all);
        match self.match_next(&mut all) {
            Some(grant) => Submitted::Granted(grant),
            None => Submitted::Queued(ticket),
        }
    }

    /// The turn of this exclusive operation is over, if it is the one that has it: what it has held back goes on.
    #[must_use]
    pub fn end_exclusive(&self, ticket: Ticket) -> Vec<Grant<S, W>> {
        let mut all = self.lock_all();
        if !all.shared.end_turn(ticket.id) {
            return Vec::new();
        }
        self.note_reserved(&all);
        self.match_waiters(&mut all)
    }

    /// Under all locks.
    pub(super) fn note_reserved(&self, all: &All<'_, S, W>) {
        let reserved = all.shared.exclusive_turn.is_some() || all.shared.exclusive.len() > 0;
        self.reserved.store(reserved, Ordering::Relaxed);
    }
}

impl<S, W> All<'_, S, W> {
    /// Whether an exclusive operation may have its turn.
    pub(super) fn may_begin_exclusive(&self) -> bool {
        self.shared.exclusive_turn.is_none() && self.sum(|stripe| stripe.running + stripe.opening + stripe.closing) == 0
    }
}

impl<W> Shared<W> {
    /// `false`: it is not this one's turn.
    pub(super) fn end_turn(&mut self, id: u64) -> bool {
        let is_its = self.exclusive_turn == Some(id);
        if is_its {
            self.exclusive_turn = None;
        }
        is_its
    }
}
