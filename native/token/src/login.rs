//! One `C_Login`, on a runner's session, for everybody.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::{
    CK_FLAGS, CK_USER_TYPE, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED, CKU_SO,
};
use session_pool::{Started, Ticket, Waiting};

use crate::attachment::Readiness;
use crate::cell::Hand;
use crate::clock::{nanos, now};
use crate::error::{Error, Failure};
use crate::gate::Attempt;
use crate::host::{Host, Keeper, Notice, Posting};
use crate::opening::{Refusal, Refused};
use crate::p11::{self, CallError, Class};
use crate::pool::{Grant, PoolOptions, TokenPool};
use crate::probe::{Finding, examine, is_suspicious};
use crate::recovery::{Trouble, as_seen_by};
use crate::request::{Answer, Login, Pin, Place, Work};
use crate::session::Session;
use crate::stopping::refuse;
use crate::turns::Remains;

/// How a login ended.
enum Ended {
    /// The gate's word in which the pool is admitted.
    In(u64),
    /// `reusable`: the session may be used again.
    Refused { error: Error, reusable: bool },
    /// The token or the module is in trouble, and the attempt goes on.
    Trouble { attempt: Attempt, call: CallError, trouble: Trouble },
    /// The session is dead, and the attempt goes on: the PIN was not looked at.
    Dead { attempt: Attempt, call: CallError },
    /// The module is being initialized again, and the attempt goes on.
    Return(Attempt),
}

impl<H: Host> TokenPool<H> {
    /// A login's turn: on a session, opened if need be, and with the attempt ended or handed on, whatever comes.
    pub(crate) fn turn_of_login(&self, hand: Hand<'_, H>, work: Login<H>, ticket: Ticket) -> Option<Grant<H>> {
        if work.asker.as_ref().is_some_and(|asker| asker.0.progress.start(now()) == Started::Gone) {
            return self.give_back(hand, &Place::Pool);
        }
        let started = nanos();
        let ended = |result| self.keeper.post(Notice::LoginEnded { result, nanos: nanos() - started });
        let in_use = match self.session(hand, || !self.is_draining()) {
            Ok(in_use) => in_use,
            Err(unopened) => {
                return match self.unopened(*unopened, Waiting { payload: Work::Login(work), ticket }, &mut Posting) {
                    Refused::For(
                        Refusal { remains: remains @ (Remains::Return | Remains::Retry(..)), next, .. },
                        Work::Login(work),
                    ) if work.dead <= self.size() => {
                        self.return_login(work, matches!(remains, Remains::Return));
                        next
                    }
                    Refused::For(Refusal { error, next, .. }, Work::Login(work)) => {
                        ended(error.reason());
                        fail(work, error);
                        next
                    }
                    Refused::Waits(next) | Refused::For(Refusal { next, .. }, _) => next,
                };
            }
        };
        if in_use.session().is_stale() || (work.dead <= self.size() && is_dead(in_use.session())) {
            self.discard(self.returned(in_use.lay_down()), &Place::Pool, Class::DeadSession.name());
            self.submit_express(Work::Login(Login { dead: work.dead + 1, ..work }));
            return None;
        }
        let Login { attempt, pin, asker, force, dead } = work;
        let user = self.options.user;
        let session = in_use.session();
        let token = session.parts().map(|(token, ..)| token.clone());
        let mark = token.as_ref().and_then(|token| pin.as_ref().map(|pin| token.gate.mark(pin)));
        // Whoever waits for the login is to find that it is the pool's.
        let before = self.swap_mark(mark);
        let entered = || session.parts().map(|(token, ..)| token.module.enter_while(|| !self.is_draining()));
        let run = AssertUnwindSafe(|| match entered() {
            Some(Ok(_inside)) => login(&self.options, session, user, attempt, pin.as_ref(), force),
            Some(Err(Error::Reinitializing)) => Ended::Return(attempt),
            Some(Err(_)) | None => Ended::Refused { error: Error::Halting, reusable: true },
        });
        let panicked = Error::Interrupted { cause: "the login panicked" };
        let result = catch_unwind(run).unwrap_or(Ended::Refused { error: panicked, reusable: false });
        let held = self.returned(in_use.lay_down());
        let (name, outcome, reusable) = match result {
            Ended::In(word) => {
                self.now_with(mark, pin.as_ref());
                self.admit(word);
                self.keep_login();
                ("ok", Ok(Answer::Done), true)
            }
            Ended::Return(attempt) => {
                self.swap_mark(before);
                self.return_login(Login { attempt, pin, asker, force, dead }, true);
                return self.free(held, &Place::Pool);
            }
            Ended::Dead { attempt, .. } if dead <= self.size() => {
                self.swap_mark(before);
                self.discard(held, &Place::Pool, Class::DeadSession.name());
                self.submit_express(Work::Login(Login { attempt, pin, asker, force, dead: dead + 1 }));
                return None;
            }
            Ended::Dead { attempt, call } => {
                self.swap_mark(before);
                attempt.fail(call.into(), false, nanos());
                (call.name(), Err(Failure::not_executed(call)), false)
            }
            Ended::Trouble { attempt, call, trouble } => {
                self.swap_mark(before);
                if let Some(token) = &token {
                    self.face(trouble, token, held.session.generation(), call);
                }
                self.discard(held, &Place::Pool, self.options.class(&call).name());
                let work = Login { attempt, pin, asker, force, dead };
                match self.readiness() {
                    Readiness::Ready | Readiness::Held if dead <= self.size() => self.return_login(work, false),
                    Readiness::Refused(error) => {
                        ended(error.reason());
                        refuse(Work::Login(work), &as_seen_by(call, error));
                    }
                    Readiness::Ready | Readiness::Held => {
                        ended(call.name());
                        fail(work, call.into());
                    }
                }
                return None;
            }
            Ended::Refused { error, reusable } => {
                self.swap_mark(before);
                self.forget_retained();
                (error.reason(), Err(Failure::not_executed(error)), reusable)
            }
        };
        ended(name);
        let next = if reusable {
            self.free(held, &Place::Pool)
        } else {
            self.discard(held, &Place::Pool, name);
            None
        };
        if let Some(asker) = asker {
            asker.answer(outcome);
        }
        next
    }

    /// A login that was not tried goes back to its place. `awaits`: the module is being initialized again.
    fn return_login(&self, work: Login<H>, awaits: bool) {
        if awaits {
            self.await_module();
        }
        let dead = work.dead + usize::from(!awaits);
        self.hold_express(Work::Login(Login { dead, ..work }));
    }
}

/// A login fails: all who wait for it are told.
fn fail<H: Host>(Login { attempt, asker, .. }: Login<H>, error: Error) {
    attempt.fail(error.clone(), false, nanos());
    if let Some(asker) = asker {
        asker.answer(Err(Failure::not_executed(error)));
    }
}

/// Whether the module has forgotten the session: a login or logout there would fail without having been tried.
pub(crate) fn is_dead(session: &Session) -> bool {
    let Some((token, functions, handle)) = session.parts() else { return true };
    let Ok(_inside) = token.module.enter() else { return false };
    p11::session::session_info(functions, handle).is_err_and(|error| error.class() == Class::DeadSession)
}

/// Logs in and tells the gate. `force`: even if a wrong PIN would lock the token. Called inside of the module.
fn login(
    options: &PoolOptions,
    session: &Session,
    user: CK_USER_TYPE,
    attempt: Attempt,
    pin: Option<&Pin>,
    force: bool,
) -> Ended {
    let interrupted = Error::Interrupted { cause: "the session was closed" };
    let Some((token, functions, handle)) = session.parts() else {
        return Ended::Refused { error: interrupted, reusable: false };
    };
    let failed = |attempt: Attempt, error: Error, reusable| {
        attempt.fail(error.clone(), false, nanos());
        Ended::Refused { error, reusable }
    };
    let broken = |attempt: Attempt, call: CallError| {
        let class = options.class(&call);
        let seen = token.module.incarnation();
        let finding = if is_suspicious(class) { examine(options, token, Some(handle), class) } else { Finding::SessionAnswers };
        match finding {
            Finding::ModuleDown => Ended::Trouble { attempt, call, trouble: Trouble::Module { seen } },
            Finding::Silence => Ended::Trouble { attempt, call, trouble: Trouble::Silence },
            _ if class == Class::DeadSession => Ended::Dead { attempt, call },
            Finding::SessionAnswers | Finding::TokenAnswers => failed(attempt, call.into(), class == Class::Caller),
        }
    };
    let pin = pin.map(|pin| pin.as_slice());
    let mark = pin.map(|pin| token.gate.mark(pin));
    let refusal = if force { Ok(()) } else { may_try(session, user) };
    match refusal {
        Ok(()) => (),
        Err(Error::Call(call)) => return broken(attempt, call),
        Err(error) => {
            // It was not tried, so that nothing is known against it.
            attempt.poison(error.clone(), None, now());
            return Ended::Refused { error, reusable: true };
        }
    }
    let Err(call) = p11::session::login(functions, handle, user, pin) else {
        return Ended::In(attempt.succeed(mark, true, session.generation()));
    };
    match call.class() {
        // Some modules say so of another user, too.
        Class::AlreadyLoggedIn if is_other(session, user) => failed(attempt, Error::LoginConflict { call: Some(call) }, true),
        Class::AlreadyLoggedIn => Ended::In(attempt.succeed(mark, false, session.generation())),
        Class::LoginConflict => failed(attempt, Error::LoginConflict { call: Some(call) }, true),
        Class::Credential => {
            let error = Error::Poisoned { code: call.code };
            attempt.poison(error.clone(), mark, now());
            Ended::Refused { error, reusable: true }
        }
        _ => broken(attempt, call),
    }
}

fn is_other(session: &Session, user: CK_USER_TYPE) -> bool {
    let Some((_, functions, handle)) = session.parts() else { return false };
    p11::session::session_info(functions, handle)
        .is_ok_and(|info| if user == CKU_SO { info.is_user() } else { info.is_security_officer() })
}

/// A token whose next wrong PIN locks it, or that is locked, is left alone.
pub(crate) fn may_try(session: &Session, user: CK_USER_TYPE) -> Result<(), Error> {
    let Some((token, functions, _)) = session.parts() else { return Ok(()) };
    allowed(user, p11::slots::token_info(functions, token.slot())?.flags)
}

/// Whether a token with these flags may be given a PIN without being told to.
pub(crate) fn allowed(user: CK_USER_TYPE, flags: CK_FLAGS) -> Result<(), Error> {
    let (locked, last) = match user {
        CKU_SO => (CKF_SO_PIN_LOCKED, CKF_SO_PIN_FINAL_TRY),
        _ => (CKF_USER_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY),
    };
    if flags & locked != 0 {
        return Err(Error::Locked);
    }
    if flags & last != 0 { Err(Error::FinalTry) } else { Ok(()) }
}
