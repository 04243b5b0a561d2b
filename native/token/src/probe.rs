//! What a failure comes from: asked of the module by what no caller's input decides.

use cryptoki_sys::CK_SESSION_HANDLE;

use crate::p11::session::session_info;
use crate::p11::{CallError, Class};
use crate::pool::PoolOptions;
use crate::recovery::Trouble;
use crate::session::Session;
use crate::token::Token;

/// What a probe has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The session is good: it was the operation.
    SessionAnswers,
    /// The session is not, or there was none; the token is there.
    TokenAnswers,
    /// The token does not answer.
    Silence,
    /// The module says that it is not initialized.
    ModuleDown,
}

/// Whether a failure of this class makes one ask.
pub(crate) fn is_suspicious(class: Class) -> bool {
    matches!(
        class,
        Class::DeadSession | Class::TokenGone | Class::DeviceTrouble | Class::Ambiguous | Class::Module | Class::Unknown
    )
}

/// What a failure of a call on a session comes from.
pub(crate) struct Diagnosis {
    /// More than the session is in it.
    pub(crate) trouble: Option<Trouble>,
    /// The session answers.
    pub(crate) is_good: bool,
}

/// What a suspicious failure on this session says of it, its token and its module. `fresh`: nothing has run on it before; `epoch`: that in which it
/// failed. Called inside of the module.
pub(crate) fn diagnose(options: &PoolOptions, session: &Session, class: Class, epoch: u64, fresh: bool) -> Diagnosis {
    let Some((token, _, handle)) = session.parts() else { return Diagnosis { trouble: None, is_good: false } };
    let seen = token.module.incarnation();
    if class == Class::DeadSession {
        token.doubt(epoch);
    }
    let finding = match class {
        // That a session dies is nothing to ask about, unless it never lived.
        Class::DeadSession if !fresh => Finding::TokenAnswers,
        _ => examine(options, token, Some(handle), class),
    };
    let trouble = match (finding, class) {
        (Finding::ModuleDown, _) => Some(Trouble::Module { seen }),
        (Finding::Silence, _) => Some(Trouble::Silence),
        (Finding::TokenAnswers, Class::TokenGone) => Some(Trouble::Renewed),
        (Finding::TokenAnswers, Class::DeadSession) if fresh => Some(Trouble::DeadFromTheStart { seen }),
        _ => None,
    };
    Diagnosis { trouble, is_good: finding == Finding::SessionAnswers }
}

/// Asks. Called inside of the module.
pub(crate) fn examine(options: &PoolOptions, token: &Token, session: Option<CK_SESSION_HANDLE>, class: Class) -> Finding {
    let is_module = |error: &CallError| options.class(error) == Class::Module;
    if class == Class::Module {
        return Finding::ModuleDown;
    }
    let session = session.map(|session| session_info(token.module.functions(), session));
    match session {
        Some(Err(error)) if is_module(&error) => return Finding::ModuleDown,
        // Where the call itself said that the token is away, a library's own idea of the session is not enough.
        Some(Ok(_)) if class != Class::TokenGone => return Finding::SessionAnswers,
        _ => (),
    }
    match token.is_in_its_slot() {
        Ok(()) if matches!(session, Some(Ok(_))) => Finding::SessionAnswers,
        Ok(()) => Finding::TokenAnswers,
        Err(error) if is_module(&error) => Finding::ModuleDown,
        Err(_) => Finding::Silence,
    }
}
