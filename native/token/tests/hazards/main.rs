//! What may befall a pool, without a BEAM and without a real token: each test runs the crate's own runners, login and recovery on a copy of
//! `native/fake_module`, is named after what it promises, and takes milliseconds. No timing decides one: what a test has to see first, it waits for.

#![deny(unsafe_op_in_unsafe_fn)]

mod calls;
mod drain;
mod encapsulation;
mod hung;
mod inline;
mod interfaces;
mod lease;
mod login;
mod messages;
mod panics;
mod recovery;
mod serialized;
mod sessions;
mod support;
