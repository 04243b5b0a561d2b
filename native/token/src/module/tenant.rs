//! Who has something open in a module, and is told what becomes of it. Tokens are tenants; the module knows nothing else of them.

/// Registers with [`Module::add_tenant`](super::Module::add_tenant), once and for ever. All of it is called without a lock held.
pub(crate) trait Tenant: Send + Sync {
    /// How many sessions it has open: while there are any, the module is not finalized, unless it is initialized again at once.
    fn open_sessions(&self) -> usize;
    /// The module has lost all sessions, objects' handles and logins.
    fn all_is_lost(&self);
    /// The module was finalized and is about to be initialized again: tokens may be in other slots then.
    fn module_restarts(&self);
}
