//! What a failed call comes from: the operation, the session, the device, the token or the module. That is asked of the module by what no
//! caller's input decides.

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
use crate::token::suspicion::{Origin, Reaction};

/// How many random bytes a device is asked for, to see whether it answers. There is nothing smaller that goes to the device for sure, whatever
/// the library knows by itself.
pub(crate) const PROBE_BYTES: usize = 8;

/// What is wrong with more than one session: the pool has to see to its token or module.
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

/// What a call was made for that has failed on a token, or was to begin on it.
pub(crate) enum FailedCall<'a> {
    /// A caller's operation, whose input may be to blame. `epoch`: that in which the session was found logged in; `is_first`: nothing has run on the
    /// session before.
    Operation { session: &'a Session, used: &'a HandleUse<'a>, epoch: u64, is_first: bool },
    /// A call that keeps an idle session alive, in this epoch.
    Keepalive { used: &'a HandleUse<'a>, epoch: u64 },
    /// A login.
    Login { session: &'a Session, used: &'a HandleUse<'a> },
    /// The opening of a session.
    Opening,
}

/// What a failed call comes from.
pub(crate) struct Diagnosis {
    /// More than the session is in it.
    pub(crate) trouble: Option<Trouble>,
    /// The session answers, and nothing speaks against it.
    pub(crate) is_session_good: bool,
}

/// What is known against a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suspected {
    Nothing,
    /// Perhaps the device: on another session that is to be seen.
    Session,
    /// The device.
    Device(Trouble),
}

/// What is found by asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// The session is good: it was the operation.
    SessionAnswers,
    /// The session is not, or there was none; the token is there.
    TokenAnswers,
    /// The token does not answer.
    Silence,
    /// The module says that it is not initialized.
    ModuleDown,
}

/// What a device says when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceReply {
    Answers,
    /// `on`: on this session, since no other was to be had.
    Fails {
        on: Option<u64>,
    },
}

impl FailedCall<'_> {
    fn used(&self) -> Option<&HandleUse<'_>> {
        match self {
            Self::Operation { used, .. } | Self::Keepalive { used, .. } | Self::Login { used, .. } => Some(used),
            Self::Opening => None,
        }
    }

    /// The epoch whose handles may have died with the session.
    fn epoch(&self) -> Option<u64> {
        match self {
            Self::Operation { epoch, .. } | Self::Keepalive { epoch, .. } => Some(*epoch),
            Self::Login { .. } | Self::Opening => None,
        }
    }

    /// Whether nothing has run on its session before.
    fn is_first(&self) -> bool {
        match self {
            Self::Operation { is_first, .. } => *is_first,
            Self::Login { session, .. } => session.is_new(),
            Self::Keepalive { .. } | Self::Opening => false,
        }
    }

    /// Whether it is asked what a dead session comes from. That a session dies is nothing to ask about, unless it never lived, or everybody waits
    /// for a login on it.
    fn asks_about_death(&self) -> bool {
        matches!(self, Self::Operation { is_first: true, .. } | Self::Login { .. } | Self::Opening)
    }
}

/// Whether a failure of this class makes one ask what it comes from.
pub(crate) fn is_suspicious(class: Class) -> bool {
    matches!(
        class,
        Class::DeadSession | Class::TokenGone | Class::DeviceTrouble | Class::Ambiguous | Class::Module | Class::Unknown
    )
}

/// What a call of this class comes from. Called inside of the module.
pub(crate) fn diagnose(policy: &Policy, token: &Token, class: Class, call: &FailedCall<'_>) -> Diagnosis {
    if !is_suspicious(class) {
        return Diagnosis { trouble: None, is_session_good: true };
    }
    let seen = token.module.incarnation();
    let is_dead = class == Class::DeadSession;
    if is_dead && let Some(epoch) = call.epoch() {
        token.doubt(epoch);
    }
    let finding = if is_dead && !call.asks_about_death() {
        Finding::TokenAnswers
    } else {
        examine(policy, token, call.used().map(HandleUse::handle), class)
    };
    let trouble = match (finding, class) {
        (Finding::ModuleDown, _) => Some(Trouble::Module { seen }),
        (Finding::Silence, _) => Some(Trouble::Silence),
        // A login or an opening alone does not show that what was open is gone.
        (Finding::TokenAnswers, Class::TokenGone) if call.epoch().is_some() => Some(Trouble::Renewed),
        (Finding::TokenAnswers, Class::DeadSession) if call.is_first() => Some(Trouble::DeadFromTheStart { seen }),
        _ => None,
    };
    let suspected = if trouble.is_none() { suspect_device(policy, token, class, call) } else { Suspected::Nothing };
    let trouble = match suspected {
        Suspected::Device(lasting) => Some(lasting),
        Suspected::Nothing | Suspected::Session => trouble,
    };
    Diagnosis { trouble, is_session_good: finding == Finding::SessionAnswers && suspected == Suspected::Nothing }
}

/// What a failure of this class says of the device, in the light of those before it. Called inside of the module.
pub(crate) fn suspect_device(policy: &Policy, token: &Token, class: Class, call: &FailedCall<'_>) -> Suspected {
    let Some(limits) = policy.trouble.filter(|_| is_trouble(class)) else { return Suspected::Nothing };
    let (origin, session) = match call {
        FailedCall::Operation { session, used, .. } => (Origin::Operation, Some((session.index(), used.handle()))),
        FailedCall::Keepalive { .. } | FailedCall::Login { .. } | FailedCall::Opening => (Origin::Own, None),
    };
    let reaction = match token.suspicion.failed(origin, now(), limits) {
        Reaction::Ask => match ask_device(policy, token, session) {
            DeviceReply::Answers => {
                // One that answers, but does not log in or open sessions, is none the better for it.
                if origin == Origin::Operation {
                    token.suspicion.succeeded();
                }
                return Suspected::Nothing;
            }
            DeviceReply::Fails { on } => match token.suspicion.confirmed(on, now(), limits) {
                Reaction::Ask => return Suspected::Session,
                reaction => reaction,
            },
        },
        reaction => reaction,
    };
    match reaction {
        Reaction::Act => Suspected::Device(Trouble::Lasting { restarts: token.module.restarts() }),
        Reaction::Ask | Reaction::Bear => Suspected::Nothing,
    }
}

/// Whether a call has failed as it would on a device in trouble, though the token seems to be there.
fn is_trouble(class: Class) -> bool {
    matches!(class, Class::DeviceTrouble | Class::Ambiguous)
}

/// The trouble of a session which is dead though the token answers, if nothing has ever run on it. `seen`: the module's incarnation when it was
/// found.
pub(crate) fn from_the_start(session: &Session, seen: u64) -> Option<Trouble> {
    session.is_new().then_some(Trouble::DeadFromTheStart { seen })
}

/// Asks the session, if there is one, and the token's slot. Called inside of the module.
fn examine(policy: &Policy, token: &Token, session: Option<CK_SESSION_HANDLE>, class: Class) -> Finding {
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

/// Asks the device itself, by what no caller's input decides, and no library answers by itself if it can help it: some random bytes, or, of a token
/// that has none, a search. On a new session; if there is no room for one, on this. Called inside of the module.
pub(crate) fn ask_device(policy: &Policy, token: &Token, session: Option<(u64, CK_SESSION_HANDLE)>) -> DeviceReply {
    let functions = token.module.functions();
    let fails = |error: &CallError| is_suspicious(policy.class(error));
    let answers = |session| match generate_random(functions, session, PROBE_BYTES, PROBE_BYTES) {
        Ok(_) => true,
        Err(error) if fails(&error) => false,
        // It has none, or not for anybody.
        Err(_) => !find_objects(functions, session, &nothing(), Some(1)).is_err_and(|error| fails(&error)),
    };
    match (token.with_temporary_session(true, answers), session) {
        (Ok(true), _) => DeviceReply::Answers,
        (Ok(false), _) => DeviceReply::Fails { on: None },
        (Err(error), _) if fails(&error) => DeviceReply::Fails { on: None },
        (Err(_), Some((number, session))) if !answers(session) => DeviceReply::Fails { on: Some(number) },
        (Err(_), _) => DeviceReply::Answers,
    }
}

/// What no token has.
fn nothing() -> Template {
    vec![
        Attribute { kind: CKA_CLASS, value: Value::Ulong(CKO_DATA) },
        Attribute { kind: CKA_LABEL, value: Value::Bytes(b"pkcs11_pool asks whether the token answers".to_vec()) },
    ]
}
