//! What the pool's functions hand back: effects, for the caller to run when no lock is held.

use crate::stake::{Closing, Held, Opening};

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

/// The pseudo stripe of control operations.
pub(crate) const CONTROL: usize = usize::MAX;

/// The pseudo stripe of exclusive waiters.
pub(crate) const EXCLUSIVE: usize = usize::MAX - 1;

/// A waiter's place, for cancelling it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) stripe: usize,
    pub(crate) id: u64,
}

impl Ticket {
    /// The stripe in whose queue the place is; `None`: it is that of a control operation or an exclusive one.
    pub fn stripe(&self) -> Option<usize> {
        (self.stripe < EXCLUSIVE).then_some(self.stripe)
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
    /// Open sessions in a runner's hands, but for those that callers have for themselves.
    pub running: usize,
    /// Sessions that callers have for themselves, whether they run something or not.
    pub leased: usize,
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
