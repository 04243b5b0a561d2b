//! One `C_Login`, on a runner's session, for everybody.

use cryptoki_sys::{
    CK_FLAGS, CK_USER_TYPE, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED, CKU_SO,
};

use crate::clock::{nanos, now};
use crate::error::Error;
use crate::gate::Attempt;
use crate::p11::{self, Class};
use crate::request::Pin;
use crate::session::Session;

/// How a login ended: the gate's word in which the pool is admitted, and whether the session may be used again.
pub(crate) type Ended = (Result<u64, Error>, bool);

/// Whether the module has forgotten the session: a login or logout there would fail without having been tried.
pub(crate) fn is_dead(session: &Session) -> bool {
    let Some((token, functions, handle)) = session.parts() else { return true };
    let Ok(_inside) = token.module.enter() else { return false };
    p11::session::session_info(functions, handle).is_err_and(|error| error.class() == Class::DeadSession)
}

/// Logs in and tells the gate. `force`: even if a wrong PIN would lock the token.
pub(crate) fn login(session: &Session, user: CK_USER_TYPE, attempt: Attempt, pin: Option<&Pin>, force: bool) -> Ended {
    let interrupted = Error::Interrupted { cause: "the session was closed" };
    let Some((token, functions, handle)) = session.parts() else { return (Err(interrupted), false) };
    let failed = |attempt: Attempt, error: Error, reusable| {
        attempt.fail(error.clone(), false, nanos());
        (Err(error), reusable)
    };
    let pin = pin.map(|pin| pin.as_slice());
    let mark = pin.map(|pin| token.gate.mark(pin));
    let refusal = if force { Ok(()) } else { may_try(session, user) };
    if let Err(error) = refusal {
        if matches!(error, Error::Call(_)) {
            return failed(attempt, error, false);
        }
        // It was not tried, so that nothing is known against it.
        attempt.poison(error.clone(), None, now());
        return (Err(error), true);
    }
    let Err(error) = p11::session::login(functions, handle, user, pin) else {
        return (Ok(attempt.succeed(mark, true)), true);
    };
    match error.class() {
        // Some modules say so of another user, too.
        Class::AlreadyLoggedIn if is_other(session, user) => failed(attempt, Error::LoginConflict { call: Some(error) }, true),
        Class::AlreadyLoggedIn => (Ok(attempt.succeed(mark, false)), true),
        Class::LoginConflict => failed(attempt, Error::LoginConflict { call: Some(error) }, true),
        Class::Credential => {
            let error = Error::Poisoned { code: error.code };
            attempt.poison(error.clone(), mark, now());
            (Err(error), true)
        }
        class => failed(attempt, error.into(), class == Class::Caller),
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
