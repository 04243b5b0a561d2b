//! The options that belong to a module rather than to one of its pools: all pools of a module have to agree on them.

use std::collections::BTreeMap;

use crate::error::Error;

const CHANGED: &str =
    "the file was replaced or written to while it was loaded, so that its digest proves nothing; restart the VM";

/// The options that belong to a module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleConfig {
    /// The digest that the file must have, 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// Variables that are set before `C_Initialize`.
    pub env: BTreeMap<String, String>,
    /// The string for `pReserved`.
    pub args: Option<String>,
    /// Whether one call is in the module at a time; it is so, too, if the module cannot lock, or another pool asks for it.
    pub serialize: bool,
}

impl ModuleConfig {
    /// The option in which `wanted` asks for something else than this one has; what it does not name, it does not ask for. The digest is that of
    /// what was loaded, which the module itself knows.
    pub(super) fn difference(&self, wanted: &Self) -> Option<&'static str> {
        let differs = |has: &Option<String>, wants: &Option<String>| wants.is_some() && has != wants;
        if !wanted.env.is_empty() && self.env != wanted.env {
            return Some("module_env");
        }
        differs(&self.args, &wanted.args).then_some("module_args")
    }

    /// Whether a library with the digest `actual` is the one that is asked for. `None`: nobody knows its digest.
    pub(super) fn check_digest(&self, path: &str, actual: Option<&str>) -> Result<(), Error> {
        match (&self.sha256, actual) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Error::ModuleLoadFailed { path: path.to_owned(), cause: CHANGED.into() }),
            (Some(expected), Some(actual)) if actual.eq_ignore_ascii_case(expected) => Ok(()),
            (Some(expected), Some(actual)) => Err(Error::ModuleDigestMismatch {
                path: path.to_owned(),
                expected: expected.to_ascii_lowercase(),
                actual: actual.to_owned(),
            }),
        }
    }
}
