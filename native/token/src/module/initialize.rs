//! A module is initialized for its first user, and finalized behind its last one.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cryptoki_sys::CKR_CRYPTOKI_ALREADY_INITIALIZED;
use parking_lot::Mutex;

use super::config::ModuleConfig;
use super::door;
use super::enter::LIFECYCLE_TIMEOUT;
use super::environment::with_variables;
use super::lifecycle::Phase;
use super::loaded::Module;
use crate::error::Error;
use crate::p11::Class;

/// A pool's share in a module: while there is one, the module stays initialized.
pub struct ModuleUse {
    module: Arc<Module>,
    in_service: bool,
}

impl Module {
    /// Counts a user; initializes the module for the first one.
    pub(super) fn start(self: &Arc<Self>, config: &ModuleConfig) -> Result<ModuleUse, Error> {
        let until = Instant::now() + LIFECYCLE_TIMEOUT;
        let mut state = self.lifecycle.lock_unchanging(Some(until)).ok_or_else(|| self.busy())?;
        // One that could not be initialized again is down, and has users.
        if (state.phase() != Phase::Down || state.users > 0)
            && let Some(option) = state.config.difference(config)
        {
            return Err(Error::ModuleConflict { path: self.display(), option });
        }
        let is_what_is_asked_for = self.check_digest(config);
        if state.users > 0 && is_what_is_asked_for.is_err() {
            return Err(Error::ModuleConflict { path: self.display(), option: "module_sha256" });
        }
        is_what_is_asked_for?;
        if state.phase() != Phase::Down {
            state.users += 1;
            if config.serialize {
                state.config.serialize = true;
                self.door.set_one_at_a_time(true);
            }
            return Ok(ModuleUse { module: self.clone(), in_service: false });
        }
        let mut change = self.lifecycle.begin_change(state);
        let ours = self.initialize(config)?;
        change.phase = Phase::Up { ours };
        let mut state = self.lifecycle.lock();
        if state.users == 0 {
            state.config = config.clone();
        }
        state.config.serialize |= config.serialize;
        state.users += 1;
        drop(state);
        drop(change);
        Ok(ModuleUse { module: self.clone(), in_service: false })
    }

    /// `C_Initialize`; `Ok(false)`: another library of the process had done it, and the module is adopted.
    pub(super) fn initialize(&self, config: &ModuleConfig) -> Result<bool, Error> {
        let args =
            match &config.args {
                Some(args) => Some(CString::new(args.as_str()).map_err(|_| Error::ModuleLoadFailed {
                    path: self.display(),
                    cause: "module_args holds a NUL byte".into(),
                })?),
                None => None,
            };
        let _inside = self.door.enter_alone()?;
        let initialize = || {
            match self.functions().initialize(args.as_deref()) {
                // It knows no locks, or none without threads of its own: it is used as by an application with one thread.
                Err(error) if error.class() == Class::Locking => {
                    (self.functions().initialize_without_locks(args.as_deref()), true)
                }
                result => (result, config.serialize),
            }
        };
        let until = Instant::now() + LIFECYCLE_TIMEOUT;
        let (result, serialized) = with_variables(config, until, initialize).ok_or_else(|| self.busy())?;
        self.door.set_one_at_a_time(serialized);
        let is_adopted = matches!(&result, Err(error) if error.code == CKR_CRYPTOKI_ALREADY_INITIALIZED);
        self.exit_guard.after_initialize(result.is_ok() || is_adopted);
        match result {
            Ok(()) => self.perhaps_ours.store(false, Ordering::SeqCst),
            Err(_) if is_adopted => (),
            Err(call) => {
                self.perhaps_ours.store(true, Ordering::SeqCst);
                return Err(Error::ModuleInitializeFailed { path: self.display(), call });
            }
        }
        self.incarnation.fetch_add(1, Ordering::SeqCst);
        Ok(!is_adopted)
    }

    /// Finalizes a module of ours that nobody uses, in which nobody is and no session of ours is open. Called on the closing thread, behind the last
    /// session's close, and by threads that have had no session there.
    pub(super) fn finalize_if_unused(&self) {
        let state = self.lifecycle.lock();
        let is_ours = state.phase() == Phase::Up { ours: true };
        if !is_ours || state.users > 0 || self.door.inside() > 0 || door::are_closed_for_good() {
            return;
        }
        let mut change = self.lifecycle.begin_change(state);
        if self.open_sessions() > 0 {
            return;
        }
        let finalized = self.door.enter_alone().is_ok_and(|_inside| {
            // SAFETY: no pool uses the module, no session of ours is open, and nobody comes in during a change: whoever wants to has to be a user
            // first. The one that is inside is this thread.
            unsafe { self.functions().finalize() }.is_ok()
        });
        if finalized {
            self.handles().displace_all();
            change.phase = Phase::Down;
        }
    }

    /// Does a job by which something ends on the closing thread; blocks nobody.
    pub(crate) fn run_on_closing_thread(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let module = self.clone();
        // Whoever wanted to finalize it while the thread that was replaced was inside could not.
        self.closing_thread.run(job, move || module.finalize_if_unused());
    }
}

impl ModuleUse {
    /// The module.
    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Another use of the same module: of a thread that may outlast its pool's.
    pub(crate) fn share(&self) -> Self {
        self.module.lifecycle.lock().users += 1;
        Self { module: self.module.clone(), in_service: false }
    }

    /// Its user gets from the module what it needs, or not any more: a module that is in anybody's service is initialized again only when it asks for
    /// that itself.
    pub(crate) fn set_in_service(&mut self, in_service: bool) {
        let mut state = self.module.lifecycle.lock();
        state.in_service = state.in_service + usize::from(in_service) - usize::from(self.in_service);
        self.in_service = in_service;
    }
}

impl Drop for ModuleUse {
    fn drop(&mut self) {
        self.set_in_service(false);
        let is_last = {
            let mut state = self.module.lifecycle.lock();
            state.users = state.users.saturating_sub(1);
            state.users == 0
        };
        if is_last {
            let module = self.module.clone();
            self.module.run_on_closing_thread(move || module.finalize_if_unused());
        }
    }
}

/// A use of a module without a pool, which ends once.
pub struct HeldModule(Mutex<Option<ModuleUse>>);

impl HeldModule {
    /// The module at `path`, loaded and initialized.
    pub fn acquire(path: &str, config: &ModuleConfig) -> Result<Self, Error> {
        Module::acquire(path, config).map(|held| Self(Mutex::new(Some(held))))
    }

    /// Ends the use, and returns when the module has been finalized, if this was the last one.
    pub fn release(&self) {
        // Not under the lock.
        let taken = self.0.lock().take();
        let Some(held) = taken else { return };
        let module = held.module.clone();
        drop(held);
        module.finalize_if_unused();
        // The closing thread may be at it.
        drop(module.lifecycle.lock_unchanging(Some(Instant::now() + LIFECYCLE_TIMEOUT)));
    }
}
