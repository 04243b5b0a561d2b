//! What the module says of itself, its slots, tokens and mechanisms. Read tolerantly: no malformed text or time makes
//! a call fail.

use std::ptr::{self, NonNull};

use cryptoki_sys::*;

use super::buffer::length;
use super::error::{CallError, Phase, check};
use super::functions::{Functions, call, call_later};
pub use super::interfaces::Version;
use super::interfaces::{name_of, version_of};

/// How often a list may grow between the call that asks for its length and the call that reads it.
const LIST_ATTEMPTS: usize = 8;

/// Most items that a list of the module's is believed to have.
const MOST_ITEMS: usize = 1 << 16;

/// `CK_INFO`: the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryInfo {
    /// The PKCS#11 version that it follows.
    pub cryptoki_version: Version,
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub description: String,
    /// Its own version.
    pub version: Version,
}

/// `CK_INTERFACE`: one of the module's interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// `"PKCS 11"`, or a vendor's.
    pub name: String,
    /// Of its function list; `None`: there is none.
    pub version: Option<Version>,
    /// `CKF_INTERFACE_FORK_SAFE`.
    pub flags: CK_FLAGS,
}

/// `CK_SLOT_INFO`: a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// What it is.
    pub description: String,
    /// Who made it.
    pub manufacturer: String,
    /// `CKF_TOKEN_PRESENT`, `CKF_REMOVABLE_DEVICE`, `CKF_HW_SLOT`.
    pub flags: CK_FLAGS,
    /// Of the slot.
    pub hardware_version: Version,
    /// Of the slot.
    pub firmware_version: Version,
}

/// A count or a size that a token may keep to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Known(CK_ULONG),
    /// `CK_UNAVAILABLE_INFORMATION`: it does not tell.
    Unavailable,
    /// `CK_EFFECTIVELY_INFINITE`: a limit that is none.
    Infinite,
}

/// `CK_TOKEN_INFO`: a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Given when the token was initialized.
    pub label: String,
    /// Who made it.
    pub manufacturer: String,
    /// Which model it is.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// `CKF_LOGIN_REQUIRED`, `CKF_USER_PIN_LOCKED` and the like.
    pub flags: CK_FLAGS,
    /// Most sessions that an application may have open.
    pub max_session_count: Count,
    /// Sessions that this application has open.
    pub session_count: Count,
    /// Most read-write sessions that an application may have open.
    pub max_rw_session_count: Count,
    /// Read-write sessions that this application has open.
    pub rw_session_count: Count,
    /// Most bytes of a PIN.
    pub max_pin_length: Count,
    /// Fewest bytes of a PIN.
    pub min_pin_length: Count,
    /// Bytes for public objects, all and free.
    pub public_memory: (Count, Count),
    /// Bytes for private objects, all and free.
    pub private_memory: (Count, Count),
    /// Of the token.
    pub hardware_version: Version,
    /// Of the token.
    pub firmware_version: Version,
    /// `YYYYMMDDhhmmss00` if the token has a clock; as it came, valid or not.
    pub utc_time: String,
}

/// `CK_MECHANISM_INFO`: what a token can do with a mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MechanismInfo {
    /// `CKM_*`.
    pub code: CK_MECHANISM_TYPE,
    /// Smallest key; bits or bytes, as the mechanism has it.
    pub min: CK_ULONG,
    /// Largest key.
    pub max: CK_ULONG,
    /// `CKF_SIGN` and the like.
    pub flags: CK_FLAGS,
}

/// `C_GetInfo`.
pub fn library_info(functions: &Functions) -> Result<LibraryInfo, CallError> {
    let mut info = CK_INFO::default();
    // SAFETY: the structure is a local that outlives the call.
    let code = unsafe { call!(functions, C_GetInfo(&mut info)) };
    check("C_GetInfo", Phase::Single, code)?;
    Ok(LibraryInfo {
        cryptoki_version: version(info.cryptokiVersion),
        manufacturer: text(&{ info.manufacturerID }),
        description: text(&{ info.libraryDescription }),
        version: version(info.libraryVersion),
    })
}

/// `C_GetInterfaceList`: all interfaces of a module. One whose functions are those of 2.40 is not asked: it has none.
pub fn interfaces(functions: &Functions) -> Result<Vec<Interface>, CallError> {
    if functions.v3_0().is_none() {
        return Ok(Vec::new());
    }
    let all: Vec<CK_INTERFACE> = list("C_GetInterfaceList", |pointer, count| {
        // SAFETY: `list` gives NULL or room for `count` of them.
        unsafe { call_later!(functions, v3_0, C_GetInterfaceList(pointer, count)) }
    })?;
    let described = |interface: CK_INTERFACE| {
        let standard = NonNull::new(interface.pFunctionList.cast::<CK_FUNCTION_LIST>());
        // SAFETY: the module has given the name, and it stays.
        let name = unsafe { name_of(interface.pInterfaceName) }.unwrap_or_default();
        // SAFETY: the function list of every interface begins with its version (PKCS#11 3.0, 3.2).
        let version = standard.map(|list| unsafe { version_of(list) });
        Interface { name: String::from_utf8_lossy(&name).into_owned(), version, flags: interface.flags }
    };
    Ok(all.into_iter().map(described).collect())
}

/// `C_GetSlotList`: all slots, or those with a token in them. Asking also makes the module look for new slots.
pub fn slots(functions: &Functions, with_token: bool) -> Result<Vec<CK_SLOT_ID>, CallError> {
    let present = if with_token { CK_TRUE } else { CK_FALSE };
    list("C_GetSlotList", |pointer, count| {
        // SAFETY: `list` gives NULL or room for `count` ids.
        unsafe { call!(functions, C_GetSlotList(present, pointer, count)) }
    })
}

/// `C_GetSlotInfo`.
pub fn slot_info(functions: &Functions, slot: CK_SLOT_ID) -> Result<SlotInfo, CallError> {
    let mut info = CK_SLOT_INFO::default();
    // SAFETY: the structure is a local that outlives the call.
    let code = unsafe { call!(functions, C_GetSlotInfo(slot, &mut info)) };
    check("C_GetSlotInfo", Phase::Single, code)?;
    Ok(SlotInfo {
        description: text(&{ info.slotDescription }),
        manufacturer: text(&{ info.manufacturerID }),
        flags: info.flags,
        hardware_version: version(info.hardwareVersion),
        firmware_version: version(info.firmwareVersion),
    })
}

/// `C_GetTokenInfo`.
pub fn token_info(functions: &Functions, slot: CK_SLOT_ID) -> Result<TokenInfo, CallError> {
    let mut info = CK_TOKEN_INFO::default();
    // SAFETY: the structure is a local that outlives the call.
    let code = unsafe { call!(functions, C_GetTokenInfo(slot, &mut info)) };
    check("C_GetTokenInfo", Phase::Single, code)?;
    Ok(TokenInfo {
        label: text(&{ info.label }),
        manufacturer: text(&{ info.manufacturerID }),
        model: text(&{ info.model }),
        serial: text(&{ info.serialNumber }),
        flags: info.flags,
        max_session_count: limit(info.ulMaxSessionCount),
        session_count: known(info.ulSessionCount),
        max_rw_session_count: limit(info.ulMaxRwSessionCount),
        rw_session_count: known(info.ulRwSessionCount),
        max_pin_length: known(info.ulMaxPinLen),
        min_pin_length: known(info.ulMinPinLen),
        public_memory: (known(info.ulTotalPublicMemory), known(info.ulFreePublicMemory)),
        private_memory: (known(info.ulTotalPrivateMemory), known(info.ulFreePrivateMemory)),
        hardware_version: version(info.hardwareVersion),
        firmware_version: version(info.firmwareVersion),
        utc_time: text(&{ info.utcTime }),
    })
}

/// `C_WaitForSlotEvent` without waiting: the slot of a token that has come or gone, if there is one of which nobody was told yet.
pub fn slot_event(functions: &Functions) -> Result<Option<CK_SLOT_ID>, CallError> {
    let mut slot = 0;
    // SAFETY: the slot's id is written to a local; the reserved pointer must be NULL.
    match unsafe { call!(functions, C_WaitForSlotEvent(CKF_DONT_BLOCK, &mut slot, ptr::null_mut())) } {
        CKR_NO_EVENT => Ok(None),
        code => check("C_WaitForSlotEvent", Phase::Single, code).map(|()| Some(slot)),
    }
}

/// `C_GetMechanismList` and `C_GetMechanismInfo` of each. Of a mechanism that the token lists and then disowns
/// (`CKR_MECHANISM_INVALID`) nothing is known but that it is listed: sizes of zero, and no flags.
pub fn mechanisms(functions: &Functions, slot: CK_SLOT_ID) -> Result<Vec<MechanismInfo>, CallError> {
    let codes = list("C_GetMechanismList", |pointer, count| {
        // SAFETY: `list` gives NULL or room for `count` codes.
        unsafe { call!(functions, C_GetMechanismList(slot, pointer, count)) }
    })?;
    let mut mechanisms = Vec::with_capacity(codes.len());
    for code in codes {
        mechanisms.push(match mechanism_info(functions, slot, code) {
            // It is in the list all the same, and may work.
            Err(error) if error.code == CKR_MECHANISM_INVALID => MechanismInfo { code, min: 0, max: 0, flags: 0 },
            info => info?,
        });
    }
    Ok(mechanisms)
}

/// `C_GetMechanismInfo`.
pub fn mechanism_info(functions: &Functions, slot: CK_SLOT_ID, code: CK_MECHANISM_TYPE) -> Result<MechanismInfo, CallError> {
    let mut info = CK_MECHANISM_INFO::default();
    // SAFETY: the structure is a local that outlives the call.
    let answer = unsafe { call!(functions, C_GetMechanismInfo(slot, code, &mut info)) };
    check("C_GetMechanismInfo", Phase::Single, answer)?;
    Ok(MechanismInfo { code, min: info.ulMinKeySize, max: info.ulMaxKeySize, flags: info.flags })
}

/// Reads a list whose length has to be asked for first, and may change until it is read. One of more than 65,536 items is not believed:
/// `CKR_GENERAL_ERROR`, as for a module that claims to have written more than there is room for.
fn list<T: Clone + Default>(
    function: &'static str,
    mut call: impl FnMut(*mut T, *mut CK_ULONG) -> CK_RV,
) -> Result<Vec<T>, CallError> {
    let mut attempt = 1;
    loop {
        let mut count = 0;
        let code = call(ptr::null_mut(), &mut count);
        check(function, Phase::Single, code)?;
        let nonsense = || CallError::new(function, CKR_GENERAL_ERROR, Phase::Single);
        let room = usize::try_from(count).ok().filter(|room| *room <= MOST_ITEMS).ok_or_else(nonsense)?;
        let mut items = vec![T::default(); room];
        if items.is_empty() {
            return Ok(items);
        }
        let mut count = length(&items);
        match call(items.as_mut_ptr(), &mut count) {
            CKR_BUFFER_TOO_SMALL if attempt < LIST_ATTEMPTS => attempt += 1,
            code => {
                check(function, Phase::Single, code)?;
                let written = usize::try_from(count).ok().filter(|written| *written <= room).ok_or_else(nonsense)?;
                items.truncate(written);
                return Ok(items);
            }
        }
    }
}

/// A fixed-size text field: up to the first NUL, without the padding, invalid UTF-8 replaced.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0);
    let field = &field[..end.unwrap_or(field.len())];
    String::from_utf8_lossy(field).trim_end().to_owned()
}

fn version(version: CK_VERSION) -> Version {
    (version.major, version.minor)
}

/// A count that may be `CK_UNAVAILABLE_INFORMATION`. Some modules write it as 32 bits.
pub(crate) fn known(count: CK_ULONG) -> Count {
    if count == CK_ULONG::MAX || count == u32::MAX as CK_ULONG { Count::Unavailable } else { Count::Known(count) }
}

/// A limit that may also be `CK_EFFECTIVELY_INFINITE`.
fn limit(count: CK_ULONG) -> Count {
    if count == CK_EFFECTIVELY_INFINITE { Count::Infinite } else { known(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_tolerantly() {
        assert_eq!(text(b"payments        "), "payments");
        assert_eq!(text(b"payments\0\0\0\0"), "payments");
        assert_eq!(text(b"payments  \0junk"), "payments");
        assert_eq!(text(b"pay ments"), "pay ments");
        assert_eq!(text(b"caf\xe9"), "caf\u{fffd}");
        assert_eq!(text(b"                "), "");
        assert_eq!(text(b"\0\0"), "");
    }

    #[test]
    fn counts_that_say_nothing() {
        assert_eq!(known(0), Count::Known(0));
        assert_eq!(known(CK_ULONG::MAX), Count::Unavailable);
        assert_eq!(limit(u32::MAX as CK_ULONG), Count::Unavailable);
        assert_eq!(limit(CK_EFFECTIVELY_INFINITE), Count::Infinite);
        assert_eq!(limit(10), Count::Known(10));
    }

    /// A module that says one count when asked for it, and another when it has written.
    fn list_of(counts: [CK_ULONG; 2]) -> Result<Vec<CK_ULONG>, CK_RV> {
        let told = list("C_GetSlotList", |pointer: *mut CK_ULONG, count| {
            // SAFETY: `list` gives a valid count.
            unsafe { *count = counts[usize::from(!pointer.is_null())] };
            CKR_OK
        });
        told.map_err(|error| error.code)
    }

    #[test]
    fn counts_beyond_belief_are_errors_and_no_memory_is_taken_for_them() {
        for absurd in [1 << 17, 1 << 32, 1 << 60, CK_ULONG::MAX] {
            assert_eq!(list_of([absurd, absurd]), Err(CKR_GENERAL_ERROR));
            // It claims to have written what there was no room for.
            assert_eq!(list_of([2, absurd]), Err(CKR_GENERAL_ERROR));
        }
        assert_eq!(list_of([2, 3]), Err(CKR_GENERAL_ERROR));
        assert_eq!(list_of([2, 1]), Ok(vec![0]));
        assert_eq!(list_of([1 << 16, 1]), Ok(vec![0]));
    }

    #[test]
    fn a_list_that_grows_is_read_again() {
        let mut lengths = [1, 3].into_iter();
        let items = list("C_GetSlotList", |pointer: *mut CK_ULONG, count| {
            // SAFETY: `list` gives a valid count, and a pointer to that many items or NULL.
            unsafe {
                if pointer.is_null() {
                    *count = lengths.next().unwrap_or(3);
                } else if *count < 2 {
                    return CKR_BUFFER_TOO_SMALL;
                } else {
                    pointer.write(7);
                    pointer.add(1).write(8);
                    *count = 2;
                }
            }
            CKR_OK
        });
        assert_eq!(items, Ok(vec![7, 8]));
    }
}
