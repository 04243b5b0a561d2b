//! The application's sessions. Their handles are ours, and lead to the real module's. By default none is used twice; on command the lowest
//! free number is given out, as many a real module does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use cryptoki_sys::*;
use parking_lot::{Mutex, MutexGuard};

use crate::function::Function;

const SHARDS: usize = 64;

/// Values of [`Session::user`] beside those of functions, which are the function's number plus one.
pub(crate) const NOBODY: usize = 0;
pub(crate) const CLOSED: usize = usize::MAX;

/// A session.
pub struct Session {
    /// The real module's handle.
    pub real: CK_SESSION_HANDLE,
    /// The real module's slot.
    pub slot: CK_SLOT_ID,
    pub read_write: bool,
    /// The function that is using it, `NOBODY`, or `CLOSED` when the real session is no more.
    pub(crate) user: AtomicUsize,
    /// The application may not use it any more; it may not know yet.
    pub(crate) dead: AtomicBool,
    /// When the device was last called on it.
    pub(crate) called: Mutex<Instant>,
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
    pub(crate) open: AtomicUsize,
    /// Calls with the handle of a dead session, or of none.
    pub(crate) refused: AtomicU64,
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

    pub(crate) fn shard(&self, handle: CK_SESSION_HANDLE) -> &Mutex<BTreeMap<CK_SESSION_HANDLE, Arc<Session>>> {
        &self.shards[handle as usize % SHARDS]
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

    pub(crate) fn forget(&self, handle: CK_SESSION_HANDLE, session: &Arc<Session>) {
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

    pub(crate) fn all(&self) -> Vec<(CK_SESSION_HANDLE, Arc<Session>)> {
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
