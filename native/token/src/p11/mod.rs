//! A thin, safe layer over the raw PKCS#11 function list. It may not know any other folder of this crate but `support/`.
//!
//! Each function here makes the fewest C calls that its job needs and hands back either the module's answer or a
//! [`CallError`] that names the C function, the return code and where in the operation it happened. There is no
//! pooling, retry, login policy or cache: those belong to the layers above.
//!
//! All functions may block for as long as the module does. The module must have been initialized, by
//! [`Functions::initialize`] or by someone else in the process; before that they return
//! `CKR_CRYPTOKI_NOT_INITIALIZED`. A session may be used by one thread at a time.

pub mod attributes;
mod buffer;
pub mod codes;
pub mod crypto;
pub mod curves;
mod derivation;
mod error;
pub mod fit;
mod functions;
mod interfaces;
pub mod keys;
pub mod lengths;
mod mechanism;
pub mod messages;
pub mod objects;
mod params;
pub mod session;
pub mod slots;
pub mod stream;
mod template;

pub use attributes::AttributeRead;
pub use codes::Class;
pub use derivation::{Derivation, PrfData, Salt};
pub use error::{CallError, Phase};
pub use functions::{Functions, LoadError};
pub use mechanism::{HeldMechanism, Mechanism};
pub use objects::ObjectInfo;
pub use params::{Iv, Params};
pub use session::SessionInfo;
pub use slots::{Count, Interface, LibraryInfo, MechanismInfo, SlotInfo, TokenInfo};
pub use template::{Attribute, Template, Value};
