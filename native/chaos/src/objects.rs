//! Handles of objects. They are the real module's until they are first invalidated; from then on they are ours, so that an old one is never
//! mistaken for a new one, or, on command, always.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cryptoki_sys::*;
use parking_lot::Mutex;

/// Where our handles begin: real ones are small numbers, or random ones of 64 bits.
const FIRST: CK_OBJECT_HANDLE = 0x4C00_0000;

struct Names {
    next: CK_OBJECT_HANDLE,
    /// Those of objects that were destroyed, to be given out again.
    free: Vec<CK_OBJECT_HANDLE>,
    to_real: BTreeMap<CK_OBJECT_HANDLE, CK_OBJECT_HANDLE>,
    to_shown: BTreeMap<CK_OBJECT_HANDLE, CK_OBJECT_HANDLE>,
}

/// How the attributes of an object are refused.
struct Refusal {
    code: CK_RV,
    /// Those that are; none: all are.
    kinds: Vec<CK_ATTRIBUTE_TYPE>,
    /// How many calls more.
    left: u64,
}

pub struct Objects {
    /// How often they were invalidated.
    generation: AtomicU64,
    stale: AtomicU64,
    pub reuses: AtomicBool,
    names: Mutex<Names>,
    /// Of real handles.
    refusals: Mutex<BTreeMap<CK_OBJECT_HANDLE, Refusal>>,
}

impl Objects {
    pub const fn new() -> Self {
        let names = Names { next: FIRST, free: Vec::new(), to_real: BTreeMap::new(), to_shown: BTreeMap::new() };
        Self {
            generation: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            reuses: AtomicBool::new(false),
            names: Mutex::new(names),
            refusals: Mutex::new(BTreeMap::new()),
        }
    }

    /// Makes every handle that the application has invalid, and gives the first one to the object that is found next.
    pub fn number_anew(&self) {
        self.names.lock().next = FIRST;
        self.invalidate();
    }

    /// Makes every handle that the application has invalid.
    pub fn invalidate(&self) {
        let mut names = self.names.lock();
        names.free.clear();
        names.to_real.clear();
        names.to_shown.clear();
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn renamed(&self) -> bool {
        self.generation() > 0
    }

    /// The real handle, for a call that came in a generation; `invalid` for one that was invalidated. It counts as stale if it was when the
    /// call came. The zero handle means none, and stays.
    pub fn real(&self, shown: CK_OBJECT_HANDLE, came_in: u64, invalid: CK_RV) -> Result<CK_OBJECT_HANDLE, CK_RV> {
        if shown == CK_INVALID_HANDLE || !self.renamed() {
            return Ok(shown);
        }
        let names = self.names.lock();
        names.to_real.get(&shown).copied().ok_or_else(|| {
            if self.generation() == came_in {
                self.stale.fetch_add(1, Ordering::Relaxed);
            }
            invalid
        })
    }

    /// The handle that the application gets for a real one.
    pub fn shown(&self, real: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        if real == CK_INVALID_HANDLE || !self.renamed() {
            return real;
        }
        let mut names = self.names.lock();
        if let Some(shown) = names.to_shown.get(&real) {
            return *shown;
        }
        let shown = names.free.pop().unwrap_or(names.next);
        names.next = names.next.max(shown + 1);
        names.to_real.insert(shown, real);
        names.to_shown.insert(real, shown);
        shown
    }

    /// Refuses the attributes of these kinds, or all, of an object that the application knows by this handle; `CKR_OK`: no longer.
    pub fn refuse(&self, shown: CK_OBJECT_HANDLE, code: CK_RV, kinds: Vec<CK_ATTRIBUTE_TYPE>, left: u64) {
        let Ok(real) = self.real(shown, 0, CKR_OBJECT_HANDLE_INVALID) else { return };
        let mut refusals = self.refusals.lock();
        if code == CKR_OK {
            refusals.remove(&real);
        } else {
            refusals.insert(real, Refusal { code, kinds, left });
        }
    }

    /// Whether a call that asks for these attributes of an object is refused.
    pub fn check_readable(&self, real: CK_OBJECT_HANDLE, asked: &[CK_ATTRIBUTE]) -> Result<(), CK_RV> {
        let mut refusals = self.refusals.lock();
        let Some(refusal) = refusals.get_mut(&real) else { return Ok(()) };
        let is_meant = refusal.kinds.is_empty() || asked.iter().any(|attribute| refusal.kinds.contains(&attribute.type_));
        if !is_meant || refusal.left == 0 {
            return Ok(());
        }
        refusal.left -= 1;
        Err(refusal.code)
    }

    /// Refuses nothing any more.
    pub fn refuse_nothing(&self) {
        self.refusals.lock().clear();
    }

    /// An object was destroyed: its handle may be the next one's.
    pub fn destroyed(&self, shown: CK_OBJECT_HANDLE) {
        if !self.reuses.load(Ordering::SeqCst) || !self.renamed() {
            return;
        }
        let mut names = self.names.lock();
        if let Some(real) = names.to_real.remove(&shown) {
            names.to_shown.remove(&real);
            names.free.push(shown);
        }
    }

    /// Replaces the real handles that the real module wrote.
    ///
    /// # Safety
    /// `handles` is NULL or points to `count` handles.
    pub unsafe fn show(&self, handles: *mut CK_OBJECT_HANDLE, count: usize) {
        if handles.is_null() || !self.renamed() {
            return;
        }
        for index in 0..count {
            // SAFETY: one of the handles that are there, says the caller.
            unsafe { *handles.add(index) = self.shown(*handles.add(index)) };
        }
    }

    /// How many calls came with a handle that was invalid already.
    pub fn stale(&self) -> u64 {
        self.stale.load(Ordering::SeqCst)
    }

    pub fn reset_counts(&self) {
        self.stale.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_the_real_ones_until_they_are_invalidated() {
        let objects = Objects::new();
        assert_eq!((objects.shown(7), objects.real(7, 0, 1)), (7, Ok(7)));
        objects.invalidate();
        assert_eq!(objects.real(7, 1, CKR_KEY_HANDLE_INVALID), Err(CKR_KEY_HANDLE_INVALID));
        let shown = objects.shown(7);
        assert_ne!(shown, 7);
        assert_eq!((objects.shown(7), objects.real(shown, 1, 1)), (shown, Ok(7)));
        objects.invalidate();
        assert_eq!(objects.real(shown, 2, 1), Err(1));
        assert_ne!(objects.shown(7), shown);
        assert_eq!(objects.stale(), 2);
        assert_eq!(objects.real(CK_INVALID_HANDLE, 2, 1), Ok(CK_INVALID_HANDLE));
    }

    #[test]
    fn the_handle_of_a_destroyed_object_is_the_next_ones_on_command() {
        let objects = Objects::new();
        objects.invalidate();
        let shown = objects.shown(7);
        objects.destroyed(shown);
        assert_ne!(objects.shown(8), shown);
        objects.reuses.store(true, Ordering::SeqCst);
        objects.destroyed(shown);
        assert_eq!(objects.real(shown, 1, 1), Err(1));
        assert_eq!(objects.shown(9), shown);
        assert_eq!(objects.real(shown, 1, 1), Ok(9));
    }

    #[test]
    fn a_handle_that_became_invalid_after_the_call_came_is_not_stale() {
        let objects = Objects::new();
        let before = objects.generation();
        objects.invalidate();
        assert_eq!((objects.real(7, before, 1), objects.stale()), (Err(1), 0));
        assert_eq!((objects.real(7, objects.generation(), 1), objects.stale()), (Err(1), 1));
    }
}
