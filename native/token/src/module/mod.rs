//! The module registry: a library is loaded and initialized once per VM, shared by all pools, and never unloaded.

mod closing_thread;
mod config;
mod door;
mod environment;
pub(crate) mod exit;
mod file;
pub(crate) mod handle;
mod reinitialize;
pub(crate) mod report;
pub(crate) mod slot_events;
pub(crate) mod tenant;
pub(crate) mod turnstile;

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cryptoki_sys::CKR_CRYPTOKI_ALREADY_INITIALIZED;
use once_cell::sync::Lazy;
use parking_lot::{Condvar, Mutex};
use session_pool::{Handles, Millis};

pub use config::ModuleConfig;
use door::HALTING;
pub(crate) use door::{Inside, Stuck, halt};
use environment::with_env;
use file::ModuleFile;

use crate::error::Error;
use crate::module::closing_thread::ClosingThread;
use crate::module::exit::Guard;
use crate::module::slot_events::SlotEvents;
use crate::module::tenant::Tenant;
use crate::module::turnstile::Turnstile;
use crate::p11::{Class, Functions, LoadError};

/// How long a start waits for another's `C_Initialize` or `C_Finalize`.
const LIFECYCLE_TIMEOUT: Duration = Duration::from_secs(60);

const CHANGED: &str =
    "the file was replaced or written to while it was loaded, so that its digest proves nothing; restart the VM";

static MODULES: Lazy<Mutex<BTreeMap<PathBuf, Arc<Module>>>> = Lazy::new(Default::default);

/// What is left with a handle that is in use, and dropped when the use ends.
pub(crate) type Leftover = Box<dyn Any + Send>;

/// Whether the module is initialized, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    /// Somebody is in `C_Initialize` or `C_Finalize`.
    Changing,
    /// `ours`: we initialized it, so we may finalize it.
    Up {
        ours: bool,
    },
}

struct Lifecycle {
    phase: Phase,
    config: ModuleConfig,
    users: usize,
    /// Pools that have their token.
    up: usize,
}

/// A loaded module.
pub struct Module {
    path: PathBuf,
    /// SHA-256 of what was loaded, in lower case; `None`: the file was changed meanwhile.
    digest: Option<String>,
    functions: Functions,
    lifecycle: Mutex<Lifecycle>,
    changed: Condvar,
    inside: AtomicUsize,
    stuck: AtomicUsize,
    turnstile: Turnstile,
    /// Nobody comes in: the module is about to be finalized and initialized again.
    closed: AtomicBool,
    /// How often it was initialized.
    incarnation: AtomicU64,
    /// How often it began to be initialized again.
    restarts: AtomicU64,
    /// Until then, since it is being reloaded, its pools hold calls back rather than refuse them.
    held_until: Mutex<Option<Instant>>,
    /// If it says that it is initialized already, that may have been us: our last `C_Initialize` failed, or we have asked it to forget ours.
    perhaps_ours: AtomicBool,
    tenants: Mutex<Vec<Arc<dyn Tenant>>>,
    handles: Handles<Leftover>,
    closing_thread: ClosingThread,
    guard: Guard,
    pub(crate) events: SlotEvents,
}

/// A pool's share in a module: while there is one, the module stays initialized.
pub struct ModuleUse {
    module: Arc<Module>,
    /// Whether its pool has its token.
    up: bool,
}

impl Module {
    /// The module at `path`, loaded and initialized.
    pub fn acquire(path: &str, config: &ModuleConfig) -> Result<ModuleUse, Error> {
        Self::acquire_and_tell(path, config, |_| ())
    }

    /// The same; tells which module it is before it is initialized, which may take for ever.
    pub(crate) fn acquire_and_tell(path: &str, config: &ModuleConfig, tell: impl FnOnce(&Arc<Self>)) -> Result<ModuleUse, Error> {
        let module = Self::load(path, config)?;
        tell(&module);
        module.start(config)?;
        Ok(ModuleUse { module, up: false })
    }

    fn load(path: &str, config: &ModuleConfig) -> Result<Arc<Self>, Error> {
        let failed = |cause: String| Error::ModuleLoadFailed { path: path.to_owned(), cause };
        let canonical = std::fs::canonicalize(path).map_err(|error| failed(error.to_string()))?;
        if !canonical.is_file() {
            return Err(failed("not a file".into()));
        }
        let found = MODULES.lock().get(&canonical).cloned();
        if let Some(module) = found {
            return Ok(module);
        }
        let file = ModuleFile::open(&canonical).map_err(|error| failed(error.to_string()))?;
        check_digest(config, path, file.digest())?;
        // The library's constructors may read its variables already.
        let loaded = with_env(config, path, || Functions::load(&canonical))?;
        let functions = loaded.map_err(|error| match error {
            LoadError::NotLoadable { message, .. } => failed(message),
            LoadError::NotPkcs11 { message, .. } => failed(format!("not a PKCS#11 library: {message}")),
            LoadError::FunctionList { error, .. } => Error::Call(error),
        })?;
        let digest = file.digest_of_loaded();
        if config.sha256.is_some() && digest.is_none() {
            return Err(failed(CHANGED.into()));
        }
        let closing_thread = ClosingThread::start().map_err(|error| failed(error.to_string()))?;
        let module = Arc::new(Self {
            path: canonical.clone(),
            digest,
            functions,
            lifecycle: Mutex::new(Lifecycle { phase: Phase::Down, config: config.clone(), users: 0, up: 0 }),
            changed: Condvar::new(),
            inside: AtomicUsize::new(0),
            stuck: AtomicUsize::new(0),
            turnstile: Turnstile::default(),
            closed: AtomicBool::new(false),
            incarnation: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            held_until: Mutex::default(),
            perhaps_ours: AtomicBool::new(false),
            tenants: Mutex::default(),
            handles: Handles::default(),
            closing_thread,
            events: SlotEvents::default(),
            guard: Guard::default(),
        });
        // Another may have loaded it meanwhile: the dynamic linker gave both the same library, and the first one counts.
        Ok(MODULES.lock().entry(canonical).or_insert(module).clone())
    }

    /// Counts a user; initializes the module for the first one.
    fn start(self: &Arc<Self>, config: &ModuleConfig) -> Result<(), Error> {
        let until = Instant::now() + LIFECYCLE_TIMEOUT;
        let mut lifecycle = self.lifecycle.lock();
        loop {
            match lifecycle.phase {
                Phase::Changing => {
                    if self.changed.wait_until(&mut lifecycle, until).timed_out() {
                        return Err(Error::ModuleBusy { path: self.display() });
                    }
                }
                // One that could not be initialized again may have users, too.
                Phase::Up { .. } | Phase::Down => {
                    if (lifecycle.phase != Phase::Down || lifecycle.users > 0)
                        && let Some(option) = lifecycle.config.difference(config)
                    {
                        return Err(Error::ModuleConflict { path: self.display(), option });
                    }
                    let is_what_is_asked_for = self.check_digest(config);
                    if lifecycle.users > 0 && is_what_is_asked_for.is_err() {
                        return Err(Error::ModuleConflict { path: self.display(), option: "module_sha256" });
                    }
                    is_what_is_asked_for?;
                    if lifecycle.phase == Phase::Down {
                        break;
                    }
                    lifecycle.users += 1;
                    if config.serialize {
                        lifecycle.config.serialize = true;
                        self.turnstile.set(true);
                    }
                    return Ok(());
                }
            }
        }
        lifecycle.phase = Phase::Changing;
        drop(lifecycle);
        let result = self.initialize(config);
        let mut lifecycle = self.lifecycle.lock();
        lifecycle.phase = match &result {
            Ok(ours) => Phase::Up { ours: *ours },
            Err(_) => Phase::Down,
        };
        if result.is_ok() {
            if lifecycle.users == 0 {
                lifecycle.config = config.clone();
            }
            lifecycle.config.serialize |= config.serialize;
            lifecycle.users += 1;
        }
        self.changed.notify_all();
        result.map(|_| ())
    }

    /// `C_Initialize`; `Ok(false)`: somebody else had done it, and the module is adopted.
    fn initialize(&self, config: &ModuleConfig) -> Result<bool, Error> {
        let args =
            match &config.args {
                Some(args) => Some(CString::new(args.as_str()).map_err(|_| Error::ModuleLoadFailed {
                    path: self.display(),
                    cause: "module_args holds a NUL byte".into(),
                })?),
                None => None,
            };
        let _inside = self.enter_alone()?;
        let (result, serialized) = with_env(config, &self.display(), || {
            match self.functions.initialize(args.as_deref()) {
                // It knows no locks, or none without threads of its own: it is used as by an application with one thread.
                Err(error) if error.class() == Class::Locking => (self.functions.initialize_without_locks(args.as_deref()), true),
                result => (result, config.serialize),
            }
        })?;
        self.turnstile.set(serialized);
        let is_up = matches!(&result, Err(error) if error.code == CKR_CRYPTOKI_ALREADY_INITIALIZED) || result.is_ok();
        self.guard.after_initialize(is_up);
        let ours = match result {
            Ok(()) => true,
            Err(error) if error.code == CKR_CRYPTOKI_ALREADY_INITIALIZED => false,
            Err(error) => {
                self.perhaps_ours.store(true, Ordering::SeqCst);
                return Err(error.into());
            }
        };
        if ours {
            self.perhaps_ours.store(false, Ordering::SeqCst);
        }
        self.incarnation.fetch_add(1, Ordering::SeqCst);
        Ok(ours)
    }

    /// Finalizes a module of ours that nobody uses and nobody is inside of. Called on the closing thread, behind the last session's close, and by who
    /// has had no session there.
    pub(crate) fn finalize_if_unused(&self) {
        {
            let mut lifecycle = self.lifecycle.lock();
            let ours = lifecycle.phase == Phase::Up { ours: true };
            if !ours || lifecycle.users > 0 || self.inside.load(Ordering::SeqCst) > 0 || HALTING.load(Ordering::SeqCst) {
                return;
            }
            lifecycle.phase = Phase::Changing;
        }
        let mut end = ChangeEnd { module: self, phase: Phase::Up { ours: true } };
        let open: usize = self.tenants().iter().map(|tenant| tenant.open_sessions()).sum();
        let finalized = open == 0
            && self.enter_alone().is_ok_and(|_inside| {
                // SAFETY: no pool uses the module, no session of ours is open, and nobody comes in while the phase is `Changing`: whoever wants
                // to has to be a user first. The one that is inside is this thread.
                unsafe { self.functions.finalize() }.is_ok()
            });
        if finalized {
            self.handles.displace_all();
            end.phase = Phase::Down;
        }
    }

    /// Whether what was loaded is what `config` asks for, whatever the file is by now.
    fn check_digest(&self, config: &ModuleConfig) -> Result<(), Error> {
        match &self.digest {
            Some(digest) => check_digest(config, &self.display(), digest),
            None if config.sha256.is_none() => Ok(()),
            None => Err(Error::ModuleLoadFailed { path: self.display(), cause: CHANGED.into() }),
        }
    }

    /// Changes whenever it was initialized: what was open before is gone. Read inside.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::SeqCst)
    }

    /// The handles of our sessions.
    pub(crate) fn handles(&self) -> &Handles<Leftover> {
        &self.handles
    }

    /// Whether we have initialized it, and nobody else has.
    pub(crate) fn is_ours(&self) -> bool {
        self.lifecycle.lock().phase == (Phase::Up { ours: true })
    }

    /// Its functions.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// Does a job by which something ends on the closing thread; blocks nobody.
    pub(crate) fn run_on_closing_thread(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let module = self.clone();
        // Whoever wanted to finalize it while the thread that was replaced was inside could not.
        self.closing_thread.run(job, move || module.finalize_if_unused());
    }

    /// Another closing thread takes over from one whose job has taken longer than `limit`.
    pub(crate) fn replace_stuck_closing_thread(&self, limit: Millis) {
        self.closing_thread.replace_if_stuck(limit);
    }

    /// From now on, and for ever, `tenant` is told what becomes of the module.
    pub(crate) fn add_tenant(&self, tenant: Arc<dyn Tenant>) {
        self.tenants.lock().push(tenant);
    }

    /// A copy, so that none is called under the lock.
    fn tenants(&self) -> Vec<Arc<dyn Tenant>> {
        self.tenants.lock().clone()
    }

    fn display(&self) -> String {
        self.path.display().to_string()
    }
}

fn check_digest(config: &ModuleConfig, path: &str, actual: &str) -> Result<(), Error> {
    match &config.sha256 {
        Some(expected) if !actual.eq_ignore_ascii_case(expected) => Err(Error::ModuleDigestMismatch {
            path: path.to_owned(),
            expected: expected.to_ascii_lowercase(),
            actual: actual.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The end of a change, in which nobody could come in: even one that panics has an end.
struct ChangeEnd<'a> {
    module: &'a Module,
    phase: Phase,
}

impl Drop for ChangeEnd<'_> {
    fn drop(&mut self) {
        self.module.lifecycle.lock().phase = self.phase;
        self.module.changed.notify_all();
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
        Self { module: self.module.clone(), up: false }
    }

    /// Its pool has its token, or not any more.
    pub(crate) fn set_up(&mut self, up: bool) {
        let mut lifecycle = self.module.lifecycle.lock();
        lifecycle.up = lifecycle.up + usize::from(up) - usize::from(self.up);
        self.up = up;
    }
}

impl Drop for ModuleUse {
    fn drop(&mut self) {
        self.set_up(false);
        let last = {
            let mut lifecycle = self.module.lifecycle.lock();
            lifecycle.users = lifecycle.users.saturating_sub(1);
            lifecycle.users == 0
        };
        if last {
            let module = self.module.clone();
            self.module.run_on_closing_thread(move || module.finalize_if_unused());
        }
    }
}
