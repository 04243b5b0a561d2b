//! A loaded PKCS#11 library. It is loaded and initialized once per VM, shared by all who use it, and never unloaded.
//!
//! This folder owns: which libraries are loaded ([`registry`]), whether each is initialized and by whom ([`lifecycle`], [`initialize`],
//! [`reinitialize`]), who is inside ([`door`], [`enter`]), its sessions' handles ([`handle`]), the thread on which things end ([`closing_thread`]),
//! and that the VM does not end under a thread that is inside ([`exit`]).
//!
//! It may not know tokens, sessions' logins or pools. Whoever opens sessions registers as a [`tenant`].

mod closing_thread;
mod config;
mod door;
mod enter;
mod environment;
pub(crate) mod exit;
mod file;
pub(crate) mod handle;
mod initialize;
mod lifecycle;
mod loaded;
mod one_at_a_time;
mod registry;
pub(crate) mod reinitialize;
pub(crate) mod report;
mod slot_events;
pub(crate) mod tenant;

pub use config::ModuleConfig;
pub(crate) use door::{Inside, StuckCall};
pub use initialize::{HeldModule, ModuleUse};
pub use loaded::Module;
