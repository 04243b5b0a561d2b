//! The login gate of a token: a state machine, not a lock. PKCS#11 login belongs to an application and a token, so every pool of a token
//! passes the same gate, and one attempt serves them all.
//!
//! ```text
//!   LoggedOut --begin--> InProgress --ok--> LoggedIn --lost, last session closed--> LoggedOut
//!       ^                    |  \
//!       |                    |   +--credential refused--> Poisoned --another PIN--> LoggedIn
//!       +----begin----- Failed (whoever waited gets its error)
//! ```

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use session_pool::Millis;
use sha2::{Digest, Sha256};

use crate::error::Error;

/// How long a poisoned credential's source is left alone.
pub const SOURCE_INTERVAL: Millis = 30_000;

/// Somebody who waits for an attempt to end: a pool, whose own gate is closed meanwhile.
pub trait Listener: Send + Sync {
    /// The attempt has ended, well or badly: look again.
    fn gate_changed(&self);
}

/// What an operation that needs a login finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Logged in, in this epoch.
    Pass(u64),
    /// Logged out, and this one is to see to the login.
    Begin(u64),
    /// Somebody else sees to it.
    Wait,
    /// It cannot be had.
    Refuse(Error),
}

enum State {
    LoggedOut,
    InProgress { attempt: u64, poison: Option<Poison> },
    LoggedIn,
    Poisoned(Poison),
    Failed { error: Error, at: Millis },
}

/// A credential that must not be tried again.
#[derive(Clone)]
struct Poison {
    error: Error,
    digest: Option<[u8; 32]>,
    asked_at: Millis,
}

struct Inner {
    state: State,
    next_attempt: u64,
    sessions: usize,
    listeners: Vec<Weak<dyn Listener>>,
}

/// The gate.
pub struct Gate {
    /// `epoch << 1 | logged in`, for a look without the lock. Written under it.
    word: AtomicU64,
    inner: Mutex<Inner>,
    salt: [u64; 2],
}

impl Default for Gate {
    fn default() -> Self {
        let random = RandomState::new();
        Self {
            word: AtomicU64::new(1 << 1),
            inner: Mutex::new(Inner { state: State::LoggedOut, next_attempt: 1, sessions: 0, listeners: Vec::new() }),
            salt: [random.hash_one(0), random.hash_one(1)],
        }
    }
}

/// An attempt at a login that somebody is seeing to. Dropped without an end (its pool stops), it is as if it had never begun: nobody waits
/// for ever, and the next who needs a login begins anew.
pub struct Attempt {
    gate: Arc<Gate>,
    number: u64,
}

impl Attempt {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the credential that `pin` is has been refused before.
    pub fn is_known_bad(&self, pin: &[u8]) -> Option<Error> {
        let digest = self.gate.digest(pin);
        match &self.gate.inner.lock().state {
            State::InProgress { poison: Some(poison), .. } if poison.digest == Some(digest) => Some(poison.error.clone()),
            _ => None,
        }
    }

    /// It went well.
    pub fn succeed(self) {
        self.gate.end(self.number, |_| State::LoggedIn);
    }

    /// It went wrong, for a reason that is not the credential.
    pub fn fail(self, error: Error, now: Millis) {
        self.gate.fail(self.number, error, now);
    }

    /// The credential was refused: nobody tries it again.
    pub fn poison(self, error: Error, pin: Option<&[u8]>, now: Millis) {
        let digest = pin.map(|pin| self.gate.digest(pin));
        self.gate.end(self.number, |_| State::Poisoned(Poison { error, digest, asked_at: now }));
    }

    /// The source gave the PIN that had been refused before: as before.
    pub fn stay_poisoned(self, now: Millis) {
        self.gate.stay_poisoned(self.number, now);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.gate.abandon(self.number);
    }
}

impl Gate {
    /// The number that changes whenever handles may have become invalid.
    pub fn epoch(&self) -> u64 {
        self.word.load(Ordering::Acquire) >> 1
    }

    /// Whether somebody of ours is logged in.
    pub fn is_logged_in(&self) -> bool {
        self.word.load(Ordering::Acquire) & 1 == 1
    }

    /// One word for the state, for `status/1`.
    pub fn state_name(&self) -> &'static str {
        match &self.inner.lock().state {
            State::LoggedOut | State::Failed { .. } => "logged_out",
            State::InProgress { .. } => "in_progress",
            State::LoggedIn => "logged_in",
            State::Poisoned(_) => "poisoned",
        }
    }

    /// An operation that was submitted at `submitted` wants to pass.
    pub fn check(&self, submitted: Millis, now: Millis) -> Verdict {
        let word = self.word.load(Ordering::Acquire);
        if word & 1 == 1 {
            return Verdict::Pass(word >> 1);
        }
        let mut inner = self.inner.lock();
        let poison = match &inner.state {
            State::LoggedIn => return Verdict::Pass(self.epoch()),
            State::InProgress { poison: Some(poison), .. } => return Verdict::Refuse(poison.error.clone()),
            State::InProgress { poison: None, .. } => return Verdict::Wait,
            State::Failed { error, at } if submitted <= *at => return Verdict::Refuse(error.clone()),
            State::Poisoned(poison) if now.saturating_sub(poison.asked_at) < SOURCE_INTERVAL => {
                return Verdict::Refuse(poison.error.clone());
            }
            State::Poisoned(poison) => Some(poison.clone()),
            State::LoggedOut | State::Failed { .. } => None,
        };
        let attempt = inner.next_attempt;
        inner.next_attempt += 1;
        inner.state = State::InProgress { attempt, poison };
        Verdict::Begin(attempt)
    }

    /// Waits for the attempt in progress; `false`: there is none (any more).
    #[must_use]
    pub fn listen(&self, listener: Weak<dyn Listener>) -> bool {
        let mut inner = self.inner.lock();
        let waits = matches!(inner.state, State::InProgress { .. });
        if waits && !inner.listeners.iter().any(|other| Weak::ptr_eq(other, &listener)) {
            inner.listeners.push(listener);
        }
        waits
    }

    /// The attempt `number`, to see to; `None`: it has ended.
    pub fn attempt(self: &Arc<Self>, number: u64) -> Option<Attempt> {
        match &self.inner.lock().state {
            State::InProgress { attempt, .. } if *attempt == number => Some(Attempt { gate: self.clone(), number }),
            _ => None,
        }
    }

    /// Nobody can see to this attempt any more: the next who needs a login begins anew.
    pub fn abandon(&self, number: u64) {
        self.end(number, |poison| poison.map_or(State::LoggedOut, State::Poisoned));
    }

    fn fail(&self, number: u64, error: Error, now: Millis) {
        self.end(number, |poison| match poison {
            Some(poison) => State::Poisoned(Poison { asked_at: now, ..poison }),
            None => State::Failed { error, at: now },
        });
    }

    fn stay_poisoned(&self, number: u64, now: Millis) {
        self.end(number, |poison| match poison {
            Some(poison) => State::Poisoned(Poison { asked_at: now, ..poison }),
            None => State::LoggedOut,
        });
    }

    /// The token says that nobody is logged in, though `epoch` thought so. Handles of that epoch are void.
    pub fn lost(&self, epoch: u64) {
        let mut inner = self.inner.lock();
        if self.epoch() == epoch && matches!(inner.state, State::LoggedIn) {
            inner.state = State::LoggedOut;
            self.publish(epoch + 1, false);
        }
    }

    /// A session of ours was opened on the token.
    pub fn session_opened(&self) {
        self.inner.lock().sessions += 1;
    }

    /// A session of ours is about to be closed. The last one's end is a logout.
    pub fn session_closing(&self) {
        let mut inner = self.inner.lock();
        inner.sessions = inner.sessions.saturating_sub(1);
        if inner.sessions == 0 {
            if matches!(inner.state, State::LoggedIn) {
                inner.state = State::LoggedOut;
            }
            self.publish(self.epoch() + 1, false);
        }
    }

    /// How many sessions of ours are open.
    pub(crate) fn sessions(&self) -> usize {
        self.inner.lock().sessions
    }

    /// Forgets that a credential was refused.
    pub fn pardon(&self) {
        let mut inner = self.inner.lock();
        if matches!(inner.state, State::Poisoned(_)) {
            inner.state = State::LoggedOut;
        }
    }

    fn end(&self, number: u64, next: impl FnOnce(Option<Poison>) -> State) {
        let listeners = {
            let mut inner = self.inner.lock();
            match &mut inner.state {
                State::InProgress { attempt, poison } if *attempt == number => {
                    let poison = poison.take();
                    inner.state = next(poison);
                }
                _ => return,
            }
            if matches!(inner.state, State::LoggedIn) {
                self.publish(self.epoch() + 1, true);
            }
            std::mem::take(&mut inner.listeners)
        };
        for listener in listeners {
            if let Some(listener) = listener.upgrade() {
                listener.gate_changed();
            }
        }
    }

    /// Under the lock.
    fn publish(&self, epoch: u64, logged_in: bool) {
        self.word.store(epoch << 1 | u64::from(logged_in), Ordering::Release);
    }

    fn digest(&self, pin: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for word in self.salt {
            hasher.update(word.to_ne_bytes());
        }
        hasher.update(pin);
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Count(AtomicUsize);

    impl Listener for Count {
        fn gate_changed(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn refused() -> Error {
        Error::Poisoned { code: cryptoki_sys::CKR_PIN_INCORRECT }
    }

    fn begin(gate: &Arc<Gate>, now: Millis) -> Attempt {
        match gate.check(now, now) {
            Verdict::Begin(number) => gate.attempt(number).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_attempt_serves_all_who_wait() {
        let gate = Arc::new(Gate::default());
        let before = gate.epoch();
        let attempt = begin(&gate, 0);
        assert_eq!(gate.check(0, 0), Verdict::Wait);
        let listener = Arc::new(Count(AtomicUsize::new(0)));
        let weak: Weak<dyn Listener> = Arc::downgrade(&(listener.clone() as Arc<dyn Listener>));
        assert!(gate.listen(weak.clone()));
        assert!(gate.listen(weak.clone()));
        attempt.succeed();
        assert_eq!(listener.0.load(Ordering::Relaxed), 1);
        assert_eq!(gate.check(0, 0), Verdict::Pass(gate.epoch()));
        assert!(!gate.listen(weak));
        assert!(gate.epoch() > before);
    }

    #[test]
    fn a_failed_attempt_answers_those_who_waited_and_lets_the_next_try() {
        let gate = Arc::new(Gate::default());
        begin(&gate, 5).fail(Error::PinSourceFailed { cause: "timeout".into() }, 9);
        assert!(matches!(gate.check(5, 10), Verdict::Refuse(Error::PinSourceFailed { .. })));
        assert!(matches!(gate.check(10, 10), Verdict::Begin(_)));
    }

    #[test]
    fn after_an_attempt_that_is_dropped_the_next_begins_anew() {
        let gate = Arc::new(Gate::default());
        drop(begin(&gate, 0));
        assert!(matches!(gate.check(0, 0), Verdict::Begin(2)));
    }

    #[test]
    fn a_refused_credential_is_asked_for_again_after_the_interval_only_and_the_same_pin_is_known_bad() {
        let gate = Arc::new(Gate::default());
        begin(&gate, 0).poison(refused(), Some(b"1111"), 0);
        assert_eq!(gate.check(1, SOURCE_INTERVAL - 1), Verdict::Refuse(refused()));
        let attempt = begin(&gate, SOURCE_INTERVAL);
        assert_eq!(gate.check(SOURCE_INTERVAL, SOURCE_INTERVAL), Verdict::Refuse(refused()));
        assert_eq!(attempt.is_known_bad(b"1111"), Some(refused()));
        assert_eq!(attempt.is_known_bad(b"2222"), None);
        attempt.stay_poisoned(SOURCE_INTERVAL);
        assert_eq!(gate.check(SOURCE_INTERVAL + 1, SOURCE_INTERVAL + 1), Verdict::Refuse(refused()));
    }

    #[test]
    fn a_lost_login_is_noticed_once_and_voids_the_handles() {
        let gate = Arc::new(Gate::default());
        gate.session_opened();
        begin(&gate, 0).succeed();
        let epoch = gate.epoch();
        gate.lost(epoch);
        assert!(gate.epoch() > epoch);
        let again = gate.epoch();
        gate.lost(epoch);
        assert_eq!(gate.epoch(), again);
        begin(&gate, 1).succeed();
        gate.session_closing();
        assert!(!gate.is_logged_in());
    }
}
