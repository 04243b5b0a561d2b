//! How a caller names a key or another object.

use cryptoki_sys::{CK_OBJECT_HANDLE, CKA_UNIQUE_ID};

use crate::p11::{Attribute, Template, Value};
use crate::token::Selector;

/// The key or object of a call.
#[derive(Debug)]
pub enum KeyRef {
    /// Whatever the template finds on the token, which must be the one that a URI names, if it names one.
    Find(Template, Option<Selector>),
    /// An object that an earlier call returned.
    Object {
        /// Its handle, good in its epoch only.
        handle: CK_OBJECT_HANDLE,
        /// The epoch.
        epoch: u64,
        /// The identity of its token.
        token: Vec<u8>,
        /// What finds it again in another epoch.
        find: Template,
        /// Its `CKA_UNIQUE_ID`, where the token has it: what has another one is another object.
        unique_id: Option<Vec<u8>>,
    },
}

impl KeyRef {
    /// What finds it, and nothing else, as far as that can be.
    pub(crate) fn template(&self) -> Template {
        match self {
            Self::Object { unique_id: Some(unique_id), .. } => by_unique_id(unique_id),
            Self::Find(template, _) | Self::Object { find: template, .. } => template.clone(),
        }
    }
}

/// The template of the one object with this unique id.
pub(crate) fn by_unique_id(unique_id: &[u8]) -> Template {
    vec![Attribute { kind: CKA_UNIQUE_ID, value: Value::Bytes(unique_id.to_vec()) }]
}
