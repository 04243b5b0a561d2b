//! The bytes of a call: copied when small, kept by reference when large.

use std::ops::Deref;

use crate::support::wiped::Wiped;

/// Bytes that an operation works on.
pub enum Data {
    /// A copy of ours, which is wiped.
    Owned(Wiped),
    /// Bytes that somebody else keeps alive for us.
    Kept(Box<dyn Deref<Target = [u8]> + Send>),
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Kept(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} bytes]", self.len())
    }
}
