//! All modules that are loaded: one [`Module`] for each file, kept for ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::closing_thread::ClosingThread;
use super::config::ModuleConfig;
use super::door;
use super::enter::LIFECYCLE_TIMEOUT;
use super::environment::with_variables;
use super::exit::Guard;
use super::file::ModuleFile;
use super::initialize::ModuleUse;
use super::loaded::Module;
use crate::error::Error;
use crate::p11::{Functions, LoadError};

static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

impl Module {
    /// The module at `path`, loaded and initialized.
    pub fn acquire(path: &str, config: &ModuleConfig) -> Result<ModuleUse, Error> {
        Self::acquire_and_tell(path, config, |_| ())
    }

    /// Only loads it: no function of PKCS#11 is called but those that give its functions.
    pub fn load(path: &str, config: &ModuleConfig) -> Result<(), Error> {
        find_or_load(path, config).map(drop)
    }

    /// Loads and initializes it; tells which module it is before it is initialized, which may take for ever.
    pub(crate) fn acquire_and_tell(path: &str, config: &ModuleConfig, tell: impl FnOnce(&Arc<Self>)) -> Result<ModuleUse, Error> {
        let module = find_or_load(path, config)?;
        tell(&module);
        module.start(config)
    }
}

fn find_or_load(path: &str, config: &ModuleConfig) -> Result<Arc<Module>, Error> {
    let failed = |cause: String| Error::ModuleLoadFailed { path: path.to_owned(), cause };
    let canonical = std::fs::canonicalize(path).map_err(|error| failed(error.to_string()))?;
    if !canonical.is_file() {
        return Err(failed("not a file".into()));
    }
    let found = MODULES.lock().get(&canonical).cloned();
    if let Some(module) = found {
        return Ok(module);
    }
    let module = Arc::new(load(path, &canonical, config)?);
    // Another thread may have loaded it meanwhile: the dynamic linker gave both the same library, and the first one counts.
    Ok(MODULES.lock().entry(canonical).or_insert(module).clone())
}

fn load(path: &str, canonical: &Path, config: &ModuleConfig) -> Result<Module, Error> {
    let failed = |cause: String| Error::ModuleLoadFailed { path: path.to_owned(), cause };
    let file = ModuleFile::open(canonical).map_err(|error| failed(error.to_string()))?;
    config.check_digest(path, Some(file.digest()))?;
    // The library's constructors may read its variables already.
    let until = Instant::now() + LIFECYCLE_TIMEOUT;
    let loaded = with_variables(config, until, || Functions::load(canonical));
    let functions = loaded.ok_or_else(|| Error::ModuleBusy { path: path.to_owned() })?.map_err(|error| match error {
        LoadError::NotLoadable { message, .. } => failed(message),
        LoadError::NotPkcs11 { message, .. } => failed(format!("not a PKCS#11 library: {message}")),
        LoadError::FunctionList { error, .. } => Error::Call(error),
    })?;
    let digest = file.digest_of_loaded();
    config.check_digest(path, digest.as_deref())?;
    let closing_thread = ClosingThread::start().map_err(|error| failed(error.to_string()))?;
    Ok(Module::new(canonical.to_owned(), digest, functions, config.clone(), closing_thread, Guard::new(halt)))
}

/// Keeps everybody out of every module, and waits until those inside have left; `false`: not within `timeout`, or they hang.
fn halt(timeout: Duration) -> bool {
    door::close_all_for_good();
    let until = Instant::now() + timeout;
    // At exit another thread may hold the registry's lock for good: then nobody can be waited for.
    let Some(modules) = MODULES.try_lock_until(until).map(|modules| modules.values().cloned().collect::<Vec<_>>()) else {
        return false;
    };
    while modules.iter().any(|module| module.door.inside() > 0) {
        let all_hang = modules.iter().all(|module| module.door.has_only_stuck_calls());
        if all_hang || Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
