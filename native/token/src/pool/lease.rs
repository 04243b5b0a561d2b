//! A lease: a session that one caller has for itself. No runner is bound to it: an operation on the lease is granted the lease's session,
//! and gives it back to the lease rather than to the pool.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use session_pool::{Held, Source, Ticket, Waiting};

use crate::error::Error;
use crate::operation::Operation;
use crate::operation::host::{Host, Outlet};
use crate::pool::TokenPool;
use crate::pool::grant::Grant;
use crate::pool::work::Work;
use crate::support::sender::Timer;
use crate::token::session::Session;

/// What becomes of a lease's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It goes back to the pool.
    Return,
    /// It is closed, for this reason.
    Close(&'static str),
}

enum State<H: Host> {
    /// For a session.
    Waiting,
    /// The holder has it, and it runs nothing.
    Idle(Held<Session>, Ticket),
    /// It runs an operation; others of the holder's (that it has abandoned) wait.
    Busy {
        waiting: VecDeque<Operation<H>>,
        ending: Option<End>,
        ticket: Ticket,
    },
    Ended,
}

/// A lease.
pub struct Lease<H: Host> {
    pool: Weak<TokenPool<H>>,
    state: Mutex<State<H>>,
    expiry: Mutex<Expiry>,
}

/// What ends a lease that is held for too long. It goes as soon as the lease is over.
enum Expiry {
    None,
    Due(#[expect(dead_code, reason = "it is there to be dropped")] Timer),
    Over,
}

/// The session of a lease that has ended meanwhile.
pub(crate) struct Late(pub(crate) Held<Session>);

impl<H: Host> Lease<H> {
    pub(crate) fn new(pool: Weak<TokenPool<H>>) -> Arc<Self> {
        Arc::new(Self { pool, state: Mutex::new(State::Waiting), expiry: Mutex::new(Expiry::None) })
    }

    /// The session is there.
    pub(crate) fn start(&self, held: Held<Session>, ticket: Ticket) -> Result<(), Late> {
        let mut state = self.state.lock();
        match *state {
            State::Waiting => {
                *state = State::Idle(held, ticket);
                Ok(())
            }
            _ => Err(Late(held)),
        }
    }

    /// It ends when this timer does what it is for.
    pub fn expires_with(&self, timer: Timer) {
        let mut expiry = self.expiry.lock();
        if !matches!(*expiry, Expiry::Over) {
            let before = std::mem::replace(&mut *expiry, Expiry::Due(timer));
            // What is dropped sends.
            drop(expiry);
            drop(before);
        }
    }

    fn over(&self) {
        let before = std::mem::replace(&mut *self.expiry.lock(), Expiry::Over);
        drop(before);
    }

    /// Whether it has a session.
    pub fn is_active(&self) -> bool {
        matches!(*self.state.lock(), State::Idle(..) | State::Busy { .. })
    }

    /// Runs an operation on it.
    pub(crate) fn submit(self: &Arc<Self>, operation: Operation<H>, outlet: &mut impl Outlet<H>) -> Result<Ticket, Error> {
        let Some(pool) = self.pool.upgrade() else { return Err(refused(operation)) };
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Ended) {
            State::Idle(held, ticket) => {
                *state = State::Busy { waiting: VecDeque::new(), ending: None, ticket };
                drop(state);
                pool.dispatch(leased(held, operation, ticket), outlet);
                Ok(ticket)
            }
            State::Busy { mut waiting, ending: None, ticket } => {
                waiting.push_back(operation);
                *state = State::Busy { waiting, ending: None, ticket };
                Ok(ticket)
            }
            other => {
                *state = other;
                drop(state);
                Err(refused(operation))
            }
        }
    }

    /// An operation on it is done. What is to run next: another of the lease's, or what the pool grants its session to.
    pub(crate) fn give_back(&self, pool: &TokenPool<H>, held: Held<Session>, broken: Option<&'static str>) -> Option<Grant<H>> {
        let mut state = self.state.lock();
        let State::Busy { mut waiting, ending, ticket } = std::mem::replace(&mut *state, State::Ended) else {
            drop(state);
            return finish(pool, held, End::Close("lease_ended"));
        };
        let end = broken.map(End::Close).or(ending);
        if let Some(end) = end {
            drop(state);
            self.over();
            for operation in waiting {
                operation.post(Error::LeaseEnded);
            }
            return finish(pool, held, end);
        }
        match waiting.pop_front() {
            Some(operation) => {
                *state = State::Busy { waiting, ending: None, ticket };
                Some(leased(held, operation, ticket))
            }
            None => {
                *state = State::Idle(held, ticket);
                None
            }
        }
    }

    /// Its operation hangs: it ends now. Its session finds out when it comes back.
    pub(crate) fn hangs(&self) {
        let waiting = {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Ended) {
                State::Busy { waiting, .. } => waiting,
                other => {
                    *state = other;
                    return;
                }
            }
        };
        self.over();
        for operation in waiting {
            operation.post(Error::LeaseEnded);
        }
    }

    /// It ends: now, or when its operation is done. `false`: it had ended.
    pub fn end(&self, end: End, outlet: &mut impl Outlet<H>) -> bool {
        self.over();
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Ended) {
            State::Ended => false,
            State::Waiting => true,
            State::Idle(held, _ticket) => {
                drop(state);
                if let Some(pool) = self.pool.upgrade() {
                    if let Some(grant) = finish(&pool, held, end) {
                        pool.dispatch(grant, outlet);
                    }
                    pool.resume_logouts();
                }
                true
            }
            State::Busy { waiting, ending, ticket } => {
                // An operation that its caller has left behind is under way: its session is not handed on.
                let ending = Some(ending.unwrap_or(match end {
                    End::Return => End::Close("lease_active"),
                    close => close,
                }));
                *state = State::Busy { waiting, ending, ticket };
                true
            }
        }
    }
}

/// The caller gets the error as the result of its call: nobody is to answer it once more.
fn refused<H: Host>(operation: Operation<H>) -> Error {
    let _ = operation.header.progress.abandon();
    Error::LeaseEnded
}

fn leased<H: Host>(held: Held<Session>, operation: Operation<H>, ticket: Ticket) -> Grant<H> {
    Grant { source: Source::Session(held), waiter: Waiting { payload: Work::Call(operation), ticket } }
}

fn finish<H: Host>(pool: &TokenPool<H>, held: Held<Session>, end: End) -> Option<Grant<H>> {
    match end {
        End::Return => pool.release(held),
        End::Close(reason) => {
            let (closing, session) = pool.sessions.discard(held);
            pool.close(closing, session, reason);
            None
        }
    }
}
