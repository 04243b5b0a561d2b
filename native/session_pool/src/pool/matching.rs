//! Whose turn it is, and on what: the matching of waiters with sessions and capacity, under all locks.

use super::Pool;
use super::locked::All;
use crate::effect::{CONTROL, EXCLUSIVE, Grant, Source, Ticket, Waiting};
use crate::sync::{Mutex, Ordering};

impl<S, W> Pool<S, W> {
    pub(crate) fn lock_all(&self) -> All<'_, S, W> {
        All { stripes: self.stripes.iter().map(Mutex::lock).collect(), shared: self.shared.lock() }
    }

    /// What an operation that has just arrived may run on. Who comes free while something waits is already on its way to the longest
    /// waiter: nobody overtakes it here.
    pub(super) fn source_if_none_waits(&self, all: &mut All<'_, S, W>, home: usize) -> Option<Source<S>> {
        let free = self.is_open() && self.waiting.load(Ordering::Relaxed) == 0;
        free.then(|| all.source(home)).flatten()
    }

    /// The next waiter and what it runs on, if there are both.
    pub(crate) fn match_one(&self) -> Option<Grant<S, W>> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            // Nothing has waited since the lock was released, or not for long: whoever queues behind nobody has looked for itself, under
            // all locks.
            return None;
        }
        self.match_next(&mut self.lock_all())
    }

    pub(crate) fn match_waiters(&self, all: &mut All<'_, S, W>) -> Vec<Grant<S, W>> {
        std::iter::from_fn(|| self.match_next(all)).collect()
    }

    pub(crate) fn match_next(&self, all: &mut All<'_, S, W>) -> Option<Grant<S, W>> {
        let stripe = self.next_waiter(all)?;
        let source = all.source(if stripe < EXCLUSIVE { stripe } else { 0 })?;
        let (id, payload) = match stripe {
            CONTROL => {
                self.control_waiting.fetch_sub(1, Ordering::Relaxed);
                all.shared.control.take()?
            }
            EXCLUSIVE => {
                let taken = all.shared.exclusive.take()?;
                all.shared.exclusive_turn = Some(taken.0);
                taken
            }
            stripe => all.stripes[stripe].waiters.take()?,
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(Grant { source, waiter: Waiting { payload, ticket: Ticket { stripe, id } } })
    }

    /// The stripe of the longest waiter that may go, control operations first, then exclusive ones.
    pub(crate) fn next_waiter(&self, all: &mut All<'_, S, W>) -> Option<usize> {
        if self.draining.load(Ordering::Relaxed) {
            return None;
        }
        if all.shared.control.first().is_some() {
            return Some(CONTROL);
        }
        if all.shared.exclusive.first().is_some() {
            return all.may_begin_exclusive().then_some(EXCLUSIVE);
        }
        if !self.is_open() {
            return None;
        }
        let firsts = all.stripes.iter_mut().enumerate();
        firsts.filter_map(|(index, stripe)| Some((stripe.waiters.first()?, index))).min().map(|(_, index)| index)
    }
}
