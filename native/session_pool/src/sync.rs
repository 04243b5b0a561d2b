//! The one place that chooses between the real primitives and loom's.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

#[cfg(not(loom))]
pub(crate) use parking_lot::{Mutex, MutexGuard};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::MutexGuard;

/// loom's mutex with parking_lot's signature: nothing here panics under a lock, so nothing is ever poisoned.
#[cfg(loom)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}

/// loom's atomics, with every access marked by a read-modify-write of a second one. loom remembers only the last access to an atomic: where
/// one thread loads, and another loads and then stores, it forgets that the first load and the store could change places. It never
/// forgets a read-modify-write. The mark is another atomic, so that a load may still read what is out of date.
#[cfg(loom)]
macro_rules! marked {
    ($name:ident, $value:ty) => {
        pub(crate) struct $name {
            atomic: loom::sync::atomic::$name,
            mark: AtomicU64,
        }

        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self { atomic: loom::sync::atomic::$name::new(value), mark: AtomicU64::new(0) }
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.marked().load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                self.marked().store(value, order);
            }

            fn marked(&self) -> &loom::sync::atomic::$name {
                self.mark.fetch_add(0, Ordering::Relaxed);
                &self.atomic
            }
        }
    };
}

#[cfg(loom)]
marked!(AtomicBool, bool);
#[cfg(loom)]
marked!(AtomicUsize, usize);

#[cfg(loom)]
impl AtomicUsize {
    pub(crate) fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        self.marked().fetch_add(value, order)
    }

    pub(crate) fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        self.marked().fetch_sub(value, order)
    }
}
