//! The module that is wrapped.

use std::error::Error as _;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;

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

/// Its functions, for the life of the process.
pub struct Real {
    /// Those of PKCS#11 2.40.
    pub list: &'static CK_FUNCTION_LIST,
    /// Those of 3.0, if it has them.
    pub later: Option<&'static CK_FUNCTION_LIST_3_0>,
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
    // SAFETY: not NULL, and it stays, with the library, for the life of the process. It is only read.
    let list = unsafe { &*list };
    // SAFETY: the library's function of this name.
    let later = unsafe { later(library.C_GetInterface.as_ref().ok().copied()) };
    Ok(Real { list, later })
}

/// # Safety
/// The function behaves as the PKCS#11 function of its name.
unsafe fn later(get_interface: CK_C_GetInterface) -> Option<&'static CK_FUNCTION_LIST_3_0> {
    let get_interface = get_interface?;
    let (mut name, mut version) = (*b"PKCS 11\0", CK_VERSION { major: 3, minor: 0 });
    let mut interface = ptr::null_mut();
    // SAFETY: name and version are locals, as is the place for one pointer.
    let code = unsafe { get_interface(name.as_mut_ptr(), &mut version, &mut interface, 0) };
    // SAFETY: NULL, or what the module has given, which stays.
    let interface = unsafe { interface.as_ref() }.filter(|_| code == CKR_OK)?;
    // SAFETY: the list of an interface of this version, or a later one, which stays; it is only read.
    unsafe { interface.pFunctionList.cast::<CK_FUNCTION_LIST_3_0>().as_ref() }.filter(|list| list.version.major >= 3)
}
