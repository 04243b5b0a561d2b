//! One `C_Login`, on a runner's session, for everybody.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::{CK_SESSION_HANDLE, CK_USER_TYPE, CKU_SO};

use crate::error::{Error, Failure};
use crate::operation::Place;
use crate::operation::answer::Answer;
use crate::operation::host::Host;
use crate::options::PoolOptions;
use crate::p11::session::login_function;
use crate::p11::{self, CallError, Class, Functions};
use crate::pool::TokenPool;
use crate::pool::grant::Grant;
use crate::pool::in_flight::InUse;
use crate::pool::login::state::ExplicitLogin;
use crate::pool::work::{Asked, Control, Credential};
use crate::support::clock::{nanos, now};
use crate::token::diagnosis::{FailedCall, Trouble, diagnose};
use crate::token::login_gate::pin_flags::ask_pin_flags;
use crate::token::login_gate::{LoginAttempt, MarkedPin};
use crate::token::session::Session;

/// How a login ended.
enum Ended {
    /// The gate's word in which the pool is admitted.
    In(u64),
    /// `reusable`: the session may be used again.
    Refused { error: Error, reusable: bool },
    /// The session is dead, or it is worse, and the attempt goes on: the PIN was not looked at.
    Trouble { attempt: LoginAttempt, call: CallError, trouble: Option<Trouble> },
    /// The module is being initialized again, and the attempt goes on.
    Return(LoginAttempt),
}

impl<H: Host> TokenPool<H> {
    /// A login's turn, with the attempt ended or handed on, whatever comes. `started`: when it began, in nanoseconds.
    pub(crate) fn handle_login(
        &self,
        in_use: InUse<'_, H>,
        Credential { attempt, pin }: Credential,
        asked: Asked<H>,
        started: u64,
    ) -> Option<Grant<H>> {
        let session = in_use.session();
        let token = session.token();
        if !attempt.is_at(&token.gate) {
            // The pool has another token than when it began: whoever needs a login begins anew, there.
            drop(attempt);
            let next = self.free(self.note_return(in_use.finish()), &Place::Pool);
            if let Some(asker) = asked.by {
                self.begin_explicit_login(ExplicitLogin { asker, pin: pin.map(MarkedPin::into_pin), force: asked.force });
            }
            return next;
        }
        let mark = pin.as_ref().map(MarkedPin::mark);
        // Whoever waits for the login is to find that it is the pool's.
        let before = self.login.swap_mark(mark);
        let run = AssertUnwindSafe(|| match token.module.enter_while(|| !self.is_draining()) {
            Ok(_inside) => match &pin {
                // It may have been refused since it was asked for, as by a login for one use of a key.
                Some(pin) if asked.by.is_none() => match self.refuse_known_bad_pin(attempt, pin) {
                    Ok(attempt) => login(&self.options, session, attempt, Some(pin), asked.force),
                    Err(error) => Ended::Refused { error, reusable: true },
                },
                pin => login(&self.options, session, attempt, pin.as_ref(), asked.force),
            },
            Err(Error::Reinitializing) => Ended::Return(attempt),
            Err(_) => Ended::Refused { error: Error::Halting, reusable: true },
        });
        let panicked = Error::Interrupted { cause: "the login panicked" };
        let result = catch_unwind(run).unwrap_or(Ended::Refused { error: panicked, reusable: false });
        let held = self.note_return(in_use.finish());
        let (name, outcome, reusable) = match result {
            Ended::In(word) => {
                self.login.note_right_pin(mark, pin.as_ref().map(MarkedPin::pin));
                self.admit(word);
                self.keep_login();
                ("ok", Ok(Answer::Done), true)
            }
            Ended::Return(attempt) => {
                self.login.swap_mark(before);
                self.await_module_for(Control::login(Credential { attempt, pin }, asked));
                return self.free(held, &Place::Pool);
            }
            Ended::Trouble { attempt, call, trouble } => {
                self.login.swap_mark(before);
                let work = Control::login(Credential { attempt, pin }, asked);
                self.after_trouble(held, work, call, trouble, false, started);
                return None;
            }
            Ended::Refused { error, reusable } => {
                self.login.swap_mark(before);
                self.login.forget_retained_pin();
                (error.reason(), Err(Failure::not_executed(error)), reusable)
            }
        };
        self.report_login(name, started);
        let next = if reusable {
            self.free(held, &Place::Pool)
        } else {
            self.discard(held, &Place::Pool, name);
            None
        };
        asked.answer(outcome);
        next
    }
}

/// Logs in and tells the gate. Called inside of the module.
fn login(options: &PoolOptions, session: &Session, attempt: LoginAttempt, pin: Option<&MarkedPin>, force: bool) -> Ended {
    let (token, user, name) = (session.token(), options.user, options.user_name.as_deref());
    let Some(used) = session.begin() else {
        return Ended::Trouble { attempt, call: CallError::session_lost(login_function(name.is_some())), trouble: None };
    };
    let (functions, handle) = (token.module.functions(), used.handle());
    let failed = |attempt: LoginAttempt, error: Error, reusable| {
        attempt.fail(error.clone(), false, nanos());
        Ended::Refused { error, reusable }
    };
    let broken = |attempt: LoginAttempt, call: CallError| {
        let class = match options.policy.class(&call) {
            // A login needs no room for another session: a token that says so is not what it was.
            Class::Capacity => Class::TokenGone,
            class => class,
        };
        let trouble = diagnose(&options.policy, token, class, &FailedCall::Login { session, used: &used }).trouble;
        if trouble.is_some() || class == Class::DeadSession {
            return Ended::Trouble { attempt, call, trouble };
        }
        failed(attempt, call.into(), class == Class::Caller)
    };
    let mark = pin.map(MarkedPin::mark);
    let refusal = if force { Ok(()) } else { ask_pin_flags(functions, token.slot(), user) };
    match refusal {
        Ok(()) => (),
        Err(Error::Call(call)) => return broken(attempt, call),
        Err(error) => {
            // It was not tried, so that nothing is known against it.
            attempt.poison(error.clone(), None, now());
            return Ended::Refused { error, reusable: true };
        }
    }
    let Err(call) = p11::session::login(functions, handle, user, name, pin.map(|pin| pin.pin().as_slice())) else {
        token.suspicion.logged_in();
        return Ended::In(attempt.succeed(mark, true, session.generation()));
    };
    match options.policy.class(&call) {
        // Some modules say so of another user, too.
        Class::AlreadyLoggedIn if is_other(functions, handle, user) => {
            failed(attempt, Error::LoginConflict { call: Some(call) }, true)
        }
        Class::AlreadyLoggedIn => Ended::In(attempt.succeed(mark, false, session.generation())),
        Class::LoginConflict => failed(attempt, Error::LoginConflict { call: Some(call) }, true),
        Class::Credential => {
            let error = Error::Poisoned { code: call.code, function: call.function };
            attempt.poison(error.clone(), mark, now());
            Ended::Refused { error, reusable: true }
        }
        _ => broken(attempt, call),
    }
}

fn is_other(functions: &Functions, handle: CK_SESSION_HANDLE, user: CK_USER_TYPE) -> bool {
    p11::session::session_info(functions, handle)
        .is_ok_and(|info| if user == CKU_SO { info.is_user() } else { info.is_security_officer() })
}
