//! The module's function list: loading, `C_Initialize`, `C_Finalize`.

use std::error::Error as _;
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use cryptoki_sys::*;

use super::error::{CallError, Phase, check};
use super::interfaces::{self, Version};

/// Calls one function of the list; a NULL pointer there is `CKR_FUNCTION_NOT_SUPPORTED`. Gives the `CK_RV`.
/// For use inside `unsafe`: the arguments must be what that C function allows.
macro_rules! call {
    ($functions:expr, $name:ident($($argument:expr),* $(,)?)) => {
        match (*$functions.as_ptr()).$name {
            Some(function) => function($($argument),*),
            None => ::cryptoki_sys::CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}
pub(super) use call;

/// The same for a function of a later version than 2.40, as in `call_later!(functions, v3_0, C_SessionCancel(...))`. A list that has no such
/// functions is not read behind its end: that is `CKR_FUNCTION_NOT_SUPPORTED`, too.
macro_rules! call_later {
    ($functions:expr, $version:ident, $name:ident($($argument:expr),* $(,)?)) => {
        match $functions.$version().and_then(|list| (*list.as_ptr()).$name) {
            Some(function) => function($($argument),*),
            None => ::cryptoki_sys::CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}
pub(super) use call_later;

/// The function list of a loaded module: one pointer, free to copy, never dangling. It has at least the functions of PKCS#11 2.40; `version`
/// says which others.
///
/// Two of them are equal when they come from the same library, however its path was spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Functions {
    list: NonNull<CK_FUNCTION_LIST>,
    version: Version,
}

// SAFETY: the list is only ever read and stays mapped for the life of the process. Calling the functions from
// several threads is what `CKF_OS_LOCKING_OK` asks the module to support.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

/// A file could not be loaded as a PKCS#11 module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The dynamic linker refuses the file; `message` is its own.
    #[error("cannot load {path}: {message}", path = path.display())]
    NotLoadable {
        /// The file.
        path: PathBuf,
        /// What `dlopen` said.
        message: String,
    },
    /// A shared library, but none that has a PKCS#11 2.x function list.
    #[error("{path} is not a PKCS#11 library: {message}", path = path.display())]
    NotPkcs11 {
        /// The file.
        path: PathBuf,
        /// What is missing.
        message: &'static str,
    },
    /// `C_GetFunctionList` failed.
    #[error("cannot use {path}: {error}", path = path.display())]
    FunctionList {
        /// The file.
        path: PathBuf,
        /// The failed call.
        error: CallError,
    },
}

impl Functions {
    /// Loads the library and asks it for its function list: that of its newest interface that we know (`C_GetInterface`), else
    /// `C_GetFunctionList`. Does not call `C_Initialize`.
    ///
    /// A library once loaded is never unloaded, not even one that turns out to be no PKCS#11 module: the threads and
    /// exit handlers that it may have would run into unmapped code. Each call leaks some KiB; keep the result.
    pub fn load(path: &Path) -> Result<Functions, LoadError> {
        let not_pkcs11 = |message| LoadError::NotPkcs11 { path: path.into(), message };
        // SAFETY: loading runs the library's constructors. That the file can be trusted is for whoever configured
        // it, as with any module.
        let library = unsafe { Pkcs11::new(path) }.map_err(|error| LoadError::NotLoadable {
            path: path.into(),
            message: match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        })?;
        let library = ManuallyDrop::new(library);
        // SAFETY: the library's function of this name.
        let newest = unsafe { interfaces::newest(library.C_GetInterface.as_ref().ok().copied()) };
        if let Some((list, version)) = newest {
            return Ok(Functions { list, version });
        }
        let get_function_list = match &library.C_GetFunctionList {
            Ok(function) => *function,
            Err(_) => return Err(not_pkcs11("it does not export C_GetFunctionList")),
        };
        let mut list = ptr::null_mut();
        // SAFETY: `list` is where the function may write one pointer.
        let code = unsafe { get_function_list(&mut list) };
        check("C_GetFunctionList", Phase::Single, code).map_err(|error| LoadError::FunctionList { path: path.into(), error })?;
        let list = NonNull::new(list).ok_or_else(|| not_pkcs11("C_GetFunctionList gave no function list"))?;
        // SAFETY: a list begins with its version, whatever the version.
        let version = unsafe { (*list.as_ptr()).version };
        if version.major < 2 {
            return Err(not_pkcs11("its function list is older than version 2"));
        }
        // Whatever version it says: this list has no functions behind those of 2.40.
        Ok(Functions { list, version: interfaces::V2_40 })
    }

    /// Wraps a function list that is there already: a test's, or another loader's.
    ///
    /// # Safety
    /// Each function pointer of the list must be NULL or point to a function that behaves as the PKCS#11 function
    /// of its name, from any thread, for as long as the process lives.
    pub unsafe fn from_list(list: &'static CK_FUNCTION_LIST) -> Functions {
        Functions { list: NonNull::from(list), version: interfaces::V2_40 }
    }

    /// The same with one of PKCS#11 3.2.
    ///
    /// # Safety
    /// As of [`Functions::from_list`].
    pub unsafe fn from_list_3_2(list: &'static CK_FUNCTION_LIST_3_2) -> Functions {
        Functions { list: NonNull::from(list).cast(), version: interfaces::V3_2 }
    }

    /// The version whose functions are called, where they are there.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The list with the functions of PKCS#11 3.0, if it has room for them.
    #[inline]
    pub(super) fn v3_0(&self) -> Option<NonNull<CK_FUNCTION_LIST_3_0>> {
        (self.version >= interfaces::V3_0).then(|| self.list.cast())
    }

    /// The list with the functions of PKCS#11 3.2, if it has room for them.
    #[inline]
    pub(super) fn v3_2(&self) -> Option<NonNull<CK_FUNCTION_LIST_3_2>> {
        (self.version >= interfaces::V3_2).then(|| self.list.cast())
    }

    /// Whether the module offers `C_MessageEncryptInit` or `C_MessageDecryptInit`.
    pub fn has_messages(&self) -> bool {
        // SAFETY: the list has room for them, and stays mapped.
        self.v3_0().is_some_and(|list| unsafe {
            (*list.as_ptr()).C_MessageEncryptInit.is_some() || (*list.as_ptr()).C_MessageDecryptInit.is_some()
        })
    }

    /// Whether the module offers `C_LoginUser`.
    pub fn has_login_user(&self) -> bool {
        // SAFETY: the list has room for it, and stays mapped.
        self.v3_0().is_some_and(|list| unsafe { (*list.as_ptr()).C_LoginUser }.is_some())
    }

    /// The raw list.
    #[inline]
    pub fn as_ptr(&self) -> *const CK_FUNCTION_LIST {
        self.list.as_ptr()
    }

    /// `C_Initialize` with `CKF_OS_LOCKING_OK` and, where a module wants it, a string as `pReserved`.
    ///
    /// `CKR_CRYPTOKI_ALREADY_INITIALIZED` is an error here; whether to adopt the module is for the caller.
    pub fn initialize(&self, reserved: Option<&CStr>) -> Result<(), CallError> {
        let mut arguments = CK_C_INITIALIZE_ARGS {
            flags: CKF_OS_LOCKING_OK,
            pReserved: reserved.map_or(ptr::null_mut(), |string| string.as_ptr().cast_mut().cast()),
            ..Default::default()
        };
        // SAFETY: the arguments outlive the call; no mutex functions are given, and `CKF_OS_LOCKING_OK` is set.
        let code = unsafe { call!(self, C_Initialize((&raw mut arguments).cast())) };
        check("C_Initialize", Phase::Single, code)
    }

    /// The same for a module that cannot lock: as by an application in which one thread at a time calls it.
    pub fn initialize_without_locks(&self, reserved: Option<&CStr>) -> Result<(), CallError> {
        let Some(reserved) = reserved else {
            // SAFETY: NULL is allowed, and says that no two threads call the module at a time.
            let code = unsafe { call!(self, C_Initialize(ptr::null_mut())) };
            return check("C_Initialize", Phase::Single, code);
        };
        let pointer = reserved.as_ptr().cast_mut().cast();
        let mut arguments = CK_C_INITIALIZE_ARGS { pReserved: pointer, ..Default::default() };
        // SAFETY: the arguments outlive the call; no mutex functions and no flag say the same as NULL.
        let code = unsafe { call!(self, C_Initialize((&raw mut arguments).cast())) };
        check("C_Initialize", Phase::Single, code)
    }

    /// `C_Finalize`: closes every session that the process has on the module.
    ///
    /// # Safety
    /// No thread may be inside the module, nor enter it before this returns: modules crash then.
    pub unsafe fn finalize(&self) -> Result<(), CallError> {
        // SAFETY: the argument must be NULL; the rest is the caller's promise.
        let code = unsafe { call!(self, C_Finalize(ptr::null_mut())) };
        check("C_Finalize", Phase::Single, code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_function_pointer_is_not_supported() {
        let list = Box::leak(Box::new(CK_FUNCTION_LIST::default()));
        // SAFETY: all its pointers are NULL.
        let functions = unsafe { Functions::from_list(list) };
        assert_eq!(
            functions.initialize(None),
            Err(CallError { function: "C_Initialize", code: CKR_FUNCTION_NOT_SUPPORTED, phase: Phase::Single, active: false })
        );
    }

    #[test]
    fn a_missing_file_is_not_loadable() {
        let error = Functions::load(Path::new("/nonexistent/module.so")).unwrap_err();
        assert!(matches!(&error, LoadError::NotLoadable { message, .. } if message.contains("No such file")), "{error}");
    }

    #[test]
    fn functions_of_later_versions_are_not_looked_for_in_a_list_that_is_too_short() {
        let short = Box::leak(Box::new(CK_FUNCTION_LIST::default()));
        // SAFETY: all its pointers are NULL.
        let functions = unsafe { Functions::from_list(short) };
        assert!(functions.v3_0().is_none() && functions.v3_2().is_none() && !functions.has_login_user());
        let long = Box::leak(Box::new(CK_FUNCTION_LIST_3_2::default()));
        // SAFETY: as above.
        let functions = unsafe { Functions::from_list_3_2(long) };
        assert!(functions.v3_0().is_some() && functions.v3_2().is_some());
        // It is there, and NULL.
        assert!(!functions.has_login_user());
    }
}
