//! A module is finalized and initialized again: by one thread for all, with the door closed to newcomers, and when everybody has left.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cryptoki_sys::CKR_CRYPTOKI_NOT_INITIALIZED;

use super::lifecycle::{Phase, State};
use super::loaded::Module;
use crate::error::Error;

/// For how long a pool holds its operations back when its token has gone away, or its module was reloaded; then it refuses new ones.
pub(crate) const HOLD_BACK_LIMIT: Duration = Duration::from_secs(1);

/// How long the calls that are inside have to leave the module before it is reloaded, where nobody says how long.
pub(crate) const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// For how long the calls of a module's pools are held back while it is reloaded, once nobody is inside any more.
const RELOAD_HOLD_BACK_LIMIT: Duration = Duration::from_secs(30);

/// As good as for ever.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What came of initializing a module again, once it was finalized.
enum Again {
    Up { ours: bool },
    Failed(Error),
}

/// Why a module is finalized and initialized again.
#[derive(Clone, Copy)]
enum Cause {
    /// An incarnation of it is in trouble. `unless_in_service`: only if it serves nobody.
    Trouble { seen: u64, unless_in_service: bool },
    /// Somebody asks for it, who knows of so many restarts that had begun.
    Request { begun: u64 },
}

impl Module {
    /// `C_Finalize` and `C_Initialize`, if this is still the incarnation that was `seen` in trouble: of those who want it at the same time one
    /// does it, and the others wait. `Ok(false)`: it had been done. Only of a module of ours, and when nobody is inside, for which it waits
    /// for `patience`. `unless_in_service`: only if no pool of the module has its token.
    pub(crate) fn reinitialize(&self, seen: u64, patience: Duration, unless_in_service: bool) -> Result<bool, Error> {
        let until = Instant::now() + patience;
        self.restart(Cause::Trouble { seen, unless_in_service }, Some(until), || true, || true)
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

    /// How often it began to be finalized and initialized again.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::SeqCst)
    }

    /// Whether the pools of the module hold calls back rather than refuse them, since it is being reloaded, or was a moment ago.
    pub(crate) fn holds_back(&self) -> bool {
        self.held_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// An adopted module has to be initialized by the library that has done so: until then nothing that was open is there any more.
    pub(crate) fn lose_if_adopted(&self) {
        if self.lifecycle.phase() == (Phase::Up { ours: false }) {
            self.forget_sessions();
        }
    }

    fn restart(
        &self,
        cause: Cause,
        until: Option<Instant>,
        is_wanted: impl Fn() -> bool,
        begins: impl FnOnce() -> bool,
    ) -> Result<bool, Error> {
        let state = self.lifecycle.lock_unchanging(until).ok_or_else(|| self.busy())?;
        if self.was_restarted(cause, &state) {
            return Ok(false);
        }
        self.may_restart(cause, &state)?;
        let is_request = matches!(cause, Cause::Request { .. });
        let mut change = self.lifecycle.begin_change(state);
        if is_request {
            let now = Instant::now();
            *self.held_until.lock() = Some(until.unwrap_or(now + FAR).max(now) + RELOAD_HOLD_BACK_LIMIT);
        }
        // Opened before the change ends: whoever has found it closed waits for that end.
        let closed = self.door.close();
        let is_ours = change.phase == Phase::Up { ours: true };
        let called_off = || Error::Interrupted { cause: "nobody waits for it" };
        let result = self
            .door
            .wait_until_empty(until, is_wanted)
            .map_err(|inside| Error::ModuleStuck { path: self.display(), inside })
            .and_then(|()| if begins() { Ok(()) } else { Err(called_off()) })
            .and_then(|()| self.start_again(is_ours));
        match &result {
            Ok(Again::Up { ours }) => change.phase = Phase::Up { ours: *ours },
            Ok(Again::Failed(_)) => change.phase = Phase::Down,
            // Nothing has happened to it.
            Err(_) => (),
        }
        if is_request {
            // The pools have their usual time to look for their tokens.
            *self.held_until.lock() = Some(Instant::now() + HOLD_BACK_LIMIT);
        }
        drop(closed);
        drop(change);
        match result? {
            Again::Up { .. } => Ok(true),
            Again::Failed(error) => Err(error),
        }
    }

    fn was_restarted(&self, cause: Cause, state: &State) -> bool {
        match cause {
            Cause::Trouble { seen, .. } => self.incarnation() != seen,
            Cause::Request { begun } => self.restarts() > begun && matches!(state.phase(), Phase::Up { .. }),
        }
    }

    /// Others may need it as it is, or have to do it themselves.
    fn may_restart(&self, cause: Cause, state: &State) -> Result<(), Error> {
        let is_adopted = state.phase() == (Phase::Up { ours: false });
        match cause {
            Cause::Trouble { unless_in_service, .. } => {
                // One that was adopted may be ours: then it is initialized without being finalized, which is right in either case.
                let is_anothers = is_adopted && (unless_in_service || !self.perhaps_ours.load(Ordering::SeqCst));
                if is_anothers || state.users == 0 || (unless_in_service && state.in_service > 0) {
                    return Err(Error::ModuleOthers { path: self.display() });
                }
            }
            Cause::Request { .. } if is_adopted => return Err(Error::ModuleAdopted { path: self.display() }),
            Cause::Request { .. } => (),
        }
        Ok(())
    }

    /// `Err`: nothing has happened.
    fn start_again(&self, is_ours: bool) -> Result<Again, Error> {
        self.restarts.fetch_add(1, Ordering::SeqCst);
        if is_ours {
            let _inside = self.door.enter_alone()?;
            // SAFETY: the door is closed, and the one that is inside is this thread.
            match unsafe { self.functions().finalize() } {
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
            Ok(ours) => Again::Up { ours },
            Err(error) => Again::Failed(error),
        })
    }

    /// Everything that was open is gone.
    fn forget_sessions(&self) {
        self.handles().displace_all();
        for tenant in self.tenants() {
            tenant.all_is_lost();
        }
    }
}
