//! The interfaces of PKCS#11 3.0: those of the standard that the real module has. A module of 2.40 has one, whose list is that of
//! `C_GetFunctionList`. Interfaces of vendors are not shown: their functions would go by without the rules.

use std::ffi::CStr;
use std::ptr::{self, NonNull};

use cryptoki_sys::*;
use parking_lot::Mutex;

use crate::call::Answer;
use crate::forward::LIST;
use crate::later::list_of;
use crate::real::{Interfaces, STANDARD, read_interface};
use crate::state::CHAOS;

/// An interface that was shown. It and its list are never freed: the application keeps them.
struct Shown {
    version: (u8, u8),
    interface: *mut CK_INTERFACE,
}

// SAFETY: the pointer is to what is leaked, and only read.
unsafe impl Send for Shown {}

static SHOWN: Mutex<Vec<Shown>> = Mutex::new(Vec::new());

/// Ours for a list of the real module; always the same.
fn shown(version: CK_VERSION, functions: &CK_FUNCTION_LIST_3_2, flags: CK_FLAGS) -> *mut CK_INTERFACE {
    let mut all = SHOWN.lock();
    let number = (version.major, version.minor);
    if let Some(found) = all.iter().find(|shown| shown.version == number) {
        return found.interface;
    }
    let list: CK_VOID_PTR = if number < (3, 0) {
        ptr::from_ref(&LIST).cast_mut().cast()
    } else {
        ptr::from_mut(Box::leak(Box::new(list_of(version, functions)))).cast()
    };
    let interface =
        Box::leak(Box::new(CK_INTERFACE { pInterfaceName: STANDARD.as_ptr().cast_mut().cast(), pFunctionList: list, flags }));
    all.push(Shown { version: number, interface });
    interface
}

/// The only one of a module that has none.
fn earlier() -> *mut CK_INTERFACE {
    shown(LIST.version, &CK_FUNCTION_LIST_3_2::default(), 0)
}

/// What `C_GetInterface` does.
///
/// # Safety
/// `name` is NULL or ends with a NUL, `version` is NULL or valid, `interface` NULL or room for one pointer.
pub unsafe fn get(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> Answer {
    let room = NonNull::new(interface).ok_or(CKR_ARGUMENTS_BAD)?;
    let ours = match CHAOS.interfaces() {
        Some(real) => {
            let mut found = ptr::null_mut();
            // SAFETY: the application promises the real function what it needs; there is room for one pointer.
            let code = unsafe { (real.get)(name, version, &mut found, flags) };
            if code != CKR_OK {
                return Err(code);
            }
            let found = NonNull::new(found).ok_or(CKR_FUNCTION_NOT_SUPPORTED)?;
            // SAFETY: the real module gave it, and it stays.
            let found = unsafe { found.as_ref() };
            let (version, functions) = read_interface(found).ok_or(CKR_FUNCTION_NOT_SUPPORTED)?;
            shown(version, &functions, found.flags)
        }
        None => {
            // SAFETY: NULL or valid, says the caller.
            let version = unsafe { version.as_ref() }.copied().unwrap_or(LIST.version);
            // SAFETY: not NULL, and it ends with a NUL, says the caller.
            let is_standard = name.is_null() || unsafe { CStr::from_ptr(name.cast()) } == STANDARD;
            if !is_standard || flags != 0 || (version.major, version.minor) != (LIST.version.major, LIST.version.minor) {
                return Err(CKR_FUNCTION_NOT_SUPPORTED);
            }
            earlier()
        }
    };
    // SAFETY: room for one pointer, says the caller.
    unsafe { room.write(ours) };
    Ok(CKR_OK)
}

/// What `C_GetInterfaceList` does.
///
/// # Safety
/// `count` is NULL or valid, and `interfaces` NULL or room for as many.
pub unsafe fn list(interfaces: *mut CK_INTERFACE, count: *mut CK_ULONG) -> Answer {
    let count = NonNull::new(count).ok_or(CKR_ARGUMENTS_BAD)?;
    let ours = match CHAOS.interfaces() {
        Some(real) => real_interfaces(real)?,
        None => vec![earlier()],
    };
    // SAFETY: valid, says the caller.
    let room = unsafe { count.replace(ours.len() as CK_ULONG) };
    if interfaces.is_null() {
        return Ok(CKR_OK);
    }
    if (room as usize) < ours.len() {
        return Err(CKR_BUFFER_TOO_SMALL);
    }
    for (index, own) in ours.into_iter().enumerate() {
        // SAFETY: there is room for `room`, says the caller; ours are never freed.
        unsafe { interfaces.add(index).write(own.read()) };
    }
    Ok(CKR_OK)
}

/// Ours for each of the real module that is the standard's.
fn real_interfaces(real: Interfaces) -> Result<Vec<*mut CK_INTERFACE>, CK_RV> {
    let mut count = 0;
    // SAFETY: asks for the number only.
    match unsafe { (real.list)(ptr::null_mut(), &mut count) } {
        CKR_OK => (),
        code => return Err(code),
    }
    let none = CK_INTERFACE { pInterfaceName: ptr::null_mut(), pFunctionList: ptr::null_mut(), flags: 0 };
    let mut all = vec![none; count as usize];
    // SAFETY: there is room for `count`.
    match unsafe { (real.list)(all.as_mut_ptr(), &mut count) } {
        CKR_OK => (),
        code => return Err(code),
    }
    all.truncate(count as usize);
    let ours = all.iter().filter_map(|one| read_interface(one).map(|(version, functions)| shown(version, &functions, one.flags)));
    Ok(ours.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn cancel(_: CK_SESSION_HANDLE, _: CK_FLAGS) -> CK_RV {
        CKR_OK
    }

    fn interface(name: &'static CStr, list: CK_VOID_PTR) -> CK_INTERFACE {
        CK_INTERFACE { pInterfaceName: name.as_ptr().cast_mut().cast(), pFunctionList: list, flags: 0 }
    }

    #[test]
    fn a_list_is_read_as_far_as_its_version_goes_and_what_is_null_there_stays_so() {
        let version = CK_VERSION { major: 3, minor: 0 };
        // Nothing behind its end may be read: it has a place of its own, of its own size.
        let mut list = Box::new(CK_FUNCTION_LIST_3_0 { version, C_SessionCancel: Some(cancel), ..Default::default() });
        let (read_version, functions) = read_interface(&interface(STANDARD, ptr::from_mut(&mut *list).cast())).unwrap();
        assert_eq!((read_version.major, read_version.minor), (3, 0));
        assert!(functions.C_SessionCancel.is_some() && functions.C_EncapsulateKey.is_none());
        let ours = list_of(version, &functions);
        assert!(ours.C_SessionCancel.is_some() && ours.C_Sign.is_some() && ours.C_GetInterface.is_some());
        assert!(ours.C_LoginUser.is_none() && ours.C_EncapsulateKey.is_none());
    }

    #[test]
    fn what_is_not_the_standards_is_not_shown() {
        let mut list = CK_FUNCTION_LIST::default();
        let list = ptr::from_mut(&mut list).cast();
        assert!(read_interface(&interface(c"Vendor", list)).is_none());
        assert!(read_interface(&interface(STANDARD, ptr::null_mut())).is_none());
        assert!(read_interface(&CK_INTERFACE { pInterfaceName: ptr::null_mut(), pFunctionList: list, flags: 0 }).is_none());
    }
}
