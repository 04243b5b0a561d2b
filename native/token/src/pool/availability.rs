//! Whether a pool has its token, in one place.
//!
//! ```text
//!   Detached --found--> Up <----------------------+
//!      |                | \__ trouble __          |
//!      |       token lost              v          | found again
//!      |                |       Recovering -------+
//!      v                v              | not at once
//!     Down(never found) Down <---------+ ---------^
//! ```
//!
//! While it recovers, for a moment, operations are held back; while it is down, they are refused. In both, one thread sees to it
//! (`recovery.rs`); from everywhere a drain leads to `Stopped`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use session_pool::Millis;

use crate::error::{Error, Unavailable};
use crate::module::ModuleUse;
use crate::operation::host::Host;
use crate::p11::CallError;
use crate::pool::TokenPool;
use crate::pool::control::Express;
use crate::token::{Claim, Token};

/// For how long operations are held back; then new ones are refused.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// How often who waits for the attachment asks whether it still should.
const LOOK: Duration = Duration::from_millis(100);

/// What a pool that has found its token holds on to. The claim goes before the module's use: the last one out finalizes it.
pub(crate) struct Anchor {
    pub(crate) claim: Claim,
    pub(crate) module: ModuleUse,
}

/// A pool's attachment to its token.
pub(crate) enum Attachment {
    /// Nothing was looked for yet.
    Detached,
    /// The token is there.
    Up(Anchor),
    /// It may be back at once.
    Recovering(Absence),
    /// It is away.
    Down(Absence),
    /// The pool has ended.
    Stopped,
}

/// A token that is away.
pub(crate) struct Absence {
    /// `None`: it was never there.
    pub(crate) anchor: Option<Anchor>,
    pub(crate) since: Instant,
    /// The call that told.
    pub(crate) call: Option<CallError>,
    /// What the last look came to.
    pub(crate) cause: Option<Error>,
    pub(crate) remedy: Remedy,
    pub(crate) retry_at: Instant,
    /// Whether a thread sees to it.
    pub(crate) attended: bool,
}

/// What the next look for a token begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    Look,
    LogOut,
    /// A logout, if that was not tried before, and then what helps a device in trouble that lasts.
    Revive {
        /// How often its module had begun to be initialized again.
        restarts: u64,
        logs_out: bool,
    },
    Reinitialize {
        /// The module's incarnation that is in trouble.
        seen: u64,
    },
}

/// What an operation finds that is about to run.
pub(crate) enum Readiness {
    Ready,
    /// It goes back to its place.
    Held,
    Refused(Error),
}

/// A pool's attachment, and who waits for it.
pub(crate) struct Mooring<H: Host> {
    pub(crate) attachment: RwLock<Attachment>,
    /// It is not `Up`: for a look without the lock. Written under it.
    pub(crate) troubled: AtomicBool,
    /// Logins and logouts that are held back: they would pass the pool's gate.
    pub(crate) held: Mutex<Vec<Express<H>>>,
    /// Where the recovery's thread sleeps, and who waits for the attachment to change.
    pub(crate) bed: Mutex<()>,
    pub(crate) woken: Condvar,
}

impl<H: Host> Default for Mooring<H> {
    fn default() -> Self {
        Self {
            attachment: RwLock::new(Attachment::Detached),
            troubled: AtomicBool::new(true),
            held: Mutex::default(),
            bed: Mutex::default(),
            woken: Condvar::new(),
        }
    }
}

impl Attachment {
    pub(crate) fn anchor(&self) -> Option<&Anchor> {
        match self {
            Self::Up(anchor) => Some(anchor),
            Self::Recovering(absence) | Self::Down(absence) => absence.anchor.as_ref(),
            Self::Detached | Self::Stopped => None,
        }
    }

    fn readiness(&self) -> Readiness {
        match self {
            Self::Up(_) => Readiness::Ready,
            Self::Recovering(_) => Readiness::Held,
            Self::Down(absence) => Readiness::Refused(absence.error()),
            Self::Detached => Readiness::Refused(Error::not_initialized("C_Initialize")),
            Self::Stopped => Readiness::Refused(Error::Draining),
        }
    }
}

impl Absence {
    /// A token that has just been lost.
    pub(crate) fn of(mut anchor: Anchor, call: Option<CallError>, remedy: Remedy, delay: Duration) -> Self {
        anchor.module.set_up(false);
        let since = Instant::now();
        Self { anchor: Some(anchor), since, call, cause: None, remedy, retry_at: since + delay, attended: true }
    }

    /// A token that was not found at the start.
    pub(crate) fn never_found(cause: Error, delay: Duration) -> Self {
        let since = Instant::now();
        let (call, remedy, retry_at) = (None, Remedy::Look, since + delay);
        Self { anchor: None, since, call, cause: Some(cause), remedy, retry_at, attended: true }
    }

    /// Whether it has lasted for longer than who waits is held back for.
    pub(crate) fn is_late(&self) -> bool {
        let holds_back = || self.anchor.as_ref().is_some_and(|anchor| anchor.module.module().holds_back());
        self.since.elapsed() >= PATIENCE && !holds_back()
    }

    /// What callers are told.
    pub(crate) fn error(&self) -> Error {
        if self.anchor.is_none()
            && let Some(cause) = &self.cause
        {
            return cause.clone();
        }
        Error::TokenUnavailable(Unavailable {
            call: self.call.or_else(|| self.cause.as_ref()?.call()),
            cause: self.cause.as_ref().map(Error::to_string),
            away: millis(self.since.elapsed()),
            // Never 0: it is being looked for right now.
            retry_after: millis(self.retry_at.saturating_duration_since(Instant::now())).max(1),
        })
    }
}

fn millis(duration: Duration) -> Millis {
    duration.as_millis() as Millis
}

impl<H: Host> TokenPool<H> {
    /// The token that it has, or had before it went away.
    pub(crate) fn anchored(&self) -> Option<Arc<Token>> {
        self.mooring.attachment.read().anchor().map(|anchor| anchor.claim.token().clone())
    }

    /// The token, or why there is none.
    pub fn token(&self) -> Result<Arc<Token>, Error> {
        match &*self.mooring.attachment.read() {
            Attachment::Up(anchor) | Attachment::Recovering(Absence { anchor: Some(anchor), .. }) => {
                Ok(anchor.claim.token().clone())
            }
            other => match other.readiness() {
                Readiness::Refused(error) => Err(error),
                Readiness::Ready | Readiness::Held => Err(Error::Reinitializing),
            },
        }
    }

    /// Whether an operation may run.
    #[inline]
    pub(crate) fn readiness(&self) -> Readiness {
        if !self.mooring.troubled.load(Ordering::Acquire) {
            return Readiness::Ready;
        }
        self.mooring.attachment.read().readiness()
    }

    /// Why a new operation is not even taken.
    #[inline]
    pub(crate) fn refusal(&self) -> Option<Error> {
        if !self.mooring.troubled.load(Ordering::Acquire) {
            return None;
        }
        match &*self.mooring.attachment.read() {
            Attachment::Recovering(absence) if absence.is_late() => Some(absence.error()),
            // A pool that has stopped says so by itself.
            Attachment::Stopped => None,
            other => match other.readiness() {
                Readiness::Refused(error) => Some(error),
                Readiness::Ready | Readiness::Held => None,
            },
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        matches!(*self.mooring.attachment.read(), Attachment::Stopped)
    }

    /// One step of the attachment, and what comes of it.
    pub(crate) fn change<T>(&self, step: impl FnOnce(Attachment) -> (Attachment, T)) -> T {
        let result = {
            let mut attachment = self.mooring.attachment.write();
            let (next, result) = step(std::mem::replace(&mut *attachment, Attachment::Stopped));
            self.mooring.troubled.store(!matches!(next, Attachment::Up(_)), Ordering::Release);
            *attachment = next;
            result
        };
        let _bed = self.mooring.bed.lock();
        self.mooring.woken.notify_all();
        result
    }

    /// Waits for the attachment to change, for a moment.
    pub(crate) fn await_change(&self) {
        let mut bed = self.mooring.bed.lock();
        self.mooring.woken.wait_for(&mut bed, LOOK);
    }

    /// A pool that is down looks for its token at once.
    pub(crate) fn look_now(&self) {
        if let Attachment::Down(absence) = &mut *self.mooring.attachment.write() {
            absence.retry_at = Instant::now();
        }
        let _bed = self.mooring.bed.lock();
        self.mooring.woken.notify_all();
    }

    /// Waits for the pool to be ready, or refused, for as long as `is_wanted`.
    pub(crate) fn await_attachment(&self, is_wanted: impl Fn() -> bool) -> Readiness {
        let mut bed = self.mooring.bed.lock();
        loop {
            let readiness = self.readiness();
            if !matches!(readiness, Readiness::Held) || !is_wanted() {
                return readiness;
            }
            // Nobody tells that it is not wanted any more.
            self.mooring.woken.wait_for(&mut bed, LOOK);
        }
    }
}
