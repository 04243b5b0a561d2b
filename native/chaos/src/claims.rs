//! Calls that use sessions: one at a time each, as long as the session lives.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use crate::function::Function;
use crate::real::real;
use crate::sessions::{CLOSED, NOBODY, Session, Sessions};
use crate::state::CHAOS;

/// How often a call looks whether the one before it on its session has ended.
const TURN: Duration = Duration::from_micros(50);

impl Session {
    /// Closes the real session of a dead one, unless somebody is using it: that one will do it then.
    fn close_if_dead(&self) {
        let is_dead = self.dead.load(Ordering::SeqCst);
        if is_dead && self.user.compare_exchange(NOBODY, CLOSED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            close(self.real);
        }
    }

    /// One that the device has not been called on for too long dies as soon as it is. What the library knows by itself is no call.
    fn called(&self, function: Function) {
        if matches!(function, Function::C_GetSessionInfo | Function::C_CloseSession) {
            return;
        }
        let limit = CHAOS.session_idle_limit.load(Ordering::SeqCst);
        let before = std::mem::replace(&mut *self.called.lock(), Instant::now());
        if before.elapsed().as_micros() as u64 > limit && !self.dead.swap(true, Ordering::SeqCst) {
            CHAOS.sessions.unreserve();
        }
    }

    /// The code with which a dead session answers: its token is away, or was.
    fn code(&self) -> CK_RV {
        CHAOS.slots.away(self.slot).unwrap_or(CKR_SESSION_HANDLE_INVALID)
    }
}

/// Closes a real session. Nobody can be told if that fails.
pub fn close(handle: CK_SESSION_HANDLE) {
    if let Some(list) = CHAOS.real() {
        // SAFETY: takes a handle only; a bad one is an error code.
        let _code = unsafe { real!(list, C_CloseSession(handle)) };
    }
}

/// A call that uses a session, and is the only one.
pub struct Claim {
    session: Arc<Session>,
    handle: CK_SESSION_HANDLE,
    generation: u64,
}

impl Claim {
    /// The real module's handle.
    pub fn real(&self) -> CK_SESSION_HANDLE {
        self.session.real
    }

    /// The real module's slot.
    pub fn slot(&self) -> CK_SLOT_ID {
        self.session.slot
    }

    /// That of the objects when the call came.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// `Err`: the session died. One that the application closed did not.
    pub fn check_alive(&self) -> Result<(), CK_RV> {
        let died = self.session.dead.load(Ordering::SeqCst) && self.session.user.load(Ordering::SeqCst) != CLOSED;
        if died { Err(self.session.code()) } else { Ok(()) }
    }

    /// The application closed it, and so did the real module.
    pub fn closed(&self) {
        self.session.user.store(CLOSED, Ordering::SeqCst);
        CHAOS.sessions.forget(self.handle, &self.session);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.session.user.load(Ordering::SeqCst) != CLOSED {
            self.session.user.store(NOBODY, Ordering::SeqCst);
            self.session.close_if_dead();
        }
    }
}

impl Sessions {
    /// The session for a call of `function`. A second call at the same time is a violation, and waits for the first one, as in a module with a
    /// lock for each session.
    pub fn claim(&self, handle: CK_SESSION_HANDLE, function: Function) -> Result<Claim, CK_RV> {
        let found = self.shard(handle).lock().get(&handle).cloned();
        let refused = |code| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Err(code)
        };
        let Some(session) = found else { return refused(CHAOS.slots.all_away().unwrap_or(CKR_SESSION_HANDLE_INVALID)) };
        let mine = function as usize + 1;
        let mut is_told = false;
        loop {
            match session.user.compare_exchange(NOBODY, mine, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    session.called(function);
                    let claim = Claim { session, handle, generation: CHAOS.objects.generation() };
                    if let Err(code) = claim.check_alive() {
                        // Closing is how the application lets go of it.
                        if function == Function::C_CloseSession {
                            self.forget(handle, &claim.session);
                        }
                        return refused(code);
                    }
                    return Ok(claim);
                }
                Err(CLOSED) => {
                    if function == Function::C_CloseSession {
                        self.forget(handle, &session);
                    }
                    return refused(session.code());
                }
                Err(other) => {
                    if !is_told {
                        let other = Function::ALL.get(other - 1).map_or("another call", |function| function.name());
                        let own = function.name();
                        CHAOS.violation(format!("{own} called on session {handle} while another thread is in {other} on it"));
                        is_told = true;
                    }
                    thread::sleep(TURN);
                }
            }
        }
    }

    /// Makes room for one more session, or `CKR_SESSION_COUNT`.
    pub fn reserve(&self) -> Result<(), CK_RV> {
        let limit = CHAOS.session_limit.load(Ordering::SeqCst);
        let more = |open| if open < limit { Some(open + 1) } else { None };
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).map(|_| ()).map_err(|_| CKR_SESSION_COUNT)
    }

    /// One whose handle the application has not been given is closed.
    pub fn withdraw(&self, handle: CK_SESSION_HANDLE) {
        let gone = self.shard(handle).lock().remove(&handle);
        if let Some(session) = gone {
            if !session.dead.swap(true, Ordering::SeqCst) {
                self.unreserve();
            }
            session.close_if_dead();
        }
    }

    /// Takes the sessions of a slot, or all, away from the application, and closes the real ones; one that is in use is
    /// closed when its call returns.
    pub fn kill(&self, slot: Option<CK_SLOT_ID>) {
        for (handle, session) in self.all() {
            if slot.is_some_and(|slot| session.slot != slot) {
                continue;
            }
            if self.reuses.load(Ordering::SeqCst) {
                self.forget(handle, &session);
            }
            if !session.dead.swap(true, Ordering::SeqCst) {
                self.unreserve();
            }
            session.close_if_dead();
        }
    }
}
