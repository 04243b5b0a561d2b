//! What a caller, the queue and the runner share of an operation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use session_pool::{Abandoned, Millis, Progress, State};

use crate::error::Error;
use crate::operation::answer::Outcome;
use crate::operation::host::{Host, Outlet, Reply};
use crate::support::clock::{millis, nanos};
use crate::support::tally::Tally;

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
    /// Where its end is counted.
    tally: OnceLock<Arc<Tally>>,
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
    pub fn new(reply: H::Reply, queue_timeout: Option<Millis>) -> Arc<Self> {
        let asked_at = nanos();
        let submitted = millis(asked_at);
        let start_by = queue_timeout.map(|timeout| submitted.saturating_add(timeout));
        Arc::new(Self {
            progress: Progress::new(),
            reply,
            submitted,
            start_by,
            asked_at,
            queued_for: AtomicU64::new(0),
            session: AtomicU64::new(0),
            tally: OnceLock::new(),
        })
    }

    /// Its end, whatever it is, is counted there.
    pub(crate) fn count_in(&self, tally: &Arc<Tally>) {
        let _ = self.tally.set(tally.clone());
    }

    /// Claims the right to send this answer; `false`: it was abandoned, or answered by another.
    pub(crate) fn claim_answer(&self, outcome: &Outcome) -> bool {
        let is_claimed = self.progress.answer();
        if is_claimed {
            self.note_end(outcome.as_ref().err().map(|failure| failure.error.reason()));
        }
        is_claimed
    }

    /// Its caller goes away, which is at the end of its time, whether it runs (if it may be abandoned then) or not.
    pub(crate) fn abandon(&self, running: bool) -> Abandoned {
        let abandoned = if running { self.progress.abandon() } else { self.progress.abandon_queued() };
        match abandoned {
            Abandoned::BeforeStart => self.note_end(Some(Error::QueueTimeout.reason())),
            Abandoned::WhileRunning { .. } => self.note_end(Some("operation_timeout")),
            Abandoned::StillRunning { .. } | Abandoned::Answered => (),
        }
        abandoned
    }

    /// Its caller gets this error by other means than an answer.
    pub(crate) fn refuse(&self, error: &Error) {
        let _ = self.progress.abandon();
        self.note_end(Some(error.reason()));
    }

    fn note_end(&self, error: Option<&'static str>) {
        let Some(tally) = self.tally.get() else { return };
        tally.count(error);
        if self.timing().is_some() {
            tally.time(nanos().saturating_sub(self.asked_at));
        }
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
        if self.claim_answer(&outcome) {
            self.reply.post(outcome);
        }
    }
}
