//! What can go wrong, with the reason, the code and the C function by which the Elixir side names it.

use cryptoki_sys::{
    CK_KEY_TYPE, CK_OBJECT_CLASS, CK_RV, CKR_CRYPTOKI_NOT_INITIALIZED, CKR_DATA_LEN_RANGE, CKR_ENCRYPTED_DATA_LEN_RANGE,
    CKR_FUNCTION_NOT_SUPPORTED, CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE,
};

use session_pool::Millis;

use crate::p11::{self, CallError, Phase};

/// What went wrong. It never holds a PIN, key bytes or data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The module returned something other than CKR_OK.
    #[error("{0}")]
    Call(CallError),
    /// A login was refused for the credential: it is poisoned until it changes.
    #[error("the credential is poisoned: {function} returned {code:#x}")]
    Poisoned {
        /// What the C function returned.
        code: CK_RV,
        /// The C function.
        function: &'static str,
    },
    /// The token says that one more wrong PIN locks it.
    #[error("the token allows one last try")]
    FinalTry,
    /// The token says that its PIN is locked: it was not asked.
    #[error("the token's PIN is locked")]
    Locked,
    /// The PIN source gave no PIN.
    #[error("the PIN source failed: {cause}")]
    PinSourceFailed {
        /// A sentence of ours: never the source's text.
        cause: String,
        /// The source's own word, which is no secret.
        word: Option<String>,
    },
    /// The token wants a login, and the pool has no PIN.
    #[error("{call}, and the pool has no PIN")]
    PinRequired {
        /// What the module said.
        call: CallError,
    },
    /// Another user or another PIN is logged in.
    #[error("another user or PIN is logged in")]
    LoginConflict {
        /// What `C_Login` said, where it was asked.
        call: Option<CallError>,
    },
    /// Others would be logged out, too.
    #[error("{pools} other pools and {leases} leases share the login")]
    LoginShared {
        /// Other pools on the token.
        pools: usize,
        /// Sessions of this pool that callers have for themselves.
        leases: usize,
    },
    /// The pool was logged out, and logs in again when it is told to.
    #[error("the pool was logged out")]
    ReauthenticationRequired,
    /// The module lost the session or the key's handle while the operation ran, and gave its number to another: what it answered counts for
    /// nothing.
    #[error("the session was lost while the operation ran")]
    SessionLost,
    /// No object matches.
    #[error("no object matches")]
    KeyNotFound,
    /// No key is proved to be the one that a public key belongs to.
    #[error("no key of the public key")]
    NoKeyOfPublicKey {
        /// Public keys on the token that are this one.
        public_keys: usize,
        /// Certificates of it.
        certificates: usize,
        /// Private keys with the same id of which nothing tells whose they are.
        unproved: usize,
    },
    /// More than one object matches.
    #[error("{} objects match", .candidates.len())]
    AmbiguousKey {
        /// Their ids and labels, the first ones.
        candidates: Vec<(Vec<u8>, Vec<u8>)>,
        /// Why none of them is the newest, where that was asked for.
        newest: Option<&'static str>,
    },
    /// An error of one of several keys that a call names.
    #[error("{argument}: {error}")]
    OfKey {
        /// What the call calls that key.
        argument: &'static str,
        /// What is wrong with it: see [`Error::is_of_key`].
        error: Box<Error>,
    },
    /// More objects match than the caller takes.
    #[error("more than {limit} objects match")]
    TooManyObjects {
        /// How many it takes.
        limit: usize,
    },
    /// An object of an old epoch could not be found again.
    #[error("the object is stale")]
    ObjectStale,
    /// An object of an old epoch is not changed: what is found by its id and label may be another by now.
    #[error("the object is of an old epoch")]
    ObjectOfOldEpoch,
    /// An object of another token.
    #[error("the object is of another token")]
    ObjectOfOtherToken,
    /// The key is on another curve than the one that was asked for.
    #[error("the key is on another curve")]
    CurveMisfit,
    /// The key is none that the mechanism takes.
    #[error("a key of class {class:?} and type {key_type:?} does not fit the mechanism")]
    KeyMisfit {
        /// Its `CKA_CLASS`, as far as the token says.
        class: Option<CK_OBJECT_CLASS>,
        /// Its `CKA_KEY_TYPE`.
        key_type: Option<CK_KEY_TYPE>,
    },
    /// A mechanism that takes a digest was given more than one can be.
    #[error("{size} bytes are no digest for a curve whose order has {longest}")]
    DigestTooLong {
        /// Bytes of the data.
        size: usize,
        /// Bytes of the order.
        longest: usize,
    },
    /// A mechanism that chains blocks was given none: there is no MAC of no data, and some modules answer with what was in their memory.
    #[error("there is no MAC of no data by this mechanism")]
    NoDataForMac,
    /// An encapsulated secret of a length that mechanism and key do not allow; the module was not asked.
    #[error("the ciphertext has {given} bytes, not {expected}")]
    CiphertextLength {
        /// Bytes that it should have.
        expected: usize,
        /// Bytes that it has.
        given: usize,
    },
    /// The signature is not the data's.
    #[error("{call}: the signature is not valid")]
    SignatureInvalid {
        /// What the module said.
        call: CallError,
    },
    /// The signature has another length than mechanism and key give it: the module was not asked.
    #[error("the signature has {given} bytes where {expected} are due")]
    SignatureLength {
        /// Bytes that it should have.
        expected: usize,
        /// Bytes that it has.
        given: usize,
    },
    /// The ciphertext could not be decrypted: it was changed, or key or parameters are not its own.
    #[error("{call}: the ciphertext could not be decrypted")]
    DecryptionFailed {
        /// What the module said.
        call: CallError,
    },
    /// The module said that all is well, and gave an output of a length that cannot be.
    #[error("{function} returned CKR_OK with an output of a length that cannot be")]
    OutputLength {
        /// The C function.
        function: &'static str,
    },
    /// The module encrypted with another IV than the given one.
    #[error("the module replaced the IV")]
    IvReplaced {
        /// The C function.
        function: &'static str,
        /// The IV.
        iv: Vec<u8>,
    },
    /// The token was to make an IV, and did not.
    #[error("the token made no IV")]
    IvNotMade {
        /// The C function.
        function: &'static str,
    },
    /// The module did not look at parameters of the mechanism that change what is signed, or decrypted.
    #[error("{function} returned CKR_OK, and the module did not look at the mechanism's parameters")]
    ParametersIgnored {
        /// The C function.
        function: &'static str,
    },
    /// The token gives out what it has decrypted before it has checked it.
    #[error("C_DecryptUpdate gave a plaintext that is not verified yet")]
    PlaintextUnverified,
    /// The session is in the midst of a stream's operation.
    #[error("a stream is in progress on the session")]
    StreamInProgress,
    /// It waited for longer than it may.
    #[error("waited too long")]
    QueueTimeout,
    /// As many operations wait as may.
    #[error("too many operations wait")]
    Overloaded,
    /// The pool takes nothing any more.
    #[error("the pool is draining")]
    Draining,
    /// The pool has not opened its first session.
    #[error("the pool has not opened its first session")]
    Starting,
    /// Calls do not return.
    #[error("{hung} calls hang in a pool of {size} sessions")]
    SessionsHung {
        /// How many.
        hung: usize,
        /// Of how many sessions.
        size: usize,
    },
    /// The lease has ended.
    #[error("the lease has ended")]
    LeaseEnded,
    /// A lease that another process holds.
    #[error("the lease is another process's")]
    NotOwner,
    /// The operation was dropped by a fault of ours.
    #[error("the operation was interrupted: {cause}")]
    Interrupted {
        /// What we know.
        cause: &'static str,
    },
    /// The module could not be loaded.
    #[error("{path} could not be loaded: {cause}")]
    ModuleLoadFailed {
        /// The module's path.
        path: String,
        /// The loader's words.
        cause: String,
    },
    /// `C_Initialize` was refused.
    #[error("{path} did not initialize: {call}")]
    ModuleInitializeFailed {
        /// The module's path.
        path: String,
        /// What it said.
        call: CallError,
    },
    /// The module is not the expected file.
    #[error("{path} has the digest {actual}, expected {expected}")]
    ModuleDigestMismatch {
        /// The module's path.
        path: String,
        /// Hexadecimal.
        expected: String,
        /// Hexadecimal.
        actual: String,
    },
    /// The pool logs in with a user name, and the module cannot.
    #[error("{path} does not offer C_LoginUser")]
    UserNameUnsupported {
        /// The module's path.
        path: String,
    },
    /// The module is in use with another value of an option.
    #[error("{path} is loaded with another {option}")]
    ModuleConflict {
        /// The module's path.
        path: String,
        /// The option.
        option: &'static str,
    },
    /// The module did not come out of `C_Initialize` or `C_Finalize` in time, or, serialized, out of another call.
    #[error("{path} is busy in C_Initialize or C_Finalize, or a call in it does not return, beside which there may be no other")]
    ModuleBusy {
        /// The module's path.
        path: String,
    },
    /// Calls that do not return are in the module: it cannot be initialized again.
    #[error("{inside} calls do not return from {path}, which so cannot be initialized again")]
    ModuleStuck {
        /// The module's path.
        path: String,
        /// How many.
        inside: usize,
    },
    /// Others need the module as it is, or have to initialize it themselves.
    #[error("{path} is not ours alone to initialize again")]
    ModuleOthers {
        /// The module's path.
        path: String,
    },
    /// Another library has initialized the module: only that one may do so again.
    #[error("another library has initialized {path}")]
    ModuleAdopted {
        /// The module's path.
        path: String,
    },
    /// The module is being initialized anew: who meets this goes back and waits.
    #[error("the module is being initialized again")]
    Reinitializing,
    /// The token is away or does not answer, and is looked for.
    #[error("the token is unavailable")]
    TokenUnavailable(Unavailable),
    /// The VM is stopping.
    #[error("the VM is stopping")]
    Halting,
    /// No slot matches.
    #[error("no slot matches {wanted}")]
    SlotNotFound {
        /// The selector.
        wanted: String,
        /// The tokens that are there: label, serial, slot id.
        available: Vec<(String, String, u64)>,
    },
    /// More than one slot matches.
    #[error("{} slots match {wanted}", .matching.len())]
    AmbiguousSlot {
        /// The selector.
        wanted: String,
        /// The tokens that match: label, serial, slot id.
        matching: Vec<(String, String, u64)>,
    },
    /// The token belongs to a pool that has it for itself, or this one wants it so and others use it.
    #[error("the token is in use")]
    SlotInUse,
}

/// A token that was there, and is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// The call that told.
    pub call: Option<CallError>,
    /// What the last look for it came to, in words.
    pub cause: Option<String>,
    /// For how long it has been away.
    pub away: Millis,
    /// When it is looked for again.
    pub retry_after: Millis,
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        if error.is_of_output() { Self::OutputLength { function: error.function } } else { Self::Call(error) }
    }
}

impl Error {
    /// The name by which the Elixir side matches on it.
    pub fn reason(&self) -> &'static str {
        match self {
            // Its length alone gives a wrong signature away.
            Self::Call(error) if error.code == CKR_SIGNATURE_LEN_RANGE => p11::codes::name(CKR_SIGNATURE_INVALID),
            Self::Call(error) => p11::codes::name(error.code),
            Self::Poisoned { code, .. } => p11::codes::name(*code),
            Self::Locked => "pin_locked",
            Self::FinalTry => "pin_final_try",
            Self::PinSourceFailed { .. } => "pin_source_failed",
            Self::PinRequired { .. } => "pin_required",
            Self::LoginConflict { .. } => "login_conflict",
            Self::LoginShared { .. } => "login_shared",
            Self::ReauthenticationRequired => "reauthentication_required",
            Self::SessionLost => "session_lost",
            Self::KeyNotFound | Self::NoKeyOfPublicKey { .. } => "key_not_found",
            Self::AmbiguousKey { .. } => "ambiguous_key",
            Self::OfKey { error, .. } => error.reason(),
            Self::TooManyObjects { .. } => "too_many_objects",
            Self::ObjectStale | Self::ObjectOfOldEpoch => "object_stale",
            Self::ObjectOfOtherToken => "object_of_other_token",
            Self::KeyMisfit { .. } | Self::CurveMisfit => "key_type_inconsistent",
            Self::DigestTooLong { .. } => "digest_too_long",
            Self::NoDataForMac => p11::codes::name(CKR_DATA_LEN_RANGE),
            Self::CiphertextLength { .. } => p11::codes::name(CKR_ENCRYPTED_DATA_LEN_RANGE),
            Self::SignatureInvalid { .. } | Self::SignatureLength { .. } => p11::codes::name(CKR_SIGNATURE_INVALID),
            Self::DecryptionFailed { .. } => "decryption_failed",
            Self::OutputLength { .. } => "output_length_invalid",
            Self::IvReplaced { .. } => "iv_replaced",
            Self::IvNotMade { .. } => "iv_not_made",
            Self::ParametersIgnored { .. } => "parameters_ignored",
            Self::PlaintextUnverified => "plaintext_unverified",
            Self::StreamInProgress => "stream_in_progress",
            Self::QueueTimeout => "queue_timeout",
            Self::Overloaded => "overloaded",
            Self::Draining | Self::Halting => "draining",
            Self::TokenUnavailable(_) | Self::Reinitializing => "token_unavailable",
            Self::ModuleStuck { .. } => "module_stuck",
            Self::ModuleOthers { .. } => "module_in_use",
            Self::ModuleAdopted { .. } => "module_adopted",
            Self::Starting => "starting",
            Self::SessionsHung { .. } => "sessions_hung",
            Self::LeaseEnded => "lease_ended",
            Self::NotOwner => "not_owner",
            Self::Interrupted { .. } => "interrupted",
            Self::UserNameUnsupported { .. } => p11::codes::name(CKR_FUNCTION_NOT_SUPPORTED),
            Self::ModuleLoadFailed { .. } => "module_load_failed",
            Self::ModuleInitializeFailed { .. } => "module_initialize_failed",
            Self::ModuleDigestMismatch { .. } => "module_digest_mismatch",
            Self::ModuleConflict { .. } => "module_conflict",
            Self::ModuleBusy { .. } => "module_busy",
            Self::SlotNotFound { .. } => "slot_not_found",
            Self::AmbiguousSlot { .. } => "ambiguous_slot",
            Self::SlotInUse => "slot_in_use",
        }
    }

    /// The return code, where there is one.
    pub fn code(&self) -> Option<CK_RV> {
        match self {
            Self::Poisoned { code, .. } => Some(*code),
            _ => self.call().map(|call| call.code),
        }
    }

    /// The C function that returned it.
    pub fn function(&self) -> Option<&'static str> {
        match self {
            Self::OutputLength { function }
            | Self::IvReplaced { function, .. }
            | Self::IvNotMade { function }
            | Self::ParametersIgnored { function }
            | Self::Poisoned { function, .. } => Some(function),
            Self::UserNameUnsupported { .. } => Some("C_LoginUser"),
            Self::PlaintextUnverified => Some("C_DecryptUpdate"),
            _ => self.call().map(|call| call.function),
        }
    }

    /// The call that failed.
    pub(crate) fn call(&self) -> Option<CallError> {
        match self {
            Self::Call(call)
            | Self::DecryptionFailed { call }
            | Self::SignatureInvalid { call }
            | Self::PinRequired { call }
            | Self::LoginConflict { call: Some(call) }
            | Self::ModuleInitializeFailed { call, .. }
            | Self::TokenUnavailable(Unavailable { call: Some(call), .. }) => Some(*call),
            _ => None,
        }
    }

    /// Whether it is of a key that the call names, and has not been asked of the module: which key, is to be said where there are several.
    pub(crate) fn is_of_key(&self) -> bool {
        matches!(
            self,
            Self::KeyNotFound
                | Self::NoKeyOfPublicKey { .. }
                | Self::AmbiguousKey { .. }
                | Self::ObjectStale
                | Self::ObjectOfOldEpoch
                | Self::ObjectOfOtherToken
                | Self::KeyMisfit { .. }
                | Self::CurveMisfit
        )
    }

    /// Whether a restart cannot mend it, so that a pool that meets it does not start.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::ModuleLoadFailed { .. }
                | Self::ModuleDigestMismatch { .. }
                | Self::ModuleConflict { .. }
                | Self::UserNameUnsupported { .. }
                | Self::SlotInUse
        )
    }

    /// The module is not initialized, as far as we know.
    pub(crate) fn not_initialized(function: &'static str) -> Self {
        Self::Call(CallError::new(function, CKR_CRYPTOKI_NOT_INITIALIZED, Phase::Single))
    }
}

/// Whether an operation was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executed {
    /// It was not.
    No,
    /// It was, and the module said how it ended.
    Yes,
    /// It may have been.
    Unknown,
}

/// An error as a caller gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub error: Error,
    /// Whether the operation was executed.
    pub executed: Executed,
}

impl Failure {
    /// The operation did not reach the module.
    pub fn not_executed(error: impl Into<Error>) -> Self {
        Self { error: error.into(), executed: Executed::No }
    }
}
