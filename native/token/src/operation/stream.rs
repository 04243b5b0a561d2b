//! A stream: an operation of several calls on one session, which is its caller's meanwhile. The session is a lease's that begins with the stream, or
//! that the caller has already.

use crate::operation::key_ref::KeyRef;
use crate::p11::Mechanism;
use crate::p11::fit::Use;
use crate::p11::stream::Kind;
use crate::support::data::Data;

/// What a stream does with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamKind(pub Kind);

/// A part of it.
#[derive(Debug)]
pub enum StreamPart {
    /// The Init call.
    Begin(Box<Beginning>),
    /// `C_...Update`.
    Update(Data),
    /// `C_...Final`.
    Finish,
    /// Nobody wants the rest: whatever is active on the session is ended, or the session is closed.
    BreakOff,
}

/// What a stream begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The key; `None` for a digest.
    pub key: Option<KeyRef>,
    /// The mechanism.
    pub mechanism: Mechanism,
    /// The signature that is to be verified.
    pub signature: Option<Data>,
    /// Whether a plaintext goes out that is not verified yet.
    pub unverified: bool,
}

impl StreamKind {
    /// What the caller calls it.
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            Kind::Digest => "digest_stream",
            Kind::Sign => "sign_stream",
            Kind::Verify => "verify_stream",
            Kind::Encrypt => "encrypt_stream",
            Kind::Decrypt => "decrypt_stream",
        }
    }

    /// Whether a private key does it, which may want a login for each use.
    pub(crate) fn may_want_login(self) -> bool {
        matches!(self.0, Kind::Sign | Kind::Decrypt)
    }

    /// What is done with the key.
    pub(crate) fn usage(self) -> Option<Use> {
        match self.0 {
            Kind::Digest => None,
            Kind::Sign => Some(Use::Sign),
            Kind::Verify => Some(Use::Verify),
            Kind::Encrypt => Some(Use::Encrypt),
            Kind::Decrypt => Some(Use::Decrypt),
        }
    }
}
