//! A pool's logins and logouts.

mod explicit;
pub(crate) mod log_in;
mod log_out;
pub(crate) mod passage;
pub(crate) mod state;
