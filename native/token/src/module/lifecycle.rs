//! Whether a module is initialized and by whom, and how many use it. One thread at a time changes that; the others wait.

use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::config::ModuleConfig;

pub(super) struct Lifecycle {
    state: Mutex<State>,
    /// A change has ended.
    changed: Condvar,
}

pub(super) struct State {
    phase: Phase,
    /// What the module was initialized with, or is to be.
    pub(super) config: ModuleConfig,
    pub(super) users: usize,
    /// How many of the users get from it what they need.
    pub(super) in_service: usize,
}

/// Whether the module is initialized, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Down,
    /// A thread is in `C_Initialize` or `C_Finalize`.
    Changing,
    /// `ours`: we initialized it, so we may finalize it. Otherwise another library of the process has, and it is *adopted*.
    Up {
        ours: bool,
    },
}

/// The right to change the phase, which one thread has at a time.
pub(super) struct Change<'a> {
    lifecycle: &'a Lifecycle,
    /// The phase behind the change; as long as nothing else is written here, the one before it.
    pub(super) phase: Phase,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.lifecycle.state.lock().phase = self.phase;
        self.lifecycle.changed.notify_all();
    }
}

impl State {
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }
}

impl Lifecycle {
    pub(super) fn new(config: ModuleConfig) -> Self {
        let state = State { phase: Phase::Down, config, users: 0, in_service: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// The state when no change is in progress. `None`: one still was at `until`.
    pub(super) fn lock_unchanging(&self, until: Option<Instant>) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        while state.phase == Phase::Changing {
            match until {
                Some(until) if self.changed.wait_until(&mut state, until).timed_out() => return None,
                Some(_) => (),
                None => self.changed.wait(&mut state),
            }
        }
        Some(state)
    }

    /// Begins a change; `state` is that of now, in which none is in progress.
    pub(super) fn begin_change<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Change<'a> {
        let phase = std::mem::replace(&mut state.phase, Phase::Changing);
        Change { lifecycle: self, phase }
    }
}
