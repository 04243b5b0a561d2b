//! What a pool is made of, as its caller says it.

use cryptoki_sys::CK_USER_TYPE;
use session_pool::{Config, Millis};

use crate::module::ModuleConfig;
use crate::token::Selector;
use crate::token::policy::Policy;

/// Whether and how a pool logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginMode {
    /// It does not log in.
    None,
    /// With a PIN that the pool server asks for.
    Pin,
    /// With a NULL PIN: the token asks for it by its own means (a pin-pad).
    Protected,
}

/// What a pool is made of.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// The module's path.
    pub module: String,
    /// What belongs to the module.
    pub module_config: ModuleConfig,
    /// The slot.
    pub selector: Selector,
    /// Whether it wants the token for itself.
    pub exclusive: bool,
    /// Whether and how it logs in.
    pub login: LoginMode,
    /// As whom.
    pub user: CK_USER_TYPE,
    /// With this name, by `C_LoginUser`; `None`: by `C_Login`.
    pub user_name: Option<String>,
    /// Whether the PIN is kept until the pool stops, rather than asked for at each login.
    pub retain_pin: bool,
    /// Without operations for so long, it logs out.
    pub inactivity_timeout: Option<Millis>,
    /// After a logout it logs in only when it is told to.
    pub explicit_login: bool,
    /// Whether it opens its first session when it is first used.
    pub lazy: bool,
    /// Whether its sessions are read-only.
    pub read_only: bool,
    /// How long an operation may run; then its call is held for hung, though its caller is dead and cannot give it up.
    pub operation_timeout: Option<Millis>,
    /// The most bytes that `C_GenerateRandom` is asked for at once.
    pub random_chunk: usize,
    /// An idle session is called on after so long.
    pub keepalive: Option<Millis>,
    /// How long a key's handle is remembered.
    pub key_cache_ttl: Option<Millis>,
    /// What is made of calls that fail.
    pub policy: Policy,
    /// Sessions, stripes, TTL, waiters.
    pub sessions: Config,
}
