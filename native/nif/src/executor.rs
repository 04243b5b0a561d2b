//! Which kind of runner a pool gets. What the pools of the VM may occupy of the dirty-IO schedulers is counted anew each time, so that
//! nothing has to be given back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use once_cell::sync::Lazy;
use rustler::Atom;

use crate::atoms;
use crate::beam::{Runner, TokenPool};
use crate::resources::PoolResource;

/// Dirty-IO schedulers that pools leave to the rest of the VM.
const SPARE: usize = 2;

/// A pool, and how many of its runners are to be processes.
type Entry = (Weak<TokenPool>, Arc<AtomicUsize>);

static POOLS: Lazy<Mutex<Vec<Entry>>> = Lazy::new(Default::default);

fn pools() -> MutexGuard<'static, Vec<Entry>> {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.retain(|(pool, _)| pool.strong_count() > 0);
    pools
}

/// Dirty-IO schedulers that the pools other than `except` may occupy.
fn taken(pools: &[Entry], except: &Arc<TokenPool>) -> usize {
    let places = |(pool, processes): &Entry| {
        let pool = pool.upgrade().filter(|pool| !Arc::ptr_eq(pool, except))?;
        Some(may_occupy(&pool, processes.load(Ordering::Relaxed)))
    };
    pools.iter().filter_map(places).sum()
}

/// Those of one pool: by its runners that are processes, and by callers that run their calls themselves.
fn may_occupy(pool: &TokenPool, wanted: usize) -> usize {
    let (processes, inline_calls) = (processes_of(pool), pool.inline_calls());
    if pool.is_draining() {
        // Only what is still there.
        return processes + inline_calls;
    }
    // Each of them has a session.
    (wanted.max(processes) + inline_calls).min(pool.places())
}

fn processes_of(pool: &TokenPool) -> usize {
    pool.runners().iter().filter(|runner| matches!(runner, Runner::Process(..))).count()
}

/// How many runners of a new pool are to be processes. `:auto`: all of them while enough dirty-IO schedulers stay free, else none.
pub(crate) fn choose(wanted: Atom, schedulers: usize, pool: &Arc<TokenPool>) -> Arc<AtomicUsize> {
    let mut pools = pools();
    let fits = taken(&pools, pool) + pool.size() + SPARE <= schedulers;
    let threads = wanted == atoms::threads() || (wanted == atoms::auto() && !fits);
    let processes = Arc::new(AtomicUsize::new(if threads { 0 } else { pool.size() }));
    pools.push((Arc::downgrade(pool), processes.clone()));
    processes
}

/// The same for a pool that is resized: what goes beyond the dirty-IO schedulers are threads.
pub(crate) fn resize(resource: &PoolResource, size: usize, schedulers: usize) -> usize {
    let pools = pools();
    let before = resource.processes.load(Ordering::Relaxed);
    if before == 0 {
        return 0;
    }
    let room = schedulers.saturating_sub(SPARE + taken(&pools, &resource.pool));
    let processes = size.min(before.max(room));
    resource.processes.store(processes, Ordering::Relaxed);
    processes
}

/// Dirty-IO schedulers that a pool may occupy, and those that all others may.
pub(crate) fn occupied(resource: &PoolResource) -> (usize, usize) {
    let pools = pools();
    (resource.processes.load(Ordering::Relaxed), taken(&pools, &resource.pool))
}

/// The executor's name.
pub(crate) fn name(processes: usize, size: usize) -> Atom {
    match processes {
        0 => atoms::threads(),
        _ if processes >= size => atoms::dirty_io(),
        _ => atoms::mixed(),
    }
}

/// Missing runners: processes, and threads.
pub(crate) fn vacancies(pool: &TokenPool, wanted: usize) -> (usize, usize) {
    let missing = pool.vacancies();
    // After a shrink there may be more of them for a while, of the same kind.
    let wanted = if wanted >= pool.size() { pool.places() } else { wanted };
    let processes = wanted.saturating_sub(processes_of(pool)).min(missing);
    (processes, missing - processes)
}
