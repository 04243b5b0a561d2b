//! What the gate remembers of PINs: never themselves, only salted digests.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

use cryptoki_sys::CK_USER_TYPE;
use session_pool::Millis;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::support::failing::Failing;
use crate::support::pin::Pin;

/// How long a poisoned credential's source is left alone.
pub const SOURCE_INTERVAL: Millis = 30_000;

/// How many refused PINs are remembered.
const MOST_REFUSED: usize = 64;

/// The salted digest of a PIN and of the user name that goes with it: tells whether two credentials are the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mark([u8; 32]);

/// The digest of a user name: tells whether two are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameMark([u8; 32]);

impl NameMark {
    /// That of this name.
    pub fn of(name: &str) -> Self {
        Self(Sha256::digest(name).into())
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// A PIN, and its mark at the gate of one token: made once for each login, where its PIN comes in.
pub struct MarkedPin {
    pin: Pin,
    mark: Mark,
}

impl MarkedPin {
    pub(super) fn new(name: Option<&str>, pin: Pin, salt: &Salt) -> Self {
        let mark = salt.mark(name, &pin);
        Self { pin, mark }
    }

    /// The PIN.
    pub(crate) fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Its mark.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// The PIN, for another gate.
    pub(crate) fn into_pin(self) -> Pin {
        self.pin
    }
}

/// Makes marks.
pub(super) struct Salt([u64; 2]);

impl Salt {
    pub(super) fn random() -> Self {
        let random = RandomState::new();
        Self([random.hash_one(0), random.hash_one(1)])
    }

    pub(super) fn mark(&self, name: Option<&str>, pin: &[u8]) -> Mark {
        let mut hasher = Sha256::new();
        for word in self.0 {
            hasher.update(word.to_ne_bytes());
        }
        // No other name and PIN have the same bytes in a row: the name's length comes first, and that of none is no length.
        hasher.update(name.map_or(u64::MAX, |name| name.len() as u64).to_ne_bytes());
        hasher.update(name.unwrap_or_default());
        hasher.update(pin);
        Mark(hasher.finalize().into())
    }
}

/// Who wants to pass the gate: a pool, with its credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// The pool's number.
    pub pool: u64,
    /// As whom it logs in.
    pub user: CK_USER_TYPE,
    /// The name with which it logs in.
    pub name: Option<NameMark>,
    /// It logs in by the token's own means, with a NULL PIN.
    pub protected: bool,
    /// The PIN with which it last passed.
    pub mark: Option<Mark>,
}

/// Why a user's credential is left alone.
#[derive(Clone)]
pub(super) struct Poison {
    pub(super) error: Error,
    since: Millis,
    asked_at: Millis,
}

struct Refused {
    user: CK_USER_TYPE,
    mark: Mark,
    error: Error,
}

/// What was refused on a token.
#[derive(Default)]
pub(super) struct Memory {
    /// At most one for each type of user.
    poisons: Vec<(CK_USER_TYPE, Poison)>,
    refused: VecDeque<Refused>,
    /// Logins that have failed for another reason than the credential, since the last one that did not.
    failures: Vec<(CK_USER_TYPE, Failing<Error>)>,
}

impl Memory {
    /// Why this user's credential is left alone, if it is.
    pub(super) fn poison(&self, user: CK_USER_TYPE) -> Option<&Poison> {
        self.poisons.iter().find(|(other, _)| *other == user).map(|(_, poison)| poison)
    }

    /// The error for whoever would have the source asked again too soon.
    pub(super) fn too_soon(&self, user: CK_USER_TYPE, now: Millis) -> Option<Error> {
        let poison = self.poison(user)?;
        (now.saturating_sub(poison.asked_at) < SOURCE_INTERVAL).then(|| poison.error.clone())
    }

    /// Why this PIN must not be tried again.
    pub(super) fn refusal(&self, user: CK_USER_TYPE, mark: Mark) -> Option<&Error> {
        self.refused.iter().find(|refused| refused.user == user && refused.mark == mark).map(|refused| &refused.error)
    }

    /// The user's credential is left alone from now on.
    pub(super) fn set_poison(&mut self, user: CK_USER_TYPE, error: Error, now: Millis) {
        let since = self.poison(user).map_or(now, |poison| poison.since);
        self.clear_poison(user);
        self.poisons.push((user, Poison { error, since, asked_at: now }));
    }

    /// A login of this user has failed, for no fault of its credential.
    pub(super) fn note_failure(&mut self, user: CK_USER_TYPE, error: Error, now: Millis) {
        match self.failures.iter_mut().find(|(other, _)| *other == user) {
            Some((_, failures)) => failures.note(error, now),
            None => {
                let mut failures = Failing::default();
                failures.note(error, now);
                self.failures.push((user, failures));
            }
        }
    }

    /// What is wrong with this user's logins, and since when.
    pub(super) fn trouble(&self, user: CK_USER_TYPE) -> Option<(Error, Millis)> {
        let failed = || self.failures.iter().find(|(other, _)| *other == user)?.1.get();
        self.poison(user).map(|poison| (poison.error.clone(), poison.since)).or_else(failed)
    }

    /// Its source was asked just now; `false`: it is not poisoned.
    pub(super) fn note_asked(&mut self, user: CK_USER_TYPE, now: Millis) -> bool {
        let poison = self.poisons.iter_mut().find(|(other, _)| *other == user);
        poison.map(|(_, poison)| poison.asked_at = now).is_some()
    }

    /// The token has refused this PIN.
    pub(super) fn remember(&mut self, user: CK_USER_TYPE, mark: Mark, error: Error) {
        self.forget(user, mark);
        if self.refused.len() >= MOST_REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back(Refused { user, mark, error });
    }

    /// It was the right one after all.
    pub(super) fn forget(&mut self, user: CK_USER_TYPE, mark: Mark) {
        self.refused.retain(|refused| refused.user != user || refused.mark != mark);
    }

    /// The user's credential is good, or may be: it is not left alone any more.
    pub(super) fn clear_poison(&mut self, user: CK_USER_TYPE) {
        self.failures.retain(|(other, _)| *other != user);
        self.poisons.retain(|(other, _)| *other != user);
    }

    /// The user has a new PIN: nothing that was known of it holds any more.
    pub(super) fn pardon(&mut self, user: CK_USER_TYPE) {
        self.clear_poison(user);
        self.refused.retain(|refused| refused.user != user);
    }
}
