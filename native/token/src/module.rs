//! The module registry: a library is loaded and initialized once per VM, shared by all pools, and never unloaded.

mod reinitialize;

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cryptoki_sys::{CK_SESSION_HANDLE, CKR_CRYPTOKI_ALREADY_INITIALIZED};
use once_cell::sync::Lazy;
use parking_lot::{Condvar, Mutex};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::exit;
use crate::p11::{Class, Functions, LoadError};
use crate::reaper::Reaper;
use crate::token::Token;
use crate::turnstile::{Turn as Pass, Turnstile};

/// How long a start waits for another's `C_Initialize` or `C_Finalize`.
const LIFECYCLE_TIMEOUT: Duration = Duration::from_secs(60);

static MODULES: Lazy<Mutex<BTreeMap<PathBuf, Arc<Module>>>> = Lazy::new(Default::default);

/// What belongs to a module rather than to a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleConfig {
    /// The digest that the file must have, 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// Variables that are set before `C_Initialize`.
    pub env: BTreeMap<String, String>,
    /// The string for `pReserved`.
    pub args: Option<String>,
    /// Whether one call is in the module at a time; it is so, too, if the module cannot lock, or another pool asks for it.
    pub serialize: bool,
}

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
    tokens: Mutex<Vec<Arc<Token>>>,
    /// The open sessions of ours, from the handle to the session's number.
    handles: Mutex<HashMap<CK_SESSION_HANDLE, u64>>,
    reaper: Reaper,
}

/// A pool's share in a module: while there is one, the module stays initialized.
pub struct ModuleUse {
    module: Arc<Module>,
    /// Whether its pool has its token.
    up: bool,
}

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
static HALTING: AtomicBool = AtomicBool::new(false);

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
    /// The module at `path`, loaded and initialized.
    pub fn acquire(path: &str, config: &ModuleConfig) -> Result<ModuleUse, Error> {
        let module = Self::load(path, config)?;
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
        if let Some(expected) = &config.sha256 {
            let actual = digest_of(&canonical).map_err(|error| failed(error.to_string()))?;
            if !actual.eq_ignore_ascii_case(expected) {
                let (path, expected) = (path.to_owned(), expected.to_ascii_lowercase());
                return Err(Error::ModuleDigestMismatch { path, expected, actual });
            }
        }
        // The library's constructors may read its variables already.
        let loaded = with_env(config, path, || Functions::load(&canonical))?;
        let functions = loaded.map_err(|error| match error {
            LoadError::NotLoadable { message, .. } => failed(message),
            LoadError::NotPkcs11 { message, .. } => failed(format!("not a PKCS#11 library: {message}")),
            LoadError::FunctionList { error, .. } => Error::Call(error),
        })?;
        let reaper = Reaper::start().map_err(|error| failed(error.to_string()))?;
        let module = Arc::new(Self {
            path: canonical.clone(),
            functions,
            lifecycle: Mutex::new(Lifecycle { phase: Phase::Down, config: config.clone(), users: 0, up: 0 }),
            changed: Condvar::new(),
            inside: AtomicUsize::new(0),
            stuck: AtomicUsize::new(0),
            turnstile: Turnstile::default(),
            closed: AtomicBool::new(false),
            incarnation: AtomicU64::new(0),
            tokens: Mutex::default(),
            handles: Mutex::default(),
            reaper,
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
        // The digest was checked at load; a loaded file is what it was then.
        if config.sha256 != lifecycle.config.sha256
            && let Some(expected) = &config.sha256
        {
            drop(lifecycle);
            return self.check_digest(expected).and_then(|()| {
                self.lifecycle.lock().config.sha256 = Some(expected.clone());
                self.start(config)
            });
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
        // After the module's own exit handlers, hence run before them.
        exit::guard();
        let ours = match result {
            Ok(()) => true,
            Err(error) if error.code == CKR_CRYPTOKI_ALREADY_INITIALIZED => false,
            Err(error) => return Err(error.into()),
        };
        self.incarnation.fetch_add(1, Ordering::SeqCst);
        Ok(ours)
    }

    /// Finalizes a module of ours that nobody uses and nobody is inside of. Called by the reaper, behind the last session's close.
    pub(crate) fn finalize_if_unused(&self) {
        {
            let mut lifecycle = self.lifecycle.lock();
            let ours = lifecycle.phase == Phase::Up { ours: true };
            if !ours || lifecycle.users > 0 || self.inside.load(Ordering::SeqCst) > 0 || HALTING.load(Ordering::SeqCst) {
                return;
            }
            lifecycle.phase = Phase::Changing;
        }
        let open: usize = self.tokens.lock().iter().map(|token| token.gate.sessions()).sum();
        let finalized = open == 0
            && self.enter_alone().is_ok_and(|_inside| {
                // SAFETY: no pool uses the module, no session of ours is open, and nobody comes in while the phase is `Changing`: whoever wants
                // to has to be a user first. The one that is inside is this thread.
                unsafe { self.functions.finalize() }.is_ok()
            });
        self.lifecycle.lock().phase = if finalized { Phase::Down } else { Phase::Up { ours: true } };
        self.changed.notify_all();
    }

    fn check_digest(&self, expected: &str) -> Result<(), Error> {
        let path = self.display();
        let actual =
            digest_of(&self.path).map_err(|error| Error::ModuleLoadFailed { path: path.clone(), cause: error.to_string() })?;
        if actual.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        Err(Error::ModuleDigestMismatch { path, expected: expected.to_ascii_lowercase(), actual })
    }

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
        let until = Instant::now() + LIFECYCLE_TIMEOUT;
        loop {
            match self.enter() {
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
    fn enter_alone(&self) -> Result<Inside<'_>, Error> {
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

    /// Changes whenever it was initialized: what was open before is gone. Read inside.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::SeqCst)
    }

    /// A session was opened; another of this handle is no more.
    pub(crate) fn handle_opened(&self, handle: CK_SESSION_HANDLE, session: u64) {
        self.handles.lock().insert(handle, session);
    }

    /// A session is about to be closed; `false`: its handle is another's by now.
    pub(crate) fn handle_closing(&self, handle: CK_SESSION_HANDLE, session: u64) -> bool {
        let mut handles = self.handles.lock();
        let is_own = handles.get(&handle) == Some(&session);
        if is_own {
            handles.remove(&handle);
        }
        is_own
    }

    /// How many threads are inside.
    pub fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }

    /// Its functions.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    pub(crate) fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// The one `Token` of this identity; made on first sight, kept for ever, so that a poisoned credential stays so.
    pub(crate) fn token(&self, identity: &[u8], make: impl FnOnce() -> Token) -> Arc<Token> {
        let mut tokens = self.tokens.lock();
        if let Some(token) = tokens.iter().find(|token| &*token.identity == identity) {
            return token.clone();
        }
        let token = Arc::new(make());
        tokens.push(token.clone());
        token
    }

    fn display(&self) -> String {
        self.path.display().to_string()
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
            self.module.reaper.finalize(self.module.clone());
        }
    }
}

impl ModuleConfig {
    /// The option in which `wanted` asks for something else than this one has; what it does not name, it does not ask for.
    fn difference(&self, wanted: &Self) -> Option<&'static str> {
        let differs = |has: &Option<String>, wants: &Option<String>| wants.is_some() && has != wants;
        if differs(&self.sha256, &wanted.sha256) {
            return Some("module_sha256");
        }
        if !wanted.env.is_empty() && self.env != wanted.env {
            return Some("module_env");
        }
        differs(&self.args, &wanted.args).then_some("module_args")
    }
}

fn digest_of(path: &Path) -> std::io::Result<String> {
    let digest = Sha256::digest(std::fs::read(path)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Runs `load` with the module's variables in libc's own environment, which the VM's `System.put_env` does not reach. One at a time: two
/// modules may want the same variable with different values. Another that hangs in its `C_Initialize` must not take this one with it.
fn with_env<T>(config: &ModuleConfig, path: &str, load: impl FnOnce() -> T) -> Result<T, Error> {
    if config.env.is_empty() {
        return Ok(load());
    }
    let _turn = Turn::take(LIFECYCLE_TIMEOUT).ok_or_else(|| Error::ModuleBusy { path: path.to_owned() })?;
    for (name, value) in &config.env {
        // SAFETY: other threads of the VM may read the environment at the same time; glibc guards its own table, and nothing but the
        // configured names is touched, before the module that reads them is initialized.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(load())
}

/// The turn to set variables. No lock: it lasts for a call into a module.
struct Turn;

static TAKEN: Mutex<bool> = Mutex::new(false);
static GIVEN_BACK: Condvar = Condvar::new();

impl Turn {
    fn take(timeout: Duration) -> Option<Self> {
        let until = Instant::now() + timeout;
        let mut taken = TAKEN.lock();
        while *taken {
            if GIVEN_BACK.wait_until(&mut taken, until).timed_out() {
                return None;
            }
        }
        *taken = true;
        Some(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock() = false;
        GIVEN_BACK.notify_one();
    }
}
