//! What a caller, the queue and the runner share of an operation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use session_pool::{Millis, Progress, State};

use crate::operation::answer::Outcome;
use crate::operation::host::{Host, Outlet, Reply};
use crate::support::clock::nanos;

/// What caller, queue and runner share of an operation.
pub struct Header<H: Host> {
    /// Whether it waits, runs, or is answered or given up.
    pub progress: Progress,
    /// Who is answered.
    pub reply: H::Reply,
    /// When it was submitted.
    pub submitted: Millis,
    /// When it may no longer start; `None`: it may wait for as long as it takes.
    pub start_by: Option<Millis>,
    /// When it was submitted, in nanoseconds.
    pub(crate) asked_at: u64,
    /// Nanoseconds from then to its first start; 0: it has not started.
    queued_for: AtomicU64,
    /// The number of the session that it ran on last; 0: none so far.
    session: AtomicU64,
}

/// How an operation went, for telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Nanoseconds until it started.
    pub queue_time: u64,
    /// The number of the session that it ran on last; 0: it needs none.
    pub session: u64,
}

impl<H: Host> Header<H> {
    /// The header of a new operation.
    pub fn new(reply: H::Reply, submitted: Millis, queue_timeout: Option<Millis>) -> Arc<Self> {
        let start_by = queue_timeout.map(|timeout| submitted.saturating_add(timeout));
        Arc::new(Self {
            progress: Progress::new(),
            reply,
            submitted,
            start_by,
            asked_at: nanos(),
            queued_for: AtomicU64::new(0),
            session: AtomicU64::new(0),
        })
    }

    /// It is about to run on this session.
    pub(crate) fn runs_on(&self, session: u64) {
        self.session.store(session, Ordering::Relaxed);
        self.note_start();
    }

    /// It starts, perhaps not for the first time, and perhaps without a session.
    pub(crate) fn note_start(&self) {
        if self.queued_for.load(Ordering::Relaxed) == 0 {
            self.queued_for.store(nanos().saturating_sub(self.asked_at).max(1), Ordering::Relaxed);
        }
    }

    /// How it went; `None`: it has not started.
    pub fn timing(&self) -> Option<Timing> {
        let queue_time = self.queued_for.load(Ordering::Relaxed);
        (queue_time != 0).then(|| Timing { queue_time, session: self.session.load(Ordering::Relaxed) })
    }

    /// Whether nobody waits for its answer.
    pub fn is_over(&self) -> bool {
        !matches!(self.progress.state(), State::Queued | State::Running { .. })
    }

    /// Whether somebody waits for its answer: it is not over, and its caller is there, as far as this outlet can see.
    pub(crate) fn is_wanted(&self, outlet: &impl Outlet<H>) -> bool {
        !self.is_over() && outlet.is_wanted(&self.reply)
    }

    /// Answers by the sender thread, if nobody has answered or abandoned it.
    pub fn post(&self, outcome: Outcome) {
        if self.progress.answer() {
            self.reply.post(outcome);
        }
    }
}
