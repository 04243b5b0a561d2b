//! A login that somebody asks for, with a PIN of his own.

use std::sync::Arc;

use crate::error::Failure;
use crate::operation::answer::Answer;
use crate::operation::asker::Asker;
use crate::operation::header::Header;
use crate::operation::host::Host;
use crate::pool::TokenPool;
use crate::pool::login::state::ExplicitLogin;
use crate::pool::work::Asked;
use crate::support::pin::Pin;
use crate::token::login_gate::{Awaited, Explicit, Who};

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
        let mark = pin.as_ref().map(|pin| token.gate.mark(pin));
        let who = Who { mark, protected: pin.is_none(), ..self.login.who() };
        match token.gate.begin_explicit(who) {
            Explicit::Already(word) => {
                self.login.note_right_pin(mark, pin.as_ref());
                self.admit(word);
                self.keep_login();
                self.open_gate();
                asker.answer(Ok(Answer::Done));
            }
            Explicit::Begin(attempt) => self.submit_login(attempt, pin, Asked::new(Some(asker), force)),
            Explicit::Refuse(error) => asker.answer(Err(Failure::not_executed(error))),
            Explicit::Wait => {
                self.login.explicit.lock().push(ExplicitLogin { asker, pin, force });
                if !token.gate.listen(Awaited::Attempt, self.listener()) {
                    self.resume_explicit_logins();
                }
            }
        }
    }

    pub(crate) fn resume_explicit_logins(&self) {
        let logins = std::mem::take(&mut *self.login.explicit.lock());
        for login in logins {
            self.begin_explicit_login(login);
        }
    }

    /// Lets go of explicit logins that nobody waits for.
    pub(crate) fn sweep_explicit_logins(&self) {
        let over: Vec<_> = {
            let mut logins = self.login.explicit.lock();
            let (over, waiting) = std::mem::take(&mut *logins).into_iter().partition(|login| login.asker.0.is_over());
            *logins = waiting;
            over
        };
        drop(over);
    }
}
