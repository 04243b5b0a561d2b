//! One `C_Login`, on a runner's session, for everybody.

use cryptoki_sys::{
    CK_FLAGS, CK_USER_TYPE, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED, CKU_SO,
};

use crate::clock::{nanos, now};
use crate::error::Error;
use crate::gate::Attempt;
use crate::p11::{self, CallError, Class};
use crate::pool::PoolOptions;
use crate::probe::{Finding, examine, is_suspicious};
use crate::recovery::Trouble;
use crate::request::Pin;
use crate::session::Session;

/// How a login ended.
pub(crate) enum Ended {
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

/// Whether the module has forgotten the session: a login or logout there would fail without having been tried.
pub(crate) fn is_dead(session: &Session) -> bool {
    let Some((token, functions, handle)) = session.parts() else { return true };
    let Ok(_inside) = token.module.enter() else { return false };
    p11::session::session_info(functions, handle).is_err_and(|error| error.class() == Class::DeadSession)
}

/// Logs in and tells the gate. `force`: even if a wrong PIN would lock the token. Called inside of the module.
pub(crate) fn login(
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
