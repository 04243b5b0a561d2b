//! One operation on one session: the C calls, and what their return code asks for. It knows neither the pool nor the runner: what it cannot decide
//! itself it hands back as a [`step::Step`].
//!
//! * `perform`: the C calls of each request, with `task` and `batch` (what a key does with data), `stream` (the same in parts), `keys` (what comes of keys),
//!   `objects`, `hashing` and `context_login`
//! * `resolver`: the handle of a key that a caller names, with `public_key` and `newest` (what takes more than one search)
//! * `messages`: the same as `task` on a token that offers it by messages only, or makes the IV
//! * `ignored_params`: whether the module has looked at parameters that change its answer
//! * `encapsulation`: a secret that is shared with the holder of a private key
//! * `judge`: what a fault asks for, with `executed` (whether the operation may have run) and `vanished` (keys that are not found any more)
//! * `cancel`: what a failed call has left active is ended, rather than its session closed
//! * `foreign_answer`: whether an answer is the operation's own

pub(crate) mod attempt;
pub(crate) mod batch;
pub(crate) mod cancel;
pub(crate) mod context_login;
pub(crate) mod encapsulation;
pub(crate) mod executed;
pub(crate) mod foreign_answer;
pub(crate) mod hashing;
pub(crate) mod ignored_params;
pub(crate) mod judge;
pub(crate) mod keys;
pub(crate) mod messages;
pub(crate) mod newest;
pub(crate) mod objects;
pub(crate) mod perform;
pub(crate) mod public_key;
pub(crate) mod resolver;
pub(crate) mod step;
pub(crate) mod stream;
pub(crate) mod task;
pub(crate) mod vanished;

use std::cell::Cell;

use crate::error::{Error, Failure};
use crate::execution::attempt::Attempt;
use crate::execution::resolver::{Found, Resolver};
use crate::execution::step::Step;
use crate::module::handle::HandleUse;
use crate::operation::host::Host;
use crate::operation::request::Request;
use crate::operation::{LastFailure, Operation};
use crate::options::PoolOptions;
use crate::p11::Class;
use crate::support::clock::{millis, nanos};
use crate::token::session::Session;

/// Runs an operation on a session, and says what is to be done then. `epoch`: the one in which the session was found logged in. `is_over`: whether
/// nobody waits for it any more, if it asks. Called inside of the module.
pub(crate) fn execute<H: Host>(
    options: &PoolOptions,
    session: &Session,
    used: &HandleUse<'_>,
    operation: &mut Operation<H>,
    epoch: u64,
    is_over: &dyn Fn() -> bool,
) -> Step {
    if session.has_stream() && !operation.request.continues_stream() {
        return Step::Answer(Err(operation.failure(Error::StreamInProgress)));
    }
    let token = session.token();
    let began = nanos();
    let resolver = Resolver {
        token,
        functions: token.module.functions(),
        session: used.handle(),
        epoch,
        now: millis(began),
        ttl: options.key_cache_ttl,
        found: Found::default(),
    };
    let attempt = Attempt {
        options,
        resolver,
        began,
        session,
        used,
        is_first: session.begin_use(),
        is_over,
        has_cancelled: Cell::new(false),
        messages: Cell::new(None),
        session_failed: Cell::new(None),
    };
    if operation.last_failure.is_some_and(|failure| attempt.may_be_dead_as_well(failure)) && !attempt.is_alive() {
        token.doubt(epoch);
        return Step::TakeAnother;
    }
    let answered = operation.request.answered();
    let step = attempt.name_key(attempt.run(operation), &operation.request);
    attempt.reject_foreign_answer(step, operation, answered)
}

impl Attempt<'_> {
    /// Whether its session may have died with the one on which the operation has failed: those that lay idle beside one that died mostly have. The
    /// one other try is for a session that lives.
    fn may_be_dead_as_well(&self, failure: LastFailure) -> bool {
        failure.class == Class::DeadSession && self.session.index() < failure.next_session
    }

    /// A failure says of which key it is, where the request names several.
    fn name_key(&self, step: Step, request: &Request) -> Step {
        let Step::Answer(Err(failure)) = step else { return step };
        let Failure { error, executed } = failure;
        let error = match request.argument(self.resolver.found.place()) {
            Some(argument) if error.is_of_key() => Error::OfKey { argument, error: Box::new(error) },
            _ => error,
        };
        Step::Answer(Err(Failure { error, executed }))
    }

    /// Performs the operation until there is an answer, or something else to be done.
    fn run<H: Host>(&self, operation: &mut Operation<H>) -> Step {
        loop {
            let performed = self.perform(&mut operation.request, &mut operation.context);
            self.end_messages();
            let fault = match performed {
                Ok(answer) => {
                    // Nothing is asked of the module for a ping, and for a key that is known.
                    if self.is_first && !matches!(operation.request, Request::Ping | Request::Prepare { .. }) {
                        self.resolver.token.escalation.reset();
                    }
                    if operation.request.reaches_device() {
                        self.resolver.token.suspicion.succeeded();
                    }
                    return match self.session_failed.get() {
                        None => Step::Answer(Ok(answer)),
                        Some(class) => Step::AnswerAndDiscard(Ok(answer), class.name()),
                    };
                }
                Err(fault) => fault,
            };
            if let Some(step) = self.judge(fault, operation).map(|step| self.discard_failed_session(step))
                && let Some(step) = self.continue_slice(step, operation)
            {
                return step;
            }
        }
    }
}
