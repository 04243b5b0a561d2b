//! Whether an answer is the operation's own. A module may lose sessions and give their handles, and those of objects, to others while an
//! operation runs: then what it answers may have been made on another session, or with another key, and counts for nothing.

use cryptoki_sys::CK_OBJECT_HANDLE;

use crate::error::{Error, Executed, Failure};
use crate::execution::attempt::Attempt;
use crate::execution::resolver::{Found, Resolver};
use crate::execution::step::{Recover, Step};
use crate::operation::Operation;
use crate::operation::answer::Answer;
use crate::operation::host::Host;
use crate::operation::key_ref::KeyRef;
use crate::p11::{CallError, Class};
use crate::token::session::next_number;

/// Why an answer counts for nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// The session's handle is another session's by now.
    OtherSession,
    /// A key's handle may have been another key's.
    OtherKey,
}

impl Attempt<'_> {
    /// The step, unless what it answers counts for nothing: then the operation is tried again, or its caller is told. `answered`: how many tasks
    /// of its list had an answer before this attempt.
    pub(crate) fn reject_foreign_answer<H: Host>(&self, step: Step, operation: &mut Operation<H>, answered: usize) -> Step {
        let executed = match &step {
            Step::Answer(Ok(_)) | Step::AnswerAndDiscard(Ok(_), _) => Executed::Unknown,
            Step::Answer(Err(failure)) | Step::AnswerAndDiscard(Err(failure), _) | Step::Recover(Recover { failure, .. }) => {
                if failure.executed == Executed::No {
                    Executed::No
                } else {
                    Executed::Unknown
                }
            }
            // These answer nothing.
            Step::RetryElsewhere(_)
            | Step::RetryLater(_)
            | Step::TakeAnother
            | Step::RetryAfterLogin
            | Step::AwaitLogin(_)
            | Step::AwaitReload(_) => {
                return step;
            }
        };
        let Some(flaw) = self.find_flaw(&step, operation) else { return step };
        let given = operation.request.withdraw_answers(answered);
        if operation.may_retry(executed) {
            let class = if flaw == Flaw::OtherSession { Class::DeadSession } else { Class::StaleHandle };
            operation.prepare_retry(class, CallError::session_lost("C_GetSessionInfo"), executed, next_number());
            return if flaw == Flaw::OtherSession { Step::RetryElsewhere("displaced") } else { Step::RetryAfterLogin };
        }
        let failure = Failure { error: Error::SessionLost, executed };
        let outcome = if operation.request.refuse_answers(given, &failure) { Ok(Answer::Done) } else { Err(failure) };
        if flaw == Flaw::OtherSession { Step::AnswerAndDiscard(outcome, "displaced") } else { Step::Answer(outcome) }
    }

    /// Why what a step answers counts for nothing; `None`: it is the operation's own.
    fn find_flaw<H: Host>(&self, step: &Step, operation: &mut Operation<H>) -> Option<Flaw> {
        if !self.used.is_owner() {
            return Some(Flaw::OtherSession);
        }
        // A session that is closed has not been asked by anybody else, and cannot be asked any more.
        if !matches!(step, Step::Answer(_)) {
            return None;
        }
        // Each of its keys: with one that is another's, the answer is another's.
        let used = self.resolver.found.handles();
        let mut keys = operation.request.keys_mut().zip(used);
        let is_own = keys.all(|(key, used)| used.is_none_or(|used| self.is_key_still(key, used, self.resolver.epoch)));
        (!is_own).then_some(Flaw::OtherKey)
    }

    /// Whether a key has the handle that it had in this epoch. Somebody may have logged in again, or sessions may have died, since the handle was found:
    /// it may have become another key's before it was used.
    pub(crate) fn is_key_still(&self, key: &KeyRef, used: CK_OBJECT_HANDLE, epoch: u64) -> bool {
        let Resolver { token, functions, session, now, ttl, .. } = self.resolver;
        let current = token.gate.epoch();
        let anew = Resolver { token, functions, session, epoch: current, now, ttl, found: Found::default() };
        current == epoch || anew.resolve(key).is_ok_and(|handle| handle == used)
    }
}
