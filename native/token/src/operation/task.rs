//! What a key does with data.

use cryptoki_sys::{CKM_HSS, CKM_XMSS, CKM_XMSSMT};

use crate::p11::Mechanism;
use crate::p11::fit::Use;
use crate::support::data::Data;

/// What a key does with data.
#[derive(Debug)]
pub enum Task {
    /// `C_SignInit`, `C_Sign`.
    Sign(Data),
    /// `C_VerifyInit`, `C_Verify`.
    Verify {
        /// What was signed.
        data: Data,
        /// The signature.
        signature: Data,
    },
    /// `C_EncryptInit`, `C_Encrypt`.
    Encrypt(Data),
    /// `C_DecryptInit`, `C_Decrypt`.
    Decrypt(Data),
    /// `C_DigestInit`, `C_DigestUpdate`, `C_DigestKey`, `C_DigestUpdate`, `C_DigestFinal`.
    DigestKey {
        /// What comes before the key.
        prefix: Data,
        /// What comes after it.
        suffix: Data,
    },
}

impl Task {
    /// What the caller calls it, and a list of the same.
    pub(crate) fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Sign(_) => ("sign", "sign_many"),
            Self::Verify { .. } => ("verify", "verify_many"),
            Self::Encrypt(_) => ("encrypt", "encrypt_many"),
            Self::Decrypt(_) => ("decrypt", "decrypt_many"),
            // There are no lists of it.
            Self::DigestKey { .. } => ("digest_key", "digest_key"),
        }
    }

    /// Whether it may be done twice.
    pub(crate) fn is_idempotent(&self, mechanism: &Mechanism) -> bool {
        match self {
            // A stateful signature uses up a one-time key.
            Self::Sign(_) => !matches!(mechanism.code, CKM_HSS | CKM_XMSS | CKM_XMSSMT),
            // Another IV each time, which may be a counter's.
            Self::Encrypt(_) => !mechanism.has_token_iv(),
            Self::Verify { .. } | Self::Decrypt(_) | Self::DigestKey { .. } => true,
        }
    }

    /// What is done with the key; `None`: nothing that depends on its type.
    pub(crate) fn usage(&self) -> Option<Use> {
        match self {
            Self::Sign(_) => Some(Use::Sign),
            Self::Verify { .. } => Some(Use::Verify),
            Self::Encrypt(_) => Some(Use::Encrypt),
            Self::Decrypt(_) => Some(Use::Decrypt),
            Self::DigestKey { .. } => None,
        }
    }

    /// Whether a private key does it, which may want a login for each use.
    pub(crate) fn may_want_login(&self) -> bool {
        matches!(self, Self::Sign(_) | Self::Decrypt(_))
    }
}
