//! What a failure comes from: asked of the module by what no caller's input decides.

use cryptoki_sys::{CK_SESSION_HANDLE, CKA_CLASS, CKA_LABEL, CKO_DATA};

use crate::module::handle::HandleUse;
use crate::p11::crypto::generate_random;
use crate::p11::objects::find_objects;
use crate::p11::session::session_info;
use crate::p11::{Attribute, CallError, Class, Template, Value};
use crate::support::clock::now;
use crate::token::Token;
use crate::token::policy::Policy;
use crate::token::session::Session;
use crate::token::suspicion::{Failed, Verdict};

/// How many random bytes a device is asked for, to see whether it answers. There is nothing smaller that goes to the device for sure, whatever
/// the library knows by itself.
pub(crate) const PROBE_BYTES: usize = 8;

/// What is wrong with more than one session or one operation: the pool has to see to its token or module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The token does not answer.
    Silence,
    /// The token answers, but what was open on it is gone.
    Renewed,
    /// A new session was dead, though the token answers.
    DeadFromTheStart {
        /// The module's incarnation.
        seen: u64,
    },
    /// The device fails, and goes on to, though the library says that all is well.
    Lasting {
        /// How often its module had begun to be initialized again.
        restarts: u64,
    },
    /// The module is not initialized.
    Module {
        /// Its incarnation.
        seen: u64,
    },
}

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
pub(crate) fn diagnose(
    policy: &Policy,
    session: &Session,
    used: &HandleUse<'_>,
    class: Class,
    epoch: u64,
    fresh: bool,
) -> Diagnosis {
    let token = session.token();
    let seen = token.module.incarnation();
    if class == Class::DeadSession {
        token.doubt(epoch);
    }
    let finding = match class {
        // That a session dies is nothing to ask about, unless it never lived.
        Class::DeadSession if !fresh => Finding::TokenAnswers,
        _ => examine(policy, token, Some(used.handle()), class),
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
pub(crate) fn examine(policy: &Policy, token: &Token, session: Option<CK_SESSION_HANDLE>, class: Class) -> Finding {
    let is_module = |error: &CallError| policy.class(error) == Class::Module;
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

/// What a device says when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Answers,
    /// `on`: on this session, since no other was to be had.
    Fails {
        on: Option<u64>,
    },
}

/// Whether a call has failed as it would on a device in trouble, though the token seems to be there.
pub(crate) fn is_trouble(class: Class) -> bool {
    matches!(class, Class::DeviceTrouble | Class::Ambiguous)
}

/// Asks the device itself, by what no caller's input decides, and no library answers by itself if it can help it: some random bytes, or, of a token
/// that has none, a search. On a new session; if there is no room for one, on this. Called inside of the module.
pub(crate) fn ask_device(policy: &Policy, token: &Token, session: Option<(u64, CK_SESSION_HANDLE)>) -> Reply {
    let functions = token.module.functions();
    let fails = |error: &CallError| is_suspicious(policy.class(error));
    let answers = |session| match generate_random(functions, session, PROBE_BYTES, PROBE_BYTES) {
        Ok(_) => true,
        Err(error) if fails(&error) => false,
        // It has none, or not for anybody.
        Err(_) => !find_objects(functions, session, &nothing(), Some(1)).is_err_and(|error| fails(&error)),
    };
    match (token.with_temporary_session(true, answers), session) {
        (Ok(true), _) => Reply::Answers,
        (Ok(false), _) => Reply::Fails { on: None },
        (Err(error), _) if fails(&error) => Reply::Fails { on: None },
        (Err(_), Some((number, session))) if !answers(session) => Reply::Fails { on: Some(number) },
        (Err(_), _) => Reply::Answers,
    }
}

/// The trouble of a session which is dead though the token answers, if nothing has ever run on it. `seen`: the module's incarnation when it was
/// found.
pub(crate) fn from_the_start(session: &Session, seen: u64) -> Option<Trouble> {
    session.is_new().then_some(Trouble::DeadFromTheStart { seen })
}

/// The trouble of a device that fails a login, or the opening of a session, where no caller's input can be to blame. Called inside of the module.
pub(crate) fn own_trouble(policy: &Policy, token: &Token, class: Class) -> Option<Trouble> {
    let limits = policy.trouble.filter(|_| is_trouble(class))?;
    let verdict = match token.suspicion.failed(Failed::Own, now(), limits) {
        Verdict::Ask => match ask_device(policy, token, None) {
            Reply::Answers => {
                // It answers, but does not log in.
                return None;
            }
            Reply::Fails { on } => token.suspicion.confirmed(on, now(), limits),
        },
        verdict => verdict,
    };
    (verdict == Verdict::Act).then(|| Trouble::Lasting { restarts: token.module.restarts() })
}

/// What no token has.
fn nothing() -> Template {
    vec![
        Attribute { kind: CKA_CLASS, value: Value::Ulong(CKO_DATA) },
        Attribute { kind: CKA_LABEL, value: Value::Bytes(b"pkcs11_pool asks whether the token answers".to_vec()) },
    ]
}
