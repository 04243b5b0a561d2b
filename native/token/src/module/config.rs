//! What belongs to a module rather than to a pool: the file's digest, and the variables that it reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use sha2::{Digest, Sha256};

use super::LIFECYCLE_TIMEOUT;
use crate::error::Error;

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

impl ModuleConfig {
    /// The option in which `wanted` asks for something else than this one has; what it does not name, it does not ask for.
    pub(super) fn difference(&self, wanted: &Self) -> Option<&'static str> {
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

pub(super) fn digest_of(path: &Path) -> std::io::Result<String> {
    let digest = Sha256::digest(std::fs::read(path)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Runs `load` with the module's variables in libc's own environment, which the VM's `System.put_env` does not reach. One at a time: two
/// modules may want the same variable with different values. Another that hangs in its `C_Initialize` must not take this one with it.
pub(super) fn with_env<T>(config: &ModuleConfig, path: &str, load: impl FnOnce() -> T) -> Result<T, Error> {
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
