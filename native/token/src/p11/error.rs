//! The error of a single PKCS#11 call.

use std::fmt;

use cryptoki_sys::*;

use super::codes::{self, Class};

/// Where in an operation a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// In a function that stands alone.
    Single,
    /// In the `C_XxxInit` call: the operation never started.
    Init,
    /// In a call after the Init had succeeded: the operation may have run.
    Final,
}

/// A PKCS#11 function failed. Holds no data of the call, hence no PIN and no key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub struct CallError {
    /// The C function, as in `"C_Sign"`.
    pub function: &'static str,
    /// What it returned. A function that the module does not have counts as `CKR_FUNCTION_NOT_SUPPORTED`.
    pub code: CK_RV,
    /// Where in the operation it failed.
    pub phase: Phase,
    /// An operation may still be active on the session: the next Init could fail with `CKR_OPERATION_ACTIVE`.
    pub active: bool,
}

impl CallError {
    /// The error of a call, with `active` as the standard has it for this code and phase, doubts included.
    pub fn new(function: &'static str, code: CK_RV, phase: Phase) -> CallError {
        let active = match phase {
            Phase::Single => false,
            Phase::Init => code == CKR_OPERATION_ACTIVE,
            Phase::Final => may_leave_operation(code),
        };
        CallError { function, code, phase, active }
    }

    /// What a call on a session that the module has lost is answered with, where it must not be made: the session's handle may be another's by now.
    pub fn session_lost(function: &'static str) -> CallError {
        CallError::new(function, CKR_SESSION_HANDLE_INVALID, Phase::Single)
    }

    /// What a search is answered with that may have missed objects for want of a login.
    pub fn not_logged_in(function: &'static str) -> CallError {
        CallError::new(function, CKR_USER_NOT_LOGGED_IN, Phase::Single)
    }

    /// The code's name in lower case without `CKR_`: `"device_error"`.
    pub fn name(&self) -> &'static str {
        codes::name(self.code)
    }

    /// The module said `CKR_OK`, and of its output a length that cannot be.
    pub fn is_of_output(&self) -> bool {
        self.code == CKR_OK
    }

    /// The code's class.
    pub fn class(&self) -> Class {
        codes::classify(self.code)
    }
}

/// A final call ends its operation whatever it returns, except with `CKR_BUFFER_TOO_SMALL`. Modules also leave it
/// active when they turn a call down before they look at the operation (SoftHSM: `CKR_ARGUMENTS_BAD`).
fn may_leave_operation(code: CK_RV) -> bool {
    matches!(
        code,
        CKR_BUFFER_TOO_SMALL
            | CKR_ARGUMENTS_BAD
            | CKR_HOST_MEMORY
            | CKR_FUNCTION_NOT_SUPPORTED
            | CKR_OPERATION_ACTIVE
            | CKR_USER_NOT_LOGGED_IN
            | CKR_PENDING
    ) || codes::classify(code) == Class::Unknown
}

/// `CKR_OK` or the error.
#[inline]
pub(super) fn check(function: &'static str, phase: Phase, code: CK_RV) -> Result<(), CallError> {
    if code == CKR_OK { Ok(()) } else { Err(CallError::new(function, code, phase)) }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "vendor_defined" => write!(f, "{} returned the vendor-defined code {:#x}", self.function, self.code),
            "unknown_return_value" => write!(f, "{} returned the unknown code {:#x}", self.function, self.code),
            name => write!(f, "{} returned CKR_{}", self.function, name.to_ascii_uppercase()),
        }
    }
}

impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let active = if self.active { ", operation may be active" } else { "" };
        write!(f, "CallError({self} [{:#x}], {:?}{active})", self.code, self.phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_function_and_code() {
        let error = CallError::new("C_Sign", CKR_DEVICE_ERROR, Phase::Final);
        assert_eq!(error.to_string(), "C_Sign returned CKR_DEVICE_ERROR");
        assert_eq!(error.class(), Class::DeviceTrouble);
        assert_eq!(
            CallError::new("C_Login", 0x8000_0123, Phase::Single).to_string(),
            "C_Login returned the vendor-defined code 0x80000123"
        );
        assert_eq!(CallError::new("C_Login", 4, Phase::Single).to_string(), "C_Login returned the unknown code 0x4");
    }

    #[test]
    fn active_follows_code_and_phase() {
        let active = |code, phase| CallError::new("C_Sign", code, phase).active;
        assert!(active(CKR_BUFFER_TOO_SMALL, Phase::Final));
        assert!(!active(CKR_BUFFER_TOO_SMALL, Phase::Single));
        assert!(active(CKR_OPERATION_ACTIVE, Phase::Init));
        assert!(!active(CKR_ARGUMENTS_BAD, Phase::Init));
        assert!(active(CKR_ARGUMENTS_BAD, Phase::Final));
        assert!(active(0x8000_0001, Phase::Final));
        assert!(!active(CKR_SIGNATURE_INVALID, Phase::Final));
        assert!(!active(CKR_GENERAL_ERROR, Phase::Final));
    }
}
