//! The states of a pool's token, and what leads from one to the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use session_pool::Millis;

use crate::error::{Error, Unavailable};
use crate::module::ModuleUse;
use crate::module::reinitialize::HOLD_BACK_LIMIT;
use crate::p11::CallError;
use crate::token::{Claim, Token};

/// What a pool that has found its token holds on to. The claim goes before the module's use: the last one out finalizes the module.
pub(crate) struct Binding {
    pub(crate) claim: Claim,
    pub(crate) module: ModuleUse,
}

pub(super) enum State {
    /// Nothing was looked for yet.
    Detached,
    /// The token is there.
    Up(Binding),
    /// It may be back at once.
    Recovering(Absence),
    /// It is away.
    Down(Absence),
    /// The pool has ended.
    Stopped,
}

/// A token that is away.
pub(super) struct Absence {
    /// `None`: it was never there.
    pub(super) binding: Option<Binding>,
    pub(super) since: Instant,
    /// The call that told.
    pub(super) call: Option<CallError>,
    /// What the last look came to.
    pub(super) cause: Option<Error>,
    pub(super) remedy: Remedy,
    pub(super) retry_at: Instant,
    /// Whether a thread looks for it.
    pub(super) has_thread: bool,
}

/// What the next look for a token begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing.
    Look,
    /// A logout.
    LogOut,
    /// A logout, if that was not tried before, and then what helps a device in trouble that lasts.
    Revive {
        /// How often its module had begun to be initialized again.
        restarts: u64,
        logs_out: bool,
    },
    /// The module is initialized again.
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

/// What a look for the token has found.
pub(crate) enum Found {
    /// What the pool had.
    Same,
    /// Another one that is as good.
    Replacement(Claim),
    /// For the first time.
    First(Binding),
}

/// The token has gone away.
pub(crate) struct Fallen {
    /// No thread looks for it yet.
    pub(crate) needs_thread: bool,
}

/// The token is there again.
pub(crate) struct Risen {
    /// The pool was down: whether the token had been there before.
    pub(crate) was_down: Option<bool>,
}

/// The next thing to do for who looks for the token.
pub(crate) enum NextLook {
    /// There is nothing to look for any more.
    Over,
    /// It is time to look: for what the pool had, after this remedy.
    Now(Option<Had>, Remedy),
    /// A look is not due yet, but the module may tell of the token.
    Listen(Had),
}

/// What a pool had that looks for its token. The pool may stop while a look is inside of the module: the use keeps that from being finalized.
pub(crate) struct Had {
    pub(crate) token: Arc<Token>,
    _use: ModuleUse,
}

/// Why the token is not to be had, and since when.
pub(crate) struct Outage {
    pub(crate) error: Error,
    pub(crate) since: Millis,
    /// Operations are held back, and not refused yet.
    pub(crate) is_recovering: bool,
}

impl Had {
    pub(super) fn of(binding: &Binding) -> Self {
        Self { token: binding.claim.token().clone(), _use: binding.module.share() }
    }
}

impl State {
    pub(super) fn binding(&self) -> Option<&Binding> {
        match self {
            Self::Up(binding) => Some(binding),
            Self::Recovering(absence) | Self::Down(absence) => absence.binding.as_ref(),
            Self::Detached | Self::Stopped => None,
        }
    }

    pub(super) fn absence(&self) -> Option<&Absence> {
        match self {
            Self::Recovering(absence) | Self::Down(absence) => Some(absence),
            Self::Detached | Self::Up(_) | Self::Stopped => None,
        }
    }

    pub(super) fn absence_mut(&mut self) -> Option<&mut Absence> {
        match self {
            Self::Recovering(absence) | Self::Down(absence) => Some(absence),
            Self::Detached | Self::Up(_) | Self::Stopped => None,
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
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
    pub(super) fn of(mut binding: Binding, call: Option<CallError>, remedy: Remedy, delay: Duration) -> Self {
        binding.module.set_in_service(false);
        let since = Instant::now();
        Self { binding: Some(binding), since, call, cause: None, remedy, retry_at: since + delay, has_thread: true }
    }

    /// A token that was not found at the start.
    pub(super) fn never_found(cause: Error, delay: Duration) -> Self {
        let since = Instant::now();
        let (call, remedy, retry_at) = (None, Remedy::Look, since + delay);
        Self { binding: None, since, call, cause: Some(cause), remedy, retry_at, has_thread: true }
    }

    /// Whether it has lasted for longer than who waits is held back for.
    pub(super) fn is_late(&self) -> bool {
        let holds_back = || self.binding.as_ref().is_some_and(|binding| binding.module.module().holds_back());
        self.since.elapsed() >= HOLD_BACK_LIMIT && !holds_back()
    }

    /// What callers are told.
    pub(super) fn error(&self) -> Error {
        if self.binding.is_none()
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

    /// It is over: what is next, and what is left over.
    pub(super) fn end(mut self, found: Found) -> (State, Option<Found>) {
        let (mut binding, left_over) = match (self.binding.take(), found) {
            (Some(mut binding), Found::Replacement(claim)) => {
                let before = std::mem::replace(&mut binding.claim, claim);
                (binding, Some(Found::Replacement(before)))
            }
            (Some(binding), found) => (binding, Some(found)),
            (None, Found::First(binding)) => (binding, None),
            (None, found) => return (State::Down(self), Some(found)),
        };
        binding.module.set_in_service(true);
        (State::Up(binding), left_over)
    }
}

fn millis(duration: Duration) -> Millis {
    duration.as_millis() as Millis
}
