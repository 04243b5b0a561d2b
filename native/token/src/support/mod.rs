//! What everything else stands on and what knows nothing of PKCS#11: the clock, threads that do jobs, panics, bytes that are wiped.

pub(crate) mod backoff;
pub(crate) mod clock;
pub(crate) mod data;
pub(crate) mod failing;
pub(crate) mod panics;
pub(crate) mod pin;
pub(crate) mod pin_file;
pub(crate) mod sender;
pub(crate) mod wiped;
pub(crate) mod worker;
