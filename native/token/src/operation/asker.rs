//! Who waits for something that concerns the whole pool.

use std::sync::Arc;

use crate::error::{Error, Failure};
use crate::operation::answer::Outcome;
use crate::operation::header::Header;
use crate::operation::host::Host;

/// Who waits for a login, a logout or a reload. Dropped unanswered, it answers that the pool drains.
pub(crate) struct Asker<H: Host>(pub(crate) Arc<Header<H>>);

impl<H: Host> Asker<H> {
    /// Answers, by the sender thread.
    pub(crate) fn answer(self, outcome: Outcome) {
        self.0.post(outcome);
    }
}

impl<H: Host> Drop for Asker<H> {
    fn drop(&mut self) {
        self.0.post(Err(Failure::not_executed(Error::Draining)));
    }
}
