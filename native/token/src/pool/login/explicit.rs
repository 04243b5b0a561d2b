//! A login that somebody asks for, with a PIN of his own.

use std::sync::Arc;

use crate::error::Failure;
use crate::operation::answer::Answer;
use crate::operation::asker::Asker;
use crate::operation::header::Header;
use crate::operation::host::{Host, Outlet};
use crate::pool::TokenPool;
use crate::pool::login::state::{AwaitingAttempt, ExplicitLogin};
use crate::pool::work::Asked;
use crate::support::pin::Pin;
use crate::token::login_gate::{Awaited, Explicit, MarkedPin, Who};

impl<H: Host> TokenPool<H> {
    /// Somebody logs in with this PIN, and knows what it does. The answer comes by the header.
    pub fn login(&self, header: Arc<Header<H>>, pin: Option<Pin>, force: bool) {
        self.begin_explicit_login(ExplicitLogin { asker: Asker(header), pin, force });
        self.advance_drain();
    }

    pub(crate) fn begin_explicit_login(&self, login: ExplicitLogin<H>) {
        let token = match self.availability.token() {
            Ok(token) => token,
            Err(error) => return login.asker.answer(Err(Failure::not_executed(error))),
        };
        let ExplicitLogin { asker, pin, force } = login;
        if asker.0.is_over() || self.is_draining() {
            return;
        }
        let pin = pin.map(|pin| token.gate.mark_pin(self.user_name(), pin));
        let mark = pin.as_ref().map(MarkedPin::mark);
        let who = Who { mark, protected: pin.is_none(), ..self.login.who() };
        match token.gate.begin_explicit(who) {
            Explicit::Already(word) => {
                self.login.note_right_pin(mark, pin.as_ref().map(MarkedPin::pin));
                self.admit(word);
                self.keep_login();
                self.open_gate();
                asker.answer(Ok(Answer::Done));
            }
            Explicit::Begin(attempt) => self.submit_login(attempt, pin, Asked::new(Some(asker), force)),
            Explicit::Refuse(error) => asker.answer(Err(Failure::not_executed(error))),
            Explicit::Wait => {
                self.await_attempt(AwaitingAttempt::Login(ExplicitLogin { asker, pin: pin.map(MarkedPin::into_pin), force }));
            }
        }
    }

    /// It waits for what somebody else sees to at the gate.
    pub(crate) fn await_attempt(&self, waiting: AwaitingAttempt<H>) {
        self.login.awaiting_attempt.lock().push(waiting);
        // It may have ended before anybody could know who waits for it.
        if !self.availability.token().is_ok_and(|token| token.gate.listen(Awaited::Attempt, self.listener())) {
            self.resume_awaiting_attempt();
        }
    }

    /// The attempt at the gate has ended.
    pub(crate) fn resume_awaiting_attempt(&self) {
        let waiting = std::mem::take(&mut *self.login.awaiting_attempt.lock());
        for waiting in waiting {
            match waiting {
                AwaitingAttempt::Login(login) => self.begin_explicit_login(login),
                AwaitingAttempt::Logout(logout) => self.submit_control(logout),
            }
        }
    }

    /// Lets go of those that nobody waits for.
    pub(crate) fn sweep_awaiting_attempt(&self, outlet: &impl Outlet<H>) {
        let over: Vec<_> = {
            let mut all = self.login.awaiting_attempt.lock();
            let (over, waiting) = std::mem::take(&mut *all).into_iter().partition(|waiting| waiting.is_abandoned(outlet));
            *all = waiting;
            over
        };
        drop(over);
    }
}
