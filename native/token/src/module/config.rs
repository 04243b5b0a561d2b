//! What belongs to a module rather than to a pool.

use std::collections::BTreeMap;

/// What belongs to a module rather than to a pool.
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
}
