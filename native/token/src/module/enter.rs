//! The ways into a module. A thread that is inside must not enter again: into a module that serves one thread at a time it would wait for itself.

use std::time::{Duration, Instant};

use super::door::Inside;
use super::loaded::Module;
use crate::error::Error;

/// How long a thread waits for `C_Initialize` or `C_Finalize` of another.
pub(super) const LIFECYCLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a thread that can come again waits for its turn behind a call that hangs.
const STUCK_TIMEOUT: Duration = Duration::from_secs(1);

impl Module {
    /// Counts this thread as inside the module, unless the VM is stopping, or the module is being initialized again
    /// ([`Error::Reinitializing`]).
    pub fn enter(&self) -> Result<Inside<'_>, Error> {
        self.enter_while(|| true)
    }

    /// The same; where it has to wait for its turn, it asks now and then whether it still should.
    pub fn enter_while(&self, is_wanted: impl Fn() -> bool) -> Result<Inside<'_>, Error> {
        self.door.enter(is_wanted)
    }

    /// The same for threads that have nothing else to do than to wait until the module is initialized.
    pub(crate) fn enter_patiently(&self) -> Result<Inside<'_>, Error> {
        self.enter_initialized(|| true)
    }

    /// The same for threads that can come again: behind a call that is known to hang they wait for their turn for a moment only.
    pub(crate) fn enter_unless_stuck(&self) -> Result<Inside<'_>, Error> {
        let since = Instant::now();
        let is_stuck = || self.door.has_stuck_call() && since.elapsed() >= STUCK_TIMEOUT;
        let entered = self.enter_initialized(|| !is_stuck() && since.elapsed() < LIFECYCLE_TIMEOUT);
        entered.map_err(|error| match error {
            Error::Interrupted { .. } => self.busy(),
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
            drop(self.lifecycle.lock_unchanging(Some(until)).ok_or_else(|| self.busy())?);
        }
    }

    pub(super) fn busy(&self) -> Error {
        Error::ModuleBusy { path: self.display() }
    }
}
