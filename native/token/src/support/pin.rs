//! What holds a PIN.

use zeroize::Zeroizing;

/// A PIN; its bytes are overwritten with zeros when it is dropped.
pub type Pin = Zeroizing<Vec<u8>>;
