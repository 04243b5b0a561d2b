//! What a pool does when something is wrong with its token or module, and when the token is there again.

use std::sync::Arc;
use std::time::Duration;

use session_pool::Ticket;

use crate::error::{Error, Failure, Unavailable};
use crate::operation::Operation;
use crate::operation::host::{Host, Outlet, PoolServer};
use crate::operation::notice::Notice;
use crate::options::LoginMode;
use crate::p11::{CallError, Class};
use crate::pool::TokenPool;
use crate::pool::availability::{Fallen, Found, Readiness, Remedy, Risen};
use crate::pool::grant::Grant;
use crate::pool::work::Control;
use crate::token::diagnosis::Trouble;
use crate::token::escalation::Level;
use crate::token::{Token, Watcher};

impl<H: Host> TokenPool<H> {
    /// An operation has run into trouble with this token, in this generation: what is to be done about it is begun.
    pub(crate) fn respond_to(&self, trouble: Trouble, token: &Arc<Token>, generation: u64, call: CallError) {
        match trouble {
            Trouble::Silence => drop(token.lose(generation, Some(call))),
            Trouble::Renewed => drop(token.renew(generation)),
            Trouble::Module { seen } if token.module.incarnation() == seen => {
                self.begin_recovery(Remedy::Reinitialize { seen }, Some(call));
            }
            Trouble::Module { .. } => (),
            Trouble::Lasting { restarts } => {
                // All that is open on it is as good as dead.
                if token.renew(generation) {
                    let is_first = token.escalation.escalate() == Level::LogOut;
                    let logs_out = is_first && self.options.login != LoginMode::None;
                    self.begin_recovery(Remedy::Revive { restarts, logs_out }, Some(call));
                }
            }
            Trouble::DeadFromTheStart { seen } => {
                // Of those who find it at the same time, one escalates.
                if !token.renew(generation) {
                    return;
                }
                match token.escalation.escalate() {
                    Level::LogOut => self.begin_recovery(Remedy::LogOut, Some(call)),
                    Level::Reinitialize => self.begin_recovery(Remedy::Reinitialize { seen }, Some(call)),
                    Level::Again(delay) => {
                        self.fall(Some(call), Remedy::Reinitialize { seen }, delay);
                        token.lose(token.generation(), Some(call));
                    }
                }
            }
        }
    }

    /// The module is being initialized again: this pool looks for its token when that is done.
    pub(crate) fn await_module(&self) {
        self.begin_recovery(Remedy::Look, None);
    }

    fn begin_recovery(&self, remedy: Remedy, call: Option<CallError>) {
        if self.availability.begin_recovery(remedy, call) {
            self.sessions.close_gate();
            self.start_recovery_thread();
        }
    }

    /// The token is away: whoever waits is told, and whoever comes.
    pub(crate) fn fall(&self, call: Option<CallError>, remedy: Remedy, delay: Duration) {
        let Some(Fallen { needs_thread }) = self.availability.fall(call, remedy, delay) else { return };
        self.refuse_all();
        if needs_thread {
            self.start_recovery_thread();
        }
    }

    /// Time passes: a recovery that takes too long is an outage.
    pub(crate) fn lose_patience(&self) {
        if self.availability.lose_patience() {
            self.refuse_all();
        }
    }

    /// The pool has just gone down: whoever waits is told, and the pool server.
    fn refuse_all(&self) {
        self.close_idle();
        if let Readiness::Refused(error) = self.availability.readiness() {
            self.refuse_waiting(&error);
            self.server.post(Notice::Down { error });
        }
        self.open_gate();
    }

    fn close_idle(&self) {
        for (closing, session) in self.sessions.flush() {
            self.close(closing, session, Class::TokenGone.name());
        }
    }

    fn refuse_waiting(&self, error: &Error) {
        let held = std::mem::take(&mut *self.held_controls.lock());
        for work in self.sessions.take_waiting() {
            work.refuse(error);
        }
        for work in held {
            work.refuse(error.clone());
        }
        self.refuse_parked(error);
    }

    /// An operation goes back to its place, with the pool's gate closed, until the recovery has ended.
    pub(crate) fn hold_back(
        &self,
        operation: Box<Operation<H>>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Option<Grant<H>> {
        self.sessions.close_gate();
        let next = self.requeue(operation, ticket, outlet);
        // It may have ended before.
        self.open_gate();
        next
    }

    /// The same for a login or logout, which would pass the pool's gate.
    pub(crate) fn hold_control(&self, work: Control<H>) {
        self.held_controls.lock().push(work);
        if !matches!(self.availability.readiness(), Readiness::Held) {
            self.resume_held_controls();
        }
    }

    pub(crate) fn resume_held_controls(&self) {
        let held = std::mem::take(&mut *self.held_controls.lock());
        for work in held {
            self.submit_control(work);
        }
    }

    /// The token is there.
    pub(crate) fn rise(&self, found: Found) {
        if matches!(found, Found::Replacement(_)) {
            self.login.forget_gate();
        }
        let risen = self.availability.rise(found);
        // What could not be opened on the token of before may be now.
        self.record.note_opened();
        if let Some(Risen { was_down }) = risen {
            self.resume_held_controls();
            self.open_gate();
            if let Some(was_there) = was_down {
                self.server.post(Notice::Up { was_there });
            }
        }
        self.advance_drain();
    }

    /// What an operation that ran into trouble is answered, if it is answered.
    pub(crate) fn failure_in_trouble(&self, call: CallError, failure: Failure) -> Failure {
        match self.availability.readiness() {
            Readiness::Refused(error) => Failure { error: as_seen_by(call, error), ..failure },
            Readiness::Ready | Readiness::Held => failure,
        }
    }
}

impl<H: Host> Watcher for TokenPool<H> {
    fn token_lost(&self, call: Option<CallError>) {
        self.fall(call, Remedy::Look, Duration::ZERO);
    }

    fn token_renewed(&self) {
        self.close_idle();
    }

    fn module_restarts(&self) {
        self.await_module();
    }
}

/// The error of an operation that has seen by itself what brought the pool down.
pub(crate) fn as_seen_by(call: CallError, error: Error) -> Error {
    match error {
        Error::TokenUnavailable(unavailable) => Error::TokenUnavailable(Unavailable { call: Some(call), ..unavailable }),
        other => other,
    }
}
