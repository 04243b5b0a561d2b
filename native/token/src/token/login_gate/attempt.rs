//! What somebody is seeing to at the gate: a login or a logout of everybody, a login for one use of a key.

use std::fmt;
use std::sync::Arc;

use cryptoki_sys::CK_USER_TYPE;
use session_pool::Millis;

use super::{Failed, Gate, Holder, Mark, MarkedPin, State, Who, notify};
use crate::error::Error;
use crate::support::pin::Pin;

/// An attempt at a login, or a logout, that somebody is seeing to. Dropped without an end (its pool stops), it is as if it had never
/// begun: nobody waits for ever, and the next who needs a login begins anew.
pub struct Attempt {
    pub(super) gate: Arc<Gate>,
    pub(super) number: u64,
    pub(super) who: Who,
}

impl Attempt {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether it is at this gate.
    pub(crate) fn is_at(&self, gate: &Arc<Gate>) -> bool {
        Arc::ptr_eq(&self.gate, gate)
    }

    /// A PIN with its mark at this gate.
    pub(crate) fn mark_pin(&self, pin: Pin) -> MarkedPin {
        self.gate.mark_pin(pin)
    }

    /// Why the PIN with this mark must not be tried: the token has refused it before.
    pub(crate) fn known_refusal(&self, mark: Mark) -> Option<Error> {
        self.gate.inner.lock().memory.refusal(self.who.user, mark).cloned()
    }

    /// It went well, on a session of this generation. `ours`: it was our `C_Login` that logged in. The word in which the pool is admitted.
    pub fn succeed(self, mark: Option<Mark>, ours: bool, generation: u64) -> u64 {
        let Who { pool, user, .. } = self.who;
        self.gate.end(self.number, |memory| {
            memory.lift(user);
            if let Some(mark) = mark {
                memory.forget(user, mark);
            }
            if self.gate.generation() != generation {
                // The token went away behind it.
                return State::LoggedOut;
            }
            State::LoggedIn(Holder { user, mark, ours, members: vec![pool] })
        })
    }

    /// It went wrong `at` these nanoseconds, for a reason that is not the credential. `own`: a fault of this one pool's (its PIN source).
    pub fn fail(self, error: Error, own: bool, at: u64) {
        let Who { pool, user, .. } = self.who;
        self.gate.end(self.number, |memory| {
            if memory.touch(user, at / 1_000_000) {
                return State::LoggedOut;
            }
            if !own {
                memory.fails(user, error.clone(), at / 1_000_000);
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
            memory.put(user, error, now);
            State::LoggedOut
        });
    }
}

impl PartialEq for Attempt {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.gate, &other.gate) && self.number == other.number
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt {}", self.number)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.gate.end(self.number, |_| State::LoggedOut);
    }
}

/// A context-specific login that is being made. Dropped, the next may be.
pub struct Proof {
    pub(super) gate: Arc<Gate>,
    pub(super) user: CK_USER_TYPE,
    pub(super) mark: Option<Mark>,
}

impl Proof {
    /// The token took the PIN.
    pub fn succeed(self) {
        let mut inner = self.gate.inner.lock();
        inner.memory.lift(self.user);
    }

    /// The PIN was refused (`tried`), or must not be tried.
    pub fn poison(self, error: Error, tried: bool, now: Millis) {
        let mut inner = self.gate.inner.lock();
        if let Some(mark) = self.mark.filter(|_| tried) {
            inner.memory.remember(self.user, mark, error.clone());
        }
        inner.memory.put(self.user, error, now);
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        let listeners = {
            let mut inner = self.gate.inner.lock();
            inner.proving = false;
            std::mem::take(&mut inner.listeners)
        };
        notify(listeners);
    }
}
