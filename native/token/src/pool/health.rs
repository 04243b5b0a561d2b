//! Whether a pool does what it is there for; and if it does not, why, and since when. It is put together from what the pool knows already:
//! neither the module nor anybody's PIN source is asked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use session_pool::{Millis, Stats};

use crate::error::Error;
use crate::operation::host::Host;
use crate::options::LoginMode;
use crate::pool::TokenPool;
use crate::pool::availability::Outage;
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
    fn down((error, since): (Error, Millis)) -> Self {
        Self { health: Health::Down, error, since }
    }

    fn degraded((error, since): (Error, Millis)) -> Self {
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
    pub(crate) fn serves(&self) {
        if !self.has_served.load(Ordering::Relaxed) {
            self.has_served.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn drains(&self) {
        let _ = self.drained.compare_exchange(0, now().max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn could_not_open(&self, error: &Error) {
        self.opening.lock().note(error.clone(), now());
    }

    /// A session was opened, or there is another reason to believe that one can be.
    pub(crate) fn may_open(&self) {
        self.opening.lock().clear();
    }
}

impl<H: Host> TokenPool<H> {
    /// What is wrong, the worst first; `stuck`: calls that hang and hold their capacity.
    pub(crate) fn ailment(&self, stats: &Stats, stuck: usize) -> Option<Ailment> {
        self.end_of_service()
            .or_else(|| self.token_trouble())
            .or_else(|| self.login_trouble())
            .or_else(|| self.hung_trouble(stats, stuck))
            .or_else(|| self.opening_trouble(stats))
    }

    fn end_of_service(&self) -> Option<Ailment> {
        let is_over = self.is_draining() || self.availability.is_stopped();
        is_over.then(|| Ailment::down((Error::Draining, self.record.drained.load(Ordering::Relaxed))))
    }

    fn token_trouble(&self) -> Option<Ailment> {
        let Outage { error, since, is_recovering } = self.availability.outage(self.record.made)?;
        Some(if is_recovering { Ailment::degraded((error, since)) } else { Ailment::down((error, since)) })
    }

    /// Why operations do not get through the gate.
    fn login_trouble(&self) -> Option<Ailment> {
        if self.options.login == LoginMode::None {
            return None;
        }
        let token = self.availability.bound_token()?;
        let own = self.login.own_trouble(&token);
        let of_all = token.gate.trouble(self.options.user);
        if own.is_none() && token.gate.is_logged_in() {
            // Keys that want a login for each use do not get theirs.
            return of_all.map(Ailment::degraded);
        }
        own.or(of_all).map(Ailment::down)
    }

    fn hung_trouble(&self, stats: &Stats, stuck: usize) -> Option<Ailment> {
        let hung = stats.hung + stuck;
        if hung == 0 {
            return None;
        }
        let (mut since, mut login) = (now(), false);
        for (_, record) in self.in_flight.all() {
            if let Some(current) = record.lock().as_ref().filter(|current| current.hangs()) {
                since = since.min(current.since.unwrap_or(since));
                login |= !current.purpose.kind.is_replaceable();
            }
        }
        let trouble = (Error::SessionsHung { hung, size: stats.size }, since);
        let is_all = login || stuck >= stats.ceiling;
        Some(if is_all { Ailment::down(trouble) } else { Ailment::degraded(trouble) })
    }

    fn opening_trouble(&self, stats: &Stats) -> Option<Ailment> {
        if stats.idle + stats.running + stats.leased == 0
            && let Some(failed) = self.record.opening.lock().get()
        {
            return Some(Ailment::down(failed));
        }
        let starts = !self.options.lazy && !self.record.has_served.load(Ordering::Relaxed);
        starts.then(|| Ailment::degraded((Error::Starting, self.record.made)))
    }
}
