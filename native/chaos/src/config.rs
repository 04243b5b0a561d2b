//! What to wrap and where to listen.
//!
//! Both are read once: from a file beside the library, named as it is with `.conf` appended, else from the environment.
//! The file belongs to one copy of the library, while the environment belongs to the whole process, where modules that
//! start at the same time would read each other's.
//!
//! | in the file | variable | |
//! |---|---|---|
//! | `module=` | `PKCS11_POOL_CHAOS_MODULE` | path of the real module |
//! | `socket=` | `PKCS11_POOL_CHAOS_SOCKET` | path on which the control listens; none: no control |
//! | `init=` | `PKCS11_POOL_CHAOS_INIT` | file of commands to execute first; it is removed then |

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CStr, OsString};
use std::fs;
use std::mem::MaybeUninit;
use std::path::PathBuf;

use parking_lot::Mutex;

use crate::complaint::complain;
use crate::state::CHAOS;
use crate::{control, real};

/// Whether the configuration was found and applied.
static APPLIED: Mutex<bool> = Mutex::new(false);

/// Loads the real module and starts the control, unless that was done before. Problems go to the standard error, since
/// PKCS#11 has no place for them.
pub fn apply() {
    let mut applied = APPLIED.lock();
    if *applied {
        return;
    }
    let file = beside_library();
    let find = |key: &str| match file.get(key) {
        Some(value) => Some(PathBuf::from(value)),
        None => env::var_os(format!("PKCS11_POOL_CHAOS_{}", key.to_ascii_uppercase())).map(PathBuf::from),
    };
    // Perhaps the variables come later, before C_Initialize.
    let Some(module) = find("module") else { return };
    *applied = true;
    match real::load(&module) {
        Ok(real) => CHAOS.set_real(real),
        Err(message) => complain(&message),
    }
    if let Err(error) = control::start(find("socket"), find("init")) {
        complain(&format!("cannot start the control: {error}"));
    }
}

fn beside_library() -> BTreeMap<String, OsString> {
    let Some(mut path) = own_path() else { return BTreeMap::new() };
    path.push(".conf");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.into())).collect()
}

/// The file that this library was loaded from.
fn own_path() -> Option<OsString> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // Not an exported function: an application may have another one of its name, which the linker prefers.
    let own_code = own_path as *const libc::c_void;
    // SAFETY: the address is one of ours; `info` is written when the answer is not zero.
    if unsafe { libc::dladdr(own_code, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: written by `dladdr`.
    let name = unsafe { info.assume_init() }.dli_fname;
    if name.is_null() {
        return None;
    }
    // SAFETY: the dynamic linker's own name of this library, which stays as long as it is loaded.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_str().ok().map(OsString::from)
}
