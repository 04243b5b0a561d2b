//! One operation's progress, in one atomic word.
//!
//! ```text
//!   queued --start--> running --answer--> answered
//!      |  \___________answer (never ran)_____^
//!   abandon            |
//!      v            abandon
//!   abandoned <--------+
//! ```
//!
//! Whoever moves the word to `answered` sends the one answer; whoever moves it to `abandoned` gets none.

use crate::Millis;
use crate::sync::{AtomicU64, Ordering};

const QUEUED: u64 = 0;
const RUNNING: u64 = 1;
const ANSWERED: u64 = 2;
const ABANDONED: u64 = 3;
const TAG_BITS: u32 = 2;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;

/// Where an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits; the module knows nothing of it.
    Queued,
    /// A runner took it at this time.
    Running {
        /// When it started.
        since: Millis,
    },
    /// Its answer is on the way, or has arrived.
    Answered,
    /// Its caller has gone; no answer will be sent.
    Abandoned,
}

/// What [`Progress::start`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Started {
    /// It is this runner's to run.
    Run,
    /// Abandoned or answered meanwhile: it must not run.
    Gone,
}

/// What [`Progress::abandon`] and [`Progress::abandon_queued`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Abandoned {
    /// It never started and never will.
    BeforeStart,
    /// It had started at this time; its answer will be dropped.
    WhileRunning {
        /// When it started.
        since: Millis,
    },
    /// It runs since this time, and was asked to be abandoned only while it waits: nothing changed.
    StillRunning {
        /// When it started.
        since: Millis,
    },
    /// Too late: its answer comes.
    Answered,
}

/// The word: two bits of state, and for a running operation the time at which it started.
#[derive(Debug)]
pub struct Progress(AtomicU64);

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

fn unpack(word: u64) -> State {
    match word & TAG_MASK {
        QUEUED => State::Queued,
        RUNNING => State::Running { since: word >> TAG_BITS },
        ANSWERED => State::Answered,
        _ => State::Abandoned,
    }
}

impl Progress {
    /// A queued operation.
    pub fn new() -> Self {
        Self(AtomicU64::new(QUEUED))
    }

    /// Where it is.
    pub fn state(&self) -> State {
        unpack(self.0.load(Ordering::Acquire))
    }

    /// A runner takes it. One that runs already (it came back from the login gate, or is tried again) goes on under its first start.
    pub fn start(&self, now: Millis) -> Started {
        let running = (now << TAG_BITS) | RUNNING;
        match self.0.compare_exchange(QUEUED, running, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Started::Run,
            Err(word) if word & TAG_MASK == RUNNING => Started::Run,
            Err(_) => Started::Gone,
        }
    }

    /// Claims the right to send the one answer; `false`: it was abandoned, or answered by another.
    #[must_use]
    pub fn answer(&self) -> bool {
        self.leave(ANSWERED, |state| matches!(state, State::Queued | State::Running { .. })).is_ok()
    }

    /// The caller goes away, whether or not the operation has started.
    pub fn abandon(&self) -> Abandoned {
        match self.leave(ABANDONED, |state| matches!(state, State::Queued | State::Running { .. })) {
            Ok(State::Running { since }) => Abandoned::WhileRunning { since },
            Ok(_) => Abandoned::BeforeStart,
            Err(_) => Abandoned::Answered,
        }
    }

    /// The caller goes away unless the operation has started.
    pub fn abandon_queued(&self) -> Abandoned {
        match self.leave(ABANDONED, |state| state == State::Queued) {
            Ok(_) => Abandoned::BeforeStart,
            Err(State::Running { since }) => Abandoned::StillRunning { since },
            Err(_) => Abandoned::Answered,
        }
    }

    /// Moves to a final state from one that `may` leave; what it was, or what kept it.
    fn leave(&self, to: u64, may: impl Fn(State) -> bool) -> Result<State, State> {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            let state = unpack(word);
            if !may(state) {
                return Err(state);
            }
            match self.0.compare_exchange(word, to, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(state),
                Err(now) => word = now,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_queued_operation_that_is_abandoned_never_starts() {
        let progress = Progress::new();
        assert_eq!(progress.abandon_queued(), Abandoned::BeforeStart);
        assert_eq!(progress.start(5), Started::Gone);
        assert!(!progress.answer());
    }

    #[test]
    fn a_running_one_keeps_its_first_start_and_frees_its_caller() {
        let progress = Progress::new();
        assert_eq!(progress.start(5), Started::Run);
        assert_eq!(progress.start(9), Started::Run);
        assert_eq!(progress.abandon_queued(), Abandoned::StillRunning { since: 5 });
        assert_eq!(progress.abandon(), Abandoned::WhileRunning { since: 5 });
        assert!(!progress.answer());
        assert_eq!(progress.state(), State::Abandoned);
    }

    #[test]
    fn an_answer_is_claimed_once_and_then_cannot_be_abandoned() {
        let progress = Progress::new();
        assert_eq!(progress.start(0), Started::Run);
        assert!(progress.answer());
        assert!(!progress.answer());
        assert_eq!(progress.abandon(), Abandoned::Answered);
    }
}
