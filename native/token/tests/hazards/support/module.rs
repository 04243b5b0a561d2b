//! A copy of the fake module.

use std::ffi::CString;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

use fake_module::FakeModule;

use crate::support::poll;

/// A copy of the fake module, which is loaded, and not yet initialized. At its end it must be finalized, and have seen no misuse.
pub struct Module {
    pub path: PathBuf,
    fake: &'static FakeModule,
}

impl Module {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let tests = env::current_exe().unwrap();
        // Cargo builds it beside the tests, as a dependency of theirs.
        let original = tests.with_file_name(format!("{}fake_module{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX));
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let path = env::temp_dir().join(format!("pkcs11_pool-fake-{}-{number}{}", std::process::id(), env::consts::DLL_SUFFIX));
        fs::copy(&original, &path).unwrap_or_else(|error| panic!("{}: {error}", original.display()));
        let path = path.canonicalize().unwrap();
        let fake = load(&path);
        Self { path, fake }
    }
}

fn load(path: &std::path::Path) -> &'static FakeModule {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a library of ours, which runs nothing when it is loaded.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!library.is_null(), "{path:?} cannot be loaded");
    // SAFETY: a handle from above, which is never closed.
    let symbol = unsafe { libc::dlsym(library, c"fake_module".as_ptr()) };
    assert!(!symbol.is_null());
    // SAFETY: the function of this name has this type: the library and the crate that these tests are linked with are of one compilation.
    let fake_module: extern "C" fn() -> &'static FakeModule = unsafe { std::mem::transmute(symbol) };
    fake_module()
}

impl Deref for Module {
    type Target = FakeModule;

    fn deref(&self) -> &FakeModule {
        self.fake
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.release_all();
        let _ = fs::remove_file(&self.path);
        if !thread::panicking() {
            // The last pool's end finalizes it; so nobody has forgotten that he uses it, and no session is open.
            poll("the module is finalized", || !self.is_initialized());
            assert_eq!(self.misuse(), [""; 0]);
        }
    }
}
