//! A lease: a session that one caller has for itself. No runner is bound to it: an operation on the lease is granted the lease's session, and gives
//! it back to the lease rather than to the pool.
//!
//! ```text
//!   Waiting --start--> Idle --submit--> Busy --give_back--> Idle, or the next operation that waits
//!      |                |                |
//!      +------- end ----+---- end -------+--> Ended (a busy one when its operation is done)
//! ```

use std::collections::VecDeque;

use crate::effect::{Grant, Source, Ticket, Waiting};
use crate::stake::Held;
use crate::sync::Mutex;

/// What becomes of a lease's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// It goes back to the pool.
    Return,
    /// It is closed, for this reason.
    Close(&'static str),
}

enum State<S, W> {
    /// For a session.
    Waiting,
    /// Its holder has the session, and runs nothing on it.
    Idle(Held<S>, Ticket),
    /// An operation runs on the session; others of the holder's (that it has abandoned) wait.
    Busy {
        waiting: VecDeque<W>,
        ending: Option<LeaseEnd>,
        ticket: Ticket,
    },
    Ended,
}

/// A lease.
pub struct Lease<S, W>(Mutex<State<S, W>>);

/// What became of an operation on a lease.
#[derive(Debug)]
#[must_use]
pub enum OnLease<S, W> {
    /// It runs at once.
    Granted(Grant<S, W>),
    /// It waits for the one that runs.
    Queued(Ticket),
    /// The lease has ended.
    Ended(W),
}

/// What became of a session that was given back to its lease.
#[derive(Debug)]
#[must_use]
pub enum GivenBack<S, W> {
    /// Another operation of the lease's runs on it.
    Granted(Grant<S, W>),
    /// It is the holder's.
    Kept,
    /// The lease has ended with it, and these operations with the lease.
    Ended {
        /// The session.
        held: Held<S>,
        /// What becomes of it.
        end: LeaseEnd,
        /// Operations that will not run.
        waiting: VecDeque<W>,
    },
}

/// What became of the wish to end a lease.
#[derive(Debug)]
#[must_use]
pub enum Ended<S> {
    /// It has ended: this is its session.
    Now(Held<S>, LeaseEnd),
    /// It had no session yet.
    Before,
    /// It ends when its operation is done.
    Later,
    /// It had ended.
    Already,
}

impl<S, W> Default for Lease<S, W> {
    fn default() -> Self {
        Self(Mutex::new(State::Waiting))
    }
}

impl<S, W> Lease<S, W> {
    /// Whether it has a session.
    pub fn is_active(&self) -> bool {
        matches!(*self.0.lock(), State::Idle(..) | State::Busy { .. })
    }

    /// Its session is there. `Err`: it has ended meanwhile.
    pub fn start(&self, held: Held<S>, ticket: Ticket) -> Result<(), Held<S>> {
        let mut state = self.0.lock();
        match *state {
            State::Waiting => {
                *state = State::Idle(held, ticket);
                Ok(())
            }
            State::Idle(..) | State::Busy { .. } | State::Ended => Err(held),
        }
    }

    /// An operation is to run on it.
    pub fn submit(&self, payload: W) -> OnLease<S, W> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Ended) {
            State::Idle(held, ticket) => {
                *state = State::Busy { waiting: VecDeque::new(), ending: None, ticket };
                OnLease::Granted(grant(held, payload, ticket))
            }
            State::Busy { mut waiting, ending: None, ticket } => {
                waiting.push_back(payload);
                *state = State::Busy { waiting, ending: None, ticket };
                OnLease::Queued(ticket)
            }
            other => {
                *state = other;
                OnLease::Ended(payload)
            }
        }
    }

    /// An operation on it is done. `broken`: its session must not be used again, for this reason.
    pub fn give_back(&self, held: Held<S>, broken: Option<&'static str>) -> GivenBack<S, W> {
        let mut state = self.0.lock();
        let State::Busy { mut waiting, ending, ticket } = std::mem::replace(&mut *state, State::Ended) else {
            // It has ended behind the call's back, which hung.
            return GivenBack::Ended { held, end: LeaseEnd::Close("lease_ended"), waiting: VecDeque::new() };
        };
        if let Some(end) = broken.map(LeaseEnd::Close).or(ending) {
            return GivenBack::Ended { held, end, waiting };
        }
        match waiting.pop_front() {
            Some(payload) => {
                *state = State::Busy { waiting, ending: None, ticket };
                GivenBack::Granted(grant(held, payload, ticket))
            }
            None => {
                *state = State::Idle(held, ticket);
                GivenBack::Kept
            }
        }
    }

    /// The call of its operation hangs: it ends now, and these operations with it. `None`: nothing ran on it.
    pub fn abandon(&self) -> Option<VecDeque<W>> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Ended) {
            State::Busy { waiting, .. } => Some(waiting),
            other => {
                *state = other;
                None
            }
        }
    }

    /// It ends: now, or when its operation is done.
    pub fn end(&self, end: LeaseEnd) -> Ended<S> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Ended) {
            State::Ended => Ended::Already,
            State::Waiting => Ended::Before,
            State::Idle(held, _) => Ended::Now(held, end),
            State::Busy { waiting, ending, ticket } => {
                // An operation that its caller has left behind is under way: its session is not handed on.
                let ending = Some(ending.unwrap_or(match end {
                    LeaseEnd::Return => LeaseEnd::Close("lease_active"),
                    close => close,
                }));
                *state = State::Busy { waiting, ending, ticket };
                Ended::Later
            }
        }
    }
}

fn grant<S, W>(held: Held<S>, payload: W, ticket: Ticket) -> Grant<S, W> {
    Grant { source: Source::Session(held), waiter: Waiting { payload, ticket } }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Config, Pool, Submitted};

    type TestLease = Lease<&'static str, u32>;

    /// A pool's session, and a lease that has it.
    fn started() -> (Pool<&'static str, u32>, TestLease) {
        let config =
            Config { label: "lease".into(), max_sessions: 1, stripes: 1, idle_ttl: None, max_lifetime: None, max_waiting: 9 };
        let pool = Pool::new(&config).expect("valid");
        let Submitted::Granted(grant) = pool.submit(0, |_| false, &mut Vec::new()) else { panic!("not granted") };
        let Source::Capacity(opening) = grant.source else { panic!("nothing was open") };
        let (held, _) = pool.lease(pool.opened(opening, "session", 0));
        let lease = TestLease::default();
        assert!(lease.start(held, grant.waiter.ticket).is_ok());
        (pool, lease)
    }

    fn session(grant: Grant<&'static str, u32>) -> (Held<&'static str>, u32) {
        let Source::Session(held) = grant.source else { panic!("a lease opens nothing") };
        (held, grant.waiter.payload)
    }

    fn run(lease: &TestLease, payload: u32) -> Held<&'static str> {
        let OnLease::Granted(grant) = lease.submit(payload) else { panic!("not granted") };
        session(grant).0
    }

    #[test]
    fn operations_run_one_after_the_other_on_its_session() {
        let (_pool, lease) = started();
        let held = run(&lease, 1);
        assert!(matches!(lease.submit(2), OnLease::Queued(_)));
        assert!(matches!(lease.submit(3), OnLease::Queued(_)));
        let GivenBack::Granted(grant) = lease.give_back(held, None) else { panic!("not the next one") };
        let (held, payload) = session(grant);
        assert_eq!(payload, 2);
        let GivenBack::Granted(grant) = lease.give_back(held, None) else { panic!("not the next one") };
        let (held, payload) = session(grant);
        assert_eq!(payload, 3);
        assert!(matches!(lease.give_back(held, None), GivenBack::Kept));
    }

    #[test]
    fn one_that_runs_nothing_ends_at_once_and_only_once() {
        let (_pool, lease) = started();
        assert!(matches!(lease.end(LeaseEnd::Return), Ended::Now(_, LeaseEnd::Return)));
        assert!(matches!(lease.end(LeaseEnd::Return), Ended::Already));
        assert!(matches!(lease.submit(1), OnLease::Ended(1)));
    }

    #[test]
    fn one_that_runs_something_ends_behind_it_and_its_session_is_not_handed_on() {
        let (_pool, lease) = started();
        let held = run(&lease, 1);
        assert!(matches!(lease.submit(2), OnLease::Queued(_)));
        assert!(matches!(lease.end(LeaseEnd::Return), Ended::Later));
        assert!(matches!(lease.end(LeaseEnd::Close("drain")), Ended::Later));
        assert!(matches!(lease.submit(3), OnLease::Ended(3)));
        let GivenBack::Ended { end, waiting, .. } = lease.give_back(held, None) else { panic!("it goes on") };
        assert_eq!((end, waiting.into_iter().collect::<Vec<_>>()), (LeaseEnd::Close("lease_active"), vec![2]));
    }

    #[test]
    fn one_whose_session_breaks_ends_with_it() {
        let (_pool, lease) = started();
        let held = run(&lease, 1);
        let given_back = lease.give_back(held, Some("dead_session"));
        assert!(matches!(given_back, GivenBack::Ended { end: LeaseEnd::Close("dead_session"), .. }));
        assert!(matches!(lease.end(LeaseEnd::Return), Ended::Already));
    }

    #[test]
    fn one_whose_call_hangs_ends_now_and_its_session_is_closed_when_the_call_returns() {
        let (_pool, lease) = started();
        assert!(lease.abandon().is_none(), "nothing runs on it");
        let held = run(&lease, 1);
        assert!(matches!(lease.submit(2), OnLease::Queued(_)));
        assert_eq!(lease.abandon().into_iter().flatten().collect::<Vec<_>>(), [2]);
        assert!(matches!(lease.give_back(held, None), GivenBack::Ended { end: LeaseEnd::Close("lease_ended"), .. }));
    }

    #[test]
    fn one_that_ends_before_its_session_is_there_does_not_take_it() {
        let (pool, other) = started();
        let Ended::Now(held, _) = other.end(LeaseEnd::Return) else { panic!("it runs nothing") };
        assert_eq!(pool.stats().leased, 1);
        let lease = TestLease::default();
        assert!(matches!(lease.end(LeaseEnd::Return), Ended::Before));
        let Err(held) = lease.start(held, Ticket { stripe: 0, id: 9 }) else { panic!("taken") };
        assert!(matches!(pool.release(held, 0), crate::Freed::Idle));
        assert_eq!(pool.stats().leased, 0);
    }
}
