//! A token: found in its slot, known by its identity (serial number and label), shared by the pools that use it.
//!
//! This folder owns: all tokens that were ever found (`registry`), which pools have claimed each, its sessions ([`session`]), its login
//! ([`login_gate`]), the handles of its keys ([`key_cache`]), and what a failed call says of it ([`diagnosis`], [`escalation`], [`suspicion`]).
//!
//! It may not know pools, nor what is asked of a token: a pool that has claimed one is told of it by a [`Watcher`], and says by a
//! [`policy::Policy`] what it makes of failed calls.

pub(crate) mod diagnosis;
pub(crate) mod escalation;
pub(crate) mod key_cache;
pub(crate) mod key_facts;
pub(crate) mod known_keys;
pub(crate) mod login_gate;
pub(crate) mod policy;
pub(crate) mod provision;
mod registry;
pub(crate) mod return_watch;
mod selector;
pub(crate) mod session;
pub(crate) mod suspicion;

pub use selector::{Selector, UriAttribute};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cryptoki_sys::{CK_SESSION_HANDLE, CK_SLOT_ID, CKR_TOKEN_NOT_PRESENT};
use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::module::Module;
use crate::module::handle::OpenHandle;
use crate::p11::session::session_info;
use crate::p11::slots::token_info;
use crate::p11::{CallError, Class, Phase, SlotInfo, TokenInfo};
use crate::token::escalation::Escalation;
use crate::token::key_cache::KeyCache;
use crate::token::known_keys::KnownKeys;
use crate::token::login_gate::Gate;
use crate::token::selector::{Described, identity};
use crate::token::suspicion::Suspicion;

/// A token that pools use.
pub struct Token {
    /// Its module.
    pub module: Arc<Module>,
    slot: AtomicU64,
    /// Serial number and label: what its objects carry.
    pub identity: Arc<[u8]>,
    /// Its login.
    pub gate: Arc<Gate>,
    /// The handles of its keys.
    pub(crate) keys: KeyCache,
    described: Described,
    claims: Mutex<Claims>,
    /// A claim has ended.
    released: Condvar,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
    pub(crate) escalation: Escalation,
    pub(crate) suspicion: Suspicion,
    pub(crate) known: KnownKeys,
    /// A session has died in the midst of a login: the next one that opens is asked whether the login is still there.
    doubtful: AtomicBool,
}

/// A pool that has claimed a token is told what happens to it.
pub(crate) trait Watcher: Send + Sync {
    /// It does not answer: it is to be looked for.
    fn token_lost(&self, call: Option<CallError>);
    /// It is there, but what was open on it is gone.
    fn token_renewed(&self);
    /// Its module is being initialized again: it may be in another slot then.
    fn module_restarts(&self);
}

#[derive(Default)]
struct Claims {
    pools: usize,
    /// How many of them stop.
    leaving: usize,
    exclusive: bool,
}

/// A pool's claim on a token.
pub struct Claim {
    token: Arc<Token>,
    exclusive: bool,
    leaving: AtomicBool,
    is_released: AtomicBool,
    watcher: Option<Weak<dyn Watcher>>,
}

/// How long a claim waits for those who are about to leave.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(10);

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

impl Claim {
    /// Its pool stops: who wants the token now waits for a moment.
    pub fn leave(&self) {
        let mut claims = self.token.claims.lock();
        if !self.is_released.load(Ordering::Relaxed) && !self.leaving.swap(true, Ordering::Relaxed) {
            claims.leaving += 1;
        }
    }

    /// It ends, though calls of its pool's may hang in the module: who wants the token need not wait for those.
    pub fn release(&self) {
        {
            let mut claims = self.token.claims.lock();
            if self.is_released.swap(true, Ordering::Relaxed) {
                return;
            }
            claims.pools = claims.pools.saturating_sub(1);
            if self.leaving.load(Ordering::Relaxed) {
                claims.leaving = claims.leaving.saturating_sub(1);
            }
            if self.exclusive {
                claims.exclusive = false;
            }
        }
        if let Some(watcher) = &self.watcher {
            self.token.watchers.lock().retain(|other| !Weak::ptr_eq(other, watcher));
        }
        self.token.released.notify_all();
    }

    /// The token.
    pub fn token(&self) -> &Arc<Token> {
        &self.token
    }
}

impl Token {
    /// A token that is seen for the first time. See [`Token::find`].
    fn new(module: Arc<Module>, slot: CK_SLOT_ID, described: Described) -> Self {
        Self {
            module,
            slot: AtomicU64::new(slot),
            identity: identity(&described.token),
            gate: Arc::default(),
            keys: KeyCache::default(),
            described,
            claims: Mutex::default(),
            released: Condvar::new(),
            watchers: Mutex::default(),
            escalation: Escalation::default(),
            suspicion: Suspicion::default(),
            known: KnownKeys::default(),
            doubtful: AtomicBool::new(false),
        }
    }

    /// Whether this is the token that a selector names.
    pub fn is(&self, selector: &Selector) -> bool {
        selector.matches(self.slot(), &self.described)
    }

    /// What its slot has said of itself.
    pub(crate) fn slot_info(&self) -> Option<&SlotInfo> {
        self.described.slot.as_ref()
    }

    /// The slot that it is in.
    pub fn slot(&self) -> CK_SLOT_ID {
        self.slot.load(Ordering::Relaxed)
    }

    /// How many pools other than one use it.
    pub(crate) fn other_pools(&self) -> usize {
        let claims = self.claims.lock();
        claims.pools.saturating_sub(claims.leaving + 1)
    }

    /// The number that changes whenever everything that was open on it is gone.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.gate.generation()
    }

    /// It does not answer any more, as seen in this generation. `false`: that was known, or is over.
    pub(crate) fn lose(&self, generation: u64, call: Option<CallError>) -> bool {
        let first = self.reset(generation);
        if first {
            self.each_watcher(|watcher| watcher.token_lost(call));
        }
        first
    }

    /// It answers, but what was open in this generation is gone. `false`: that was known.
    pub(crate) fn renew(&self, generation: u64) -> bool {
        let first = self.reset(generation);
        if first {
            self.each_watcher(|watcher| watcher.token_renewed());
        }
        first
    }

    fn reset(&self, generation: u64) -> bool {
        let first = self.gate.reset(generation);
        if first {
            self.keys.clear();
            self.doubtful.store(false, Ordering::Relaxed);
        }
        first
    }

    fn each_watcher(&self, tell: impl Fn(&dyn Watcher)) {
        let watchers = self.watchers.lock().clone();
        for watcher in watchers.iter().filter_map(Weak::upgrade) {
            tell(&*watcher);
        }
    }

    /// A session has died: perhaps the handles of this epoch with it.
    pub(crate) fn doubt(&self, epoch: u64) {
        self.doubtful.store(true, Ordering::Relaxed);
        self.gate.outdate(epoch);
    }

    /// Asks a new session whether the login is still there, where that is in doubt. Called inside of the module.
    pub(crate) fn check_doubtful_login(&self, session: CK_SESSION_HANDLE) {
        if !self.doubtful.load(Ordering::Relaxed) {
            return;
        }
        let word = self.gate.word();
        if word & 1 == 1
            && session_info(self.module.functions(), session).is_ok_and(|info| !info.is_user() && !info.is_security_officer())
        {
            self.gate.note_login_lost(word >> 1);
        }
        self.doubtful.store(false, Ordering::Relaxed);
    }

    /// Whether it answers, by what no caller's input decides: its own description, a session, the session's.
    pub(crate) fn probe(&self) -> Result<(), Error> {
        let _inside = self.module.enter_unless_stuck()?;
        self.is_in_its_slot()?;
        let functions = self.module.functions();
        let session = match OpenHandle::open(&self.module, self.slot(), true) {
            // It has no room for one more than those that are ours.
            Err(error) if error.class() == Class::Capacity && self.gate.sessions() > 0 => return Ok(()),
            opened => opened?.0,
        };
        let info = session.begin().map(|used| session_info(functions, used.handle()));
        let closed = session.close();
        info.transpose()?;
        Ok(closed?)
    }

    /// Runs something on a session of its own, which is closed then. Called inside of the module.
    pub(crate) fn with_temporary_session<T>(
        &self,
        read_only: bool,
        run: impl FnOnce(CK_SESSION_HANDLE) -> T,
    ) -> Result<T, CallError> {
        OpenHandle::with_temporary(&self.module, self.slot(), read_only, run)
    }

    /// Whether the slot answers, and has this token. Called inside of the module.
    pub(crate) fn is_in_its_slot(&self) -> Result<(), CallError> {
        self.info().map(drop)
    }

    /// What it says of itself, unless another token is in its slot. Called inside of the module.
    pub(crate) fn info(&self) -> Result<TokenInfo, CallError> {
        let info = token_info(self.module.functions(), self.slot())?;
        if identity(&info) == self.identity {
            return Ok(info);
        }
        Err(CallError::new("C_GetTokenInfo", CKR_TOKEN_NOT_PRESENT, Phase::Single))
    }

    /// Claims it for a pool, which may want to be told; an exclusive claim suffers no other, but for a moment one whose pool stops (as when a pool is restarted).
    pub(crate) fn claim(self: &Arc<Self>, exclusive: bool, watcher: Option<Weak<dyn Watcher>>) -> Result<Claim, Error> {
        let until = Instant::now() + LEAVING_TIMEOUT;
        let mut claims = self.claims.lock();
        while claims.exclusive || (exclusive && claims.pools > 0) {
            let all_leave = claims.pools == claims.leaving;
            if !all_leave || self.released.wait_until(&mut claims, until).timed_out() {
                return Err(Error::SlotInUse);
            }
        }
        claims.pools += 1;
        claims.exclusive = exclusive;
        drop(claims);
        self.watchers.lock().extend(watcher.clone());
        let (leaving, is_released) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Claim { token: self.clone(), exclusive, leaving, is_released, watcher })
    }
}
