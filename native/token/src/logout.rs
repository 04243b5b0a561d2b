//! The way out: a logout that somebody asks for, or that comes after a time without operations. It goes before all waiting operations, but not
//! between the calls of one that runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use session_pool::{Ticket, Waiting};

use crate::cell::Hand;
use crate::clock::now;
use crate::error::{Error, Failure};
use crate::gate::Leave;
use crate::host::{Host, Keeper, Notice, Outlet};
use crate::login::is_dead;
use crate::opening::{Refusal, Refused};
use crate::p11::{self, CallError, Class};
use crate::pool::{Grant, TokenPool};
use crate::request::{Answer, Asker, Header, Logout, Place, Work};
use crate::session::Session;
use crate::token::Token;
use crate::turns::Remains;

/// Whether a logout was made.
enum Made {
    Done(&'static str),
    NotDue,
    /// Something runs, or a login is in progress.
    Later,
    Refused(Error),
}

impl<H: Host> TokenPool<H> {
    /// Logs out. `force`: even if others share the login. The answer comes by the header.
    pub fn logout(&self, header: Arc<Header<H>>, force: bool) {
        self.submit_express(Work::Logout(Logout { asker: Some(Asker(header)), force, dead: 0 }));
    }

    /// Logs out if nothing has run for so long.
    pub(crate) fn log_out_if_inactive(&self) {
        let Ok(token) = self.token() else { return };
        if self.is_inactive() && self.is_admitted(&token).is_some() && self.sessions.stats().running == 0 {
            self.submit_express(Work::Logout(Logout { asker: None, force: false, dead: 0 }));
        }
    }

    fn is_inactive(&self) -> bool {
        let used_at = self.access.used_at.load(Ordering::Relaxed);
        self.options.inactivity_timeout.is_some_and(|timeout| used_at.saturating_add(timeout) <= now())
    }

    pub(crate) fn turn_of_logout(
        &self,
        hand: Hand<'_, H>,
        work: Logout<H>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Option<Grant<H>> {
        let over = work.asker.as_ref().is_some_and(|asker| asker.0.is_over() || !outlet.is_wanted(&asker.0.reply));
        if over || self.is_draining() {
            let next = self.give_back(hand, &Place::Pool);
            self.open_gate();
            return next;
        }
        let in_use = match self.session(hand, || !self.is_draining()) {
            Ok(in_use) => in_use,
            Err(unopened) => {
                return match self.unopened(*unopened, Waiting { payload: Work::Logout(work), ticket }, outlet) {
                    Refused::For(
                        Refusal { remains: remains @ (Remains::Return | Remains::Retry(..)), next, .. },
                        Work::Logout(work),
                    ) if work.dead <= self.size() => {
                        if let Remains::Return = remains {
                            self.await_module();
                        }
                        self.hold_express(Work::Logout(Logout { dead: work.dead + 1, ..work }));
                        next
                    }
                    Refused::For(Refusal { error, next, .. }, Work::Logout(work)) => {
                        answer(work, Err(Failure::not_executed(error)));
                        next
                    }
                    Refused::Waits(next) | Refused::For(Refusal { next, .. }, _) => next,
                };
            }
        };
        if in_use.session().is_stale() || (work.dead <= self.size() && is_dead(in_use.session())) {
            self.discard(self.returned(in_use.lay_down()), &Place::Pool, Class::DeadSession.name());
            self.submit_express(Work::Logout(Logout { dead: work.dead + 1, ..work }));
            return None;
        }
        let Some(token) = in_use.session().parts().map(|(token, ..)| token.clone()) else {
            return self.free(self.returned(in_use.lay_down()), &Place::Pool);
        };
        let made = self.log_out(&token, in_use.session(), &work);
        let held = self.returned(in_use.lay_down());
        if matches!(made, Made::Later) {
            let next = self.free(held, &Place::Pool);
            {
                let mut logouts = self.access.logouts.lock();
                logouts.push(work);
                self.access.has_logouts.store(true, Ordering::SeqCst);
            }
            // What it waited for may have ended before anybody could know that it waits.
            if self.sessions.stats().running <= self.leased() && !token.gate.listen(self.listener()) {
                self.resume_logouts();
            }
            self.abandon_if_draining();
            return next;
        }
        let next = self.free(held, &Place::Pool);
        self.open_gate();
        match made {
            Made::Done(reason) => {
                self.keeper.post(Notice::LoggedOut { reason });
                answer(work, Ok(Answer::Done));
            }
            Made::Refused(error) => answer(work, Err(Failure::not_executed(error))),
            Made::NotDue | Made::Later => answer(work, Ok(Answer::Done)),
        }
        next
    }

    fn log_out(&self, token: &Arc<Token>, session: &Session, work: &Logout<H>) -> Made {
        let leases = self.leased();
        let reason = if work.asker.is_some() { "logout" } else { "inactivity" };
        if work.asker.is_none() && (!self.is_inactive() || leases > 0) {
            return Made::NotDue;
        }
        let pools = token.other_pools();
        if !work.force && (pools > 0 || leases > 0) {
            return Made::Refused(Error::LoginShared { pools, leases });
        }
        self.sessions.close_gate();
        if self.sessions.stats().running > 1 + leases {
            return Made::Later;
        }
        let attempt = match token.gate.begin_logout(self.who(), work.force) {
            Leave::Begin(attempt) => Some(attempt),
            Leave::Nothing => None,
            Leave::Wait => return Made::Later,
            Leave::Refuse(error) => return Made::Refused(error),
        };
        if let Some(asker) = &work.asker {
            // Nobody gives up any more what is under way.
            let _ = asker.0.progress.start(now());
        }
        let result = if attempt.is_some() { c_logout(session) } else { Ok(()) };
        self.is_logged_out();
        drop(attempt);
        match result {
            Ok(()) => Made::Done(reason),
            Err(error) if error.class() == Class::LoginLost => Made::Done(reason),
            Err(error) => Made::Refused(error.into()),
        }
    }

    /// The PIN is not kept any longer, and whoever wants it so has to log in explicitly.
    fn is_logged_out(&self) {
        self.access.admitted.store(0, Ordering::Release);
        self.forget_retained();
        self.access.standing.lock().must_log_in = self.options.explicit_login;
    }

    /// Lets go of logouts that nobody waits for; the pool's gate was closed for them.
    pub(crate) fn sweep_logouts(&self, outlet: &impl Outlet<H>) {
        if !self.access.has_logouts.load(Ordering::SeqCst) {
            return;
        }
        let is_over =
            |work: &Logout<H>| work.asker.as_ref().is_none_or(|asker| asker.0.is_over() || !outlet.is_wanted(&asker.0.reply));
        let over: Vec<_> = {
            let mut logouts = self.access.logouts.lock();
            let (over, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut *logouts).into_iter().partition(is_over);
            self.access.has_logouts.store(!waiting.is_empty(), Ordering::SeqCst);
            *logouts = waiting;
            over
        };
        if !over.is_empty() {
            drop(over);
            self.open_gate();
        }
    }

    /// Something has ended: logouts that wait for it try again.
    pub(crate) fn resume_logouts(&self) {
        if !self.access.has_logouts.load(Ordering::SeqCst) {
            return;
        }
        let waiting = {
            let mut logouts = self.access.logouts.lock();
            self.access.has_logouts.store(false, Ordering::SeqCst);
            std::mem::take(&mut *logouts)
        };
        for work in waiting {
            self.submit_express(Work::Logout(work));
        }
    }
}

fn c_logout(session: &Session) -> Result<(), CallError> {
    let Some((token, functions, handle)) = session.parts() else { return Ok(()) };
    match token.module.enter() {
        Ok(_inside) => p11::session::logout(functions, handle),
        Err(_halting) => Ok(()),
    }
}

fn answer<H: Host>(Logout { asker, .. }: Logout<H>, outcome: crate::host::Outcome) {
    if let Some(asker) = asker {
        asker.answer(outcome);
    }
}
