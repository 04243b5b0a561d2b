//! The PKCS#11 side of pkcs11_pool: modules, tokens, login, sessions, operations, and the runner's loop. No BEAM: whoever hosts it says
//! by the traits of [`host`] where answers go.
//!
//! The folders are layers; each may use those below it:
//!
//! ```text
//!   runner/     the loop: takes the next operation, runs it, answers, goes on
//!   pool/       the pool: sessions, whether the token is there, logins, calls that hang, the end
//!   execution/  one operation on one session, and what its return code asks for
//!   operation/  what is asked for, and the ports by which answers leave
//!   options.rs  what a pool is made of
//!   token/      a token: sessions, keys, the login gate, what a failure comes from
//!   module/     a loaded library: who is inside, initialization, the thread that closes sessions
//!   p11/        the raw C calls
//!   support/    clock, threads, wiped bytes
//! ```

#![deny(unsafe_op_in_unsafe_fn)]

mod error;
mod execution;
mod module;
mod operation;
mod options;
pub mod p11;
mod pool;
mod runner;
mod support;
mod token;

pub use error::{Error, Executed, Failure, Unavailable};
pub use module::report::{ModuleReport, SlotReport, report};
pub use module::{HeldModule, Module, ModuleConfig, ModuleUse};
pub use operation::answer::{Answer, Object, Outcome, unanswerable};
pub use operation::batch::Batch;
pub use operation::header::{Header, Timing};
pub use operation::host;
pub use operation::key_ref::{KeyRef, Newest, Numbers, PublicKey};
pub use operation::notice::{Cost, Notice, Retry};
pub use operation::request::Request;
pub use operation::stream::{Beginning, StreamKind, StreamPart};
pub use operation::task::Task;
pub use operation::{ContextPin, Operation, Place};
pub use options::{LoginMode, PoolOptions};
pub use pool::record::{Ailment, Health};
pub use pool::work::{Control, Work};
pub use pool::{Status, TokenPool};
pub use runner::inline_call::Direct;
pub use runner::{Budget, Served};
pub use session_pool::LeaseEnd;
pub use support::clock::{nanos, now, unix};
pub use support::data::Data;
pub use support::panics::{panics, survive};
pub use support::pin::Pin;
pub use support::pin_file::{PinFileError, Readers, read_pin_file};
pub use support::sender::{SenderThread, Timer};
pub use support::tally::Latency;
pub use support::wiped::Wiped;
pub use token::login_gate::{Awaited, ContextLogin, Explicit, Gate, Leave, Listener, LoginAttempt, Mark, Verdict, Who};
pub use token::policy::Policy;
pub use token::provision::{Provision, provision};
pub use token::session::Session;
pub use token::suspicion::Limits;
pub use token::{Claim, Selector, Token, UriAttribute};

/// A session that one caller has for itself.
pub type Lease<H> = operation::OperationLease<H>;
