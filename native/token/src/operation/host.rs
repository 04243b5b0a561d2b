//! What this crate asks of whoever hosts it: `nif` implements it over the BEAM, the tests over channels.

use std::time::Duration;

use crate::error::{Error, Failure};
use crate::operation::request::{Answer, Retry};
use crate::pool::hung::Cost;

/// What an operation ends in.
pub type Outcome = Result<Answer, Failure>;

/// The host's types.
pub trait Host: Sized + 'static {
    /// The address of an operation's caller.
    type Reply: Reply;
    /// The address of a runner.
    type Runner: Wake;
    /// The address of a pool's server.
    type Server: PoolServer;
    /// Runs something after a while, on a thread that must not wait for anything.
    fn later(delay: Duration, run: Box<dyn FnOnce() + Send>);
}

/// The address of a caller. Posting must neither block nor panic: it happens in destructors.
pub trait Reply: Send + Sync + 'static {
    /// Sends the answer by a thread that only sends.
    fn post(&self, outcome: Outcome);
}

/// The address of a runner.
pub trait Wake: Clone + Send + Sync + 'static {
    /// Wakes it by a thread that only sends; neither blocks nor panics.
    fn post(&self);
    /// Ends its wait in [`Outlet::wait`], the one that has begun or the next one; neither blocks nor panics.
    fn unpark(&self);
    /// Whether its thread may be left behind in a call that hangs, and a successor take its place.
    fn is_expendable(&self) -> bool;
}

/// The address of a pool server.
pub trait PoolServer: Send + Sync + 'static {
    /// Tells it by a thread that only sends; neither blocks nor panics.
    fn post(&self, notice: Notice);
}

/// What a pool server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Places for runners are free: start some.
    RunnersWanted,
    /// Ask the PIN source, for this attempt at a login.
    PinWanted {
        /// Names the attempt in the answer.
        attempt: u64,
    },
    /// A session was opened.
    SessionOpened {
        /// Its number.
        session: u64,
        /// How long it took, in nanoseconds.
        nanos: u64,
    },
    /// A session could not be opened, and why.
    SessionRefused {
        /// The reason of the error.
        reason: &'static str,
        /// How long it took, in nanoseconds.
        nanos: u64,
    },
    /// A session was closed, and why.
    SessionClosed {
        /// Its number.
        session: u64,
        /// `"ttl"`, `"dead_session"`, `"drain"`, ...
        reason: &'static str,
    },
    /// A call hangs.
    SessionHung {
        /// The session's number; 0: it is being opened.
        session: u64,
        /// What it is used for: `"sign"`, `"login"`, `"close"`, ...
        operation: &'static str,
        /// For how long.
        ms: u64,
        /// What it costs.
        cost: Cost,
        /// Whether it is on a native thread.
        threads: bool,
        /// How many hang then, this one among them.
        hung: usize,
    },
    /// A call that hung has returned.
    HungReturned {
        /// The session's number; 0: it was not opened.
        session: u64,
        /// What it was used for.
        operation: &'static str,
        /// After how long.
        ms: u64,
    },
    /// A login ended, and how (`"ok"` or the reason of the error).
    LoginEnded {
        /// `"ok"` or the reason.
        result: &'static str,
        /// How long it took, in nanoseconds.
        nanos: u64,
    },
    /// The pool has logged out, and why.
    LoggedOut {
        /// `"logout"` or `"inactivity"`.
        reason: &'static str,
    },
    /// An operation is tried again.
    Retried(Retry),
    /// The token is away: it is looked for.
    Down {
        /// What callers are told.
        error: Error,
    },
    /// The token is there.
    Up {
        /// It had been there before.
        was_there: bool,
    },
    /// The module was initialized again.
    Reinitialized {
        /// `"lost"` (it had lost its initialization), `"trouble"` (all calls failed), `"keys_vanished"` (nothing that was known is
        /// found) or `"reload"`.
        cause: &'static str,
    },
    /// A draining pool has closed its last session.
    Drained,
}

/// Whether the sender of an answer is still alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// Sent, or nobody is there to receive it.
    Done,
    /// The sender's process is dead: the answer goes by the sender, and this runner must take nothing more.
    SenderDead,
}

/// How the current thread sends: directly where it may, by the sender where it may not.
pub trait Outlet<H: Host> {
    /// Whether the caller is still there.
    fn is_wanted(&self, reply: &H::Reply) -> bool;
    /// Sends an answer; it arrives in any case.
    fn answer(&mut self, reply: &H::Reply, outcome: Outcome) -> Delivery;
    /// Wakes a runner.
    fn wake(&mut self, runner: &H::Runner);
    /// Whether the runner that this is the outlet of may wait inside of its call.
    fn may_wait(&self) -> bool {
        false
    }
    /// Waits until somebody unparks it, or for so long.
    fn wait(&mut self, _at_most: Duration) {}
}

/// The outlet of threads that may not send by themselves.
pub struct Posting;

impl<H: Host> Outlet<H> for Posting {
    fn is_wanted(&self, _reply: &H::Reply) -> bool {
        true
    }

    fn answer(&mut self, reply: &H::Reply, outcome: Outcome) -> Delivery {
        reply.post(outcome);
        Delivery::Done
    }

    fn wake(&mut self, runner: &H::Runner) {
        runner.post();
    }
}
