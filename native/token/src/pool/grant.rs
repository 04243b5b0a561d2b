//! What a pool hands to a runner, and what comes of it.

use session_pool::{Held, Pool, Ticket};

use crate::operation::Operation;
use crate::operation::answer::Outcome;
use crate::operation::host::Host;
use crate::pool::work::Work;
use crate::token::session::Session;

/// A session, or the right to open one, with what is to run on it.
pub(crate) type Grant<H> = session_pool::Grant<Session, Work<H>>;

/// The pool's state machine.
pub(crate) type SessionPool<H> = Pool<Session, Work<H>>;

/// An operation that waits outside of the pool's queue, where it has a place to come back to.
pub(crate) struct Parked<H: Host> {
    pub(crate) operation: Box<Operation<H>>,
    pub(crate) ticket: Ticket,
    /// The session of its lease.
    pub(crate) held: Option<Held<Session>>,
}

/// What came of a grant.
pub(crate) struct Handled<H: Host> {
    /// What to run next.
    pub(crate) next: Option<Grant<H>>,
    /// The answer, to be sent when the session is free already: a caller that has its answer finds the pool drained.
    pub(crate) answer: Option<(Box<Operation<H>>, Outcome)>,
}

impl<H: Host> Handled<H> {
    /// Nothing is to be answered (yet).
    pub(crate) fn next(next: Option<Grant<H>>) -> Self {
        Self { next, answer: None }
    }

    /// It is answered.
    pub(crate) fn answer(operation: Box<Operation<H>>, outcome: Outcome, next: Option<Grant<H>>) -> Self {
        Self { next, answer: Some((operation, outcome)) }
    }
}
