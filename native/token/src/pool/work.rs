//! What runs on a pool's sessions: callers' operations, logins and logouts of everybody, and calls that keep idle sessions alive.

use std::sync::Arc;

use session_pool::Millis;

use crate::error::{Error, Failure};
use crate::operation::answer::Outcome;
use crate::operation::asker::Asker;
use crate::operation::header::Header;
use crate::operation::host::{Host, Outlet};
use crate::operation::{Operation, OperationLease};
use crate::support::clock::nanos;
use crate::token::login_gate::{LoginAttempt, MarkedPin};

/// What the pool queues.
pub enum Work<H: Host> {
    /// A caller's operation.
    Call(Box<Operation<H>>),
    /// A login or logout of everybody.
    Control(Box<Control<H>>),
    /// A session that lies idle is kept alive.
    Keepalive(Keepalive),
}

/// That idle sessions are to be kept alive, one at a time.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Those on which the token was called last at this time or before.
    pub(crate) called_before: Millis,
}

/// A login or logout of everybody. Dropped without an end, it tells who asked for it.
pub struct Control<H: Host> {
    pub(crate) change: Change,
    pub(crate) asked: Asked<H>,
}

/// What it makes of the login.
pub(crate) enum Change {
    Login(Credential),
    Logout,
}

/// What a login is made with.
pub(crate) struct Credential {
    pub(crate) attempt: LoginAttempt,
    /// `None` for a protected authentication path.
    pub(crate) pin: Option<MarkedPin>,
}

/// How it was asked for.
pub(crate) struct Asked<H: Host> {
    /// Who waits for it; nobody if the pool itself wants it.
    pub(crate) by: Option<Asker<H>>,
    /// Even if a wrong PIN would lock the token, or others share the login.
    pub(crate) force: bool,
    /// How many sessions it has found dead that had lain idle.
    pub(crate) dead: usize,
    /// How often it has failed for what another session may mend: one that was new, or died of it, or could not be opened.
    pub(crate) failed: usize,
}

impl<H: Host> Work<H> {
    /// What keeps a session alive, if it is that.
    pub(crate) fn keepalive(&self) -> Option<Keepalive> {
        match self {
            Self::Keepalive(keepalive) => Some(*keepalive),
            Self::Call(_) | Self::Control(_) => None,
        }
    }

    /// The lease on whose session it runs.
    pub(crate) fn lease(&self) -> Option<&Arc<OperationLease<H>>> {
        match self {
            Self::Call(operation) => operation.place.lease(),
            Self::Control(_) | Self::Keepalive(_) => None,
        }
    }

    /// Answers it: the pool will not run it.
    pub(crate) fn refuse(self, error: &Error) {
        match self {
            Self::Call(operation) => operation.post(error.clone()),
            Self::Control(control) => control.refuse(error.clone()),
            Self::Keepalive(_nobody_waits) => (),
        }
    }
}

impl<H: Host> Control<H> {
    pub(crate) fn login(credential: Credential, asked: Asked<H>) -> Self {
        Self { change: Change::Login(credential), asked }
    }

    pub(crate) fn logout(asked: Asked<H>) -> Self {
        Self { change: Change::Logout, asked }
    }

    /// Whether it is a logout, beside which nothing else may run.
    pub(crate) fn is_logout(&self) -> bool {
        matches!(self.change, Change::Logout)
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.change {
            Change::Login(_) => Kind::Login,
            Change::Logout => Kind::Logout,
        }
    }

    /// Of who waits for it.
    pub(crate) fn header(&self) -> Option<&Arc<Header<H>>> {
        self.asked.by.as_ref().map(|asker| &asker.0)
    }

    /// Whether somebody asked for it who does not wait any more.
    pub(crate) fn is_abandoned(&self, outlet: &impl Outlet<H>) -> bool {
        self.header().is_some_and(|header| !header.is_wanted(outlet))
    }

    /// It goes on to another session; `lay_idle`: nothing has failed but a session that lay idle.
    pub(crate) fn again(mut self, lay_idle: bool) -> Self {
        let count = if lay_idle { &mut self.asked.dead } else { &mut self.asked.failed };
        *count += 1;
        self
    }

    /// It is not made: who asked for it is told, and the next who needs a login begins anew.
    pub(crate) fn refuse(self, error: Error) {
        let Self { change, asked } = self;
        drop(change);
        asked.answer(Err(Failure::not_executed(error)));
    }

    /// It fails: all who wait for a login are told.
    pub(crate) fn fail(self, error: Error) {
        match self.change {
            Change::Login(Credential { attempt, .. }) => attempt.fail(error.clone(), false, nanos()),
            Change::Logout => (),
        }
        self.asked.answer(Err(Failure::not_executed(error)));
    }
}

impl<H: Host> Asked<H> {
    pub(crate) fn new(by: Option<Asker<H>>, force: bool) -> Self {
        Self { by, force, dead: 0, failed: 0 }
    }

    pub(crate) fn answer(self, outcome: Outcome) {
        if let Some(asker) = self.by {
            asker.answer(outcome);
        }
    }
}

/// What is done with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A caller's operation, of this name.
    Call(&'static str),
    /// A login or logout: there is only one for everybody, so that nothing replaces it.
    Login,
    Logout,
    Close,
    /// An idle session is kept alive.
    Keepalive,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Call(name) => name,
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Close => "close",
            Self::Keepalive => "keepalive",
        }
    }

    /// Whether another session does instead of one that hangs in it.
    pub(crate) fn is_replaceable(self) -> bool {
        matches!(self, Self::Call(_) | Self::Close | Self::Keepalive)
    }
}
