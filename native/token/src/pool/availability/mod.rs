//! Whether a pool has its token, in one place. It knows neither sessions nor callers: each event is a method, and says by its result what the
//! pool has to do about it.
//!
//! ```text
//!   Detached --found--> Up <-----------------------+
//!      |                | \__ trouble __           |
//!      |       token lost               v          | found again
//!      |                |        Recovering -------+
//!      v                v               | not at once
//!     Down(never found) Down <----------+ ---------^
//! ```
//!
//! While it recovers, for a moment, operations are held back; while it is down, they are refused. In both, one thread looks for the token
//! (`recovery_thread.rs`). A pool that ends goes from everywhere to `Stopped`.

mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use session_pool::Millis;

use crate::error::Error;
use crate::module::ModuleUse;
use crate::p11::CallError;
use crate::support::clock::at;
use crate::token::Token;

use state::{Absence, State};
pub(crate) use state::{Binding, Fallen, Found, Had, NextLook, Outage, Readiness, Remedy, Risen};

/// How often who waits for a change asks whether it still should.
const RECHECK: Duration = Duration::from_millis(100);

/// Whether a pool has its token, and who waits for that to change.
pub(crate) struct Availability {
    state: RwLock<State>,
    /// The state is not `Up`: for a look without the lock. Written under it.
    is_troubled: AtomicBool,
    /// Where the recovery's thread sleeps, and who waits for the state to change.
    waiting: Mutex<()>,
    changed: Condvar,
}

impl Default for Availability {
    fn default() -> Self {
        Self {
            state: RwLock::new(State::Detached),
            is_troubled: AtomicBool::new(true),
            waiting: Mutex::default(),
            changed: Condvar::new(),
        }
    }
}

/// Questions.
impl Availability {
    /// Whether an operation may run.
    #[inline]
    pub(crate) fn readiness(&self) -> Readiness {
        if self.is_troubled() { self.state.read().readiness() } else { Readiness::Ready }
    }

    /// Why a new operation is not even taken.
    #[inline]
    pub(crate) fn refusal(&self) -> Option<Error> {
        if !self.is_troubled() {
            return None;
        }
        match &*self.state.read() {
            State::Recovering(absence) if absence.is_late() => Some(absence.error()),
            // A pool that has stopped says so by itself.
            State::Stopped => None,
            other => match other.readiness() {
                Readiness::Refused(error) => Some(error),
                Readiness::Ready | Readiness::Held => None,
            },
        }
    }

    #[inline]
    pub(crate) fn is_troubled(&self) -> bool {
        self.is_troubled.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        matches!(*self.state.read(), State::Stopped)
    }

    /// The token that the pool has, or had before it went away.
    pub(crate) fn bound_token(&self) -> Option<Arc<Token>> {
        self.state.read().binding().map(|binding| binding.claim.token().clone())
    }

    /// The token, or why there is none.
    pub(crate) fn token(&self) -> Result<Arc<Token>, Error> {
        match &*self.state.read() {
            State::Up(binding) | State::Recovering(Absence { binding: Some(binding), .. }) => Ok(binding.claim.token().clone()),
            other => match other.readiness() {
                Readiness::Refused(error) => Err(error),
                Readiness::Ready | Readiness::Held => Err(Error::Reinitializing),
            },
        }
    }

    /// Another use of the module that the pool has; it is not finalized as long as that lives.
    pub(crate) fn share_module(&self) -> Option<ModuleUse> {
        self.state.read().binding().map(|binding| binding.module.share())
    }

    /// Why the token is not to be had. `made`: when the pool was.
    pub(crate) fn outage(&self, made: Millis) -> Option<Outage> {
        let down = |error, since| Some(Outage { error, since, is_recovering: false });
        match &*self.state.read() {
            State::Up(_) => None,
            State::Recovering(absence) => {
                let is_recovering = !absence.is_late();
                Some(Outage { error: absence.error(), since: at(absence.since), is_recovering })
            }
            State::Down(absence) => down(absence.error(), at(absence.since)),
            State::Detached => down(Error::not_initialized("C_Initialize"), made),
            State::Stopped => down(Error::Draining, made),
        }
    }
}

/// Events.
impl Availability {
    /// The first look for the token has ended; `Err`: the token is not there, and is looked for again after a delay. Nothing changes if the pool
    /// has ended meanwhile.
    pub(crate) fn attach(&self, found: Result<Binding, (Error, Duration)>) {
        let first = match found {
            Ok(binding) => State::Up(binding),
            Err((error, delay)) => State::Down(Absence::never_found(error, delay)),
        };
        // What is not taken is dropped outside of the lock.
        drop(self.change(|state| match state {
            State::Detached => (first, None),
            other => (other, Some(first)),
        }));
    }

    /// Something is wrong with the token or its module: operations are held back until a thread has looked. `false`: that is known.
    pub(crate) fn begin_recovery(&self, remedy: Remedy, call: Option<CallError>) -> bool {
        self.change(|state| match state {
            State::Up(binding) => (State::Recovering(Absence::of(binding, call, remedy, Duration::ZERO)), true),
            other => (other, false),
        })
    }

    /// The token is away. `None`: that is known.
    pub(crate) fn fall(&self, call: Option<CallError>, remedy: Remedy, delay: Duration) -> Option<Fallen> {
        self.change(|state| match state {
            State::Up(binding) => (State::Down(Absence::of(binding, call, remedy, delay)), Some(Fallen { needs_thread: true })),
            State::Recovering(absence) => (State::Down(absence), Some(Fallen { needs_thread: false })),
            other => (other, None),
        })
    }

    /// Time passes. A look that takes longer than who waits is held back for (it hangs in the module) is as good as one that has failed, until
    /// it returns. `true`: so it is now.
    pub(crate) fn lose_patience(&self) -> bool {
        self.is_troubled()
            && self.change(|state| match state {
                State::Recovering(absence) if absence.is_late() => (State::Down(absence), true),
                other => (other, false),
            })
    }

    /// A look has not found the token: the next one is after `delay`. The token that is lost with that, and the call that told.
    pub(crate) fn look_failed(&self, error: Error, delay: Duration) -> Option<(Arc<Token>, Option<CallError>)> {
        let mut state = self.state.write();
        let recovers = matches!(*state, State::Recovering(_));
        let absence = state.absence_mut()?;
        if matches!(absence.remedy, Remedy::LogOut | Remedy::Revive { .. }) {
            absence.remedy = Remedy::Look;
        }
        absence.cause = Some(error);
        absence.retry_at = Instant::now() + delay;
        let binding = absence.binding.as_ref().filter(|_| recovers);
        binding.map(|binding| (binding.claim.token().clone(), absence.call))
    }

    /// A look has found the token. `None`: nobody looks for it any more.
    pub(crate) fn rise(&self, found: Found) -> Option<Risen> {
        let (risen, left_over) = self.change(|state| match state {
            State::Recovering(absence) => {
                let (next, left_over) = absence.end(found);
                (next, (Some(Risen { was_down: None }), left_over))
            }
            State::Down(absence) => {
                let was_there = absence.binding.is_some();
                let (next, left_over) = absence.end(found);
                (next, (Some(Risen { was_down: Some(was_there) }), left_over))
            }
            other => (other, (None, Some(found))),
        });
        // Outside of the lock.
        drop(left_over);
        risen
    }

    /// The pool stops: who wants the token now waits for a moment.
    pub(crate) fn announce_leaving(&self) {
        if let Some(binding) = self.state.read().binding() {
            binding.claim.leave();
        }
    }

    /// Calls of the pool's may hang in the module: who wants the token need not wait for those.
    pub(crate) fn release_claim(&self) {
        if let Some(binding) = self.state.read().binding() {
            binding.claim.release();
        }
    }

    /// The pool has ended. What it had, to be dropped; `None`: it had ended before.
    pub(crate) fn stop(&self) -> Option<Option<Binding>> {
        let state = self.change(|state| (State::Stopped, state));
        match state {
            State::Stopped => None,
            State::Up(binding) => Some(Some(binding)),
            State::Recovering(absence) | State::Down(absence) => Some(absence.binding),
            State::Detached => Some(None),
        }
    }

    /// One step of the state, and what comes of it.
    fn change<T>(&self, step: impl FnOnce(State) -> (State, T)) -> T {
        let result = {
            let mut state = self.state.write();
            let (next, result) = step(std::mem::replace(&mut *state, State::Stopped));
            self.is_troubled.store(!matches!(next, State::Up(_)), Ordering::Release);
            *state = next;
            result
        };
        self.wake();
        result
    }
}

/// Waiting for a change, and looking for the token.
impl Availability {
    /// Who waits looks again.
    pub(crate) fn wake(&self) {
        let _waiting = self.waiting.lock();
        self.changed.notify_all();
    }

    /// Waits for a change, for a moment.
    pub(crate) fn await_change(&self) {
        let mut waiting = self.waiting.lock();
        self.changed.wait_for(&mut waiting, RECHECK);
    }

    /// Waits for the token to be there, or the pool to be down, for as long as `is_wanted`.
    pub(crate) fn await_readiness(&self, is_wanted: impl Fn() -> bool) -> Readiness {
        let mut waiting = self.waiting.lock();
        loop {
            let readiness = self.readiness();
            if !matches!(readiness, Readiness::Held) || !is_wanted() {
                return readiness;
            }
            // Nobody tells that it is not wanted any more.
            self.changed.wait_for(&mut waiting, RECHECK);
        }
    }

    /// The next look is due at once.
    pub(crate) fn hurry(&self) {
        if let Some(absence) = self.state.write().absence_mut() {
            absence.retry_at = Instant::now();
        }
        self.wake();
    }

    /// Sleeps until there is something to do for who looks for the token, or `is_over`, which whoever makes it true tells by [`wake`](Self::wake).
    pub(crate) fn await_look(&self, is_over: impl Fn() -> bool, listen_every: Duration) -> NextLook {
        let mut waiting = self.waiting.lock();
        loop {
            let listen_at = Instant::now() + listen_every;
            let (retry_at, listens) = match self.state.read().absence() {
                Some(absence) if !is_over() => {
                    if absence.retry_at <= Instant::now() {
                        return NextLook::Now(absence.binding.as_ref().map(Had::of), absence.remedy);
                    }
                    // What is due but a look is not to be hurried.
                    let may_listen = absence.remedy == Remedy::Look && listen_at < absence.retry_at;
                    let binding = absence.binding.as_ref().filter(|_| may_listen);
                    (absence.retry_at, binding.filter(|binding| binding.claim.token().has_return_events()).map(Had::of))
                }
                _ => return NextLook::Over,
            };
            let Some(had) = listens else {
                self.changed.wait_until(&mut waiting, retry_at);
                continue;
            };
            self.changed.wait_until(&mut waiting, listen_at);
            return NextLook::Listen(had);
        }
    }

    /// The system has refused a thread to look for the token.
    pub(crate) fn note_no_thread(&self) {
        if let Some(absence) = self.state.write().absence_mut() {
            absence.has_thread = false;
        }
    }

    /// Whether a thread is to be started because the system had refused one. From now on there is one.
    pub(crate) fn wants_thread(&self) -> bool {
        self.is_troubled()
            && self.state.write().absence_mut().is_some_and(|absence| !std::mem::replace(&mut absence.has_thread, true))
    }
}
