//! Which session owns a handle, where handles are not unique in time.
//!
//! A module may lose a session and give its handle to the next one that is opened, while a thread is still between two calls with it. So a
//! handle alone says nothing: each session *owns* its handle until a later session is given the same one, and is *displaced* from then on.
//!
//! Three rules make it impossible that two sessions' calls meet on one handle:
//!
//! * A session calls the module only within a [`Use`], which it gets only while it owns its handle, and while nobody else uses that handle.
//! * Whoever is given a handle that is in use ([`Before::InUse`]) must not use it. It leaves its session with the handle ([`Holder::hold`])
//!   and opens another one. So the module cannot give out that handle once more, and what the displaced session's thread still calls reaches a
//!   session that nobody uses.
//! * What is left there is handed back when the use ends.
//!
//! One word holds the owner and whether the handle is in use, so that to take it over and to begin a use are ordered one way or the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sync::{AtomicU64, Mutex, Ordering};

/// A thread is calling the module with the handle.
const IN_USE: u64 = 1;
/// Its owner has begun to close it: that the module gives it out again is no surprise.
const CLOSING: u64 = 2;
/// Something is held until the use ends.
const HOLDS: u64 = 4;
const FLAGS: u64 = IN_USE | CLOSING | HOLDS;
const OWNER: u32 = 3;

/// The handles of a module. `T` is what is left with a handle while it is in use.
pub struct Handles<T>(Arc<Inner<T>>);

struct Inner<T> {
    known: Mutex<BTreeMap<u64, Arc<Handle<T>>>>,
    last_owner: AtomicU64,
}

struct Handle<T> {
    value: u64,
    /// `owner << OWNER | flags`. Owner 0 is nobody.
    state: AtomicU64,
    held: Mutex<Vec<T>>,
}

/// What was known of a handle that the module has just given to a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// No session of ours had it.
    Unknown,
    /// A session had it that the module has lost. Nobody uses it.
    Lost,
    /// A session had it that the module has lost, and a thread still uses it: the new session must not.
    InUse,
    /// A thread is closing it, and may do so only now: the new session must not use it.
    Closing,
}

/// One session's right to its handle.
pub struct Ownership<T> {
    handles: Handles<T>,
    handle: Arc<Handle<T>>,
    owner: u64,
}

/// A handle, to leave something with.
pub struct Holder<T>(Arc<Handle<T>>);

/// A thread that may call the module with the handle, and is the only one.
#[must_use = "the handle may be used for as long as this lives"]
pub struct Use<'a, T>(&'a Ownership<T>);

impl<T> Clone for Handles<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self(Arc::new(Inner { known: Mutex::new(BTreeMap::new()), last_owner: AtomicU64::new(0) }))
    }
}

impl<T> Handles<T> {
    /// The module has given this handle to a new session. Whoever owned it is displaced from now on.
    pub fn given(&self, handle: u64) -> (Ownership<T>, Before) {
        let owner = self.0.last_owner.fetch_add(1, Ordering::Relaxed) + 1;
        let owned = |handle| Ownership { handles: self.clone(), handle, owner };
        let mut known = self.0.known.lock();
        let Some(found) = known.get(&handle) else {
            let state = AtomicU64::new(owner << OWNER);
            let new = Arc::new(Handle { value: handle, state, held: Mutex::new(Vec::new()) });
            known.insert(handle, new.clone());
            return (owned(new), Before::Unknown);
        };
        // A use goes on, whoever owns the handle. Of a close that is over, nothing is left.
        let old = found.change(|old| {
            let flags = if old & IN_USE == 0 { 0 } else { old & FLAGS };
            Some(owner << OWNER | flags)
        });
        let before = match old.unwrap_or_default() & (IN_USE | CLOSING) {
            0 if old.is_ok_and(|old| old >> OWNER == 0) => Before::Unknown,
            0 => Before::Lost,
            IN_USE => Before::InUse,
            CLOSING => Before::Unknown,
            _ => Before::Closing,
        };
        (owned(found.clone()), before)
    }

    /// The module has lost all its sessions, as at `C_Finalize`.
    pub fn displace_all(&self) {
        self.0.known.lock().retain(|_, handle| {
            let old = handle.change(|old| Some(old & FLAGS));
            // One that is in use is still to be seen by whoever is given it.
            old.unwrap_or_default() & IN_USE != 0
        });
    }

    /// How many handles are known.
    pub fn len(&self) -> usize {
        self.0.known.lock().len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Handle<T> {
    /// Changes the state if `new` gives one; the old state either way.
    fn change(&self, new: impl Fn(u64) -> Option<u64>) -> Result<u64, u64> {
        let mut old = self.state.load(Ordering::SeqCst);
        loop {
            let Some(new) = new(old) else { return Err(old) };
            match self.state.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(old) => return Ok(old),
                Err(changed) => old = changed,
            }
        }
    }
}

impl<T> Ownership<T> {
    /// The handle.
    pub fn handle(&self) -> u64 {
        self.handle.value
    }

    /// Whether the handle is another session's by now, or nobody's.
    pub fn is_displaced(&self) -> bool {
        self.handle.state.load(Ordering::SeqCst) >> OWNER != self.owner
    }

    /// Begins to use the handle. `None`: it is another's, or another still uses it.
    pub fn begin(&self) -> Option<Use<'_, T>> {
        self.begin_with(IN_USE)
    }

    /// Begins to close it.
    pub fn begin_closing(&self) -> Option<Use<'_, T>> {
        self.begin_with(IN_USE | CLOSING)
    }

    fn begin_with(&self, flags: u64) -> Option<Use<'_, T>> {
        let free = self.owner << OWNER;
        let begun = self.handle.state.compare_exchange(free, free | flags, Ordering::SeqCst, Ordering::SeqCst);
        begun.is_ok().then(|| Use(self))
    }

    /// Where something can be left with the handle, the ownership among it.
    pub fn holder(&self) -> Holder<T> {
        Holder(self.handle.clone())
    }
}

impl<T> Holder<T> {
    /// Leaves something with the handle for as long as it is in use. `Some`: it is not any more.
    #[must_use = "what is not held is still the caller's"]
    pub fn hold(&self, what: T) -> Option<T> {
        // The end of a use changes the state first, and takes what is held after that.
        let mut held = self.0.held.lock();
        match self.0.change(|old| (old & IN_USE != 0).then_some(old | HOLDS)) {
            Ok(_) => held.push(what),
            Err(_) => return Some(what),
        }
        None
    }
}

impl<T> Use<'_, T> {
    /// The handle.
    pub fn handle(&self) -> u64 {
        self.0.handle()
    }

    /// Whether the handle has been this session's all the time.
    pub fn is_owner(&self) -> bool {
        !self.0.is_displaced()
    }
}

impl<T> Drop for Use<'_, T> {
    fn drop(&mut self) {
        let handle = &self.0.handle;
        let is_own = |state| state >> OWNER == self.0.owner;
        // What its owner has closed stays so; a later owner has closed nothing.
        let stays = |state| if is_own(state) { CLOSING } else { 0 };
        let old = handle.change(|old| Some(old & !FLAGS | old & stays(old))).unwrap_or_default();
        if old & HOLDS != 0 {
            let held = std::mem::take(&mut *handle.held.lock());
            drop(held);
        }
    }
}

impl<T> Drop for Ownership<T> {
    fn drop(&mut self) {
        let mut known = self.handles.0.known.lock();
        let is_known = known.get(&self.handle.value).is_some_and(|known| Arc::ptr_eq(known, &self.handle));
        let state = self.handle.state.load(Ordering::SeqCst);
        let owner = state >> OWNER;
        if is_known && state & IN_USE == 0 && (owner == self.owner || owner == 0) {
            known.remove(&self.handle.value);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn handles() -> Handles<&'static str> {
        Handles::default()
    }

    #[test]
    fn a_session_uses_its_handle_until_another_is_given_it() {
        let handles = handles();
        let (first, before) = handles.given(7);
        assert_eq!(before, Before::Unknown);
        assert!(first.begin().is_some_and(|used| used.is_owner() && used.handle() == 7));
        let (second, before) = handles.given(7);
        assert_eq!(before, Before::Lost);
        assert!(first.is_displaced() && first.begin().is_none() && first.begin_closing().is_none());
        assert!(!second.is_displaced() && second.begin().is_some());
        drop(first);
        assert!(second.begin().is_some(), "the end of the displaced one takes nothing with it");
        drop(second);
        assert!(handles.is_empty());
    }

    #[test]
    fn a_handle_in_use_is_nobody_elses_before_that_use_has_ended() {
        let handles = handles();
        let (first, _) = handles.given(7);
        let used = first.begin().unwrap();
        let (second, before) = handles.given(7);
        assert_eq!(before, Before::InUse);
        assert!(!used.is_owner() && second.begin().is_none());
        // The module loses that one, too: the first one's thread is still there.
        let (third, before) = handles.given(7);
        assert_eq!(before, Before::InUse);
        assert!(third.begin().is_none());
        drop(used);
        assert!(first.begin().is_none() && second.begin().is_none() && third.begin().is_some());
    }

    #[test]
    fn what_is_held_goes_when_the_use_ends() {
        let handles: Handles<Arc<()>> = Handles::default();
        let what = Arc::new(());
        let (first, _) = handles.given(7);
        let used = first.begin().unwrap();
        let (second, _) = handles.given(7);
        assert!(second.holder().hold(what.clone()).is_none());
        assert_eq!(Arc::strong_count(&what), 2);
        drop(used);
        assert_eq!(Arc::strong_count(&what), 1);
        assert!(second.holder().hold(what).is_some(), "nobody uses it any more");
    }

    #[test]
    fn a_handle_that_was_closed_is_given_out_again_like_a_new_one() {
        let handles = handles();
        let (first, _) = handles.given(7);
        let closing = first.begin_closing().unwrap();
        let (second, before) = handles.given(7);
        assert_eq!(before, Before::Closing);
        drop(closing);
        assert!(second.begin_closing().is_some(), "it is open, and to be closed");
        drop((first, second));
        let (third, before) = handles.given(7);
        assert_eq!(before, Before::Unknown);
        drop(third.begin_closing());
        let (_fourth, before) = handles.given(7);
        assert_eq!(before, Before::Unknown);
        assert!(third.is_displaced());
    }

    #[test]
    fn when_the_module_loses_all_no_session_owns_its_handle() {
        let handles = handles();
        let ((first, _), (second, _)) = (handles.given(7), handles.given(8));
        let used = second.begin().unwrap();
        handles.displace_all();
        assert!(first.begin().is_none() && !used.is_owner());
        assert_eq!(handles.given(7).1, Before::Unknown);
        assert_eq!(handles.given(8).1, Before::InUse, "somebody may still call with it");
    }
}
