//! The way out: a logout that somebody asks for, or that comes after a time without operations. It goes before all waiting operations, but not
//! between the calls of one that runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Failure};
use crate::operation::Place;
use crate::operation::answer::Answer;
use crate::operation::asker::Asker;
use crate::operation::header::Header;
use crate::operation::host::{Host, Outlet, PoolServer};
use crate::operation::notice::Notice;
use crate::p11::{self, CallError, Class};
use crate::pool::TokenPool;
use crate::pool::control::HoldsBack;
use crate::pool::grant::Grant;
use crate::pool::in_flight::InUse;
use crate::pool::work::{Asked, Control};
use crate::support::clock::now;
use crate::token::Token;
use crate::token::login_gate::{Awaited, Leave};
use crate::token::session::Session;

/// Whether a logout was made.
enum Made {
    Done(&'static str),
    NotDue,
    /// Something runs, or a login is in progress.
    Later,
    /// The module is being initialized again.
    Return,
    Refused(Error),
}

impl<H: Host> TokenPool<H> {
    /// Logs out. `force`: even if others share the login. The answer comes by the header.
    pub fn logout(&self, header: Arc<Header<H>>, force: bool) {
        self.submit_control(Control::logout(None, Asked::new(Some(Asker(header)), force)));
    }

    /// Logs out if nothing has run for so long.
    pub(crate) fn log_out_if_inactive(&self) {
        let Ok(token) = self.availability.token() else { return };
        if self.login.is_inactive() && self.login.admitted_epoch(&token).is_some() && self.sessions.stats().running == 0 {
            self.submit_control(Control::logout(None, Asked::new(None, false)));
        }
    }

    pub(crate) fn handle_logout(
        &self,
        in_use: InUse<'_, H>,
        mut holds_back: Option<HoldsBack<H>>,
        asked: Asked<H>,
    ) -> Option<Grant<H>> {
        let session = in_use.session();
        let made = self.log_out(session.token(), session, &mut holds_back, &asked);
        let next = self.free(self.returned(in_use.finish()), &Place::Pool);
        let outcome = match made {
            // It comes again by itself.
            Made::Later if asked.by.is_none() => Ok(Answer::Done),
            Made::Later => {
                self.wait_for_end(Control::logout(holds_back, asked));
                return next;
            }
            Made::Done(reason) => {
                self.server.post(Notice::LoggedOut { reason });
                Ok(Answer::Done)
            }
            Made::Return => {
                self.await_module_for(Control::logout(holds_back, asked));
                return next;
            }
            Made::NotDue => Ok(Answer::Done),
            Made::Refused(error) => Err(Failure::not_executed(error)),
        };
        drop(holds_back);
        asked.answer(outcome);
        next
    }

    /// A logout waits for what runs to end, or for a login.
    fn wait_for_end(&self, logout: Control<H>) {
        {
            let mut logouts = self.login.logouts.lock();
            logouts.push(logout);
            self.login.has_logouts.store(true, Ordering::SeqCst);
        }
        // What it waited for may have ended before anybody could know that it waits.
        self.resume_logouts();
    }

    fn log_out(
        &self,
        token: &Arc<Token>,
        session: &Session,
        holds_back: &mut Option<HoldsBack<H>>,
        Asked { by, force, .. }: &Asked<H>,
    ) -> Made {
        let leases = self.leased();
        let reason = if by.is_some() { "logout" } else { "inactivity" };
        if by.is_none() && (!self.login.is_inactive() || leases > 0) {
            return Made::NotDue;
        }
        let pools = token.other_pools();
        if !force && (pools > 0 || leases > 0) {
            return Made::Refused(Error::LoginShared { pools, leases });
        }
        self.hold_all_back(holds_back);
        if self.sessions.stats().running > 1 + leases {
            return Made::Later;
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
            Err(error) if self.options.class(&error) == Class::LoginLost => Made::Done(reason),
            Err(error) => Made::Refused(error.into()),
        }
    }

    /// Lets go of logouts that nobody waits for; the pool's gate was closed for them.
    pub(crate) fn sweep_logouts(&self, outlet: &impl Outlet<H>) {
        if !self.login.has_logouts.load(Ordering::SeqCst) {
            return;
        }
        let over: Vec<_> = {
            let mut logouts = self.login.logouts.lock();
            let (over, waiting) = std::mem::take(&mut *logouts).into_iter().partition(|logout| logout.is_off(outlet));
            *logouts = waiting;
            self.login.has_logouts.store(!logouts.is_empty(), Ordering::SeqCst);
            over
        };
        drop(over);
    }

    /// Something has ended: logouts that wait try again, if there is nothing left for them to wait for.
    pub(crate) fn resume_logouts(&self) {
        if !self.login.has_logouts.load(Ordering::SeqCst) || !self.may_log_out() {
            return;
        }
        let waiting = {
            let mut logouts = self.login.logouts.lock();
            self.login.has_logouts.store(false, Ordering::SeqCst);
            std::mem::take(&mut *logouts)
        };
        for work in waiting {
            self.submit_control(work);
        }
    }

    fn may_log_out(&self) -> bool {
        self.sessions.stats().running <= self.leased()
            && !self.availability.token().is_ok_and(|token| token.gate.listen(Awaited::Attempt, self.listener()))
    }
}

/// Called inside of the module.
fn c_logout(session: &Session) -> Result<(), CallError> {
    match session.begin() {
        Some(used) => p11::session::logout(session.token().module.functions(), used.handle()),
        None => Err(CallError::session_lost("C_Logout")),
    }
}
