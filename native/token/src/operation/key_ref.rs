//! How a caller names a key or another object.

use cryptoki_sys::CK_OBJECT_HANDLE;

use crate::p11::Template;
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
    },
}

impl KeyRef {
    /// What finds it.
    pub(crate) fn template(&self) -> &Template {
        let (Self::Find(template, _) | Self::Object { find: template, .. }) = self;
        template
    }
}
