//! A caller's operation on an open session: through the login gate, into the module, and on to what its return code asks for.

use cryptoki_sys::CKR_USER_NOT_LOGGED_IN;
use session_pool::{Held, Source, Ticket};

use crate::error::{Error, Executed, Failure};
use crate::execution::execute;
use crate::execution::step::{Recover, Step};
use crate::operation::answer::Outcome;
use crate::operation::host::{Host, Outlet};
use crate::operation::request::Request;
use crate::operation::{ContextPin, Operation, Place};
use crate::options::LoginMode;
use crate::p11::{CallError, Phase};
use crate::pool::TokenPool;
use crate::pool::grant::{Grant, Handled};
use crate::pool::in_flight::InUse;
use crate::pool::login::passage::{Passage, Wait};
use crate::pool::opening::enter;
use crate::pool::work::Work;
use crate::support::panics::survive;
use crate::token::session::Session;

/// What is to be done when a call has been granted a session, and has been executed there or not.
enum CallStep {
    /// What its execution asks for, or would.
    Executed(Step),
    /// It waits at the login gate.
    WaitAtGate(Wait),
    /// It waits until the module has been initialized again.
    AwaitModule,
}

impl<H: Host> TokenPool<H> {
    pub(super) fn handle_call(
        &self,
        in_use: InUse<'_, H>,
        mut operation: Box<Operation<H>>,
        ticket: Ticket,
        outlet: &mut impl Outlet<H>,
    ) -> Handled<H> {
        operation.header.runs_on(in_use.session().index());
        // Before the gate: whoever is to see to a login there has begun it.
        let step = if in_use.session().is_stale() {
            CallStep::Executed(Step::TakeAnother)
        } else {
            match self.pass_gate(in_use.session(), &operation) {
                Passage::Pass(_) => self.execute(&in_use, &mut operation, outlet),
                Passage::Refuse(error) => CallStep::Executed(Step::Answer(Err(operation.failure(error)))),
                Passage::Wait(wait) => CallStep::WaitAtGate(wait),
            }
        };
        let held = self.note_return(in_use.finish());
        self.report_retry(&mut operation);
        if held.is_hung() {
            self.finish_hung_call(held, operation, step);
            return Handled::next(None);
        }
        let step = match step {
            CallStep::WaitAtGate(wait) => return Handled::next(self.wait_at_gate(held, operation, ticket, wait, outlet)),
            CallStep::AwaitModule => {
                self.await_module();
                return self.put_back_granted(Source::Session(held), Work::Call(operation), ticket, outlet);
            }
            CallStep::Executed(step) => step,
        };
        if let Step::Answer(Err(failure)) | Step::AnswerAndDiscard(Err(failure), _) = &step
            && matches!((&failure.error, &operation.context), (Error::Poisoned { .. }, ContextPin::Used))
        {
            self.login.forget_retained_pin();
        }
        match step {
            Step::Answer(outcome) => self.finish_call(held, operation, ticket, outcome, outlet),
            Step::AnswerAndDiscard(outcome, reason) => {
                self.discard(held, &operation.place, reason);
                Handled::answer(operation, outcome, None)
            }
            Step::RetryElsewhere(reason) => {
                self.discard(held, &operation.place, reason);
                Handled::next(self.requeue(operation, ticket, outlet))
            }
            Step::RetryLater(reason) => Handled::next(self.pause(held, operation, ticket, reason)),
            Step::Recover(recover) => self.handle_trouble(held, operation, ticket, recover, outlet),
            Step::TakeAnother => self.handle_stale(held, operation, ticket, outlet),
            Step::RetryAfterLogin => {
                let granted = self.requeue(operation, ticket, outlet);
                Handled::next(self.keep_first(granted, self.free(held, &Place::Pool), outlet))
            }
            Step::AwaitReload(vanished) => Handled::next(self.handle_vanished(held, operation, ticket, vanished)),
            Step::AwaitLogin(needs) => Handled::next(self.park_operation(held, operation, ticket, needs)),
        }
    }

    /// A call that hung has returned. Nobody waits for the operation any more: its caller has given it up, or is dead.
    fn finish_hung_call(&self, held: Held<Session>, operation: Box<Operation<H>>, step: CallStep) {
        let token = held.session.token().clone();
        let generation = held.session.generation();
        self.discard(held, &operation.place, "hung");
        let _ = operation.header.progress.abandon();
        // What it has found is seen to all the same, as is a login that was its to begin: others wait for it.
        match step {
            CallStep::WaitAtGate(wait) => drop(self.wait_for(&token, wait, operation.header.asked_at)),
            CallStep::Executed(Step::Recover(Recover { trouble, call, .. })) => {
                self.respond_to(trouble, &token, generation, call)
            }
            _ => (),
        }
    }

    /// An operation is done, and its session good: it comes free, or becomes the lease's that was asked for.
    fn finish_call(
        &self,
        held: Held<Session>,
        operation: Box<Operation<H>>,
        ticket: Ticket,
        outcome: Outcome,
        outlet: &mut impl Outlet<H>,
    ) -> Handled<H> {
        self.login.touch();
        if outcome.is_ok() {
            self.record.note_service();
        }
        let (next, outcome) = match (&operation.place, outcome) {
            (Place::Takes(lease), Ok(answer)) => match self.start_lease(lease, held, ticket, outlet) {
                Ok(()) => (None, Ok(answer)),
                Err(held) => (self.free(held, &Place::Pool), Err(Failure::not_executed(Error::LeaseEnded))),
            },
            (place, outcome) => (self.free(held, place), outcome),
        };
        Handled::answer(operation, outcome, next)
    }

    /// Whether an operation on this session may go on, as far as a login is due.
    fn pass_gate(&self, session: &Session, operation: &Operation<H>) -> Passage {
        let token = session.token();
        if self.options.login == LoginMode::None || matches!(operation.request, Request::Probe) {
            return Passage::Pass(token.gate.epoch());
        }
        if let Some(epoch) = self.login.admitted_epoch(token) {
            return Passage::Pass(epoch);
        }
        if !matches!(operation.place, Place::Within(_)) {
            return self.pass(token, operation.header.asked_at);
        }
        // The session's state is the holder's affair: it is told, and no login is made behind its back.
        match token.gate.shares(self.login.who()) {
            Some(word) => Passage::Pass(self.admit(word)),
            None => Passage::Refuse(CallError::new("C_Login", CKR_USER_NOT_LOGGED_IN, Phase::Single).into()),
        }
    }

    /// An operation goes back to its place until the login in progress has ended. The pool holds everything else back with it, and this
    /// session is free for the login itself.
    fn wait_at_gate(
        &self,
        held: Held<Session>,
        operation: Box<Operation<H>>,
        ticket: Ticket,
        wait: Wait,
        outlet: &mut impl Outlet<H>,
    ) -> Option<Grant<H>> {
        let token = held.session.token().clone();
        let asked_at = operation.header.asked_at;
        self.sessions.close_gate();
        let granted = self.requeue(operation, ticket, outlet);
        let next = self.keep_first(granted, self.free(held, &Place::Pool), outlet);
        if !self.wait_for(&token, wait, asked_at) {
            // It ended between the look at the gate and the closing of ours.
            self.open_gate();
        }
        next
    }

    fn execute(&self, in_use: &InUse<'_, H>, operation: &mut Operation<H>, outlet: &impl Outlet<H>) -> CallStep {
        if in_use.is_hung() {
            // Its opening was: it goes no further.
            return CallStep::Executed(Step::RetryElsewhere("hung"));
        }
        let session = in_use.session();
        let token = session.token();
        let _inside = match enter(token, in_use.record(), || operation.header.is_wanted(outlet)) {
            Ok(inside) => inside,
            Err(Error::Reinitializing) => return CallStep::AwaitModule,
            Err(error) => return CallStep::Executed(Step::Answer(Err(operation.failure(error)))),
        };
        // From here on the module is not initialized again behind it, and nobody else calls with its handle.
        let Some(used) = session.begin().filter(|_| !session.is_stale()) else { return CallStep::Executed(Step::TakeAnother) };
        // While it waited for its turn, the login may have been lost, and handles with it.
        let epoch = match self.pass_gate(session, operation) {
            Passage::Pass(epoch) => epoch,
            Passage::Refuse(error) => return CallStep::Executed(Step::Answer(Err(operation.failure(error)))),
            Passage::Wait(wait) => return CallStep::WaitAtGate(wait),
        };
        let asker = operation.request.asks_if_wanted().then(|| operation.header.clone());
        let is_over = || asker.as_ref().is_some_and(|header| !header.is_wanted(outlet));
        let step = survive(|| execute(&self.options, session, &used, operation, epoch, &is_over)).unwrap_or_else(|| {
            let error = Error::Interrupted { cause: "the operation panicked" };
            Step::AnswerAndDiscard(Err(Failure { error, executed: Executed::Unknown }), "panic")
        });
        CallStep::Executed(step)
    }
}
