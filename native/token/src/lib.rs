//! The PKCS#11 side of pkcs11_pool: modules, tokens, login, sessions, operations, and the runner's loop. No BEAM: whoever hosts it says
//! by the traits of [`host`] where answers go.
//!
//! ```text
//!   TokenPool ── Roster, Pool (session_pool)
//!     │  serve: the runner's loop
//!     ├─ execute: one operation on one session, and what its return code asks for
//!     ├─ Mooring: whether the pool has its token; recovery: the thread that gets it back
//!     ├─ Access: a pool's side of the gate (PIN source, login, logout)
//!     ├─ Gate: one login per token        ┐
//!     ├─ KeyCache: one handle per key     ├ Token ── Module: loaded once, its reaper closes sessions
//!     └─ Session: an OpenHandle, used by one thread at a time, and void: whether an answer is its own ┘
//!          └─ p11: the raw C calls
//! ```

#![deny(unsafe_op_in_unsafe_fn)]

mod access;
mod attachment;
mod backoff;
mod batch;
mod cell;
mod clock;
mod closing;
mod context;
mod courier;
mod data;
mod error;
mod execute;
mod executed;
mod exit;
mod express;
mod gate;
mod guest;
mod handle;
mod hashing;
mod health;
pub mod host;
mod hung;
mod information;
mod keepalive;
mod key_facts;
mod keys;
mod known;
mod ladder;
mod lease;
mod linger;
mod login;
mod logout;
mod module;
mod opening;
pub mod p11;
mod panics;
mod parking;
mod pin_file;
mod pool;
mod probe;
mod provision;
mod reaper;
mod recovery;
mod reload;
mod request;
mod serve;
mod session;
mod slot_events;
mod stopping;
mod suspicion;
mod task;
mod token;
mod turns;
mod turnstile;
mod vanished;
mod void;
mod wiped;
mod worker;

pub use batch::Batch;
pub use clock::{nanos, now, unix};
pub use courier::{Courier, Timer};
pub use data::Data;
pub use error::{Error, Executed, Failure, Unavailable};
pub use express::Express;
pub use gate::{Attempt, Awaited, Explicit, Gate, Leave, Listener, Mark, Proof, Verdict, Who};
pub use guest::Direct;
pub use health::{Ailment, Health};
pub use hung::Cost;
pub use information::{ModuleReport, SlotReport, report};
pub use keepalive::Keepalive;
pub use keys::KeyCache;
pub use lease::{End, Lease};
pub use module::{Module, ModuleConfig, ModuleUse};
pub use panics::{panics, survive};
pub use pin_file::{PinFileError, Readers, read_pin_file};
pub use pool::{LoginMode, PoolOptions, Status, TokenPool};
pub use provision::{Provision, provision};
pub use request::{
    Answer, ContextPin, Header, KeyRef, Object, Operation, Pin, Place, Request, Retry, Timing, Work, unanswerable,
};
pub use serve::{Budget, Served};
pub use session::Session;
pub use suspicion::Limits;
pub use task::Task;
pub use token::{Claim, Selector, Token, UriAttribute};
pub use wiped::Wiped;
