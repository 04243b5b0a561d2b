//! What a module tells of tokens that come and go (`C_WaitForSlotEvent`).
//!
//! Only the form that does not block is called: a thread that waits inside of the module forbids `C_Finalize`. Each event is told once, to one of
//! those who ask: so they are counted here, for all who use the module.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cryptoki_sys::CKR_FUNCTION_NOT_SUPPORTED;

use crate::p11::Functions;
use crate::p11::slots::slot_event;

/// How many events are taken at a time.
const MOST: usize = 64;

/// The events of a module.
#[derive(Default)]
pub(super) struct SlotEvents {
    count: AtomicU64,
    /// The module has said that it tells of none.
    is_unsupported: AtomicBool,
}

impl SlotEvents {
    /// Asks the module for what has happened since, and counts it. Called inside of the module.
    pub(super) fn take(&self, functions: &Functions) {
        for _ in 0..MOST {
            match slot_event(functions) {
                Ok(Some(_slot)) => drop(self.count.fetch_add(1, Ordering::SeqCst)),
                Ok(None) => return,
                Err(error) => {
                    self.is_unsupported.fetch_or(error.code == CKR_FUNCTION_NOT_SUPPORTED, Ordering::SeqCst);
                    return;
                }
            }
        }
    }

    /// How many there have been.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) fn is_unsupported(&self) -> bool {
        self.is_unsupported.load(Ordering::SeqCst)
    }
}
