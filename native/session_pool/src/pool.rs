//! The pool: stripes behind their locks, and one function for each event.
//!
//! The fast paths take one stripe's lock. Whatever concerns more than one stripe (an operation that must wait, a session that comes free
//! while something waits elsewhere, the gate, a drain) takes all the locks, in order: so an operation is queued only while it is
//! certain that nothing is free anywhere, and a session becomes idle only while it is certain that nothing waits.

use crate::Millis;
use crate::ceiling::Ceiling;
use crate::config::{Config, ConfigError, share};
use crate::stake::{Closing, Held, Opening, Stage, Stake};
use crate::stripe::{Idle, Stripe, Waiters};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};

/// Sessions to close; for each of them `closed` is to be said.
pub type ToClose<S> = Vec<(Closing, S)>;

/// What an operation is to run on.
#[derive(Debug)]
pub enum Source<S> {
    /// An idle session (`Deliver`).
    Session(Held<S>),
    /// Reserved capacity: open a session first (`Create`).
    Capacity(Opening),
}

/// A waiter's place, for cancelling it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    stripe: usize,
    id: u64,
}

impl Ticket {
    /// The stripe in whose queue the place is; `None`: in the express lane.
    pub fn stripe(&self) -> Option<usize> {
        (self.stripe != EXPRESS).then_some(self.stripe)
    }
}

/// An operation on its way, with its place in the queue for the case that it must go back.
#[derive(Debug)]
pub struct Waiting<W> {
    /// The operation.
    pub payload: W,
    /// Its place.
    pub ticket: Ticket,
}

/// An operation and what it runs on: the one outcome of waiting that is no refusal.
#[derive(Debug)]
#[must_use = "a grant that is not run loses its session and its operation"]
pub struct Grant<S, W> {
    /// The session, or the right to open one.
    pub source: Source<S>,
    /// The operation.
    pub waiter: Waiting<W>,
}

/// Why an operation was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// As many wait as may.
    Overloaded,
    /// The pool takes nothing any more.
    Draining,
}

/// What became of a submitted operation.
#[derive(Debug)]
#[must_use]
pub enum Submitted<S, W> {
    /// It runs at once.
    Granted(Grant<S, W>),
    /// It waits.
    Queued(Ticket),
    /// It was not taken.
    Refused(W, Refusal),
}

/// What became of a session that came free.
#[derive(Debug)]
#[must_use]
pub enum Freed<S, W> {
    /// It serves the next operation.
    Granted(Grant<S, W>),
    /// It lies idle.
    Idle,
    /// It is not wanted any more: close it, then say `closed`.
    Close(Closing, S),
}

/// What a drain takes out of the pool.
#[derive(Debug)]
#[must_use]
pub struct Drained<S, W> {
    /// Operations that will not run: answer them.
    pub waiting: Vec<W>,
    /// Sessions to close.
    pub closing: ToClose<S>,
}

/// One consistent snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// The most sessions.
    pub size: usize,
    /// The most that the token gives, as far as it has said so.
    pub ceiling: usize,
    /// Open sessions that serve nothing.
    pub idle: usize,
    /// Open sessions in a runner's hands.
    pub running: usize,
    /// Sessions being opened.
    pub opening: usize,
    /// Sessions being closed.
    pub closing: usize,
    /// Sessions in calls that hang, which hold no capacity any more.
    pub hung: usize,
    /// Operations that wait.
    pub waiting: usize,
    /// Whether the pool takes nothing any more.
    pub draining: bool,
    /// Whether waiting operations are held back.
    pub gated: bool,
}

/// The pool. `S` is a session, `W` an operation.
pub struct Pool<S, W> {
    pub(crate) stripes: Box<[Mutex<Stripe<S, W>>]>,
    shared: Mutex<Shared<W>>,
    next_stripe: AtomicUsize,
    next_id: AtomicU64,
    // The following change only while all stripes are locked; they may be read under any one of the locks.
    /// Waiters of all kinds. It grows under all locks, and shrinks under the lock of the stripe whose waiter goes.
    waiting: AtomicUsize,
    /// Express waiters among them.
    express_waiting: AtomicUsize,
    gated: AtomicBool,
    pub(crate) draining: AtomicBool,
    /// A stripe may hold more sessions than its quota, left over by a shrink: whether one may be opened is then a matter of all stripes.
    pub(crate) shrinking: AtomicBool,
    /// There is a ceiling below the size: so it is then, too.
    pub(crate) capped: AtomicBool,
    /// Open sessions that the TTL leaves alone.
    floor: AtomicUsize,
    idle_ttl: Option<Millis>,
    max_lifetime: Option<Millis>,
    max_waiting: usize,
}

/// What belongs to no stripe.
pub(crate) struct Shared<W> {
    express: Waiters<W>,
    pub(crate) ceiling: Ceiling,
}

/// All stripes, locked in their order, what they share last.
pub(crate) struct All<'a, S, W> {
    pub(crate) stripes: Vec<MutexGuard<'a, Stripe<S, W>>>,
    pub(crate) shared: MutexGuard<'a, Shared<W>>,
}

impl<S, W> Pool<S, W> {
    /// A pool with nothing open.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Self::with_first_index(config, 0)
    }

    /// A pool whose round-robin index starts here: for tests of its overflow.
    #[doc(hidden)]
    pub fn with_first_index(config: &Config, first: usize) -> Result<Self, ConfigError> {
        config.validate()?;
        let stripe = |index| Mutex::new(Stripe::new(share(config.max_sessions, config.stripes, index)));
        Ok(Self {
            stripes: (0..config.stripes).map(stripe).collect(),
            shared: Mutex::new(Shared { express: Waiters::default(), ceiling: Ceiling::default() }),
            next_stripe: AtomicUsize::new(first),
            next_id: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            express_waiting: AtomicUsize::new(0),
            gated: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            shrinking: AtomicBool::new(false),
            capped: AtomicBool::new(false),
            floor: AtomicUsize::new(0),
            idle_ttl: config.idle_ttl,
            max_lifetime: config.max_lifetime,
            max_waiting: config.max_waiting,
        })
    }

    /// An operation arrives. `is_dead` says of a waiter that its caller is gone (it is asked under the locks, and must not call the pool);
    /// such ones are swept (into `swept`, to be dropped by the caller, outside the lock) before the pool calls itself overloaded.
    pub fn submit(&self, payload: W, is_dead: impl Fn(&W) -> bool, swept: &mut Vec<W>) -> Submitted<S, W> {
        let home = self.next_stripe.fetch_add(1, Ordering::Relaxed) % self.stripes.len();
        let ticket = Ticket { stripe: home, id: self.next_id.fetch_add(1, Ordering::Relaxed) };
        {
            let mut stripe = self.stripes[home].lock();
            if self.is_open()
                && self.waiting.load(Ordering::Relaxed) == 0
                && let Some(source) = stripe.source(home, !self.shrinking.load(Ordering::Relaxed) && !self.is_capped())
            {
                return Submitted::Granted(Grant { source, waiter: Waiting { payload, ticket } });
            }
        }
        let mut all = self.lock_all();
        if self.draining.load(Ordering::Relaxed) {
            return Submitted::Refused(payload, Refusal::Draining);
        }
        if !all.has_leftover() {
            self.shrinking.store(false, Ordering::Relaxed);
        }
        if let Some(source) = self.source_if_none_waits(&mut all, home) {
            return Submitted::Granted(Grant { source, waiter: Waiting { payload, ticket } });
        }
        if self.waiting.load(Ordering::Relaxed) >= self.max_waiting {
            let before = swept.len();
            for stripe in &mut all.stripes {
                swept.extend(stripe.waiters.sweep(&is_dead));
            }
            self.waiting.fetch_sub(swept.len() - before, Ordering::Relaxed);
            // A session that came free for one of the swept finds now that nothing waits, and stays idle: look again.
            if let Some(source) = self.source_if_none_waits(&mut all, home) {
                return Submitted::Granted(Grant { source, waiter: Waiting { payload, ticket } });
            }
            if self.waiting.load(Ordering::Relaxed) >= self.max_waiting {
                return Submitted::Refused(payload, Refusal::Overloaded);
            }
        }
        // A new id: others may have queued since, and a queue is sorted by its ids.
        let ticket = Ticket { stripe: home, id: self.next_id.fetch_add(1, Ordering::Relaxed) };
        all.stripes[home].waiters.push(ticket.id, payload);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Submitted::Queued(ticket)
    }

    /// An operation that whoever brings it runs at once, if a session lies idle and nothing waits; else it comes back, to be submitted.
    pub fn take_idle(&self, payload: W) -> Result<Grant<S, W>, W> {
        for (index, stripe) in self.stripes.iter().enumerate() {
            let mut stripe = stripe.lock();
            if self.waiting.load(Ordering::Relaxed) > 0 || !self.is_open() {
                break;
            }
            if let Some(source) = stripe.source(index, false) {
                let ticket = Ticket { stripe: index, id: self.next_id.fetch_add(1, Ordering::Relaxed) };
                return Ok(Grant { source, waiter: Waiting { payload, ticket } });
            }
        }
        Err(payload)
    }

    /// Whether [`take_idle`](Self::take_idle) would find a session: a hint.
    pub fn has_idle(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
            && self.is_open()
            && self.stripes.iter().any(|stripe| !stripe.lock().idle.is_empty())
    }

    /// An operation of the pool's own (a login) arrives: it goes before all others, passes the gate, and is never refused for want of
    /// room. A draining pool gives it back.
    pub fn submit_express(&self, payload: W) -> Submitted<S, W> {
        let mut all = self.lock_all();
        if self.draining.load(Ordering::Relaxed) {
            return Submitted::Refused(payload, Refusal::Draining);
        }
        let ticket = Ticket { stripe: EXPRESS, id: self.next_id.fetch_add(1, Ordering::Relaxed) };
        // What comes free while an express one waits is on its way to that one.
        if self.express_waiting.load(Ordering::Relaxed) == 0
            && let Some(source) = all.source(0)
        {
            return Submitted::Granted(Grant { source, waiter: Waiting { payload, ticket } });
        }
        all.shared.express.push(ticket.id, payload);
        self.express_waiting.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Submitted::Queued(ticket)
    }

    /// An operation that was granted a session goes back to its place in the queue: it met the login gate, or is to be tried again on
    /// another session. It is granted at once if something is free; a draining pool gives it back.
    pub fn requeue(&self, waiter: Waiting<W>) -> Result<Vec<Grant<S, W>>, W> {
        let mut all = self.lock_all();
        if self.draining.load(Ordering::Relaxed) {
            return Err(waiter.payload);
        }
        self.restore(&mut all, waiter);
        Ok(self.match_waiters(&mut all))
    }

    /// Puts an operation back to its place.
    pub(crate) fn restore(&self, all: &mut All<'_, S, W>, Waiting { payload, ticket }: Waiting<W>) {
        if ticket.stripe == EXPRESS {
            all.shared.express.restore(ticket.id, payload);
            self.express_waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            all.stripes[ticket.stripe].waiters.restore(ticket.id, payload);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A caller gives up. `Some`: the operation was still waiting, and will not run. `None`: a runner has it.
    pub fn cancel(&self, ticket: Ticket) -> Option<W> {
        if ticket.stripe == EXPRESS {
            return None;
        }
        let mut stripe = self.stripes[ticket.stripe].lock();
        let payload = stripe.waiters.cancel(ticket.id)?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(payload)
    }

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
        stripe.leave(Stage::Running);
        if is_over {
            return Freed::Close(stripe.closes(home), held.session);
        }
        let idle = Idle { session: held.session, since: now, expires: held.expires };
        if self.waiting.load(Ordering::Relaxed) == 0 {
            stripe.idle.push_back(idle);
            return Freed::Idle;
        }
        // In turn the longest waiter of all stripes is served: one with few sessions, or with none since a shrink, must not starve.
        let in_turn = stripe.streak < STREAK || self.waiting.load(Ordering::Relaxed) == stripe.waiters.len();
        if in_turn
            && self.is_open()
            && self.express_waiting.load(Ordering::Relaxed) == 0
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
        stripe.idle.push_back(idle);
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
        all.stripes[home].leave(Stage::Running);
        // Those that are closing go anyway: they are not held against it.
        let room = |stripe: &Stripe<S, W>| stripe.quota.saturating_sub(stripe.taken() - stripe.closing);
        let staying = all.sum(|stripe| stripe.taken() - stripe.closing);
        let stripe = std::iter::once(home).chain(0..all.stripes.len()).find(|index| room(&all.stripes[*index]) > 0);
        let (Some(stripe), true, false) = (stripe, staying < all.size(), self.draining.load(Ordering::Relaxed)) else {
            return Freed::Close(all.stripes[home].closes(home), held.session);
        };
        all.stripes[stripe].idle.push_back(Idle { session: held.session, since: now, expires: held.expires });
        self.shrinking.store(all.has_leftover(), Ordering::Relaxed);
        match self.match_next(&mut all) {
            Some(grant) => Freed::Granted(grant),
            None => Freed::Idle,
        }
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
        Held { session, stake: stake.at(Stage::Running), expires }
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
        let mut open: usize = all.stripes.iter().map(|stripe| stripe.idle.len() + stripe.running).sum();
        let floor = self.floor.load(Ordering::Relaxed);
        let stale = |idle: &Idle<S>| {
            self.idle_ttl.is_some_and(|ttl| idle.since.saturating_add(ttl) <= now)
                || idle.expires.is_some_and(|expires| expires <= now)
        };
        let mut closing = Vec::new();
        for (index, stripe) in all.stripes.iter_mut().enumerate() {
            let mut kept = std::collections::VecDeque::with_capacity(stripe.idle.len());
            while let Some(idle) = stripe.idle.pop_front() {
                if open > floor && stale(&idle) {
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

    /// Takes every idle session out, to be closed.
    pub fn flush(&self) -> ToClose<S> {
        self.lock_all().take_idle()
    }

    /// How many open sessions the TTL leaves alone: 1 while the token is logged in, since closing the last one logs out.
    pub fn set_floor(&self, floor: usize) {
        let _all = self.lock_all();
        self.floor.store(floor, Ordering::Relaxed);
    }

    /// Holds the waiting operations back: only express ones are granted.
    pub fn close_gate(&self) {
        let _all = self.lock_all();
        self.gated.store(true, Ordering::Relaxed);
    }

    /// Lets them go on.
    #[must_use]
    pub fn open_gate(&self) -> Vec<Grant<S, W>> {
        let mut all = self.lock_all();
        self.gated.store(false, Ordering::Relaxed);
        self.match_waiters(&mut all)
    }

    /// Grows or shrinks, to one session at least. Surplus idle sessions are to be closed; those in use close when they come free, and none
    /// is opened until there is room for it. What does not divide goes to the fullest stripes. What the token gives is tried anew.
    pub fn resize(&self, max_sessions: usize) -> (Vec<Grant<S, W>>, ToClose<S>) {
        let mut all = self.lock_all();
        all.shared.ceiling.lift();
        self.capped.store(false, Ordering::Relaxed);
        let stripes = all.stripes.len();
        let mut order: Vec<usize> = (0..stripes).collect();
        // The fullest first: so a growing pool closes nothing, and a shrinking one does not close its last open session. Among equals the one
        // with the most in use, which is not closed.
        order.sort_by_key(|index| {
            let stripe = &all.stripes[*index];
            let staying = stripe.taken() - stripe.closing;
            std::cmp::Reverse((staying, staying - stripe.opening, stripe.running))
        });
        let mut closing = Vec::new();
        for (place, index) in order.iter().enumerate() {
            let stripe = &mut all.stripes[*index];
            stripe.quota = share(max_sessions.max(1), stripes, place);
            let surplus = (stripe.taken() - stripe.closing).saturating_sub(stripe.quota);
            stripe.close_idle(surplus, *index, &mut closing);
        }
        // What one stripe still uses beyond its quota is not free in another.
        for index in order {
            let staying = all.sum(|stripe| stripe.taken() - stripe.closing);
            let surplus = staying.saturating_sub(all.size());
            all.stripes[index].close_idle(surplus, index, &mut closing);
        }
        self.shrinking.store(all.has_leftover(), Ordering::Relaxed);
        (self.match_waiters(&mut all), closing)
    }

    /// Takes nothing any more: what waits is to be answered, what is idle closed, what runs will close when it comes free.
    pub fn drain(&self) -> Drained<S, W> {
        let mut all = self.lock_all();
        self.draining.store(true, Ordering::Relaxed);
        self.waiting.store(0, Ordering::Relaxed);
        self.express_waiting.store(0, Ordering::Relaxed);
        Drained { waiting: all.take_waiting(), closing: all.take_idle() }
    }

    /// Takes out what waits, express ones too: it is to be answered, and will not run.
    #[must_use]
    pub fn take_waiting(&self) -> Vec<W> {
        let mut all = self.lock_all();
        self.waiting.store(0, Ordering::Relaxed);
        self.express_waiting.store(0, Ordering::Relaxed);
        all.take_waiting()
    }

    /// One consistent snapshot.
    pub fn stats(&self) -> Stats {
        let all = self.lock_all();
        let mut stats = Stats {
            size: all.size(),
            ceiling: all.ceiling(),
            waiting: all.shared.express.len(),
            draining: self.draining.load(Ordering::Relaxed),
            gated: self.gated.load(Ordering::Relaxed),
            ..Stats::default()
        };
        for stripe in &all.stripes {
            stats.idle += stripe.idle.len();
            stats.running += stripe.running;
            stats.opening += stripe.opening;
            stats.closing += stripe.closing;
            stats.hung += stripe.hung;
            stats.waiting += stripe.waiters.len();
        }
        debug_assert_eq!(stats.waiting, self.waiting.load(Ordering::Relaxed));
        stats
    }

    /// Whether the pool takes nothing any more: a hint, without a lock.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How many operations wait: a hint, without a lock.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Nothing holds operations back. Read under a stripe's lock.
    fn is_open(&self) -> bool {
        !self.gated.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn lock_all(&self) -> All<'_, S, W> {
        All { stripes: self.stripes.iter().map(Mutex::lock).collect(), shared: self.shared.lock() }
    }

    /// What an operation that has just arrived may run on. Who comes free while something waits is already on its way to the longest
    /// waiter: nobody overtakes it here.
    fn source_if_none_waits(&self, all: &mut All<'_, S, W>, home: usize) -> Option<Source<S>> {
        let free = !self.gated.load(Ordering::Relaxed) && self.waiting.load(Ordering::Relaxed) == 0;
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
        let source = all.source(if stripe == EXPRESS { 0 } else { stripe })?;
        let (id, payload) = if stripe == EXPRESS {
            self.express_waiting.fetch_sub(1, Ordering::Relaxed);
            all.shared.express.take()?
        } else {
            all.stripes[stripe].waiters.take()?
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(Grant { source, waiter: Waiting { payload, ticket: Ticket { stripe, id } } })
    }

    /// The stripe of the longest waiter that may go, express ones first.
    pub(crate) fn next_waiter(&self, all: &mut All<'_, S, W>) -> Option<usize> {
        if self.draining.load(Ordering::Relaxed) {
            return None;
        }
        if all.shared.express.first().is_some() {
            return Some(EXPRESS);
        }
        if self.gated.load(Ordering::Relaxed) {
            return None;
        }
        let firsts = all.stripes.iter_mut().enumerate();
        firsts.filter_map(|(index, stripe)| Some((stripe.waiters.first()?, index))).min().map(|(_, index)| index)
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

/// The pseudo stripe of express waiters.
const EXPRESS: usize = usize::MAX;

/// How many of its own waiters a stripe serves in a row while those of others wait.
const STREAK: usize = 4;

impl<S> Idle<S> {
    /// It runs again, in this stripe.
    fn held(self, stripe: usize) -> Held<S> {
        Held { session: self.session, stake: Stake { stripe, stage: Stage::Running }, expires: self.expires }
    }
}

impl<S, W> Stripe<S, W> {
    /// An idle session, or else capacity if one more `may_open`, of this stripe.
    fn source(&mut self, index: usize, may_open: bool) -> Option<Source<S>> {
        if let Some(idle) = self.take_idle() {
            return Some(Source::Session(idle.held(index)));
        }
        let opening = Opening(Stake { stripe: index, stage: Stage::Opening });
        (may_open && self.take_capacity()).then_some(Source::Capacity(opening))
    }

    /// One more is being closed.
    fn closes(&mut self, index: usize) -> Closing {
        self.closing += 1;
        Closing(Stake { stripe: index, stage: Stage::Closing })
    }

    /// So many idle sessions are to be closed, or as many as there are; the least recently used first.
    fn close_idle(&mut self, count: usize, index: usize, closing: &mut ToClose<S>) {
        for _ in 0..count.min(self.idle.len()) {
            let idle = self.idle.pop_front();
            closing.extend(idle.map(|idle| (self.closes(index), idle.session)));
        }
    }
}

impl<S, W> All<'_, S, W> {
    /// An idle session anywhere, else capacity anywhere; those of `home` first.
    fn source(&mut self, home: usize) -> Option<Source<S>> {
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

    fn take_waiting(&mut self) -> Vec<W> {
        let mut waiting: Vec<W> = self.shared.express.take_all().collect();
        for stripe in &mut self.stripes {
            waiting.extend(stripe.waiters.take_all());
        }
        waiting
    }

    fn take_idle(&mut self) -> ToClose<S> {
        let mut closing = Vec::new();
        for (index, stripe) in self.stripes.iter_mut().enumerate() {
            stripe.close_idle(usize::MAX, index, &mut closing);
        }
        closing
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Not seen from outside: sessions and quotas fit again, so that submit and release need only one lock each.
    #[test]
    fn a_pool_that_has_shrunk_finds_back_to_its_fast_paths() {
        let config =
            Config { label: "shrunk".into(), max_sessions: 2, stripes: 2, idle_ttl: None, max_lifetime: None, max_waiting: 0 };
        let pool: Pool<u32, u32> = Pool::new(&config).unwrap();
        let mut held = [0, 1].map(|op| match pool.submit(op, |_| false, &mut Vec::new()) {
            Submitted::Granted(Grant { source: Source::Capacity(opening), .. }) => Some(pool.opened(opening, op, 0)),
            other => panic!("{other:?}"),
        });
        let (_, closing) = pool.resize(1);
        assert!(closing.is_empty() && pool.shrinking.load(Ordering::Relaxed));
        let (closing, _) = pool.discard(held[0].take().unwrap());
        assert!(pool.closed(closing).is_none());
        assert!(pool.shrinking.load(Ordering::Relaxed), "the other is in a stripe without quota");
        assert!(matches!(pool.release(held[1].take().unwrap(), 0), Freed::Idle));
        assert!(!pool.shrinking.load(Ordering::Relaxed), "it has moved to where there is room");
    }
}
