//! The login gate of a token: a state machine, not a lock. PKCS#11 login belongs to an application and a token, so every pool of a token
//! passes the same gate, and one attempt serves them all.
//!
//! ```text
//!   LoggedOut --begin--> InProgress --ok--> LoggedIn --lost, the last session or pool goes--> LoggedOut
//!       ^                    |  ^               |
//!       |                    |  +----logout-----+
//!       +---refused, ended---+
//!       |                    |
//!       +-begin-- Failed <---+  (whoever waited gets its error)
//! ```
//!
//! A login belongs to one user with one PIN. Pools with the same share it; each is *admitted* once for each login, others are in conflict with
//! it. What was refused is remembered beside the state. The state is in `state.rs`, what is remembered of PINs in `credential.rs`, what somebody is
//! seeing to (a login, a logout, a login for one use of a key) in `attempt.rs`.

mod attempt;
mod credential;
pub(crate) mod pin_flags;
mod state;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use cryptoki_sys::CK_USER_TYPE;
use session_pool::Millis;

pub use attempt::{ContextLogin, LoginAttempt};
pub use credential::{Mark, MarkedPin, NameMark, SOURCE_INTERVAL, Who};
pub use state::{Gate, Listener};

use crate::error::Error;
use crate::support::pin::Pin;
use crate::token::login_gate::state::{Inner, Share, State};

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The login or logout in progress.
    Attempt,
    /// The context-specific login that is being made.
    ContextLogin,
}

/// What an operation that needs a login finds.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Logged in, with the same credential: its pool is admitted for as long as the gate's word is this one.
    Pass(u64),
    /// Logged out, and this one is to see to the login.
    Begin(LoginAttempt),
    /// Logged in, perhaps with the same PIN: the pool's source is to say, for this word of the gate.
    Compare(u64),
    /// Somebody else sees to it.
    Wait,
    /// It cannot be had.
    Refuse(Error),
}

/// What an explicit login finds.
pub enum Explicit {
    /// Logged in with this very PIN, in this word.
    Already(u64),
    /// It is to be tried.
    Begin(LoginAttempt),
    /// An attempt is in progress: look again when it has ended.
    Wait,
    /// Another user or PIN is logged in.
    Refuse(Error),
}

/// What a logout finds.
pub enum Leave {
    /// Nobody is logged in.
    Nothing,
    /// It is to be made.
    Begin(LoginAttempt),
    /// An attempt is in progress: look again when it has ended.
    Wait,
    /// It is not this pool's login.
    Refuse(Error),
}

impl Gate {
    /// Whether somebody of ours is logged in.
    pub fn is_logged_in(&self) -> bool {
        self.word() & 1 == 1
    }

    /// One word for the state as this user has it, for `status/1`.
    pub fn state_name(&self, user: CK_USER_TYPE) -> &'static str {
        let inner = self.inner.lock();
        match &inner.state {
            State::InProgress { .. } => "in_progress",
            State::LoggedIn(_) => "logged_in",
            _ if inner.memory.poison(user).is_some() => "poisoned",
            State::LoggedOut | State::Failed(_) => "logged_out",
        }
    }

    /// The mark of a PIN, and of the user name with which it is given.
    pub fn mark(&self, name: Option<&str>, pin: &[u8]) -> Mark {
        self.salt.mark(name, pin)
    }

    /// A PIN with its mark.
    pub(crate) fn mark_pin(&self, name: Option<&str>, pin: Pin) -> MarkedPin {
        MarkedPin::new(name, pin, &self.salt)
    }

    /// An operation that was asked for at `asked_at` (nanoseconds) wants to pass.
    pub fn check(self: &Arc<Self>, who: Who, asked_at: u64, now: Millis) -> Verdict {
        let mut inner = self.inner.lock();
        let Inner { state, memory, .. } = &mut *inner;
        match state {
            State::LoggedIn(holder) => {
                return match holder.admit(who) {
                    Share::Same => Verdict::Pass(self.word()),
                    Share::Unknown => Verdict::Compare(self.word()),
                    Share::Conflict => Verdict::Refuse(Error::LoginConflict { call: None }),
                };
            }
            State::InProgress { .. } => {
                return memory.poison(who.user).map_or(Verdict::Wait, |poison| Verdict::Refuse(poison.error.clone()));
            }
            State::Failed(failed) if failed.concerns(who) && asked_at <= failed.at => {
                return Verdict::Refuse(failed.error.clone());
            }
            State::LoggedOut | State::Failed(_) => (),
        }
        if let Some(error) = memory.too_soon(who.user, now) {
            return Verdict::Refuse(error);
        }
        Verdict::Begin(self.begin(&mut inner, who))
    }

    /// Whether a pool shares the login that there is: `Some(word)`.
    pub fn shares(&self, who: Who) -> Option<u64> {
        let mut inner = self.inner.lock();
        let State::LoggedIn(holder) = &mut inner.state else { return None };
        match holder.admit(who) {
            Share::Same => Some(self.word()),
            Share::Unknown | Share::Conflict => None,
        }
    }

    /// Somebody wants to log in with this PIN, and knows what it does.
    pub fn begin_explicit(self: &Arc<Self>, who: Who) -> Explicit {
        let mut inner = self.inner.lock();
        match &mut inner.state {
            State::LoggedIn(holder) => match holder.admit(who) {
                Share::Same => Explicit::Already(self.word()),
                Share::Unknown | Share::Conflict => Explicit::Refuse(Error::LoginConflict { call: None }),
            },
            State::InProgress { .. } => Explicit::Wait,
            State::LoggedOut | State::Failed(_) => Explicit::Begin(self.begin(&mut inner, who)),
        }
    }

    /// Somebody wants to log out. `force`: even what is another pool's login.
    pub fn begin_logout(self: &Arc<Self>, who: Who, force: bool) -> Leave {
        let mut inner = self.inner.lock();
        match &inner.state {
            State::LoggedIn(holder) if force || holder.members.contains(&who.pool) => {
                self.publish(self.epoch() + 1, false);
                Leave::Begin(self.begin(&mut inner, who))
            }
            State::LoggedIn(_) => Leave::Refuse(Error::LoginConflict { call: None }),
            State::InProgress { .. } => Leave::Wait,
            State::LoggedOut | State::Failed(_) => Leave::Nothing,
        }
    }

    /// Waits for it to end; `false`: there is none (any more).
    #[must_use]
    pub fn listen(&self, awaited: Awaited, listener: Weak<dyn Listener>) -> bool {
        let mut inner = self.inner.lock();
        let waits = match awaited {
            Awaited::Attempt => matches!(inner.state, State::InProgress { .. }),
            Awaited::ContextLogin => inner.has_context_login,
        };
        if waits && !inner.listeners.iter().any(|other| Weak::ptr_eq(other, &listener)) {
            inner.listeners.push(listener);
        }
        waits
    }

    /// Why this user's credential is left alone.
    pub fn poison(&self, user: CK_USER_TYPE) -> Option<Error> {
        self.inner.lock().memory.poison(user).map(|poison| poison.error.clone())
    }

    /// What has gone wrong with this user's logins, and since when; while somebody is logged in, with those for one use of a key.
    pub(crate) fn trouble(&self, user: CK_USER_TYPE) -> Option<(Error, Millis)> {
        self.inner.lock().memory.trouble(user)
    }

    /// A number that no attempt has: for what else a source is asked for.
    pub fn take_number(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.next_attempt += 1;
        inner.next_attempt - 1
    }

    /// The token says that nobody is logged in, though `epoch` thought so. Handles of that epoch are void.
    pub fn note_login_lost(&self, epoch: u64) {
        let mut inner = self.inner.lock();
        if self.epoch() == epoch && matches!(inner.state, State::LoggedIn(_)) {
            inner.state = State::LoggedOut;
            self.publish(epoch + 1, false);
        }
    }

    /// Sessions have died, and nobody is logged in whose login could tell whether the handles of `epoch` died with them: they count as void.
    pub fn outdate(&self, epoch: u64) {
        let _inner = self.inner.lock();
        if self.word() == epoch << 1 {
            self.publish(epoch + 1, false);
        }
    }

    /// The token was away, or its module was initialized again: sessions, handles and the login of this generation are gone. An attempt in
    /// progress goes on. `false`: somebody has said so before.
    pub fn reset(&self, generation: u64) -> bool {
        let mut inner = self.inner.lock();
        if self.generation() != generation {
            return false;
        }
        self.generation.store(generation + 1, Ordering::Release);
        inner.sessions = 0;
        if matches!(inner.state, State::LoggedIn(_)) {
            inner.state = State::LoggedOut;
        }
        self.publish(self.epoch() + 1, false);
        true
    }

    /// A pool goes. `true`: it was the last one of a login that was ours, and is to log out before it closes its last session.
    #[must_use]
    pub fn leave(&self, pool: u64) -> bool {
        let mut inner = self.inner.lock();
        let State::LoggedIn(holder) = &mut inner.state else { return false };
        holder.members.retain(|member| *member != pool);
        if !holder.members.is_empty() {
            return false;
        }
        let ours = holder.ours;
        inner.state = State::LoggedOut;
        self.publish(self.epoch() + 1, false);
        ours
    }

    /// A session of ours was opened on the token, in this generation.
    pub fn session_opened(&self, generation: u64) {
        let mut inner = self.inner.lock();
        inner.sessions += usize::from(self.generation() == generation);
    }

    /// A session of ours, of this generation, is about to be closed. The last one's end is a logout; `true`: of a login that was ours.
    pub fn session_closing(&self, generation: u64) -> bool {
        let mut inner = self.inner.lock();
        if self.generation() != generation {
            return false;
        }
        inner.sessions = inner.sessions.saturating_sub(1);
        if inner.sessions > 0 {
            return false;
        }
        let ours = matches!(&inner.state, State::LoggedIn(holder) if holder.ours);
        if matches!(inner.state, State::LoggedIn(_)) {
            inner.state = State::LoggedOut;
        }
        self.publish(self.epoch() + 1, false);
        ours
    }

    /// How many sessions of ours are open.
    pub(crate) fn sessions(&self) -> usize {
        self.inner.lock().sessions
    }

    /// A user has a new PIN: nothing that was refused before counts any more.
    pub fn forget_refusals(&self, user: CK_USER_TYPE) {
        self.inner.lock().memory.pardon(user);
    }

    /// A PIN was refused elsewhere than in an attempt: it is not tried again.
    pub fn note_refused_pin(&self, user: CK_USER_TYPE, mark: Mark, error: Error, now: Millis) {
        let mut inner = self.inner.lock();
        inner.memory.remember(user, mark, error.clone());
        inner.memory.set_poison(user, error, now);
    }

    /// Whether a user's source may be asked for the PIN of a context-specific login.
    pub fn may_ask_for_key_pin(&self, user: CK_USER_TYPE, now: Millis) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.memory.too_soon(user, now) {
            return Err(error);
        }
        inner.memory.note_asked(user, now);
        Ok(())
    }

    /// A context-specific login with this PIN is to be made: one at a time, so that a wrong PIN is tried once. `None`: it is not its turn.
    pub fn begin_context_login(
        self: &Arc<Self>,
        user: CK_USER_TYPE,
        mark: Option<Mark>,
        now: Millis,
    ) -> Result<Option<ContextLogin>, Error> {
        let mut inner = self.inner.lock();
        if let Some(error) = mark.and_then(|mark| inner.memory.refusal(user, mark).cloned()) {
            inner.memory.set_poison(user, error.clone(), now);
            return Err(error);
        }
        if std::mem::replace(&mut inner.has_context_login, true) {
            return Ok(None);
        }
        Ok(Some(ContextLogin { gate: self.clone(), user, mark }))
    }

    /// An attempt begins, under the lock: there is none in progress without somebody who has it.
    fn begin(self: &Arc<Self>, inner: &mut Inner, who: Who) -> LoginAttempt {
        let number = inner.next_attempt;
        inner.next_attempt += 1;
        inner.state = State::InProgress { attempt: number };
        LoginAttempt { gate: self.clone(), number, who }
    }
}
