//! One `C_Login`, on a runner's session, for everybody.

use cryptoki_sys::{
    CK_FLAGS, CK_USER_TYPE, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED, CKR_PIN_LOCKED,
    CKU_SO,
};

use crate::clock::now;
use crate::error::Error;
use crate::p11::{self, Class};
use crate::request::Login;
use crate::session::Session;

/// Logs in and tells the gate. Returns a word for how it ended, and whether the session may be used again.
pub(crate) fn login(session: &Session, user: CK_USER_TYPE, login: Login) -> (&'static str, bool) {
    let Login { attempt, pin } = login;
    let Some((token, functions, handle)) = session.parts() else { return ("interrupted", false) };
    let flags = match p11::slots::token_info(functions, token.slot()) {
        Ok(info) => info.flags,
        Err(error) => {
            attempt.fail(error.into(), now());
            return (error.name(), false);
        }
    };
    if let Some(error) = refusal(user, flags) {
        let reason = error.reason();
        attempt.poison(error, pin.as_deref().map(Vec::as_slice), now());
        return (reason, true);
    }
    match p11::session::login(functions, handle, user, pin.as_deref().map(Vec::as_slice)) {
        Ok(()) => attempt.succeed(),
        Err(error) => match error.class() {
            Class::AlreadyLoggedIn => attempt.succeed(),
            Class::Credential => {
                attempt.poison(Error::Poisoned { code: error.code }, pin.as_deref().map(Vec::as_slice), now());
                return (error.name(), true);
            }
            class => {
                attempt.fail(error.into(), now());
                return (error.name(), matches!(class, Class::LoginConflict | Class::Caller));
            }
        },
    }
    ("ok", true)
}

/// A token whose next wrong PIN locks it, or that is locked, is left alone.
fn refusal(user: CK_USER_TYPE, flags: CK_FLAGS) -> Option<Error> {
    let (locked, last) = match user {
        CKU_SO => (CKF_SO_PIN_LOCKED, CKF_SO_PIN_FINAL_TRY),
        _ => (CKF_USER_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY),
    };
    if flags & locked != 0 {
        return Some(Error::Poisoned { code: CKR_PIN_LOCKED });
    }
    (flags & last != 0).then_some(Error::FinalTry)
}
