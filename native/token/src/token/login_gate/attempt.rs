//! What somebody is seeing to at the gate: a login or a logout of everybody, a login for one use of a key.

use std::fmt;
use std::sync::Arc;

use cryptoki_sys::CK_USER_TYPE;
use session_pool::Millis;

use crate::error::Error;
use crate::support::pin::Pin;
use crate::token::login_gate::credential::{Mark, MarkedPin, Who};
use crate::token::login_gate::state::{Failed, Gate, Holder, State, notify};

/// An attempt at a login, or a logout, that somebody is seeing to. Dropped without an end (its pool stops), it is as if it had never
/// begun: nobody waits for ever, and the next who needs a login begins anew.
pub struct LoginAttempt {
    pub(super) gate: Arc<Gate>,
    pub(super) number: u64,
    pub(super) who: Who,
}

impl LoginAttempt {
    /// Its number, which is no other's at this gate.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether it is at this gate.
    pub(crate) fn is_at(&self, gate: &Arc<Gate>) -> bool {
        Arc::ptr_eq(&self.gate, gate)
    }

    /// A PIN with its mark at this gate.
    pub(crate) fn mark_pin(&self, name: Option<&str>, pin: Pin) -> MarkedPin {
        self.gate.mark_pin(name, pin)
    }

    /// Why the PIN with this mark must not be tried: the token has refused it before.
    pub(crate) fn known_refusal(&self, mark: Mark) -> Option<Error> {
        self.gate.inner.lock().memory.refusal(self.who.user, mark).cloned()
    }

    /// It went well, on a session of this generation. `ours`: it was our `C_Login` that logged in. The word in which the pool is admitted.
    pub fn succeed(self, mark: Option<Mark>, ours: bool, generation: u64) -> u64 {
        let Who { pool, user, name, .. } = self.who;
        self.gate.end(self.number, |memory| {
            memory.clear_poison(user);
            if let Some(mark) = mark {
                memory.forget(user, mark);
            }
            if self.gate.generation() != generation {
                // The token went away behind it.
                return State::LoggedOut;
            }
            State::LoggedIn(Holder { user, name, mark, ours, members: vec![pool] })
        })
    }

    /// It went wrong `at` these nanoseconds, for a reason that is not the credential. `own`: a fault of this one pool's (its PIN source).
    pub fn fail(self, error: Error, own: bool, at: u64) {
        let Who { pool, user, .. } = self.who;
        self.gate.end(self.number, |memory| {
            if memory.note_asked(user, at / 1_000_000) {
                return State::LoggedOut;
            }
            if !own {
                memory.note_failure(user, error.clone(), at / 1_000_000);
            }
            State::Failed(Failed { user, pool: own.then_some(pool), error, at })
        });
    }

    /// The credential was refused, or must not be tried: it is left alone. `pin`: the one that the token has refused now.
    pub fn poison(self, error: Error, pin: Option<Mark>, now: Millis) {
        let user = self.who.user;
        self.gate.end(self.number, |memory| {
            if let Some(mark) = pin {
                memory.remember(user, mark, error.clone());
            }
            memory.set_poison(user, error, now);
            State::LoggedOut
        });
    }
}

impl PartialEq for LoginAttempt {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.gate, &other.gate) && self.number == other.number
    }
}

impl fmt::Debug for LoginAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginAttempt {}", self.number)
    }
}

impl Drop for LoginAttempt {
    fn drop(&mut self) {
        self.gate.end(self.number, |_| State::LoggedOut);
    }
}

/// A login for one use of a key (`CKU_CONTEXT_SPECIFIC`) that is being made. Dropped, the next may be.
pub struct ContextLogin {
    pub(super) gate: Arc<Gate>,
    pub(super) user: CK_USER_TYPE,
    pub(super) mark: Option<Mark>,
}

impl ContextLogin {
    /// The token took the PIN.
    pub fn succeed(self) {
        let mut inner = self.gate.inner.lock();
        inner.memory.clear_poison(self.user);
    }

    /// The PIN was refused (`tried`), or must not be tried.
    pub fn poison(self, error: Error, tried: bool, now: Millis) {
        let mut inner = self.gate.inner.lock();
        if let Some(mark) = self.mark.filter(|_| tried) {
            inner.memory.remember(self.user, mark, error.clone());
        }
        inner.memory.set_poison(self.user, error, now);
    }
}

impl Drop for ContextLogin {
    fn drop(&mut self) {
        let listeners = {
            let mut inner = self.gate.inner.lock();
            inner.has_context_login = false;
            std::mem::take(&mut inner.listeners)
        };
        notify(listeners);
    }
}
