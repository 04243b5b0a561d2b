//! What a pool remembers of itself, for whoever asks how well it is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use session_pool::Millis;

use crate::error::Error;
use crate::support::clock::now;
use crate::support::failing::Failing;

/// How well a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// As far as is known, calls succeed.
    Ready,
    /// They do, but something is wrong.
    Degraded,
    /// They fail, or wait in vain.
    Down,
}

/// What is wrong, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ailment {
    /// `Degraded` or `Down`.
    pub health: Health,
    /// What is wrong.
    pub error: Error,
    /// Since when.
    pub since: Millis,
}

impl Ailment {
    pub(crate) fn down((error, since): (Error, Millis)) -> Self {
        Self { health: Health::Down, error, since }
    }

    pub(crate) fn degraded((error, since): (Error, Millis)) -> Self {
        Self { health: Health::Degraded, error, since }
    }
}

/// What a pool remembers of itself for this.
pub(crate) struct Record {
    made: Millis,
    /// It has logged in, or an operation has run.
    has_served: AtomicBool,
    /// 0: it does not drain.
    drained: AtomicU64,
    /// Sessions could not be opened.
    opening: Mutex<Failing<Error>>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self { made: now(), has_served: AtomicBool::new(false), drained: AtomicU64::new(0), opening: Mutex::default() }
    }

    /// It has a session, logged in where it logs in.
    pub(crate) fn note_service(&self) {
        if !self.has_served.load(Ordering::Relaxed) {
            self.has_served.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn note_drain(&self) {
        let _ = self.drained.compare_exchange(0, now().max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn note_not_opened(&self, error: &Error) {
        self.opening.lock().note(error.clone(), now());
    }

    /// A session was opened, or there is another reason to believe that one can be.
    pub(crate) fn note_opened(&self) {
        self.opening.lock().clear();
    }

    /// When the pool was made.
    pub(crate) fn made(&self) -> Millis {
        self.made
    }

    /// Since when it drains; 0: it does not.
    pub(crate) fn drains_since(&self) -> Millis {
        self.drained.load(Ordering::Relaxed)
    }

    /// Whether it has ever had a session, logged in where it logs in.
    pub(crate) fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    /// Why sessions could not be opened, and since when.
    pub(crate) fn opening_failure(&self) -> Option<(Error, Millis)> {
        self.opening.lock().get()
    }
}
