//! A slice of a caller's list: tasks of one key, one after the other on one session, answered together. What is wrong with a task is that
//! task's answer.

use std::mem::take;
use std::sync::Arc;

use crate::error::Failure;
use crate::operation::answer::{Answer, Outcome};
use crate::operation::key_ref::KeyRef;
use crate::operation::task::Task;
use crate::p11::Mechanism;

/// A slice.
#[derive(Debug)]
pub struct Batch {
    /// The key of all tasks.
    pub key: KeyRef,
    tasks: Vec<(Arc<Mechanism>, Task)>,
    /// The answers of its first tasks.
    answers: Vec<Outcome>,
    /// Its key has been found: what fails from then on is one task.
    pub(crate) is_key_found: bool,
}

impl Batch {
    /// A slice with these tasks, none of them answered.
    pub fn new(key: KeyRef, tasks: Vec<(Arc<Mechanism>, Task)>) -> Self {
        Self { key, tasks, answers: Vec::new(), is_key_found: false }
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

    /// The first task that has no answer yet.
    pub(crate) fn next_task(&self) -> Option<&(Arc<Mechanism>, Task)> {
        self.tasks.get(self.answers.len())
    }

    /// Answers the next task.
    pub(crate) fn answer_next(&mut self, outcome: Outcome) {
        self.answers.push(outcome);
    }

    /// Whether tasks are left after the next one.
    pub(crate) fn has_tasks_after_next(&self) -> bool {
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
    pub(crate) fn finish(&mut self, outcome: Outcome) -> Answer {
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

#[cfg(test)]
mod tests {
    use cryptoki_sys::CKM_SHA256_HMAC;

    use super::*;
    use crate::error::{Error, Executed};
    use crate::support::data::Data;

    fn batch(tasks: usize, answered: usize) -> Batch {
        let mechanism = Arc::new(Mechanism::new(CKM_SHA256_HMAC));
        let task = || (mechanism.clone(), Task::Sign(Data::Owned(Default::default())));
        let mut batch = Batch::new(KeyRef::Find(Vec::new(), None), std::iter::repeat_with(task).take(tasks).collect());
        batch.answers.resize_with(answered, || Ok(Answer::Done));
        batch
    }

    fn finished(batch: &mut Batch, outcome: Outcome) -> Vec<Option<Executed>> {
        let Answer::Many(answers) = batch.finish(outcome) else { panic!("not an answer of many") };
        answers.into_iter().map(|answer| answer.err().map(|failure| failure.executed)).collect()
    }

    fn failure() -> Outcome {
        Err(Failure { error: Error::Draining, executed: Executed::Unknown })
    }

    #[test]
    fn a_slice_that_has_had_its_time_gives_what_there_is() {
        assert_eq!(finished(&mut batch(3, 2), Ok(Answer::Done)), [None, None]);
    }

    #[test]
    fn what_befalls_a_slice_befalls_the_task_whose_turn_it_was() {
        let (unknown, no) = (Some(Executed::Unknown), Some(Executed::No));
        assert_eq!(finished(&mut batch(4, 1), failure()), [None, unknown, no, no]);
        assert_eq!(finished(&mut batch(2, 0), failure()), [unknown, no]);
        // Dropped when it was done, and before it was answered.
        assert_eq!(finished(&mut batch(2, 2), failure()), [None, None]);
    }
}
