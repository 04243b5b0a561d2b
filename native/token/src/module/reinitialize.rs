//! A module is finalized and initialized again: by one for all, with the door closed to newcomers, and when everybody has left.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cryptoki_sys::CKR_CRYPTOKI_NOT_INITIALIZED;

use super::{Module, Phase};
use crate::error::Error;

/// What came of initializing a module again, once it was finalized.
enum Anew {
    Up { ours: bool },
    Failed(Error),
}

impl Module {
    /// `C_Finalize` and `C_Initialize`, if this is still the incarnation that was `seen` in trouble: of those who want it at the same time one
    /// does it, and the others wait. `Ok(false)`: it had been done. Only of a module of ours, and when nobody is inside, for which it waits
    /// for `patience`. `alone`: only if no pool of the module has its token.
    pub(crate) fn reinitialize(&self, seen: u64, patience: Duration, alone: bool) -> Result<bool, Error> {
        let until = Instant::now() + patience;
        let before = {
            let mut lifecycle = self.lifecycle.lock();
            while lifecycle.phase == Phase::Changing {
                if self.changed.wait_until(&mut lifecycle, until).timed_out() {
                    return Err(Error::ModuleBusy { path: self.display() });
                }
            }
            if self.incarnation() != seen {
                return Ok(false);
            }
            // One that was adopted may be ours: then it is initialized without being finalized, which is right in either case.
            let adopted = lifecycle.phase == (Phase::Up { ours: false });
            let is_anothers = adopted && (alone || !self.perhaps_ours.load(Ordering::SeqCst));
            if is_anothers || lifecycle.users == 0 || (alone && lifecycle.up > 0) {
                return Err(Error::ModuleOthers { path: self.display() });
            }
            let before = lifecycle.phase;
            lifecycle.phase = Phase::Changing;
            self.closed.store(true, Ordering::SeqCst);
            before
        };
        let is_ours = before == Phase::Up { ours: true };
        let result = self.await_emptiness(until).and_then(|()| self.start_anew(is_ours));
        {
            let mut lifecycle = self.lifecycle.lock();
            lifecycle.phase = match &result {
                Ok(Anew::Up { ours }) => Phase::Up { ours: *ours },
                Ok(Anew::Failed(_)) => Phase::Down,
                // Nothing has happened to it.
                Err(_) => before,
            };
            self.closed.store(false, Ordering::SeqCst);
        }
        self.changed.notify_all();
        match result? {
            Anew::Up { .. } => Ok(true),
            Anew::Failed(error) => Err(error),
        }
    }

    fn await_emptiness(&self, until: Instant) -> Result<(), Error> {
        loop {
            match self.inside() {
                0 => return Ok(()),
                inside if Instant::now() >= until => return Err(Error::ModuleStuck { path: self.display(), inside }),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn start_anew(&self, is_ours: bool) -> Result<Anew, Error> {
        if is_ours {
            let _inside = self.enter_alone()?;
            // SAFETY: the door is closed, and the one that is inside is this thread.
            match unsafe { self.functions.finalize() } {
                // As after a failover: it has forgotten that it was initialized.
                Err(error) if error.code != CKR_CRYPTOKI_NOT_INITIALIZED => return Err(error.into()),
                _ => (),
            }
        }
        self.perhaps_ours.fetch_or(is_ours, Ordering::SeqCst);
        self.forget_sessions();
        let config = self.lifecycle.lock().config.clone();
        Ok(match self.initialize(&config) {
            Ok(ours) => Anew::Up { ours },
            Err(error) => Anew::Failed(error),
        })
    }

    /// Everything that was open is gone, on all its tokens.
    fn forget_sessions(&self) {
        self.handles.lock().clear();
        let tokens = self.tokens.lock().clone();
        for token in tokens {
            token.renew(token.generation());
        }
    }

    /// The module of another library has to be initialized by that one: until then nothing that was open is there any more.
    pub(crate) fn lose_if_adopted(&self) {
        let adopted = self.lifecycle.lock().phase == (Phase::Up { ours: false });
        if adopted {
            self.forget_sessions();
        }
    }
}
