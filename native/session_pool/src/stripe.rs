//! One stripe: idle sessions, capacity, and a FIFO of waiters. No lock: `pool.rs` holds those.

use std::collections::VecDeque;

use crate::Millis;
use crate::effect::{Source, ToClose};
use crate::stake::{Closing, Held, Opening, Stage, Stake};
use crate::waiters::Waiters;

/// A session that lies idle.
pub(crate) struct Idle<S> {
    pub(crate) session: S,
    /// When it was last used.
    pub(crate) since: Millis,
    /// When its token was last called on it: since then it was used, or kept alive.
    pub(crate) called: Millis,
    pub(crate) expires: Option<Millis>,
}

impl<S> Idle<S> {
    /// It runs again, in this stripe.
    pub(crate) fn held(self, stripe: usize) -> Held<S> {
        let stake = Stake { stripe, stage: Stage::Running };
        Held { session: self.session, stake, expires: self.expires, idle_since: None }
    }
}

/// A stripe's state. `idle + running + leased + opening + closing` never exceeds `quota`, but for what is left over after the quota shrank.
pub(crate) struct Stripe<S, W> {
    pub(crate) quota: usize,
    /// The least recently used in front: the most recently used goes out first, so that a surplus reaches its TTL.
    pub(crate) idle: VecDeque<Idle<S>>,
    pub(crate) running: usize,
    pub(crate) leased: usize,
    pub(crate) opening: usize,
    pub(crate) closing: usize,
    /// Sessions in calls that hang: they count against nothing here.
    pub(crate) hung: usize,
    pub(crate) waiters: Waiters<W>,
    /// How many of its own waiters it has served in a row.
    pub(crate) streak: usize,
}

impl<S, W> Stripe<S, W> {
    pub(crate) fn new(quota: usize) -> Self {
        Self {
            quota,
            idle: VecDeque::new(),
            running: 0,
            leased: 0,
            opening: 0,
            closing: 0,
            hung: 0,
            waiters: Waiters::default(),
            streak: 0,
        }
    }

    /// Sessions that are open, opening or closing.
    pub(crate) fn taken(&self) -> usize {
        self.idle.len() + self.running + self.leased + self.opening + self.closing
    }

    /// Whether another session may be opened.
    pub(crate) fn has_capacity(&self) -> bool {
        self.taken() < self.quota
    }

    /// The most recently used idle session, now running.
    pub(crate) fn take_idle(&mut self) -> Option<Idle<S>> {
        let idle = self.idle.pop_back()?;
        self.running += 1;
        Some(idle)
    }

    /// One that comes back, to its place: if it was only kept alive, that is not the last one.
    pub(crate) fn put_idle(&mut self, idle: Idle<S>) {
        let is_before = |other: &Idle<S>| other.since <= idle.since;
        let place = self.idle.iter().rposition(is_before).map_or(0, |last| last + 1);
        self.idle.insert(place, idle);
    }

    /// Room for one more session, now opening.
    pub(crate) fn take_capacity(&mut self) -> bool {
        let has = self.has_capacity();
        self.opening += usize::from(has);
        has
    }

    /// An idle session, or else capacity if one more `may_open`, of this stripe.
    pub(crate) fn source(&mut self, index: usize, may_open: bool) -> Option<Source<S>> {
        if let Some(idle) = self.take_idle() {
            return Some(Source::Session(idle.held(index)));
        }
        let opening = Opening(Stake { stripe: index, stage: Stage::Opening });
        (may_open && self.take_capacity()).then_some(Source::Capacity(opening))
    }

    /// One more is being closed.
    pub(crate) fn closes(&mut self, index: usize) -> Closing {
        self.closing += 1;
        Closing(Stake { stripe: index, stage: Stage::Closing })
    }

    /// So many idle sessions are to be closed, or as many as there are; the least recently used first.
    pub(crate) fn close_idle(&mut self, count: usize, index: usize, closing: &mut ToClose<S>) {
        for _ in 0..count.min(self.idle.len()) {
            let idle = self.idle.pop_front();
            closing.extend(idle.map(|idle| (self.closes(index), idle.session)));
        }
    }
}

/// Subtracts one from a counter that must not be zero.
pub(crate) fn decrement(counter: &mut usize) {
    debug_assert!(*counter > 0, "a session was given back twice");
    *counter = counter.saturating_sub(1);
}
