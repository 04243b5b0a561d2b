//! What the outside is told of a pool: sessions, logins, hung calls, outages.

use crate::error::Error;
use crate::p11::{CallError, Class};

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

/// What a hung call costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Nothing but itself: its session is replaced.
    Replaced,
    /// A session of the pool: as many are replaced as may be, or nothing else gets into its module.
    Session,
    /// The same, and one of the VM's dirty-IO schedulers.
    Scheduler,
    /// The login of everybody.
    Login,
}

/// Why an operation is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The class of what it failed with.
    pub class: Class,
    /// What it failed with.
    pub call: CallError,
}
