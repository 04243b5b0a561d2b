//! The way out: a logout that somebody asks for, or that comes after a time without operations. It goes before all waiting operations, but not
//! between the calls of one that runs.

use std::sync::Arc;

use session_pool::Stats;

use crate::error::{Error, Failure};
use crate::operation::Place;
use crate::operation::answer::Answer;
use crate::operation::asker::Asker;
use crate::operation::header::Header;
use crate::operation::host::{Host, PoolServer};
use crate::operation::notice::Notice;
use crate::p11::{self, CallError, Class};
use crate::pool::TokenPool;
use crate::pool::grant::Grant;
use crate::pool::in_flight::InUse;
use crate::pool::login::state::AwaitingAttempt;
use crate::pool::work::{Asked, Control};
use crate::support::clock::now;
use crate::token::Token;
use crate::token::login_gate::Leave;
use crate::token::session::Session;

/// Whether a logout was made.
enum Made {
    Done(&'static str),
    NotDue,
    /// A login is in progress.
    Later,
    /// The module is being initialized again.
    Return,
    Refused(Error),
}

impl<H: Host> TokenPool<H> {
    /// Logs out. `force`: even if others share the login. The answer comes by the header.
    pub fn logout(&self, header: Arc<Header<H>>, force: bool) {
        let asked = Asked::new(Some(Asker(header)), force);
        // Before anybody is held back for it.
        let shared = self.availability.token().ok().and_then(|token| self.shared_login(&token, force));
        match shared {
            Some(error) => asked.answer(Err(Failure::not_executed(error))),
            None => self.submit_control(Control::logout(asked)),
        }
        self.advance_drain();
    }

    /// Logs out if nothing has run for so long.
    pub(crate) fn log_out_if_inactive(&self) {
        let Ok(token) = self.availability.token() else { return };
        let Stats { running, opening, closing, waiting, .. } = self.sessions.stats();
        // It holds nobody back: where something is under way, the pool is not inactive, or it comes again.
        let is_quiet = running + opening + closing + waiting == 0;
        if is_quiet && self.login.is_inactive() && self.login.admitted_epoch(&token).is_some() {
            self.submit_control(Control::logout(Asked::new(None, false)));
        }
    }

    pub(crate) fn handle_logout(&self, in_use: InUse<'_, H>, asked: Asked<H>) -> Option<Grant<H>> {
        let session = in_use.session();
        let made = self.log_out(session.token(), session, &asked);
        let next = self.free(self.note_return(in_use.finish()), &Place::Pool);
        let outcome = match made {
            // It comes again by itself.
            Made::Later if asked.by.is_none() => Ok(Answer::Done),
            Made::Later => {
                self.await_attempt(AwaitingAttempt::Logout(Control::logout(asked)));
                return next;
            }
            Made::Done(reason) => {
                self.server.post(Notice::LoggedOut { reason });
                Ok(Answer::Done)
            }
            Made::Return => {
                self.await_module_for(Control::logout(asked));
                return next;
            }
            Made::NotDue => Ok(Answer::Done),
            Made::Refused(error) => Err(Failure::not_executed(error)),
        };
        asked.answer(outcome);
        next
    }

    /// Why it is refused: the login is shared, and nobody said that this is no reason.
    fn shared_login(&self, token: &Token, force: bool) -> Option<Error> {
        let (pools, leases) = (token.other_pools(), self.sessions.stats().leased);
        (!force && (pools > 0 || leases > 0)).then_some(Error::LoginShared { pools, leases })
    }

    fn log_out(&self, token: &Arc<Token>, session: &Session, Asked { by, force, .. }: &Asked<H>) -> Made {
        let reason = if by.is_some() { "logout" } else { "inactivity" };
        if by.is_none() && (!self.login.is_inactive() || self.has_leases()) {
            return Made::NotDue;
        }
        // Others may have come meanwhile.
        if let Some(error) = self.shared_login(token, *force) {
            return Made::Refused(error);
        }
        // First: what is said to be logged out is.
        let _inside = match token.module.enter() {
            Ok(inside) => inside,
            Err(Error::Reinitializing) => return Made::Return,
            // The VM stops.
            Err(_) => return Made::NotDue,
        };
        let attempt = match token.gate.begin_logout(self.login.who(), *force) {
            Leave::Begin(attempt) => Some(attempt),
            Leave::Nothing => None,
            Leave::Wait => return Made::Later,
            Leave::Refuse(error) => return Made::Refused(error),
        };
        if let Some(asker) = by {
            // Nobody gives up any more what is under way.
            let _ = asker.0.progress.start(now());
        }
        let result = if attempt.is_some() { c_logout(session) } else { Ok(()) };
        self.login.note_logout(self.options.explicit_login);
        drop(attempt);
        match result {
            Ok(()) => Made::Done(reason),
            Err(error) if self.options.policy.class(&error) == Class::LoginLost => Made::Done(reason),
            Err(error) => Made::Refused(error.into()),
        }
    }
}

/// Called inside of the module.
fn c_logout(session: &Session) -> Result<(), CallError> {
    match session.begin() {
        Some(used) => p11::session::logout(session.token().module.functions(), used.handle()),
        None => Err(CallError::session_lost("C_Logout")),
    }
}
