//! Sessions and login.

use std::ptr;

use cryptoki_sys::*;

use super::buffer::{input, length};
use super::error::{CallError, Phase, check};
use super::functions::{Functions, call, call_later};

/// What `C_GetSessionInfo` says of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionInfo {
    /// The slot that it is open on.
    pub slot: CK_SLOT_ID,
    /// `CKS_*`.
    pub state: CK_STATE,
    /// `CKF_RW_SESSION`, `CKF_SERIAL_SESSION`.
    pub flags: CK_FLAGS,
    /// The device's own error code.
    pub device_error: CK_ULONG,
}

impl SessionInfo {
    /// The normal user is logged in.
    pub fn is_user(&self) -> bool {
        matches!(self.state, CKS_RO_USER_FUNCTIONS | CKS_RW_USER_FUNCTIONS)
    }

    /// The security officer is logged in.
    pub fn is_security_officer(&self) -> bool {
        self.state == CKS_RW_SO_FUNCTIONS
    }
}

/// `C_OpenSession` on a slot, read-write or read-only.
pub fn open_session(functions: &Functions, slot: CK_SLOT_ID, read_write: bool) -> Result<CK_SESSION_HANDLE, CallError> {
    let mut flags = CKF_SERIAL_SESSION;
    if read_write {
        flags |= CKF_RW_SESSION;
    }
    let mut session = CK_INVALID_HANDLE;
    // SAFETY: the handle is written to a local; no callback and no application pointer are given.
    let code = unsafe { call!(functions, C_OpenSession(slot, flags, ptr::null_mut(), None, &mut session)) };
    check("C_OpenSession", Phase::Single, code)?;
    Ok(session)
}

/// `C_CloseSession`. Closing an application's last session on a token logs it out.
pub fn close_session(functions: &Functions, session: CK_SESSION_HANDLE) -> Result<(), CallError> {
    // SAFETY: takes a handle only; a bad one is an error code.
    let code = unsafe { call!(functions, C_CloseSession(session)) };
    check("C_CloseSession", Phase::Single, code)
}

/// `C_GetSessionInfo`.
pub fn session_info(functions: &Functions, session: CK_SESSION_HANDLE) -> Result<SessionInfo, CallError> {
    let mut info = CK_SESSION_INFO::default();
    // SAFETY: the structure is a local that outlives the call.
    let code = unsafe { call!(functions, C_GetSessionInfo(session, &mut info)) };
    check("C_GetSessionInfo", Phase::Single, code)?;
    Ok(SessionInfo { slot: info.slotID, state: info.state, flags: info.flags, device_error: info.ulDeviceError })
}

/// `C_SessionCancel` (PKCS#11 3.0): ends the active operations that are meant by the flags, `CKF_SIGN` and the like.
pub fn cancel(functions: &Functions, session: CK_SESSION_HANDLE, flags: CK_FLAGS) -> Result<(), CallError> {
    // SAFETY: takes a handle and flags only; a bad one is an error code.
    let code = unsafe { call_later!(functions, v3_0, C_SessionCancel(session, flags)) };
    check("C_SessionCancel", Phase::Single, code)
}

/// `C_Login` as `CKU_USER`, `CKU_SO` or `CKU_CONTEXT_SPECIFIC`, for all of the application's sessions on the token.
///
/// No PIN (`None`) is a NULL pointer: the token asks for it by its own means. The PIN is handed on by address, never
/// copied here. With a user name it is `C_LoginUser` (PKCS#11 3.0).
pub fn login(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    user_type: CK_USER_TYPE,
    name: Option<&str>,
    pin: Option<&[u8]>,
) -> Result<(), CallError> {
    let (pointer, size) = optional_pin(pin);
    if let Some(name) = name.map(str::as_bytes) {
        // SAFETY: PIN and name are borrowed for the call, and the module only reads them.
        let code =
            unsafe { call_later!(functions, v3_0, C_LoginUser(session, user_type, pointer, size, input(name), length(name))) };
        return check(login_function(true), Phase::Single, code);
    }
    // SAFETY: the PIN is borrowed for the call, and the module only reads it.
    let code = unsafe { call!(functions, C_Login(session, user_type, pointer, size)) };
    check(login_function(false), Phase::Single, code)
}

/// The function by which a login is made, with a user name or without.
pub fn login_function(has_name: bool) -> &'static str {
    if has_name { "C_LoginUser" } else { "C_Login" }
}

/// `C_Logout`, for all of the application's sessions on the token. Handles of private objects end with it.
pub fn logout(functions: &Functions, session: CK_SESSION_HANDLE) -> Result<(), CallError> {
    // SAFETY: takes a handle only; a bad one is an error code.
    let code = unsafe { call!(functions, C_Logout(session)) };
    check("C_Logout", Phase::Single, code)
}

/// `C_InitToken`: a new token in the slot, everything on it gone. The label is at most 32 bytes.
pub fn init_token(functions: &Functions, slot: CK_SLOT_ID, so_pin: Option<&[u8]>, label: &str) -> Result<(), CallError> {
    let mut padded = [b' '; LABEL_SIZE];
    let bytes = label.as_bytes();
    let Some(field) = padded.get_mut(..bytes.len()) else {
        return Err(CallError::new("C_InitToken", CKR_ARGUMENTS_BAD, Phase::Single));
    };
    field.copy_from_slice(bytes);
    let (pointer, size) = optional_pin(so_pin);
    // SAFETY: the PIN is borrowed for the call, the label has the 32 bytes that the function reads.
    let code = unsafe { call!(functions, C_InitToken(slot, pointer, size, padded.as_mut_ptr())) };
    check("C_InitToken", Phase::Single, code)
}

/// `C_InitPIN`: the user's PIN, in a session of the security officer's.
pub fn init_pin(functions: &Functions, session: CK_SESSION_HANDLE, pin: Option<&[u8]>) -> Result<(), CallError> {
    let (pointer, size) = optional_pin(pin);
    // SAFETY: the PIN is borrowed for the call, and the module only reads it.
    let code = unsafe { call!(functions, C_InitPIN(session, pointer, size)) };
    check("C_InitPIN", Phase::Single, code)
}

/// `C_SetPIN`: of whoever is logged in, or of the user if nobody is.
pub fn set_pin(
    functions: &Functions,
    session: CK_SESSION_HANDLE,
    old: Option<&[u8]>,
    new: Option<&[u8]>,
) -> Result<(), CallError> {
    let ((old, old_size), (new, new_size)) = (optional_pin(old), optional_pin(new));
    // SAFETY: both PINs are borrowed for the call, and the module only reads them.
    let code = unsafe { call!(functions, C_SetPIN(session, old, old_size, new, new_size)) };
    check("C_SetPIN", Phase::Single, code)
}

/// Bytes of a token's label.
const LABEL_SIZE: usize = 32;

fn optional_pin(pin: Option<&[u8]>) -> (CK_UTF8CHAR_PTR, CK_ULONG) {
    pin.map_or((ptr::null_mut(), 0), |pin| (input(pin), length(pin)))
}
