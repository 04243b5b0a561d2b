//! Tools that all other folders use: the clock, counts, delays between tries, threads that do jobs, panics that are survived, bytes that are wiped, PINs in
//! files.
//!
//! They may not know PKCS#11, nor any other folder of this crate.

pub(crate) mod backoff;
pub(crate) mod clock;
pub(crate) mod data;
pub(crate) mod failing;
pub(crate) mod histogram;
pub(crate) mod panics;
pub(crate) mod pin;
pub(crate) mod pin_file;
pub(crate) mod sender;
pub(crate) mod tally;
pub(crate) mod wiped;
pub(crate) mod worker;
