//! The module that is wrapped.

use std::error::Error as _;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;

use cryptoki_sys::{CK_FUNCTION_LIST, CKR_OK, Pkcs11};

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

/// Loads the module and gives its function list. It is never unloaded.
pub fn load(path: &Path) -> Result<&'static CK_FUNCTION_LIST, String> {
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
    Ok(unsafe { &*list })
}
