//! A slice of a caller's list: tasks of one key, one after the other on one session, answered together.
//!
//! What is wrong with a task is that task's answer. A slice that has had its time is answered as far as it is: the caller asks for the rest
//! again, behind whatever waits by then. So no list keeps a session for long, however slow the token.

use std::mem::take;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Executed, Failure};
use crate::execution::{Attempt, Fault, Recover, Step};
use crate::operation::host::{Host, Outcome};
use crate::operation::request::{Answer, ContextPin, KeyRef, Operation, Request};
use crate::operation::task::Task;
use crate::p11::{Class, Mechanism};

/// How long a slice may run; a task that has begun is finished.
pub(crate) const SLICE: Duration = Duration::from_millis(5);

/// A slice.
#[derive(Debug)]
pub struct Batch {
    /// The key of all tasks.
    pub key: KeyRef,
    tasks: Vec<(Arc<Mechanism>, Task)>,
    /// Those of the first tasks.
    answers: Vec<Outcome>,
    /// The key has been found: what fails is a task.
    under_way: bool,
}

impl Batch {
    /// A new one.
    pub fn new(key: KeyRef, tasks: Vec<(Arc<Mechanism>, Task)>) -> Self {
        Self { key, tasks, answers: Vec::new(), under_way: false }
    }

    /// What the caller calls it.
    pub(crate) fn name(&self) -> &'static str {
        self.tasks.first().map_or("batch", |(_, task)| task.names().1)
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        self.tasks.iter().all(|(mechanism, task)| task.is_idempotent(mechanism))
    }

    pub(crate) fn may_want_login(&self) -> bool {
        self.tasks.iter().any(|(_, task)| task.may_want_login())
    }

    /// Whether tasks are left after the next one.
    fn goes_on(&self) -> bool {
        self.answers.len() + 1 < self.tasks.len()
    }

    /// How many of its tasks have an answer.
    pub(crate) fn answered(&self) -> usize {
        self.answers.len()
    }

    /// Takes back the answers that came after so many; how many there were.
    pub(crate) fn withdraw_answers(&mut self, after: usize) -> usize {
        let count = self.answers.len().saturating_sub(after);
        self.answers.truncate(after);
        count
    }

    /// Answers so many tasks with a failure; `false`: there are none.
    pub(crate) fn refuse_answers(&mut self, count: usize, failure: &Failure) -> bool {
        self.answers.extend((0..count).map(|_| Err(failure.clone())));
        count > 0
    }

    /// What it ends in: the answers that there are. A failure of the whole is that of the task whose turn it was; those behind it were not
    /// executed.
    pub(crate) fn settle(&mut self, outcome: Outcome) -> Answer {
        if let Err(failure) = outcome {
            let rest = Failure::not_executed(failure.error.clone());
            if self.answers.len() < self.tasks.len() {
                self.answers.push(Err(failure));
            }
            self.answers.resize_with(self.tasks.len(), || Err(rest.clone()));
        }
        Answer::Many(take(&mut self.answers))
    }
}

impl Attempt<'_> {
    /// Goes on with a slice, up to its end or a task that fails.
    pub(crate) fn go_on(&self, batch: &mut Batch, context: &mut ContextPin) -> Result<(), Fault> {
        batch.under_way = false;
        let key = self.resolver.resolve(&batch.key)?.handle;
        batch.under_way = true;
        while let Some((mechanism, task)) = batch.tasks.get(batch.answers.len()) {
            // A PIN is for one use: each of these tasks is a slice of its own.
            let is_over = || Instant::now() >= self.until || matches!(context, ContextPin::Used);
            if !batch.answers.is_empty() && is_over() {
                break;
            }
            batch.answers.push(Ok(self.apply(key, mechanism, task, context)?));
            self.resolver.token.suspicion.succeeded();
        }
        Ok(())
    }

    /// What comes after a step that a failed task has asked for; `None`: the next task.
    pub(crate) fn absorb<H: Host>(&self, step: Step, operation: &mut Operation<H>) -> Option<Step> {
        let may_move = operation.may_be_tried_again() && operation.request.is_idempotent();
        let Request::Batch(batch) = &mut operation.request else { return Some(step) };
        if !batch.under_way {
            return Some(step);
        }
        match step {
            Step::Keep(Err(failure)) if self.is_of_one_task(&failure.error) => {
                batch.answers.push(Err(failure));
                None
            }
            // The session has to go, but not for a reason of its own: the caller sends the rest again.
            Step::Discard(Err(failure), reason) if self.is_callers(&failure.error) => {
                batch.answers.push(Err(failure));
                Some(Step::Discard(Ok(Answer::Done), reason))
            }
            // It died under this task: the others are tried on another one, once.
            Step::Discard(Err(failure), reason) if may_move && batch.goes_on() => {
                let call = failure.error.call();
                batch.answers.push(Err(failure));
                match call {
                    Some(call) => operation.again(self.class(&call), call, Executed::No),
                    None => operation.retries += 1,
                }
                Some(Step::Elsewhere(reason))
            }
            Step::Recover(recover) if !recover.retry && may_move && batch.goes_on() => {
                batch.answers.push(Err(recover.failure.clone()));
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
            | Error::IvNotMade
            | Error::KeyMisfit { .. }
            | Error::DigestTooLong { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use cryptoki_sys::CKM_SHA256_HMAC;

    use super::*;
    use crate::error::Executed;
    use crate::support::data::Data;

    fn batch(tasks: usize, answered: usize) -> Batch {
        let mechanism = Arc::new(Mechanism::new(CKM_SHA256_HMAC));
        let task = || (mechanism.clone(), Task::Sign(Data::Owned(Default::default())));
        let mut batch = Batch::new(KeyRef::Find(Vec::new(), None), std::iter::repeat_with(task).take(tasks).collect());
        batch.answers.resize_with(answered, || Ok(Answer::Done));
        batch
    }

    fn settled(batch: &mut Batch, outcome: Outcome) -> Vec<Option<Executed>> {
        let Answer::Many(answers) = batch.settle(outcome) else { panic!("not an answer of many") };
        answers.into_iter().map(|answer| answer.err().map(|failure| failure.executed)).collect()
    }

    fn failure() -> Outcome {
        Err(Failure { error: Error::Draining, executed: Executed::Unknown })
    }

    #[test]
    fn a_slice_that_has_had_its_time_gives_what_there_is() {
        assert_eq!(settled(&mut batch(3, 2), Ok(Answer::Done)), [None, None]);
    }

    #[test]
    fn what_befalls_a_slice_befalls_the_task_whose_turn_it_was() {
        let (unknown, no) = (Some(Executed::Unknown), Some(Executed::No));
        assert_eq!(settled(&mut batch(4, 1), failure()), [None, unknown, no, no]);
        assert_eq!(settled(&mut batch(2, 0), failure()), [unknown, no]);
        // Dropped when it was done, and before it was answered.
        assert_eq!(settled(&mut batch(2, 2), failure()), [None, None]);
    }
}
