//! Whose turn it is, and on what: the matching of waiters with sessions and capacity, under all locks.

use super::{Pool, Shared};
use crate::effect::{CONTROL, EXCLUSIVE, Grant, Source, Ticket, ToClose, Waiting};
use crate::stripe::Stripe;
use crate::sync::{Mutex, MutexGuard, Ordering};

/// All stripes, locked in their order, what they share last.
pub(crate) struct All<'a, S, W> {
    pub(crate) stripes: Vec<MutexGuard<'a, Stripe<S, W>>>,
    pub(crate) shared: MutexGuard<'a, Shared<W>>,
}

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

impl<S, W> All<'_, S, W> {
    /// An idle session anywhere, else capacity anywhere; those of `home` first.
    pub(super) fn source(&mut self, home: usize) -> Option<Source<S>> {
        let count = self.stripes.len();
        let order = |offset| (home + offset) % count;
        let idle = (0..count).map(order).find(|index| !self.stripes[*index].idle.is_empty());
        let capacity = || {
            // A stripe's own capacity is not enough: another may still hold what a shrink took from it.
            let may_open = self.sum(Stripe::taken) < self.ceiling();
            may_open.then(|| (0..count).map(order).find(|index| self.stripes[*index].has_capacity())).flatten()
        };
        let found = idle.or_else(capacity)?;
        self.stripes[found].source(found, true)
    }

    /// The most sessions.
    pub(crate) fn size(&self) -> usize {
        self.sum(|stripe| stripe.quota)
    }

    /// The most that the token gives of them.
    pub(crate) fn ceiling(&self) -> usize {
        self.shared.ceiling.of(self.size())
    }

    pub(crate) fn sum(&self, count: impl Fn(&Stripe<S, W>) -> usize) -> usize {
        self.stripes.iter().map(|stripe| count(stripe)).sum()
    }

    /// Whether some stripe holds more sessions than its quota.
    pub(crate) fn has_leftover(&self) -> bool {
        self.stripes.iter().any(|stripe| stripe.taken() > stripe.quota)
    }

    pub(super) fn take_waiting(&mut self) -> Vec<W> {
        let mut waiting: Vec<W> = self.shared.control.take_all().collect();
        waiting.extend(self.shared.exclusive.take_all());
        for stripe in &mut self.stripes {
            waiting.extend(stripe.waiters.take_all());
        }
        waiting
    }

    pub(super) fn take_idle(&mut self) -> ToClose<S> {
        let mut closing = Vec::new();
        for (index, stripe) in self.stripes.iter_mut().enumerate() {
            stripe.close_idle(usize::MAX, index, &mut closing);
        }
        closing
    }
}
