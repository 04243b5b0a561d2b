//! The state of a login gate, and the lock around it.

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys::CK_USER_TYPE;
use parking_lot::Mutex;

use crate::error::Error;
use crate::token::login_gate::credential::{Mark, Memory, NameMark, Salt, Who};

/// Somebody who waits for an attempt to end: a pool, whose own gate is closed meanwhile, or for a context-specific login.
pub trait Listener: Send + Sync {
    /// It has ended, well or badly: look again.
    fn gate_changed(&self);
}

/// Who is logged in, or sees to it.
pub(super) enum State {
    LoggedOut,
    /// The attempt with this number is being made, at a login or a logout.
    InProgress {
        attempt: u64,
    },
    LoggedIn(Holder),
    /// The last attempt failed, for another reason than the credential.
    Failed(Failed),
}

/// Who is logged in.
pub(super) struct Holder {
    pub(super) user: CK_USER_TYPE,
    pub(super) name: Option<NameMark>,
    /// `None`: with a NULL PIN.
    pub(super) mark: Option<Mark>,
    /// Whether it was our `C_Login`.
    pub(super) ours: bool,
    /// The pools that share it.
    pub(super) members: Vec<u64>,
}

/// An attempt that failed, and whom it concerns.
pub(super) struct Failed {
    pub(super) user: CK_USER_TYPE,
    /// The one pool whose own fault it was.
    pub(super) pool: Option<u64>,
    pub(super) error: Error,
    /// In nanoseconds: a call that comes after it is to begin anew.
    pub(super) at: u64,
}

/// What the lock is for.
pub(super) struct Inner {
    pub(super) state: State,
    pub(super) memory: Memory,
    pub(super) next_attempt: u64,
    /// Sessions of this generation.
    pub(super) sessions: usize,
    /// A login for one use of a key is being made.
    pub(super) has_context_login: bool,
    pub(super) listeners: Vec<Weak<dyn Listener>>,
}

/// The login gate of a token.
pub struct Gate {
    /// `epoch << 1 | logged in`, for a look without the lock. Written under it.
    pub(super) word: AtomicU64,
    /// Moves on when everything that was open on the token is gone. Written under the lock.
    pub(super) generation: AtomicU64,
    pub(super) inner: Mutex<Inner>,
    pub(super) salt: Salt,
}

impl Default for Gate {
    fn default() -> Self {
        let inner = Inner {
            state: State::LoggedOut,
            memory: Memory::default(),
            next_attempt: 1,
            sessions: 0,
            has_context_login: false,
            listeners: Vec::new(),
        };
        Self { word: AtomicU64::new(1 << 1), generation: AtomicU64::new(0), inner: Mutex::new(inner), salt: Salt::random() }
    }
}

/// What a pool is to a login that there is.
pub(super) enum Share {
    /// It shares it: same user, same PIN.
    Same,
    /// Its PIN may be the same, or another.
    Unknown,
    /// It has another user, or name, or another way to log in.
    Conflict,
}

impl Gate {
    /// `epoch << 1 | logged in`: a pool that was admitted in it passes for as long as it does not change.
    #[inline]
    pub fn word(&self) -> u64 {
        self.word.load(Ordering::Acquire)
    }

    /// The number that changes whenever handles may have become invalid.
    pub fn epoch(&self) -> u64 {
        self.word() >> 1
    }

    /// The number that changes whenever everything that was open on the token is gone.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The attempt with this number ends, in the state that `next` makes: the word that comes of it.
    pub(super) fn end(&self, number: u64, next: impl FnOnce(&mut Memory) -> State) -> u64 {
        let (word, listeners) = {
            let mut inner = self.inner.lock();
            match inner.state {
                State::InProgress { attempt } if attempt == number => inner.state = next(&mut inner.memory),
                _ => return self.word(),
            }
            if matches!(inner.state, State::LoggedIn(_)) {
                self.publish(self.epoch() + 1, true);
            }
            (self.word(), std::mem::take(&mut inner.listeners))
        };
        notify(listeners);
        word
    }

    /// Sets the word. Called under the lock.
    pub(super) fn publish(&self, epoch: u64, logged_in: bool) {
        self.word.store(epoch << 1 | u64::from(logged_in), Ordering::Release);
    }
}

/// Tells those who wait. Called without the lock.
pub(super) fn notify(listeners: Vec<Weak<dyn Listener>>) {
    for listener in listeners {
        if let Some(listener) = listener.upgrade() {
            listener.gate_changed();
        }
    }
}

impl Holder {
    /// Whether a pool shares this login; if it does, it is one of its members from now on.
    pub(super) fn admit(&mut self, who: Who) -> Share {
        if self.user != who.user || self.name != who.name || self.mark.is_none() != who.protected {
            return Share::Conflict;
        }
        if self.mark != who.mark && !who.protected {
            return Share::Unknown;
        }
        if !self.members.contains(&who.pool) {
            self.members.push(who.pool);
        }
        Share::Same
    }
}

impl Failed {
    /// Whether this pool is told so.
    pub(super) fn concerns(&self, who: Who) -> bool {
        self.user == who.user && self.pool.is_none_or(|pool| pool == who.pool)
    }
}
