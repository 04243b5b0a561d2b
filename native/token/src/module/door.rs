//! The ways into a module: who is inside is counted, so that it is never finalized, and the VM never ends, under a thread that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{LIFECYCLE_TIMEOUT, MODULES, Module, Phase};
use crate::error::Error;
use crate::module::turnstile::Turn as Pass;

/// How long one that can come again waits for its turn behind a call that hangs.
const STUCK_TIMEOUT: Duration = Duration::from_secs(1);

/// A thread is inside the module.
pub struct Inside<'a> {
    module: &'a Module,
    /// Given back last.
    _pass: Option<Pass<'a>>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.module.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A thread inside a module that is known to hang: nobody waits for it.
pub(crate) struct Stuck(Arc<Module>);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.stuck.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Set when the VM stops: nobody enters a module any more.
pub(super) static HALTING: AtomicBool = AtomicBool::new(false);

/// Keeps everybody out of every module, and waits until those inside have left; `false`: not within `timeout`, or they hang.
pub(crate) fn halt(timeout: Duration) -> bool {
    HALTING.store(true, Ordering::SeqCst);
    let until = Instant::now() + timeout;
    // At exit another thread may hold the registry's lock for good: then nobody can be waited for.
    let Some(modules) = MODULES.try_lock_until(until).map(|modules| modules.values().cloned().collect::<Vec<_>>()) else {
        return false;
    };
    while modules.iter().any(|module| module.inside.load(Ordering::SeqCst) > 0) {
        let all_hang = modules.iter().all(|module| module.inside() <= module.stuck.load(Ordering::SeqCst));
        if all_hang || Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

impl Module {
    /// Counts this thread as inside the module, unless the VM is stopping, or the module is being initialized anew. A thread that is inside must
    /// not enter again: into a serialized module it would wait for itself.
    pub fn enter(&self) -> Result<Inside<'_>, Error> {
        self.enter_while(|| true)
    }

    /// The same; where it has to wait for its turn, it asks now and then whether it still should.
    pub fn enter_while(&self, is_wanted: impl Fn() -> bool) -> Result<Inside<'_>, Error> {
        let inside = self.enter_in_turn(is_wanted)?;
        if self.closed.load(Ordering::SeqCst) { Err(Error::Reinitializing) } else { Ok(inside) }
    }

    /// The same for those who have nothing else to do than to wait until the module is initialized.
    pub(crate) fn enter_patiently(&self) -> Result<Inside<'_>, Error> {
        self.enter_initialized(|| true)
    }

    /// The same for those who can come again: behind a call that is known to hang they wait for their turn for a moment only.
    pub(crate) fn enter_unless_stuck(&self) -> Result<Inside<'_>, Error> {
        let since = Instant::now();
        let is_stuck = || self.stuck.load(Ordering::SeqCst) > 0 && since.elapsed() >= STUCK_TIMEOUT;
        let entered = self.enter_initialized(|| !is_stuck() && since.elapsed() < LIFECYCLE_TIMEOUT);
        entered.map_err(|error| match error {
            Error::Interrupted { .. } => Error::ModuleBusy { path: self.display() },
            other => other,
        })
    }

    fn enter_initialized(&self, is_wanted: impl Fn() -> bool) -> Result<Inside<'_>, Error> {
        let until = Instant::now() + LIFECYCLE_TIMEOUT;
        loop {
            match self.enter_while(&is_wanted) {
                Err(Error::Reinitializing) => (),
                entered => return entered,
            }
            let mut lifecycle = self.lifecycle.lock();
            while lifecycle.phase == Phase::Changing {
                if self.changed.wait_until(&mut lifecycle, until).timed_out() {
                    return Err(Error::ModuleBusy { path: self.display() });
                }
            }
        }
    }

    /// The same for the one who changes its phase: nobody else is to be inside.
    pub(super) fn enter_alone(&self) -> Result<Inside<'_>, Error> {
        self.count(None)
    }

    fn enter_in_turn(&self, is_wanted: impl Fn() -> bool) -> Result<Inside<'_>, Error> {
        if !self.is_serialized() {
            let inside = self.count(None)?;
            if !self.is_serialized() {
                return Ok(inside);
            }
            // It has become so meanwhile.
        }
        let waits = || !HALTING.load(Ordering::SeqCst) && is_wanted();
        let given_up =
            || if HALTING.load(Ordering::SeqCst) { Error::Halting } else { Error::Interrupted { cause: "nobody waits for it" } };
        let pass = self.turnstile.pass(waits).ok_or_else(given_up)?;
        // Those who came in before that.
        while self.inside() > 0 {
            if !waits() {
                return Err(given_up());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.count(Some(pass))
    }

    fn count<'a>(&'a self, pass: Option<Pass<'a>>) -> Result<Inside<'a>, Error> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside { module: self, _pass: pass };
        if HALTING.load(Ordering::SeqCst) { Err(Error::Halting) } else { Ok(inside) }
    }

    /// Whether one call is inside at a time.
    pub fn is_serialized(&self) -> bool {
        self.turnstile.is_on()
    }

    /// A thread inside is known to hang.
    pub(crate) fn sticks(self: &Arc<Self>) -> Stuck {
        self.stuck.fetch_add(1, Ordering::SeqCst);
        Stuck(self.clone())
    }

    /// How many threads are inside.
    pub fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }
}
