//! What a pool makes of calls that fail: the return-code policy, and for how long a device may fail.

use std::collections::HashMap;

use cryptoki_sys::CK_RV;

use crate::p11::{CallError, Class};
use crate::token::suspicion::Limits;

/// What is made of calls that fail.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The classes of the return codes for which the caller has set one; of all others, the standard's.
    pub overrides: HashMap<CK_RV, Class>,
    /// How long a device may fail before something is done about it; `None`: for ever.
    pub trouble: Option<Limits>,
}

impl Policy {
    /// The class of a call that failed: the one that the caller has set for its return code, else the standard's.
    pub(crate) fn class(&self, call: &CallError) -> Class {
        self.overrides.get(&call.code).copied().unwrap_or_else(|| call.class())
    }
}
