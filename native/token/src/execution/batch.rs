//! A slice of a caller's list, on one session. One that has had its time is answered as far as it is: the caller asks for the rest again, behind
//! whatever waits by then. So no list keeps a session for long, however slow the token.

use std::time::Duration;

use crate::error::{Error, Executed, Failure};
use crate::execution::attempt::Attempt;
use crate::execution::step::{Fault, Recover, Step};
use crate::operation::answer::Answer;
use crate::operation::batch::Batch;
use crate::operation::host::Host;
use crate::operation::request::Request;
use crate::operation::{ContextPin, Operation};
use crate::p11::Class;
use crate::support::clock::nanos;
use crate::token::session::next_number;

/// How long a slice may run; a task that has begun is finished.
const SLICE: Duration = Duration::from_millis(5);

impl Attempt<'_> {
    fn is_slice_over(&self) -> bool {
        u128::from(nanos().saturating_sub(self.began)) >= SLICE.as_nanos()
    }

    /// Does the tasks of a slice that are left, up to its end or one that fails.
    pub(crate) fn run_slice(&self, batch: &mut Batch, context: &mut ContextPin) -> Result<(), Fault> {
        batch.is_key_found = false;
        let key = self.resolver.resolve(&batch.key)?;
        batch.is_key_found = true;
        while let Some((mechanism, task)) = batch.next_task() {
            // A PIN is for one use: each of these tasks is a slice of its own.
            let is_over = || self.is_slice_over() || matches!(context, ContextPin::Used);
            if batch.answered() > 0 && is_over() {
                break;
            }
            let answer = self.run_task(key, mechanism, task, context)?;
            batch.answer_next(Ok(answer));
            self.resolver.token.suspicion.succeeded();
        }
        Ok(())
    }

    /// What is to be done when a task has failed and that asks for this step: where it concerns the one task only, that is answered, and the slice
    /// goes on. `None`: with the next task at once.
    pub(crate) fn continue_slice<H: Host>(&self, step: Step, operation: &mut Operation<H>) -> Option<Step> {
        let may_move = operation.may_retry(Executed::Unknown);
        let Request::Batch(batch) = &mut operation.request else { return Some(step) };
        if !batch.is_key_found {
            return Some(step);
        }
        match step {
            Step::Answer(Err(failure)) if self.is_of_one_task(&failure.error) => {
                batch.answer_next(Err(failure));
                None
            }
            // The session has to go, but not for a reason of its own: the caller sends the rest again.
            Step::AnswerAndDiscard(Err(failure), reason) if self.is_callers(&failure.error) => {
                batch.answer_next(Err(failure));
                Some(Step::AnswerAndDiscard(Ok(Answer::Done), reason))
            }
            // It died under this task: the others are tried on another one, once.
            Step::AnswerAndDiscard(Err(failure), reason) if may_move && batch.has_tasks_after_next() => {
                let call = failure.error.call();
                batch.answer_next(Err(failure));
                match call {
                    Some(call) => operation.prepare_retry(self.class(&call), call, Executed::No, next_number()),
                    None => operation.count_retry(),
                }
                Some(Step::RetryElsewhere(reason))
            }
            Step::Recover(recover) if !recover.retry && may_move && batch.has_tasks_after_next() => {
                batch.answer_next(Err(recover.failure.clone()));
                let failure = Failure { executed: Executed::No, ..recover.failure };
                Some(Step::Recover(Recover { retry: true, failure, ..recover }))
            }
            step => Some(step),
        }
    }

    /// Whether the next task may fare better on the same session.
    fn is_of_one_task(&self, error: &Error) -> bool {
        let might_pass = |class| matches!(class, Class::Ambiguous | Class::DeviceTrouble);
        self.is_callers(error) || matches!(error, Error::Call(call) if might_pass(self.class(call)))
    }

    /// Whether a task's own input is at fault.
    fn is_callers(&self, error: &Error) -> bool {
        match error {
            Error::Call(call) => matches!(self.class(call), Class::Caller | Class::Buffer),
            Error::DecryptionFailed { .. }
            | Error::SignatureInvalid { .. }
            | Error::SignatureLength { .. }
            | Error::OutputLength { .. }
            | Error::IvReplaced { .. }
            | Error::IvNotMade { .. }
            | Error::ParametersIgnored { .. }
            | Error::KeyMisfit { .. }
            | Error::CurveMisfit
            | Error::DigestTooLong { .. }
            | Error::NoDataForMac => true,
            _ => false,
        }
    }
}
