//! A striped pool of sessions as a state machine with FIFO waiters: no PKCS#11, no BEAM, no clock.
//!
//! What waits in the pool is an *operation* (`W`); what serves it is a *runner*, which owns one session (`S`) for as long as it works.
//! Every transition is one function that takes the lock, commits, and hands back *effects*: values that the caller runs
//! after the lock is released. The states a session can be in are types, so that the illegal ones cannot be said:
//!
//! ```text
//!   Opening --opened--> Held --release--> idle ... Held (a grant)
//!      |                 |                  |
//!  open_failed        discard           tick, drain
//!      v                 v                  v
//!   capacity  <------ Closing <-------------+
//! ```
//!
//! A call that hangs takes its session out of this: the *stake* that it holds is quarantined, and whoever has the session can but close it.
//!
//! * [`Pool`]: stripes, waiters, idle sessions, capacity.
//! * [`Stake`]: what a session holds of the capacity; it can be quarantined while a call hangs.
//! * [`Roster`]: the runners, and the grants that are on their way to one.
//! * [`Lease`]: a session that one caller has for itself.
//! * [`Progress`]: one operation's state, in one atomic word.
//! * [`Handles`]: which session owns a handle, where a module gives one out twice.

#![deny(unsafe_op_in_unsafe_fn)]
#![forbid(unsafe_code)]

mod ceiling;
mod config;
mod effect;
mod lease;
mod ownership;
mod pool;
mod progress;
mod quarantine;
mod roster;
mod stake;
mod stripe;
mod sync;
mod waiters;

pub use config::{Config, ConfigError};
pub use effect::{Drained, Freed, Grant, Refusal, Source, Stats, Submitted, Ticket, ToClose, Waiting};
pub use lease::{Ended, GivenBack, Lease, LeaseEnd, OnLease};
pub use ownership::{Before, Handles, Holder, Ownership, Use};
pub use pool::Pool;
pub use progress::{Abandoned, Progress, Started, State};
pub use quarantine::Quarantined;
pub use roster::{Departed, Dispatch, Entered, Roster, RunnerId, RunnerState};
pub use stake::{Closing, Held, Lent, Opening, Stake};

/// Milliseconds on a monotonic clock that the caller reads.
pub type Millis = u64;
