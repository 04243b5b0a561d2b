//! The interface of a module (PKCS#11 3.0) whose functions are called.

use std::ffi::c_char;
use std::ptr::{self, NonNull};

use cryptoki_sys::*;

/// A version, major and minor.
pub type Version = (u8, u8);

/// The last version without interfaces.
pub(super) const V2_40: Version = (2, 40);
/// The first version with interfaces. 3.1 has the same functions.
pub(super) const V3_0: Version = (3, 0);
/// The newest version that we know.
pub(super) const V3_2: Version = (3, 2);

/// The versions that a module is asked for, the newest first.
const ASKED: [Version; 4] = [V3_2, (3, 1), V3_0, V2_40];

/// The name of the interfaces that the standard defines.
const STANDARD: &[u8] = b"PKCS 11\0";

/// Most bytes of an interface's name that are read.
const LONGEST_NAME: usize = 256;

/// The function list of a module's newest interface that we know, and the version whose functions it has.
///
/// A module that is asked for a version may give another: then the older of both counts, since only those functions are sure to be there.
///
/// # Safety
/// The function behaves as the PKCS#11 function of its name.
pub(super) unsafe fn newest(get_interface: CK_C_GetInterface) -> Option<(NonNull<CK_FUNCTION_LIST>, Version)> {
    let get_interface = get_interface?;
    ASKED.into_iter().find_map(|asked| {
        let mut name = [0; STANDARD.len()];
        name.copy_from_slice(STANDARD);
        let mut version = CK_VERSION { major: asked.0, minor: asked.1 };
        let mut interface: CK_INTERFACE_PTR = ptr::null_mut();
        // SAFETY: name and version are locals, as is the place for one pointer.
        let code = unsafe { get_interface(name.as_mut_ptr(), &mut version, &mut interface, 0) };
        let interface = NonNull::new(interface).filter(|_| code == CKR_OK)?;
        // SAFETY: the module has given it, and it stays; it may lie anywhere.
        let interface = unsafe { interface.as_ptr().read_unaligned() };
        // SAFETY: as above.
        let is_standard = unsafe { name_of(interface.pInterfaceName) }.is_none_or(|name| name == STANDARD[..STANDARD.len() - 1]);
        let list = NonNull::new(interface.pFunctionList.cast::<CK_FUNCTION_LIST>()).filter(|_| is_standard)?;
        // SAFETY: a list begins with its version.
        let said = unsafe { version_of(list) };
        (said.0 >= 2).then(|| (list, said.min(asked)))
    })
}

/// # Safety
/// It points to a function list, of whatever version.
pub(super) unsafe fn version_of(list: NonNull<CK_FUNCTION_LIST>) -> Version {
    // SAFETY: a list begins with its version; of bytes, which lie anywhere.
    let version = unsafe { list.as_ptr().cast::<CK_VERSION>().read_unaligned() };
    (version.major, version.minor)
}

/// A name; `None`: NULL.
///
/// # Safety
/// NULL, or bytes with a NUL behind them.
pub(super) unsafe fn name_of(name: *const CK_UTF8CHAR) -> Option<Vec<u8>> {
    let name = NonNull::new(name.cast_mut())?.as_ptr().cast::<c_char>();
    // SAFETY: it ends with a NUL, before which nothing is read.
    let bytes = (0..LONGEST_NAME).map(|index| unsafe { name.add(index).read() } as u8);
    Some(bytes.take_while(|byte| *byte != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks a module that gives one interface, whatever it is asked for.
    macro_rules! given {
        ($name:expr, $list:expr) => {{
            unsafe extern "C" fn get(
                _: *mut CK_UTF8CHAR,
                _: *mut CK_VERSION,
                interface: *mut *mut CK_INTERFACE,
                _: CK_FLAGS,
            ) -> CK_RV {
                let name: Option<&'static [u8]> = $name;
                let given = Box::leak(Box::new(CK_INTERFACE {
                    pInterfaceName: name.map_or(ptr::null_mut(), |name| name.as_ptr().cast_mut()),
                    pFunctionList: $list,
                    flags: 0,
                }));
                // SAFETY: room for one pointer.
                unsafe { *interface = given };
                CKR_OK
            }
            // SAFETY: it does what is asked of it.
            unsafe { newest(Some(get)) }.map(|(_, version)| version)
        }};
    }

    fn list_of(major: u8, minor: u8) -> CK_VOID_PTR {
        let list = CK_FUNCTION_LIST { version: CK_VERSION { major, minor }, ..CK_FUNCTION_LIST::default() };
        ptr::from_mut(Box::leak(Box::new(list))).cast()
    }

    #[test]
    fn the_older_of_what_was_asked_for_and_what_is_there_counts() {
        assert_eq!(given!(Some(STANDARD), list_of(3, 2)), Some(V3_2));
        assert_eq!(given!(Some(STANDARD), list_of(4, 0)), Some(V3_2));
        assert_eq!(given!(Some(STANDARD), list_of(3, 0)), Some(V3_0));
        assert_eq!(given!(Some(STANDARD), list_of(2, 40)), Some(V2_40));
        assert_eq!(given!(None, list_of(3, 1)), Some((3, 1)));
    }

    #[test]
    fn what_is_no_interface_of_the_standard_is_not_taken() {
        assert_eq!(given!(Some(b"Vendor NSS\0"), list_of(3, 0)), None);
        assert_eq!(given!(Some(STANDARD), ptr::null_mut()), None);
        assert_eq!(given!(Some(STANDARD), list_of(1, 0)), None);
        // SAFETY: there is no function.
        assert_eq!(unsafe { newest(None) }, None);
    }
}
