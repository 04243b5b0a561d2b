//! PKCS#11 return codes: their names and what each of them says about session, login and token.

use cryptoki_sys::*;

/// What a return code means for the pool; the public policy table is built on these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The session is gone.
    DeadSession,
    /// An operation is active on the session, or missing from it.
    DirtySession,
    /// The object or key handle is no longer valid.
    StaleHandle,
    /// The token expects a login that is not there (any more).
    LoginLost,
    /// The user is logged in already.
    AlreadyLoggedIn,
    /// Another user, or another kind of session, stands in the way of the login.
    LoginConflict,
    /// The PIN is wrong, expired, locked or not set.
    Credential,
    /// The token has no room for another session.
    Capacity,
    /// The token is away.
    TokenGone,
    /// The device or the host is in trouble that may pass.
    DeviceTrouble,
    /// Failed without saying why; the operation may have run.
    Ambiguous,
    /// The module is not initialized.
    Module,
    /// The module cannot lock, or misuses its locks.
    Locking,
    /// The output buffer is too small; the operation is still active.
    Buffer,
    /// What the caller asked for cannot be done.
    Caller,
    /// Vendor-defined, and what nobody knows.
    Unknown,
}

impl Class {
    /// Every class, in the order of the policy table.
    pub const ALL: [Class; 16] = [
        Class::DeadSession,
        Class::DirtySession,
        Class::StaleHandle,
        Class::LoginLost,
        Class::AlreadyLoggedIn,
        Class::LoginConflict,
        Class::Credential,
        Class::Capacity,
        Class::TokenGone,
        Class::DeviceTrouble,
        Class::Ambiguous,
        Class::Module,
        Class::Locking,
        Class::Buffer,
        Class::Caller,
        Class::Unknown,
    ];

    /// The class as it is written in options and documentation: `"dead_session"`.
    pub fn name(self) -> &'static str {
        match self {
            Class::DeadSession => "dead_session",
            Class::DirtySession => "dirty_session",
            Class::StaleHandle => "stale_handle",
            Class::LoginLost => "login_lost",
            Class::AlreadyLoggedIn => "already_logged_in",
            Class::LoginConflict => "login_conflict",
            Class::Credential => "credential",
            Class::Capacity => "capacity",
            Class::TokenGone => "token_gone",
            Class::DeviceTrouble => "device_trouble",
            Class::Ambiguous => "ambiguous",
            Class::Module => "module",
            Class::Locking => "locking",
            Class::Buffer => "buffer",
            Class::Caller => "caller",
            Class::Unknown => "unknown",
        }
    }

    /// The class of that [`name`](Class::name).
    pub fn from_name(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// One row of the table: the code, its name in lower case without `CKR_`, its class.
struct Row {
    code: CK_RV,
    name: &'static str,
    class: Class,
}

/// Makes the table, and beside it the constants' own names for the test that compares them.
macro_rules! table {
    ($($constant:ident $name:literal $class:ident)*) => {
        static TABLE: &[Row] = &[$(Row { code: $constant, name: $name, class: Class::$class }),*];

        #[cfg(test)]
        const CONSTANTS: &[&str] = &[$(stringify!($constant)),*];
    };
}

// Ascending by code (`classify` searches by halves). CKR_OK is no failure and not listed.
table! {
    CKR_CANCEL                           "cancel"                           Caller
    CKR_HOST_MEMORY                      "host_memory"                      DeviceTrouble
    CKR_SLOT_ID_INVALID                  "slot_id_invalid"                  TokenGone
    CKR_GENERAL_ERROR                    "general_error"                    Ambiguous
    CKR_FUNCTION_FAILED                  "function_failed"                  Ambiguous
    CKR_ARGUMENTS_BAD                    "arguments_bad"                    Caller
    CKR_NO_EVENT                         "no_event"                         Caller
    CKR_NEED_TO_CREATE_THREADS           "need_to_create_threads"           Locking
    CKR_CANT_LOCK                        "cant_lock"                        Locking
    CKR_ATTRIBUTE_READ_ONLY              "attribute_read_only"              Caller
    CKR_ATTRIBUTE_SENSITIVE              "attribute_sensitive"              Caller
    CKR_ATTRIBUTE_TYPE_INVALID           "attribute_type_invalid"           Caller
    CKR_ATTRIBUTE_VALUE_INVALID          "attribute_value_invalid"          Caller
    CKR_ACTION_PROHIBITED                "action_prohibited"                Caller
    CKR_DATA_INVALID                     "data_invalid"                     Caller
    CKR_DATA_LEN_RANGE                   "data_len_range"                   Caller
    CKR_DEVICE_ERROR                     "device_error"                     DeviceTrouble
    CKR_DEVICE_MEMORY                    "device_memory"                    DeviceTrouble
    CKR_DEVICE_REMOVED                   "device_removed"                   TokenGone
    CKR_ENCRYPTED_DATA_INVALID           "encrypted_data_invalid"           Caller
    CKR_ENCRYPTED_DATA_LEN_RANGE         "encrypted_data_len_range"         Caller
    CKR_AEAD_DECRYPT_FAILED              "aead_decrypt_failed"              Caller
    CKR_FUNCTION_CANCELED                "function_canceled"                Caller
    CKR_FUNCTION_NOT_PARALLEL            "function_not_parallel"            Caller
    CKR_FUNCTION_NOT_SUPPORTED           "function_not_supported"           Caller
    CKR_KEY_HANDLE_INVALID               "key_handle_invalid"               StaleHandle
    CKR_KEY_SIZE_RANGE                   "key_size_range"                   Caller
    CKR_KEY_TYPE_INCONSISTENT            "key_type_inconsistent"            Caller
    CKR_KEY_NOT_NEEDED                   "key_not_needed"                   Caller
    CKR_KEY_CHANGED                      "key_changed"                      Caller
    CKR_KEY_NEEDED                       "key_needed"                       Caller
    CKR_KEY_INDIGESTIBLE                 "key_indigestible"                 Caller
    CKR_KEY_FUNCTION_NOT_PERMITTED       "key_function_not_permitted"       Caller
    CKR_KEY_NOT_WRAPPABLE                "key_not_wrappable"                Caller
    CKR_KEY_UNEXTRACTABLE                "key_unextractable"                Caller
    CKR_MECHANISM_INVALID                "mechanism_invalid"                Caller
    CKR_MECHANISM_PARAM_INVALID          "mechanism_param_invalid"          Caller
    CKR_OBJECT_HANDLE_INVALID            "object_handle_invalid"            StaleHandle
    CKR_OPERATION_ACTIVE                 "operation_active"                 DirtySession
    CKR_OPERATION_NOT_INITIALIZED        "operation_not_initialized"        DirtySession
    CKR_PIN_INCORRECT                    "pin_incorrect"                    Credential
    CKR_PIN_INVALID                      "pin_invalid"                      Credential
    CKR_PIN_LEN_RANGE                    "pin_len_range"                    Credential
    CKR_PIN_EXPIRED                      "pin_expired"                      Credential
    CKR_PIN_LOCKED                       "pin_locked"                       Credential
    CKR_SESSION_CLOSED                   "session_closed"                   DeadSession
    CKR_SESSION_COUNT                    "session_count"                    Capacity
    CKR_SESSION_HANDLE_INVALID           "session_handle_invalid"           DeadSession
    CKR_SESSION_PARALLEL_NOT_SUPPORTED   "session_parallel_not_supported"   Caller
    CKR_SESSION_READ_ONLY                "session_read_only"                Caller
    CKR_SESSION_EXISTS                   "session_exists"                   Caller
    CKR_SESSION_READ_ONLY_EXISTS         "session_read_only_exists"         LoginConflict
    CKR_SESSION_READ_WRITE_SO_EXISTS     "session_read_write_so_exists"     LoginConflict
    CKR_SIGNATURE_INVALID                "signature_invalid"                Caller
    CKR_SIGNATURE_LEN_RANGE              "signature_len_range"              Caller
    CKR_TEMPLATE_INCOMPLETE              "template_incomplete"              Caller
    CKR_TEMPLATE_INCONSISTENT            "template_inconsistent"            Caller
    CKR_TOKEN_NOT_PRESENT                "token_not_present"                TokenGone
    CKR_TOKEN_NOT_RECOGNIZED             "token_not_recognized"             TokenGone
    CKR_TOKEN_WRITE_PROTECTED            "token_write_protected"            Caller
    CKR_UNWRAPPING_KEY_HANDLE_INVALID    "unwrapping_key_handle_invalid"    StaleHandle
    CKR_UNWRAPPING_KEY_SIZE_RANGE        "unwrapping_key_size_range"        Caller
    CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT "unwrapping_key_type_inconsistent" Caller
    CKR_USER_ALREADY_LOGGED_IN           "user_already_logged_in"           AlreadyLoggedIn
    CKR_USER_NOT_LOGGED_IN               "user_not_logged_in"               LoginLost
    CKR_USER_PIN_NOT_INITIALIZED         "user_pin_not_initialized"         Credential
    CKR_USER_TYPE_INVALID                "user_type_invalid"                Caller
    CKR_USER_ANOTHER_ALREADY_LOGGED_IN   "user_another_already_logged_in"   LoginConflict
    CKR_USER_TOO_MANY_TYPES              "user_too_many_types"              LoginConflict
    CKR_WRAPPED_KEY_INVALID              "wrapped_key_invalid"              Caller
    CKR_WRAPPED_KEY_LEN_RANGE            "wrapped_key_len_range"            Caller
    CKR_WRAPPING_KEY_HANDLE_INVALID      "wrapping_key_handle_invalid"      StaleHandle
    CKR_WRAPPING_KEY_SIZE_RANGE          "wrapping_key_size_range"          Caller
    CKR_WRAPPING_KEY_TYPE_INCONSISTENT   "wrapping_key_type_inconsistent"   Caller
    CKR_RANDOM_SEED_NOT_SUPPORTED        "random_seed_not_supported"        Caller
    CKR_RANDOM_NO_RNG                    "random_no_rng"                    Caller
    CKR_DOMAIN_PARAMS_INVALID            "domain_params_invalid"            Caller
    CKR_CURVE_NOT_SUPPORTED              "curve_not_supported"              Caller
    CKR_BUFFER_TOO_SMALL                 "buffer_too_small"                 Buffer
    CKR_SAVED_STATE_INVALID              "saved_state_invalid"              Caller
    CKR_INFORMATION_SENSITIVE            "information_sensitive"            Caller
    CKR_STATE_UNSAVEABLE                 "state_unsaveable"                 Caller
    CKR_CRYPTOKI_NOT_INITIALIZED         "cryptoki_not_initialized"         Module
    CKR_CRYPTOKI_ALREADY_INITIALIZED     "cryptoki_already_initialized"     Caller
    CKR_MUTEX_BAD                        "mutex_bad"                        Locking
    CKR_MUTEX_NOT_LOCKED                 "mutex_not_locked"                 Locking
    CKR_NEW_PIN_MODE                     "new_pin_mode"                     Caller
    CKR_NEXT_OTP                         "next_otp"                         Caller
    CKR_EXCEEDED_MAX_ITERATIONS          "exceeded_max_iterations"          Caller
    CKR_FIPS_SELF_TEST_FAILED            "fips_self_test_failed"            DeviceTrouble
    CKR_LIBRARY_LOAD_FAILED              "library_load_failed"              Caller
    CKR_PIN_TOO_WEAK                     "pin_too_weak"                     Caller
    CKR_PUBLIC_KEY_INVALID               "public_key_invalid"               Caller
    CKR_FUNCTION_REJECTED                "function_rejected"                Caller
    CKR_TOKEN_RESOURCE_EXCEEDED          "token_resource_exceeded"          Capacity
    CKR_OPERATION_CANCEL_FAILED          "operation_cancel_failed"          DirtySession
    CKR_KEY_EXHAUSTED                    "key_exhausted"                    Caller
    CKR_PENDING                          "pending"                          DirtySession
    CKR_SESSION_ASYNC_NOT_SUPPORTED      "session_async_not_supported"      Caller
    CKR_SEED_RANDOM_REQUIRED             "seed_random_required"             Caller
    CKR_OPERATION_NOT_VALIDATED          "operation_not_validated"          Caller
    CKR_TOKEN_NOT_INITIALIZED            "token_not_initialized"            TokenGone
    CKR_PARAMETER_SET_NOT_SUPPORTED      "parameter_set_not_supported"      Caller
}

fn row(code: CK_RV) -> Option<&'static Row> {
    let index = TABLE.binary_search_by_key(&code, |row| row.code).ok()?;
    TABLE.get(index)
}

/// The code's name in lower case without `CKR_`: `"pin_incorrect"`. Codes from `CKR_VENDOR_DEFINED` on are
/// `"vendor_defined"`, others that the table does not know `"unknown_return_value"`.
pub fn name(code: CK_RV) -> &'static str {
    match row(code) {
        Some(row) => row.name,
        None if code == CKR_OK => "ok",
        None if code >= CKR_VENDOR_DEFINED => "vendor_defined",
        None => "unknown_return_value",
    }
}

/// The code of a [`name`] in the table. `"ok"`, `"vendor_defined"` and `"unknown_return_value"` have none.
pub fn from_name(name: &str) -> Option<CK_RV> {
    TABLE.iter().find(|row| row.name == name).map(|row| row.code)
}

/// The class of a code that is a failure. What the table does not know is [`Class::Unknown`].
pub fn classify(code: CK_RV) -> Class {
    row(code).map_or(Class::Unknown, |row| row.class)
}

/// Every code of the table with its name and class, ascending.
pub fn all() -> impl Iterator<Item = (CK_RV, &'static str, Class)> {
    TABLE.iter().map(|row| (row.code, row.name, row.class))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::error::{Rv, RvError};

    #[test]
    fn names_agree_with_the_constants() {
        assert_eq!(CONSTANTS.len(), TABLE.len());
        for (constant, row) in CONSTANTS.iter().zip(TABLE) {
            assert_eq!(*constant, format!("CKR_{}", row.name.to_ascii_uppercase()));
            assert_eq!(name(row.code), row.name);
            assert_eq!(from_name(row.name), Some(row.code));
        }
    }

    #[test]
    fn ascending_and_unique() {
        assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
    }

    #[test]
    fn knows_every_code_that_cryptoki_knows() {
        for code in 1..0x1_0000 {
            if !matches!(Rv::from(code), Rv::Ok | Rv::Error(RvError::UnknownErrorCode(_))) {
                assert!(row(code).is_some(), "{code:#x} is missing");
            }
        }
    }

    #[test]
    fn every_listed_code_has_a_class_of_its_own() {
        for (code, name, class) in all() {
            assert_ne!(class, Class::Unknown, "{name}");
            assert_eq!(classify(code), class);
        }
    }

    #[test]
    fn classes_and_names_go_both_ways() {
        for class in Class::ALL {
            assert_eq!(Class::from_name(class.name()), Some(class));
        }
        assert_eq!(Class::from_name("no_such_class"), None);
    }

    /// The table for readers has every code, in the row of its class, and nothing else.
    #[test]
    fn the_guide_says_the_same() {
        let guide = include_str!("../../../../guides/failure_handling.md");
        let cells = |row: &'static str| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
        let section = guide.split("\n## ").find(|section| section.starts_with("Return codes")).unwrap();
        let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `:")).map(cells).collect();
        let classes: Vec<_> = rows.iter().map(|row| row[0].trim_matches(['`', ':'])).collect();
        assert_eq!(classes, Class::ALL.map(Class::name));
        for (row, class) in rows.iter().zip(Class::ALL).filter(|(_, class)| *class != Class::Unknown) {
            let listed: Vec<_> = row[1].split(", ").map(str::to_ascii_lowercase).collect();
            let own: Vec<_> = all().filter(|(_, _, other)| *other == class).map(|(_, name, _)| name).collect();
            assert_eq!(listed, own, "{}", class.name());
        }
    }

    #[test]
    fn what_nobody_knows() {
        assert_eq!(name(CKR_OK), "ok");
        assert_eq!(name(CKR_VENDOR_DEFINED), "vendor_defined");
        assert_eq!(name(CK_RV::MAX), "vendor_defined");
        assert_eq!(name(0x7fff_ffff), "unknown_return_value");
        assert_eq!(classify(CKR_VENDOR_DEFINED + 1), Class::Unknown);
        assert_eq!(classify(4), Class::Unknown);
        assert_eq!(from_name("vendor_defined"), None);
    }
}
