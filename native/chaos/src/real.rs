//! The module that is wrapped.

use std::error::Error as _;
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::{self, NonNull};

use cryptoki_sys::*;

/// Calls a function of the real module's list; a NULL pointer there is `CKR_FUNCTION_NOT_SUPPORTED`. For use inside
/// `unsafe`: the arguments must be what that C function allows.
macro_rules! real {
    ($real:expr, $name:ident($($argument:expr),* $(,)?)) => {
        match $real.$name {
            Some(function) => function($($argument),*),
            None => ::cryptoki_sys::CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}
pub(crate) use real;

/// The name of the interfaces that the standard defines.
pub const STANDARD: &CStr = c"PKCS 11";

/// The newest version whose functions we know.
const NEWEST: (u8, u8) = (3, 2);

/// The functions of the real module that tell its interfaces.
#[derive(Clone, Copy)]
pub struct Interfaces {
    pub get: unsafe extern "C" fn(*mut CK_UTF8CHAR, *mut CK_VERSION, *mut *mut CK_INTERFACE, CK_FLAGS) -> CK_RV,
    pub list: unsafe extern "C" fn(*mut CK_INTERFACE, *mut CK_ULONG) -> CK_RV,
}

impl Interfaces {
    /// The functions of the newest interface that we know; NULL are those that it has not.
    pub fn later(&self) -> CK_FUNCTION_LIST_3_2 {
        [NEWEST, (3, 1), (3, 0)]
            .into_iter()
            .find_map(|(major, minor)| {
                let (mut version, mut interface) = (CK_VERSION { major, minor }, ptr::null_mut());
                // SAFETY: a name that ends, a version, and room for one pointer.
                let code = unsafe { (self.get)(STANDARD.as_ptr().cast_mut().cast(), &mut version, &mut interface, 0) };
                let interface = NonNull::new(interface).filter(|_| code == CKR_OK)?;
                // SAFETY: the real module gave it, and it stays.
                read_interface(unsafe { interface.as_ref() }).map(|(_, functions)| functions)
            })
            .unwrap_or_default()
    }
}

/// The version of an interface's list, and its functions; `None`: it is not the standard's, or has no list.
pub fn read_interface(interface: &CK_INTERFACE) -> Option<(CK_VERSION, CK_FUNCTION_LIST_3_2)> {
    let name = NonNull::new(interface.pInterfaceName)?;
    // SAFETY: a name ends with a NUL.
    if unsafe { CStr::from_ptr(name.as_ptr().cast()) } != STANDARD {
        return None;
    }
    let list = NonNull::new(interface.pFunctionList)?;
    // SAFETY: a list begins with its version.
    let version = unsafe { list.cast::<CK_VERSION>().read_unaligned() };
    let mut functions = CK_FUNCTION_LIST_3_2::default();
    let size = match (version.major, version.minor) {
        version if version >= NEWEST => size_of::<CK_FUNCTION_LIST_3_2>(),
        version if version >= (3, 0) => size_of::<CK_FUNCTION_LIST_3_0>(),
        _ => size_of::<CK_FUNCTION_LIST>(),
    };
    // SAFETY: a list of its version has so many bytes, and those of a later version begin as those of an earlier one. NULL is no function.
    unsafe { ptr::copy_nonoverlapping(list.as_ptr().cast::<u8>(), (&raw mut functions).cast(), size) };
    Some((version, functions))
}

/// Its functions, for the life of the process.
pub struct Real {
    /// Those of PKCS#11 2.40.
    pub list: &'static CK_FUNCTION_LIST,
    /// What tells its interfaces, if it has any.
    pub interfaces: Option<Interfaces>,
    /// Those of 3.0 and later; NULL are those that it has not.
    pub later: CK_FUNCTION_LIST_3_2,
}

/// Loads the module and gives its functions. It is never unloaded.
pub fn load(path: &Path) -> Result<Real, String> {
    let failed = |cause: String| format!("cannot load {}: {cause}", path.display());
    // SAFETY: loading runs the library's constructors. That the file can be trusted is for whoever configured it.
    let library = unsafe { Pkcs11::new(path) }.map_err(|error| match error.source() {
        Some(source) => failed(format!("{error}: {source}")),
        None => failed(error.to_string()),
    })?;
    let library = ManuallyDrop::new(library);
    let get_function_list = match &library.C_GetFunctionList {
        Ok(function) => *function,
        Err(_) => return Err(failed("it does not export C_GetFunctionList".into())),
    };
    let mut list = ptr::null_mut();
    // SAFETY: `list` is where the function may write one pointer.
    let code = unsafe { get_function_list(&mut list) };
    if code != CKR_OK || list.is_null() {
        return Err(failed(format!("C_GetFunctionList answers 0x{code:x}")));
    }
    let interfaces = match (&library.C_GetInterface, &library.C_GetInterfaceList) {
        (Ok(get), Ok(list)) => Some(Interfaces { get: *get, list: *list }),
        _ => None,
    };
    let later = interfaces.map(|interfaces| interfaces.later()).unwrap_or_default();
    // SAFETY: not NULL, and it stays, with the library, for the life of the process. It is only read.
    Ok(Real { list: unsafe { &*list }, interfaces, later })
}
