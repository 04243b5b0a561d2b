//! What happens to sessions: they are opened, come free, lie idle, grow old, and are closed.

use super::Pool;
use crate::Millis;
use crate::effect::{Freed, Grant, Source, Ticket, ToClose, Waiting};
use crate::stake::{Closing, Held, Opening, Stage, Stake};
use crate::stripe::{Idle, Stripe};
use crate::sync::Ordering;

/// How many of its own waiters a stripe serves in a row while those of others wait.
const STREAK: usize = 4;

impl<S> Held<S> {
    fn idle(self, now: Millis) -> Idle<S> {
        Idle { session: self.session, since: self.idle_since.unwrap_or(now), called: now, expires: self.expires }
    }
}

impl<S, W> Pool<S, W> {
    /// A session comes free in good order.
    pub fn release(&self, held: Held<S>, now: Millis) -> Freed<S, W> {
        if held.is_hung() {
            return Freed::Close(Closing(held.stake), held.session);
        }
        let home = held.stake.stripe;
        let mut stripe = self.stripes[home].lock();
        let is_over = self.draining.load(Ordering::Relaxed) || held.is_expired(now);
        if !is_over && self.shrinking.load(Ordering::Relaxed) {
            drop(stripe);
            return self.release_shrinking(held, now);
        }
        stripe.leave(held.stake.stage);
        if is_over {
            return Freed::Close(stripe.closes(home), held.session);
        }
        let idle = held.idle(now);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            stripe.put_idle(idle);
            return Freed::Idle;
        }
        // In turn the longest waiter of all stripes is served: one with few sessions, or with none since a shrink, must not starve.
        let in_turn = stripe.streak < STREAK || self.waiting.load(Ordering::Relaxed) == stripe.waiters.len();
        if in_turn
            && self.is_open()
            && self.control_waiting.load(Ordering::Relaxed) == 0
            && let Some((id, payload)) = stripe.waiters.take()
        {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            stripe.running += 1;
            stripe.streak += 1;
            let held = idle.held(home);
            let waiter = Waiting { payload, ticket: Ticket { stripe: home, id } };
            return Freed::Granted(Grant { source: Source::Session(held), waiter });
        }
        stripe.streak = 0;
        stripe.put_idle(idle);
        drop(stripe);
        match self.match_one() {
            Some(grant) => Freed::Granted(grant),
            None => Freed::Idle,
        }
    }

    /// A session comes free while some stripe may hold more than its quota. It is surplus only if the whole pool has too many; else it goes
    /// where there is room.
    fn release_shrinking(&self, held: Held<S>, now: Millis) -> Freed<S, W> {
        let mut all = self.lock_all();
        let home = held.stake.stripe;
        all.stripes[home].leave(held.stake.stage);
        // Those that are closing go anyway: they are not held against it.
        let room = |stripe: &Stripe<S, W>| stripe.quota.saturating_sub(stripe.taken() - stripe.closing);
        let staying = all.sum(|stripe| stripe.taken() - stripe.closing);
        let stripe = std::iter::once(home).chain(0..all.stripes.len()).find(|index| room(&all.stripes[*index]) > 0);
        let (Some(stripe), true, false) = (stripe, staying < all.size(), self.draining.load(Ordering::Relaxed)) else {
            return Freed::Close(all.stripes[home].closes(home), held.session);
        };
        all.stripes[stripe].put_idle(held.idle(now));
        self.shrinking.store(all.has_leftover(), Ordering::Relaxed);
        match self.match_next(&mut all) {
            Some(grant) => Freed::Granted(grant),
            None => Freed::Idle,
        }
    }

    /// Whoever has a session has it for itself from now on: what waits for all that runs to end does not wait for it. It comes back by `release` or
    /// `discard`.
    pub fn lease(&self, held: Held<S>) -> (Held<S>, Option<Grant<S, W>>) {
        let Held { session, stake, expires, idle_since } = held;
        let leased = |stake: Stake| Held { session, stake: stake.at(Stage::Leased), expires, idle_since };
        if stake.is_hung() {
            return (leased(stake), None);
        }
        let mut stripe = self.stripes[stake.stripe].lock();
        stripe.leave(stake.stage);
        stripe.leased += 1;
        drop(stripe);
        (leased(stake), self.match_one())
    }

    /// A session that must not be used again: close it, then say `closed`.
    pub fn discard(&self, held: Held<S>) -> (Closing, S) {
        let stake = held.stake;
        if !stake.is_hung() {
            let mut stripe = self.stripes[stake.stripe].lock();
            stripe.leave(stake.stage);
            stripe.closing += 1;
        }
        (Closing(stake.at(Stage::Closing)), held.session)
    }

    /// A session was opened: it is the opener's to run on.
    pub fn opened(&self, Opening(stake): Opening, session: S, now: Millis) -> Held<S> {
        if !stake.is_hung() {
            let mut stripe = self.stripes[stake.stripe].lock();
            stripe.leave(stake.stage);
            stripe.running += 1;
        }
        let expires = self.max_lifetime.map(|lifetime| now.saturating_add(self.jitter(lifetime)));
        Held { session, stake: stake.at(Stage::Running), expires, idle_since: None }
    }

    /// A session could not be opened: its capacity goes to the next waiter.
    pub fn open_failed(&self, Opening(stake): Opening) -> Option<Grant<S, W>> {
        self.forfeit(stake)
    }

    /// A session is closed: its capacity goes to the next waiter.
    pub fn closed(&self, Closing(stake): Closing) -> Option<Grant<S, W>> {
        self.forfeit(stake)
    }

    /// A session is closed, and another was opened in its stead before: it is the opener's to release.
    pub fn replaced(&self, Closing(stake): Closing, session: S, now: Millis) -> Held<S> {
        if !stake.is_hung() {
            let mut stripe = self.stripes[stake.stripe].lock();
            stripe.leave(stake.stage);
            stripe.opening += 1;
        }
        self.opened(Opening(stake.at(Stage::Opening)), session, now)
    }

    /// Time passes: the sessions that have lain idle for longer than the TTL, or lived longer than they may, are to be closed, but never
    /// the last `floor` open ones. The ceiling may be tried upwards.
    pub fn tick(&self, now: Millis) -> (Vec<Grant<S, W>>, ToClose<S>) {
        let mut all = self.lock_all();
        let mut open: usize = all.stripes.iter().map(|stripe| stripe.idle.len() + stripe.running + stripe.leased).sum();
        let floor = self.floor.load(Ordering::Relaxed);
        let mut closing = Vec::new();
        for (index, stripe) in all.stripes.iter_mut().enumerate() {
            let mut kept = std::collections::VecDeque::with_capacity(stripe.idle.len());
            while let Some(idle) = stripe.idle.pop_front() {
                if open > floor && self.is_stale(&idle, now) {
                    open -= 1;
                    closing.push((stripe.closes(index), idle.session));
                } else {
                    kept.push_back(idle);
                }
            }
            stripe.idle = kept;
        }
        (self.raise_if_due(&mut all, now), closing)
    }

    /// Whether it has lain idle for too long, or lived for too long.
    pub(super) fn is_stale(&self, idle: &Idle<S>, now: Millis) -> bool {
        self.idle_ttl.is_some_and(|ttl| idle.since.saturating_add(ttl) <= now)
            || idle.expires.is_some_and(|expires| expires <= now)
    }

    /// Takes every idle session out, to be closed.
    pub fn flush(&self) -> ToClose<S> {
        self.lock_all().take_idle()
    }

    /// How many open sessions the TTL leaves alone: 1 while the token is logged in, since closing the last one logs out.
    pub fn set_floor(&self, floor: usize) {
        let _all = self.lock_all();
        self.floor.store(floor, Ordering::Relaxed);
    }

    /// Up to a tenth less than `lifetime`, so that sessions that were opened together do not close together.
    fn jitter(&self, lifetime: Millis) -> Millis {
        let spread = lifetime / 10;
        if spread == 0 {
            return lifetime;
        }
        // A multiplicative hash of the counter: well spread, and reproducible.
        let hash = self.next_id.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        lifetime - (hash >> 32) % spread
    }
}
