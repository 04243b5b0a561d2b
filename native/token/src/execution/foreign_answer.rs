//! Whether an answer is the operation's own. A module may lose sessions and give their handles, and those of objects, to others while an
//! operation runs: then what it answers may have been made on another session, or with another key, and counts for nothing.

use crate::error::{Error, Executed, Failure};
use crate::execution::attempt::Attempt;
use crate::execution::resolver::Resolver;
use crate::execution::step::{Recover, Step};
use crate::operation::Operation;
use crate::operation::answer::Answer;
use crate::operation::host::Host;
use crate::p11::{CallError, Class};
use crate::token::session::next_number;

/// Why an answer counts for nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// The session's handle is another session's by now.
    OtherSession,
    /// The key's handle may have been another key's.
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
        let Resolver { token, functions, session, epoch, now, ttl, ref found } = self.resolver;
        let current = token.gate.epoch();
        if current == epoch {
            return None;
        }
        // Somebody has logged in again, or sessions have died, since the handle was found: it may have become another key's before it was used.
        let (used, key) = (found.get()?, operation.request.key_mut()?);
        let anew = Resolver { token, functions, session, epoch: current, now, ttl, found: Default::default() };
        let is_same = anew.resolve(key).is_ok_and(|handle| handle == used);
        (!is_same).then_some(Flaw::OtherKey)
    }
}
