//! What is to be done when a call on a session has ended.

use crate::error::{Error, Executed, Failure};
use crate::operation::answer::Outcome;
use crate::p11::{CallError, Class, Template};
use crate::token::diagnosis::Trouble;

/// What is to be done with the operation and its session: what execution itself can decide.
pub(crate) enum Step {
    /// Answer; the session may serve the next.
    Answer(Outcome),
    /// Answer; close the session, for this reason.
    AnswerAndDiscard(Outcome, &'static str),
    /// Try again on another session; close this one, for this reason.
    RetryElsewhere(&'static str),
    /// Try again after a while; the session is good, or closed for a reason.
    RetryLater(Option<&'static str>),
    /// Log in, then try again; the session is good.
    RetryAfterLogin,
    /// See to the token or the module, then try again, or answer; close this session.
    Recover(Recover),
    /// The session is of no use, and the operation has not been tried: it takes another one.
    TakeAnother,
    /// Wait for what is needed for the login that the key wants.
    AwaitLogin(Needs),
    /// Wait until the module has been initialized again.
    AwaitReload(Vanished),
}

/// What an operation has run into that its pool has to see to.
pub(crate) struct Recover {
    pub(crate) trouble: Trouble,
    /// The call that failed.
    pub(crate) call: CallError,
    pub(crate) class: Class,
    /// What the operation is answered, if it is not tried again.
    pub(crate) failure: Failure,
    /// Whether it is tried again, if the token is not away.
    pub(crate) retry: bool,
}

/// The module seems to have lost sight of its token.
pub(crate) struct Vanished {
    /// What is not found.
    pub(crate) templates: Vec<Template>,
    /// How often the module had begun to be initialized again.
    pub(crate) restarts: u64,
}

/// What an operation has failed with.
pub(crate) struct Fault {
    pub(crate) error: Error,
    /// Whether the operation itself may have run; `None`: its call and class tell.
    pub(crate) executed: Option<Executed>,
    /// What is to be done, if the error does not say.
    pub(crate) then: Option<Then>,
}

/// What is to be done about a fault, where its error does not say.
pub(crate) enum Then {
    /// The operation waits for what is needed for the login that its key wants.
    AwaitLogin(Needs),
    /// It is answered, and its session closed, for this reason.
    AnswerAndDiscard(&'static str),
    /// It is ended and answered. Its session is closed, for this reason, if it cannot be ended.
    CancelAndAnswer(&'static str),
}

/// What an operation needs for the login that its key wants for each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// The PIN.
    Pin,
    /// Its turn: one such login is made at a time.
    Turn,
}

impl Fault {
    /// The operation waits for what is needed for the login that its key wants.
    pub(crate) fn await_login(needs: Needs) -> Self {
        let error = Error::Interrupted { cause: "the operation waits" };
        Self { error, executed: Some(Executed::No), then: Some(Then::AwaitLogin(needs)) }
    }

    /// The operation has run.
    pub(crate) fn ran(error: impl Into<Error>) -> Self {
        Self { error: error.into(), executed: Some(Executed::Yes), then: None }
    }
}

impl From<Error> for Fault {
    /// Nothing of the operation itself has run.
    fn from(error: Error) -> Self {
        Self { error, executed: Some(Executed::No), then: None }
    }
}

impl From<CallError> for Fault {
    fn from(call: CallError) -> Self {
        if call.is_of_output() {
            // It has run, and we do not know what came of it.
            let then = call.active.then_some(Then::AnswerAndDiscard("output_length"));
            return Self { then, ..Self::ran(call) };
        }
        Self { error: call.into(), executed: None, then: None }
    }
}
