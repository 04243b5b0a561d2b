//! A module is finalized and initialized again: by one for all, with the door closed to newcomers, and when everybody has left.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cryptoki_sys::CKR_CRYPTOKI_NOT_INITIALIZED;
use parking_lot::MutexGuard;

use super::{Lifecycle, Module, Phase};
use crate::error::Error;
use crate::pool::availability::PATIENCE;

/// What came of initializing a module again, once it was finalized.
enum Anew {
    Up { ours: bool },
    Failed(Error),
}

/// Why a module is finalized and initialized again.
#[derive(Clone, Copy)]
enum Cause {
    /// An incarnation of it is in trouble. `alone`: only if no pool of the module has its token.
    Trouble { seen: u64, alone: bool },
    /// Somebody asks for it, who knows of so many restarts that had begun.
    Request { begun: u64 },
}

/// As good as for ever.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// For how long the calls of a module's pools are held back while it is reloaded, once nobody is inside any more.
const HOLD: Duration = Duration::from_secs(30);

impl Module {
    /// `C_Finalize` and `C_Initialize`, if this is still the incarnation that was `seen` in trouble: of those who want it at the same time one
    /// does it, and the others wait. `Ok(false)`: it had been done. Only of a module of ours, and when nobody is inside, for which it waits
    /// for `patience`. `alone`: only if no pool of the module has its token.
    pub(crate) fn reinitialize(&self, seen: u64, patience: Duration, alone: bool) -> Result<bool, Error> {
        let until = Instant::now() + patience;
        self.restart(Cause::Trouble { seen, alone }, Some(until), || true, || true)
    }

    /// How often it began to be finalized and initialized again.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::SeqCst)
    }

    /// The same on request, unless one has begun since there were `begun` of them. The calls of all pools wait meanwhile, those that are
    /// inside have time until `until`. `is_wanted` is asked now and then before, `begins` once when it begins: `false` calls it off.
    pub(crate) fn reload(
        &self,
        begun: u64,
        until: Option<Instant>,
        is_wanted: impl Fn() -> bool,
        begins: impl FnOnce() -> bool,
    ) -> Result<bool, Error> {
        self.restart(Cause::Request { begun }, until, is_wanted, begins)
    }

    /// Whether the pools of the module hold calls back rather than refuse them, since it is being reloaded, or was a moment ago.
    pub(crate) fn holds_back(&self) -> bool {
        self.held_until.lock().is_some_and(|until| Instant::now() < until)
    }

    fn restart(
        &self,
        cause: Cause,
        until: Option<Instant>,
        is_wanted: impl Fn() -> bool,
        begins: impl FnOnce() -> bool,
    ) -> Result<bool, Error> {
        let before = {
            let mut lifecycle = self.lifecycle.lock();
            while lifecycle.phase == Phase::Changing {
                if self.await_change(&mut lifecycle, until) {
                    return Err(Error::ModuleBusy { path: self.display() });
                }
            }
            if self.was_restarted(cause, &lifecycle) {
                return Ok(false);
            }
            self.may_restart(cause, &lifecycle)?;
            let before = lifecycle.phase;
            lifecycle.phase = Phase::Changing;
            if let Cause::Request { .. } = cause {
                let now = Instant::now();
                *self.held_until.lock() = Some(until.unwrap_or(now + FAR).max(now) + HOLD);
            }
            self.closed.store(true, Ordering::SeqCst);
            before
        };
        let is_ours = before == Phase::Up { ours: true };
        let called_off = || Error::Interrupted { cause: "nobody waits for it" };
        let result = self
            .await_emptiness(until, is_wanted)
            .and_then(|()| if begins() { Ok(()) } else { Err(called_off()) })
            .and_then(|()| self.start_anew(is_ours));
        {
            let mut lifecycle = self.lifecycle.lock();
            lifecycle.phase = match &result {
                Ok(Anew::Up { ours }) => Phase::Up { ours: *ours },
                Ok(Anew::Failed(_)) => Phase::Down,
                // Nothing has happened to it.
                Err(_) => before,
            };
            if let Cause::Request { .. } = cause {
                // The pools have their usual time to look for their tokens.
                *self.held_until.lock() = Some(Instant::now() + PATIENCE);
            }
            self.closed.store(false, Ordering::SeqCst);
        }
        self.changed.notify_all();
        match result? {
            Anew::Up { .. } => Ok(true),
            Anew::Failed(error) => Err(error),
        }
    }

    /// Waits for the phase to change; `true`: the time is over.
    fn await_change(&self, lifecycle: &mut MutexGuard<'_, Lifecycle>, until: Option<Instant>) -> bool {
        match until {
            Some(until) => self.changed.wait_until(lifecycle, until).timed_out(),
            None => {
                self.changed.wait(lifecycle);
                false
            }
        }
    }

    fn was_restarted(&self, cause: Cause, lifecycle: &Lifecycle) -> bool {
        match cause {
            Cause::Trouble { seen, .. } => self.incarnation() != seen,
            Cause::Request { begun } => self.restarts() > begun && matches!(lifecycle.phase, Phase::Up { .. }),
        }
    }

    /// Others may need it as it is, or have to do it themselves.
    fn may_restart(&self, cause: Cause, lifecycle: &Lifecycle) -> Result<(), Error> {
        let adopted = lifecycle.phase == (Phase::Up { ours: false });
        match cause {
            Cause::Trouble { alone, .. } => {
                // One that was adopted may be ours: then it is initialized without being finalized, which is right in either case.
                let is_anothers = adopted && (alone || !self.perhaps_ours.load(Ordering::SeqCst));
                if is_anothers || lifecycle.users == 0 || (alone && lifecycle.up > 0) {
                    return Err(Error::ModuleOthers { path: self.display() });
                }
            }
            Cause::Request { .. } if adopted => return Err(Error::ModuleAdopted { path: self.display() }),
            Cause::Request { .. } => (),
        }
        Ok(())
    }

    fn await_emptiness(&self, until: Option<Instant>, is_wanted: impl Fn() -> bool) -> Result<(), Error> {
        loop {
            match self.inside() {
                0 => return Ok(()),
                inside if until.is_some_and(|until| Instant::now() >= until) || !is_wanted() => {
                    return Err(Error::ModuleStuck { path: self.display(), inside });
                }
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn start_anew(&self, is_ours: bool) -> Result<Anew, Error> {
        self.restarts.fetch_add(1, Ordering::SeqCst);
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
        for tenant in self.tenants() {
            tenant.module_restarts();
        }
        let config = self.lifecycle.lock().config.clone();
        Ok(match self.initialize(&config) {
            Ok(ours) => Anew::Up { ours },
            Err(error) => Anew::Failed(error),
        })
    }

    /// Everything that was open is gone.
    fn forget_sessions(&self) {
        self.handles.displace_all();
        for tenant in self.tenants() {
            tenant.all_is_lost();
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
