//! The application's sessions. Their handles are ours, and lead to the real module's. By default none is used twice; on command the lowest
//! free number is given out, as many a real module does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use parking_lot::{Mutex, MutexGuard};

use crate::function::Function;
use crate::real::real;
use crate::state::CHAOS;

const SHARDS: usize = 64;

/// Values of [`Session::user`] beside those of functions, which are the function's number plus one.
const NOBODY: usize = 0;
const CLOSED: usize = usize::MAX;

/// How often a call looks whether the one before it on its session has ended.
const TURN: Duration = Duration::from_micros(50);

/// A session.
pub struct Session {
    /// The real module's handle.
    pub real: CK_SESSION_HANDLE,
    /// The real module's slot.
    pub slot: CK_SLOT_ID,
    pub read_write: bool,
    /// The function that is using it, `NOBODY`, or `CLOSED` when the real session is no more.
    user: AtomicUsize,
    /// The application may not use it any more; it may not know yet.
    dead: AtomicBool,
    /// When the device was last called on it.
    called: Mutex<Instant>,
}

impl Session {
    /// Closes the real session of a dead one, unless somebody is using it: that one will do it then.
    fn close_if_dead(&self) {
        let is_dead = self.dead.load(Ordering::SeqCst);
        if is_dead && self.user.compare_exchange(NOBODY, CLOSED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            close(self.real);
        }
    }

    /// One that the device has not been called on for too long dies as soon as it is. What the library knows by itself is no call.
    fn called(&self, function: Function) {
        if matches!(function, Function::C_GetSessionInfo | Function::C_CloseSession) {
            return;
        }
        let limit = CHAOS.session_idle_limit.load(Ordering::SeqCst);
        let before = std::mem::replace(&mut *self.called.lock(), Instant::now());
        if before.elapsed().as_micros() as u64 > limit && !self.dead.swap(true, Ordering::SeqCst) {
            CHAOS.sessions.unreserve();
        }
    }

    /// The code with which a dead session answers: its token is away, or was.
    fn code(&self) -> CK_RV {
        CHAOS.slots.away(self.slot).unwrap_or(CKR_SESSION_HANDLE_INVALID)
    }
}

/// Closes a real session. Nobody can be told if that fails.
pub fn close(handle: CK_SESSION_HANDLE) {
    if let Some(list) = CHAOS.real() {
        // SAFETY: takes a handle only; a bad one is an error code.
        let _code = unsafe { real!(list, C_CloseSession(handle)) };
    }
}

/// A call that uses a session, and is the only one.
pub struct Claim {
    session: Arc<Session>,
    handle: CK_SESSION_HANDLE,
    generation: u64,
}

impl Claim {
    /// The real module's handle.
    pub fn real(&self) -> CK_SESSION_HANDLE {
        self.session.real
    }

    /// The real module's slot.
    pub fn slot(&self) -> CK_SLOT_ID {
        self.session.slot
    }

    /// That of the objects when the call came.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// `Err`: the session died. One that the application closed did not.
    pub fn check_alive(&self) -> Result<(), CK_RV> {
        let died = self.session.dead.load(Ordering::SeqCst) && self.session.user.load(Ordering::SeqCst) != CLOSED;
        if died { Err(self.session.code()) } else { Ok(()) }
    }

    /// The application closed it, and so did the real module.
    pub fn closed(&self) {
        self.session.user.store(CLOSED, Ordering::SeqCst);
        CHAOS.sessions.forget(self.handle, &self.session);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.session.user.load(Ordering::SeqCst) != CLOSED {
            self.session.user.store(NOBODY, Ordering::SeqCst);
            self.session.close_if_dead();
        }
    }
}

/// All sessions.
pub struct Sessions {
    shards: [Mutex<BTreeMap<CK_SESSION_HANDLE, Arc<Session>>>; SHARDS],
    last: AtomicU64,
    /// Held while a number is chosen for a new session.
    numbering: Mutex<()>,
    /// The lowest free number is given out again, also while the application does not know that its session is gone.
    pub reuses: AtomicBool,
    /// Living ones, and those that are being opened.
    open: AtomicUsize,
    /// Calls with the handle of a dead session, or of none.
    refused: AtomicU64,
}

impl Sessions {
    pub const fn new() -> Self {
        Self {
            shards: [const { Mutex::new(BTreeMap::new()) }; SHARDS],
            last: AtomicU64::new(0),
            numbering: Mutex::new(()),
            reuses: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn shard(&self, handle: CK_SESSION_HANDLE) -> &Mutex<BTreeMap<CK_SESSION_HANDLE, Arc<Session>>> {
        &self.shards[handle as usize % SHARDS]
    }

    /// The session for a call of `function`. A second call at the same time is a violation, and waits for the first one, as in a module with a
    /// lock for each session.
    pub fn claim(&self, handle: CK_SESSION_HANDLE, function: Function) -> Result<Claim, CK_RV> {
        let found = self.shard(handle).lock().get(&handle).cloned();
        let refused = |code| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Err(code)
        };
        let Some(session) = found else { return refused(CHAOS.slots.all_away().unwrap_or(CKR_SESSION_HANDLE_INVALID)) };
        let mine = function as usize + 1;
        let mut is_told = false;
        loop {
            match session.user.compare_exchange(NOBODY, mine, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    session.called(function);
                    let claim = Claim { session, handle, generation: CHAOS.objects.generation() };
                    if let Err(code) = claim.check_alive() {
                        // Closing is how the application lets go of it.
                        if function == Function::C_CloseSession {
                            self.forget(handle, &claim.session);
                        }
                        return refused(code);
                    }
                    return Ok(claim);
                }
                Err(CLOSED) => {
                    if function == Function::C_CloseSession {
                        self.forget(handle, &session);
                    }
                    return refused(session.code());
                }
                Err(other) => {
                    if !is_told {
                        let other = Function::ALL.get(other - 1).map_or("another call", |function| function.name());
                        let own = function.name();
                        CHAOS.violation(format!("{own} called on session {handle} while another thread is in {other} on it"));
                        is_told = true;
                    }
                    thread::sleep(TURN);
                }
            }
        }
    }

    /// Makes room for one more session, or `CKR_SESSION_COUNT`.
    pub fn reserve(&self) -> Result<(), CK_RV> {
        let limit = CHAOS.session_limit.load(Ordering::SeqCst);
        let more = |open| if open < limit { Some(open + 1) } else { None };
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).map(|_| ()).map_err(|_| CKR_SESSION_COUNT)
    }

    /// Gives the room back: the session did not open.
    pub fn unreserve(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    /// A session that was opened in the room that was reserved; its handle.
    pub fn add(&self, real: CK_SESSION_HANDLE, slot: CK_SLOT_ID, read_write: bool) -> CK_SESSION_HANDLE {
        let _one_at_a_time = self.numbering.lock();
        let handle = if self.reuses.load(Ordering::SeqCst) {
            let is_free = |handle: &CK_SESSION_HANDLE| !self.shard(*handle).lock().contains_key(handle);
            (1..).find(is_free).unwrap_or(CK_INVALID_HANDLE)
        } else {
            self.last.fetch_add(1, Ordering::SeqCst) as CK_SESSION_HANDLE + 1
        };
        let (user, dead) = (AtomicUsize::new(NOBODY), AtomicBool::new(false));
        let session = Arc::new(Session { real, slot, read_write, user, dead, called: Mutex::new(Instant::now()) });
        self.shard(handle).lock().insert(handle, session);
        handle
    }

    /// One whose handle the application has not been given is closed.
    pub fn withdraw(&self, handle: CK_SESSION_HANDLE) {
        let gone = self.shard(handle).lock().remove(&handle);
        if let Some(session) = gone {
            if !session.dead.swap(true, Ordering::SeqCst) {
                self.unreserve();
            }
            session.close_if_dead();
        }
    }

    fn forget(&self, handle: CK_SESSION_HANDLE, session: &Arc<Session>) {
        let mut shard = self.shard(handle).lock();
        // Its number may be another's by now.
        if shard.get(&handle).is_some_and(|known| Arc::ptr_eq(known, session)) {
            shard.remove(&handle);
        }
        drop(shard);
        if !session.dead.swap(true, Ordering::SeqCst) {
            self.unreserve();
        }
    }

    fn all(&self) -> Vec<(CK_SESSION_HANDLE, Arc<Session>)> {
        let shards = self.shards.iter();
        shards.flat_map(|shard| shard.lock().iter().map(|(handle, s)| (*handle, s.clone())).collect::<Vec<_>>()).collect()
    }

    /// No session is added before what this gives is dropped.
    pub fn hold_back(&self) -> MutexGuard<'_, ()> {
        self.numbering.lock()
    }

    /// The real slots that have a session of the application's.
    pub fn slots(&self) -> Vec<CK_SLOT_ID> {
        let mut slots: Vec<_> = self.living().iter().map(|session| session.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Those that the application may use.
    pub fn living(&self) -> Vec<Arc<Session>> {
        let all = self.all().into_iter().map(|(_, session)| session);
        all.filter(|session| !session.dead.load(Ordering::SeqCst)).collect()
    }

    /// A session of the slot that a call is using: its function.
    pub fn busy(&self, slot: CK_SLOT_ID) -> Option<&'static str> {
        self.living().iter().filter(|session| session.slot == slot).find_map(|session| {
            let user = session.user.load(Ordering::SeqCst);
            user.checked_sub(1).and_then(|number| Function::ALL.get(number)).map(|function| function.name())
        })
    }

    /// Takes the sessions of a slot, or all, away from the application, and closes the real ones; one that is in use is
    /// closed when its call returns.
    pub fn kill(&self, slot: Option<CK_SLOT_ID>) {
        for (handle, session) in self.all() {
            if slot.is_some_and(|slot| session.slot != slot) {
                continue;
            }
            if self.reuses.load(Ordering::SeqCst) {
                self.forget(handle, &session);
            }
            if !session.dead.swap(true, Ordering::SeqCst) {
                self.unreserve();
            }
            session.close_if_dead();
        }
    }

    /// The real module closed all sessions of the slot, or all there are.
    pub fn forget_all(&self, slot: Option<CK_SLOT_ID>) {
        for (handle, session) in self.all() {
            if slot.is_none_or(|slot| session.slot == slot) {
                // One that somebody uses all the same is closed by its real handle, which does no harm.
                let _ = session.user.compare_exchange(NOBODY, CLOSED, Ordering::SeqCst, Ordering::SeqCst);
                self.forget(handle, &session);
            }
        }
    }

    /// How many there are, with those that are being opened.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// How many calls were refused since the session was dead or unknown.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    pub fn reset_counts(&self) {
        self.refused.store(0, Ordering::SeqCst);
    }
}
