//! What comes back to a caller.

use std::sync::Arc;

use cryptoki_sys::CK_ATTRIBUTE_TYPE;

use crate::error::{Error, Executed, Failure};
use crate::p11::{AttributeRead, Count, MechanismInfo, ObjectInfo, TokenInfo};
use crate::support::wiped::Wiped;

/// What an operation ends in.
pub type Outcome = Result<Answer, Failure>;

/// An object as a caller gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What the token says of it.
    pub info: ObjectInfo,
    /// The epoch in which its handle is good.
    pub epoch: u64,
    /// The identity of its token.
    pub token: Arc<[u8]>,
}

/// What comes back.
#[derive(Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// A signature, a ciphertext, a plaintext, a digest, random bytes.
    Bytes(Wiped),
    /// A ciphertext, and the IV that the token has made for it.
    Sealed {
        /// The IV.
        iv: Vec<u8>,
        /// The ciphertext.
        bytes: Wiped,
    },
    /// An encapsulated secret.
    Encapsulated {
        /// For the holder of the private key.
        ciphertext: Wiped,
        /// The key that is made of it.
        key: Box<Object>,
    },
    /// Those of a batch's first tasks, in their order; at least one.
    Many(Vec<Outcome>),
    /// A key.
    Object(Box<Object>),
    /// A public and a private key.
    KeyPair(Box<(Object, Object)>),
    /// Objects.
    Objects(Vec<Object>),
    /// Attributes in the order asked for.
    Attributes(Vec<(CK_ATTRIBUTE_TYPE, AttributeRead)>),
    /// A number of bytes, unless the token keeps it to itself.
    Size(Count),
    /// The token's mechanisms.
    Mechanisms(Vec<MechanismInfo>),
    /// The token itself.
    TokenInfo(Box<TokenInfo>),
}

impl Answer {
    /// About how many bytes it takes on a heap.
    pub fn weight(&self) -> usize {
        match self {
            Self::Done | Self::Size(_) => 64,
            Self::Bytes(bytes) => 64 + bytes.len(),
            Self::Sealed { iv, bytes } => 64 + iv.len() + bytes.len(),
            Self::Encapsulated { ciphertext, .. } => 512 + ciphertext.len(),
            Self::Many(outcomes) => outcomes.iter().map(weight).sum(),
            Self::Object(_) => 512,
            Self::KeyPair(..) => 1024,
            Self::Objects(objects) => 512 * objects.len(),
            Self::Attributes(list) => list.iter().map(|(_, read)| 64 + read.weight()).sum(),
            Self::Mechanisms(list) => 64 * list.len(),
            Self::TokenInfo(_) => 1024,
        }
    }
}

/// About how many bytes an outcome takes on a heap.
pub(crate) fn weight(outcome: &Outcome) -> usize {
    outcome.as_ref().map_or(256, Answer::weight)
}

/// The outcome of an operation whose answer could not be put together. It may well have run.
pub fn unanswerable() -> Failure {
    Failure { error: Error::Interrupted { cause: "its answer could not be put together" }, executed: Executed::Unknown }
}
