//! Keys that want a login for each use (`CKA_ALWAYS_AUTHENTICATE`). Their operations are parked beside the pool until the source has given the PIN,
//! and until it is their turn: so no runner waits, and a wrong PIN is tried once.

use session_pool::{Grant as PoolGrant, Held, Source, Ticket, Waiting};

use crate::error::{Error, Failure};
use crate::execution::step::Needs;
use crate::operation::host::{Host, Posting};
use crate::operation::{ContextPin, Operation, Place};
use crate::options::LoginMode;
use crate::pool::TokenPool;
use crate::pool::grant::{Grant, Parked};
use crate::pool::work::Work;
use crate::support::clock::now;
use crate::support::pin::Pin;
use crate::token::login_gate::Awaited;
use crate::token::session::Session;

impl<H: Host> TokenPool<H> {
    /// Parks an operation; its session serves others meanwhile, unless it is a lease's.
    pub(crate) fn park_operation(
        &self,
        held: Held<Session>,
        mut operation: Box<Operation<H>>,
        ticket: Ticket,
        needs: Needs,
    ) -> Option<Grant<H>> {
        let token = held.session.token().clone();
        if needs == Needs::Pin {
            if self.options.login == LoginMode::Protected {
                operation.context = ContextPin::Given(None);
            } else if let Some(pin) = self.login.retained_pin() {
                operation.context = ContextPin::Given(Some(pin));
            } else if let Err(error) = token.gate.may_ask_for_key_pin(self.options.user, now()) {
                let next = self.free(held, &operation.place);
                operation.post(error);
                return next;
            }
        }
        let leased = matches!(operation.place, Place::Within(_));
        let (held, next) = if leased { (Some(held), None) } else { (None, self.release(held)) };
        let parked = Parked { operation, ticket, held };
        match (needs, &parked.operation.context) {
            (Needs::Pin, ContextPin::Given(_)) => self.resume(parked),
            (Needs::Pin, _) => {
                self.login.awaiting_pin.lock().push(parked);
                self.ask_for_keys(&token);
            }
            (Needs::Turn, _) => {
                self.login.awaiting_turn.lock().push(parked);
                if !token.gate.listen(Awaited::ContextLogin, self.listener()) {
                    self.resume_turns();
                }
            }
        }
        next
    }

    /// The PIN has come, or will not.
    pub(crate) fn provide_for_keys(&self, pin: Result<Pin, Error>) {
        let waiting = std::mem::take(&mut *self.login.awaiting_pin.lock());
        for mut parked in waiting {
            match &pin {
                Ok(pin) => {
                    parked.operation.context = ContextPin::Given(Some(pin.clone()));
                    self.resume(parked);
                }
                Err(error) => self.end(parked, error.clone()),
            }
        }
    }

    /// Whoever waits for a turn looks again.
    pub(crate) fn resume_turns(&self) {
        let waiting = std::mem::take(&mut *self.login.awaiting_turn.lock());
        for parked in waiting {
            self.resume(parked);
        }
    }

    /// An operation that has waited outside of the queue goes on.
    pub(crate) fn resume(&self, Parked { operation, ticket, held }: Parked<H>) {
        let waiter = Waiting { payload: Work::Call(operation), ticket };
        match held {
            Some(held) => self.dispatch(PoolGrant { source: Source::Session(held), waiter }, &mut Posting),
            None => match self.sessions.requeue(waiter) {
                Ok(grants) => {
                    for grant in grants {
                        self.dispatch(grant, &mut Posting);
                    }
                }
                Err(work) => work.refuse(&Error::Draining),
            },
        }
        self.advance_drain();
    }

    fn end(&self, Parked { operation, held, .. }: Parked<H>, error: Error) {
        if let Some(grant) = held.and_then(|held| self.free(held, &operation.place)) {
            self.dispatch(grant, &mut Posting);
        }
        operation.header.post(Err(Failure::not_executed(error)));
    }

    /// A pool that drains, or is down, brings no PIN any more.
    pub(crate) fn refuse_parked(&self, error: &Error) {
        let mut parked = std::mem::take(&mut *self.login.awaiting_pin.lock());
        parked.append(&mut self.login.awaiting_turn.lock());
        for parked in parked {
            self.end(parked, error.clone());
        }
    }
}
