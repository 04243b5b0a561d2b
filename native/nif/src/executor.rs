//! Which kind of runner a pool gets. Nothing is reserved and given back: what pools may occupy is counted each time anew.

use std::sync::{Arc, Weak};

use once_cell::sync::Lazy;
use rustler::Atom;

use crate::atoms;
use crate::beam::TokenPool;

/// Dirty-IO schedulers that pools leave to the rest of the VM.
const SPARE: usize = 2;

/// The pools whose runners are processes, draining ones included.
static DIRTY: Lazy<std::sync::Mutex<Vec<Weak<TokenPool>>>> = Lazy::new(Default::default);

/// Settles the executor of a new pool: `:auto` is `:dirty_io` while enough dirty-IO schedulers stay free.
pub(crate) fn choose(wanted: Atom, schedulers: usize, pool: &Arc<TokenPool>) -> Atom {
    let mut pools = DIRTY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    pools.retain(|pool| pool.strong_count() > 0);
    let taken: usize = pools.iter().filter_map(Weak::upgrade).map(|pool| pool.places()).sum();
    let fits = taken + pool.places() + SPARE <= schedulers;
    if wanted == atoms::threads() || (wanted == atoms::auto() && !fits) {
        return atoms::threads();
    }
    pools.push(Arc::downgrade(pool));
    atoms::dirty_io()
}
