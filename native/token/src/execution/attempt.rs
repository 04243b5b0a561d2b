//! One attempt at an operation on one session: what it is made with, and what it asks of the session.

use std::cell::Cell;

use crate::execution::resolver::Resolver;
use crate::module::handle::HandleUse;
use crate::options::{LoginMode, PoolOptions};
use crate::p11::messages::Messages;
use crate::p11::session::session_info;
use crate::p11::{CallError, Class, Phase, crypto};
use crate::token::diagnosis::PROBE_BYTES;
use crate::token::session::Session;

/// The means of one attempt at an operation.
pub(crate) struct Attempt<'a> {
    /// The pool's.
    pub(crate) options: &'a PoolOptions,
    /// Finds the keys that are named.
    pub(crate) resolver: Resolver<'a>,
    /// When it began, in nanoseconds.
    pub(crate) began: u64,
    pub(crate) session: &'a Session,
    /// The use of the session's handle.
    pub(crate) used: &'a HandleUse<'a>,
    /// Whether nothing has run on the session before.
    pub(crate) is_first: bool,
    /// Whether nobody waits for it any more: asked by a search, which may take long, and by an encapsulation.
    pub(crate) is_over: &'a dyn Fn() -> bool,
    /// Whether it has ended what an earlier operation had left active.
    pub(crate) has_cancelled: Cell<bool>,
    /// The operation by messages that has begun, and not ended.
    pub(crate) messages: Cell<Option<Messages>>,
    /// How the session has failed after the operation has done what it is for: it is of no use to the next.
    pub(crate) session_failed: Cell<Option<Class>>,
}

impl Attempt<'_> {
    /// What the pool makes of a return code.
    pub(crate) fn class(&self, call: &CallError) -> Class {
        self.options.policy.class(call)
    }

    /// Whether the session answers, by what no input decides.
    pub(crate) fn session_answers(&self) -> bool {
        session_info(self.resolver.functions, self.resolver.session).is_ok()
    }

    /// Whether a session that has lain idle still lives. Many a library says so by itself, whatever the device knows: the device is asked, too.
    pub(crate) fn is_alive(&self) -> bool {
        let Resolver { functions, session, .. } = self.resolver;
        let asked = session_info(functions, session)
            .and_then(|_| crypto::generate_random(functions, session, PROBE_BYTES, PROBE_BYTES).map(drop));
        !asked.is_err_and(|error| self.class(&error) == Class::DeadSession)
    }

    /// Fails if the session has lost its handle: asked between two calls.
    pub(crate) fn check_session(&self) -> Result<(), CallError> {
        if self.used.is_owner() {
            Ok(())
        } else {
            Err(CallError { phase: Phase::Init, ..CallError::session_lost("C_GetSessionInfo") })
        }
    }

    /// Whether a search may have missed something: what is private does not show without a login, and somebody may have logged in again since.
    /// The session is asked first: whoever it says is logged in again has moved the epoch by then.
    pub(crate) fn may_have_missed(&self) -> Result<bool, CallError> {
        let Resolver { token, epoch, .. } = self.resolver;
        let asks = self.lacks_login();
        let changed = self.options.login != LoginMode::None && token.gate.epoch() != epoch;
        if changed { Ok(true) } else { asks }
    }

    /// Whether a login is due and there is none, as the session says; `Err`: it does not say.
    pub(crate) fn lacks_login(&self) -> Result<bool, CallError> {
        if self.options.login == LoginMode::None {
            return Ok(false);
        }
        self.has_no_user().map_err(|error| CallError { phase: Phase::Init, ..error })
    }

    /// A login is due, and the session says that there is none.
    pub(crate) fn is_login_lost(&self) -> bool {
        self.lacks_login().unwrap_or(false)
    }

    /// The session says that nobody is logged in.
    pub(crate) fn is_logged_out(&self) -> bool {
        self.has_no_user().unwrap_or(false)
    }

    fn has_no_user(&self) -> Result<bool, CallError> {
        let Resolver { functions, session, .. } = self.resolver;
        session_info(functions, session).map(|info| !info.is_user() && !info.is_security_officer())
    }
}
