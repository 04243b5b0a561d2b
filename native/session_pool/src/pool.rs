//! The pool: stripes behind their locks, and one function for each event. What happens to sessions is in `pool/sessions.rs`, whose turn
//! it is in `pool/matching.rs`.
//!
//! The fast paths take one stripe's lock. Whatever concerns more than one stripe (an operation that must wait, a session that comes free
//! while something waits elsewhere, the gate, a drain) takes all the locks, in order: so an operation is queued only while it is
//! certain that nothing is free anywhere, and a session becomes idle only while it is certain that nothing waits.

mod ceiling;
mod exclusive;
mod keeping;
mod locked;
mod matching;
mod sessions;

use crate::Millis;
use crate::ceiling::Ceiling;
use crate::config::{Config, ConfigError, share};
use crate::effect::{CONTROL, Drained, EXCLUSIVE, Grant, Refusal, Stats, Submitted, Ticket, ToClose, Waiting};
use crate::stripe::Stripe;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::waiters::Waiters;

use locked::{All, Shared};

/// Waiters of each stripe that one operation looks at before it is refused. All locks are held meanwhile.
const LOOKS: usize = 64;

/// The pool. `S` is a session, `W` an operation.
pub struct Pool<S, W> {
    pub(crate) stripes: Box<[Mutex<Stripe<S, W>>]>,
    shared: Mutex<Shared<W>>,
    next_stripe: AtomicUsize,
    next_id: AtomicU64,
    // The following change only while all stripes are locked; they may be read under any one of the locks.
    /// Waiters of all kinds. It grows under all locks, and shrinks under the lock of the stripe whose waiter goes.
    waiting: AtomicUsize,
    /// Control operations among them.
    control_waiting: AtomicUsize,
    gated: AtomicBool,
    /// An exclusive operation waits, or has its turn: nothing else is granted but control operations.
    reserved: AtomicBool,
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
            shared: Mutex::new(Shared {
                control: Waiters::default(),
                exclusive: Waiters::default(),
                exclusive_turn: None,
                ceiling: Ceiling::default(),
                is_keeping: false,
            }),
            next_stripe: AtomicUsize::new(first),
            next_id: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            control_waiting: AtomicUsize::new(0),
            gated: AtomicBool::new(false),
            reserved: AtomicBool::new(false),
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
    /// such ones are swept (into `swept`, to be dropped by the caller, outside the lock) before the pool calls itself overloaded. Where many wait,
    /// each operation that finds no room looks at some of them in turn.
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
                swept.extend(stripe.waiters.sweep_some(LOOKS, &is_dead));
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
    pub fn submit_control(&self, payload: W) -> Submitted<S, W> {
        let mut all = self.lock_all();
        if self.draining.load(Ordering::Relaxed) {
            return Submitted::Refused(payload, Refusal::Draining);
        }
        let ticket = Ticket { stripe: CONTROL, id: self.next_id.fetch_add(1, Ordering::Relaxed) };
        // What comes free while a control operation waits is on its way to that one.
        if self.control_waiting.load(Ordering::Relaxed) == 0
            && let Some(source) = all.source(0)
        {
            return Submitted::Granted(Grant { source, waiter: Waiting { payload, ticket } });
        }
        all.shared.control.push(ticket.id, payload);
        self.control_waiting.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Submitted::Queued(ticket)
    }

    /// Takes out the control operations and the exclusive ones that nobody waits for any more, to be dropped by the caller; what they have held
    /// back goes on. `is_off` is asked under the locks.
    #[must_use]
    pub fn sweep_control(&self, is_off: impl Fn(&W) -> bool) -> (Vec<W>, Vec<Grant<S, W>>) {
        if self.control_waiting.load(Ordering::Relaxed) == 0 && !self.reserved.load(Ordering::Relaxed) {
            return (Vec::new(), Vec::new());
        }
        let mut all = self.lock_all();
        let mut swept = all.shared.control.sweep(&is_off);
        self.control_waiting.fetch_sub(swept.len(), Ordering::Relaxed);
        swept.extend(all.shared.exclusive.sweep(&is_off));
        self.waiting.fetch_sub(swept.len(), Ordering::Relaxed);
        self.note_reserved(&all);
        (swept, self.match_waiters(&mut all))
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
        match ticket.stripe {
            CONTROL => {
                all.shared.control.restore(ticket.id, payload);
                self.control_waiting.fetch_add(1, Ordering::Relaxed);
            }
            EXCLUSIVE => {
                all.shared.exclusive.restore(ticket.id, payload);
                all.shared.end_turn(ticket.id);
                self.note_reserved(all);
            }
            stripe => all.stripes[stripe].waiters.restore(ticket.id, payload),
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A caller gives up. `Some`: the operation was still waiting, and will not run. `None`: a runner has it.
    pub fn cancel(&self, ticket: Ticket) -> Option<W> {
        let _stripe = ticket.stripe()?;
        let mut stripe = self.stripes[ticket.stripe].lock();
        let payload = stripe.waiters.cancel(ticket.id)?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(payload)
    }

    /// Holds the waiting operations back: only control operations are granted.
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
            std::cmp::Reverse((staying, staying - stripe.opening, stripe.running + stripe.leased))
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
        let waiting = self.take_all_waiting(&mut all);
        Drained { waiting, closing: all.take_idle() }
    }

    /// Takes out what waits, control operations and exclusive ones too: it is to be answered, and will not run.
    #[must_use]
    pub fn take_waiting(&self) -> Vec<W> {
        self.take_all_waiting(&mut self.lock_all())
    }

    fn take_all_waiting(&self, all: &mut All<'_, S, W>) -> Vec<W> {
        self.waiting.store(0, Ordering::Relaxed);
        self.control_waiting.store(0, Ordering::Relaxed);
        let waiting = all.take_waiting();
        self.note_reserved(all);
        waiting
    }

    /// One consistent snapshot.
    pub fn stats(&self) -> Stats {
        let all = self.lock_all();
        let mut stats = Stats {
            size: all.size(),
            ceiling: all.ceiling(),
            waiting: all.shared.control.len() + all.shared.exclusive.len(),
            draining: self.draining.load(Ordering::Relaxed),
            gated: self.gated.load(Ordering::Relaxed),
            ..Stats::default()
        };
        for stripe in &all.stripes {
            stats.idle += stripe.idle.len();
            stats.running += stripe.running;
            stats.leased += stripe.leased;
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

    /// Whether a shrink may have left more sessions than there should be, without a lock. If it has, who knows of the shrink sees so.
    pub fn is_shrinking(&self) -> bool {
        self.shrinking.load(Ordering::Relaxed)
    }

    /// How many operations wait: a hint, without a lock.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Nothing holds operations back. Read under a stripe's lock.
    fn is_open(&self) -> bool {
        !self.gated.load(Ordering::Relaxed) && !self.reserved.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::effect::{Freed, Source};

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
