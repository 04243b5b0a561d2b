//! The pool's state behind its locks, all of them held.

use crate::ceiling::Ceiling;
use crate::effect::{Source, ToClose};
use crate::stripe::Stripe;
use crate::sync::MutexGuard;
use crate::waiters::Waiters;

/// All stripes, locked in their order, what they share last.
pub(crate) struct All<'a, S, W> {
    pub(crate) stripes: Vec<MutexGuard<'a, Stripe<S, W>>>,
    pub(crate) shared: MutexGuard<'a, Shared<W>>,
}

/// What belongs to no stripe.
pub(crate) struct Shared<W> {
    pub(super) control: Waiters<W>,
    pub(super) exclusive: Waiters<W>,
    /// The id of the exclusive operation that has its turn.
    pub(super) exclusive_turn: Option<u64>,
    pub(crate) ceiling: Ceiling,
    /// A session is being kept alive.
    pub(super) is_keeping: bool,
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
