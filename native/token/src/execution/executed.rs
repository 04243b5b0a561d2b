//! Whether an operation may have run whose call has failed: what a payment asks before it tries again.

use cryptoki_sys::{CKR_FUNCTION_NOT_SUPPORTED, CKR_OPERATION_NOT_INITIALIZED, CKR_PENDING};

use crate::error::Executed;
use crate::p11::{CallError, Class, Phase};

/// By where the call stood, then by its code, then by its class. The guide to failures says why.
pub(crate) fn judge_executed(call: &CallError, class: Class) -> Executed {
    match (call.phase, call.code, class) {
        // The operation never began.
        (Phase::Init, ..) => Executed::No,
        // The module has no such function, or had no operation to end.
        (_, CKR_FUNCTION_NOT_SUPPORTED | CKR_OPERATION_NOT_INITIALIZED, _) => Executed::No,
        // It runs on.
        (_, CKR_PENDING, _) => Executed::Unknown,
        // A handle, and a call for want of a login, are refused before anything is done.
        (.., Class::StaleHandle | Class::LoginLost) => Executed::No,
        // The module has come to a verdict on the call, and said what it is.
        (.., Class::Caller | Class::Buffer | Class::DirtySession) => Executed::Yes,
        // What failed was the session, the token or the module, before, during or after the operation.
        (
            ..,
            Class::DeadSession
            | Class::AlreadyLoggedIn
            | Class::LoginConflict
            | Class::Credential
            | Class::Capacity
            | Class::TokenGone
            | Class::DeviceTrouble
            | Class::Ambiguous
            | Class::Module
            | Class::Locking
            | Class::Unknown,
        ) => Executed::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p11::codes::classify;
    use cryptoki_sys::*;

    fn of(code: CK_RV, phase: Phase) -> Executed {
        judge_executed(&CallError::new("C_Sign", code, phase), classify(code))
    }

    #[test]
    fn nothing_has_run_whatever_an_init_call_says() {
        for code in
            [CKR_DEVICE_ERROR, CKR_GENERAL_ERROR, CKR_PENDING, CKR_KEY_TYPE_INCONSISTENT, CKR_SESSION_HANDLE_INVALID, 0x8000_0001]
        {
            assert_eq!(of(code, Phase::Init), Executed::No, "{code:#x}");
        }
    }

    #[test]
    fn what_is_refused_before_anything_is_done_has_not_run() {
        let codes = [
            CKR_FUNCTION_NOT_SUPPORTED,
            CKR_OPERATION_NOT_INITIALIZED,
            CKR_KEY_HANDLE_INVALID,
            CKR_OBJECT_HANDLE_INVALID,
            CKR_USER_NOT_LOGGED_IN,
        ];
        for (code, phase) in codes.iter().flat_map(|code| [(*code, Phase::Single), (*code, Phase::Final)]) {
            assert_eq!(of(code, phase), Executed::No, "{code:#x} {phase:?}");
        }
    }

    #[test]
    fn a_verdict_on_the_call_is_that_it_has_run() {
        let codes = [
            CKR_SIGNATURE_INVALID,
            CKR_ENCRYPTED_DATA_INVALID,
            CKR_DATA_LEN_RANGE,
            CKR_TEMPLATE_INCONSISTENT,
            CKR_BUFFER_TOO_SMALL,
        ];
        for (code, phase) in codes.iter().flat_map(|code| [(*code, Phase::Single), (*code, Phase::Final)]) {
            assert_eq!(of(code, phase), Executed::Yes, "{code:#x} {phase:?}");
        }
    }

    #[test]
    fn where_session_token_or_module_failed_nobody_knows() {
        let codes = [
            CKR_SESSION_HANDLE_INVALID,
            CKR_DEVICE_REMOVED,
            CKR_DEVICE_ERROR,
            CKR_GENERAL_ERROR,
            CKR_FUNCTION_FAILED,
            CKR_CRYPTOKI_NOT_INITIALIZED,
            CKR_SESSION_COUNT,
            CKR_PENDING,
            0x8000_0001,
        ];
        for (code, phase) in codes.iter().flat_map(|code| [(*code, Phase::Single), (*code, Phase::Final)]) {
            assert_eq!(of(code, phase), Executed::Unknown, "{code:#x} {phase:?}");
        }
    }
}
