//! Bytes that may be secret, and are overwritten before their memory is given back.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Overwrites bytes with zeros, in a way that the compiler does not leave out, and as fast as memory is filled: the data of every call passes here.
pub(crate) fn wipe(bytes: &mut [u8]) {
    #[cfg(target_os = "linux")]
    // SAFETY: the bytes are the caller's to write, and so many.
    unsafe {
        libc::explicit_bzero(bytes.as_mut_ptr().cast(), bytes.len());
    }
    #[cfg(not(target_os = "linux"))]
    zeroize::Zeroize::zeroize(bytes);
}

/// Bytes that are overwritten with zeros when they are dropped. They never grow, as that would leave a copy behind. The `Debug` shows their number.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// Some more, if there is room for them; `false`: there is none.
    #[must_use]
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let has_room = self.0.capacity() - self.0.len() >= bytes.len();
        if has_room {
            self.0.extend_from_slice(bytes);
        }
        has_room
    }

    /// Fewer of them; the others stay in the same memory until all are wiped.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        // What was truncated, too: it has been written.
        self.0.resize(self.0.capacity(), 0);
        wipe(&mut self.0);
    }
}

impl From<Vec<u8>> for Wiped {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Wiped {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl PartialEq<Vec<u8>> for Wiped {
    fn eq(&self, other: &Vec<u8>) -> bool {
        self.0 == *other
    }
}

impl fmt::Debug for Wiped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}
